"""Convolution as networks call it: checks, groups, and the choice among the ways to compute it.

The mathematics is in `tinyfcn.ops.conv`. Four modules compute it, each with the same two functions:

    forward(x, weight, geometry, y, bias, relu)       writes y
    backward(dy, x, weight, geometry, dx)             returns dweight, and writes dx

    conv        one product over the whole map: the formula as it stands
    columns     the same, in bands that stay in the processor's cache, on threads
    winograd    3x3 kernels at stride 1 with a quarter of the multiplications
    taps        one product for each tap of the kernel, without copies of the map and products with the padding

The gradient at the bias is the same for all, and so is a ReLU that follows: see `_at_outputs`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module, convolution_setting, empty_hwnc
from tinyfcn.ops import _check, activation, columns, conv, kernels, taps, winograd
from tinyfcn.ops.conv import Geometry, as_matrix
from tinyfcn.parallel import at_once, bands, map_shares

SMALL = 1 << 18  # multiplications up to which neither bands nor threads are worth it, also to BLAS
BAND = 1 << 18  # entries of dy at a time: a few such pieces stay in the cache
WINOGRAD_CHANNELS = 16  # on a GPU: with fewer channels, transforming tiles costs more than it saves
WINOGRAD_PIXELS = 64  # with fewer outputs, so does transforming the kernels


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
    dy, dbias = _at_outputs(dy, y)
    dx = empty_hwnc(xp, x.shape, x.dtype) if need_dx else None
    dweight = [
        way.backward(dy[:, filters], x[:, inputs], weight[filters], geometry, None if dx is None else dx[:, inputs])
        for inputs, filters in _groups(groups, weight.shape)
    ]
    return dx, dweight[0] if groups == 1 else xp.concatenate(dweight), dbias if has_bias else None


def _at_outputs(dy: Array, y: Array | None) -> tuple[Array, Array]:
    """Return dy, 0 wherever the y of a ReLU is, and db, its sum over images, rows and columns, with one look at each entry."""
    xp = array_module(dy)
    before = dy if y is None else empty_hwnc(xp, dy.shape, dy.dtype)
    gated = activation.gated if xp is np else kernels.gated

    def work(share: Sequence[slice]) -> list[Array]:
        return [of_rows(rows) for rows in share]

    def of_rows(rows: slice) -> Array:
        outputs = as_matrix(before, rows)
        if y is not None:
            gated(as_matrix(dy, rows), as_matrix(y, rows), outputs)
        return xp.ones(len(outputs), dy.dtype) @ outputs

    pieces = bands(xp, dy.shape[2], dy.size // dy.shape[2], at_once(xp, BAND))
    sums = [db for share in map_shares(xp, work, pieces) for db in share]
    return before, functools.reduce(xp.add, sums) if sums else xp.zeros(dy.shape[1], dy.dtype)


def _groups(groups: int, weight_shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The input channels and the filters of each group."""
    c_out, c_in = weight_shape[0] // groups, weight_shape[1]
    return [(slice(k * c_in, (k + 1) * c_in), slice(k * c_out, (k + 1) * c_out)) for k in range(groups)]


def choose(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> ModuleType:
    """The module that computes a convolution of x with weight, those of one group, to outputs of this size: whose cost is least.

    A cost is a time, a third of that of forward and backward together, in multiplications that the fastest matrix product does in
    it. It adds up products, what is copied or transformed for each pixel and each weight, and what a call takes, with constants
    that fit 170 shapes on two cores of a Xeon at 2.8 GHz, whose product does 134 multiplications in a nanosecond. There the way
    that it chooses takes 1.01 times as long as the fastest one, on average, and 1.4 times at most.

    On a GPU, where a kernel of its own makes columns of any size at once, it is `winograd` or `columns`.
    TINYFCN_CONV=plain chooses `conv` everywhere, TINYFCN_CONV=columns `columns`.
    """
    setting = convolution_setting()
    if setting != "fast":
        return conv if setting == "plain" else columns
    outputs = size[0] * size[1]
    if array_module(x) is not np:
        many = min(weight.shape[:2]) >= WINOGRAD_CHANNELS and outputs >= WINOGRAD_PIXELS
        return winograd if many and winograd.applies(weight, geometry) else columns
    if len(x) * outputs * weight.size <= SMALL:
        return conv
    ways = [columns, *(way for way in (winograd, taps) if way.applies(weight, geometry))]
    return min(ways, key=lambda way: way.cost(x, weight, geometry, size))
