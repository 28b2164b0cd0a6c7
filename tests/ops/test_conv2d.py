"""tinyfcn.ops.conv2d, by the ways conv and columns: values and gradients against loops, edge cases, layouts, memory, errors."""

import tracemalloc

import numpy as np
import pytest
import reference
from convolutions import EXACT, agree_with_reference, draw, force, poison
from devices import ON_CPU, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.backend import by_pixels
from tinyfcn.errors import InputError
from tinyfcn.gradcheck import check_gradient
from tinyfcn.ops import columns, conv, conv2d, taps, winograd

pytestmark = pytest.mark.usefixtures("device")

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        pytest.param((7, 6), (3, 3), {"padding": 1}, id="as VGG"),
        pytest.param((7, 6), (3, 3), {}, id="no padding"),
        pytest.param((5, 4), (1, 1), {}, id="1x1"),
        pytest.param((1, 1), (1, 1), {}, id="1x1 of one pixel"),
        pytest.param((1, 1), (3, 3), {"padding": 1}, id="one pixel in padding"),
        pytest.param((5, 4), (5, 4), {}, id="kernel as large as the input"),
        pytest.param((3, 2), (7, 6), {"padding": 2}, id="kernel as large as the padded input"),
        pytest.param((7, 7), (3, 3), {"stride": 2}, id="stride that divides"),
        pytest.param((8, 9), (3, 4), {"stride": (3, 2)}, id="strides that do not divide"),
        pytest.param((4, 4), (2, 2), {"stride": 5}, id="stride beyond the input"),
        pytest.param((3, 3), (2, 2), {"padding": (4, 0)}, id="windows of nothing but padding"),
        pytest.param((9, 8), (3, 2), {"dilation": (2, 3)}, id="dilation"),
        pytest.param((9, 10), (3, 3), {"stride": (2, 3), "padding": (2, 1), "dilation": (3, 2)}, id="all of them"),
        pytest.param((6, 6), (3, 3), {"stride": [2, 1]}, id="a list for a pair"),
    ],
)
def test_values_and_gradients_equal_the_loops(size, kernel, options):
    agree_with_reference(draw(2, 3, *size), draw(4, 3, *kernel), draw(4), **options)


@st.composite
def convolutions(draw_from):
    small = st.integers(1, 3)
    pairs = {name: draw_from(st.tuples(small, small)) for name in ("kernel", "stride", "dilation")}
    padding = draw_from(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    spans = [(k - 1) * d + 1 for k, d in zip(pairs["kernel"], pairs["dilation"], strict=True)]
    size = [max(1, s - 2 * p) + draw_from(st.integers(0, 4)) for s, p in zip(spans, padding, strict=True)]
    counts = draw_from(st.tuples(st.integers(0, 2), small, small, small))
    return counts, size, pairs["kernel"], {"stride": pairs["stride"], "padding": padding, "dilation": pairs["dilation"]}


@QUICK
@given(convolutions())
def test_any_shape_and_option_equals_the_loops(case):
    (images, channels, filters, groups), size, kernel, options = case
    weight = draw(groups * filters, channels, *kernel)
    agree_with_reference(draw(images, groups * channels, *size), weight, draw(len(weight)), groups, **options)


@pytest.fixture(params=["plain", "columns", "fast"])
def path(request, monkeypatch):
    """All ways of computing a 3x3 convolution at stride 1; others go by columns, or as they stand."""
    if request.param == "columns":
        force(monkeypatch, columns)
    else:
        monkeypatch.setenv("TINYFCN_CONV", request.param)
    for threshold in "WINOGRAD_CHANNELS", "WINOGRAD_PIXELS":
        monkeypatch.setattr(conv2d, threshold, 1)
    monkeypatch.setattr(conv2d, "SMALL", 0)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "cost", lambda *_: 0)


