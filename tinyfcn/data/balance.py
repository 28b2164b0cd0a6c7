"""Weights that let rare classes count for more in the loss.

Median frequency balancing (Eigen and Fergus, 2015, section 6.3.2): with freq[c] the share of class c among the labelled pixels of
those images in which it occurs,

    weight[c] = median of freq / freq[c]

A class of middling frequency keeps the weight 1. The full weights let a pole count thirty times as much as the road, which finds
poles and then sees them everywhere; their square roots are gentler.
"""

from __future__ import annotations

import reprlib
from pathlib import Path

import numpy as np

from tinyfcn.data.counts import count_labels
from tinyfcn.data.voc import Dataset
from tinyfcn.errors import InputError
from tinyfcn.files import read_json
from tinyfcn.values import number

WEIGHT = number(0, 1e6)
CLASS_WEIGHTS = {"median-frequency": 1.0, "sqrt-median-frequency": 0.5}  # name -> exponent of the weights


def class_frequencies(counts: np.ndarray) -> np.ndarray:
    """The share of each class among the labelled pixels of those images in which it occurs, (num_classes,); 0 if in none.

    `counts` has the pixels of each class in each image, (images, num_classes).
    """
    around = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    frequencies: np.ndarray = np.divide(counts.sum(axis=0), around, out=np.zeros(counts.shape[1]), where=around > 0)
    return frequencies


def balancing_weights(frequencies: np.ndarray, exponent: float = 1.0) -> np.ndarray:
    """(median frequency / frequency) ** exponent of each class, (num_classes,); 1 for classes that never occur.

    Raises ValueError where no class occurs.
    """
    occurs = frequencies > 0
    if not occurs.any():
        raise ValueError("balancing_weights: no class has a labelled pixel")
    ratio = np.median(frequencies[occurs]) / np.where(occurs, frequencies, 1)
    return np.where(occurs, ratio**exponent, 1.0)


def weight_of(labels: np.ndarray, weights: np.ndarray) -> float:
    """The sum of the weights (num_classes,) of all labelled pixels."""
    return float(np.bincount(labels.ravel(), minlength=len(weights))[: len(weights)] @ weights)


def class_weights(how: str, dataset: Dataset) -> dict[str, float]:
    """The weight of each class of a dataset by name: `how` is one of `CLASS_WEIGHTS`, or the path of a file of weights."""
    if how not in CLASS_WEIGHTS:
        return read_class_weights(Path(how), dataset.classes)
    frequencies = class_frequencies(count_labels(dataset)[0][:, : dataset.num_classes])
    if not frequencies.any():
        raise InputError("no image to train on has a labelled pixel: there are no class weights for it")
    weights = balancing_weights(frequencies, CLASS_WEIGHTS[how])
    return {name: round(float(weight), 4) for name, weight in zip(dataset.classes, weights, strict=True)}


def read_class_weights(path: Path, classes: tuple[str, ...]) -> dict[str, float]:
    """Read a JSON file {"class": weight, ...} that names each class; raises InputError where it does not, or is no such file."""
    if not path.exists():
        raise InputError(f"--class-weights {path}: no such file; give {', '.join(CLASS_WEIGHTS)}, none or a JSON file")
    values = read_json(path)
    if set(values) != set(classes):
        raise InputError(f"{path}: must give one weight to each of the classes {', '.join(classes)}")
    for name, value in values.items():
        if not WEIGHT.fits(value):
            raise InputError(f"{path}: the weight of {name} must be {WEIGHT.expected}, got {reprlib.repr(value)}")
    if not any(values.values()):
        raise InputError(f"{path}: all weights are 0: nothing would be learned")
    return {name: float(values[name]) for name in classes}
