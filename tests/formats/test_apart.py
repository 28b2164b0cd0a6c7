"""tinyfcn/formats/apart.py: readers that hang, crash or take all memory end alone."""

import sys

import hostile
import numpy as np
import pytest

from tinyfcn.errors import InputError
from tinyfcn.formats import apart


@pytest.fixture
def path(tmp_path):
    (tmp_path / "net.h5").write_bytes(bytes(range(100)))
    return tmp_path / "net.h5"


def test_arrays_come_back_from_the_file_and_from_the_process(path):
    tensors = apart.read_apart(hostile.prints, path)
    found = {name: tensor.read() for name, tensor in reversed(tensors.items())}
    assert np.array_equal(found["x"], np.arange(6.0).reshape(2, 3)) and found["x"].dtype == ">f8"
    assert found["none"].shape == (0, 3) and found["inside"].tolist() == [1, 2] and found["number"] == 1.5
    assert all((found[name].shape, found[name].dtype) == tensors[name][:2] for name in found)
    assert np.array_equal(tensors["x"].read(), found["x"])


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("turns_forever", "damaged: given up after 1 s"),
        ("crashes", r"the library that reads it crashed \((Segmentation fault|exit status)"),
        ("points_outside", "x lies outside the file"),
        ("expands", "would have 4,398,046,511,104 bytes, 43,980,465,111 times its own 100: more than 32 times is refused"),
    ],
)
def test_a_reader_that_goes_wrong_is_one_line(path, reader, message, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 1 if reader == "turns_forever" else 60)
    with pytest.raises(InputError, match=message):
        apart.read_apart(getattr(hostile, reader), path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit no memory")
def test_memory_is_limited(path):
    with pytest.raises(InputError, match="not enough memory"):
        apart.read_apart(hostile.takes_all_memory, path)