@pytest.mark.parametrize("with_bias", [True, False], ids=["bias", ""])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3), {"padding": 1}),
        ((3, 3), {"padding": (3, 0)}),
        ((1, 1), {}),
        ((2, 3), {"stride": (2, 3), "padding": (2, 1), "dilation": (3, 2)}),
    ],
    ids=str,
)
def test_relu_and_its_gradient_equal_the_loops(path, kernel, options, with_bias):
    bias = draw(4) if with_bias else None
    y = agree_with_reference(draw(2, 3, 7, 6), draw(4, 3, *kernel), bias, relu=True, **options)
    assert 0 < (y == 0).sum() < y.size


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}], ids=str)
def test_gradient_check_with_relu(path, options):
    x = np.asfortranarray(draw(2, 3, 7, 5))
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(2, 3, 3, 3), draw(2), relu=True, **options)
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(2, 3, 3, 3), None, relu=True, **options)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    ("groups", "channels", "filters", "kernel", "options"),
    [
        (2, 2, 3, (3, 3), {"padding": 1}),
        (3, 2, 1, (3, 3), {}),
        (4, 1, 1, (3, 3), {"padding": (1, 0)}),  # "depthwise": each channel by itself
        (2, 3, 2, (1, 1), {}),
        (2, 2, 3, (2, 3), {"stride": (2, 3), "padding": (2, 1), "dilation": (3, 2)}),
        (2, 2, 9, (7, 6), {}),  # one output, fewer than filters
    ],
    ids=str,
)
def test_groups_equal_the_loops_over_weights_that_are_zero_between_groups(
    path, monkeypatch, groups, channels, filters, kernel, options, batch, relu
):
    poison(monkeypatch)
    x, weight = draw(batch, groups * channels, 7, 6), draw(groups * filters, channels, *kernel)
    for bias in draw(groups * filters), None:
        agree_with_reference(x, weight, bias, groups, relu, **options)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("band", [1, 200, 1 << 22])
def test_bands_and_threads_change_nothing_about_groups(path, monkeypatch, band, threads):
    for name, value in ("BAND_BYTES", band), ("BAND_COLUMNS", 1), ("SHARED_BYTES", 0):
        monkeypatch.setattr(columns, name, value)
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    x = np.asfortranarray(draw(2, 4, 9, 8))
    agree_with_reference(x, draw(6, 2, 3, 3), draw(6), groups=2, relu=True, padding=1)


def test_gradient_check_with_groups(path):
    x = np.asfortranarray(draw(2, 6, 7, 5))
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(4, 3, 3, 3), draw(4), groups=2, padding=1)
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(9, 2, 3, 2), None, groups=3, stride=2, relu=True)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_large_groups_go_winograd_s_way_and_agree_with_the_plain_one(monkeypatch, dtype, tolerance):
    monkeypatch.setattr(winograd, "cost", lambda *_: 0)
    x, weight, bias = (draw(*s, dtype=dtype) for s in [(2, 40, 13, 11), (32, 20, 3, 3), (32,)])
    results = []
    for path in "plain", "fast":
        monkeypatch.setenv("TINYFCN_CONV", path)
        y, cache = ops.conv2d_forward(x, weight, bias, padding=1, groups=2)
        results.append([y, *ops.conv2d_backward(draw(*y.shape, seed=9, dtype=dtype), cache)])
    for a, b in zip(*results, strict=True):
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(b / abs(a).max(), a / abs(a).max(), rtol=0, atol=tolerance)
    assert all((a != b).any() for a, b in list(zip(*results, strict=True))[:3])  # there are two ways; the bias has one


