"""A contact sheet: images with their labels over them, to see at a glance whether they fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tinyfcn.data.loader import class_colours
from tinyfcn.data.voc import VOCSegmentation
from tinyfcn.plot import add_legend, overlay, plain, save

COLUMNS, SIDE = 4, 320  # pictures in a row, and the pixels of each one's longer side


def draw_sheet(dataset: VOCSegmentation, path: Path, number: int = 24) -> None:
    """Write a PNG of `number` pictures, spread evenly over the list, each with its id, and a legend of the classes."""
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(number, len(dataset))).round().astype(int))
    rows = -(-len(chosen) // COLUMNS)
    present: set[int] = set()
    own = class_colours(dataset)
    figure = Figure(figsize=(3 * COLUMNS, 2.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, index in zip(axes, chosen, strict=False):
        image, label = dataset[int(index)]
        present |= set(np.unique(label).tolist())
        picture = Image.fromarray(overlay(image, label, background=0, own=own))
        picture.thumbnail((SIDE, SIDE))
        axis.imshow(np.asarray(picture))
        axis.set_title(plain(dataset.ids[index]), fontsize=8)
    add_legend(figure, sorted(present), dataset.classes, own, columns=6)
    save(figure, path)
