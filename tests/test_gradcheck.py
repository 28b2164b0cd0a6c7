"""tinyfcn.gradcheck: it passes right backward passes, fails every wrong one, and says what is wrong."""

import re

import numpy as np
import pytest

from tinyfcn import ops
from tinyfcn.gradcheck import GradientError, check_gradient


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def swap(array):
    """The same shape, with rows and columns of the last two (equal) axes exchanged."""
    return np.ascontiguousarray(array.swapaxes(-1, -2))


LABELS = np.random.default_rng(0).choice([0, 1, 2, 255], (2, 4, 4))
WEIGHTS = np.array([0.5, 2.0, 1.0])

# Each operation: its two passes, as functions of its arguments alone, and arguments of square sizes, so that
# a transposed gradient has the right shape and nothing but its values gives it away.
PASSES = {
    "conv2d": (
        lambda x, w, b: ops.conv2d_forward(x, w, b, stride=(1, 2), padding=1, dilation=(2, 1)),
        ops.conv2d_backward,
        (draw(2, 3, 7, 7), draw(3, 3, 3, 3), draw(3)),
    ),
    "conv_transpose2d": (
        lambda x, w, b: ops.conv_transpose2d_forward(x, w, b, stride=2, padding=1, output_padding=1),
        ops.conv_transpose2d_backward,
        (draw(2, 3, 3, 3), draw(3, 3, 4, 4), draw(3)),
    ),
    "linear": (ops.linear_forward, ops.linear_backward, (draw(4, 4), draw(4, 4), draw(4))),
    "max_pool2d": (
        lambda x: ops.max_pool2d_forward(x, 3, stride=2, padding=1, ceil_mode=True),
        lambda dy, cache: (ops.max_pool2d_backward(dy, cache),),
        (np.random.default_rng(0).permutation(2 * 3 * 49).reshape(2, 3, 7, 7) / 10,),
    ),
    "relu": (
        ops.relu_forward,
        lambda dy, cache: (ops.relu_backward(dy, cache),),
        (draw(3, 5, 5),),
    ),
    "dropout": (
        lambda x: ops.dropout_forward(x, 0.4, np.random.default_rng(0)),
        lambda dy, cache: (ops.dropout_backward(dy, cache),),
        (draw(3, 5, 5),),
    ),
    "upsample_bilinear": (
        lambda x: ops.upsample_bilinear_forward(x, 4, 2),
        lambda dy, cache: (ops.upsample_bilinear_backward(dy, cache),),
        (draw(2, 3, 4, 4),),
    ),
    "softmax_cross_entropy": (
        lambda s: ops.softmax_cross_entropy_forward(s, LABELS, class_weight=WEIGHTS, reduction="none"),
        lambda dy, cache: (ops.softmax_cross_entropy_backward(dy, cache),),
        (draw(2, 3, 4, 4),),
    ),
    "softmax_cross_entropy, mean": (
        lambda s: ops.softmax_cross_entropy_forward(s, LABELS, class_weight=WEIGHTS),
        lambda dy, cache: (ops.softmax_cross_entropy_backward(dy, cache),),
        (draw(2, 3, 4, 4),),
    ),
}
GRADIENTS = [(op, k) for op, (_, _, arguments) in PASSES.items() for k in range(len(arguments))]


def forget_one(g):
    g.flat[abs(g).argmax()] = 0
    return g


def forget_last_channel(g):
    g[-1] = 0
    return g


