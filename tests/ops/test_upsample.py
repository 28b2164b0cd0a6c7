"""tinyfcn.ops.upsample: transposed convolution against three descriptions of itself; bilinear upsampling."""

import numpy as np
import pytest
import reference
from devices import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.gradcheck import check_gradient

pytestmark = pytest.mark.usefixtures("device")

EXACT = {"rtol": 1e-11, "atol": 1e-11}
QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def agree_with_reference(x, weight, bias, **options):
    y, cache = ops.conv_transpose2d_forward(x, weight, bias, **options)
    np.testing.assert_allclose(y, reference.conv_transpose2d(x, weight, bias, **options), **EXACT)
    dy = draw(*y.shape, seed=9)
    options.pop("output_padding", None)
    expected = reference.conv_transpose2d_backward(dy, x, weight, **options)
    found = ops.conv_transpose2d_backward(dy, cache)
    for name, a, b in zip(("dx", "dweight", "dbias"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, **EXACT, err_msg=name)


@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        pytest.param((3, 4), (4, 4), {"stride": 2}, id="upscore2"),
        pytest.param((2, 2), (16, 16), {"stride": 8}, id="upscore8"),
        pytest.param((5, 4), (3, 3), {}, id="stride 1"),
        pytest.param((1, 1), (1, 1), {}, id="one pixel"),
        pytest.param((1, 1), (5, 3), {"stride": 4}, id="the kernel itself"),
        pytest.param((4, 3), (4, 4), {"stride": 2, "padding": 1}, id="padding"),
        pytest.param((4, 5), (2, 1), {"stride": (2, 3), "padding": (3, 4)}, id="padding beyond the kernel"),
        pytest.param((4, 3), (3, 3), {"stride": 3, "output_padding": 2}, id="output padding"),
        pytest.param((3, 4), (2, 2), {"stride": (4, 5), "output_padding": (3, 4)}, id="more output padding than kernel"),
        pytest.param((4, 3), (3, 5), {"stride": (3, 2), "padding": (1, 2), "output_padding": (2, 1)}, id="all of them"),
    ],
)
def test_values_and_gradients_equal_the_loops(size, kernel, options):
    agree_with_reference(draw(2, 3, *size), draw(3, 2, *kernel), draw(2), **options)


