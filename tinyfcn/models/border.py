r"""What a wide border of zeros makes constant, and how not to compute it again and again.

FCN pads the image with 100 zeros on every side. Far from the image, and far from the edge of the map (where later layers
add zeros of their own), all rows of a feature map are the same, and so are all columns. With a narrower border a layer
gives the same map with fewer of them. So the first blocks run with narrow borders, and `stretch` repeats one of the constant
rows, and columns, until the map is as wide as with the full border. For an image of 500x500 this saves 46, 41 and 25 percent
of the work of VGG's first three blocks; later on, the image reaches every row.

How narrow? Unit j of a map of stride s with border P sees the image's rows from s j - P - q to s j - P - q + R - 1. R is the
size of its receptive field; q counts the zeros that the layers after the first one add, in image rows. It is constant if

    s j - P - q + R - 1 < 0        it sees nothing of the image, which begins at row 0, and
    s j - P - q >= -P              nothing beyond the first layer's map, which begins at row -P

so s j must lie in [q, q + P - R]. Below an image of H rows, alike, s j must lie in [H + P + q, H + 2 P + q - R]. Both
intervals hold a multiple of s if P >= R + s - 1. Borders must differ by multiples of s, so that the image still meets the
pooling windows in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

from tinyfcn.backend import Array, array_module, hwnc


class Stretch(NamedTuple):
    """How to widen a block's map: repeat the units before and after the image `copies` times more.

    Unit j is constant before the image for s j in [before, ...], after it for s j in [after + H, ...], with s the stride.
    """

    stride: int
    before: int
    after: int
    copies: int

    def places(self, size: int) -> tuple[int, int]:
        """The constant units to repeat, for an image of this height or width."""
        return -(-self.before // self.stride), -(-(size + self.after) // self.stride)


class Cache(NamedTuple):
    """How a map was widened, and for images of which size."""

    image_size: tuple[int, int]
    how: Stretch


def borders(blocks: Sequence[int], padding: int) -> tuple[list[int], list[Stretch | None]]:
    """The border of each block, and how to stretch its output to that of the next (None where that is the same).

    `blocks` holds the number of 3x3 convolutions of each block, which ends in a 2x2 pooling. The last border is `padding`.
    """
    field, zeros, stride = 1, -1, 1  # R, q, s of the map so far; the first convolution's zeros are P, not q
    reach = []
    for convolutions in blocks:
        field += 2 * stride * convolutions + stride
        zeros += stride * convolutions
        stride *= 2
        reach.append((field, zeros, stride))
    widths: list[int] = [padding]
    stretches: list[Stretch | None] = [None]
    for field, zeros, stride in reversed(reach[:-1]):
        least = field + stride - 1
        copies = max(widths[0] - least, 0) // stride
        width = widths[0] - copies * stride
        stretches.insert(0, Stretch(stride, zeros, width + zeros, copies) if copies else None)
        widths.insert(0, width)
    return widths, stretches


def stretch(x: Array, image_size: tuple[int, int], how: Stretch) -> tuple[Array, Cache]:
    """Widen a map x (N, C, H, W) of images of `image_size`."""
    xp = array_module(x)
    y = hwnc(x)
    for axis, size in enumerate(image_size):
        before, after = how.places(size)
        y = xp.take(y, _repeated(xp, y.shape[axis], before, after, how.copies), axis)
    return hwnc(y), Cache(image_size, how)


def stretch_backward(dy: Array, cache: Cache) -> Array:
    """Return dx: a row or column that was repeated collects the gradients of all its copies."""
    image_size, how = cache
    xp = array_module(dy)
    dx = hwnc(dy)
    for axis, size in enumerate(image_size):
        before, after = how.places(size)
        copies = dx
        dx = xp.take(copies, _first(xp, copies.shape[axis] - 2 * how.copies, before, after, how.copies), axis)
        for place, start in (before, before), (after, after + how.copies):  # in dx, and of its copies
            several = copies[(slice(None),) * axis + (slice(start, start + how.copies + 1),)]
            several.sum(axis, out=dx[(slice(None),) * axis + (place,)])
    return hwnc(dx)


@lru_cache(64)  # indices, made on the device that uses them
def _repeated(xp: ModuleType, size: int, before: int, after: int, copies: int) -> Array:
    """Which unit of the narrow map each of the wide map is."""
    units = xp.arange(size + 2 * copies)
    return units - (units - before).clip(0, copies) - (units - after - copies).clip(0, copies)


@lru_cache(64)
def _first(xp: ModuleType, size: int, before: int, after: int, copies: int) -> Array:
    """Where in the wide map each unit of the narrow one comes first."""
    units = xp.arange(size)
    return units + copies * ((units > before).astype(int) + (units > after))
