"""Checks of arguments that several operations share. Each error names the operation, the value and what it expected."""

from __future__ import annotations

from operator import index
from types import ModuleType

import numpy as np

from tinyfcn.backend import Array, array_module
from tinyfcn.ops.conv import Geometry

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
LARGEST = 4096  # of kernels, strides, paddings and dilations: the work grows with them, whatever the size of the image


def arrays(op: str, /, **named: tuple[Array | None, str]) -> ModuleType:
    """Check arrays, each given as name=(array, axes): all are float32, or all float64, and of one module, which is returned.

    Axes are named as in "N, C, H, W"; "..." stands for any. None is left out.
    """
    given = {name: array for name, (array, _) in named.items() if array is not None}
    try:
        xp = array_module(*given.values())
    except TypeError as error:
        raise TypeError(f"{op}: {' and '.join(given)}: {error}") from None
    dtypes = {array.dtype for array in given.values()}
    if len(dtypes) != 1 or not dtypes <= FLOATS:
        found = ", ".join(f"{name} is {array.dtype}" for name, array in given.items())
        raise TypeError(f"{op}: expected arrays that are all float32 or all float64, but {found}")
    for name, array in given.items():
        axes = named[name][1]
        if axes != "..." and array.ndim != axes.count(",") + 1:
            raise ValueError(f"{op}: {name} must have axes ({axes}), got shape {array.shape}")
    return xp


def gradient(op: str, dy: Array, y_shape: tuple[int, ...], x: Array | None = None) -> ModuleType:
    """Check dy, the gradient at an output of this shape, of the dtype and module of x; returns the module."""
    xp = arrays(op, dy=(dy, "..."), x=(x, "..."))
    shape(op, "dy", dy, y_shape)
    return xp


def shape(op: str, name: str, array: Array, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise ValueError(f"{op}: {name} must have shape {expected}, got {array.shape}")


def integer(op: str, name: str, value: int, minimum: int) -> int:
    """Return an int, checked to be at least `minimum`."""
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{op}: {name} must be at least {minimum}, got {value!r}")
    return number


def pair(op: str, name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    """Return an int, or a pair of ints (vertical, horizontal), as a pair, each from `minimum` to `LARGEST`."""
    try:
        numbers = tuple(index(v) for v in value) if isinstance(value, (tuple, list)) else (index(value),) * 2
    except TypeError:
        raise TypeError(f"{op}: {name} must be an int or a pair of ints, got {value!r}") from None
    if len(numbers) != 2 or min(numbers) < minimum:
        raise ValueError(f"{op}: {name} must be an int or a pair of ints of at least {minimum}, got {value!r}")
    if max(numbers) > LARGEST:
        raise ValueError(f"{op}: {name} must be at most {LARGEST}, got {value!r}")
    return numbers


def geometry(
    op: str,
    weight: Array,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
    dilation: int | tuple[int, int] = 1,
) -> Geometry:
    """Return where the windows of a kernel (C_out, C_in, k_h, k_w) lie."""
    if min(weight.shape) < 1:
        raise ValueError(f"{op}: weight must have no empty axis, got shape {weight.shape}")
    return Geometry(
        kernel=weight.shape[2:],
        stride=pair(op, "stride", stride, 1),
        padding=pair(op, "padding", padding, 0),
        dilation=pair(op, "dilation", dilation, 1),
    )
