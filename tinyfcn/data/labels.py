"""Labels as annotation tools write them, to class indices: every encoding that loses nothing is read, and no other.

    palette                            the indices, whatever the colours
    grey of 1, 2, 4, 8 or 16 bits      the values, up to 255
    colours with three equal parts     the values
    other colours                      the index of each in VOC's colours

A label map comes first: where it has all the colours of a picture (those of a palette, or the grey v as v,v,v), it tells the
indices. What the values then mean is the set's matter: which is ignored, and whether 255 is a class (a mask of 0 and 255).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from tinyfcn.data.names import IGNORE, Colour
from tinyfcn.data.pictures import opened, palette
from tinyfcn.errors import InputError

KINDS = ("PNG", "TIFF", "BMP", "GIF")
LOSSY = ("JPEG", "WEBP")  # recognised, so that the reason can be given
SMOOTH = 64  # so many colours in one picture look like those of smooth edges
GREY = {"L;2": 85, "L;4": 17}  # what Pillow has multiplied values of fewer bits by

PathLike = str | Path


class Label(NamedTuple):
    """A label's indices, and the colours that its palette has for those that occur."""

    indices: np.ndarray  # (H, W) uint8
    colours: dict[int, Colour] = {}


def read_label(path: PathLike, colours: Mapping[Colour, int] | None = None) -> np.ndarray:
    """The class indices in a label, (H, W) uint8: a PNG, TIFF, BMP or GIF of any encoding that loses nothing.

    `colours` is a label map, (red, green, blue) -> index; others must have three equal parts, or be VOC's.
    Raises `InputError` where the file is missing, broken, too large, lossy, or has colours that mean nothing.
    """
    return decode_label(path, colours).indices


def decode_label(path: PathLike, colours: Mapping[Colour, int] | None = None) -> Label:
    """As `read_label`, with the colours of a palette."""
    with opened(path, "label", KINDS + LOSSY) as image:
        compression = str(image.info.get("compression"))
        if image.format in (*LOSSY, "MPO") or "jpeg" in compression or "webp" in compression:
            raise InputError(
                f"{path} is a label compressed as {image.format}, which changes the values of pixels;"
                " export the labels as PNG again (a JPEG that is saved as PNG stays wrong)"
            )
        if image.mode == "P":
            indices = np.array(image)
            table = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            present = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
            shown = {int(k): _colour(table[k]) for k in present if k < len(table)}
            mapped = _mapped(indices, shown, colours)
            return Label(indices, shown) if mapped is None else Label(mapped)
        raw = str(image.tile[0][3]) if isinstance(image, PngImageFile) else ""  # before the pixels are read
        pixels = np.asarray(image)
        if image.mode in ("1", "L"):
            values = np.array(pixels, np.uint8) if image.mode == "1" else pixels // GREY.get(raw, 1)
            grey = {int(k): (int(k),) * 3 for k in np.flatnonzero(np.bincount(values.ravel()))} if colours else {}
            mapped = _mapped(values, grey, colours)
            return Label(values if mapped is None else mapped)
        if image.mode.startswith("I") or pixels.dtype == np.uint16:
            return Label(_small(pixels, path))
        if image.mode in ("LA", "RGB", "RGBA"):
            if image.mode != "RGB" and np.ptp(pixels[..., -1]):
                raise InputError(f"{path} is a label that is transparent in part; save it without transparency")
            values = np.repeat(pixels[..., :1], 3, 2) if image.mode == "LA" else pixels[..., :3]
            return Label(_of_colours(values, colours or {}, path))
        raise InputError(f"{path} is a label of mode {image.mode}; export it as a palette, grey or RGB PNG")


def _mapped(values: np.ndarray, shown: Mapping[int, Colour], colours: Mapping[Colour, int] | None) -> np.ndarray | None:
    """The indices of values that are shown in these colours, where the label map has all of them; 255 may stay what it is."""
    if not colours or not all(colour in colours or value == IGNORE for value, colour in shown.items()):
        return None
    table = np.arange(256, dtype=np.uint8)
    table[list(shown)] = [colours.get(colour, IGNORE) for colour in shown.values()]
    indices: np.ndarray = table[values]
    return indices


def _small(pixels: np.ndarray, path: PathLike) -> np.ndarray:
    if pixels.max(initial=0) > 255 or pixels.min(initial=0) < 0:
        value = pixels[(pixels > 255) | (pixels < 0)][0]
        raise InputError(f"{path} is a label of 16 bits with the value {value}; expected class indices from 0 to 255")
    return pixels.astype(np.uint8)


def _of_colours(pixels: np.ndarray, colours: Mapping[Colour, int], path: PathLike) -> np.ndarray:
    """Colours (H, W, 3) uint8 to indices: by the label map, else equal parts, else VOC's colours; all of a picture alike."""
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    present, inverse = np.unique(codes, return_inverse=True)
    inverse = inverse.reshape(codes.shape)
    found = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in present]
    vocs = {_colour(colour): index for index, colour in enumerate(palette())}
    equal = {(k, k, k): k for k in range(256)}
    for table in (colours, equal, vocs):
        if all(colour in table for colour in found):
            return np.array([table[colour] for colour in found], np.uint8)[inverse]
    table = colours or vocs
    strange = [colour for colour in found if colour not in table]
    row, column = (int(k) for k in np.argwhere(codes == present[found.index(strange[0])])[0])
    others = f" and {len(strange) - 1} others" if len(strange) > 1 else ""
    if len(found) >= SMOOTH:
        remedy = f"{len(found)} colours are those of smooth edges: export the labels without antialiasing, and not as JPEG"
    else:
        listed = "; ".join(",".join(map(str, colour)) for colour in found)
        remedy = f"give all colours in labelmap.txt, a line name:red,green,blue:: each (here {listed}), or export class indices"
    raise InputError(
        f"{path} has the colour {','.join(map(str, strange[0]))} at row {row}, column {column}{others}, which"
        f" {'are' if others else 'is'} {'not in the label map' if colours else 'none of VOC' + chr(39) + 's'}; {remedy}"
    )


def _colour(rgb: np.ndarray) -> Colour:
    red, green, blue = (int(part) for part in rgb)
    return red, green, blue
