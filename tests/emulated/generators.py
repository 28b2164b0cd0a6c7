"""In the place of CuPy's random generators, which draw on the device with cuRAND: NumPy draws, and no copy is counted."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from emulated import runtime


class BitGenerator:
    def __init__(self, seed: Any = None, *, size: int = -1) -> None:
        self.numpy = np.random.Philox(seed)


class XORWOW(BitGenerator):
    pass


class Philox4x3210(BitGenerator):
    pass


class Generator:
    """The distributions whose parameters NumPy's generator and CuPy's have in common."""

    def __init__(self, bit_generator: BitGenerator) -> None:
        self.bit_generator = bit_generator
        self._numpy = np.random.Generator(bit_generator.numpy)

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._draw(self._numpy.random, size, dtype, out)

    def standard_normal(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return self._draw(self._numpy.standard_normal, size, dtype, out)

    def uniform(self, low: float = 0.0, high: float = 1.0, size: Any = None, dtype: Any = np.float64) -> Any:
        return low + (high - low) * self._draw(self._numpy.random, size, dtype, None)

    def integers(self, low: int, high: int | None = None, size: Any = None, dtype: Any = np.int64, endpoint: bool = False) -> Any:
        def draw(size: Any, dtype: Any) -> np.ndarray:
            return self._numpy.integers(low, high, size, dtype, endpoint)

        return self._draw(draw, size, dtype, None)

    def _draw(self, method: Any, size: Any, dtype: Any, out: Any) -> Any:
        import cupy

        array = cupy.empty(() if size is None else size, dtype) if out is None else out
        if runtime.computing:
            numbers = np.ascontiguousarray(method(array.shape, dtype=array.dtype))
            ctypes.memmove(array.data.ptr, numbers.ctypes.data, numbers.nbytes)
        return array


def default_rng(seed: Any = None) -> Generator:
    if isinstance(seed, Generator):
        return seed
    return Generator(seed if isinstance(seed, BitGenerator) else XORWOW(seed))


def install(module: Any) -> None:
    """Let `cupy.random` offer these."""
    for thing in (BitGenerator, XORWOW, Philox4x3210, Generator, default_rng):
        setattr(module, thing.__name__, thing)
