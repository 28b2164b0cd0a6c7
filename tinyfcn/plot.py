"""Pictures of labels, predictions and training curves, in VOC's palette."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyfcn.data import IGNORE, palette
from tinyfcn.files import replacing
from tinyfcn.parallel import PIECE, split_evenly
from tinyfcn.report import Row, read_log

# Matplotlib takes as long to import as all the rest together, so it waits until a picture is drawn.


def colour(label: np.ndarray) -> np.ndarray:
    """Labels (H, W) as VOC colours (H, W, 3) uint8."""
    colours: np.ndarray = palette()[label]
    return colours


def overlay(image: np.ndarray, label: np.ndarray, background: int | None = None, opacity: float = 0.55) -> np.ndarray:
    """The image (H, W, 3) uint8 tinted with its labels' colours; pixels of class `background` stay as they are."""
    result = np.empty_like(image)
    for rows in split_evenly(len(label), -(-label.size // PIECE)):  # in floats a whole photograph would take 40 bytes per pixel
        pixels = image[rows]
        tinted = pixels + opacity * (colour(label[rows]).astype(np.float32) - pixels)
        clear = (label[rows] == background)[..., None]
        result[rows] = np.where(clear, pixels, tinted).round().astype(np.uint8)
    return result


def predictions(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], classes: Sequence[str], path: str | Path) -> None:
    """A picture with a row per example, (image, truth, prediction), and a legend of the classes that occur."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    present = np.unique(np.concatenate([np.concatenate([t.ravel(), p.ravel()]) for _, t, p in rows]))
    aspect = np.mean([image.shape[0] / image.shape[1] for image, _, _ in rows])
    figure = Figure(figsize=(9, 0.7 + len(rows) * 3 * aspect + 0.25 * (len(present) // 5 + 1)), layout="constrained")
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for title, axis in zip(("image", "truth", "prediction"), axes[0], strict=True):
        axis.set_title(title)
    for line, (image, truth, prediction) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, (image, colour(truth), colour(prediction)), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_axis_off()
    colours = palette() / 255
    handles = [Patch(facecolor=colours[k], edgecolor="0.5", label="ignored" if k == IGNORE else classes[k]) for k in present]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=100, format="png")


def curves(log: str | Path, path: str | Path) -> None:
    """The loss and the validation scores of a log.csv over the steps."""
    from matplotlib.figure import Figure

    rows = read_log(Path(log))
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*_series(rows, "loss"), color="tab:blue")
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    for name, marker in (("pixel_accuracy", "o"), ("mean_accuracy", "^"), ("mean_iou", "s")):
        right.plot(*_series(rows, name), marker=marker, label=name.replace("_", " "))
    right.set(xlabel="step", ylabel="score on held-out images", ylim=(0, 1))
    right.legend(frameon=False, loc="lower right")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    with replacing(Path(path)) as partial:
        figure.savefig(partial, dpi=100, format="png")


def _series(rows: list[Row], name: str) -> tuple[list[int], list[float]]:
    found = [(row["step"], row[name]) for row in rows if row[name] is not None]
    return [step for step, _ in found], [value for _, value in found]
