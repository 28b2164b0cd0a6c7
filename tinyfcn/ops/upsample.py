r"""Upsampling: transposed convolution in general, and the bilinear one that FCN starts from.

A convolution is linear in x: y = A x for a sparse matrix A made of the kernel. A transposed convolution multiplies by
A^T instead, so it is the convolution's input gradient, run as a forward pass: input pixel (r, c) spreads the kernel,
weighted by its value, over the outputs from (r s - p, c s - p) on (FCN paper, section 3.3: "backwards convolution").

    y[n, o, r s + i - p, c s + j - p] += x[n, k, r, c] w[k, o, i, j]    for all n, k, o, r, c, i, j

Nothing new is needed for the backward pass either. With y = A^T x:

    dx = A dy                        a convolution of dy with the same kernel
    dw = the weight gradient of that convolution, with x in the place of its output gradient and dy of its input
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module, empty_hwnc
from tinyfcn.ops import _check, columns
from tinyfcn.ops.conv import Geometry
from tinyfcn.parallel import PIECE, map_queue, split_evenly

BAND = 32  # rows or columns of the smaller map at a time, whose products with the zeros of U beside them are few


class TransposedCache(NamedTuple):
    """What the backward pass of a transposed convolution needs."""

    x: Array
    weight: Array
    has_bias: bool
    geometry: Geometry
    y_shape: tuple[int, ...]


class BilinearCache(NamedTuple):
    """The two matrices of a bilinear upsampling, and y's shape."""

    up_h: Array
    up_w: Array
    y_shape: tuple[int, ...]


def conv_transpose2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
) -> tuple[Array, TransposedCache]:
    """Transposed convolution of x (N, C_in, H, W) with weight (C_in, C_out, k_h, k_w), plus bias (C_out,).

    Returns y (N, C_out, H_out, W_out) with H_out = (H - 1) s - 2 p + k_h + output_padding, likewise W_out, and a cache
    of references to x and weight. Output padding (less than the stride) adds rows and columns at the bottom and right
    that only the bias may reach: it chooses among the sizes that a convolution of stride s takes to H.

    Arrays are all float32 or all float64 and of one module. Raises TypeError for other dtypes or mixed modules, and
    ValueError for shapes that do not fit, or an output without pixels.
    """
    op = "conv_transpose2d"
    axes = {"x": (x, "N, C_in, H, W"), "weight": (weight, "C_in, C_out, k_h, k_w"), "bias": (bias, "C_out")}
    xp = _check.arrays(op, **axes)
    if x.shape[1] != weight.shape[0]:
        raise ValueError(f"{op}: x has {x.shape[1]} channels, weight expects {weight.shape[0]}")
    if bias is not None:
        _check.shape(op, "bias", bias, (weight.shape[1],))
    geometry = _check.geometry(op, weight, stride, padding)
    extra = _check.pair(op, "output_padding", output_padding, 0)
    if any(e >= s for e, s in zip(extra, geometry.stride, strict=True)):
        raise ValueError(f"{op}: output_padding {extra} must be less than stride {geometry.stride}")
    height, width = (
        (x.shape[2 + a] - 1) * geometry.stride[a] - 2 * geometry.padding[a] + geometry.kernel[a] + extra[a] for a in (0, 1)
    )
    if min(*x.shape[2:], height, width) < 1:
        raise ValueError(
            f"{op}: x of {x.shape[2:]} with kernel {geometry.kernel}, stride {geometry.stride} and "
            f"padding {geometry.padding} gives an output of ({height}, {width}), which has no pixels"
        )
    y = empty_hwnc(xp, (len(x), weight.shape[1], height, width), x.dtype)
    columns.input_gradient(x, weight, geometry, y)
    if bias is not None:
        y += bias[:, None, None]
    return y, TransposedCache(x, weight, bias is not None, geometry, y.shape)


