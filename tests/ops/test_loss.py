"""tinyfcn.ops.loss: values and gradients against loops, ignored pixels, weights, extreme scores."""

import numpy as np
import pytest
import reference
from devices import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.gradcheck import check_gradient

pytestmark = pytest.mark.usefixtures("device")

EXACT = {"rtol": 1e-11, "atol": 1e-12}
QUICK = settings(max_examples=100, deadline=None, derandomize=True, database=None)
REDUCTIONS = ["mean", "sum", "none"]


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def draw_labels(*shape, classes, ignored=0.3, seed=0):
    rng = np.random.default_rng([seed, *shape])
    return np.where(rng.random(shape) < ignored, 255, rng.integers(0, classes, shape)).astype(np.uint8)


def agree_with_reference(scores, labels, reduction, class_weight=None, ignore_index=255):
    named = {"ignore_index": ignore_index, "class_weight": class_weight}
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction, **named)
    np.testing.assert_allclose(loss, reference.softmax_cross_entropy(scores, labels, reduction=reduction, **named), **EXACT)
    dloss = draw(*loss.shape, seed=9) if reduction == "none" else 1.7
    pixelwise = np.broadcast_to(dloss, labels.shape)
    if reduction == "mean":
        ones = np.ones(scores.shape[1]) if class_weight is None else class_weight
        total = sum(ones[label] for label in labels.ravel() if label != ignore_index)
        pixelwise = pixelwise / (total or 1)
    expected = reference.softmax_cross_entropy_backward(scores, labels, pixelwise, **named)
    for _ in range(2):  # the cache stays as it is
        np.testing.assert_allclose(ops.softmax_cross_entropy_backward(dloss, cache), expected, **EXACT)


