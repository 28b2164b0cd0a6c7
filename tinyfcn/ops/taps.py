r"""Convolution tap by tap, at stride 1: for large kernels that hang over the border, as fc6's 7x7 does on a small map.

In the formula of `tinyfcn.ops.conv`, put the sum over the kernel's taps (i, j) outside; what is left inside is a product of
matrices, for all output pixels (r, c) at once:

    y[r, c] = b + sum_{i, j} W_ij x[r + i - p, c + j - p],    W_ij: (C_out, C_in)

Tap (i, j) meets the pixels that lie inside x, and skips the padding, where im2col multiplies zeros. Of a 7x7 kernel with
padding 3 on a 4x4 map a third of the work is left: (16 / 28)^2. The chain rule, tap by tap:

    dW_ij = sum over output pixels of dy[r, c] x[r + i - p, c + j - p]^T
    dx[r + i - p, c + j - p] += W_ij^T dy[r, c]

Each W_ij must be a matrix in memory: weights that come here lie tap by tap, as (k_h, k_w, C_out, C_in), which is the order
that `tinyfcn.backend.empty_pixels` gives an array of shape (C_out, C_in, k_h, k_w).

A small training step of FCN-8s (width 0.25, 8 images of 128x128; milliseconds, 2 cores), fc6 on its 4x4 map:

                    columns   taps
    forward            5.6     3.5
    backward          11.4     4.8
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import product

from tinyfcn.backend import Array, array_module, empty_pixels, pixels, zero_pixels
from tinyfcn.ops._windows import inside
from tinyfcn.parallel import cut, parallel, workers

Window = tuple[slice, slice]  # rows and columns of a map


def correlate(x: Array, weight: Array, padding: tuple[int, int], y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write the convolution of x into y, with bias and ReLU. The threads share the filters."""
    xp = array_module(x, weight)

    def work(share: Sequence[slice]) -> None:
        for filters in share:
            total = xp.zeros(pixels(y[:, filters]).shape, y.dtype)  # (H_out, W_out, N, filters)
            for (i, j), outputs, inputs in _meetings(x, weight, padding, y):
                met = total[outputs]
                met += (_matrix(x, inputs) @ pixels(weight)[i, j, filters].T).reshape(met.shape)
            if bias is not None:
                total += bias[filters]
            if relu:
                xp.maximum(total, 0, out=total)
            pixels(y)[..., filters] = total

    parallel(xp, work, cut(len(weight), workers(xp)))


def gradients(
    dy: Array, x: Array, weight: Array, padding: tuple[int, int], gate: Array | None = None, *, need_dx: bool = True
) -> tuple[Array | None, Array, Array]:
    """Return (dx, dW, db), dx None unless `need_dx`; dy counts as 0 where `gate` is not positive. The threads share the taps."""
    xp = array_module(dy, x, weight)
    if gate is not None:
        dy = xp.multiply(dy, gate > 0, out=xp.empty_like(dy))
    dweight = empty_pixels(xp, weight.shape, dy.dtype)

    def work(share: Sequence[tuple[tuple[int, int], Window, Window]]) -> Array:
        dx = zero_pixels(xp, x.shape if need_dx else (0, 0, 0, 0), dy.dtype)
        for (i, j), outputs, inputs in share:
            d = _matrix(dy, outputs)
            xp.matmul(d.T, _matrix(x, inputs), out=pixels(dweight)[i, j])
            if need_dx:
                met = pixels(dx)[inputs]
                met += (d @ pixels(weight)[i, j]).reshape(met.shape)
        return dx

    dx = functools.reduce(xp.add, parallel(xp, work, list(_meetings(x, weight, padding, dy))))
    return dx if need_dx else None, dweight, dy.sum((0, 2, 3))


def _meetings(x: Array, weight: Array, padding: tuple[int, int], y: Array) -> Iterator[tuple[tuple[int, int], Window, Window]]:
    """For each tap, the window of output pixels at which it meets pixels of x, and the window of those; both may be empty."""
    (height, width), (height_out, width_out) = x.shape[2:], y.shape[2:]
    for i, j in product(*map(range, weight.shape[2:])):
        rows_out, rows_in = inside(height, height_out, i - padding[0], 1)
        columns_out, columns_in = inside(width, width_out, j - padding[1], 1)
        yield (i, j), (rows_out, columns_out), (rows_in, columns_in)


def _matrix(a: Array, window: Window) -> Array:
    """A window of a map (N, C, H, W) as a matrix (pixels N, C)."""
    return pixels(a)[window].reshape(-1, a.shape[1])