@st.composite
def transposed_convolutions(draw_from):
    small = st.integers(1, 4)
    kernel, stride = draw_from(st.tuples(small, small)), draw_from(st.tuples(small, small))
    size = draw_from(st.tuples(small, small))
    extra = tuple(draw_from(st.integers(0, s - 1)) for s in stride)
    room = [(n - 1) * s + k + e for n, s, k, e in zip(size, stride, kernel, extra, strict=True)]
    padding = tuple(draw_from(st.integers(0, (r - 1) // 2)) for r in room)
    channels = draw_from(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 3)))
    return channels, size, kernel, {"stride": stride, "padding": padding, "output_padding": extra}


@QUICK
@given(transposed_convolutions())
def test_any_shape_and_option_equals_the_loops(case):
    (images, channels, filters), size, kernel, options = case
    agree_with_reference(draw(images, channels, *size), draw(channels, filters, *kernel), draw(filters), **options)


@QUICK
@given(transposed_convolutions())
def test_it_is_the_adjoint_of_the_convolution(case):
    (images, channels, filters), size, kernel, options = case
    weight, b = draw(channels, filters, *kernel), draw(images, channels, *size, seed=1)
    up, _ = ops.conv_transpose2d_forward(b, weight, **options)
    a = draw(*up.shape, seed=2)
    down, _ = ops.conv2d_forward(a, weight, stride=options["stride"], padding=options["padding"])
    assert down.shape == b.shape
    np.testing.assert_allclose((down * b).sum(), (a * up).sum(), **EXACT)  # <conv(a), b> = <a, conv_transpose(b)>


@QUICK
@given(transposed_convolutions())
def test_it_is_a_convolution_of_the_input_set_apart_by_zeros_with_the_kernel_turned_round(case):
    (images, channels, filters), size, kernel, options = case
    (sh, sw), (ph, pw), (eh, ew) = options["stride"], options["padding"], options["output_padding"]
    x, weight = draw(images, channels, *size), draw(channels, filters, *kernel)
    apart = np.zeros((images, channels, (size[0] - 1) * sh + 1 + eh, (size[1] - 1) * sw + 1 + ew))
    apart[:, :, : apart.shape[2] - eh : sh, : apart.shape[3] - ew : sw] = x
    turned = weight[:, :, ::-1, ::-1].swapaxes(0, 1)
    full, _ = ops.conv2d_forward(apart, turned, padding=(kernel[0] - 1, kernel[1] - 1))
    expected = full[:, :, ph : full.shape[2] - ph, pw : full.shape[3] - pw]
    np.testing.assert_allclose(ops.conv_transpose2d_forward(x, weight, **options)[0], expected, **EXACT)


def test_output_padding_is_reached_by_the_bias_alone():
    y, _ = ops.conv_transpose2d_forward(draw(1, 2, 2, 2), draw(2, 3, 2, 2), draw(3), stride=3, output_padding=2)
    assert y.shape == (1, 3, 7, 7)
    np.testing.assert_array_equal(y[:, :, 5:], np.broadcast_to(draw(3)[:, None, None], (1, 3, 2, 7)))


def test_no_bias_gives_no_bias_gradient():
    y, cache = ops.conv_transpose2d_forward(draw(1, 2, 3, 3), draw(2, 3, 4, 4), stride=2)
    assert ops.conv_transpose2d_backward(y, cache)[2] is None


@pytest.mark.parametrize("band", [1, 3, 20, 10**6])
def test_the_size_of_a_band_changes_nothing(monkeypatch, band):
    monkeypatch.setattr("tinyfcn.ops.columns.BAND_BYTES", 1)
    monkeypatch.setattr("tinyfcn.ops.columns.BAND_COLUMNS", band)
    agree_with_reference(draw(3, 2, 5, 3), draw(2, 3, 4, 3), draw(3), stride=(2, 1), padding=1, output_padding=(1, 0))


def test_batch_of_none_gives_zero_gradients():
    y, cache = ops.conv_transpose2d_forward(draw(0, 2, 3, 3), draw(2, 3, 4, 4), draw(3), stride=2)
    dx, dweight, dbias = ops.conv_transpose2d_backward(y, cache)
    assert y.shape == (0, 3, 8, 8) and dx.shape == (0, 2, 3, 3)
    assert dweight.shape == (2, 3, 4, 4) and not dweight.any() and dbias.shape == (3,) and not dbias.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x, weight, bias = (draw(*s, dtype=dtype) for s in [(2, 3, 4, 3), (3, 2, 4, 4), (2,)])
    y, cache = ops.conv_transpose2d_forward(x, weight, bias, stride=2)
    assert {a.dtype for a in (y, *ops.conv_transpose2d_backward(y, cache))} == {np.dtype(dtype)}
    np.testing.assert_allclose(y, reference.conv_transpose2d(x, weight, bias, stride=2), rtol=1e-4, atol=1e-5)
    assert ops.bilinear_weight(2, 4, dtype=dtype).dtype == dtype
    up, cache = ops.upsample_bilinear_forward(x, 4, 2)
    assert up.dtype == dtype and ops.upsample_bilinear_backward(up, cache).dtype == dtype


def frozen(array):
    array.flags.writeable = False
    return array


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = [draw(5, 4, 3, 2), draw(3, 4, 4, 6), draw(6)]
    kept = [a.copy() for a in whole]
    x = frozen(whole[0]).T[:, :, ::-1]  # (2, 3, 4, 5): transposed and turned round
    weight, bias = frozen(whole[1]).transpose(0, 3, 1, 2)[:, ::2, ::-1], frozen(whole[2])[::-2]
    agree_with_reference(x, weight, bias, stride=2, padding=1)
    up, cache = ops.upsample_bilinear_forward(x, 4, 2)
    np.testing.assert_allclose(up, reference.bilinear(x, 4, 2), **EXACT)
    dy = frozen(draw(*up.shape[::-1])).T
    np.testing.assert_allclose(
        ops.upsample_bilinear_backward(dy, cache), ops.upsample_bilinear_backward(dy.copy(), cache), **EXACT
    )
    for a, b in zip(whole, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{"stride": 2}, {"stride": (2, 3), "padding": 1, "output_padding": (1, 2)}], ids=str)
def test_gradient_check_of_the_transposed_convolution(options):
    x, weight = np.asfortranarray(draw(2, 3, 3, 2)), draw(3, 2, 4, 3)
    check_gradient(ops.conv_transpose2d_forward, ops.conv_transpose2d_backward, x, weight, draw(2), **options)
    check_gradient(ops.conv_transpose2d_forward, ops.conv_transpose2d_backward, x, weight, None, **options)


# Bilinear upsampling. (kernel, stride) as in FCN: 64/32, 32/16, 16/8, 4/2 and, for AlexNet, 63/32.

BILINEAR = [(4, 2), (16, 8), (3, 2), (2, 1), (1, 1), (7, 4), (15, 8)]


def test_the_bilinear_kernel_of_four():
    row = np.array([0.25, 0.75, 0.75, 0.25])
    np.testing.assert_array_equal(ops.bilinear_weight(1, 4, dtype=np.float64)[0, 0], np.outer(row, row))


