"""Damaged files of weights, which every reader must survive."""

import tracemalloc

import numpy as np
import pytest

from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights


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
