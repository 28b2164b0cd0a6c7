"""A reader in a process of its own, with limits of time and memory.

Libraries in C parse some files. One that is damaged can keep such a library busy for ever, make it crash, or make it ask for all
the memory there is; then only that process ends, and the file is refused in one line.

The process lists arrays. Those that lie in the file as they are it leaves there, and this process reads them without the library;
the values of others it writes to its standard output, a temporary file. The list follows as JSON, and last its length, a u64:
nothing that comes back is run.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import FAULTS, Tensor, check_expansion, largest, values_at, what_is_wrong

try:
    import resource
except ImportError:  # Windows, where time alone is limited; macOS does not heed the limit of memory
    resource = None  # type: ignore[assignment]

SECONDS, BYTES_PER_SECOND = 20, 10 << 20  # that a file may take, and for its size a second more for each so many bytes
MEMORY = 1 << 30  # bytes beside the arrays'


class Found(NamedTuple):
    """An array that a reader found."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int | None  # of its values in the file; None where they are compressed or in pieces
    read: Callable[[], np.ndarray]


Reader = Callable[[Path], Iterator[Found]]


def read_apart(reader: Reader, path: Path) -> dict[str, Tensor]:
    """The tensors that a reader, a function of a module's top level, finds in a file.

    Raises InputError where it does, and where it takes too long or crashes.
    """
    seconds = SECONDS + path.stat().st_size // BYTES_PER_SECOND
    with tempfile.TemporaryFile() as output:
        code = _run(reader, path, output, seconds)
        if code:
            how = signal.strsignal(-code) if code < 0 else f"exit status {code}"
            raise InputError(f"not a readable file of weights, damaged: the library that reads it crashed ({how})")
        values = np.memmap(output, mode="r")  # outlives the open file
    end = values.size - 8
    start = end - int.from_bytes(values[end:], "little")
    listed = json.loads(values[start:end].tobytes())
    if "error" in listed:
        raise InputError(listed["error"])
    tensors = {}
    for name, shape, kind, inside, place in listed["arrays"]:
        dtype = np.dtype(kind)
        size = math.prod(shape) * dtype.itemsize
        if place + size > (path.stat().st_size if inside else start):
            raise InputError(f"{name} lies outside the file")
        part = values[place : place + size]
        read = partial(values_at, path, tuple(shape), dtype, place) if inside else partial(_copied, part, tuple(shape), dtype)
        tensors[name] = Tensor(tuple(shape), dtype, read)
    return tensors


def _run(reader: Reader, path: Path, output: IO[bytes], seconds: int) -> int:
    """Start the other process and wait for its end; returns its exit status."""
    here = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    try:
        return subprocess.run(
            [sys.executable, "-P", "-m", __name__, reader.__module__, reader.__name__, path, str(seconds)],
            env=os.environ | {"PYTHONPATH": here, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
            timeout=seconds,
        ).returncode
    except subprocess.TimeoutExpired:
        raise InputError(f"not a readable file of weights, damaged: given up after {seconds} s") from None


def _copied(values: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return np.array(values).view(dtype).reshape(shape)


def main() -> None:
    """What the other process does."""
    module, name, file, seconds = sys.argv[1:]
    path = Path(file)
    size = path.stat().st_size
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints goes elsewhere
    _limit("DATA", MEMORY + largest(size))  # without the libraries' code, which may be large
    _limit("CPU", int(seconds) + 2)  # in case nobody is waiting any more
    _limit("CORE", 0)
    listed: dict[str, Any] = {}
    try:
        listed["arrays"] = list(_written(getattr(import_module(module), name)(path), size, output))
    except FAULTS as error:
        listed["error"] = what_is_wrong(error)
    text = json.dumps(listed).encode()
    output.write(text + len(text).to_bytes(8, "little"))
    output.close()


def _limit(kind: str, value: int) -> None:
    with suppress(AttributeError, ValueError, OSError):  # a system without it, or with a lower limit already
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (value, value))


def _written(found: Iterator[Found], size: int, output: IO[bytes]) -> Iterator[tuple[str, tuple[int, ...], str, bool, int]]:
    """Write what does not lie in the file as it is; yields (name, shape, dtype, whether it lies in the file, start)."""
    for array in found:
        place = output.tell() if array.start is None else array.start
        if array.start is None:
            check_expansion(size, place + math.prod(array.shape) * array.dtype.itemsize)
            output.write(np.ascontiguousarray(array.read(), array.dtype).data)
        yield array.name, array.shape, array.dtype.str, array.start is not None, place


if __name__ == "__main__":
    main()