MUTATIONS = {
    "wrong sign": lambda g: -g,
    "zero": np.zeros_like,
    "half too large": lambda g: 1.5 * g,
    "slightly too large": lambda g: g * (1 + 1e-4),
    "a missing term": forget_last_channel,
    "one entry missing": forget_one,
    "one entry off": lambda g: g + 0.01 * (np.arange(g.size) == g.size // 2).reshape(g.shape),
    "a constant too much": lambda g: g + 0.01,
    "a transposed axis": swap,
    "upside down": lambda g: g[..., ::-1, :] if g.ndim > 1 else g[::-1],
    "shifted by one": lambda g: np.roll(g, 1, axis=-1),
    "averaged over the batch": lambda g: g / 2,
}


@pytest.mark.parametrize("op", PASSES)
def test_a_right_backward_passes(op):
    forward, backward, arguments = PASSES[op]
    result = check_gradient(forward, backward, *arguments)
    assert result.directions >= 8 and result.worst < 1e-6


@pytest.mark.parametrize(
    ("op", "argument", "mutation"),
    [(o, k, m) for o, k in GRADIENTS for m in MUTATIONS if m != "a transposed axis" or PASSES[o][2][k].ndim > 1],
)
def test_a_wrong_backward_fails(op, argument, mutation):
    forward, backward, arguments = PASSES[op]

    def wrong(dy, cache):
        gradients = [g.copy() for g in backward(dy, cache)]
        gradients[argument] = MUTATIONS[mutation](gradients[argument])
        return tuple(gradients)

    with pytest.raises(GradientError, match="backward disagrees with the numerical derivative: worst entry: "):
        check_gradient(forward, wrong, *arguments)


# Mistakes that people make, written as they would write them, one or more an operation.


def conv_with_the_kernel_not_turned_round(dy, cache):
    return ops.conv2d_forward(dy, cache[1].swapaxes(0, 1), padding=1)[0], ops.conv2d_backward(dy, cache)[1]


def conv_that_forgets_the_padding(dy, cache):
    dx = ops.conv2d_backward(dy, cache)[0]
    return dx, ops.conv2d_backward(dy[:, :, 1:-1, 1:-1], ops.conv2d_forward(cache[0], cache[1])[1])[1]


def max_pool_to_every_maximum(dy, cache):
    x, y = cache
    return np.repeat(np.repeat(dy, 2, 2), 2, 3) * (x == np.repeat(np.repeat(y, 2, 2), 2, 3)) * 0.5


def cross_entropy(scores):
    """The summed loss, and a cache that holds what its gradient is made of: p, [k = t], and whether the pixel counts."""
    loss, _ = ops.softmax_cross_entropy_forward(scores, LABELS, reduction="sum")
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return loss, (softmax, LABELS[:, None] == np.arange(3).reshape(3, 1, 1), LABELS[:, None] != 255)


def cross_entropy_backward(dy, cache):
    softmax, is_label, counted = cache
    return dy * counted * (softmax - is_label)


def tied_twice(x):
    """Pooling where the two maxima of a window are one and the same entry: no kink, whichever is chosen."""
    y, _ = ops.max_pool2d_forward(x, 2)
    return y, (x, y)


MISTAKES = {
    "relu that forgets its mask": (ops.relu_forward, lambda dy, cache: dy, draw(5, 5)),
    "relu that passes the negative part": (ops.relu_forward, lambda dy, cache: dy * (cache == 0), draw(5, 5)),
    "dropout that forgets to divide by what it keeps": (
        lambda x: ops.dropout_forward(x, 0.5, np.random.default_rng(0)),
        lambda dy, cache: dy * cache[0],
        draw(5, 5),
    ),
    "dropout with another mask": (
        lambda x: ops.dropout_forward(x, 0.5, np.random.default_rng(0)),
        lambda dy, cache: ops.dropout_backward(dy, ops.dropout_forward(dy, 0.5, np.random.default_rng(1))[1]),
        draw(5, 5),
    ),
    "cross-entropy that forgets the label's term": (
        cross_entropy,
        lambda dy, cache: cross_entropy_backward(dy, (cache[0], 0, cache[2])),
        draw(2, 3, 4, 4),
    ),
    "cross-entropy that counts ignored pixels in its gradient": (
        cross_entropy,
        lambda dy, cache: cross_entropy_backward(dy, (*cache[:2], 1)),
        draw(2, 3, 4, 4),
    ),
    "cross-entropy that ignores the gradient from above": (
        lambda s: ops.softmax_cross_entropy_forward(s, LABELS),
        lambda dy, cache: ops.softmax_cross_entropy_backward(1.0, cache),
        draw(2, 3, 4, 4),
    ),
    "max pooling that shares its gradient": (tied_twice, max_pool_to_every_maximum, draw(1, 2, 6, 6)),
    "bilinear upsampling sent back by picking the nearest": (
        lambda x: ops.upsample_bilinear_forward(x, 4, 2),
        lambda dy, cache: 4 * dy[..., 1:-2:2, 1:-2:2].copy(),
        draw(1, 2, 4, 4),
    ),
    "convolution with the kernel not turned round": (
        lambda x, w: ops.conv2d_forward(x, w, padding=1),
        conv_with_the_kernel_not_turned_round,
        draw(1, 2, 5, 5),
        draw(2, 2, 3, 3),
    ),
    "convolution that forgets the padding in its weight gradient": (
        lambda x, w: ops.conv2d_forward(x, w, padding=1),
        conv_that_forgets_the_padding,
        draw(1, 2, 5, 5),
        draw(2, 2, 3, 3),
    ),
    "transposed convolution with the channels exchanged": (
        ops.conv_transpose2d_forward,
        lambda dy, cache: (
            ops.conv2d_forward(dy, cache[1].swapaxes(0, 1))[0],
            ops.conv_transpose2d_backward(dy, cache)[1],
        ),
        draw(1, 2, 5, 5),
        draw(2, 2, 3, 3),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_that_people_make_fails(mistake):
    forward, backward, *arguments = MISTAKES[mistake]
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(forward, backward, *arguments)


def test_the_cross_entropy_without_a_mistake_passes():
    check_gradient(cross_entropy, cross_entropy_backward, draw(2, 3, 4, 4))


def test_an_argument_of_large_gradients_hides_no_error_in_another():
    x, weight = 1e4 * draw(3, 5), 1e-4 * draw(4, 5)  # entries of dweight are 1e8 times those of dx
    check_gradient(ops.linear_forward, ops.linear_backward, x, weight)
    with pytest.raises(GradientError, match=r"worst entry: x\["):
        check_gradient(ops.linear_forward, lambda dy, c: (-(dy @ c[1]), dy.T @ c[0]), x, weight)


def plant(backward, argument, place, change):
    def wrong(dy, cache):
        gradients = [g.copy() for g in backward(dy, cache)]
        gradients[argument][place] += change
        return tuple(gradients)

    return wrong


@pytest.mark.parametrize(("argument", "name", "place"), [(0, "x", (1, 2, 3, 4)), (1, "weight", (0, 2, 1, 0)), (2, "bias", (2,))])
def test_the_message_names_argument_entry_and_both_values(argument, name, place):
    arguments = draw(2, 3, 5, 6), draw(4, 3, 3, 3), draw(4)
    seen = []

    def right(dy, cache):
        gradients = ops.conv2d_backward(dy, cache)
        seen.append(float(gradients[argument][place]))
        return gradients

    with pytest.raises(GradientError) as error:
        check_gradient(ops.conv2d_forward, plant(right, argument, place, 0.25), *arguments, padding=1)
    entry = ", ".join(map(str, place))
    found = re.search(rf"worst entry: {name}\[{entry}\], backward (\S+), numerical (\S+) ", str(error.value))
    assert found, error.value
    assert float(found[1]) == pytest.approx(seen[0] + 0.25, rel=1e-7)
    assert float(found[2]) == pytest.approx(seen[0], rel=1e-4, abs=1e-6)


def test_names_may_be_given():
    wrong = plant(ops.linear_backward, 1, (0, 1), 1.0)
    with pytest.raises(GradientError, match=r"worst entry: fc7.weight\[0, 1\], backward"):
        check_gradient(ops.linear_forward, wrong, draw(2, 3), draw(4, 3), draw(4), names=["in", "fc7.weight", "fc7.bias"])
    with pytest.raises(ValueError, match="2 names for 3 arguments"):
        check_gradient(ops.linear_forward, wrong, draw(2, 3), draw(4, 3), draw(4), names=["in", "out"])


def test_arguments_of_a_function_without_names_are_numbered():
    with pytest.raises(GradientError, match=r"worst entry: argument 1\[1\], backward"):
        check_gradient(
            lambda *a: (a[0] * a[1], a),
            lambda dy, a: (dy * a[1], dy * a[0] + [0, 1]),
            draw(2),
            draw(2, seed=1),
        )


def test_an_error_in_a_large_argument_is_found():
    x = draw(300, 10)
    with pytest.raises(GradientError, match=r"worst entry: x\[.*\] \(of 500 entries looked at\)"):
        check_gradient(ops.relu_forward, lambda dy, y: dy * (y > 0.5), x)
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(ops.relu_forward, lambda dy, y: forget_one(ops.relu_backward(dy, y)), x)


# Kinks.


def test_a_direction_across_a_kink_is_drawn_anew_and_counted():
    x = draw(20)
    x[3] = 2e-6  # within the step of zero: some directions cross it
    result = check_gradient(ops.relu_forward, ops.relu_backward, x)
    assert result.kinks > 0 and result.directions == 8
    assert f"{result.kinks} drawn anew because of a kink" in str(result)
    assert check_gradient(ops.relu_forward, ops.relu_backward, draw(20)).kinks == 0


def test_no_kink_is_mentioned_where_there_was_none():
    result = check_gradient(ops.linear_forward, ops.linear_backward, draw(2, 3), draw(4, 3), draw(4))
    assert "kink" not in str(result) and "agrees in" in str(result)


@pytest.mark.parametrize(
    ("forward", "backward", "x"),
    [
        (ops.relu_forward, ops.relu_backward, np.array([1.0, 0.0, -2.0])),
        (lambda x: ops.max_pool2d_forward(x, 2), ops.max_pool2d_backward, np.ones((1, 1, 4, 4))),
    ],
    ids=["relu at zero", "max pooling of a tie"],
)
def test_arguments_on_a_kink_are_an_error_that_says_so(forward, backward, x):
    with pytest.raises(GradientError, match=r"every direction meets a kink .* ties and zeros"):
        check_gradient(forward, backward, x)


def test_a_wrong_backward_fails_beside_a_kink_too():
    x = draw(20)
    x[3] = 2e-6
    with pytest.raises(GradientError, match=r"backward disagrees|every direction meets a kink"):
        check_gradient(ops.relu_forward, lambda dy, y: 1.5 * ops.relu_backward(dy, y), x)


def test_many_entries_close_to_a_kink_are_passed_by_shorter_steps():
    x = draw(400, 400)  # some entry lies within the first step of zero in every direction
    result = check_gradient(ops.relu_forward, ops.relu_backward, x, directions=2)
    assert result.kinks > 0
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(ops.relu_forward, lambda dy, y: dy * (y > 0.1), x, directions=2)


# What else may be wrong with the passes.


def test_float32_arguments_are_checked_in_float64():
    x, weight = draw(2, 3).astype(np.float32), draw(4, 3).astype(np.float32)
    seen = []

    def forward(x, weight):
        seen.append((x.dtype, weight.dtype))
        return ops.linear_forward(x, weight)

    assert check_gradient(forward, ops.linear_backward, x, weight).worst < 1e-8
    assert set(seen) == {(np.dtype(np.float64), np.dtype(np.float64))}


def test_float32_options_are_checked_in_float64():
    check_gradient(
        ops.softmax_cross_entropy_forward,
        ops.softmax_cross_entropy_backward,
        draw(2, 3, 4, 4).astype(np.float32),
        LABELS,
        class_weight=WEIGHTS.astype(np.float32),
    )


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda dy, c: dy, r"1 gradients for 2 arguments \(x, weight\)"),
        (lambda dy, c: (dy @ c[1], None), r"1 gradients for 2 arguments"),
        (lambda dy, c: (dy @ c[1], dy.T @ c[0], dy), r"3 gradients for 2 arguments"),
        (
            lambda dy, c: (dy @ c[1], c[0].T @ dy),
            r"gradient of weight has shape \(3, 4\), weight has \(4, 3\)",
        ),
        (lambda dy, c: (dy.sum(0) @ c[1], dy.T @ c[0]), r"gradient of x has shape \(3,\), x has \(2, 3\)"),
        (lambda dy, c: (dy @ c[1] * np.nan, dy.T @ c[0]), r"gradient of x is not finite"),
        (lambda dy, c: (dy @ c[1], dy.T @ c[0] + np.inf), r"gradient of weight is not finite"),
        (
            lambda dy, c: (dy @ c[1], (dy.T @ c[0]).astype(np.float32)),
            r"gradient of weight is float32, weight is float64",
        ),
    ],
)
def test_gradients_of_another_number_shape_or_kind_are_named(backward, message):
    with pytest.raises(GradientError, match=message):
        check_gradient(ops.linear_forward, backward, draw(2, 3), draw(4, 3))


