"""tests/standin: each of its rules bites, and what is right on a GPU passes."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import standin
from standin import NotPortableError, listing, read_api

ONES = np.ones((2, 3), np.float32)


@pytest.fixture(autouse=True)
def cupy():
    with standin.installed() as module:
        yield module


@pytest.fixture
def a(cupy):
    return cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))


def names(entries):
    return [entry.name for entry in entries]


# A module of its own


def test_it_is_there_while_installed_and_gone_afterwards(cupy):
    assert sys.modules["cupy"] is cupy
    import cupy.cuda.runtime

    assert cupy.cuda.runtime.getDeviceCount() == 1
    with standin.installed(devices=0) as other:
        assert sys.modules["cupy"] is other and sys.modules["cupy.cuda"] is other.cuda
        with pytest.raises(other.cuda.runtime.CUDARuntimeError, match="cudaErrorNoDevice"):
            other.cuda.runtime.getDeviceCount()
    assert sys.modules["cupy"] is cupy and sys.modules["cupy.cuda"] is cupy.cuda
    assert cupy.__version__ == listing.VERSIONS[-1]


@pytest.mark.parametrize("name", ["bool", "vecdot", "cumulative_sum", "frombuffers", "nanargmax2", "float128"])
def test_what_a_version_lacks_is_not_there(cupy, name):
    with pytest.raises(AttributeError, match=rf"CuPy .* has no cupy.{name}"):
        getattr(cupy, name)


def test_what_the_stand_in_lacks_is_said(cupy, a):
    with pytest.raises(AttributeError, match="CuPy has cupy.ElementwiseKernel, but the stand-in does not"):
        cupy.ElementwiseKernel  # noqa: B018
    with pytest.raises(AttributeError, match="every cupy.ndarray has data"):
        a.data  # noqa: B018


@pytest.mark.parametrize("name", ["mT", "device2", "tostring", "byteswap", "setflags", "ctypes", "__index__"])
def test_attributes_that_a_version_lacks(a, name):
    with pytest.raises(AttributeError, match="has no cupy.ndarray"):
        getattr(a, name)


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, a: cupy.sum(a, where=a > 0),
        lambda cupy, a: a.sum(initial=0),
        lambda cupy, a: a.take([0], 0, mode="clip"),
        lambda cupy, a: cupy.add(a, a, where=a > 0),
        lambda cupy, a: cupy.add(a, a, order="F"),
        lambda cupy, a: cupy.asarray(a, copy=True),
        lambda cupy, a: a.reshape(3, 2, copy=True),
        lambda cupy, a: cupy.zeros(3, like=a),
        lambda cupy, a: cupy.matmul(a, a.T, axes=[(0, 1)]),
        lambda cupy, a: cupy.lib.stride_tricks.as_strided(a, (2,), (4,), writeable=False),
        lambda cupy, a: cupy.random.default_rng(0).random(3, endpoint=True),
        lambda cupy, a: cupy.random.default_rng(0).exponential(1.0, dtype=np.float32),
        lambda cupy, a: a.astype(np.float64, casting="safe"),
        lambda cupy, a: cupy.where(a > 0, a, a, a),
        lambda cupy, a: cupy.empty_like(a, np.float32, "C", None, (2,), 5),
    ],
)
def test_arguments_that_a_version_lacks(cupy, a, call):
    with pytest.raises(TypeError):
        call(cupy, a)


def test_types_and_constants_are_numpy_s(cupy):
    assert cupy.float32 is np.float32 and cupy.newaxis is None and cupy.pi == np.pi and cupy.inf == np.inf
    assert cupy.dtype("f4") == np.float32 and cupy.result_type(np.float32, np.int8) == np.float32


# NumPy and CuPy do not mix


@pytest.mark.parametrize(
    "call",
    [
        np.asarray,
        np.array,
        np.add.reduce,
        np.sum,
        np.concatenate,
        np.negative,
        lambda a: np.add(a, a),
        lambda a: np.float32(1) + np.asarray(a),
        lambda a: a + ONES,
        lambda a: ONES + a,
        lambda a: a == ONES,
        lambda a: a @ ONES.T,
        lambda a: ONES.T @ a,
        lambda a: a + np.array(1.0),
        lambda a: a.__iadd__(ONES),
        lambda a: ONES.__iadd__(a),
        lambda a: a.__setitem__(0, ONES[0]),
        lambda a: a.__setitem__(0, [1, 2, 3]),
        lambda a: ONES.__setitem__(0, a[0]),
        lambda a: a == None,  # noqa: E711
        lambda a: a + "x",
    ],
)
def test_numpy_s_functions_and_arrays_raise(a, call):
    with pytest.raises(TypeError):
        call(a)


@pytest.mark.parametrize("name", ["add", "maximum", "concatenate", "stack", "where", "matmul", "copyto", "dot", "sum"])
def test_cupy_s_functions_refuse_numpy_s_arrays(cupy, a, name):
    arguments = {"where": (a > 0, a, ONES), "sum": (ONES,)}.get(name, (a, ONES))
    arguments = ([a, ONES],) if name in ("concatenate", "stack") else arguments
    with pytest.raises(TypeError):
        getattr(cupy, name)(*arguments)


def test_conversion_s_message_is_cupy_s(a):
    with pytest.raises(TypeError, match=r"Implicit conversion to a NumPy array is not allowed. Please use `.get\(\)`"):
        np.asarray(a)


@pytest.mark.parametrize("number", [2, 2.0, True, np.float32(2), np.int8(2)], ids=repr)
def test_numbers_mix(a, number):
    expected = np.arange(6, dtype=np.float32).reshape(2, 3)
    for found, wanted in ((a * number, expected * 2), (number * a, expected * 2), (a < number, expected < 2)):
        wanted = wanted if number is not True else (expected if found.dtype == np.float32 else expected < 1)
        assert isinstance(found, type(a))
        np.testing.assert_array_equal(found.get(), wanted)
    assert (a * number).dtype == np.float32


# Results


def test_reductions_and_single_entries_are_arrays_without_axes(cupy, a):
    for found in a.sum(), a.max(), a.any(), a[1, 2], cupy.sum(a), cupy.mean(a), a.argmax(), cupy.allclose(a, a), next(iter(a[0])):
        assert isinstance(found, cupy.ndarray) and found.shape == ()
    a[1, 2][...] = 9
    assert float(a[1, 2]) == 9


def test_results_lie_in_c_order_whatever_the_arguments_do(cupy):
    x = cupy.zeros((4, 3, 2), np.float32).transpose(1, 2, 0)
    for found in x + 1, -x, x * x, cupy.maximum(x, 0), cupy.where(x > 0, x, 0), cupy.concatenate([x, x]), x.copy():
        assert found.flags.c_contiguous
    for found in cupy.empty_like(x), x.astype(np.float64), cupy.zeros_like(x), cupy.copy(x):
        assert not found.flags.c_contiguous
    assert x[[0, 2]].flags.c_contiguous and x.sum(0, keepdims=True).flags.c_contiguous
    assert cupy.asarray(np.zeros((4, 3, 2)).transpose(1, 2, 0)).flags.c_contiguous
    assert x.get().flags.c_contiguous


def test_views_share_memory_and_copies_do_not(cupy, a):
    for view in a[:], a.T, a.reshape(-1), a.ravel(), a[None], cupy.moveaxis(a, 0, 1), cupy.split(a, 2)[0], cupy.asarray(a):
        before = float(a[0, 0])
        view[(0,) * view.ndim] = before + 1
        assert float(a[0, 0]) == before + 1
    a.copy()[0, 0] = a[[0]][0, 0] = a.flatten()[0] = -1
    assert float(a[0, 0]) >= 0
    assert cupy.asarray(a) is a and a.astype(np.float32, copy=False) is a
    host = np.zeros(3, np.float32)
    cupy.asarray(host)[...] = 1
    assert not host.any()


def test_attributes(cupy, a):
    t = a.T
    assert (t.shape, t.ndim, t.size, t.dtype, t.itemsize, t.nbytes, t.strides) == ((3, 2), 2, 6, np.float32, 4, 24, (4, 12))
    assert t.flags.f_contiguous and not t.flags.c_contiguous and t.flags["F_CONTIGUOUS"] and len(t) == 3
    a.shape = (6,)
    assert a.shape == (6,)
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)
    for copied in copy.copy(a), copy.deepcopy(a), pickle.loads(pickle.dumps(a)):
        assert copied is not a and (copied == a).all()
    with pytest.raises(TypeError, match="unsized"):
        len(a[0])
    with pytest.raises(TypeError):
        range(a[0])  # no __index__


def test_out_is_returned_and_must_fit(cupy, a):
    out = cupy.empty_like(a)
    assert cupy.add(a, 1, out=out) is out and cupy.sum(a, 0, out=out[0]).shape == (3,)
    assert cupy.matmul(a, a.T, out=out[:, :2]).shape == (2, 2)  # with gaps: CuPy computes beside it and copies
    np.testing.assert_array_equal(out[:, :2].get(), (a @ a.T).get())
    with pytest.raises(ValueError, match="Out shape is mismatched"):
        cupy.add(a[0], 1, out=out)
    with pytest.raises(TypeError):
        cupy.add(a, 1, out=cupy.empty(a.shape, np.int32))
    with pytest.raises(TypeError, match=r"must be cupy.ndarray"):
        cupy.add(a, 1, out=np.empty(a.shape, np.float32))
    with pytest.raises(TypeError):
        cupy.sum(a, out=np.empty((), np.float32))


@pytest.mark.parametrize("values", [["a"], [None], np.zeros(2, "M8[s]"), np.zeros(2, np.longdouble)], ids=str)
def test_types_that_a_gpu_does_not_know(cupy, values):
    with pytest.raises(ValueError, match="Unsupported dtype"):
        cupy.array(values)


# Rules


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, a: a[0] * np.float64(2),  # float64 under NEP 50, float32 before
        lambda cupy, a: a * cupy.asarray(2.0),
        lambda cupy, a: cupy.where(a > 0, a, np.float64(0)),
        lambda cupy, a: a.astype(np.uint8) + 300,
        lambda cupy, a: a.astype(np.uint8) * -1,
        lambda cupy, a: a + 1e300,
        lambda cupy, a: a.astype(np.int8) + np.int64(1),
        lambda cupy, a: (a - 1).astype(np.uint8),
        lambda cupy, a: (a / 0).astype(np.int32),
        lambda cupy, a: cupy.zeros(2, np.uint8).__setitem__(0, -1.5),
        lambda cupy, a: cupy.asarray(a - 1, np.uint8),
        lambda cupy, a: cupy.asarray([-1.0], np.uint8),
        lambda cupy, a: a.__setitem__((slice(None), [0, 0]), a[:, :2]),
        lambda cupy, a: a.__setitem__(([0, -2], [0, 0]), a[0, :2]),
        lambda cupy, a: a.__setitem__((slice(1, None), [0]), a[:1, :1]) or a[0].__setitem__([1, 1], a[0, :2]),
        lambda cupy, a: windows(cupy, a).__setitem__(..., 0),
        lambda cupy, a: windows(cupy, a).__iadd__(1),
        lambda cupy, a: cupy.add(windows(cupy, a), 1, out=windows(cupy, a)),
        lambda cupy, a: cupy.broadcast_to(a[0], (4, 3)).fill(1),
        lambda cupy, a: a.ravel().__setitem__(slice(1, None), a.ravel()[:-1]),
        lambda cupy, a: cupy.repeat(a, cupy.asarray([1, 2]), 0),
        lambda cupy, a: a[a[:, 0] > 0, a[0] > 0],
    ],
)
def test_what_is_different_on_a_gpu_is_refused(cupy, a, call):
    with pytest.raises(NotPortableError):
        call(cupy, a)


def windows(cupy, a):
    return cupy.lib.stride_tricks.as_strided(a, (4, 3), (4, 4))


@pytest.mark.parametrize(
    "call",
    [
        lambda cupy, a: a.astype(np.uint8) != -1,  # comparisons take any number
        lambda cupy, a: a.astype(np.uint8) + 255,
        lambda cupy, a: a * np.float32(2),
        lambda cupy, a: a.astype(np.int32) * np.float32(0.5),
        lambda cupy, a: a * float("inf"),
        lambda cupy, a: a.__setitem__(([0, 0], [1, 1]), 3),  # the same value twice
        lambda cupy, a: a.__setitem__(([0, 1], [1, 1]), a[0, :2]),
        lambda cupy, a: windows(cupy, a) + windows(cupy, a),  # reading is safe
        lambda cupy, a: a.T.__setitem__(..., a.T + 1),
        lambda cupy, a: a[:, ::2].__iadd__(1),
        lambda cupy, a: a.__setitem__(slice(None), a),
        lambda cupy, a: a[::-1].__setitem__(..., a),  # strides differ: CuPy copies first
        lambda cupy, a: a.__iadd__(a.astype(np.float64)),
    ],
)
def test_what_is_the_same_on_a_gpu_passes(cupy, a, call):
    call(cupy, a)


def test_indices_outside_raise(cupy, a):
    for call in (lambda: a[[2]], lambda: a[cupy.asarray([0, 5])], lambda: a.take([3], 0), lambda: a[0, 3]):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(IndexError, match="integer or boolean"):
        a[cupy.ones(2, np.float32)]


def test_ufunc_methods(cupy, a):
    counts = cupy.zeros(4, np.uint64)
    cupy.add.at(counts, cupy.asarray([0, 1, 1]), cupy.ones((), np.uint64))
    np.testing.assert_array_equal(counts.get(), [1, 2, 0, 0])
    np.testing.assert_array_equal(cupy.add.reduce(a).get(), [3, 5, 7])
    with pytest.raises(NotImplementedError, match="`multiply.at` is not supported yet"):
        cupy.multiply.at(a, 0, 1)
    with pytest.raises(NotImplementedError, match="`maximum.reduce` is not supported yet"):
        cupy.maximum.reduce(a)
    with pytest.raises(TypeError, match=r"add.at does not support int64"):
        cupy.add.at(cupy.zeros(2, np.int64), 0, 1)


# Transfers


@pytest.mark.parametrize(
    ("call", "kind", "name"),
    [
        (lambda cupy, a: cupy.asarray(ONES), "to_device", "asarray"),
        (lambda cupy, a: cupy.array([1.0, 2.0]), "to_device", "array"),
        (lambda cupy, a: a.set(ONES), "to_device", "ndarray.set"),
        (lambda cupy, a: a[[0]], "to_device", "ndarray.getitem"),
        (lambda cupy, a: a[np.array([0])], "to_device", "ndarray.getitem"),
        (lambda cupy, a: a.take([0], 0), "to_device", "take"),
        (lambda cupy, a: a.get(), "to_host", "ndarray.get"),
        (lambda cupy, a: cupy.asnumpy(a), "to_host", "ndarray.get"),
        (lambda cupy, a: a[0, 0].item(), "to_host", "ndarray.item"),
        (lambda cupy, a: float(a[0, 0]), "to_host", "ndarray.__float__"),
        (lambda cupy, a: int(a[0, 0]), "to_host", "ndarray.__int__"),
        (lambda cupy, a: bool((a > 0).any()), "to_host", "ndarray.__bool__"),
        (lambda cupy, a: a.tolist(), "to_host", "ndarray.tolist"),
        (lambda cupy, a: repr(a), "to_host", "ndarray.__repr__"),
        (lambda cupy, a: f"{a[0, 0]:.1f}", "to_host", "ndarray.__format__"),
        (lambda cupy, a: a[a > 0], "synchronisations", "ndarray.getitem"),
        (lambda cupy, a: a.__setitem__(a > 0, 1), "synchronisations", "ndarray.setitem"),
        (lambda cupy, a: a.nonzero(), "synchronisations", "nonzero"),
        (lambda cupy, a: cupy.where(a > 0), "synchronisations", "where"),
        (lambda cupy, a: cupy.unique(a), "synchronisations", "unique"),
        (lambda cupy, a: cupy.bincount(a[0].astype(np.int32), minlength=9), "synchronisations", "bincount"),
        (lambda cupy, a: cupy.cuda.Device().synchronize(), "synchronisations", "Device.synchronize"),
        (lambda cupy, a: cupy.cuda.get_current_stream().synchronize(), "synchronisations", "Stream.synchronize"),
        (lambda cupy, a: cupy.cuda.runtime.deviceSynchronize(), "synchronisations", "deviceSynchronize"),
        (lambda cupy, a: cupy.cuda.Event().synchronize(), "synchronisations", "Event.synchronize"),
    ],
)
def test_whatever_crosses_or_waits_is_noted(cupy, a, call, kind, name):
    standin.transfers.clear()
    with standin.counting() as crossed:
        call(cupy, a)
    assert names(getattr(crossed, kind)) == [name] and names(getattr(standin.transfers, kind)) == [name]
    assert sum(len(getattr(crossed, other)) for other in ("to_device", "to_host", "synchronisations")) == 1


def test_what_stays_on_the_device_is_not_noted(cupy, a):
    with standin.counting() as crossed:
        (a + 1).sum(0)[0].copy()
        a[:, None] *= 2
        a[0] = 5
        cupy.asarray(1.0, np.float32)  # a number goes along with a kernel
        cupy.asarray(a)
        cupy.where(a > 0, a, 0)
        a[cupy.asarray(a[0] > 0).astype(np.int32)]
    assert not crossed


def test_copies_that_cupy_makes_are_noted(cupy, a):
    cube = cupy.zeros((2, 3, 3), np.float32)
    with standin.counting() as crossed:
        cupy.add(a, 1, out=a)
        a @ a.T
        cupy.matmul(a, a.T, out=cupy.empty((2, 2), np.float32))
    assert not crossed.copies
    with standin.counting() as crossed:
        cupy.add(a[0], 1, out=a[0])  # two views of one place
        a[:, ::2] @ a[:, ::2].T
        cube @ cube.swapaxes(1, 2)
        cupy.matmul(a, a.T, out=cupy.empty((2, 2), np.float32).T)
    assert not crossed and [entry.shape for entry in crossed.copies] == [(3,), (2, 2), (2, 2), (2, 3, 3), (2, 2)]


def test_an_entry_says_what_crossed(cupy, a):
    with standin.counting() as crossed:
        a.get()
    assert crossed and crossed.to_host == [standin.Entry("ndarray.get", (2, 3), 24)]


# Random numbers


def test_generators(cupy):
    rng = cupy.random.default_rng([1, 2])
    assert isinstance(rng, cupy.random.Generator) and cupy.random.default_rng(rng) is rng
    assert rng.random((2, 3), dtype=np.float32).dtype == np.float32 and rng.random().shape == ()
    assert rng.uniform(size=3, dtype=np.float32).dtype == np.float32 and rng.integers(0, 5, 7).shape == (7,)
    out = cupy.zeros(4)
    assert rng.standard_normal(out=out) is out and out.any()
    with pytest.raises(AttributeError):
        rng.permutation(3)


# The device


def test_the_device(cupy):
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    assert isinstance(properties["name"], bytes) and properties["totalGlobalMem"] > 0
    free, total = cupy.cuda.runtime.memGetInfo()
    assert 0 < free <= total and cupy.cuda.Device(0).mem_info == (free, total)
    assert cupy.cuda.runtime.runtimeGetVersion() > 12000 and cupy.cuda.Device().compute_capability.isdecimal()
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"):
        cupy.cuda.runtime.getDeviceProperties(1)


def test_events_and_streams(cupy):
    start, end = cupy.cuda.Event(), cupy.cuda.Event()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        start.record(stream)
        end.record()
    end.synchronize()
    assert 0 <= cupy.cuda.get_elapsed_time(start, end) < 1000
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        cupy.cuda.get_elapsed_time(start, cupy.cuda.Event())


def test_memory_has_a_limit(cupy, monkeypatch):
    pool = cupy.get_default_memory_pool()
    before = pool.used_bytes()
    x = cupy.zeros(1 << 20, np.uint8)
    view = x[5:]
    assert pool.used_bytes() == before + (1 << 20)
    monkeypatch.setattr(standin, "memory_limit", pool.used_bytes() + 1000)
    with pytest.raises(
        cupy.cuda.memory.OutOfMemoryError, match=r"Out of memory allocating 1,536 bytes \(allocated so far: .*limit set to: "
    ):
        cupy.zeros(1025, np.uint8)
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    cupy.zeros(300, np.uint8)
    del x
    assert pool.used_bytes() >= before + (1 << 20)
    del view
    assert pool.used_bytes() == before
    pool.set_limit(size=pool.used_bytes() + 512)
    assert standin.memory_limit == pool.get_limit()
    with pytest.raises(MemoryError):
        cupy.zeros(1024, np.uint8)


# api.json


def test_the_listing_is_of_two_versions(tmp_path, monkeypatch):
    versions, listings = read_api.listed()
    assert versions == list(listing.VERSIONS) and len(versions) == 2
    for version, found in zip(versions, listings, strict=True):
        assert read_api.differences(version, found) == []
        changed = found | {"cupy.sum": "function(a)"}
        del changed["cupy.add"]
        assert read_api.differences(version, changed) == [
            f"cupy.add: listed as {found['cupy.add']}, is None",
            f"cupy.sum: listed as {found['cupy.sum']}, is function(a)",
        ]
    assert read_api.differences("99.0.0", listings[0]) == []  # another version may have more
    fewer = listings[0] | {"cupy.sum": "function(a, axis=)"}
    del fewer["cupy.add"]
    both = " and ".join(versions)
    assert read_api.differences("99.0.0", fewer) == [
        f"cupy.add: in {both}, not in 99.0.0",
        f"cupy.sum: dtype keepdims out in {both}, not in 99.0.0",
    ]
    monkeypatch.setattr(read_api, "PATH", tmp_path / "api.json")
    for version, found in zip(versions, listings, strict=True):
        read_api.write(version, found)
    assert read_api.listed() == (versions, listings)


def test_read_api_against_the_cupy_that_is_installed():
    script = Path(read_api.__file__)
    if subprocess.run([sys.executable, "-c", "import cupy"], capture_output=True).returncode:
        pytest.skip("CuPy is not installed")
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
