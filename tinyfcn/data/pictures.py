"""Pictures of others: photographs as RGB, labels as class indices, and VOC's colours for them.

A picture is one of a few kinds, recognised by its content whatever it is called; Pillow knows forty, one of which would start
another program (Ghostscript, for PostScript). It is a regular file, and no larger than `set_max_pixels` allows, which its
first bytes show.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from tinyfcn.errors import InputError
from tinyfcn.files import MAX_PIXELS, check_regular
from tinyfcn.parallel import PIECE, split_evenly

PHOTOGRAPHS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")  # of several pictures in a file, the first: also where JPEG is MPO

# Whatever Pillow raises on bytes that are not the picture they claim to be.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(struct.error, Image.DecompressionBombError),
)

PathLike = str | Path

_max_pixels = MAX_PIXELS

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without a handler, Python prints what Pillow logs


def set_max_pixels(number: int) -> None:
    """From now on refuse pictures of more pixels, in the whole process."""
    global _max_pixels
    _max_pixels = number


def palette(own: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """VOC's colour map, (256, 3) uint8: row k is the RGB colour of class k. Classes that have their `own` colours keep these.

    The bits of k are dealt out in turn to red, green and blue, and each colour fills up from its highest bit: bits
    0, 1, 2 become the top bits of R, G, B, bits 3, 4, 5 the next ones, and so on. Neighbouring classes so
    differ in high bits, that is, strongly.
    """
    index = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((index >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    if own:
        colours[: len(own)] = own
    return colours


def read_image(path: PathLike) -> np.ndarray:
    """A photograph of any mode as (H, W, 3) uint8 RGB, turned upright as its EXIF orientation says.

    JPEG, PNG, WebP, TIFF, BMP and GIF are read; of several pictures in a file, the first. Grey, palette and CMYK pictures are
    converted, 16-bit grey keeps its upper byte, and transparent pixels are composited on white. Raises `InputError` where the
    file is missing, broken, too large or of a mode without a fixed range.
    """
    with opened(path, "image", PHOTOGRAPHS) as image:
        ImageOps.exif_transpose(image, in_place=True)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        for rows in split_evenly(image.height, -(-image.height * image.width // PIECE)):  # so that copies stay small
            pixels[rows] = np.asarray(_to_rgb(image.crop((0, rows.start, image.width, rows.stop))))
        return pixels


def image_size(path: PathLike) -> tuple[int, int]:
    """(height, width) of what `read_image` would return; a JPEG's pixels are not read."""
    with opened(path, "image", PHOTOGRAPHS) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (image.width, image.height) if turned else (image.height, image.width)


def write_label(path: PathLike, label: np.ndarray, colours: Sequence[Sequence[int]] | None = None) -> None:
    """Write (H, W) integers in 0..255 as an index PNG: `labels.read_label` gives them back. Its palette is VOC's, or `colours`.

    Raises `ValueError` for an array of another kind.
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.dtype.kind not in "iu" or label.min(initial=0) < 0 or label.max(initial=0) > 255:
        raise ValueError(f"write_label: label must be (H, W) integers in 0..255, got {label.dtype} of shape {label.shape}")
    image = Image.fromarray(label.astype(np.uint8))
    image.putpalette(palette(colours).tobytes())
    image.save(path, format="PNG")


@contextmanager
def opened(path: PathLike, kind: str, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """A picture, of which only the beginning has been read, or `InputError` for whatever is wrong with it."""
    # Pillow warns of metadata, or of what it raises in the end. The filter stays: the threads that read pictures share it.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        check_regular(path)
        with open(path, "rb") as file:
            image = _identified(file, formats)
            _check_size(path, image)
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"no such {kind}: {path}; check the path") from error
    except _UNREADABLE as error:
        raise InputError(f"cannot read {path} as a picture ({error}); replace the file") from error


def _identified(file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """What `Image.open` does with `formats`, except for its own limit, of which a warning and an error would come."""
    Image.init()
    start = file.read(16)
    file.seek(0)
    for name in formats:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(start) is True:  # a text means that Pillow was built without this format
            return factory(file, "")
    raise SyntaxError(f"its content is not {' or '.join(formats)}")


def _check_size(path: PathLike, image: Image.Image) -> None:
    pixels = image.width * image.height
    if pixels > _max_pixels:
        raise InputError(
            f"{path} has {image.width}x{image.height} pixels, {pixels:,} in all, and {_max_pixels:,} are read at most;"
            f" if you have the memory, add --max-pixels {pixels}"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 rather than scale
        upper_byte = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
        image = Image.fromarray(upper_byte.astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
