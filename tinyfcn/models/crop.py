"""Adding two maps, and cutting a map to the image, where they see the same place: forward and backward."""

from __future__ import annotations

from typing import Any

from tinyfcn.backend import Array, array_module

Crop = tuple[Any, slice, slice]  # an index of the last two axes


def window(offset: int, height: int, width: int) -> Crop:
    return (..., slice(offset, offset + height), slice(offset, offset + width))


def cropped_sum(skip: Array, up: Array, offset: int) -> tuple[Array, tuple[Crop, Any, Crop, Any]]:
    """The sum of two maps on the part of the image that both cover, where skip[offset] lies where up[0] does."""
    height, width = (up if offset >= 0 else skip).shape[2:]
    skip_crop, up_crop = window(max(offset, 0), height, width), window(max(-offset, 0), height, width)
    return skip[skip_crop] + up[up_crop], (skip_crop, skip.shape, up_crop, up.shape)


def uncrop(dy: Array, crop: Crop, shape: tuple[int, ...]) -> Array:
    """The gradient of x for dy at x[crop]: dy there, zero elsewhere."""
    dx = array_module(dy).zeros(shape, dy.dtype)
    dx[crop] = dy
    return dx