def scribble(array):
    array[...] = 0


def test_passes_that_change_their_arguments_are_named():
    def forward(x, weight):
        y, cache = ops.linear_forward(x, weight)
        x += 1
        return y, cache

    x = draw(2, 3)
    with pytest.raises(GradientError, match="changed their argument x"):
        check_gradient(forward, ops.linear_backward, x, draw(4, 3))
    np.testing.assert_array_equal(x, draw(2, 3))  # it was a copy

    def backward(dy, cache):
        gradients = ops.linear_backward(dy, cache)
        scribble(cache[1])
        return gradients

    with pytest.raises(GradientError, match="changed their argument weight"):
        check_gradient(ops.linear_forward, backward, x, draw(4, 3))


def test_a_backward_that_changes_the_gradient_it_was_given_fails():
    def backward(dy, cache):
        dy *= 2  # twice too large, yet in agreement with a loss that weighs y with this same dy
        return ops.linear_backward(dy, cache)

    with pytest.raises(GradientError, match="changed their argument dy"):
        check_gradient(ops.linear_forward, backward, draw(2, 3), draw(4, 3))


def test_passes_that_change_labels_are_named():
    def forward(scores, labels):
        result = ops.softmax_cross_entropy_forward(scores, labels)
        labels[...] = 0
        return result

    with pytest.raises(GradientError, match="changed their argument labels"):
        check_gradient(forward, ops.softmax_cross_entropy_backward, draw(2, 3, 4, 4), LABELS.copy())


