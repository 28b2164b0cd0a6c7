"""tinyfcn/data/balance.py: median frequency balancing, from labels and from files."""

import json

import numpy as np
import pytest

from tinyfcn.data import Shapes
from tinyfcn.data.balance import balancing_weights, class_frequencies, class_weights, read_class_weights
from tinyfcn.errors import InputError

# Class 0 has 6 of the 8 labelled pixels of the first image and 1 of the 2 of the second; class 1 2 of 8; class 2 1 of 2.
COUNTS = np.array([[6, 2, 0, 0], [1, 0, 1, 0]])


def test_a_frequency_counts_only_the_images_in_which_its_class_occurs():
    assert class_frequencies(COUNTS) == pytest.approx([7 / 10, 2 / 8, 1 / 2, 0])


def test_weights_are_the_median_over_the_frequency():
    frequencies = np.array([0.7, 0.25, 0.5, 0])
    assert balancing_weights(frequencies) == pytest.approx([0.5 / 0.7, 2, 1, 1])  # a class that never occurs keeps the weight 1
    assert balancing_weights(frequencies, 0.5) == pytest.approx([np.sqrt(0.5 / 0.7), np.sqrt(2), 1, 1])
    with pytest.raises(ValueError, match="no class has a labelled pixel"):
        balancing_weights(np.zeros(3))


def test_weights_of_a_dataset_go_by_name():
    dataset = Shapes("train", 6)
    weights = class_weights("median-frequency", dataset)
    assert tuple(weights) == dataset.classes
    gentle = class_weights("sqrt-median-frequency", dataset)
    assert all(gentle[name] == pytest.approx(weight**0.5, abs=1e-3) for name, weight in weights.items())
    assert min(weights, key=weights.get) == "background"


def test_a_file_gives_its_weights_in_the_order_of_the_classes(tmp_path):
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"b": 2, "a": 0.5}))
    assert list(read_class_weights(path, ("a", "b")).items()) == [("a", 0.5), ("b", 2.0)]


@pytest.mark.parametrize(
    "text, words",
    [
        ('{"a": 1}', "one weight to each of the classes a, b"),
        ('{"a": 1, "b": 1, "c": 1}', "one weight to each"),
        ('{"a": 1, "b": -1}', "the weight of b must be a number, at least 0 and at most 1e+06, got -1"),
        ('{"a": 1, "b": NaN}', "NaN is no number"),
        ('{"a": 1, "b": "2"}', "1e+06, got '2'"),
        ('{"a": 1, "b": true}', "1e+06, got True"),
        (f'{{"a": 1, "b": {"9" * 401}}}', "1e+06, got 9999"),
        ('{"a": 0, "b": 0}', "all weights are 0"),
        ("[1, 2]", "not a JSON object"),
        ("a 1", "not a JSON file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, text, words):
    path = tmp_path / "weights.json"
    path.write_text(text)
    with pytest.raises(InputError, match="weights.json") as error:
        read_class_weights(path, ("a", "b"))
    assert words in str(error.value)


def test_a_name_that_is_neither_a_way_nor_a_file(tmp_path):
    with pytest.raises(InputError, match="median-frequency, sqrt-median-frequency, none or a JSON file"):
        class_weights(str(tmp_path / "median"), Shapes("train", 1))
