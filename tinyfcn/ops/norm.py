r"""Local response normalisation, forward and backward (Krizhevsky et al., 2012, section 3.3): a channel that answers strongly
damps its neighbours.

Forward, at every pixel by itself, with W(c) the n channels around channel c, itself among them (fewer at either end):

    y_c = x_c s_c^-beta,    s_c = k + alpha / n * sum over j in W(c) of x_j^2

alpha is divided by n as in Caffe and PyTorch; the paper's alpha is their alpha / n.

Backward: x_j stands in y_j as the factor before s_j^-beta, and in every s_c whose window holds j. There

    ds_c / dx_j = 2 alpha / n * x_j,    dy_c / ds_c = -beta x_c s_c^(-beta - 1)

and so, since n is odd and j is in W(c) exactly where c is in W(j),

    dx_j = dy_j s_j^-beta - 2 alpha beta / n * x_j * sum over c in W(j) of dy_c x_c s_c^(-beta - 1)

a sum over the same windows as the forward pass takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isfinite
from numbers import Real
from typing import NamedTuple

from tinyfcn.backend import Array, array_module, hwnc
from tinyfcn.ops import _check
from tinyfcn.parallel import PIECE, at_once, bands, map_queue


class Norm(NamedTuple):
    """The constants of the formula; `size` is n, how many channels a window has."""

    size: int
    alpha: float
    beta: float
    k: float


class Cache(NamedTuple):
    """A reference to x: sums and powers are computed again."""

    x: Array
    window: Norm


def local_response_norm_forward(
    x: Array, size: int = 5, *, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[Array, Cache]:
    """Divide each entry of x (N, C, ...) by a power of a sum of squares over the `size` channels around its own.

    Returns y, which lies in memory as x does, and a cache.

    Raises TypeError for other dtypes than float32 and float64, and ValueError for a `size` that is even, so that no window has
    a middle, and for numbers that might make a sum 0 or less: k must be more than 0, alpha at least 0.
    """
    op = "local_response_norm"
    xp = _check.arrays(op, x=(x, "..."))
    if x.ndim < 2:
        raise ValueError(f"{op}: x must have axes (N, C, ...), got shape {x.shape}")
    if _check.integer(op, "size", size, 1) % 2 == 0:
        raise ValueError(f"{op}: size must be odd, got {size!r}")
    for name, value in ("alpha", alpha), ("beta", beta), ("k", k):
        if not isinstance(value, Real) or not isfinite(value):
            raise ValueError(f"{op}: {name} must be a finite number, got {value!r}")
    if alpha < 0 or k <= 0:
        raise ValueError(f"{op}: alpha must be at least 0 and k more than 0, got {alpha!r} and {k!r}")
    window = Norm(int(size), float(alpha), float(beta), float(k))  # with a NumPy float64, float32 would be computed in float64

    def normalise(x: Array, y: Array) -> None:
        xp.multiply(x, _sums(x, window) ** -window.beta, out=y)

    y = xp.empty_like(x)
    _in_bands(normalise, x, y)
    return y, Cache(x, window)


def local_response_norm_backward(dy: Array, cache: Cache) -> Array:
    """Return dx for dy, the gradient at y, as derived at the top of this file.

    Raises ValueError if dy does not have y's shape.
    """
    x, window = cache
    size, alpha, beta, _ = window
    xp = _check.gradient("local_response_norm_backward", dy, x.shape, x)

    def gradient(dy: Array, x: Array, dx: Array) -> None:
        sums = _sums(x, window)
        xp.multiply(dy, sums**-beta, out=dx)
        dx -= 2 * alpha * beta / size * x * _over_window(dx * x / sums, size)

    dx = xp.empty_like(x)
    _in_bands(gradient, dy, x, dx)
    return dx


def _sums(x: Array, window: Norm) -> Array:
    """s of every entry of x (..., C)."""
    size, alpha, _, k = window
    return alpha / size * _over_window(x * x, size) + k


def _over_window(terms: Array, size: int) -> Array:
    """For each channel of terms (..., C), the sum over the `size` channels around it, those outside counting as 0."""
    total = terms.copy()
    for step in range(1, min(size // 2 + 1, terms.shape[-1])):
        total[..., step:] += terms[..., :-step]
        total[..., :-step] += terms[..., step:]
    return total


def _in_bands(change: Callable[..., None], *arrays: Array) -> None:
    """Call `change` with pieces (..., C) of arrays (N, C, ...): rows of maps, which lie pixel by pixel, else whole images."""
    last = [hwnc(array) if array.ndim == 4 else array_module(array).moveaxis(array, 1, -1) for array in arrays]

    def work(todo: Iterable[slice]) -> None:
        for rows in todo:
            change(*(array[rows] for array in last))

    xp, first = array_module(*arrays), last[0]
    map_queue(xp, work, bands(xp, len(first), first.size // max(len(first), 1), at_once(xp, PIECE)))