def test_a_random_forward_is_named():
    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="gives another result each time"):
        check_gradient(ops.dropout_forward, ops.dropout_backward, draw(5, 5), 0.5, rng)


def test_values_that_are_not_finite_are_named():
    with pytest.raises(ValueError, match="check_gradient: x is not finite"):
        check_gradient(ops.relu_forward, ops.relu_backward, np.array([1.0, np.nan]))
    with pytest.raises(GradientError, match="forward pass returned values that are not finite"):
        check_gradient(lambda x: (x * np.inf, None), lambda dy, _: dy, draw(3))


def test_a_forward_that_overflows_a_step_away_fails():
    with pytest.raises(GradientError, match="disagrees"):
        check_gradient(lambda x: (np.where(x > 1, np.inf, x), None), lambda dy, _: dy, np.ones(1))


def test_a_derivative_lost_in_rounding_is_no_proof():
    with pytest.raises(GradientError, match="rounding errors of the forward pass hide the derivative of x"):
        check_gradient(lambda x: (x + 1e12, None), lambda dy, _: -dy, draw(5))


@pytest.mark.parametrize("offset", [-1e4, 1e3, 1e4])
def test_the_step_fits_the_spread_of_the_arguments_not_their_offset(offset):
    passes = ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward
    check_gradient(*passes, offset + draw(2, 3, 4, 4), LABELS)


