"""tinyfcn.backend on a machine without a GPU: what module arrays belong to, and the choice of a device."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tinyfcn import backend


def test_arrays_belong_to_numpy():
    assert backend.array_module(np.ones(2)) is np
    assert backend.array_module(np.ones(2), np.zeros((), int)) is np


@pytest.mark.parametrize("other", [[1.0], 1.0, None, np.float64(1), "x"], ids=lambda v: type(v).__name__)
def test_what_is_no_array_is_named(other):
    with pytest.raises(TypeError, match=f"expected a NumPy or CuPy array, got {type(other).__name__}"):
        backend.array_module(np.ones(2), other)


def test_arrays_that_are_there_already_do_not_move():
    x = np.ones(3)
    assert backend.to_host(x) is x and backend.to_device(x, np) is x
    with pytest.raises(TypeError, match="got list"):
        backend.to_host([1.0])


def test_an_array_takes_over_the_order_of_another_in_memory():
    like = np.zeros((2, 3, 4, 5)).transpose(2, 0, 3, 1)
    array = np.random.default_rng(0).standard_normal(like.shape).astype(np.float32)
    found = backend.match_layout(like, array)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == np.float32 and np.argsort(found.strides).tolist() == np.argsort(like.strides).tolist()
    assert backend.match_layout(array, array) is array


def test_the_cpu_is_chosen_by_name():
    assert backend.choose_device("cpu") is np


def test_without_cupy_auto_is_numpy_and_gpu_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert backend.choose_device("auto") is np
    with pytest.raises(RuntimeError, match="no GPU: CuPy is not installed"):
        backend.choose_device("gpu")


def test_a_cupy_that_does_not_start_is_told_from_none(monkeypatch):
    monkeypatch.setattr(backend, "import_module", lambda name: (_ for _ in ()).throw(ImportError("libcublas.so.12: not found")))
    assert backend.why_no_gpu() == "libcublas.so.12: not found"


# Of CuPy's numbers, what is drawn from.
PHILOX = SimpleNamespace(Philox4x3210=lambda seed, size: np.random.Philox(seed), Generator=np.random.Generator)


class Broken:
    """Whatever is done with it, its error is raised."""

    def __init__(self, error):
        self.error = error

    def __call__(self, *_, **__):
        raise self.error

    __matmul__ = __getattr__ = __call__


@pytest.mark.parametrize(
    ("part", "error", "words"),
    [
        ("asarray", ImportError("libcublas.so.12: cannot open shared object file"), "libcublas.so.12: cannot open"),
        ("asarray", RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), "the device's memory is full: CUBLAS_STATUS_ALLOC_FAILED"),
        ("asarray", MemoryError("Out of memory allocating 512 bytes"), "the device's memory is full: Out of memory"),
        ("random", ImportError("libcurand.so.10: cannot open shared object file"), "libcurand.so.10: cannot open"),
        ("cuda", RuntimeError("cudaErrorInsufficientDriver: too old"), "no NVIDIA driver, or one that is too old"),
        ("cuda", RuntimeError(), "RuntimeError"),
    ],
)
def test_auto_is_numpy_where_a_part_of_cuda_is_missing(part, error, words, monkeypatch):
    runtime = SimpleNamespace(getDeviceCount=lambda: 1)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime), asarray=np.asarray, random=PHILOX)
    setattr(cupy, part, (lambda array: Broken(error)) if part == "asarray" else Broken(error))
    monkeypatch.setattr(backend, "import_module", lambda name: cupy)
    assert backend.why_no_gpu().startswith(words)
    assert backend.choose_device("auto") is np
    with pytest.raises(RuntimeError, match=f"no GPU: {words}.*--device cpu"):
        backend.choose_device("gpu")


def test_no_device(monkeypatch):
    runtime = SimpleNamespace(getDeviceCount=lambda: 0)
    monkeypatch.setattr(backend, "import_module", lambda name: SimpleNamespace(cuda=SimpleNamespace(runtime=runtime)))
    assert backend.why_no_gpu() == "CUDA finds no device"


def test_what_numpy_computes_with_is_told(monkeypatch):
    monkeypatch.setenv("TINYFCN_THREADS", "3")
    words = backend.describe_device(np).split(", ")
    assert words[0] == f"NumPy {np.__version__}" and words[-1] == "3 threads"


@pytest.mark.parametrize("device", ["cuda", "GPU", "", None, 0])
def test_an_unknown_device_is_named(device):
    with pytest.raises(ValueError, match=f"device must be auto, cpu or gpu, got {device!r}"):
        backend.choose_device(device)


@pytest.mark.parametrize(
    "files, quota",
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, np.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, np.inf),
        ({"cpu.max": "nonsense"}, np.inf),
        ({}, np.inf),
    ],
)
def test_a_container_s_cpu_quota_limits_the_threads(files, quota, tmp_path, monkeypatch):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert backend._cpu_quota(tmp_path) == quota
    monkeypatch.delenv("TINYFCN_THREADS", raising=False)
    monkeypatch.setattr(backend, "CGROUPS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    assert backend.thread_count() == min(8, max(1, int(np.ceil(min(quota, 100)))))
