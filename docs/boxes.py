"""Photographs with boxes around objects: a folder with `JPEGImages/`, and `boxes.tsv`, which has a line for each object."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from tinyfcn.data import crop, resize
from tinyfcn.errors import InputError


class Box(NamedTuple):
    """An object of class number `label` in JPEGImages/`file`, between pixels `left` and `right`, `top` and `bottom`."""

    file: str
    label: int
    left: int
    top: int
    right: int
    bottom: int


def read_boxes(folder: Path, classes: Sequence[str]) -> list[Box]:
    """The lines of boxes.tsv after its heading: file, class, xmin, ymin, xmax, ymax."""
    path = folder / "boxes.tsv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t"))[1:]
        return [Box(name, classes.index(kind), *map(int, sides)) for name, kind, *sides in rows]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: each line must be file, class ({', '.join(classes)}), and four whole numbers") from error


def cut(image: np.ndarray, box: Box, side: int, margin: float = 0.15) -> np.ndarray:
    """The square around a box, with some margin, at `side` x `side` pixels."""
    wide = round((1 + 2 * margin) * max(box.right - box.left, box.bottom - box.top, 1))
    top, left = (box.top + box.bottom - wide) // 2, (box.left + box.right - wide) // 2
    nothing = np.zeros(image.shape[:2], np.uint8)  # in the place of labels, which these functions move along
    return resize(*crop(image, nothing, top, left, wide, wide), (side, side))[0]


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(
        Image.fromarray(image).resize((factor * image.shape[1], factor * image.shape[0]), Image.Resampling.BILINEAR)
    )


def inside(boxes: Sequence[Box], size: tuple[int, int], factor: int) -> np.ndarray:
    """Which pixels of an image, enlarged to `size` by `factor`, lie in one of the boxes: (*size) bool."""
    mask = np.zeros(size, bool)
    for box in boxes:
        mask[factor * box.top : factor * (box.bottom + 1), factor * box.left : factor * (box.right + 1)] = True
    return mask
