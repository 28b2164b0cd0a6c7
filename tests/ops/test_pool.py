"""tinyfcn.ops.pool: values, winners and gradients against loops, ceil mode, ties, layouts."""

import numpy as np
import pytest
import reference
from convolutions import poison
from devices import ON_CPU, ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.backend import zeros_hwnc
from tinyfcn.gradcheck import check_gradient
from tinyfcn.ops import pool

pytestmark = pytest.mark.usefixtures("device")

QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def agree_with_reference(x, kernel, **options):
    y, cache = ops.max_pool2d_forward(x, kernel, **options)
    expected, places = reference.max_pool2d(x, kernel, **options)
    np.testing.assert_array_equal(y, expected)
    dy = draw(*y.shape, seed=9)
    np.testing.assert_allclose(
        ops.max_pool2d_backward(dy, cache),
        reference.max_pool2d_backward(dy, x, places),
        rtol=1e-12,
        atol=1e-12,
    )


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        pytest.param((8, 6), 2, {}, id="VGG, even"),
        pytest.param((7, 5), 2, {"stride": 2}, id="VGG, odd"),
        pytest.param((7, 5), 3, {"stride": 2}, id="AlexNet"),
        pytest.param((1, 1), 1, {}, id="one pixel"),
        pytest.param((5, 4), (5, 4), {}, id="kernel as large as the input"),
        pytest.param((3, 2), (5, 4), {"padding": (1, 1)}, id="kernel as large as the padded input"),
        pytest.param((6, 6), 3, {"stride": 1, "padding": 1}, id="overlapping windows"),
        pytest.param((6, 7), 2, {"stride": 2, "padding": 1}, id="padding of half the kernel"),
        pytest.param((7, 8), (2, 3), {"stride": (3, 2), "padding": (1, 0)}, id="pairs"),
        pytest.param((5, 7), 2, {"stride": 4}, id="gaps between the windows"),
        pytest.param((20, 20), 17, {"stride": 2}, id="more taps than a byte counts"),
    ],
)
def test_values_and_gradients_equal_the_loops(monkeypatch, size, kernel, options, ceil_mode):
    poison(monkeypatch)
    agree_with_reference(draw(2, 3, *size), kernel, ceil_mode=ceil_mode, **options)


