"""Cutting work into bands that fit the processor's cache, and running the bands on threads.

NumPy releases Python's interpreter lock inside its functions, so bands on ordinary threads do run side by side. The
matrix product has threads of its own, which would compete with these, and go on spinning for milliseconds after each product:
it is held to one thread while bands run.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from tinyfcn.backend import Array, array_module, hwnc, thread_count

Piece = TypeVar("Piece")
Result = TypeVar("Result")

WORTH_SHARING = 1 << 28  # in the unit of `tinyfcn.ops.conv2d.choose`: what takes one thread a millisecond or two
WORTH_WAKING = 8  # pieces: to wake a thread up takes as long as a few of them
PIECE = 1 << 16  # entries of one array: a few such pieces stay in the cache together
GPU_TIMES = 256  # as much as fits into a processor's cache makes a GPU busy, and its calls worth their overhead

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h

_busy = threading.Lock()  # one call of `run_shares` at a time: it takes all cores, and sets the matrix product's threads


def workers(xp: ModuleType, cost: float = math.inf) -> int:
    """Threads to share work out to: one for a GPU, which has its own ways, and one where to wake others would take longer."""
    threads = thread_count() if xp is np else 1
    return threads if cost >= WORTH_SHARING else 1


def at_once(xp: ModuleType, amount: int) -> int:
    """How much to work on at a time, where that is `amount` on a processor, for the sake of its cache."""
    return amount if xp is np else GPU_TIMES * amount


def map_shares(
    xp: ModuleType, work: Callable[[Sequence[Piece]], Result], pieces: Sequence[Piece], threads: int | None = None
) -> list[Result]:
    """Deal `pieces` out to the threads, in order and in equal shares, and return what `work` returns for each share.

    The threads are `workers(xp)`, or as many as are asked for. Who gets what depends on their number alone, so sums over the
    results are the same in every run. `work` allocates its scratch arrays once and reuses them for all of its pieces, and must
    not call `map_shares` itself. A GPU needs no threads: `work` gets everything.
    """
    return run_shares(xp, work, [pieces[share] for share in split_evenly(len(pieces), threads or workers(xp))])


def map_queue(
    xp: ModuleType, work: Callable[[Iterator[Piece]], Any], pieces: Sequence[Piece], threads: int | None = None
) -> None:
    """Run `work` on the threads, over pieces that do not depend on each other: a thread that is free takes the next piece.

    All threads get the same iterator, so that one which starts late, or is held up, does less. Otherwise as `map_shares`.
    """
    run_shares(xp, work, [iter(pieces)] * min(threads or workers(xp), len(pieces)))


def run_shares(xp: ModuleType, work: Callable[[Any], Result], shares: Sequence[Any]) -> list[Result]:
    """What `work` returns for each share: the first one on this thread, every other on one of its own."""
    if xp is not np:
        return [work(share) for share in shares]
    if not shares:
        return []
    with _busy, prepare().limit(limits=1):
        others = [_pool(len(shares) - 1).submit(work, share) for share in shares[1:]]
        try:
            first = work(shares[0])
        finally:
            wait(others)
        return [first, *(other.result() for other in others)]


def bands(xp: ModuleType, rows: int, row_size: int, target: int) -> list[slice]:
    """Cut rows of `row_size` pixels into bands of at most about `target` pixels; where several, as many for each thread."""
    parts = -(-rows * row_size // target)
    return split_evenly(rows, parts + -parts % workers(xp) if parts > 1 else parts)


def split_evenly(length: int, parts: int) -> list[slice]:
    """Cut a range into at most `parts` slices whose lengths differ by one at most; none is empty."""
    parts = min(parts, length)
    return [slice(*ends) for ends in pairwise(length * k // parts for k in range(parts + 1))] if parts else []


def in_pieces(change: Callable[..., Any], *arrays: Array) -> None:
    """Call `change`, an operation entry by entry, with pieces of arrays of one shape that fit into the cache together.

    The pieces are flat, and follow the order of memory, where that is the same for all arrays and has no gaps; else they are
    pieces of the first axis.
    """
    flat = _flat(arrays)

    def work(todo: Iterable[slice]) -> None:
        for piece in todo:
            change(*(array[piece] for array in flat))

    xp = array_module(*arrays)
    pieces = split_evenly(len(flat[0]), -(-flat[0].size // PIECE) if xp is np else 1)
    if len(pieces) < WORTH_WAKING:
        work(pieces)
    else:
        map_queue(xp, work, pieces)


def _flat(arrays: Sequence[Array]) -> list[Array]:
    if all(array.flags.c_contiguous for array in arrays):
        return [array.reshape(-1) for array in arrays]
    if arrays[0].ndim == 4 and all(hwnc(array).flags.c_contiguous for array in arrays):
        return [hwnc(array).reshape(-1) for array in arrays]
    return list(arrays)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "tinyfcn")


@cache
def prepare() -> Any:
    """Set the C library's memory policy, once, and return threadpoolctl's handle on the matrix product's threads.

    glibc hands large freed blocks back to the system, and gives each thread a heap of its own. The next array then consists of
    fresh pages, which the system fills with zeros at their first touch: for a layer's output this takes as long as computing
    it. Here freed memory stays in one heap of the process, for the next array, as CuPy does with a GPU's.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)  # musl has none
        for option, value in (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1):
            mallopt(option, value)
    return ThreadpoolController().select(user_api="blas")


def _after_fork() -> None:
    """In the child of a fork the threads are gone, and the lock may be held by one of them."""
    global _busy
    _busy = threading.Lock()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
