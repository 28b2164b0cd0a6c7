"""tinyfcn.ops.activation: ReLU and dropout."""

import numpy as np
import pytest
from devices import ops

from tinyfcn.gradcheck import check_gradient

pytestmark = pytest.mark.usefixtures("device")


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def dropout(x, rate, seed):
    return ops.dropout_forward(x, rate, np.random.default_rng(seed))


def test_relu_passes_what_is_positive_and_its_gradient():
    x = np.array([-2.0, -0.0, 0.0, 1e-300, 3.0, np.inf, -np.inf])
    y, cache = ops.relu_forward(x)
    np.testing.assert_array_equal(y, [0, 0, 0, 1e-300, 3, np.inf, 0])
    np.testing.assert_array_equal(ops.relu_backward(np.arange(1.0, 8.0), cache), [0, 0, 0, 4, 5, 6, 0])


def test_relu_lets_nan_through():
    assert np.isnan(ops.relu_forward(np.array([np.nan]))[0]).all()


@pytest.mark.parametrize("shape", [(0, 3), (5,), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shape_and_dtype_are_kept(shape, dtype):
    x = draw(*shape, dtype=dtype)
    for y, dx in [
        (lambda y, cache: (y, ops.relu_backward(y, cache)))(*ops.relu_forward(x)),
        (lambda y, cache: (y, ops.dropout_backward(y, cache)))(*dropout(x, 0.4, 0)),
    ]:
        assert y.shape == dx.shape == shape and y.dtype == dx.dtype == dtype


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = draw(4, 6, 5)
    kept = whole.copy()
    whole.flags.writeable = False
    x = whole.T[::-1, ::2]
    y, cache = ops.relu_forward(x)
    np.testing.assert_array_equal(y, np.where(x > 0, x, 0))
    np.testing.assert_array_equal(ops.relu_backward(x, cache), np.where(x > 0, x, 0))
    y, cache = dropout(x, 0.5, 3)
    np.testing.assert_array_equal(y, dropout(x.copy(), 0.5, 3)[0])
    np.testing.assert_array_equal(ops.dropout_backward(x, cache), y)
    np.testing.assert_array_equal(whole, kept)


def test_gradient_checks():
    x = np.asfortranarray(draw(3, 5, 7))
    check_gradient(ops.relu_forward, ops.relu_backward, x)
    check_gradient(lambda x: dropout(x, 0.3, 5), ops.dropout_backward, x)


def test_a_seed_drops_the_same_entries_again_and_in_both_dtypes():
    first, again, other = (dropout(np.ones((50, 50)), 0.5, seed)[0] for seed in (1, 1, 2))
    single, _ = dropout(np.ones((50, 50), np.float32), 0.5, 1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, single)
    assert (first != other).any()


def test_a_generator_draws_anew_each_time():
    rng = np.random.default_rng(0)
    first, second = (ops.dropout_forward(np.ones((20, 20)), 0.5, rng)[0] for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_expectation(rate):
    y, _ = dropout(np.ones((400, 500)), rate, 0)
    sigma = (rate * (1 - rate) / y.size) ** 0.5
    assert abs((y == 0).mean() - rate) < 5 * sigma
    assert abs(y.mean() - 1) < 5 * sigma / (1 - rate)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-15)


def test_neighbours_are_dropped_one_by_one():
    dropped = dropout(np.ones((8, 16, 40, 40)), 0.5, 0)[0] == 0
    for axis in range(4):
        same = (np.diff(dropped.astype(int), axis=axis) == 0).mean()
        assert abs(same - 0.5) < 0.01


def test_dropout_sends_the_gradient_where_it_let_values_through():
    x = np.ones((30, 30))
    y, cache = dropout(x, 0.5, 0)
    np.testing.assert_array_equal(ops.dropout_backward(3 * x, cache), 3 * y)


@pytest.mark.parametrize("rate", [0, 0.0])
def test_rate_zero_changes_nothing(rate):
    x = draw(5, 5)
    y, cache = dropout(x, rate, 0)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(ops.dropout_backward(x, cache), x)


@pytest.mark.parametrize("rate", [1, 1.0, -0.1, 1.5, float("nan"), float("inf"), None, "0.5"])
def test_a_bad_rate_is_named(rate):
    with pytest.raises(ValueError, match=rf"dropout: rate must be at least 0 and less than 1, got {rate!r}"):
        dropout(draw(2, 2), rate, 0)


@pytest.mark.parametrize("rng", [0, None, np.random.RandomState(0)], ids=["int", "None", "RandomState"])
def test_a_bad_generator_is_named(rng):
    message = rf"dropout: rng must be a (numpy|cupy).random.Generator, got {type(rng).__name__}"
    with pytest.raises(TypeError, match=message):
        ops.dropout_forward(draw(2, 2), 0.5, rng)


@pytest.mark.parametrize("x", [[1.0], np.ones(3, int), np.ones(3, np.float16), 1.0], ids=["list", "int64", "float16", "float"])
def test_inputs_other_than_float_arrays_are_named(x, request):
    name = request.node.callspec.id.split("-")[-1]
    with pytest.raises(TypeError, match=rf"relu: .*{name}"):
        ops.relu_forward(x)
    with pytest.raises(TypeError, match=rf"dropout: .*{name}"):
        dropout(x, 0.5, 0)


def test_a_gradient_of_another_shape_or_dtype_is_refused():
    _, mask = ops.relu_forward(draw(3, 4))
    with pytest.raises(ValueError, match=r"relu_backward: dy must have shape \(3, 4\), got \(4,\)"):
        ops.relu_backward(draw(4), mask)
    with pytest.raises(TypeError, match=r"relu_backward: .* dy is float32"):
        ops.relu_backward(draw(3, 4, dtype=np.float32), mask)
    _, kept = dropout(draw(3, 4), 0.5, 0)
    with pytest.raises(ValueError, match=r"dropout_backward: dy must have shape \(3, 4\), got \(4,\)"):
        ops.dropout_backward(draw(4), kept)
