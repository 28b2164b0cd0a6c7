"""Maps over photographs: each unit at its true place, and how the pictures of these pages are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from tinyfcn import ops
from tinyfcn.data import read_image
from tinyfcn.models.alignment import IMAGE, Grid

PHOTOGRAPHS = Path(__file__).resolve().parent.parent / "data" / "photographs"


def over_image(maps: np.ndarray, grid: Grid, size: tuple[int, int]) -> np.ndarray:
    """Maps (C, h, w), whose units lie in the image as `grid` says, as (C, *size): bilinear between the centres of the units.

    Beyond the outermost centres a map stays as it is there: a ring of copies around it sees to that.
    """
    stride = int(grid.stride)
    ringed = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    first = grid._replace(start=grid.start - stride).upsample(2 * stride, stride).offset_to(IMAGE)
    window = slice(first, first + size[0]), slice(first, first + size[1])
    return ops.upsample_bilinear_forward(ringed[None], 2 * stride, stride, window)[0][0]


def glow(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey, and on it a map that glows from 0 on, the brighter the nearer it comes to its maximum."""
    strength = np.clip(heat / max(heat.max(), 1e-9), 0, 1)[..., None]
    grey = 0.1 + 0.7 * image.mean(axis=2, keepdims=True) / 255
    return (1 - 0.8 * strength) * grey + 0.8 * strength * colormaps["inferno"](0.25 + 0.75 * strength[..., 0])[..., :3]


def draw(path: Path, titles: Sequence[str], rows: Sequence[tuple[np.ndarray, np.ndarray]], grid: Grid) -> None:
    """A row for each image (H, W, 3) and its maps (C, h, w): the image, and each map glowing on it."""
    heights = [9 / len(titles) * image.shape[0] / image.shape[1] for image, _ in rows]
    figure = Figure(figsize=(9, 0.3 + sum(heights)), layout="constrained")
    lines = figure.subplots(len(rows), len(titles), squeeze=False, height_ratios=heights)
    for axes, (image, maps) in zip(lines, rows, strict=True):
        heats = over_image(maps, grid, image.shape[:2])
        for axis, picture in zip(axes, [image, *(glow(image, heat) for heat in heats)], strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(lines[0], titles, strict=True):
        axis.set_title(title, fontsize=11)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 88})


def collage(names: Sequence[Sequence[tuple[str, int]]], height: int) -> np.ndarray:
    """One picture of several photographs: rows of `height` pixels, of (name, width), all cut to fit."""

    def tile(name: str, width: int) -> np.ndarray:
        photograph = Image.fromarray(read_image(PHOTOGRAPHS / f"{name}.jpg"))
        return np.asarray(ImageOps.fit(photograph, (width, height), centering=(0.5, 0.2)))  # heads are near the top

    return np.vstack([np.hstack([tile(*one) for one in row]) for row in names])
