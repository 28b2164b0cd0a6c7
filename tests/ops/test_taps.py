"""tinyfcn.ops.taps, by way of conv2d, against the loops."""

import numpy as np
import pytest
import reference
from devices import ON_CPU, ops

from tinyfcn.backend import hwnc
from tinyfcn.gradcheck import check_gradient
from tinyfcn.models import FCN8s
from tinyfcn.ops import conv2d, taps

pytestmark = pytest.mark.usefixtures("device")


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def tap_by_tap(weight):
    return np.ascontiguousarray(weight.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1)


@pytest.fixture
def always(monkeypatch):
    """Lets every convolution be computed tap by tap."""
    monkeypatch.setattr(conv2d, "choose", lambda *_: taps)


@pytest.fixture
def taken(monkeypatch):
    """Counts the calls of the two functions."""
    calls = []
    for name in "forward", "backward":
        function = getattr(taps, name)
        monkeypatch.setattr(taps, name, lambda *a, f=function, n=name, **o: (calls.append(n), f(*a, **o))[1])
    return calls


CASES = {  # size of x, kernel, padding
    "as fc6 on a small map": ((4, 4), (7, 7), 3),
    "on one pixel": ((1, 1), (7, 7), 3),
    "on a larger map": ((9, 8), (5, 5), 2),
    "no padding": ((6, 5), (4, 3), 0),
    "one output": ((4, 5), (4, 5), 0),
    "taps that meet nothing but padding": ((2, 3), (3, 4), (5, 6)),
    "padding on one side only": ((3, 5), (3, 2), (0, 2)),
}


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("order", [np.array, tap_by_tap], ids=["as they are", "tap by tap"])
@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_equal_the_loops_and_bits_are_the_same_every_run(monkeypatch, case, relu, threads, order):
    monkeypatch.setenv("TINYFCN_THREADS", threads)
    size, kernel, padding = CASES[case]
    x, weight, bias = draw(2, 3, *size), draw(5, 3, *kernel), draw(5)
    expected = reference.conv2d(x, weight, bias, padding=padding)
    passes = expected > 0 if relu else True
    dy = draw(*expected.shape, seed=9)
    runs = []
    for _ in range(2):
        y, cache = ops.conv2d_forward(x, order(weight), bias, padding=padding, relu=relu)
        runs.append([y, *ops.conv2d_backward(dy, cache)])
        nothing, dweight, dbias = ops.conv2d_backward(dy, cache, need_dx=False)
        assert nothing is None and (dweight == runs[-1][2]).all() and (dbias == runs[-1][3]).all()
    wanted = np.where(passes, expected, 0), *reference.conv2d_backward(np.where(passes, dy, 0), x, weight, padding=padding)
    for first, second, right in zip(*runs, wanted, strict=True):
        np.testing.assert_allclose(first, right, rtol=1e-11, atol=1e-11)
        np.testing.assert_array_equal(first, second)
    assert all(hwnc(a).flags.c_contiguous for a in runs[0][:3])  # y, dx, and dweight, which lies tap by tap


@pytest.mark.usefixtures("always")
def test_gradient_check():
    x = np.asfortranarray(draw(2, 3, 4, 3))
    weight = draw(4, 3, 5, 5)
    check_gradient(
        lambda x, w, b: ops.conv2d_forward(x, tap_by_tap(w), b, padding=2, relu=True), ops.conv2d_backward, x, weight, draw(4)
    )


@ON_CPU
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
def test_equal_to_columns_at_many_channels_and_of_the_same_dtype(monkeypatch, taken, dtype):
    monkeypatch.setattr(taps, "cost", lambda *_: 0)
    x, weight, bias = draw(2, 64, 5, 6, dtype=dtype), tap_by_tap(draw(48, 64, 7, 7, dtype=dtype)), draw(48, dtype=dtype)
    found = []
    for way in "fast", "plain":
        monkeypatch.setenv("TINYFCN_CONV", way)
        y, cache = ops.conv2d_forward(x, weight, bias, padding=3)
        found.append([y, *ops.conv2d_backward(draw(*y.shape, dtype=dtype), cache)])
    assert taken == ["forward", "backward"]
    for a, b in zip(*found, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=np.abs(b).max() * (1e-13 if dtype == np.float64 else 2e-6))


@ON_CPU
@pytest.mark.parametrize(
    ("kernel", "options", "goes"),
    [
        ((7, 7), {"padding": 3}, True),
        ((6, 7), {"padding": (0, 1)}, True),
        ((1, 1), {}, False),
        ((7, 7), {"padding": 3, "stride": 2}, False),
        ((7, 7), {"padding": 3, "dilation": 2}, False),
    ],
    ids=str,
)
def test_kernels_of_several_taps_at_stride_1_may_go_this_way(monkeypatch, taken, kernel, options, goes):
    monkeypatch.setattr(taps, "cost", lambda *_: 0)
    monkeypatch.setattr(conv2d, "SMALL", 0)
    x, weight = draw(1, 16, 13, 14), draw(4, 16, *kernel)
    for order in np.array, tap_by_tap:
        found, _ = ops.conv2d_forward(x, order(weight), **options)
        np.testing.assert_allclose(found, reference.conv2d(x, weight, **options), rtol=1e-11, atol=1e-11)
    assert taken == 2 * ["forward"] * goes


def test_a_padded_fc6_goes_this_way_also_from_a_file(taken, tmp_path):
    net = FCN8s(num_classes=3, width=1 / 8, padding="same", dropout=0, seed=1)
    x = draw(1, 3, 40, 40, dtype=np.float32)
    scores = net.forward(x)
    net.save(tmp_path / "net.safetensors")
    same = FCN8s(num_classes=3, width=1 / 8, padding="same", dropout=0, seed=2)
    same.load(tmp_path / "net.safetensors")
    np.testing.assert_array_equal(same.forward(x), scores)
    assert "forward" in taken