def test_none_and_other_arguments_are_passed_on():
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, draw(1, 2, 5, 5), draw(3, 2, 3, 3), None)
    check_gradient(ops.max_pool2d_forward, ops.max_pool2d_backward, draw(1, 2, 6, 6), 2)
    check_gradient(ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward, draw(2, 3, 4, 4), LABELS)


@pytest.mark.parametrize(
    ("passes", "arguments"),
    [
        ((ops.relu_forward, ops.relu_backward), (np.zeros((0, 3)),)),
        ((ops.conv2d_forward, ops.conv2d_backward), (draw(0, 2, 5, 5), draw(3, 2, 3, 3), draw(3))),
        ((lambda x: (x[:0], x), lambda dy, x: np.zeros_like(x)), (draw(3),)),
    ],
)
def test_nothing_agrees_where_there_is_nothing_to_compare(passes, arguments):
    with pytest.raises(ValueError, match="nothing to compare"):
        check_gradient(*passes, *arguments)


def test_an_argument_without_entries_is_passed_over():
    assert check_gradient(lambda x, y: (2 * x, y), lambda dy, y: (2 * dy, y), draw(3), np.zeros(0)).directions == 8


def test_a_gradient_that_is_zero_passes_and_is_named():
    assert "that of x is 0 here" in str(check_gradient(ops.relu_forward, ops.relu_backward, -abs(draw(4)) - 1))
    ignored = np.full((2, 4, 4), 255)
    passes = ops.softmax_cross_entropy_forward, ops.softmax_cross_entropy_backward
    assert check_gradient(*passes, draw(2, 3, 4, 4), ignored).zero == ("scores",)
    assert check_gradient(*passes, draw(2, 3, 4, 4), LABELS).zero == ()