def test_the_bilinear_kernel_of_three():
    row = np.array([0.5, 1.0, 0.5])
    np.testing.assert_array_equal(ops.bilinear_weight(1, 3, dtype=np.float64)[0, 0], np.outer(row, row))


@pytest.mark.parametrize("kernel", [1, 2, 4, 16, 63, 64])
def test_bilinear_weight_is_diagonal_symmetric_and_sums_to_the_area_of_a_stride(kernel):
    weight = ops.bilinear_weight(3, kernel, dtype=np.float64)
    assert weight.shape == (3, 3, kernel, kernel)
    for a in range(3):
        for b in range(3):
            assert (a == b) or not weight[a, b].any()
    one = weight[0, 0]
    np.testing.assert_array_equal(weight[2, 2], one)
    np.testing.assert_allclose(one, one.T, **EXACT)
    np.testing.assert_allclose(one, one[::-1, ::-1], **EXACT)
    np.testing.assert_allclose(one.sum(), ((kernel + 1) // 2) ** 2, **EXACT)


@pytest.mark.parametrize("band", [1, 3, 100])
@pytest.mark.parametrize(("kernel", "stride"), [*BILINEAR, (4, 4), (3, 5)])
def test_upsample_bilinear_is_the_transposed_convolution_with_bilinear_weight(monkeypatch, kernel, stride, band):
    monkeypatch.setattr("tinyfcn.ops.upsample.BAND", band)
    x = draw(2, 3, 4, 5)
    y, cache = ops.upsample_bilinear_forward(x, kernel, stride)
    weight = ops.bilinear_weight(3, kernel, dtype=np.float64)
    same, same_cache = ops.conv_transpose2d_forward(x, weight, stride=stride)
    np.testing.assert_allclose(y, same, **EXACT)
    dy = draw(*y.shape)
    np.testing.assert_allclose(
        ops.upsample_bilinear_backward(dy, cache), ops.conv_transpose2d_backward(dy, same_cache)[0], **EXACT
    )


@pytest.mark.parametrize("window", [(slice(1, 6), slice(0, 3)), (slice(9, 10), slice(2, 11))], ids=str)
def test_upsample_bilinear_of_a_window_is_that_part_of_the_whole(window):
    x = draw(2, 3, 4, 5)
    whole, _ = ops.upsample_bilinear_forward(x, 4, 2)
    y, cache = ops.upsample_bilinear_forward(x, 4, 2, window)
    np.testing.assert_allclose(y, whole[..., *window], **EXACT)
    dy = draw(*y.shape, seed=1)
    uncropped = np.zeros(whole.shape)
    uncropped[..., *window] = dy
    expected, _, _ = ops.conv_transpose2d_backward(
        uncropped, ops.conv_transpose2d_forward(x, ops.bilinear_weight(3, 4, np.float64), stride=2)[1]
    )
    np.testing.assert_allclose(ops.upsample_bilinear_backward(dy, cache), expected, **EXACT)


@pytest.mark.parametrize(("kernel", "stride"), BILINEAR)
def test_upsample_bilinear_equals_interpolation_pixel_by_pixel(kernel, stride):
    x = draw(1, 2, 3, 4)
    np.testing.assert_allclose(
        ops.upsample_bilinear_forward(x, kernel, stride)[0], reference.bilinear(x, kernel, stride), **EXACT
    )


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (16, 8), (3, 2), (7, 4), (63, 32), (64, 32)])
def test_constants_and_ramps_come_out_as_they_are_between_the_outermost_inputs(kernel, stride):
    size = 4
    r, c = np.mgrid[:size, :size].astype(float)
    x = np.stack([np.ones_like(r), 2 * r - 3 * c + 5])[None]
    y, _ = ops.upsample_bilinear_forward(x, kernel, stride)
    centre = (kernel - 1) / 2  # output place of input 0
    rows, columns = (np.mgrid[: y.shape[2], : y.shape[3]] - centre) / stride  # in input coordinates
    inner = (rows >= 0) & (rows <= size - 1) & (columns >= 0) & (columns <= size - 1)
    assert inner.sum() >= ((size - 1) * stride) ** 2
    np.testing.assert_allclose(y[0, 0][inner], 1, **EXACT)
    np.testing.assert_allclose(y[0, 1][inner], (2 * rows - 3 * columns + 5)[inner], **EXACT)


def test_gradient_check_of_bilinear_upsampling():
    x = np.asfortranarray(draw(2, 3, 3, 5))
    check_gradient(ops.upsample_bilinear_forward, ops.upsample_bilinear_backward, x, 4, 2)