@ON_CPU
@pytest.mark.parametrize(
    ("layer", "x_shape", "c_out", "kernel", "options", "way"),
    [
        ("a 1x1 kernel on one pixel", (1, 8, 1, 1), 4, 1, {}, conv),
        ("conv1_1", (1, 3, 96, 96), 64, 3, {"padding": 1}, columns),
        ("conv1_2", (1, 64, 96, 96), 64, 3, {"padding": 1}, winograd),
        ("conv1_2 at stride 2", (1, 64, 96, 96), 64, 3, {"padding": 1, "stride": 2}, columns),
        ("conv5 of a small map", (1, 256, 6, 8), 256, 3, {"padding": 1}, columns),
        ("conv5 of several small maps", (8, 256, 8, 8), 256, 3, {"padding": 1}, taps),
        ("conv5 of a larger map", (2, 256, 30, 32), 256, 3, {"padding": 1}, winograd),
        ("fc6, which hangs over the border", (2, 256, 8, 8), 256, 7, {"padding": 3}, taps),
        ("score", (1, 512, 16, 16), 21, 1, {}, columns),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_layer_goes_the_way_that_costs_least(layer, x_shape, c_out, kernel, options, way):
    weight = np.ones((c_out, x_shape[1], kernel, kernel), np.float32)
    _, cache = ops.conv2d_forward(np.ones(x_shape, np.float32), weight, **options)
    assert cache.way is way


@ON_CPU
def test_weights_go_a_way_that_need_not_copy_them():
    """Weights that lie tap by tap, as a padded fc6's do, are a copy for columns, and none for taps; costs say so."""
    geometry = conv.Geometry((7, 7), (1, 1), (3, 3), (1, 1))
    x, weight = np.empty((1, 64, 7, 7), np.float32), np.empty((128, 64, 7, 7), np.float32)
    for way, as_they_are in (taps, False), (columns, True):
        costs = [way.cost(x, w, geometry, (7, 7)) for w in (weight, by_pixels(weight))]
        assert (costs[0] < costs[1]) == as_they_are


def test_groups_too_small_for_winograd_go_the_plain_way(monkeypatch):
    monkeypatch.delattr(winograd, "forward")
    monkeypatch.delattr(winograd, "backward")
    for channels, filters in (20, 6), (6, 20):  # of each group; together there are enough
        x, weight = draw(1, 2 * channels, 9, 9), draw(2 * filters, channels, 3, 3)
        y, cache = ops.conv2d_forward(x, weight, groups=2, padding=1)
        ops.conv2d_backward(y, cache)


@ON_CPU
def test_a_wrong_number_of_threads_is_refused(monkeypatch):
    force(monkeypatch, columns)
    monkeypatch.setenv("TINYFCN_THREADS", "none")
    with pytest.raises(InputError, match="TINYFCN_THREADS must be a number of threads from 1 up, got 'none'"):
        call()


def test_no_bias_gives_no_bias_gradient():
    x, weight = draw(1, 2, 5, 5), draw(3, 2, 3, 3)
    y, cache = ops.conv2d_forward(x, weight)
    np.testing.assert_allclose(y, reference.conv2d(x, weight), **EXACT)
    assert ops.conv2d_backward(y, cache)[2] is None


@pytest.mark.parametrize("way", [conv, columns, winograd, taps], ids=lambda way: way.__name__)
@pytest.mark.parametrize("band_bytes", [1 << 22, 1])
def test_batch_of_none_gives_zero_gradients(monkeypatch, band_bytes, way):
    force(monkeypatch, way)
    monkeypatch.setattr(columns, "BAND_BYTES", band_bytes)  # weights of more bytes are shared out in another way
    poison(monkeypatch)
    y, cache = ops.conv2d_forward(draw(0, 2, 5, 5), draw(3, 2, 3, 3), draw(3), padding=1)
    dx, dweight, dbias = ops.conv2d_backward(y, cache)
    assert y.shape == (0, 3, 5, 5) and dx.shape == (0, 2, 5, 5)
    assert dweight.shape == (3, 2, 3, 3) and not dweight.any() and dbias.shape == (3,) and not dbias.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x, weight, bias = (draw(*s, dtype=dtype) for s in [(2, 3, 6, 5), (4, 3, 3, 3), (4,)])
    y, cache = ops.conv2d_forward(x, weight, bias, padding=1)
    assert {a.dtype for a in (y, *ops.conv2d_backward(y, cache))} == {np.dtype(dtype)}
    np.testing.assert_allclose(y, reference.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-5)


def frozen(array):
    array.flags.writeable = False
    return array


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = [draw(6, 7, 3, 2), draw(8, 3, 3, 3), draw(8), draw(7, 6, 4, 2, seed=1)]
    kept = [a.copy() for a in whole]
    x = frozen(whole[0]).T[:, :, ::-1]  # (2, 3, 7, 6): transposed and turned round
    weight, bias = frozen(whole[1])[::2, :, ::-1, ::-1], frozen(whole[2])[::-2]
    dy = frozen(whole[3]).transpose(3, 2, 0, 1)
    y, cache = ops.conv2d_forward(x, weight, bias, padding=1)
    same, same_cache = ops.conv2d_forward(x.copy(), weight.copy(), bias.copy(), padding=1)
    np.testing.assert_array_equal(y, same)
    np.testing.assert_allclose(y, reference.conv2d(x, weight, bias, padding=1), **EXACT)
    for a, b in zip(ops.conv2d_backward(dy, cache), ops.conv2d_backward(dy.copy(), same_cache), strict=True):
        np.testing.assert_allclose(a, b, **EXACT)
    for a, b in zip(whole, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (1, 0), "dilation": (1, 2)}], ids=str)
def test_gradient_check(options):
    x = np.asfortranarray(draw(2, 3, 7, 5))
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(2, 3, 3, 3), draw(2), **options)
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, draw(2, 3, 3, 3), None, **options)