def test_a_gradient_of_zero_is_no_proof_where_rounding_hides_another():
    with pytest.raises(GradientError, match="rounding errors of the forward pass hide the derivative of x"):
        check_gradient(lambda x: (x + 1e12, x), lambda dy, x: 0 * dy, draw(5))


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
def test_zero_and_a_derivative_that_is_not_disagree_either_way(size):
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(lambda x: (size * x, None), lambda dy, _: 0 * dy, draw(5))
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(lambda x: (0 * x, None), lambda dy, _: size * dy, draw(5))


# Normalisations: their gradients are orthogonal to their input, and so vanish for a dy that is x itself.


def l2_forward(x):
    norm = np.sqrt((x**2).sum(axis=1, keepdims=True))
    return x / norm, (x / norm, norm)


def l2_backward(dy, cache):
    y, norm = cache
    return (dy - y * (dy * y).sum(axis=1, keepdims=True)) / norm


def batch_norm_forward(x, gain, shift):
    deviation = x.std(axis=0)
    y = (x - x.mean(axis=0)) / deviation
    return gain * y + shift, (y, gain, deviation)


def batch_norm_backward(dy, cache):
    y, gain, deviation = cache
    d = dy * gain
    return (d - d.mean(axis=0) - y * (d * y).mean(axis=0)) / deviation, (dy * y).sum(axis=0), dy.sum(axis=0)


def biased_forward(x, bias):
    """Batch normalisation takes a bias away again: its gradient is 0 but for rounding."""
    y, cache = batch_norm_forward(x + bias, 1.0, 0.0)
    return y, cache


def biased_backward(dy, cache):
    dx = batch_norm_backward(dy, cache)[0]
    return dx, dx.sum(axis=0)


def whole_forward(x):
    return x / np.sqrt((x**2).sum()), x


def whole_backward(dy, x):
    norm = np.sqrt((x**2).sum())
    return dy / norm - x * (dy * x).sum() / norm**3


NORMALISATIONS = {
    "L2": (l2_forward, l2_backward, ((6, 5),)),
    "L2 of all": (whole_forward, whole_backward, ((6, 5),)),
    "batch normalisation": (batch_norm_forward, batch_norm_backward, ((6, 5), (5,), (5,))),
    "batch normalisation of a biased input": (biased_forward, biased_backward, ((6, 5), (5,))),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", NORMALISATIONS)
def test_a_normalisation_is_judged_rightly_whatever_seed_its_input_and_the_check_have(name, seed):
    forward, backward, shapes = NORMALISATIONS[name]
    rng = np.random.default_rng(seed)
    arguments = [rng.normal(size=shape) for shape in shapes]
    for check_seed in (0, seed):
        check_gradient(forward, backward, *arguments, seed=check_seed)

        def without_the_projection(dy, cache):
            _, *others = backward(dy, cache) if len(shapes) > 1 else (backward(dy, cache),)
            return dy.copy(), *others

        for wrong in (without_the_projection, lambda dy, cache: tuple(0 * a for a in arguments)):
            with pytest.raises(GradientError, match="backward disagrees"):
                check_gradient(forward, wrong, *arguments, seed=check_seed)


def test_a_gradient_of_zero_where_there_is_one_fails():
    with pytest.raises(GradientError, match="backward disagrees"):
        check_gradient(ops.relu_forward, lambda dy, y: np.zeros_like(dy), draw(4, 4))


def test_a_seed_repeats_a_check():
    x, weight = draw(2, 3), draw(4, 3)
    first, again, other = (
        check_gradient(ops.linear_forward, ops.linear_backward, x, weight, seed=seed).worst for seed in (1, 1, 2)
    )
    assert first == again != other


def test_something_must_be_checked():
    with pytest.raises(ValueError, match="at least one floating-point array"):
        check_gradient(ops.relu_forward, ops.relu_backward, np.arange(3))
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        check_gradient(ops.relu_forward, ops.relu_backward, draw(3), directions=0)
