import numpy as np
import pytest
from devices import ConfusionMatrix

pytestmark = pytest.mark.usefixtures("device")


def example():
    labels = np.array([[0, 0, 1], [1, 1, 255], [2, 0, 255]], np.uint8)
    predictions = np.array([[0, 1, 1], [1, 0, 2], [2, 0, 0]], np.uint8)
    matrix = ConfusionMatrix(4)
    matrix.update(labels, predictions)
    return matrix


def test_scores_of_a_small_example_worked_by_hand():
    matrix = example()
    # class 0: 3 pixels, 2 right, 1 wrongly added; class 1: 3, 2, 1; class 2: 1, 1, 0; class 3 is absent
    assert np.array_equal(matrix.counts, [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert matrix.pixel_accuracy == pytest.approx(5 / 7)
    assert matrix.mean_accuracy == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert matrix.mean_iou == pytest.approx((2 / 4 + 2 / 4 + 1) / 3)
    assert matrix.frequency_weighted_iou == pytest.approx((3 * 0.5 + 3 * 0.5 + 1) / 7)
    assert np.array_equal(np.isnan(matrix.iou), [False, False, False, True])


def test_a_class_that_is_predicted_but_absent_lowers_others_only():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 0, 0, 1]), np.array([0, 2, 2, 1]))
    assert matrix.mean_iou == pytest.approx((1 / 3 + 1) / 2)


def test_batches_add_up_to_one_matrix():
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 4, 6, 7))
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(labels, predictions)
    for a, b in zip(labels, predictions, strict=True):
        parts.update(a, b)
    assert np.array_equal(whole.counts, parts.counts)
    naive = np.zeros((5, 5), int)
    for a, b in zip(labels.ravel(), predictions.ravel(), strict=True):
        naive[a, b] += 1
    assert np.array_equal(whole.counts, naive)


def test_without_pixels_every_score_is_nan():
    matrix = ConfusionMatrix(3)
    matrix.update(np.full((2, 2), 255), np.zeros((2, 2), int))
    assert all(np.isnan(value) for value in matrix.scores().values())


def test_the_baseline_predicts_the_most_frequent_class():
    baseline = example().constant_baseline()
    assert baseline.pixel_accuracy == pytest.approx(3 / 7)
    assert baseline.mean_iou == pytest.approx(3 / 7 / 3)


@pytest.mark.parametrize(
    "labels, predictions, message",
    [
        ([0, 3], [0, 0], "label 3 is not among the 3 classes"),
        ([0, 1], [0, 7], "prediction 7 is not among the 3 classes"),
        ([0, 1, 2], [0, 1], "do not fit"),
    ],
)
def test_bad_values_are_named_or_on_a_gpu_counted(device, labels, predictions, message):
    matrix = ConfusionMatrix(3)
    if device != "cpu" and message != "do not fit":
        message = "1 pixels have a label or prediction not among the 3 classes"
    with pytest.raises(ValueError, match=message):
        matrix.update(np.array(labels), np.array(predictions))
        assert device != "cpu"
        matrix.scores()  # on a GPU it shows when the counts are read
