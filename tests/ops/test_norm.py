"""tinyfcn.ops.norm: values and gradients against loops, the window's ends, layouts, bands, and bad arguments."""

import numpy as np
import pytest
from devices import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.backend import empty_hwnc, hwnc
from tinyfcn.gradcheck import check_gradient

pytestmark = pytest.mark.usefixtures("device")

EXACT = {"rtol": 1e-12, "atol": 1e-12}
QUICK = settings(max_examples=150, deadline=None, derandomize=True, database=None)
STRONG = {"alpha": 3.0, "beta": 0.6, "k": 0.7}  # the defaults hardly change anything: an error would not show


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def windows(x, size):
    """For each place of x, the places of the channels around it that there are."""
    for place in np.ndindex(x.shape):
        n, c, *pixel = place
        yield place, [(n, j, *pixel) for j in range(x.shape[1]) if 2 * abs(j - c) < size]


def loops(x, size, alpha, beta, k):
    y = np.zeros(x.shape)
    for place, window in windows(x, size):
        y[place] = x[place] / (k + alpha / size * sum(x[j] ** 2 for j in window)) ** beta
    return y


def loops_backward(dy, x, size, alpha, beta, k):
    """By the quotient rule, output after output: y = a / b with a = x and b = s^beta."""
    dx = np.zeros(x.shape)
    for place, window in windows(x, size):
        s = k + alpha / size * sum(x[j] ** 2 for j in window)
        a, b = x[place], s**beta
        dx[place] += dy[place] * b / b**2
        for j in window:
            db = beta * s ** (beta - 1) * alpha / size * 2 * x[j]
            dx[j] -= dy[place] * a * db / b**2
    return dx


def agree_with_loops(x, size, **options):
    y, cache = ops.local_response_norm_forward(x, size, **options)
    np.testing.assert_allclose(y, loops(x, size, **options), **EXACT)
    dy = draw(*x.shape, seed=9)
    dx = ops.local_response_norm_backward(dy, cache)
    np.testing.assert_allclose(dx, loops_backward(dy, x, size, **options), **EXACT)


def both_passes(x, *arguments, dy=None, **options):
    y, cache = ops.local_response_norm_forward(x, *arguments, **options)
    return y, ops.local_response_norm_backward(y if dy is None else dy, cache)


def test_a_pixel_by_hand():
    y, _ = ops.local_response_norm_forward(np.array([[1.0, 2.0, 3.0]]), 3, alpha=3, beta=1, k=1)
    np.testing.assert_allclose(y, [[1 / 6, 2 / 15, 3 / 14]], **EXACT)  # 1 + 1 + 4,  1 + 1 + 4 + 9,  1 + 4 + 9


def test_the_defaults_are_those_of_pytorch_and_a_window_of_five():
    x = 30 * draw(2, 7, 3, 2)
    y, _ = ops.local_response_norm_forward(x)
    np.testing.assert_allclose(y, loops(x, 5, 1e-4, 0.75, 1.0), **EXACT)


@pytest.mark.parametrize("size", [1, 3, 5, 7, 9, 11, 101])
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_values_and_gradients_equal_the_loops(channels, size):
    agree_with_loops(draw(2, channels, 3, 2), size, **STRONG)


@QUICK
@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=5),
    st.sampled_from([1, 3, 5]),
    st.floats(0, 10),
    st.floats(-2, 2),
    st.floats(0.1, 10),
)
def test_any_shape_and_numbers_equal_the_loops(shape, size, alpha, beta, k):
    agree_with_loops(draw(*shape), size, alpha=alpha, beta=beta, k=k)


@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (3, 6), (2, 6, 5)], ids=str)
@pytest.mark.parametrize("size", [1, 3, 5])
def test_gradient_check(shape, size):
    x = np.asfortranarray(draw(*shape))
    check_gradient(ops.local_response_norm_forward, ops.local_response_norm_backward, x, size=size, **STRONG)