def test_bilinear_upsampling_of_a_batch_of_none():
    y, cache = ops.upsample_bilinear_forward(draw(0, 2, 3, 3), 4, 2)
    assert y.shape == (0, 2, 8, 8) and ops.upsample_bilinear_backward(y, cache).shape == (0, 2, 3, 3)


X, W = draw(1, 3, 4, 4), draw(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ([[1.0]], W),
            {},
            TypeError,
            r"conv_transpose2d: x and weight: expected a NumPy or CuPy array, got list",
        ),
        ((X.astype(np.float32), W), {}, TypeError, r"conv_transpose2d: .* x is float32, weight is float64"),
        ((X[0], W), {}, ValueError, r"x must have axes \(N, C_in, H, W\), got shape \(3, 4, 4\)"),
        (
            (X, W[0]),
            {},
            ValueError,
            r"weight must have axes \(C_in, C_out, k_h, k_w\), got shape \(2, 3, 3\)",
        ),
        ((X, W.swapaxes(0, 1)), {}, ValueError, r"conv_transpose2d: x has 3 channels, weight expects 2"),
        ((X, W[:, :0]), {}, ValueError, r"no empty axis, got shape \(3, 0, 3, 3\)"),
        ((X, W, draw(3)), {}, ValueError, r"bias must have shape \(2,\), got \(3,\)"),
        ((X, W), {"stride": 0}, ValueError, r"stride .* at least 1, got 0"),
        ((X, W), {"padding": -1}, ValueError, r"padding .* at least 0, got -1"),
        ((X, W), {"padding": 0.5}, TypeError, r"padding must be an int or a pair of ints, got 0.5"),
        (
            (X, W),
            {"padding": 3},
            ValueError,
            r"padding \(3, 3\) gives an output of \(0, 0\), which has no pixels",
        ),
        ((X[:, :, :0], W), {}, ValueError, r"x of \(0, 4\) .* no pixels"),
        (
            (X, W),
            {"output_padding": 1},
            ValueError,
            r"output_padding \(1, 1\) must be less than stride \(1, 1\)",
        ),
        (
            (X, W),
            {"stride": 2, "output_padding": (0, 2)},
            ValueError,
            r"output_padding \(0, 2\) must be less than",
        ),
        ((X, W), {"output_padding": -1}, ValueError, r"output_padding .* at least 0, got -1"),
    ],
)
def test_bad_arguments_of_the_transposed_convolution_are_named(arguments, options, error, message):
    with pytest.raises(error, match=message):
        ops.conv_transpose2d_forward(*arguments, **options)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (ops.bilinear_weight, (0, 4), ValueError, r"bilinear_weight: channels must be at least 1, got 0"),
        (
            ops.bilinear_weight,
            ((2, 3), 4),
            TypeError,
            r"bilinear_weight: channels must be an int, got \(2, 3\)",
        ),
        (ops.bilinear_weight, (2, 0), ValueError, r"kernel_size must be at least 1, got 0"),
        (ops.bilinear_weight, (2, (4, 6)), TypeError, r"kernel_size must be an int, got \(4, 6\)"),
        (
            ops.upsample_bilinear_forward,
            (X.astype(int), 4, 2),
            TypeError,
            r"upsample_bilinear: .* x is int64",
        ),
        (
            ops.upsample_bilinear_forward,
            (X[0], 4, 2),
            ValueError,
            r"x must have axes \(N, C, H, W\), got shape",
        ),
        (
            ops.upsample_bilinear_forward,
            (X[:, :, :0], 4, 2),
            ValueError,
            r"upsample_bilinear: x of \(0, 4\) has no pixels",
        ),
        (ops.upsample_bilinear_forward, (X, 4, 0), ValueError, r"stride must be at least 1, got 0"),
        (ops.upsample_bilinear_forward, (X, 4, (2, 2)), TypeError, r"stride must be an int, got \(2, 2\)"),
        (
            ops.upsample_bilinear_forward,
            (X, "4", 2),
            TypeError,
            r"upsample_bilinear: kernel_size must be an int, got '4'",
        ),
    ],
)
def test_bad_arguments_of_bilinear_upsampling_are_named(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


@pytest.mark.parametrize(
    ("backward", "cache"),
    [
        (ops.conv_transpose2d_backward, ops.conv_transpose2d_forward(X, W)[1]),
        (ops.upsample_bilinear_backward, ops.upsample_bilinear_forward(X, 3, 1)[1]),
    ],
)
def test_a_gradient_of_another_shape_or_dtype_is_refused(backward, cache):
    with pytest.raises(ValueError, match=r"_backward: dy must have shape \(1, ., 6, 6\), got \(1, 1, 4, 4\)"):
        backward(draw(1, 1, 4, 4), cache)
    with pytest.raises(TypeError, match="dy is float32"):
        backward(draw(1, 2, 6, 6, dtype=np.float32), cache)