@st.composite
def poolings(draw_from):
    kernel = draw_from(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw_from(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw_from(st.integers(0, k // 2)) for k in kernel)
    size = [max(1, k - 2 * p) + draw_from(st.integers(0, 6)) for k, p in zip(kernel, padding, strict=True)]
    return size, kernel, {"stride": stride, "padding": padding, "ceil_mode": draw_from(st.booleans())}


@QUICK
@given(poolings(), st.integers(1, 3))
def test_any_shape_and_option_equals_the_loops_with_ties_too(case, levels):
    size, kernel, options = case
    agree_with_reference(np.random.default_rng(levels).integers(0, levels, (2, 2, *size)).astype(float), kernel, **options)


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 0), (3, 2, 1), (2, 3, 1), (5, 1, 2), (4, 3, 2)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_as_many_windows_as_the_definition_admits(size, kernel, stride, padding, ceil_mode):
    expected = reference.pool_windows(size, kernel, stride, padding, ceil_mode)
    x, options = draw(1, 1, size, size), {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    if expected:
        assert ops.max_pool2d_forward(x, kernel, **options)[0].shape == (1, 1, expected, expected)
    else:
        with pytest.raises(ValueError, match="does not fit"):
            ops.max_pool2d_forward(x, kernel, **options)


@pytest.mark.parametrize(("size", "pooled"), [(500, 250), (375, 188), (698, 349), (349, 175), (175, 88), (88, 44), (1, 1)])
def test_ceil_mode_halves_upwards(size, pooled):
    assert ops.max_pool2d_forward(np.zeros((1, 1, 1, size)), (1, 2), ceil_mode=True)[0].shape[3] == pooled


@pytest.mark.parametrize("value", [1.0, 0.0, -3.0, -np.inf])
def test_a_tie_gives_the_gradient_to_the_first_maximum(value):
    x = np.full((1, 1, 4, 4), value)
    y, cache = ops.max_pool2d_forward(x, 2)
    dx = ops.max_pool2d_backward(np.ones_like(y), cache)
    np.testing.assert_array_equal(dx[0, 0], np.tile([[1, 0], [0, 0]], (2, 2)))


def test_a_tie_at_the_padded_border_goes_to_the_first_input_inside():
    for value in (0.0, -np.inf):
        y, cache = ops.max_pool2d_forward(np.full((1, 1, 3, 3), value), 3, stride=2, padding=1)
        dx = ops.max_pool2d_backward(np.array([[[[1.0, 2.0], [3.0, 4.0]]]]), cache)
        np.testing.assert_array_equal(y, np.full((1, 1, 2, 2), value))
        np.testing.assert_array_equal(dx[0, 0], [[1, 2, 0], [3, 4, 0], [0, 0, 0]])


def test_an_input_that_wins_twice_adds_up_its_gradients():
    x = np.array([[[[0.0, 5.0, 1.0]]]])
    y, cache = ops.max_pool2d_forward(x, (1, 2), stride=1)
    np.testing.assert_array_equal(y, [[[[5.0, 5.0]]]])
    np.testing.assert_array_equal(ops.max_pool2d_backward(np.array([[[[2.0, 3.0]]]]), cache), [[[[0, 5, 0]]]])


def test_padding_never_wins_over_negative_inputs():
    x = np.full((1, 1, 3, 3), -7.0)
    assert (ops.max_pool2d_forward(x, 3, stride=1, padding=1)[0] == -7).all()
    assert (ops.max_pool2d_forward(x, 2, stride=2, padding=1, ceil_mode=True)[0] == -7).all()


def test_nan_comes_out_of_every_window_that_holds_it():
    x = draw(1, 1, 6, 6)
    x[0, 0, 2, 3] = np.nan
    y, _ = ops.max_pool2d_forward(x, 3, stride=1)
    expected = [[r <= 2 <= r + 2 and c <= 3 <= c + 2 for c in range(4)] for r in range(4)]
    np.testing.assert_array_equal(np.isnan(y[0, 0]), expected)


def test_nan_takes_no_gradient_and_leaves_that_of_other_windows_alone():
    x = draw(1, 2, 6, 6)
    expected = ops.max_pool2d_backward(np.ones((1, 2, 3, 3)), ops.max_pool2d_forward(x, 2)[1])
    x[0, 1, 2, 3] = np.nan
    expected[0, 1, 2:4, 2:4] = 0
    y, cache = ops.max_pool2d_forward(x, 2)
    np.testing.assert_array_equal(ops.max_pool2d_backward(np.ones_like(y), cache), expected)


@ON_CPU
@pytest.mark.parametrize("kernel", [2, 16, 17])
def test_nothing_is_kept_beside_the_input_and_the_output(kernel):
    x = np.zeros((1, 1, 17, 17))
    x[0, 0, kernel - 1, kernel - 1] = 1  # the last tap of the first window wins, be it the 257th or a later one
    y, cache = ops.max_pool2d_forward(x, kernel, stride=kernel)
    held = [part for part in cache if not isinstance(part, tuple)]
    assert len(held) == 2 and held[0] is x and held[1] is y
    assert all(isinstance(number, int) for part in cache if isinstance(part, tuple) for number in part)
    dx = ops.max_pool2d_backward(np.ones_like(y), cache)
    assert dx[0, 0, kernel - 1, kernel - 1] == 1 and dx.sum() == y.size


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("outputs", [1, 8 * 2 * 5, 8 * 2 * 12], ids=lambda n: f"{n} bytes")
@pytest.mark.parametrize(("kernel", "options"), [(2, {"ceil_mode": True}), (3, {"stride": 1, "padding": 1}), (2, {"stride": 3})])
def test_bands_and_threads_change_nothing(monkeypatch, kernel, options, outputs, threads):
    """Windows of neighbouring bands may share inputs, whose gradients are then added by one thread."""
    monkeypatch.setattr("tinyfcn.ops.pool.BAND_BYTES", outputs)
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    agree_with_reference(np.random.default_rng(0).integers(0, 4, (2, 2, 11, 6)).astype(float), kernel, **options)


@pytest.mark.parametrize(
    ("kernel", "options"), [(2, {"ceil_mode": True}), (3, {"stride": (1, 3), "padding": 1}), (3, {"stride": 2})]
)
@ON_CPU
def test_threads_never_add_to_the_same_input(monkeypatch, kernel, options):
    """A race would show now and then: here the bands of a backward pass run one by one, and none may touch what another did."""
    monkeypatch.setattr(pool, "BAND_BYTES", 1)
    arrays = []

    def remember(*arguments):
        arrays.append(zeros_hwnc(*arguments))
        return arrays[-1]

    def one_by_one(xp, work, pieces):
        (dx,) = arrays
        touched = np.zeros(dx.shape, bool)
        for piece in pieces:
            before = dx.copy()
            work([piece])
            assert not (touched & (dx != before)).any()
            touched |= dx != before

    x = draw(2, 3, 9, 8)
    y, cache = ops.max_pool2d_forward(x, kernel, **options)
    dy = abs(draw(*y.shape)) + 1
    expected = ops.max_pool2d_backward(dy, cache)
    monkeypatch.setattr(pool, "zeros_hwnc", remember)
    monkeypatch.setattr(pool, "empty_hwnc", remember)
    monkeypatch.setattr(pool, "map_queue", one_by_one)
    np.testing.assert_array_equal(ops.max_pool2d_backward(dy, cache), expected)
    assert len(arrays) == 1


def test_a_window_that_is_nearly_all_padding_takes_no_time():
    x = draw(1, 1, 3, 3)
    y, cache = ops.max_pool2d_forward(x, 4096, padding=2048)
    assert y.tolist() == [[[[x.max()]]]] and ops.max_pool2d_backward(np.ones_like(y), cache).sum() == 1


def test_batch_of_none():
    y, cache = ops.max_pool2d_forward(draw(0, 2, 5, 5), 2, ceil_mode=True)
    assert y.shape == (0, 2, 3, 3) and ops.max_pool2d_backward(y, cache).shape == (0, 2, 5, 5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x = draw(2, 3, 7, 7, dtype=dtype)
    y, cache = ops.max_pool2d_forward(x, 3, stride=2, padding=1, ceil_mode=True)
    assert y.dtype == dtype and ops.max_pool2d_backward(y, cache).dtype == dtype


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = draw(7, 6, 4, 2)
    kept = whole.copy()
    whole.flags.writeable = False
    x = whole.T[:, ::2, ::-1]
    agree_with_reference(x, 3, stride=2, padding=1)
    y, cache = ops.max_pool2d_forward(x, 2)
    dy = draw(*y.shape[::-1]).T
    dy.flags.writeable = False
    np.testing.assert_array_equal(ops.max_pool2d_backward(dy, cache), ops.max_pool2d_backward(dy.copy(), cache))
    np.testing.assert_array_equal(whole, kept)


@pytest.mark.parametrize("options", [{"ceil_mode": True}, {"stride": 1, "padding": 1}], ids=str)
def test_gradient_check(options):
    x = np.random.default_rng(0).permutation(2 * 3 * 7 * 5).reshape(2, 3, 7, 5) / 10  # no two within a step of each other
    check_gradient(ops.max_pool2d_forward, ops.max_pool2d_backward, np.asfortranarray(x), 3, **options)


@pytest.mark.parametrize(
    ("x", "kernel", "options", "error", "message"),
    [
        ([[1.0]], 2, {}, TypeError, r"max_pool2d: x: expected a NumPy or CuPy array, got list"),
        (np.zeros((1, 1, 4, 4), int), 2, {}, TypeError, r"max_pool2d: .* x is int64"),
        (draw(1, 4, 4), 2, {}, ValueError, r"x must have axes \(N, C, H, W\), got shape \(1, 4, 4\)"),
        (draw(1, 1, 4, 4), 0, {}, ValueError, r"kernel_size .* at least 1, got 0"),
        (draw(1, 1, 4, 4), 2.0, {}, TypeError, r"kernel_size must be an int or a pair of ints, got 2.0"),
        (draw(1, 1, 4, 4), 2, {"stride": 0}, ValueError, r"stride .* at least 1, got 0"),
        (draw(1, 1, 4, 4), 2, {"stride": (2, 10**12)}, ValueError, r"stride must be at most 4096, got \(2, 1000000000000\)"),
        (draw(1, 1, 4, 4), 10**9, {"padding": 10**9 // 2}, ValueError, r"kernel_size must be at most 4096, got 1000000000"),
        (draw(1, 1, 4, 4), float("nan"), {}, TypeError, r"kernel_size must be an int or a pair of ints, got nan"),
        (draw(1, 1, 4, 4), 2, {"stride": (1, 2, 3)}, ValueError, r"stride .* got \(1, 2, 3\)"),
        (draw(1, 1, 4, 4), 3, {"padding": -1}, ValueError, r"padding .* at least 0, got -1"),
        (
            draw(1, 1, 4, 4),
            3,
            {"padding": 2},
            ValueError,
            r"padding \(2, 2\) must be at most half of kernel_size \(3, 3\)",
        ),
        (
            draw(1, 1, 4, 4),
            5,
            {},
            ValueError,
            r"kernel_size \(5, 5\) does not fit into x of \(4, 4\) padded by \(0, 0\)",
        ),
        (draw(1, 1, 0, 4), 2, {"padding": 1}, ValueError, r"does not fit into x of \(0, 4\)"),
    ],
)
def test_bad_arguments_are_named(x, kernel, options, error, message):
    with pytest.raises(error, match=message):
        ops.max_pool2d_forward(x, kernel, **options)


def test_a_gradient_of_another_shape_is_refused():
    _, cache = ops.max_pool2d_forward(draw(1, 1, 4, 4), 2)
    with pytest.raises(ValueError, match=r"max_pool2d_backward: dy must have shape \(1, 1, 2, 2\), got \(1, 1, 4, 4\)"):
        ops.max_pool2d_backward(draw(1, 1, 4, 4), cache)
