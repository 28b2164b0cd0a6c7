"""tests/emulated: CuPy's results are right on it, and its counts, its poison and its words where something is missing."""

import os
import shutil
import subprocess
import sys

import emulated
import numpy as np
import pytest
from devices import nothing_crosses
from emulated import nvrtc

from tinyfcn import training
from tinyfcn.models import FCN8s
from tinyfcn.optim import SGD, Adam

ONES = np.ones((2, 3), np.float32)
on_it = pytest.mark.gpu


@pytest.fixture
def cupy():
    if not emulated.started():
        pytest.skip("there is no emulated GPU here; see tests/emulated/README.md")
    import cupy

    return cupy


@pytest.fixture
def a(cupy):
    return cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


# Counts


@on_it
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda cupy, a: cupy.asarray(ONES), {"to_device": 1}),
        (lambda cupy, a: a.get(), {"to_host": 1, "synchronisations": 1}),
        (lambda cupy, a: float(a[0, 0]), {"to_host": 1, "synchronisations": 1}),
        (lambda cupy, a: bool(a[0, 0]), {"to_host": 1, "synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.Device().synchronize(), {"synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.get_current_stream().synchronize(), {"synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.runtime.deviceSynchronize(), {"synchronisations": 1}),
        (lambda cupy, a: cupy.cuda.Event().synchronize(), {"synchronisations": 1}),
        (lambda cupy, a: a.__setitem__(..., a + 0), {"launches": 1, "on_device": 1}),
        (lambda cupy, a: cupy.zeros(3), {"memsets": 1}),
        (lambda cupy, a: a + 1, {"launches": 1}),
        (lambda cupy, a: (a[:, None] * a).sum(0), {"launches": 2}),
        (lambda cupy, a: a @ a.T, {"products": 1}),
        (lambda cupy, a: a.reshape(2, 3, 1) @ a.reshape(2, 1, 3), {"products": 1}),
        (lambda cupy, a: cupy.empty(3), {}),
        (lambda cupy, a: a.T[::-1].reshape(3, 1, 2), {}),
        (lambda cupy, a: cupy.random.default_rng(0).random(5), {}),
    ],
)
def test_counts(cupy, a, call, expected):
    call(cupy, a)
    with emulated.counting() as counts:
        call(cupy, a)
    assert {kind: getattr(counts, kind) for kind in emulated.KINDS if getattr(counts, kind)} == expected
    crossed = {kind: n for kind, n in expected.items() if kind in emulated.CROSSED}
    assert counts.crossed == crossed
    if crossed:
        with pytest.raises(AssertionError, match=next(iter(crossed))), nothing_crosses():
            call(cupy, a)


@on_it
def test_kernels_are_counted_by_name_and_within_only(cupy, a):
    a + 1
    with emulated.counting() as outer:
        a + 1
        assert outer.launches == 1
        with emulated.counting() as inner:
            a + 1
            cupy.negative(a)
    a + 1
    assert inner.kernels == {"cupy_add__float32_float_float32": 1, "cupy_negative__float32_float32": 1}
    assert outer.kernels["cupy_add__float32_float_float32"] == 2 and outer.launches == 3
    assert repr(inner) == "Counts(launches=2)"
    with pytest.raises(AttributeError, match="copies"):
        inner.copies  # noqa: B018


@on_it
def test_counting_without_computing(cupy):
    x = cupy.ones((100, 100), np.float32)
    with emulated.without_computing(), emulated.counting() as counts:
        large = cupy.zeros((1 << 14, 1 << 16), np.float32)  # 4 GB
        x += 1
        x @ x
        x[...] = x + 1
        large += 1
        large @ large.T
    assert (counts.memsets, counts.on_device, counts.launches, counts.products) == (1, 1, 3, 2)
    assert (x == 1).all() and (x @ x == 100).all()


# Memory


@on_it
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fresh_memory_is_nan_used_before_or_not(cupy, dtype):
    for size in (3, 1000, 1 << 20):
        for _ in range(3):
            x = cupy.empty(size, dtype)
            assert cupy.isnan(x).all()
            x[...] = 0
    beyond = cupy.lib.stride_tricks.as_strided(cupy.zeros(3, dtype), (5,), (x.itemsize,))
    assert cupy.isnan(beyond[3:]).all()


@on_it
def test_a_product_does_not_read_where_it_writes(cupy, a):
    np.testing.assert_array_equal(cupy.matmul(a, a.T, out=cupy.empty((2, 2), np.float32)).get(), [[5, 14], [14, 50]])


# Kernels


@on_it
def test_kernels_of_one_s_own(cupy):
    """With raw arrays, templates, loops, `i`, `_ind`, and a size or an array to fill."""
    x = cupy.asarray(np.arange(12, dtype=np.float32).reshape(4, 3))
    row_sums = cupy.ElementwiseKernel(
        "raw T x, int32 n", "T y", "T s = 0; for (int j = 0; j < n; ++j) s += x[i * n + j]; y = s", "row_sums"
    )
    for dtype in np.float32, np.float64:
        found = row_sums(x.astype(dtype), 3, size=4)
        assert found.dtype == dtype and found.tolist() == [3, 12, 21, 30]
    assert row_sums(x.T.copy().T, 3, size=4).tolist() == [3, 12, 21, 30]  # raw indices count in C's order
    backwards = cupy.ElementwiseKernel(
        "T x, raw S scale", "raw T y", "y[_ind.size() - 1 - i] = x * static_cast<T>(scale[i % 2])", "backwards"
    )
    out = cupy.zeros(5)
    backwards(cupy.arange(5.0), cupy.asarray([1, 2]), out)
    assert out.tolist() == [4, 6, 2, 2, 0]
    both = cupy.ElementwiseKernel(
        "T x, T y", "T least, bool swapped", "swapped = y < x; least = min(x, y) + BASE", "both", preamble="#define BASE 1"
    )
    least, swapped = cupy.empty(3, np.float32), cupy.empty(3, bool)
    both(x[0], cupy.float32(1), least, swapped)
    assert least.tolist() == [1, 2, 2] and swapped.tolist() == [False, False, True]
    turned = cupy.ElementwiseKernel(
        "raw T x, int64 width",
        "T y",
        "const ptrdiff_t at[] = {i % width, i / width}; y = x[at]",
        "turned",
    )
    np.testing.assert_array_equal(turned(x, 4, cupy.empty((3, 4), np.float32)).get(), x.get().T)


@on_it
def test_reductions_and_fused_functions_of_one_s_own(cupy):
    x = cupy.asarray(np.random.default_rng(0).standard_normal((37, 70)))
    squares = cupy.ReductionKernel("T x, T y", "T z", "x * y", "a + b", "z = a", "0", "squares")
    np.testing.assert_allclose(squares(x, x, axis=1).get(), (x.get() ** 2).sum(1))

    @cupy.fuse
    def step(w, g, v):
        v *= 0.9
        v -= 0.1 * g
        w += v

    w, g, v = (cupy.asarray(np.full(5, value, np.float32)) for value in (1, 2, 3))
    step(w, g, v)
    np.testing.assert_allclose(w.get(), 1 + 2.7 - 0.2, rtol=1e-6)


@on_it
@pytest.mark.parametrize("shape", [(7,), (5000,), (3, 1000), (1000, 3), (2, 300, 5)])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_reductions(cupy, shape, axis):
    x = np.random.default_rng(0).standard_normal(shape)
    for name in "sum", "max", "min", "argmax", "mean", "any":
        np.testing.assert_allclose(getattr(cupy, name)(cupy.asarray(x), axis).get(), getattr(np, name)(x, axis), atol=1e-12)


@on_it
def test_atomic_additions(cupy):
    places = np.random.default_rng(0).integers(0, 9, 1000)
    np.testing.assert_array_equal(cupy.bincount(cupy.asarray(places), minlength=9).get(), np.bincount(places, minlength=9))
    for dtype in np.float32, np.float64, np.int32, np.uint64:
        found = cupy.zeros(9, dtype)
        cupy.add.at(found, cupy.asarray(places), cupy.ones((), dtype))
        np.testing.assert_array_equal(found.get(), np.bincount(places, minlength=9))


@on_it
def test_a_kernel_that_is_wrong_says_so(cupy, a):
    with pytest.raises(RuntimeError, match="unheard_of"):
        cupy.ElementwiseKernel("T x", "T y", "y = unheard_of(x)", "wrong")(a)


# Products


@on_it
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_products(cupy, dtype, batch):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal(batch + shape).astype(dtype) for shape in ((20, 6), (6, 9)))
    xs = [x, np.swapaxes(np.ascontiguousarray(np.swapaxes(x, -1, -2)), -1, -2), np.repeat(x, 2, -1)[..., ::2], x[..., :1, :]]
    ys = [y, np.swapaxes(np.ascontiguousarray(np.swapaxes(y, -1, -2)), -1, -2), y[..., ::-1], y[0] if len(batch) == 1 else y]
    for left in xs:
        for right in ys:
            found = (cupy.asarray(left) @ cupy.asarray(right)).get()
            np.testing.assert_allclose(found, left @ right, atol=1e-5 if dtype == np.float32 else 1e-13)


