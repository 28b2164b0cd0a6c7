r"""Convolution tap by tap, at stride 1: for small maps of many channels, and for kernels that hang over the border, as fc6's 7x7.

In the formula of `tinyfcn.ops.conv`, put the sum over the kernel's taps (i, j) outside; what is left inside is a product of
matrices, for all output pixels (r, c) at once:

    y[r, c] = b + sum_{i, j} W_ij x[r + i - p, c + j - p],    W_ij: (C_out, C_in)

Tap (i, j) meets the pixels that lie inside x, and skips the padding, where im2col multiplies zeros. Of a 7x7 kernel with
padding 3 on a 4x4 map a third of the work is left: (16 / 28)^2. The chain rule, tap by tap:

    dW_ij = sum over output pixels of dy[r, c] x[r + i - p, c + j - p]^T
    dx[r + i - p, c + j - p] += W_ij^T dy[r, c]

It is fastest where each W_ij is a matrix in memory, as in weights that lie tap by tap, as (k_h, k_w, C_out, C_in), which is the
order that `tinyfcn.backend.empty_hwnc` gives an array of shape (C_out, C_in, k_h, k_w); else each is copied before its product.

A small training step of FCN-8s (width 0.25, 8 images of 128x128; milliseconds, 2 cores), fc6 on its 4x4 map:

                    columns   taps
    forward            5.6     3.5
    backward          11.4     4.8
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import product

from tinyfcn.backend import Array, array_module, hwnc, zeros_hwnc
from tinyfcn.ops._windows import inside
from tinyfcn.ops.conv import Geometry, add_bias, as_matrix
from tinyfcn.parallel import PIECE, map_shares, split_evenly, workers

COPY = 90  # cost of bringing a weight into the order of taps

Window = tuple[slice, slice]  # rows and columns of a map
Meeting = tuple[tuple[int, int], Window, Window]  # a tap; where it meets the input, in the output and in the input


def applies(weight: Array, geometry: Geometry) -> bool:
    return geometry.kernel != (1, 1) and geometry.stride == geometry.dilation == (1, 1)


def cost(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> float:
    """See `tinyfcn.ops.conv2d.choose`: products and sums, for each meeting of a tap with a pixel; weights; taps; a call."""
    c_out, c_in, kh, kw = weight.shape
    a_weight = 130 if hwnc(weight).flags.c_contiguous else 130 + COPY
    met = len(x)
    for length, windows, taps, padding in zip(x.shape[2:], size, geometry.kernel, geometry.padding, strict=True):
        met *= sum(outputs.stop - outputs.start for outputs, _ in (inside(length, windows, i - padding, 1) for i in range(taps)))
    found: float = met * (1.7 * c_in * c_out + 100 * (c_in + c_out)) + kh * kw * (a_weight * c_in * c_out + 1.8e6) + 6e6
    return found


def forward(x: Array, weight: Array, geometry: Geometry, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write the convolution of x into y, with bias and ReLU. The threads share the filters."""
    xp = array_module(x, weight)
    w = by_taps(weight)

    def work(share: Sequence[slice]) -> None:
        for filters in share:
            total = xp.zeros(hwnc(y[:, filters]).shape, y.dtype)  # (H_out, W_out, N, filters)
            for (i, j), outputs, inputs in meetings(x, weight.shape, geometry, y):
                met = total[outputs]
                met += (as_matrix(x, inputs) @ w[i, j, filters].T).reshape(met.shape)
            add_bias(total, None if bias is None else bias[filters], relu)
            hwnc(y)[..., filters] = total

    threads = workers(xp, cost(x, weight, geometry, y.shape[2:]))
    map_shares(xp, work, split_evenly(len(weight), threads), threads)


def backward(dy: Array, x: Array, weight: Array, geometry: Geometry, dx: Array | None = None) -> Array:
    """Return dW, and write dx, unless that is None. The threads share the taps, each with a sum of its own for dx."""
    xp = array_module(dy, x)
    w = by_taps(weight)
    dw = xp.empty_like(w)

    def work(share: Sequence[Meeting]) -> Array | None:
        total = None if dx is None else zeros_hwnc(xp, dx.shape, dx.dtype)
        for (i, j), outputs, inputs in share:
            part = as_matrix(dy, outputs)
            xp.matmul(part.T, as_matrix(x, inputs), out=dw[i, j])
            if total is not None:
                met = hwnc(total)[inputs]
                met += (part @ w[i, j]).reshape(met.shape)
        return total

    threads = workers(xp, 2 * cost(x, weight, geometry, dy.shape[2:]))
    sums = map_shares(xp, work, list(meetings(x, weight.shape, geometry, dy)), threads)
    if dx is not None:
        dx[...] = functools.reduce(xp.add, sums)
    return hwnc(dw)


def by_taps(weight: Array) -> Array:
    """The weights as (k_h, k_w, C_out, C_in): a view where they lie so, else a copy, made by a few filters."""
    if hwnc(weight).flags.c_contiguous:
        return hwnc(weight)
    xp = array_module(weight)
    copy = xp.empty(hwnc(weight).shape, weight.dtype)

    def work(share: Sequence[slice]) -> None:
        for filters in share:
            copy[:, :, filters] = hwnc(weight)[:, :, filters]

    map_shares(xp, work, split_evenly(len(weight), -(-weight.size // PIECE)), workers(xp, COPY * weight.size))
    return copy


def meetings(x: Array, weight_shape: tuple[int, ...], geometry: Geometry, y: Array) -> Iterator[Meeting]:
    """For each tap, the window of output pixels at which it meets pixels of x, and the window of those; both may be empty."""
    (height, width), (height_out, width_out) = x.shape[2:], y.shape[2:]
    for i, j in product(*map(range, weight_shape[2:])):
        rows_out, rows_in = inside(height, height_out, i - geometry.padding[0], 1)
        columns_out, columns_in = inside(width, width_out, j - geometry.padding[1], 1)
        yield (i, j), (rows_out, columns_out), (rows_in, columns_in)
