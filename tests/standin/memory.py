"""The memory of the pretended device: what lives there, and an optional limit."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np

BLOCK = 512  # bytes, to whose multiples CuPy's pool rounds
TOTAL = 8 << 30  # bytes that the device says to have

_live: dict[int, tuple[int, weakref.ref]] = {}  # id of an array that owns its memory -> (bytes, reference)
_used = 0


class OutOfMemoryError(MemoryError):
    """As `cupy.cuda.memory.OutOfMemoryError`, with its messages."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        self._size, self._total, self._limit = size, total, limit
        message = f"Out of memory allocating {size:,} bytes"
        if limit:
            message += f" (allocated so far: {total:,} bytes, limit set to: {limit:,} bytes)."
        elif total != -1:
            message += f" (allocated so far: {total:,} bytes)."
        super().__init__(message)

    def __reduce__(self) -> tuple:
        return type(self), (self._size, self._total, self._limit)


def used() -> int:
    return _used


def limit() -> int | None:
    return sys.modules[__package__].memory_limit


def claim(raw: np.ndarray) -> np.ndarray:
    """Count the memory behind an array for as long as it lives. Raises OutOfMemoryError beyond the limit."""
    global _used
    owner: Any = raw
    while getattr(owner, "base", None) is not None:
        owner = owner.base
    if not isinstance(owner, np.ndarray) or id(owner) in _live:
        return raw
    size = -(-owner.nbytes // BLOCK) * BLOCK
    most = limit()
    if most is not None and _used + size > most:
        raise OutOfMemoryError(size, _used, most)
    _used += size
    key = id(owner)
    _live[key] = size, weakref.ref(owner, lambda _: _release(key))
    return raw


def _release(key: int) -> None:
    global _used
    _used -= _live.pop(key)[0]


class MemoryPool:
    """As much of `cupy.cuda.MemoryPool` as programs ask about."""

    __module__ = "cupy.cuda.memory"

    def used_bytes(self) -> int:
        return _used

    def total_bytes(self) -> int:
        return _used

    def free_bytes(self) -> int:
        return 0

    def n_free_blocks(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def get_limit(self) -> int:
        return limit() or 0

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        if (size is None) == (fraction is None):
            raise ValueError("either size or fraction must be given")
        most = int(TOTAL * fraction) if fraction is not None else size
        sys.modules[__package__].memory_limit = most or None  # 0 is no limit


POOL = MemoryPool()
