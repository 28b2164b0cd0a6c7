"""CUDA's runtime, in Python, in the place of CuPy's: its memory is the host's, and everything has happened when a call returns.

CuPy's other modules take the runtime's functions from a table of C pointers. `install` puts these into it, before those modules
are imported, and into the module's own names.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import time
from collections import Counter
from types import ModuleType
from typing import Any

NAME = b"Emulated GPU"
TOTAL = 80 << 30
ATTRIBUTES = {  # by cudaDeviceAttr
    75: 9,  # compute capability, major
    76: 0,  # and minor
    16: 132,  # multiprocessors
    10: 32,  # threads in a warp
    1: 1024,  # threads in a block
    39: 2048,  # threads on a multiprocessor
    8: 48 << 10,  # shared memory of a block
    97: 227 << 10,  # and what it can be raised to
}
TO_DEVICE, TO_HOST = 1, 2  # cudaMemcpyKind
POISON = 0xFF  # NaN as a floating-point number, -1 or the largest one as an integer

counts: Counter[str] = Counter()
computing = True  # while it is not, what is on the device stays as it is
_version = 0  # 1000 times the major one
_runtime: ModuleType  # CuPy's
_handles = itertools.count(1)
_times: dict[int, float] = {}  # when each event was recorded
_libc = ctypes.CDLL(None)
_libc.aligned_alloc.restype, _libc.aligned_alloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
_libc.free.argtypes = [ctypes.c_void_p]


def poison(pointer: int, size: int) -> None:
    if computing:
        ctypes.memset(pointer, POISON, size)


# Memory


def malloc(size: int) -> int:
    pointer = _libc.aligned_alloc(512, max(1, -(-size // 512)) * 512)
    if not pointer:  # CuPy could not be told: ctypes drops exceptions
        os.write(2, f"the emulated GPU is out of the host's memory: {size:,} bytes\n".encode())
        os.abort()
    return pointer


def mallocAsync(size: int, stream: int) -> int:
    return malloc(size)


def hostAlloc(size: int, flags: int) -> int:
    return malloc(size)


def free(pointer: int) -> None:
    _libc.free(pointer)


def freeAsync(pointer: int, stream: int) -> None:
    free(pointer)


def freeHost(pointer: int) -> None:
    free(pointer)


def memcpyAsync(to: int, source: int, size: int, kind: int, stream: int) -> None:
    counts["to_device" if kind == TO_DEVICE else "to_host" if kind == TO_HOST else "on_device"] += 1
    if computing or kind == TO_HOST:
        ctypes.memmove(to, source, size)


def memcpy(to: int, source: int, size: int, kind: int) -> None:
    counts["synchronisations"] += kind in (TO_DEVICE, TO_HOST)
    memcpyAsync(to, source, size, kind, 0)


def memsetAsync(pointer: int, value: int, size: int, stream: int) -> None:
    counts["memsets"] += 1
    if computing:
        ctypes.memset(pointer, value, size)


def memset(pointer: int, value: int, size: int) -> None:
    memsetAsync(pointer, value, size, 0)


def memGetInfo() -> tuple[int, int]:
    return TOTAL - (2 << 30), TOTAL


def pointerGetMemoryType(pointer: int) -> int:
    return 0  # not one that CUDA knows


def pointerGetAttributes(pointer: int) -> Any:
    return _runtime.PointerAttributes(0, pointer, 0, 0)


# The device


def getDeviceCount() -> int:
    return 1


def getDevice() -> int:
    return 0


def setDevice(device: int) -> None:
    pass


def deviceGetAttribute(attribute: int, device: int) -> int:
    return ATTRIBUTES.get(attribute, 1)


def getDeviceProperties(device: int) -> dict[str, Any]:
    return {"name": NAME, "totalGlobalMem": TOTAL, "major": 9, "minor": 0, "multiProcessorCount": 132, "warpSize": 32}


def deviceCanAccessPeer(device: int, peer: int) -> int:
    return 0


def runtimeGetVersion() -> int:
    return _version


driverGetVersion = runtimeGetVersion


def _getCUDAMajorVersion() -> int:
    return _version // 1000


def _ensure_context() -> None:
    pass


# Waiting


def deviceSynchronize() -> None:
    counts["synchronisations"] += 1


def streamSynchronize(stream: int) -> None:
    counts["synchronisations"] += 1


def eventSynchronize(event: int) -> None:
    counts["synchronisations"] += 1


# Streams and events


def streamCreate() -> int:
    return next(_handles)


def streamCreateWithFlags(flags: int) -> int:
    return next(_handles)


def streamCreateWithPriority(flags: int, priority: int) -> int:
    return next(_handles)


def streamDestroy(stream: int) -> None:
    pass


def streamIsCapturing(stream: int) -> int:
    return 0


def streamQuery(stream: int) -> int:
    return 0


def streamWaitEvent(stream: int, event: int) -> None:
    pass


def eventCreate() -> int:
    return next(_handles)


def eventCreateWithFlags(flags: int) -> int:
    return next(_handles)


def eventDestroy(event: int) -> None:
    _times.pop(event, None)


def eventRecord(event: int, stream: int) -> None:
    _times[event] = time.perf_counter()


def eventQuery(event: int) -> int:
    return 0


def eventElapsedTime(start: int, end: int) -> float:
    return 1000 * (_times[end] - _times[start])


# CuPy's table

FUNCTIONS = {name: value for name, value in list(globals().items()) if getattr(value, "__module__", "") == __name__}
del FUNCTIONS["poison"]
C_TYPES = {
    "intptr_t": ctypes.c_ssize_t,
    "size_t": ctypes.c_size_t,
    "int": ctypes.c_int,
    "unsigned int": ctypes.c_uint,
    "float": ctypes.c_float,
}
_kept: list[Any] = []  # what C has pointers to


def install(runtime: ModuleType, cuda_major: int) -> None:
    """Let CuPy's module of CUDA's runtime offer these functions, to C and to Python."""
    global _runtime, _version
    _runtime, _version = runtime, 1000 * cuda_major
    table = runtime.__pyx_capi__
    for name, function in FUNCTIONS.items():
        if hasattr(runtime, name):
            setattr(runtime, name, function)
        if name in table:
            table[name] = replaced(table[name], function)


def replaced(capsule: Any, function: Any) -> Any:
    """A capsule like Cython's, whose name is the C function's type, with a pointer to `function`.

    That type ends in a flag and in optional arguments that only Cython needs, "size_t, intptr_t, int __pyx_skip_dispatch".
    """
    name = _api("PyCapsule_GetName", ctypes.c_char_p, ctypes.py_object)(capsule)
    result, parameters = re.fullmatch(r"(.*?) ?\((.*)\)", name.decode()).groups()
    parameters = [text for text in parameters.split(", ") if text != "void"]
    own = len([text for text in parameters if "__pyx_" not in text])
    gives_object = result.endswith("*")

    def call(*arguments: Any) -> Any:
        value = function(*arguments[:own])
        return _new_reference(value) if gives_object else value

    types = [C_TYPES.get(text.removesuffix(" __pyx_skip_dispatch"), ctypes.c_void_p) for text in parameters]
    pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p if gives_object else C_TYPES[result], *types)(call)
    _kept.extend([pointer, name])
    new = _api("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.cast(pointer, ctypes.c_void_p), name, None)


def _new_reference(value: Any) -> int:
    """The object's address, and one more reference, which the caller will give back."""
    _api("Py_IncRef", None, ctypes.py_object)(value)
    return id(value)


def _api(name: str, result: Any, *parameters: Any) -> Any:
    return ctypes.PYFUNCTYPE(result, *parameters)((name, ctypes.pythonapi))
