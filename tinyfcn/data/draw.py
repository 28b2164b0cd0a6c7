"""Outlines and run lengths to the pixels that they mean."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import dist

import numpy as np
from PIL import Image, ImageDraw

Points = Sequence[tuple[float, float]]

POINTS = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2, "point": 1}
FARTHEST = 100_000  # pixels: what reaches farther takes long to draw
LINE_WIDTH, POINT_RADIUS = 10, 5  # pixels, as in labelme


def draw(label: np.ndarray, kind: str, points: Points, value: int) -> None:
    """Give the pixels inside a shape a value, as labelme draws it; `points` are (x, y) in pixels, `label` is (H, W) uint8.

    `kind` is one of `POINTS`; of a circle there are the centre and a point on it. Raises ValueError for another kind, for fewer
    points than it takes, and for points too far away.
    """
    if len(points) < POINTS.get(kind, 1 << 30):
        kinds = ", ".join(f"{name} of {number} or more" for name, number in POINTS.items())
        raise ValueError(f"a {kind} of {len(points)} points; expected a {kinds}")
    if not all(abs(part) < FARTHEST for point in points for part in point):
        raise ValueError(f"a point farther away than {FARTHEST} pixels")
    image = Image.fromarray(label)
    pen = ImageDraw.Draw(image)
    (x, y), *others = points
    if kind == "polygon":
        pen.polygon(points, fill=value, outline=value)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(pair) for pair in zip(points[0], points[1], strict=True))
        pen.rectangle((left, top, right, bottom), fill=value, outline=value)
    elif kind in ("line", "linestrip"):
        for start, end in pairwise(points):
            pen.line((start, end), fill=value, width=LINE_WIDTH)
    else:
        radius = dist((x, y), others[0]) if kind == "circle" else POINT_RADIUS
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value, outline=value)
    label[...] = np.asarray(image)


def from_run_lengths(counts: Sequence[int] | str, height: int, width: int) -> np.ndarray:
    """COCO's run lengths, alternately of zeros and ones down the columns, to a mask, (height, width) bool.

    A text holds each length in letters of five bits, from 48 on, the lowest first, with the sixth bit set where more follow; from
    the third length on as its difference from the last but one. Raises ValueError where the lengths do not fill the picture.
    """
    lengths = _lengths(counts) if isinstance(counts, str) else list(counts)
    if any(type(length) is not int or length < 0 for length in lengths) or sum(lengths) != height * width:
        raise ValueError(f"run lengths that do not fill {width}x{height} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    mask: np.ndarray = np.repeat(values, lengths).reshape(width, height).T
    return mask


def _lengths(text: str) -> list[int]:
    lengths: list[int] = []
    number = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:  # the sign
            number -= 1 << shift
        lengths.append(number + (lengths[-2] if len(lengths) > 2 else 0))
        number = shift = 0
    return lengths
