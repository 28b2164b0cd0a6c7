"""The real CuPy on a machine without a GPU; README.md says how.

import emulated

emulated.start()
import cupy

with emulated.counting() as counts:
    y = cupy.ones(3) + 1
assert counts.launches == 1 and not counts.crossed
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from emulated import build, generators, runtime

__all__ = ["Counts", "counting", "sources", "start", "started", "why_not", "without_computing"]

sources = build.sources
LONGEST_NAME = 256  # as in driver.c
_libraries: dict[str, ctypes.CDLL] = {}
_kernel_names: list[str] = []


def why_not() -> str | None:
    """What is missing here, in one line, or None."""
    if not sys.platform.startswith("linux"):
        return f"the emulated GPU needs Linux, not {sys.platform}"
    if not find_spec("cupy"):
        return "the emulated GPU needs CuPy (pip install cupy-cuda13x)"
    missing = [tool for tool in ("gcc", "g++", "nm") if not shutil.which(tool)]
    return f"the emulated GPU needs {' and '.join(missing)}" if missing else None


def started() -> bool:
    return bool(_libraries)


def start() -> None:
    """Put the emulated device under CuPy, for the rest of this process; comes before CuPy is imported."""
    if started():
        return
    if why_not():
        raise RuntimeError(why_not())
    if "cupy" in sys.modules:
        raise RuntimeError("the emulated GPU must be started before CuPy is imported")
    os.environ["CUPY_ACCELERATORS"] = ""  # CUB's kernels are compiled already, for a GPU
    os.environ.setdefault("CUDA_PATH", str(build.cache_folder()))  # CuPy warns where there is none
    for path in build.libraries():
        _libraries[path.name.split(".")[0]] = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    cuda_major = next(int(name.split(".")[-1]) for name in build.linked() if name.startswith("libcublas."))

    import cupy_backends.cuda.api.runtime

    runtime.install(cupy_backends.cuda.api.runtime, cuda_major)

    import cupy
    import cupy.cuda.compiler

    cupy.cuda.compiler._compile_module_with_cache = build.compile_module
    generators.install(cupy.random)
    pool = cupy.get_default_memory_pool()

    def poisoned(size: int) -> Any:
        pointer = pool.malloc(size)
        if pointer.mem.size:
            runtime.poison(pointer.ptr, -(-size // 512) * 512)  # what follows it in its block too
        return pointer

    cupy.cuda.set_allocator(poisoned)


# Counts

CROSSED = ("to_device", "to_host", "synchronisations")
KINDS = (*CROSSED, "on_device", "memsets", "launches", "products")


class Counts:
    """What has happened on the device since `counting` began, until it ended.

    to_device, to_host      copies between host and device
    synchronisations        times that the host waited for the device: for all of it, a stream or an event
    on_device, memsets      pieces of memory copied on the device or filled, other than by kernels
    launches, kernels       kernels launched; the same by name
    products                calls of cuBLAS that multiply matrices: a batch is one
    crossed                 those of the first three that aren't 0: {"to_host": 1}
    """

    def __init__(self) -> None:
        self._start, self._end = _totals(), None

    def __getattr__(self, kind: str) -> int:
        if kind not in KINDS:
            raise AttributeError(kind)
        return self._found()[kind]

    @property
    def kernels(self) -> Counter[str]:
        return Counter({name: n for name, n in self._found().items() if name not in KINDS and n})

    @property
    def crossed(self) -> dict[str, int]:
        found = self._found()
        return {kind: found[kind] for kind in CROSSED if found[kind]}

    def __repr__(self) -> str:
        return f"Counts({', '.join(f'{kind}={n}' for kind, n in self._found().items() if kind in KINDS and n)})"

    def _found(self) -> Counter[str]:
        found = Counter(self._end or _totals())
        found.subtract(self._start)
        return found


@contextmanager
def counting() -> Iterator[Counts]:
    """Counts of what happens within; they can be read at any time."""
    counts = Counts()
    try:
        yield counts
    finally:
        counts._end = _totals()


@contextmanager
def without_computing() -> Iterator[None]:
    """Within, kernels and products are counted and not run, and memory is neither filled nor copied on the device, so that it
    takes no room; what is copied to the host is anything."""
    before = runtime.computing
    _set_computing(False)
    try:
        yield
    finally:
        _set_computing(before)


def _set_computing(computing: bool) -> None:
    runtime.computing = computing
    ctypes.c_int.in_dll(_libraries["libcuda"], "computing").value = computing
    ctypes.c_int.in_dll(_libraries["libcublas"], "multiplying").value = computing


def _totals() -> Counter[str]:
    """All kinds of counts, and each kernel's by its name, from the start of the process."""
    driver = _libraries["libcuda"]
    kernels = ctypes.c_int.in_dll(driver, "kernel_count").value
    launches = (ctypes.c_longlong * kernels).in_dll(driver, "kernel_launches")[:]
    while len(_kernel_names) < kernels:
        start = LONGEST_NAME * len(_kernel_names)
        _kernel_names.append(ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(driver, "kernel_names")) + start).decode())
    totals = Counter(runtime.counts)
    for name, n in zip(_kernel_names, launches, strict=True):
        totals[name] += n
    totals["launches"] = sum(launches)
    totals["products"] = ctypes.c_longlong.in_dll(_libraries["libcublas"], "products").value
    return totals
