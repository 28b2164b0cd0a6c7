"""tinyfcn.backend on a machine without a GPU: what module arrays belong to, and the choice of a device."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tinyfcn import backend


class FakeArray:
    """Stands for cupy.ndarray: `get` copies it to the host."""

    def __init__(self, values):
        self.values = values

    def get(self):
        return np.array(self.values)


def fake_cupy(devices):
    cupy = ModuleType("cupy")
    cupy.ndarray = cupy.asarray = FakeArray
    cupy.cuda = SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=devices))
    return cupy


def no_driver():
    raise OSError("no CUDA driver")


def test_arrays_belong_to_numpy():
    assert backend.array_module(np.ones(2)) is np
    assert backend.array_module(np.ones(2), np.zeros((), int)) is np


@pytest.mark.parametrize("other", [[1.0], 1.0, None, np.float64(1), "x"], ids=lambda v: type(v).__name__)
def test_what_is_no_array_is_named(other):
    with pytest.raises(TypeError, match=f"expected a NumPy or CuPy array, got {type(other).__name__}"):
        backend.array_module(np.ones(2), other)


def test_arrays_of_cupy_are_known_and_not_mixed_with_others(monkeypatch):
    cupy = fake_cupy(lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert backend.array_module(FakeArray([1])) is cupy
    with pytest.raises(TypeError, match="one module, got NumPy and CuPy arrays together"):
        backend.array_module(np.ones(1), FakeArray([1]))


def test_moving_between_host_and_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 1))
    x = np.ones(3)
    assert backend.to_host(x) is x and backend.to_device(x, np) is x
    moved = backend.to_device(x, sys.modules["cupy"])
    assert isinstance(moved, FakeArray)
    np.testing.assert_array_equal(backend.to_host(moved), x)
    with pytest.raises(TypeError, match="got list"):
        backend.to_host([1.0])


def test_the_cpu_is_chosen_by_name():
    assert backend.choose_device("cpu") is np


def test_a_gpu_is_chosen_where_one_answers(monkeypatch):
    cupy = fake_cupy(lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert backend.choose_device() is cupy and backend.choose_device("gpu") is cupy
    assert backend.choose_device("cpu") is np


@pytest.mark.parametrize("cupy", [None, fake_cupy(no_driver)], ids=["no CuPy", "no driver"])
def test_without_a_gpu_auto_is_numpy_and_gpu_an_error(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert backend.choose_device("auto") is np
    with pytest.raises(RuntimeError, match=r"no GPU: (.*cupy|no CUDA driver)"):
        backend.choose_device("gpu")


@pytest.mark.parametrize("device", ["cuda", "GPU", "", None, 0])
def test_an_unknown_device_is_named(device):
    with pytest.raises(ValueError, match=f"device must be auto, cpu or gpu, got {device!r}"):
        backend.choose_device(device)