def test_gradient_check_with_the_defaults():
    check_gradient(ops.local_response_norm_forward, ops.local_response_norm_backward, 30 * draw(2, 6, 3, 4))


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2), (2, 3), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_are_kept_whatever_the_numbers_are(shape, dtype):
    x = draw(*shape, dtype=dtype)
    for numbers in STRONG, {name: np.float64(number) for name, number in STRONG.items()}, {"alpha": 1, "beta": 2, "k": 3}:
        for found in both_passes(x, np.int64(5), **numbers):
            assert found.shape == shape and found.dtype == dtype
    y, dx = both_passes(x, **STRONG)
    np.testing.assert_allclose(y, loops(x.astype(float), 5, **STRONG), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dx, loops_backward(y.astype(float), x.astype(float), 5, **STRONG), rtol=1e-4, atol=1e-5)


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = [draw(4, 6, 9, 2), draw(3, 9, 4, 2, seed=1)]
    kept = [a.copy() for a in whole]
    for a in whole:
        a.flags.writeable = False
    x, dy = whole[0].T[:, ::-1, ::2], whole[1].transpose(3, 1, 0, 2)  # (2, 9, 3, 4)
    y, dx = both_passes(x, dy=dy, **STRONG)
    np.testing.assert_allclose(y, loops(x, 5, **STRONG), **EXACT)
    np.testing.assert_allclose(dx, loops_backward(dy, x, 5, **STRONG), **EXACT)
    for a, b in zip(whole, kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_results_lie_in_memory_as_x_does():
    plain = draw(2, 6, 4, 5)
    by_pixel = empty_hwnc(np, plain.shape, plain.dtype)
    by_pixel[...] = plain
    for x in plain, by_pixel:
        assert all(found.strides == x.strides for found in both_passes(x))
    assert hwnc(both_passes(by_pixel)[0]).flags.c_contiguous
    for a, b in zip(both_passes(plain, **STRONG), both_passes(by_pixel, **STRONG), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(2, 6, 7, 5), (7, 6), (5, 6, 4)], ids=str)
def test_bands_and_threads_change_nothing_and_leave_nothing_out(monkeypatch, shape):
    x, dy = draw(*shape), draw(*shape, seed=9)
    expected = loops(x, 5, **STRONG), loops_backward(dy, x, 5, **STRONG)
    monkeypatch.setattr(np, "empty_like", lambda a: np.full_like(a, np.nan))  # whatever is not written shows
    runs = []
    for piece, threads in [(1, 1), (1, 3), (70, 2), (1 << 15, 2)]:
        monkeypatch.setattr("tinyfcn.ops.norm.PIECE", piece)
        monkeypatch.setenv("TINYFCN_THREADS", str(threads))
        runs.append(both_passes(x, dy=dy, **STRONG))
    for run in runs:
        for found, first, wanted in zip(run, runs[0], expected, strict=True):
            np.testing.assert_array_equal(found, first)
            np.testing.assert_allclose(found, wanted, **EXACT)


def test_what_is_not_finite_reaches_its_neighbours_only():
    x = np.ones((1, 9))
    x[0, 0] = np.nan
    y, dx = both_passes(x, 5, dy=np.ones_like(x))
    assert np.isnan(y[0, :3]).all() and np.isfinite(y[0, 3:]).all()
    assert np.isnan(dx[0, :5]).all() and np.isfinite(dx[0, 5:]).all()  # through the outputs of two windows


def test_zeros_stay_zero_and_pass_the_gradient_on():
    x, dy = np.zeros((1, 4, 2, 2)), draw(1, 4, 2, 2)
    y, dx = both_passes(x, dy=dy, k=16.0)
    assert not y.any()
    np.testing.assert_allclose(dx, dy / 8, **EXACT)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [[1.0]]}, TypeError, r"local_response_norm: x: expected a NumPy or CuPy array, got list"),
        ({"x": np.ones((2, 3), int)}, TypeError, r"all float32 or all float64, but x is int64"),
        ({"x": np.ones((2, 3), np.float16)}, TypeError, r"x is float16"),
        ({"x": draw(3)}, ValueError, r"x must have axes \(N, C, \.\.\.\), got shape \(3,\)"),
        ({"size": 4}, ValueError, r"local_response_norm: size must be odd, got 4"),
        ({"size": 0}, ValueError, r"size must be at least 1, got 0"),
        ({"size": -3}, ValueError, r"size must be at least 1, got -3"),
        ({"size": 5.0}, TypeError, r"size must be an int, got 5.0"),
        ({"alpha": -1e-4}, ValueError, r"alpha must be at least 0 and k more than 0, got -0.0001 and 1.0"),
        ({"alpha": float("nan")}, ValueError, r"alpha must be a finite number, got nan"),
        ({"beta": float("inf")}, ValueError, r"beta must be a finite number, got inf"),
        ({"beta": "0.75"}, ValueError, r"beta must be a finite number, got '0.75'"),
        ({"k": 0}, ValueError, r"k more than 0, got 0.0001 and 0"),
        ({"k": None}, ValueError, r"k must be a finite number, got None"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.local_response_norm_forward(**{"x": draw(2, 3, 4, 4), **arguments})


def test_a_gradient_of_another_shape_or_dtype_is_refused():
    y, cache = ops.local_response_norm_forward(draw(2, 3, 4, 4))
    message = r"local_response_norm_backward: dy must have shape \(2, 3, 4, 4\), got \(2, 3, 4, 5\)"
    with pytest.raises(ValueError, match=message):
        ops.local_response_norm_backward(draw(2, 3, 4, 5), cache)
    with pytest.raises(TypeError, match=r"local_response_norm_backward: .* dy is float32"):
        ops.local_response_norm_backward(y.astype(np.float32), cache)