def extra_memory(function, *arguments, **options):
    """The result, and the most bytes that were in use beside the arguments."""
    tracemalloc.start()
    result = function(*arguments, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


@ON_CPU
@pytest.mark.parametrize("way", [columns, winograd], ids=lambda way: way.__name__)
def test_memory_of_a_large_convolution_stays_bounded(monkeypatch, way):
    # its column matrix would take 1.1 GB
    force(monkeypatch, way)
    monkeypatch.setenv("TINYFCN_THREADS", "2")  # each holds a band
    x, weight = draw(1, 64, 698, 698, dtype=np.float32), draw(64, 64, 3, 3, dtype=np.float32)
    (y, cache), forward = extra_memory(ops.conv2d_forward, x, weight, padding=1)
    (dx, dweight, _), backward = extra_memory(ops.conv2d_backward, y, cache)
    assert forward - y.nbytes < 100e6
    assert backward - dx.nbytes - dweight.nbytes < 100e6


def call(x=None, weight=None, bias=None, **options):
    x = draw(1, 3, 5, 5) if x is None else x
    return ops.conv2d_forward(x, draw(2, 3, 3, 3) if weight is None else weight, bias, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[1.0]]}, TypeError, r"conv2d: x and weight: expected a NumPy or CuPy array, got list"),
        ({"x": draw(1, 3, 5, 5).astype(int)}, TypeError, r"all float32 or all float64, but x is int64, weight is float64"),
        ({"x": draw(1, 3, 5, 5).astype(np.float16)}, TypeError, r"x is float16"),
        ({"x": draw(1, 3, 5, 5, dtype=np.float32)}, TypeError, r"x is float32, weight is float64"),
        ({"bias": draw(2, dtype=np.float32)}, TypeError, r"bias is float32"),
        ({"x": draw(3, 5, 5)}, ValueError, r"x must have axes \(N, C_in, H, W\), got shape \(3, 5, 5\)"),
        ({"weight": draw(3, 3)}, ValueError, r"weight must have axes \(C_out, C_in, k_h, k_w\), got shape \(3, 3\)"),
        ({"weight": draw(2, 4, 3, 3)}, ValueError, r"conv2d: x has 3 channels, weight expects 4"),
        ({"groups": 2, "weight": draw(2, 2, 3, 3)}, ValueError, r"conv2d: x has 3 channels, weight expects 2 groups of 2"),
        ({"groups": 3}, ValueError, r"conv2d: groups must divide the 2 filters of weight, got 3"),
        ({"groups": 0}, ValueError, r"conv2d: groups must be at least 1, got 0"),
        ({"groups": 1.0}, TypeError, r"conv2d: groups must be an int, got 1.0"),
        ({"weight": draw(0, 3, 3, 3)}, ValueError, r"no empty axis, got shape \(0, 3, 3, 3\)"),
        ({"weight": draw(2, 3, 0, 3)}, ValueError, r"no empty axis, got shape \(2, 3, 0, 3\)"),
        ({"bias": draw(3)}, ValueError, r"bias must have shape \(2,\), got \(3,\)"),
        (
            {"weight": draw(2, 3, 6, 3)},
            ValueError,
            r"kernel \(6, 3\) .* does not fit into x of \(5, 5\) padded by \(0, 0\)",
        ),
        ({"dilation": 3}, ValueError, r"dilation \(3, 3\) does not fit"),
        ({"stride": 0}, ValueError, r"stride must be an int or a pair of ints of at least 1, got 0"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride .* got \(1, 2, 3\)"),
        ({"padding": (1, -1)}, ValueError, r"padding .* at least 0, got \(1, -1\)"),
        ({"padding": 1.0}, TypeError, r"padding must be an int or a pair of ints, got 1.0"),
        ({"padding": "same"}, TypeError, r"padding must be an int or a pair of ints, got 'same'"),
        ({"dilation": 0}, ValueError, r"dilation .* at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        call(**arguments)


def test_a_gradient_of_another_shape_or_dtype_is_refused():
    y, cache = call()
    with pytest.raises(ValueError, match=r"conv2d_backward: dy must have shape \(1, 2, 3, 3\), got \(1, 2, 3, 4\)"):
        ops.conv2d_backward(draw(1, 2, 3, 4), cache)
    with pytest.raises(TypeError, match="dy is float32"):
        ops.conv2d_backward(y.astype(np.float32), cache)
