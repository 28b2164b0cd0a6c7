"""labelme: a JSON file for each image, with polygons and other shapes, drawn in their order as labelme's own scripts do."""

from __future__ import annotations

import binascii
import io
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tinyfcn.data.draw import draw
from tinyfcn.data.names import IGNORE, lines_of, plain_name
from tinyfcn.data.source import Picture, Source, check_size, spot_of
from tinyfcn.errors import InputError

FIELDS = {"shapes", "imagePath"}  # by which a file is recognised
NAMES = ("labels.txt", "class_names.txt")  # beside the files


def read(files: list[tuple[Path, Any]], root: Path) -> Source:
    """The set that labelme's files make; the classes are those of labels.txt, else the background and the labels by name."""
    listed = next((root / name for name in NAMES if (root / name).exists()), None)
    found = {plain_name(str(shape.get("label"))) for path, content in files for shape in _shapes(path, content)} - {"__ignore__"}
    names = [plain_name(name) for name in lines_of(listed) if name != "__ignore__"] if listed else ["background"]
    missing = sorted(found - set(names))
    if listed and missing:
        raise InputError(f"{listed} has no {', '.join(missing)}, which the JSON files use; add a line for each")
    classes = (*names, *missing)
    ids = (path.relative_to(root).with_suffix("").as_posix() for path, _ in files)
    pictures = [
        Picture(id_, image_of(path, content), partial(_label, path, content, classes), origin=path)
        for id_, (path, content) in zip(ids, files, strict=True)
    ]
    return Source("labelme's JSON", classes, pictures)


def _shapes(path: Path, content: Any) -> list[dict[str, Any]]:
    shapes = content.get("shapes")
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"{path}: shapes is no list of shapes; export it from labelme again")
    return shapes


def image_of(path: Path, content: Any) -> Path | bytes:
    """The image beside a JSON file, or the one in it."""
    name = str(content.get("imagePath") or "").replace("\\", "/")
    for candidate in (path.parent / name, path.parent / Path(name).name):
        if name and candidate.is_file():
            return candidate
    try:
        return b64decode(content["imageData"], validate=True)
    except (KeyError, TypeError, binascii.Error, ValueError):
        raise InputError(f"{path} names the image {name!r}, which is not there; put it beside the file") from None


def _label(path: Path, content: Any, classes: tuple[str, ...], size: tuple[int, int]) -> np.ndarray:
    check_size(path, content.get("imagePath"), (content.get("imageHeight"), content.get("imageWidth")), size)
    label = np.zeros(size, np.uint8)
    for number, shape in enumerate(_shapes(path, content)):
        name = plain_name(str(shape.get("label")))
        value = IGNORE if name == "__ignore__" else classes.index(name)
        try:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            if shape.get("shape_type") == "mask":
                _paste(label, shape["mask"], points, value)
            else:
                draw(label, shape.get("shape_type") or "polygon", points, value)
        except (KeyError, TypeError, ValueError, OverflowError, OSError) as error:
            raise InputError(f"{path}: shape {number} ({name}) cannot be drawn: {spot_of(error)}; mend it in labelme") from None
    return label


def _paste(label: np.ndarray, mask: str, points: list[tuple[float, float]], value: int) -> None:
    """A mask of some pixels, as a PNG in base64, whose corners are the points."""
    with Image.open(io.BytesIO(b64decode(mask)), formats=("PNG",)) as image:
        inside = np.asarray(image) > 0
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in points)
    region = label[top : bottom + 1, left : right + 1]
    if min(left, top) < 0 or region.shape != inside.shape:
        raise ValueError(f"a mask of {inside.shape[1]}x{inside.shape[0]} pixels between {left},{top} and {right},{bottom}")
    region[inside] = value
