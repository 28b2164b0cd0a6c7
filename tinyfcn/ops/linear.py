"""Linear (fully connected) layer, forward and backward: the end of a classifier, before it becomes convolutional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import _check
from tinyfcn.parallel import map_shares, split_evenly, workers


class Cache(NamedTuple):
    """References to what the backward pass needs."""

    x: Array
    weight: Array
    has_bias: bool


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Cache]:
    """y = x W^T + b for x (N, D_in), weight (D_out, D_in) and bias (D_out,): y (N, D_out). The cache refers to x and weight.

    Raises TypeError for dtypes other than all float32 or all float64, ValueError for shapes that do not fit.
    """
    op = "linear"
    _check.arrays(op, x=(x, "N, D_in"), weight=(weight, "D_out, D_in"), bias=(bias, "D_out"))
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{op}: x has {x.shape[1]} features, weight expects {weight.shape[1]}")
    y = _product(x, weight.T)
    if bias is not None:
        _check.shape(op, "bias", bias, (len(weight),))
        y += bias
    return y, Cache(x, weight, bias is not None)


def linear_backward(dy: Array, cache: Cache) -> tuple[Array, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    y[n, o] = sum_d x[n, d] W[o, d] + b[o], so dx = dy W, dW = dy^T x, and db sums dy over the batch.
    Raises ValueError if dy does not have y's shape.
    """
    x, weight, has_bias = cache
    _check.gradient("linear_backward", dy, (len(x), len(weight)), x)
    return _product(dy, weight), _product(dy.T, x), dy.sum(axis=0) if has_bias else None


def _product(a: Array, b: Array) -> Array:
    """The matrix a @ b; threads share its columns."""
    xp = array_module(a, b)
    y = xp.empty((len(a), b.shape[1]), a.dtype)

    def work(share: Sequence[slice]) -> None:
        for columns in share:
            xp.matmul(a, b[:, columns], out=y[:, columns])

    map_shares(xp, work, split_evenly(b.shape[1], workers(xp)))
    return y
