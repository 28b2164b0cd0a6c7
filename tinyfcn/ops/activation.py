"""ReLU and dropout, forward and backward: the two operations that work entry by entry."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module, hwnc
from tinyfcn.ops import _check
from tinyfcn.parallel import in_pieces


class DropoutCache(NamedTuple):
    """The mask, one byte per entry, and the factor."""

    kept: Array
    scale: Any


def relu_forward(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0), of any shape. The cache is y itself, which the next layer keeps anyway."""
    xp = _check.arrays("relu", x=(x, "..."))
    y = xp.maximum(x, 0)
    return y, y


def relu_backward(dy: Array, cache: Array) -> Array:
    """dx = dy where x > 0, else 0: y = x has slope 1 there, y = 0 slope 0. At x = 0, where there is none, 0 is taken.

    Raises ValueError if dy does not have y's shape.
    """
    xp = _check.gradient("relu_backward", dy, cache.shape, cache)
    dx = xp.empty_like(dy)
    in_pieces(gated, dy, cache, dx)
    return dx


def gated(dy: Array, y: Array, out: Array) -> None:
    """Write dy, 0 wherever y is not positive, into out."""
    array_module(dy).multiply(dy, y > 0, out=out)


def dropout_forward(x: Array, rate: float, rng: Any) -> tuple[Array, DropoutCache]:
    """Set each entry of x to 0 with probability `rate`, and divide the others by 1 - rate ("inverted" dropout).

    The division keeps the expectation, E[y] = x, so that nothing is to be done at test time (Srivastava et al., 2014).
    `rng` is a generator of x's module, `numpy.random.default_rng(seed)` or CuPy's. It draws float32 numbers for both
    dtypes, so that a seed drops the same entries in both.

    Raises ValueError for a rate outside [0, 1), and TypeError for another kind of generator.
    """
    xp = _check.arrays("dropout", x=(x, "..."))
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f"dropout: rate must be at least 0 and less than 1, got {rate!r}")
    if not isinstance(rng, xp.random.Generator):
        raise TypeError(f"dropout: rng must be a {xp.__name__}.random.Generator, got {type(rng).__name__}")
    in_memory: Callable[[Array], Array] = hwnc if x.ndim == 4 else lambda a: a  # the mask lies in memory as the map does
    kept = in_memory(rng.random(in_memory(x).shape, dtype=np.float32) >= rate)
    scale = x.dtype.type(1 / (1 - rate))
    return _masked(x, kept, scale), DropoutCache(kept, scale)


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """dx = dy / (1 - rate) where x was kept, else 0: y is x times a constant, entry by entry.

    Raises ValueError if dy does not have y's shape.
    """
    kept, scale = cache
    _check.gradient("dropout_backward", dy, kept.shape)
    return _masked(dy, kept, scale)


def _masked(a: Array, kept: Array, scale: Any) -> Array:
    """a * kept * scale, in memory as a is; of itself CuPy would give the result C's order."""
    xp = array_module(a)
    y = xp.multiply(a, kept, out=xp.empty_like(a))
    y *= scale
    return y
