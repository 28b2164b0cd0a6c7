"""Adding two maps, and cutting a map to the image, where they see the same place: forward and backward."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyfcn.backend import Array, array_module

Crop = tuple[Any, slice, slice]  # an index of the last two axes


class Cut(NamedTuple):
    """Which part of a map was taken, and the shape of the whole map."""

    crop: Crop
    shape: tuple[int, ...]


class SumCache(NamedTuple):
    """What the sum has taken of each map."""

    skip: Cut
    up: Cut


def window(offset: int, height: int, width: int) -> Crop:
    return (..., slice(offset, offset + height), slice(offset, offset + width))


def cropped(x: Array, crop: Crop) -> tuple[Array, Cut]:
    """A part of a map, as a view."""
    return x[crop], Cut(crop, x.shape)


def uncrop(dy: Array, cut: Cut) -> Array:
    """The gradient at a map for dy at the part that was cut from it: dy there, zero elsewhere."""
    dx = array_module(dy).zeros(cut.shape, dy.dtype)
    dx[cut.crop] = dy
    return dx


def cropped_sum(skip: Array, up: Array, offset: int) -> tuple[Array, SumCache]:
    """The sum of two maps on the part of the image that both cover, where skip[offset] lies where up[0] does."""
    height, width = (up if offset >= 0 else skip).shape[2:]
    skip_part, skip_cut = cropped(skip, window(max(offset, 0), height, width))
    up_part, up_cut = cropped(up, window(max(-offset, 0), height, width))
    return skip_part + up_part, SumCache(skip_cut, up_cut)