@on_it
def test_what_cublas_refuses_or_is_not_there(cupy, a, capfd):
    from cupy_backends.cuda.libs import cublas

    handle, one, place = cupy.cuda.device.get_cublas_handle(), np.ones(1, np.float32).ctypes.data, a.data.ptr
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_INVALID_VALUE"):
        cublas.gemmEx(handle, 0, 0, 2, 2, 2, one, place, 0, 1, place, 0, 2, one, place, 0, 2, 68, -1)  # lda is 1
    with pytest.raises(cublas.CUBLASError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
        cublas.sgemm(handle, 0, 0, 2, 2, 2, one, place, 2, place, 2, one, place, 2)
    assert "the emulated GPU has no cublasSgemm" in capfd.readouterr().err


# The rest of the device


@on_it
def test_generators(cupy):
    rng = cupy.random.default_rng([1, 2])
    assert isinstance(rng, cupy.random.Generator) and cupy.random.default_rng(rng) is rng
    assert rng.random((2, 3), dtype=np.float32).dtype == np.float32 and rng.random().shape == ()
    assert rng.uniform(2, 3, size=3, dtype=np.float32).min() >= 2 and rng.integers(0, 5, 700).max() == 4
    out = cupy.zeros(4)
    assert rng.standard_normal(out=out) is out and out.all()
    for kind in cupy.random.XORWOW, cupy.random.Philox4x3210:
        first, again = (cupy.random.Generator(kind(3)).random(5).get() for _ in range(2))
        np.testing.assert_array_equal(first, again)


@on_it
def test_streams_and_events(cupy, a):
    with cupy.cuda.Stream(non_blocking=True):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        a.sum()
        end.record()
    end.synchronize()
    assert 0 < cupy.cuda.get_elapsed_time(start, end) < 60_000


@on_it
def test_the_device(cupy):
    assert cupy.cuda.runtime.getDeviceProperties(0)["name"] == b"Emulated GPU"
    free, total = cupy.cuda.runtime.memGetInfo()
    assert 0 < free <= total and cupy.cuda.Device().compute_capability == "90"
    assert cupy.cuda.runtime.runtimeGetVersion() // 1000 in (12, 13)


# NVIDIA's compiler


@on_it
def test_nvidia_s_compiler_takes_the_kernels_of_a_training_step(cupy):
    """In a process of its own, where no others have been compiled."""
    if nvrtc.why_not():
        pytest.skip(nvrtc.why_not())
    code = f"import sys; sys.path[:] = {sys.path}; import test_emulated; test_emulated.compile_a_step()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
    with pytest.raises(RuntimeError, match=r"identifier .nothing. is undefined"):
        nvrtc.compile("__device__ int x = nothing;", (), "sm_90")


def compile_a_step():
    emulated.start()
    import cupy

    net = FCN8s(3, 1 / 32, "same", xp=cupy)
    pictures, labels = cupy.zeros((1, 3, 40, 40), np.float32), cupy.zeros((1, 40, 40), np.uint8)
    for optimiser in SGD(1e-3, weight_decay=1e-2), Adam(1e-3, weight_decay=1e-2):
        training.train_step(net, optimiser, pictures, labels)
    kernels = set().union(*emulated.sources.values())
    for architecture in "sm_75", "sm_89", "sm_90":
        assert all(nvrtc.compile(*kernel, architecture) for kernel in kernels)
    print(len(kernels))


# Where something is missing


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(emulated, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda tool: f"/usr/bin/{tool}")
    monkeypatch.setattr(sys, "platform", "linux")
    assert emulated.why_not() is None
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool.startswith("g") else f"/usr/bin/{tool}")
    assert emulated.why_not() == "the emulated GPU needs gcc and g++"
    monkeypatch.setattr(emulated, "find_spec", lambda name: None)
    assert emulated.why_not() == "the emulated GPU needs CuPy (pip install cupy-cuda13x)"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert emulated.why_not() == "the emulated GPU needs Linux, not darwin"


def test_where_something_is_missing_tests_are_skipped_and_one_line_says_why():
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/ops/test_linear.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"TINYFCN_GPU": "emulated", "PATH": ""})
    assert done.returncode == 0 and done.stdout.count("\ntests marked gpu are skipped: the emulated GPU needs ") == 1, done.stdout
