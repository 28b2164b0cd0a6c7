r"""Max pooling, forward and backward.

Forward: each output is the largest input in its window,

    y[n, k, r, c] = max over i, j of x[n, k, r s + i - p, c s + j - p],    inputs outside x left out

Backward: y changes exactly as the input that won does, so the gradient goes to that input and to no other. Where several
are equally large, the first one in reading order wins. An input may win in several overlapping windows, and adds up
their gradients.

All that the backward pass must know is which tap of the window won: one byte an output, for windows up to 256 taps.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tinyfcn.backend import Array
from tinyfcn.ops import _check
from tinyfcn.ops._windows import inside


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
) -> tuple[Array, tuple]:
    """Take the largest value of each window of x (N, C, H, W); the stride is the kernel's size where None.

    Returns y (N, C, H_out, W_out), see `pool_output_size`, and a cache that holds the number of the winning tap
    (counted in reading order) of each output, not x. A NaN in a window comes out as NaN.

    Raises TypeError for other dtypes than float32 and float64, and ValueError for a padding of more than half of the
    kernel (a window could then hold nothing but padding) or for an output without pixels.
    """
    op = "max_pool2d"
    xp = _check.arrays(op, x=x)
    _check.ndim(op, "x", x, "N, C, H, W")
    kernel = _check.pair(op, "kernel_size", kernel_size, 1)
    stride = kernel if stride is None else _check.pair(op, "stride", stride, 1)
    padding = _check.pair(op, "padding", padding, 0)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise ValueError(f"{op}: padding {padding} must be at most half of kernel_size {kernel}")
    size = tuple(pool_output_size(x.shape[2 + a], kernel[a], stride[a], padding[a], ceil_mode) for a in (0, 1))
    if min(*size, *x.shape[2:]) < 1:
        raise ValueError(f"{op}: kernel_size {kernel} does not fit into x of {x.shape[2:]} padded by {padding}")

    y = xp.full((*x.shape[:2], *size), -np.inf, x.dtype)
    winner = xp.zeros(y.shape, np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32)
    taps = list(_taps(x.shape[2:], size, kernel, stride, padding))
    for tap, outputs, inputs in reversed(taps):  # so that the first of equal inputs has the last word
        candidate = x[inputs]
        best = y[outputs]
        xp.copyto(winner[outputs], winner.dtype.type(tap), where=candidate >= best)
        xp.maximum(best, candidate, out=best)
    return y, (x.shape, winner, taps)


def max_pool2d_backward(dy: Array, cache: tuple) -> Array:
    """Return dx: each entry of dy, the gradient at y, added to the input that won its window.

    Raises ValueError where dy has not y's shape.
    """
    x_shape, winner, taps = cache
    xp = _check.arrays("max_pool2d_backward", dy=dy)
    _check.shape("max_pool2d_backward", "dy", dy, winner.shape)
    dx = xp.zeros(x_shape, dy.dtype)
    for tap, outputs, inputs in taps:
        dx[inputs] += dy[outputs] * (winner[outputs] == tap)
    return dx


def _taps(x_size, y_size, kernel, stride, padding) -> Iterator[tuple[int, tuple, tuple]]:
    """For each tap of the window: its number, the outputs whose tap lies inside x, and the inputs that they meet there.

    The inputs of one tap are all different, so adding to them through a slice is safe.
    """
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows, down = inside(x_size[0], y_size[0], i - padding[0], stride[0])
            columns, across = inside(x_size[1], y_size[1], j - padding[1], stride[1])
            yield i * kernel[1] + j, (..., rows, columns), (..., down, across)
