r"""Max pooling, forward and backward.

Forward: each output is the largest input in its window,

    y[n, k, r, c] = max over i, j of x[n, k, r s + i - p, c s + j - p],    inputs outside x left out

Backward: y changes exactly as the input that won does, so the gradient goes to that input and to no other. Where several
are equally large, the first one in reading order wins. An input may win in several overlapping windows, and adds up
their gradients.

Which input won need not be kept: it is the first one in its window that equals y. In a network x and y are there anyway, since
the layers on either side keep them for their own gradients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tinyfcn.backend import Array, empty_hwnc, hwnc, zeros_hwnc
from tinyfcn.ops import _check, kernels
from tinyfcn.ops._windows import inside
from tinyfcn.parallel import bands, map_queue

Pair = tuple[int, int]
Place = tuple[slice, slice]  # rows and columns of a map

BAND_BYTES = 1 << 18  # outputs of a band: with their inputs, four times as many, they stay in the cache


class Cache(NamedTuple):
    """References to what the backward pass needs."""

    x: Array
    y: Array
    kernel: Pair
    stride: Pair
    padding: Pair


def pool_output_size(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows along one axis.

    floor((size + 2 p - k) / s) + 1 windows lie wholly inside the padded input. Ceil mode admits one more window that
    hangs over the end, as long as it starts inside the input or its left padding, as in Caffe and PyTorch.
    """
    room = size + 2 * padding - kernel
    windows = (-(-room // stride) if ceil_mode else room // stride) + 1
    if ceil_mode and (windows - 1) * stride >= size + padding:
        windows -= 1
    return windows


def max_pool2d_forward(
    x: Array,
    kernel_size: int | tuple[int, int],
    *,
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 0,
    ceil_mode: bool = False,
) -> tuple[Array, Cache]:
    """Take the largest value of each window of x (N, C, H, W); the stride is the kernel's size where None.

    Returns y (N, C, H_out, W_out), see `pool_output_size`, and a cache of references to x and y. A NaN in a window
    comes out as NaN, and takes no gradient. In memory y lies pixel by pixel, see `tinyfcn.backend.empty_hwnc`.

    Raises TypeError for other dtypes than float32 and float64, and ValueError for a padding of more than half of the
    kernel (a window could then hold nothing but padding), a kernel, stride or padding above 4096, or an output without pixels.
    """
    op = "max_pool2d"
    xp = _check.arrays(op, x=(x, "N, C, H, W"))
    kernel = _check.pair(op, "kernel_size", kernel_size, 1)
    stride = kernel if stride is None else _check.pair(op, "stride", stride, 1)
    padding = _check.pair(op, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"{op}: padding {padding} must be at most half of kernel_size {kernel}")
    size = tuple(pool_output_size(x.shape[2 + a], kernel[a], stride[a], padding[a], ceil_mode) for a in (0, 1))
    if min(*size, *x.shape[2:]) < 1:
        raise ValueError(f"{op}: kernel_size {kernel} does not fit into x of {x.shape[2:]} padded by {padding}")

    y = empty_hwnc(xp, (*x.shape[:2], *size), x.dtype)
    if xp is not np:
        kernels.max_pool(x, y, kernel, stride, padding)
        return y, Cache(x, y, kernel, stride, padding)
    source, target = hwnc(x), hwnc(y)

    def work(todo: Iterable[slice]) -> None:
        for rows in todo:
            best = target[rows]  # (rows, W_out, N, C)
            best[...] = -np.inf
            for outputs, inputs in _meetings(x.shape[2:], rows, size[1], kernel, stride, padding):
                so_far = best[outputs]
                np.maximum(so_far, source[inputs], out=so_far)

    map_queue(np, work, _bands(y))
    return y, Cache(x, y, kernel, stride, padding)


def max_pool2d_backward(dy: Array, cache: Cache) -> Array:
    """Return dx: each entry of dy, the gradient at y, added to the input that won its window.

    Raises ValueError if dy does not have y's shape.
    """
    x, y, kernel, stride, padding = cache
    xp = _check.gradient("max_pool2d_backward", dy, y.shape, x)
    if xp is not np:
        return kernels.max_pool_backward(dy, x, y, kernel, stride, padding)
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1]  # windows share no inputs
    axes = zip(y.shape[2:], stride, padding, x.shape[2:], strict=True)
    covered = stride == kernel and all(n * s - p >= size for n, s, p, size in axes)  # no input is left out
    dx = (empty_hwnc if covered else zeros_hwnc)(xp, x.shape, dy.dtype)
    source, target = hwnc(x), hwnc(dx)

    def work(todo: Iterable[slice]) -> None:
        for rows in todo:
            best, upstream = hwnc(y)[rows], hwnc(dy)[rows]  # (rows, W_out, N, C)
            taken = np.zeros(best.shape, bool)  # windows whose winner has been found
            for outputs, inputs in _meetings(x.shape[2:], rows, y.shape[3], kernel, stride, padding):
                wins = (source[inputs] == best[outputs]) > taken[outputs]
                taken[outputs] |= wins
                if apart:
                    np.multiply(upstream[outputs], wins, out=target[inputs])
                else:
                    target[inputs] += upstream[outputs] * wins

    if apart:
        map_queue(np, work, _bands(y))
    else:  # threads would add to the same inputs
        work(_bands(y))
    return dx


def _bands(y: Array) -> list[slice]:
    pixel_bytes = max(y.itemsize * y.shape[0] * y.shape[1], 1)
    return bands(np, y.shape[2], y.shape[3], max(BAND_BYTES // pixel_bytes, 1))


def _meetings(x_size: Pair, rows: slice, width: int, kernel: Pair, stride: Pair, padding: Pair) -> Iterator[tuple[Place, Place]]:
    """For each tap of the window, in reading order: the outputs, among these rows, whose tap lies inside x, and the inputs that
    they meet there.

    The inputs of one tap are all different, so adding to them through a slice is safe.
    """
    for i in range(kernel[0]):
        down = inside(x_size[0], rows.stop - rows.start, i - padding[0] + rows.start * stride[0], stride[0])
        if down[0].stop == 0:  # all of them in the padding
            continue
        for j in range(kernel[1]):
            across = inside(x_size[1], width, j - padding[1], stride[1])
            yield (down[0], across[0]), (down[1], across[1])