@QUICK
@given(
    st.tuples(st.integers(0, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
    st.sampled_from(REDUCTIONS),
    st.booleans(),
    st.sampled_from([0.1, 1.0, 30.0]),
)
def test_any_shape_and_option_equals_the_loops(shape, reduction, weighted, scale):
    images, classes, height, width = shape
    class_weight = np.arange(1.0, classes + 1) / 3 if weighted else None
    labels = draw_labels(images, height, width, classes=classes)
    agree_with_reference(scale * draw(*shape), labels, reduction, class_weight)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("pixels", [1, 5, 12, 1 << 13])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_pieces_and_threads_change_nothing(monkeypatch, reduction, pixels, threads):
    monkeypatch.setattr("tinyfcn.ops.loss.PIXELS", pixels)
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    labels = draw_labels(3, 4, 3, classes=5)
    agree_with_reference(draw(3, 5, 4, 3), labels, reduction, np.array([0.5, 2.0, 1.0, 0.0, 3.0]))
    for layout in draw(3, 4, 3, 5).transpose(0, 3, 1, 2), draw(4, 3, 3, 5).transpose(2, 3, 0, 1):  # channels last, and images too
        agree_with_reference(layout, labels, reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("ignore_index", "kind"), [(255, np.uint8), (-1, np.int64), (-100, np.int16), (0, np.uint8), (1, int)])
def test_any_label_may_be_the_ignored_one(reduction, ignore_index, kind):
    labels = np.array([[[0, 1, 2], [2, 1, 0]]]).astype(kind)
    labels[0, 0, 2] = ignore_index
    agree_with_reference(draw(1, 3, 2, 3), labels, reduction, np.array([0.5, 2.0, 1.0]), ignore_index)


def test_equal_scores_cost_the_logarithm_of_the_number_of_classes():
    scores, labels = np.full((1, 21, 2, 2), 3.0), np.array([[[0, 5], [20, 255]]])
    assert ops.softmax_cross_entropy_forward(scores, labels)[0] == pytest.approx(np.log(21), rel=1e-14)
    assert ops.softmax_cross_entropy_forward(scores, labels, reduction="sum")[0] == pytest.approx(3 * np.log(21), rel=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_sums_to_zero_over_the_classes(reduction, dtype):
    scores, labels = draw(2, 5, 4, 3, dtype=dtype), draw_labels(2, 4, 3, classes=5)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction)
    dscores = ops.softmax_cross_entropy_backward(np.ones_like(loss), cache)
    assert abs(dscores).max() > 1e-3
    np.testing.assert_allclose(dscores.sum(axis=1), 0, atol=1e-6 if dtype == np.float32 else 1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_raising_all_scores_alike_changes_nothing(shift, dtype):
    scores = np.round(64 * draw(1, 4, 3, 3)).astype(dtype) / 64  # so that the sum with 1e4 is exact in float32 too
    labels = draw_labels(1, 3, 3, classes=4)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels)
    shifted, shifted_cache = ops.softmax_cross_entropy_forward(scores + dtype(shift), labels)
    assert shifted == loss
    np.testing.assert_array_equal(
        ops.softmax_cross_entropy_backward(1.0, cache), ops.softmax_cross_entropy_backward(1.0, shifted_cache)
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_scores_cost_their_difference(dtype):
    scores = np.array([[1e4, -1e4, 1e4], [-1e4, 1e4, 1e4]], dtype)[None]  # (1, 2, 3): any number of axes may follow
    loss, cache = ops.softmax_cross_entropy_forward(scores, np.array([[0, 0, 0]]), reduction="none")
    np.testing.assert_allclose(loss, [[0, 2e4, np.log(2)]], rtol=1e-6)
    dscores = ops.softmax_cross_entropy_backward(np.ones_like(loss), cache)
    np.testing.assert_allclose(dscores, [[[0, -1, -0.5], [0, 1, 0.5]]], atol=1e-7)


@pytest.mark.parametrize("class_weight", [None, np.array([1.0, 0.0, 2.0])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_but_ignored_pixels_gives_zero_loss_and_zero_gradient(reduction, class_weight):
    labels = np.full((2, 4, 4), 255, np.uint8)
    loss, cache = ops.softmax_cross_entropy_forward(
        1e4 * draw(2, 3, 4, 4), labels, reduction=reduction, class_weight=class_weight
    )
    np.testing.assert_array_equal(loss, np.zeros_like(loss))
    np.testing.assert_array_equal(ops.softmax_cross_entropy_backward(np.ones_like(loss), cache), np.zeros((2, 3, 4, 4)))


def test_an_ignored_pixel_has_no_gradient_and_its_scores_no_effect():
    scores, labels = draw(1, 3, 2, 2), np.array([[[0, 1], [255, 2]]])
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels)
    assert not ops.softmax_cross_entropy_backward(1.0, cache)[0, :, 1, 0].any()
    scores[0, :, 1, 0] = 77.0, -3.0, 5.0
    assert ops.softmax_cross_entropy_forward(scores, labels)[0] == loss


def test_the_weighted_mean_is_over_the_weights():
    scores, labels = draw(1, 2, 1, 2), np.array([[[0, 1]]])
    each = ops.softmax_cross_entropy_forward(scores, labels, reduction="none")[0][0, 0]
    loss, _ = ops.softmax_cross_entropy_forward(scores, labels, class_weight=np.array([3.0, 1.0]))
    assert loss == pytest.approx((3 * each[0] + each[1]) / 4, rel=1e-14)


def test_weights_of_zero_alone_give_zero_not_nan():
    loss, cache = ops.softmax_cross_entropy_forward(draw(1, 2, 2, 2), np.zeros((1, 2, 2), int), class_weight=np.zeros(2))
    assert loss == 0 and not ops.softmax_cross_entropy_backward(1.0, cache).any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype, reduction):
    loss, cache = ops.softmax_cross_entropy_forward(
        draw(2, 3, 4, 4, dtype=dtype),
        draw_labels(2, 4, 4, classes=3),
        reduction=reduction,
        class_weight=np.ones(3, dtype),
    )
    assert loss.dtype == dtype
    assert ops.softmax_cross_entropy_backward(np.ones(loss.shape), cache).dtype == dtype


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
def test_labels_of_every_integer_type_mean_the_same(kind):
    scores, labels = draw(1, 3, 3, 3), draw_labels(1, 3, 3, classes=3, ignored=0)
    expected = ops.softmax_cross_entropy_forward(scores, labels)[0]
    assert ops.softmax_cross_entropy_forward(scores, labels.astype(kind))[0] == expected


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_batch_of_none(reduction):
    loss, cache = ops.softmax_cross_entropy_forward(draw(0, 3, 2, 2), np.zeros((0, 2, 2), int), reduction=reduction)
    assert loss.shape == ((0, 2, 2) if reduction == "none" else ()) and loss.sum() == 0
    assert ops.softmax_cross_entropy_backward(np.ones(loss.shape), cache).shape == (0, 3, 2, 2)


def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged():
    whole = [draw(5, 4, 6, 2), draw_labels(4, 5, 2, classes=3), np.array([0.5, 9.0, 1.0, 9.0, 2.0, 9.0])]
    kept = [a.copy() for a in whole]
    for a in whole:
        a.flags.writeable = False
    scores, labels, weight = whole[0].T[:, ::2, ::-1], whole[1].T[:, :, ::-1].swapaxes(1, 2), whole[2][::2]
    for reduction in REDUCTIONS:
        agree_with_reference(scores, labels, reduction, weight)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction="none")
    dloss = draw(*loss.shape[::-1])
    dloss.flags.writeable = False
    np.testing.assert_array_equal(
        ops.softmax_cross_entropy_backward(dloss.T, cache),
        ops.softmax_cross_entropy_backward(dloss.T.copy(), cache),
    )
    for a, b in zip(whole, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("class_weight", [None, np.array([0.3, 1.0, 4.0])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradient_check(reduction, class_weight):
    scores, labels = np.asfortranarray(draw(2, 3, 5, 3)), draw_labels(2, 5, 3, classes=3)
    check_gradient(
        ops.softmax_cross_entropy_forward,
        ops.softmax_cross_entropy_backward,
        scores,
        labels,
        reduction=reduction,
        class_weight=class_weight,
    )


SCORES, LABELS = draw(1, 3, 2, 2), np.zeros((1, 2, 2), int)


@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "message"),
    [
        (
            [[1.0]],
            LABELS,
            {},
            TypeError,
            r"softmax_cross_entropy: scores: expected a NumPy or CuPy array, got list",
        ),
        (SCORES.astype(int), LABELS, {}, TypeError, r"softmax_cross_entropy: .* scores is int64"),
        (
            SCORES,
            LABELS.astype(float),
            {},
            TypeError,
            r"labels must be integers of the scores' module, got float64",
        ),
        (
            SCORES,
            LABELS.astype(bool),
            {},
            TypeError,
            r"labels must be integers of the scores' module, got bool",
        ),
        (
            SCORES,
            LABELS[0],
            {},
            ValueError,
            r"scores of shape \(1, 3, 2, 2\) do not fit labels of shape \(2, 2\)",
        ),
        (SCORES, LABELS[:, :1], {}, ValueError, r"do not fit labels of shape \(1, 1, 2\)"),
        (SCORES[0, 0, 0], LABELS, {}, ValueError, r"scores of shape \(2,\) do not fit"),
        (
            SCORES,
            LABELS,
            {"reduction": "average"},
            ValueError,
            r"reduction must be one of mean, sum, none, got 'average'",
        ),
        (
            SCORES,
            LABELS,
            {"class_weight": np.ones(4)},
            ValueError,
            r"class_weight must have shape \(3,\), got \(4,\)",
        ),
        (SCORES, LABELS, {"class_weight": np.ones(3, np.float32)}, TypeError, r"class_weight is float32"),
        (
            SCORES,
            LABELS,
            {"class_weight": [1.0, 1.0, 1.0]},
            TypeError,
            r"scores and class_weight: .* got list",
        ),
    ],
)
def test_bad_arguments_are_named(scores, labels, options, error, message):
    with pytest.raises(error, match=message):
        ops.softmax_cross_entropy_forward(scores, labels, **options)


@pytest.mark.parametrize(("label", "ignore_index"), [(3, 255), (-1, 255), (255, 0)])
def test_a_label_that_is_no_class_is_named_or_on_a_gpu_makes_its_pixel_nan(device, label, ignore_index):
    scores, labels = draw(2, 3, 2, 2), np.ones((2, 2, 2), int)
    labels[1, 0, 1] = label
    if device == "cpu":
        with pytest.raises(
            ValueError, match=f"label {label} is not among the 3 classes 0 to 2, nor the ignore label {ignore_index}"
        ):
            ops.softmax_cross_entropy_forward(scores, labels, ignore_index=ignore_index)
        return
    options = {"ignore_index": ignore_index, "reduction": "none"}
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, **options)
    dscores = ops.softmax_cross_entropy_backward(np.ones(loss.shape), cache)
    np.testing.assert_array_equal(np.isnan(loss), labels == label)
    assert np.isnan(dscores[1, :, 0, 1]).all() and np.isnan(dscores).sum() == 3
    assert np.isnan(ops.softmax_cross_entropy_forward(scores, labels, ignore_index=ignore_index)[0])


@pytest.mark.parametrize(
    ("reduction", "dloss", "message"),
    [
        ("none", np.ones((2, 2)), r"dloss must have shape \(1, 2, 2\), got \(2, 2\)"),
        ("none", 1.0, r"dloss must have shape \(1, 2, 2\), got \(\)"),
        ("mean", np.ones((1, 2, 2)), r"dloss must have shape \(\), got \(1, 2, 2\)"),
    ],
)
def test_a_gradient_of_another_shape_is_refused(reduction, dloss, message):
    _, cache = ops.softmax_cross_entropy_forward(SCORES, LABELS, reduction=reduction)
    with pytest.raises(ValueError, match="softmax_cross_entropy_backward: " + message):
        ops.softmax_cross_entropy_backward(dloss, cache)


def test_an_ignored_pixel_may_have_infinite_scores():
    scores = np.zeros((1, 3, 1, 2))
    scores[0, 0, 0, 0] = -np.inf
    loss, cache = ops.softmax_cross_entropy_forward(scores, np.array([[[255, 1]]]))
    assert loss == pytest.approx(np.log(3))
    assert (ops.softmax_cross_entropy_backward(1.0, cache)[..., 0] == 0).all()
