"""Damaged files of weights, which every reader must survive, and readers that do not."""

import os
import signal
import tracemalloc
from functools import partial

import numpy as np
import pytest

from tinyfcn.errors import InputError
from tinyfcn.formats import Tensor, open_weights
from tinyfcn.formats.apart import Found


def read_all(path):
    return {name: tensor.read() for name, tensor in open_weights(path).tensors.items()}


def refused(path, match):
    """The file is refused, when opened or read, in one printable line that begins with its path; returns the line."""
    with pytest.raises(InputError, match=match) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ") and str(caught.value).isprintable()
    return str(caught.value)


def survives(path, cuts=50, flips=200):
    """Cut the file at many places, and flip bytes: it is read or refused, with little memory. Returns how often refused."""
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [data[:end] for end in np.unique(np.linspace(0, len(data) - 1, cuts).astype(int))]
    for _ in range(flips):
        noisy = bytearray(data)
        for place in rng.integers(len(data), size=rng.integers(1, 4)):
            noisy[place] ^= int(rng.integers(1, 256))
        damaged.append(bytes(noisy))
    times = 0
    read_all(path)  # what is imported now is not counted as the damaged files' memory
    tracemalloc.start()
    try:
        for variant in damaged:
            path.write_bytes(variant)
            try:
                read_all(path)
            except InputError as error:
                assert str(error).startswith(f"{path}: ") and str(error).isprintable()
                times += 1
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data) + (1 << 20)
    finally:
        tracemalloc.stop()
        path.write_bytes(data)
    return times


# Readers, and what calls them in this process


def read_here(reader, path):
    """What `read_apart` does, without another process: for many small files."""
    return {found.name: Tensor(found.shape, found.dtype, partial(np.asarray, found.read())) for found in reader(path)}


def turns_forever(path):
    while True:
        yield from ()


def crashes(path):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


def takes_all_memory(path):
    values = bytearray(8 << 30)
    yield Found("x", (1,), np.dtype("f4"), None, lambda: values)


def expands(path):
    for k in range(3):
        yield Found(f"{k}", (1 << 40, 1), np.dtype("f4"), None, lambda: pytest.fail("was read"))


def points_outside(path):
    yield Found("x", (4,), np.dtype("f4"), path.stat().st_size - 15, lambda: None)


def prints(path):
    print("a library's chatter", flush=True)
    yield Found("x", (2, 3), np.dtype(">f8"), None, lambda: np.arange(6.0).reshape(2, 3))
    yield Found("none", (0, 3), np.dtype("f4"), None, lambda: np.zeros((0, 3), "f4"))
    yield Found("inside", (2,), np.dtype("u1"), 1, None)
    yield Found("number", (), np.dtype("f2"), None, lambda: np.float16(1.5))
