"""tinyfcn.ops.linear: values and gradients against loops, its convolutional form, and bad arguments."""

import numpy as np
import pytest
import reference
from devices import ops

from tinyfcn.gradcheck import check_gradient

pytestmark = pytest.mark.usefixtures("device")

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize(("batch", "features", "outputs"), [(3, 5, 4), (1, 1, 1), (0, 3, 2), (7, 1, 6), (2, 9, 1)])
def test_values_and_gradients_equal_the_loops(batch, features, outputs):
    x, weight, bias = draw(batch, features), draw(outputs, features), draw(outputs)
    y, cache = ops.linear_forward(x, weight, bias)
    np.testing.assert_allclose(y, reference.linear(x, weight, bias), **EXACT)
    dy = draw(batch, outputs, seed=1)
    for a, b in zip(ops.linear_backward(dy, cache), reference.linear_backward(dy, x, weight), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **EXACT)


def test_it_is_a_convolution_whose_kernel_covers_the_input():
    x, weight, bias = draw(2, 3, 4, 5), draw(6, 3, 4, 5), draw(6)
    y, cache = ops.linear_forward(x.reshape(2, -1), weight.reshape(6, -1), bias)
    same, same_cache = ops.conv2d_forward(x, weight, bias)
    np.testing.assert_allclose(y, same[:, :, 0, 0], **EXACT)
    dy = draw(2, 6)
    for a, b in zip(ops.linear_backward(dy, cache), ops.conv2d_backward(dy[:, :, None, None], same_cache), strict=True):
        np.testing.assert_allclose(a, b.reshape(a.shape), **EXACT)


def test_no_bias_gives_no_bias_gradient():
    y, cache = ops.linear_forward(draw(2, 3), draw(4, 3))
    np.testing.assert_allclose(y, reference.linear(draw(2, 3), draw(4, 3), np.zeros(4)), **EXACT)
    assert ops.linear_backward(y, cache)[2] is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    y, cache = ops.linear_forward(*(draw(*s, dtype=dtype) for s in [(2, 3), (4, 3), (4,)]))
    assert {a.dtype for a in (y, *ops.linear_backward(y, cache))} == {np.dtype(dtype)}


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = [draw(3, 8), draw(6, 4), draw(8)]
    kept = [a.copy() for a in whole]
    for a in whole:
        a.flags.writeable = False
    x, weight, bias = whole[0].T[::-1], whole[1].T[:, ::2], whole[2][::-2]
    y, cache = ops.linear_forward(x, weight, bias)
    np.testing.assert_allclose(y, reference.linear(x, weight, bias), **EXACT)
    dy = draw(4, 8).T
    for a, b in zip(ops.linear_backward(dy, cache), reference.linear_backward(dy, x, weight), strict=True):
        np.testing.assert_allclose(a, b, **EXACT)
    for a, b in zip(whole, kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_check():
    x = np.asfortranarray(draw(3, 5))
    check_gradient(ops.linear_forward, ops.linear_backward, x, draw(4, 5), draw(4))
    check_gradient(ops.linear_forward, ops.linear_backward, x, draw(4, 5), None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]], draw(4, 3)), TypeError, r"linear: x and weight: expected a NumPy or CuPy array, got list"),
        (
            (draw(2, 3), draw(4, 3, dtype=np.float32)),
            TypeError,
            r"linear: .* x is float64, weight is float32",
        ),
        ((draw(2, 3, 1), draw(4, 3)), ValueError, r"x must have axes \(N, D_in\), got shape \(2, 3, 1\)"),
        ((draw(2, 3), draw(3)), ValueError, r"weight must have axes \(D_out, D_in\), got shape \(3,\)"),
        ((draw(2, 3), draw(3, 4)), ValueError, r"linear: x has 3 features, weight expects 4"),
        ((draw(2, 3), draw(4, 3), draw(3)), ValueError, r"bias must have shape \(4,\), got \(3,\)"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        ops.linear_forward(*arguments)


def test_a_gradient_of_another_shape_is_refused():
    _, cache = ops.linear_forward(draw(2, 3), draw(4, 3))
    with pytest.raises(ValueError, match=r"linear_backward: dy must have shape \(2, 4\), got \(4, 2\)"):
        ops.linear_backward(draw(4, 2), cache)
