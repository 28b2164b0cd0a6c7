"""What an annotation tool has written: pictures, and how to get their labels, before they are in VOC's layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import is_zipfile

import numpy as np

from tinyfcn.data.names import Colour
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import check_regular

LARGEST = 1 << 30  # bytes of a JSON file: COCO's largest has half as many


class Picture(NamedTuple):
    """A labelled picture of a source."""

    id: str
    image: Path | bytes
    label: Callable[[tuple[int, int]], np.ndarray]  # of the image's (height, width): class indices, (H, W) uint8
    split: str = ""  # train, val or test, where the source says so
    origin: Path = Path()  # the file that the label is from


class Source(NamedTuple):
    """A set as a tool has written it."""

    kind: str  # for people
    classes: tuple[str, ...]
    pictures: list[Picture]
    notes: list[str] = []
    colours: tuple[Colour, ...] | None = None  # of the classes, where a label map tells


def read_json(path: Path) -> Any:
    """What a JSON file of a tool says; it may be large, since it may hold pictures."""
    if is_zipfile(path):
        raise InputError(f"{path} is a ZIP archive; unpack it, and give the folder")
    try:
        check_regular(path)
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path} is larger than {LARGEST >> 30} GiB; export fewer images at a time")
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no JSON file: {spot_of(error)}; export it again") from None


def check_size(path: Path, image: Any, told: tuple[Any, Any], size: tuple[int, int]) -> None:
    """Raise InputError where a tool has seen an image in another (height, width), so that what it drew would lie elsewhere."""
    if told != size and None not in told:
        raise InputError(
            f"{path} was drawn on {image} of {told[1]}x{told[0]} pixels, but the image is {size[1]}x{size[0]} (width x height,"
            " EXIF rotation applied); give the image that it was drawn on"
        )


def split_of(name: str) -> str:
    """The split that a folder's or a file's name tells: train, val, test, or "" for none."""
    for split, beginnings in {"train": ("train",), "val": ("val",), "test": ("test",)}.items():
        if name.lower().startswith(beginnings):
            return split
    return ""


def spot_of(error: Exception) -> str:
    """What an error says, in one line."""
    return one_line(f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__, 200)