def conv_transpose2d_backward(dy: Array, cache: TransposedCache) -> tuple[Array, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    The formulas are derived at the top of this file. Raises ValueError if dy does not have y's shape.
    """
    x, weight, has_bias, geometry, y_shape = cache
    xp = _check.gradient("conv_transpose2d_backward", dy, y_shape, x)
    dx = empty_hwnc(xp, x.shape, x.dtype)
    columns.forward(dy, weight, geometry, dx)
    dweight = columns.weight_gradient(x, dy, geometry, weight.shape)
    return dx, dweight, dy.sum(axis=(0, 2, 3)) if has_bias else None


def bilinear_filter(kernel_size: int) -> np.ndarray:
    """The triangle (k,) that interpolates linearly when spread at stride s, for k = 2 s (or 2 s - 1).

    f[i] = 1 - |i - centre| / s with s = ceil(k / 2) and the centre at (k - 1) / 2: the tap's distance from the kernel's
    centre, in input pixels. At stride s every output is covered by two taps (one, on an input's own place, for odd k),
    which sum to 1.
    """
    kernel_size = _check.integer("bilinear_filter", "kernel_size", kernel_size, 1)
    stride = (kernel_size + 1) // 2
    triangle: np.ndarray = 1 - np.abs(np.arange(kernel_size) - (kernel_size - 1) / 2) / stride
    return triangle


def bilinear_weight(channels: int, kernel_size: int, dtype: Any = np.float32, xp: ModuleType = np) -> Array:
    """Weight (channels, channels, k, k) with which a transposed convolution upsamples bilinearly, class to class.

    The diagonal holds the outer product of `bilinear_filter` with itself, everything else is zero.
    """
    channels = _check.integer("bilinear_weight", "channels", channels, 1)
    line = bilinear_filter(kernel_size)
    weight = np.zeros((channels, channels, kernel_size, kernel_size), dtype)
    weight[range(channels), range(channels)] = np.outer(line, line)
    return xp.asarray(weight)


def is_bilinear(weight: np.ndarray) -> bool:
    """Whether this is the weight of a bilinear upsampling layer, class to class, up to rounding."""
    if weight.ndim != 4 or weight.shape[0] != weight.shape[1] or weight.shape[2] != weight.shape[3]:
        return False
    return np.allclose(weight, bilinear_weight(len(weight), weight.shape[2]), rtol=0, atol=1e-5)


def upsample_bilinear_forward(
    x: Array, kernel_size: int, stride: int, window: tuple[slice, slice] = (slice(None), slice(None))
) -> tuple[Array, BilinearCache]:
    """`conv_transpose2d_forward` of x (N, C, H, W) with `bilinear_weight(C, kernel_size)`, much cheaper.

    A bilinear kernel is the product of a vertical and a horizontal triangle, and leaves each channel to itself, so
    for every channel y = U_h x U_w^T, where column r of U_h ((H_out, H)) holds the triangle, starting at row r s.

    Returns y (N, C, (H - 1) s + k, (W - 1) s + k), or the rows and columns of it that `window` names, and a cache that holds
    the two matrices and y's shape. Raises TypeError for other dtypes than float32 and float64, and ValueError for an x
    without pixels.
    """
    op = "upsample_bilinear"
    xp = _check.arrays(op, x=(x, "N, C, H, W"))
    kernel_size = _check.integer(op, "kernel_size", kernel_size, 1)
    stride = _check.integer(op, "stride", stride, 1)
    if min(x.shape[2:]) < 1:
        raise ValueError(f"{op}: x of {x.shape[2:]} has no pixels")
    up_h, up_w = (_spread(xp, x.shape[2 + a], kernel_size, stride, x.dtype)[window[a]] for a in (0, 1))
    y = _both_sides(up_h, x, up_w.T)
    return y, BilinearCache(up_h, up_w, y.shape)


def upsample_bilinear_backward(dy: Array, cache: BilinearCache) -> Array:
    """Return dx = U_h^T dy U_w: the transposes of the two maps of the forward pass.

    Raises ValueError if dy does not have y's shape.
    """
    up_h, up_w, y_shape = cache
    _check.gradient("upsample_bilinear_backward", dy, y_shape, up_h)
    return _both_sides(up_h.T, dy, up_w)


def _both_sides(left: Array, x: Array, right: Array) -> Array:
    """left @ x[n, c] @ right for every image and channel, without most of the products with the zeros of left and right."""
    xp = array_module(x)
    if xp is not np:  # two products of whole matrices; of batches, CuPy would have to write tables of pointers first
        n, channels, height, width = x.shape
        across = x.transpose(2, 0, 1, 3).reshape(-1, width) @ right  # (H N C, W_out)
        y = left @ across.reshape(height, -1)  # (H_out, N C W_out)
        return y.reshape(len(left), n, channels, right.shape[1]).transpose(1, 2, 0, 3)
    maps = x.reshape(-1, *x.shape[2:])  # (N C, H, W)
    y = xp.empty((len(maps), len(left), right.shape[1]), x.dtype)

    down, across = _bands(left), _bands(right.T)

    def work(todo: Iterator[slice]) -> None:
        for part in todo:
            wide = xp.empty((part.stop - part.start, maps.shape[1], right.shape[1]), x.dtype)
            for places, met in across:
                xp.matmul(maps[part, :, met], right[met, places], out=wide[:, :, places])
            for rows, met in down:
                xp.matmul(left[rows, met], wide[:, met], out=y[part, rows])

    map_queue(xp, work, split_evenly(len(maps), -(-y.size // PIECE)))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _bands(matrix: Array) -> list[tuple[slice, slice]]:
    """Bands of rows, each with the columns from its first entry that is not zero to its last: in U and its transpose, few."""
    rows = split_evenly(len(matrix), -(-min(matrix.shape) // BAND))
    met = [np.flatnonzero(matrix[band].any(axis=0)) for band in rows]
    return [(band, slice(some[0], some[-1] + 1) if len(some) else slice(0)) for band, some in zip(rows, met, strict=True)]


@lru_cache(64)  # maps of many sizes come in turn when photographs are labelled
def _spread(xp: ModuleType, size: int, kernel_size: int, stride: int, dtype: Any) -> Array:
    """U, made where it is used: entry (i, r) is `bilinear_filter` at i - r s, whose triangle is 0 beyond the kernel's taps."""
    tap = xp.arange((size - 1) * stride + kernel_size)[:, None] - stride * xp.arange(size)
    triangle = 1 - abs(tap - (kernel_size - 1) / 2) / ((kernel_size + 1) // 2)
    return xp.maximum(triangle, 0).astype(dtype)
