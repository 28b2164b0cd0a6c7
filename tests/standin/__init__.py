"""A stand-in for CuPy, made of NumPy's arrays, for tests of code that must also run on a GPU.

    with standin.installed() as cupy, standin.counting() as crossed:
        x = cupy.asarray(np.ones(3, np.float32))
        y = (x + 1).get()
    assert [entry.name for entry in crossed.to_host] == ["ndarray.get"]

Inside `installed`, `import cupy` gives a module that has what the oldest and the newest supported CuPy both have (api.json), with
their parameters. It behaves towards NumPy as CuPy does, or is stricter: where the two differ without an error, or CuPy's
versions do among themselves, it raises `NotPortableError`. DIFFERENCES.md lists the differences and what becomes of each.

It cannot show what only a GPU has: speed, rounding, the order of sums, the numbers of CuPy's generators.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from standin import device, functions, generators, listing, memory
from standin.ledger import Entry, Ledger, counting, transfers
from standin.rules import NotPortableError

__all__ = ["Entry", "Ledger", "NotPortableError", "counting", "installed", "make", "memory_limit", "transfers"]

memory_limit: int | None = None  # bytes that fit on the device; set it, and allocations beyond it raise OutOfMemoryError
functions.OWN.update(generators.OWN)


@contextmanager
def installed(devices: int = 1) -> Iterator[ModuleType]:
    """Let `import cupy` find the stand-in, on a machine with so many devices; asking for one where there is none raises."""
    modules = make(devices)
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "cupy"}
    for name in before:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield modules["cupy"]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "cupy"]:
            del sys.modules[name]
        sys.modules.update(before)


def make(devices: int = 1) -> dict[str, ModuleType]:
    """The modules, by name."""
    modules = device.modules(devices)
    for name in ("cupy", "cupy.random", "cupy.linalg", "cupy.lib", "cupy.lib.stride_tricks"):
        modules[name] = _lazy(name)
    for name, module in modules.items():
        owner, _, last = name.rpartition(".")
        if owner:
            setattr(modules[owner], last, module)
    cupy = modules["cupy"]
    cupy.__version__ = listing.VERSIONS[-1]
    cupy.get_default_memory_pool = lambda: memory.POOL
    cupy.__path__ = []  # a package, so that `import cupy.cuda` looks for the module by its name
    return modules


def _lazy(name: str) -> ModuleType:
    """A module whose members are made when they are first asked for."""
    module = ModuleType(name)

    def find(member: str) -> Any:
        if member.startswith("__"):
            raise AttributeError(member)
        value = functions.find(name, member)
        setattr(module, member, value)
        return value

    module.__getattr__ = find  # type: ignore[method-assign]
    return module
