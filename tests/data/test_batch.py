"""tinyfcn/data/batch.py: images and labels move together, and become what each set of weights expects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.data import PREPROCESSING, crop, mirror, normalise, resize, stack, training_batch, zoomed
from tinyfcn.data.batch import MEAN_COLOUR
from tinyfcn.errors import InputError


def coordinate_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair that knows its coordinates: red is the row, green the column, the label their sum's parity."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.full_like(rows, 200)], axis=2).astype(np.uint8)
    return image, ((rows + columns) % 2).astype(np.uint8)


# Normalisation


def test_caffe_is_bgr_minus_the_mean():
    x = normalise(np.array([[[[10, 20, 30]]]], np.uint8), "caffe")
    np.testing.assert_allclose(x[0, :, 0, 0], [30 - 104.00699, 20 - 116.66877, 10 - 122.67892], rtol=1e-6)


def test_torchvision_is_rgb_over_255_standardised():
    x = normalise(np.array([[[[0, 51, 255]]]], np.uint8), "torchvision")
    expected = [(0 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(x[0, :, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "order", "scale", "mean", "std"),
    [
        ("caffe", (2, 1, 0), 1, (104.00699, 116.66877, 122.67892), (1, 1, 1)),
        ("torchvision", (0, 1, 2), 1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_normalise_agrees_with_a_loop_over_pixels(name, order, scale, mean, std):
    images = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    x = normalise(images, name)
    for n, row, column in np.ndindex(2, 3, 4):
        for channel in range(3):
            value = (int(images[n, row, column, order[channel]]) * scale - mean[channel]) / std[channel]
            assert x[n, channel, row, column] == pytest.approx(value, abs=2e-5)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_normalised_layout(name):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    before = images.copy()
    x = normalise(images[:, ::-1], name)
    assert x.shape == (2, 3, 5, 7) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(normalise(images, name)[:, :, ::-1], x)


@pytest.mark.parametrize("name", PREPROCESSING)
def test_mean_colour_is_neutral(name):
    x = normalise(np.full((1, 1, 1, 3), MEAN_COLOUR, np.uint8), name)
    grey_level = PREPROCESSING[name].scale / min(PREPROCESSING[name].std)
    assert np.abs(x).max() < 2 * grey_level


def test_unknown_preprocessing_names_those_there_are():
    with pytest.raises(InputError, match=r"'keras'.*caffe, torchvision, vgg"):
        normalise(np.zeros((1, 1, 1, 3), np.uint8), "keras")


# Geometry


def test_mirror_swaps_left_and_right():
    image, label = mirror(*coordinate_pair(3, 4))
    assert image[0, :, 1].tolist() == [3, 2, 1, 0]
    assert label[0].tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(("size", "shape"), [(2.0, (6, 10)), (0.5, (2, 2)), (0.01, (1, 1)), ((7, 2), (7, 2)), (1.0, (3, 5))])
def test_resize_to_a_factor_or_a_size(size, shape):
    image, label = resize(*coordinate_pair(3, 5), size)
    assert image.shape == (*shape, 3) and label.shape == shape
    assert image.dtype == label.dtype == np.uint8


def test_resize_makes_no_new_label():
    label = np.array([[0, 20, 255, 3]], np.uint8)
    assert resize(np.zeros((1, 4, 3), np.uint8), label, (1, 8))[1].tolist() == [[0, 0, 20, 20, 255, 255, 3, 3]]
    assert resize(np.zeros((1, 4, 3), np.uint8), label, (1, 2))[1].tolist() == [[20, 3]]


@pytest.mark.parametrize(
    ("max_side", "shape"), [(None, (20, 40)), (40, (20, 40)), (99, (20, 40)), (10, (5, 10)), (30, (15, 30)), (1, (1, 1))]
)
def test_a_view_has_a_bounded_longer_side(max_side, shape):
    for turned in (False, True):  # a lying and a standing picture
        pair = coordinate_pair(40, 20) if turned else coordinate_pair(20, 40)
        image, label = zoomed(*pair, max_side=max_side)
        assert label.shape == image.shape[:2] == (shape[::-1] if turned else shape)
        assert set(np.unique(label)) <= {0, 1}
        if shape == (20, 40):
            np.testing.assert_array_equal(image, pair[0])


def test_a_zoomed_view_grows_up_to_its_bound():
    pair = coordinate_pair(20, 40)
    assert zoomed(*pair, 1.5)[1].shape == (30, 60)
    assert zoomed(*pair, 1.5, 100)[1].shape == (30, 60)
    assert zoomed(*pair, 1.5, 50)[1].shape == (25, 50)
    assert zoomed(*pair, 1.5, 20)[1].shape == (10, 20)


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.floats(0.2, 4))
@settings(deadline=None, max_examples=50)
def test_resize_keeps_to_the_labels_there_are(shape, factor):
    label = np.random.default_rng(shape).choice(np.array([0, 7, 20, 255], np.uint8), shape)
    assert set(np.unique(resize(np.zeros((*shape, 3), np.uint8), label, factor)[1])) <= set(np.unique(label))


def test_resize_interpolates_images_in_place():
    """Doubling puts the centres of two pixels at 1/4 and 3/4 between the old ones."""
    image = np.repeat(np.array([[[0], [100]]], np.uint8), 3, axis=2)
    doubled, _ = resize(image, np.zeros((1, 2), np.uint8), (1, 4))
    assert doubled[0, :, 0].tolist() == [0, 25, 75, 100]


@settings(deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.tuples(st.integers(-10, 10), st.integers(-10, 10)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
def test_crop_agrees_with_looking_up_each_pixel(shape, corner, size):
    image, label = coordinate_pair(*shape)
    new_image, new_label = crop(image, label, *corner, *size)
    assert new_image.shape == (*size, 3) and new_label.shape == size
    for row, column in np.ndindex(*size):
        y, x = row + corner[0], column + corner[1]
        inside = 0 <= y < shape[0] and 0 <= x < shape[1]
        assert tuple(new_image[row, column]) == (tuple(image[y, x]) if inside else MEAN_COLOUR)
        assert new_label[row, column] == (label[y, x] if inside else 255)


# Batches


def test_training_batch_keeps_image_and_label_together():
    pairs = [coordinate_pair(20, 30), coordinate_pair(9, 40), coordinate_pair(8, 5)]
    images, labels = training_batch(pairs, (12, 16), np.random.default_rng(0))
    assert images.shape == (3, 12, 16, 3) and labels.shape == (3, 12, 16)
    assert images.dtype == labels.dtype == np.uint8
    counted = labels != 255
    assert counted[0].all()  # a larger picture fills the crop,
    assert counted.sum(axis=(1, 2)).tolist() == [12 * 16, 9 * 16, 8 * 5]  # and of a smaller one nothing is lost
    assert (images[~counted] == MEAN_COLOUR).all()
    assert (labels[counted] == images[counted][:, :2].astype(int).sum(axis=1) % 2).all()


def test_training_batch_is_random_and_repeatable():
    pairs = [coordinate_pair(40, 40)] * 50
    images, _ = training_batch(pairs, (8, 8), np.random.default_rng(0))
    again, _ = training_batch(pairs, (8, 8), np.random.default_rng(0))
    np.testing.assert_array_equal(images, again)
    columns = images[:, 0, :, 1].astype(int)
    mirrored = columns[:, 0] > columns[:, -1]
    assert 10 < mirrored.sum() < 40
    lefts = np.minimum(columns[:, 0], columns[:, -1])
    assert lefts.min() < 8 and lefts.max() > 24  # 0 to 32 are possible


def test_training_batch_reaches_every_offset():
    pairs = [coordinate_pair(4, 6)] * 200
    images, _ = training_batch(pairs, (2, 4), np.random.default_rng(0), mirror=False)
    assert {tuple(corner) for corner in images[:, 0, 0, :2].tolist()} == {(y, x) for y in range(3) for x in range(3)}


def test_training_batch_without_mirror_never_mirrors():
    images, _ = training_batch([coordinate_pair(9, 9)] * 20, (9, 9), np.random.default_rng(0), mirror=False)
    assert (images[:, 0, 0, 1] == 0).all()


def test_training_batch_scales_log_uniformly():
    """A white square of side 40 on black has a side of 20 to 80 after it, and the median is 40."""
    label = np.zeros((100, 100), np.uint8)
    label[30:70, 30:70] = 1
    pairs = [(np.zeros((100, 100, 3), np.uint8), label)] * 200
    _, labels = training_batch(pairs, (200, 200), np.random.default_rng(0), scale=(0.5, 2.0))
    sides = np.sqrt((labels == 1).sum(axis=(1, 2)))
    assert sides.min() >= 19 and sides.max() <= 81
    assert sides.min() < 22 and sides.max() > 75
    assert 34 < np.median(sides) < 47


def test_stack_pads_below_and_to_the_right():
    pairs = [coordinate_pair(3, 5), coordinate_pair(4, 2)]
    images, labels = stack(pairs)
    assert images.shape == (2, 4, 5, 3) and labels.shape == (2, 4, 5)
    for (image, label), padded, padded_label in zip(pairs, images, labels, strict=True):
        height, width = label.shape
        np.testing.assert_array_equal(padded[:height, :width], image)
        np.testing.assert_array_equal(padded_label[:height, :width], label)
        assert (padded_label[height:] == 255).all() and (padded_label[:, width:] == 255).all()
        assert (padded[height:] == MEAN_COLOUR).all()
