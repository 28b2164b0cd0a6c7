"""Which array module an array belongs to, and the only two doors between host and device.

The mathematics in `tinyfcn.ops`, `tinyfcn.models` and `tinyfcn.optim` is written once, with functions that NumPy and
CuPy share; each function asks `array_module` which of the two its arguments are made of. Arrays cross between host
and device in `to_host` and `to_device` and nowhere else.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray; the two have no common type


def array_module(*arrays: Array) -> ModuleType:
    """Return `numpy` or `cupy`, whichever made the arrays.

    Raises TypeError where an argument is no array, or where arrays of both modules are mixed.
    """
    if arrays and all(type(array) is np.ndarray for array in arrays):
        return np  # by far the most frequent case, and asked for thousands of times a second
    cupy = sys.modules.get("cupy")  # an array of CuPy's can only exist once CuPy has been imported
    modules = set()
    for array in arrays:
        if isinstance(array, np.ndarray):
            modules.add(np)
        elif cupy is not None and isinstance(array, cupy.ndarray):
            modules.add(cupy)
        else:
            raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}")
    if len(modules) != 1:
        raise TypeError("expected arrays of one module, got NumPy and CuPy arrays together; see to_device and to_host")
    return modules.pop()


def empty_pixels(xp: ModuleType, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array of shape (N, C, H, W) that lies in memory pixel by pixel, as (H, W, N, C).

    What convolutions return: the values of all images and channels at a pixel are neighbours. So a band of rows is one piece of
    memory, its pixels are the rows of a matrix, and stepping over pixels, as pooling does, still reads whole pieces.
    """
    n, c, h, w = shape
    return pixels(xp.empty((h, w, n, c), dtype))


def zero_pixels(xp: ModuleType, shape: tuple[int, ...], dtype: Any) -> Array:
    """`empty_pixels`, filled with zeros."""
    n, c, h, w = shape
    return pixels(xp.zeros((h, w, n, c), dtype))


def pixels(array: Array) -> Array:
    """See (N, C, H, W) as (H, W, N, C), and the other way round."""
    return array.transpose(2, 3, 0, 1)


def in_order_of(like: Array, array: Array) -> Array:
    """The array with its axes in memory in the order of those of `like`, an array of its shape: itself, or a copy."""
    if array.strides == like.strides:
        return array
    copy = array_module(like, array).empty_like(like, dtype=array.dtype)
    copy[...] = array
    return copy


def to_host(array: Array) -> np.ndarray:
    """Return the array as a NumPy array: itself on a CPU, a copy where it lives on a GPU."""
    return array.get() if array_module(array) is not np else array


def to_device(array: np.ndarray, xp: ModuleType) -> Array:
    """Return the array as one of module `xp`: itself for NumPy, a copy on the current GPU for CuPy."""
    return array if xp is np else xp.asarray(array)


def choose_device(device: str = "auto") -> ModuleType:
    """Return the array module for `device`: "cpu" is NumPy, "gpu" is CuPy, "auto" is CuPy where a GPU answers.

    Raises ValueError for any other name, and RuntimeError where "gpu" is asked for and none answers.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, got {device!r}")
    if device == "cpu":
        return np
    try:
        import cupy

        cupy.cuda.runtime.getDeviceCount()  # raises where there is no driver or no device
        return cupy
    except Exception as error:  # ImportError, or any of the CUDA runtime's own errors
        if device == "gpu":
            raise RuntimeError(f"no GPU: {error} (CuPy and a CUDA driver are needed; --device cpu runs without)") from error
        return np
