"""From pairs of pictures and labels to a network's input: geometry on uint8 arrays, then normalisation.

Whatever moves a picture moves its label along. Labels are only ever resized by nearest neighbour, since the mean of
two class indices is a third class; where a crop or a stack reaches beyond a picture the label says `IGNORE`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from tinyfcn.backend import Array, array_module
from tinyfcn.data.names import IGNORE
from tinyfcn.data.voc import Pair
from tinyfcn.description import PREPROCESSING
from tinyfcn.errors import InputError

# ImageNet's mean colour (RGB), which every preprocessing takes to within two grey levels of zero: padding an image
# with it is as neutral as a convolution's own zero padding.
MEAN_COLOUR = (124, 116, 104)


def normalise(images: Array, name: str) -> Array:
    """Pictures as a network wants them: (N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32, C-contiguous, where the pictures are.

    A picture that goes to a GPU should go there first: before, it takes a quarter of the bytes. `name` is a key of
    `PREPROCESSING`; raises `InputError` for another.
    """
    if name not in PREPROCESSING:
        raise InputError(f"no preprocessing is called {name!r}; give one of {', '.join(PREPROCESSING)}")
    channels, scale, mean, std = PREPROCESSING[name]
    count, height, width, _ = images.shape
    xp = array_module(images)
    out = xp.empty((count, 3, height, width), np.float32)
    for channel, letter in enumerate(channels):
        plane = out[:, channel]
        xp.multiply(images[..., "RGB".index(letter)], np.float32(scale / std[channel]), out=plane)
        plane -= np.float32(mean[channel] / std[channel])
    return out


def resize(image: np.ndarray, label: np.ndarray, size: float | tuple[int, int]) -> Pair:
    """A pair at another size: (height, width), or a factor of its present size (at least one pixel remains).

    The image is interpolated bilinearly (over a wider window when it shrinks, so that it does not alias), the label
    takes its nearest neighbour.
    """
    if isinstance(size, tuple):
        height, width = size
    else:
        height, width = (max(1, round(side * size)) for side in label.shape)
    if (height, width) == label.shape:
        return image, label
    new_image = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    new_label = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(new_image), np.asarray(new_label)


def zoomed(image: np.ndarray, label: np.ndarray, zoom: float = 1.0, max_side: int | None = None) -> Pair:
    """The pair `zoom` times as large, but its longer side, where it grows or is larger, at most `max_side` pixels."""
    factor = zoom if max_side is None else min(zoom, max_side / max(label.shape))
    return resize(image, label, factor)


def mirror(image: np.ndarray, label: np.ndarray) -> Pair:
    """A pair as in a mirror: left and right exchanged."""
    return image[:, ::-1], label[:, ::-1]


def crop(image: np.ndarray, label: np.ndarray, top: int, left: int, height: int, width: int) -> Pair:
    """The window of a pair from row `top` and column `left` on, of the given size, as new arrays.

    The window may reach beyond the picture on any side (`top` and `left` may be negative): there the image has
    `MEAN_COLOUR` and the label `IGNORE`.
    """
    new_image = np.empty((height, width, 3), np.uint8)
    new_image[:] = MEAN_COLOUR
    new_label = np.full((height, width), IGNORE, np.uint8)
    rows, new_rows = _overlap(top, height, label.shape[0])
    columns, new_columns = _overlap(left, width, label.shape[1])
    new_image[new_rows, new_columns] = image[rows, columns]
    new_label[new_rows, new_columns] = label[rows, columns]
    return new_image, new_label


def training_batch(
    pairs: Sequence[Pair],
    size: tuple[int, int],
    rng: np.random.Generator,
    scale: tuple[float, float] = (1.0, 1.0),
    mirror: bool = True,
) -> Pair:
    """Random views of pairs, all of one size: images (N, h, w, 3) uint8 and labels (N, h, w) uint8.

    Each pair is rescaled by a factor between `scale`'s two (log-uniform: twice as large is as likely as half as
    large), cropped, or padded where it is smaller, to `size` = (h, w) at a random place, and with `mirror`
    mirrored half of the time.
    """
    views = [_random_view(pair, size, rng, scale, mirror) for pair in pairs]
    return np.stack([image for image, _ in views]), np.stack([label for _, label in views])


def stack(pairs: Sequence[Pair]) -> Pair:
    """Whole pairs as one batch, (N, H, W, 3) and (N, H, W) uint8, padded below and to the right to the largest."""
    height = max(label.shape[0] for _, label in pairs)
    width = max(label.shape[1] for _, label in pairs)
    padded = [crop(image, label, 0, 0, height, width) for image, label in pairs]
    return np.stack([image for image, _ in padded]), np.stack([label for _, label in padded])


def _random_view(
    pair: Pair, size: tuple[int, int], rng: np.random.Generator, scale: tuple[float, float], may_mirror: bool
) -> Pair:
    factor = float(np.exp(rng.uniform(*np.log(scale))))
    image, label = resize(*pair, factor)
    top, left = (_random_offset(rng, side, wanted) for side, wanted in zip(label.shape, size, strict=True))
    image, label = crop(image, label, top, left, *size)
    return mirror(image, label) if may_mirror and rng.random() < 0.5 else (image, label)


def _random_offset(rng: np.random.Generator, side: int, wanted: int) -> int:
    """Where a window of `wanted` starts: inside a longer side, or so that it holds all of a shorter one."""
    return int(rng.integers(min(0, side - wanted), max(0, side - wanted), endpoint=True))


def _overlap(start: int, length: int, side: int) -> tuple[slice, slice]:
    """What a window [start, start + length) shares with [0, side), as seen from the side and from the window."""
    first, last = min(max(start, 0), side), max(min(start + length, side), 0)
    return slice(first, max(first, last)), slice(first - start, max(first, last) - start)
