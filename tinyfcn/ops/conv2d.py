"""Convolution as networks call it: checks, groups, and the choice among the ways to compute it.

The mathematics is in `tinyfcn.ops.conv`. Four modules compute it, each with the same three functions:

    forward(x, weight, geometry, y, bias, relu)                      writes y
    input_gradient(dy, weight, geometry, dx)                         writes dx
    weight_gradient(dy, x, geometry, weight_shape)                   returns (dweight, dbias)

    conv        one product over the whole map: the formula as it stands
    columns     the same, in bands that stay in the processor's cache, on threads
    winograd    3x3 kernels at stride 1 with a quarter of the multiplications
    taps        large kernels that hang over the border, without the products with the padding

Where a ReLU follows, dy counts as 0 wherever y is. `columns` and `winograd` see to that as they read dy, given `gate=y`.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module, convolution_setting, empty_hwnc
from tinyfcn.ops import _check, columns, conv, taps, winograd
from tinyfcn.ops.conv import Geometry

GATING = (columns, winograd)
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
    way: ModuleType  # that computed it
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
    arrays = {"x": (x, "N, C_in, H, W"), "weight": (weight, "C_out, C_in, k_h, k_w"), "bias": (bias, "C_out")}
    xp = _check.arrays(op, **arrays)
    groups = _check.integer(op, "groups", groups, 1)
    if len(weight) % groups:
        raise ValueError(f"{op}: groups must divide the {len(weight)} filters of weight, got {groups}")
    if x.shape[1] != groups * weight.shape[1]:
        expected = f"{groups} groups of {weight.shape[1]}" if groups > 1 else weight.shape[1]
        raise ValueError(f"{op}: x has {x.shape[1]} channels, weight expects {expected}")
    if bias is not None:
        _check.shape(op, "bias", bias, (len(weight),))
    geometry = _check.geometry(op, weight, stride, padding, dilation)
    size = geometry.output_size(x.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"{op}: kernel {geometry.kernel} with dilation {geometry.dilation} does not fit into "
            f"x of {x.shape[2:]} padded by {geometry.padding}"
        )
    y = empty_hwnc(xp, (len(x), len(weight), *size), x.dtype)
    way = choose(x, weight[: len(weight) // groups], geometry, size)
    for inputs, filters in _groups(groups, weight.shape):
        way.forward(x[:, inputs], weight[filters], geometry, y[:, filters], None if bias is None else bias[filters], relu)
    return y, Cache(x, weight, bias is not None, geometry, groups, way, y if relu else None)


def conv2d_backward(dy: Array, cache: Cache, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    `need_dx=False` leaves out dx (None), a third of the work: training needs no gradient at the image itself.
    With ReLU, dy counts as 0 wherever y is 0. Raises ValueError if dy does not have y's shape.
    """
    x, weight, has_bias, geometry, groups, way, y = cache
    xp = _check.gradient("conv2d_backward", dy, (len(x), len(weight), *geometry.output_size(x.shape[2:])), x)
    if y is not None and way not in GATING:
        dy, y = xp.multiply(dy, y > 0, out=xp.empty_like(dy)), None  # in memory as dy is
    dx = empty_hwnc(xp, x.shape, x.dtype) if need_dx else None
    found = []
    for inputs, filters in _groups(groups, weight.shape):
        gate = {} if y is None else {"gate": y[:, filters]}
        found.append(way.weight_gradient(dy[:, filters], x[:, inputs], geometry, weight[filters].shape, **gate))
        if dx is not None:
            way.input_gradient(dy[:, filters], weight[filters], geometry, dx[:, inputs], **gate)
    dweight, dbias = found[0] if groups == 1 else (xp.concatenate(parts) for parts in zip(*found, strict=True))
    return dx, dweight, dbias if has_bias else None


def _groups(groups: int, weight_shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The input channels and the filters of each group."""
    c_out, c_in = weight_shape[0] // groups, weight_shape[1]
    return [(slice(k * c_in, (k + 1) * c_in), slice(k * c_out, (k + 1) * c_out)) for k in range(groups)]


def choose(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> ModuleType:
    """The module that computes a convolution of x with weight, those of one group, to outputs of this size, by shapes alone.

    On a GPU, where a kernel of its own makes columns of any size at once, it is `winograd` or `columns`.
    TINYFCN_CONV=plain chooses `conv` everywhere, TINYFCN_CONV=columns `columns`.
    """
    setting = convolution_setting()
    if setting != "fast":
        return conv if setting == "plain" else columns
    c_out, c_in, kh, kw = weight.shape
    outputs, on_cpu = size[0] * size[1], array_module(x) is np
    if geometry.stride == geometry.dilation == (1, 1):
        if (kh, kw) == (3, 3) and min(c_out, c_in) >= WINOGRAD_CHANNELS and outputs >= WINOGRAD_PIXELS:
            return winograd
        large = kh * kw >= TAPS_KERNEL and c_in >= TAPS_CHANNELS and outputs <= TAPS_PIXELS
        if large and any(geometry.padding) and on_cpu:
            return taps
    small = outputs * len(x) * c_out * c_in * kh * kw <= SMALL
    return conv if small and on_cpu else columns
