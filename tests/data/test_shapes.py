"""tinyfcn/data/shapes.py: the generated set is the same everywhere, and is what its docstring says."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tinyfcn.data import Shapes, shapes
from tinyfcn.data.shapes import SHAPES
from tinyfcn.errors import InputError

OBJECTS = range(1, Shapes.num_classes)


@pytest.fixture(scope="module")
def pairs():
    """Enough pictures for statistics."""
    return list(Shapes("train", length=200))


def digest(dataset: Shapes) -> str:
    return hashlib.sha256(b"".join(array.tobytes() for pair in dataset for array in pair)).hexdigest()


def test_attributes_agree():
    dataset = Shapes("val", length=5)
    assert len(dataset) == len(dataset.ids) == len(set(dataset.ids)) == len(list(dataset)) == 5
    assert dataset.num_classes == len(dataset.classes) >= 7
    assert dataset.classes[0] == "background"
    assert not set(Shapes("train").ids) & set(Shapes("val").ids)
    np.testing.assert_array_equal(dataset[-1][0], dataset[4][0])
    with pytest.raises(IndexError):
        dataset[5]


@pytest.mark.parametrize(("options", "part"), [({"split": "test"}, "train, val"), ({"length": 0}, "length 0")])
def test_errors_say_what_is_possible(options, part):
    with pytest.raises(InputError, match=part):
        Shapes(**options)


def test_item_depends_on_seed_split_and_index_alone():
    item = Shapes("train", length=10)[3][0]
    np.testing.assert_array_equal(Shapes("train", length=4)[3][0], item)
    for other in (Shapes("train", seed=1)[3], Shapes("val")[3], Shapes("train")[4]):
        assert other[0].shape != item.shape or (other[0] != item).any()


def test_order_of_drawing_does_not_matter():
    forth, back = Shapes("val", length=4), Shapes("val", length=4)
    drawn = {index: back[index] for index in (3, 1, 2, 0, 1)}
    for index, pair in enumerate(forth):
        for array, other in zip(pair, drawn[index], strict=True):
            np.testing.assert_array_equal(array, other)


def test_a_kept_item_cannot_be_changed():
    dataset = Shapes("val", length=1)
    before = [array.copy() for array in dataset[0]]
    for array, copy in zip(dataset[0], before, strict=True):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 7
        np.testing.assert_array_equal(array, copy)


def test_another_process_draws_the_same():
    program = (
        "import hashlib; from tinyfcn.data import Shapes;"
        "print(hashlib.sha256(b''.join(a.tobytes() for p in Shapes('val', length=6) for a in p)).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    assert other == digest(Shapes("val", length=6))


def test_pictures_are_sized_like_pictures(pairs):
    sides = [side for image, _ in pairs for side in image.shape[:2]]
    assert 96 <= min(sides) < 100 and 156 < max(sides) <= 160
    assert any(image.shape[0] != image.shape[1] for image, _ in pairs)
    for image, label in pairs:
        assert image.dtype == label.dtype == np.uint8
        assert image.shape == (*label.shape, 3)


def test_each_class_is_there_and_none_rules(pairs):
    present = np.array([[(label == k).any() for k in OBJECTS] for _, label in pairs])
    assert (present.mean(axis=0) > 0.2).all() and (present.mean(axis=0) < 0.8).all()
    counts = np.bincount(np.concatenate([label.ravel() for _, label in pairs]), minlength=256)
    assert counts[Shapes.num_classes : 255].sum() == 0
    assert 0.5 < counts[0] / counts.sum() < 0.85
    objects = counts[1 : Shapes.num_classes]
    assert objects.max() < 2.5 * objects.min()


def test_a_void_contour_parts_every_two_classes(pairs):
    """Pixels that touch have the same class, or one of them is void: there is no bare edge."""
    for _, label in pairs[:50]:
        for a, b in ((label[1:], label[:-1]), (label[:, 1:], label[:, :-1])):
            assert ((a == b) | (a == 255) | (b == 255)).all()
        assert 0.01 < (label == 255).mean() < 0.25


def test_colour_does_not_tell_the_class(pairs):
    """A class's mean colour is that of all objects: within 5 standard errors, where a telling colour is 20 or more off."""
    colours: dict[int, list[np.ndarray]] = {k: [] for k in OBJECTS}
    for image, label in pairs:
        for k in OBJECTS:
            if (label == k).any():
                colours[k].append(image[label == k].mean(axis=0))
    every = np.concatenate([np.stack(found) for found in colours.values()])
    for found in colours.values():
        error = every.std(axis=0) / np.sqrt(len(found))
        assert (np.abs(np.mean(found, axis=0) - every.mean(axis=0)) < 5 * error).all()


def test_the_painter_does_not_see_the_class():
    """Of two objects painted with the same random numbers, what is inside both looks the same, whatever their classes."""
    y, x = np.mgrid[:100, :100].astype(np.float32) + 0.5
    for seed in range(10):
        canvases, insides = [], []
        for k in OBJECTS:
            thing = shapes.Thing(k, (50, 50), 40, 0.0)
            canvases.append(np.zeros((100, 100, 3), np.float32))
            insides.append(thing.distance(x, y) < -1)
            shapes.draw_object(np.random.default_rng(seed), canvases[-1], thing, x, y)
        for canvas, inside in zip(canvases, insides, strict=True):
            both = inside & insides[0]
            assert both.any()
            np.testing.assert_array_equal(canvas[both], canvases[0][both])


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_distance(shape):
    """Near its outline it changes by at most 1 a unit (and as much along its normal), so contours are as wide as they say."""
    y, x = np.mgrid[-1.5:1.5:301j, -1.5:1.5:301j]
    distance = shape(x, y)
    slope = np.hypot(*np.gradient(distance, 0.01))
    near = np.abs(distance) < 0.05
    assert slope[near].max() < 1.05
    assert np.median(slope[near]) == pytest.approx(1, abs=0.02)
    assert (distance[[0, -1]] > 0).all() and (distance[:, [0, -1]] > 0).all()
    assert 0.9 < (distance < 0).sum() * 0.01**2 < 2.7  # areas within a factor of three


def test_shapes_at_known_points():
    points = {
        "disc": ([(0, 0), (0.8, 0)], [(0.7, 0.7)]),
        "square": ([(0.7, 0.7)], [(0.9, 0)]),
        "triangle": ([(0, -0.9), (0.7, 0.5)], [(0.7, -0.5), (0, 0.6)]),  # it points up
        "ring": ([(0.75, 0), (0, -0.6)], [(0, 0), (0.7, 0.75)]),
        "cross": ([(0, 0), (0.9, 0), (0.2, 0.9)], [(0.4, 0.4)]),
        "star": ([(0, -1.1), (0, 0)], [(0, 0.6), (0.7, 0.0)]),  # a tip up, a notch down
    }
    assert set(points) == {shape.__name__ for shape in SHAPES}
    for shape in SHAPES:
        inside, outside = points[shape.__name__]
        assert all(shape(np.float64(x), np.float64(y)) < 0 for x, y in inside), shape
        assert all(shape(np.float64(x), np.float64(y)) > 0 for x, y in outside), shape


def test_objects_stay_in_sight():
    """No object has lost more than it may: each still shows on the label, whatever was put over it."""
    for seed in range(30):
        y, x = np.mgrid[:120, :120].astype(np.float32) + 0.5
        placed = shapes.place_objects(np.random.default_rng(seed), x, y)
        for thing in placed.things:
            core = thing.distance(x, y) < -shapes.BORDER
            assert (placed.label[core] == thing.class_index).mean() >= shapes.MIN_VISIBLE
