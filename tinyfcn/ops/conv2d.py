"""Convolution as networks call it: checks, groups, and the choice among the ways to compute it.

The mathematics is in `tinyfcn.ops.conv`. Four modules compute it, each with the same three functions:

    forward(x, weight, geometry, y, bias, relu)                      writes y
    input_gradient(dy, weight, geometry, dx, gate)                   writes dx
    weight_gradient(dy, x, geometry, weight_shape, gate)             returns (dweight, dbias)

    conv        one product over the whole map: the formula as it stands
    columns     the same, in bands that stay in the processor's cache, on threads
    winograd    3x3 kernels at stride 1 with a quarter of the multiplications
    taps        large kernels that hang over the border, without the products with the padding
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module, empty_hwnc
from tinyfcn.errors import InputError
from tinyfcn.ops import _check, columns, conv, taps, winograd
from tinyfcn.ops.conv import Geometry

SMALL = 1 << 18  # multiplications up to which neither bands nor threads are worth it, also to BLAS
WINOGRAD_CHANNELS = 16  # with fewer channels, transforming tiles costs more than it saves
WINOGRAD_PIXELS = 64  # with fewer outputs, so does transforming the kernels
TAPS_KERNEL = 36  # taps of a kernel, and
TAPS_CHANNELS = 16  # input channels from which on, and
TAPS_PIXELS = 4096  # outputs up to which a product for each tap costs less than gathering columns


class Cache(NamedTuple):
    """What the backward pass needs: references, since columns are cheaper to gather again than to keep."""

    x: Array
    weight: Array
    has_bias: bool
    geometry: Geometry
    groups: int
    y: Array | None  # where a ReLU follows


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    relu: bool = False,
) -> tuple[Array, Cache]:
    """Convolve x (N, C_in, H, W) with weight (C_out, C_in / groups, k_h, k_w), add bias (C_out,), take max(y, 0) if `relu`.

    Returns y (N, C_out, H_out, W_out) with H_out = floor((H + 2 p - d (k_h - 1) - 1) / s) + 1, likewise W_out, and a
    cache of references to x and weight, and to y if `relu`, for `conv2d_backward`. In memory y lies pixel by pixel, see
    `tinyfcn.backend.empty_hwnc`.

    In g groups (Krizhevsky et al., 2012), filters and input channels are each cut into g equal parts, and the filters of the
    k-th part see the inputs of the k-th part only: g convolutions side by side, over slices of the channels.

    Arrays are all float32 or all float64 and of one module. Raises TypeError for other dtypes or mixed modules, and
    ValueError for shapes that do not fit, `groups` that do not divide C_out, or a kernel larger than the padded input.
    """
    op = "conv2d"
    xp = _check.arrays(op, {"bias": bias}, x=x, weight=weight)
    _check.ndim(op, "x", x, "N, C_in, H, W")
    _check.ndim(op, "weight", weight, "C_out, C_in, k_h, k_w")
    groups = _check.integer(op, "groups", groups, 1)
    if len(weight) % groups:
        raise ValueError(f"{op}: groups must divide the {len(weight)} filters of weight, got {groups}")
    if x.shape[1] != groups * weight.shape[1]:
        expected = f"{groups} groups of {weight.shape[1]}" if groups > 1 else weight.shape[1]
        raise ValueError(f"{op}: x has {x.shape[1]} channels, weight expects {expected}")
    if bias is not None:
        _check.shape(op, "bias", bias, (weight.shape[0],))
    geometry = _check.geometry(op, weight, stride, padding, dilation)
    size = geometry.output_size(x.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"{op}: kernel {geometry.kernel} with dilation {geometry.dilation} does not fit into "
            f"x of {x.shape[2:]} padded by {geometry.padding}"
        )
    y = empty_hwnc(xp, (len(x), len(weight), *size), x.dtype)
    for x_k, w_k, b_k, y_k in _side_by_side(groups, (x, 1), (weight, 0), (bias, 0), (y, 1)):
        choose(x_k, w_k, geometry, size).forward(x_k, w_k, geometry, y_k, b_k, relu)
    return y, Cache(x, weight, bias is not None, geometry, groups, y if relu else None)


def conv2d_backward(dy: Array, cache: Cache, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    `need_dx=False` leaves out dx (None), a third of the work: nobody asks for the gradient at the first layer's image.
    With ReLU, dy counts as 0 wherever y is 0. Raises ValueError if dy does not have y's shape.
    """
    x, weight, has_bias, geometry, groups, y = cache
    xp = _check.arrays("conv2d_backward", dy=dy, x=x)
    size = geometry.output_size(x.shape[2:])
    _check.shape("conv2d_backward", "dy", dy, (len(x), len(weight), *size))
    dx = empty_hwnc(xp, x.shape, x.dtype) if need_dx else None
    found = []
    for dy_k, x_k, w_k, y_k, dx_k in _side_by_side(groups, (dy, 1), (x, 1), (weight, 0), (y, 1), (dx, 1)):
        way = choose(x_k, w_k, geometry, size)
        found.append(way.weight_gradient(dy_k, x_k, geometry, w_k.shape, y_k))
        if need_dx:
            way.input_gradient(dy_k, w_k, geometry, dx_k, y_k)
    dweight, dbias = found[0] if groups == 1 else (xp.concatenate(parts) for parts in zip(*found, strict=True))
    return dx, dweight, dbias if has_bias else None


def choose(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> ModuleType:
    """The module that computes a convolution of x with weight to outputs of this size, by their shapes alone.

    On a GPU, where a kernel of its own makes columns of any size at once, it is `winograd` or `columns`.
    TINYFCN_CONV=plain chooses `conv` everywhere, TINYFCN_CONV=columns `columns`.
    """
    setting = os.environ.get("TINYFCN_CONV", "fast")
    if setting not in ("fast", "columns", "plain"):
        raise InputError(f"TINYFCN_CONV must be fast, columns or plain, got {setting!r}")
    c_out, c_in, kh, kw = weight.shape
    outputs, on_cpu = size[0] * size[1], array_module(x) is np
    if setting != "fast":
        return conv if setting == "plain" else columns
    if geometry.stride == geometry.dilation == (1, 1):
        if (kh, kw) == (3, 3) and min(c_out, c_in) >= WINOGRAD_CHANNELS and outputs >= WINOGRAD_PIXELS:
            return winograd
        large = kh * kw >= TAPS_KERNEL and c_in >= TAPS_CHANNELS and outputs <= TAPS_PIXELS
        if large and any(geometry.padding) and on_cpu:
            return taps
    small = outputs * len(x) * c_out * c_in * kh * kw <= SMALL
    return conv if small and on_cpu else columns


def _side_by_side(groups: int, *arrays: tuple[Array | None, int]) -> Iterator[tuple[Any, ...]]:
    """For each group, its slice of every (array, axis that counts channels or filters): a view, or None of None."""
    if groups == 1:
        return iter([tuple(array for array, _ in arrays)])
    slices = ([None] * groups if array is None else array_module(array).split(array, groups, axis) for array, axis in arrays)
    return zip(*slices, strict=True)
