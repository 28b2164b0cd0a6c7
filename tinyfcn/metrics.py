r"""The paper's four scores (section 5), from one confusion matrix over a whole set of images.

With n[i, j] the pixels of class i predicted as class j, t[i] = sum_j n[i, j] the pixels of class i, over classes with t[i] > 0:

    pixel accuracy          sum_i n[i, i] / sum_i t[i]
    mean accuracy           mean_i n[i, i] / t[i]
    mean IU                 mean_i n[i, i] / (t[i] + sum_j n[j, i] - n[i, i])
    frequency-weighted IU   sum_i t[i] IU[i] / sum_i t[i]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module, to_host

SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")


class ConfusionMatrix:
    """Counts pixels by true and predicted class, and computes the scores from the counts.

    Classes that no label has are left out of the means: their IU and accuracy are NaN in `iou` and `accuracy`. Without any pixel,
    all scores are NaN.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes, self.ignore_index = num_classes, ignore_index
        self._counts = np.zeros((num_classes, num_classes), np.int64)
        self._pending: dict[ModuleType, Array] = {}  # counts that lie where labels do, and are not yet in `_counts`

    def update(self, labels: Array, predictions: Array) -> None:
        """Count integer arrays of the same shape, host or device; pixels labelled `ignore_index` do not count.

        Raises ValueError where shapes differ or a value is not a class. On a GPU the host does not wait here: counts add
        up on the device until `counts` is read, and a value that is not a class raises then.
        """
        xp = array_module(labels, predictions)
        if labels.shape != predictions.shape:
            raise ValueError(f"labels of shape {labels.shape} do not fit predictions of shape {predictions.shape}")
        truth, guess = labels.astype(np.int64), predictions.astype(np.int64)
        counted = truth != self.ignore_index
        outside = [counted & ((values < 0) | (values >= self.num_classes)) for values in (truth, guess)]
        for name, values, where in zip(("label", "prediction"), (truth, guess), outside, strict=True):
            if xp is np and where.any():
                raise ValueError(f"{name} {values[where][0]} is not among the {self.num_classes} classes")
        if xp not in self._pending:  # for each pair of classes, for values that are no classes, and for ignored pixels
            self._pending[xp] = xp.zeros(self._counts.size + 2, np.uint64)
        place = xp.where(counted, truth * self.num_classes + guess, self._counts.size + 1)
        place = xp.where(outside[0] | outside[1], self._counts.size, place)
        xp.add.at(self._pending[xp], place.ravel(), xp.ones((), np.uint64))  # CuPy's bincount would wait

    @property
    def counts(self) -> np.ndarray:
        """Pixels of class i that were predicted as class j, (num_classes, num_classes), on the host."""
        while self._pending:
            *counts, outside, _ = to_host(self._pending.popitem()[1]).astype(np.int64)
            if outside:
                raise ValueError(f"{outside} pixels have a label or prediction not among the {self.num_classes} classes")
            self._counts += np.reshape(counts, self._counts.shape)
        return self._counts

    @property
    def pixel_accuracy(self) -> float:
        return _ratio(np.diag(self.counts).sum(), self.counts.sum())

    @property
    def accuracy(self) -> np.ndarray:
        """Share of each class's pixels that were found, (num_classes,); NaN for classes without pixels."""
        return _share(np.diag(self.counts), self.counts.sum(axis=1), self._present)

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, (num_classes,); NaN for classes without pixels."""
        correct = np.diag(self.counts)
        return _share(correct, self.counts.sum(axis=1) + self.counts.sum(axis=0) - correct, self._present)

    @property
    def mean_accuracy(self) -> float:
        return float(np.mean(self.accuracy[self._present])) if self._present.any() else float("nan")

    @property
    def mean_iou(self) -> float:
        return float(np.mean(self.iou[self._present])) if self._present.any() else float("nan")

    @property
    def frequency_weighted_iou(self) -> float:
        pixels = self.counts.sum(axis=1)
        return _ratio((pixels * np.nan_to_num(self.iou)).sum(), pixels.sum())

    def scores(self) -> dict[str, float]:
        """The four scores by name."""
        return {name: getattr(self, name) for name in SCORES}

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """All scores by name: the four, IU for each class (None where no label has it), and what the baseline scores."""
        iou = {name: None if math.isnan(value) else float(value) for name, value in zip(classes, self.iou, strict=True)}
        return self.scores() | {"iou": iou, "constant_baseline": self.constant_baseline().scores()}

    def constant_baseline(self) -> ConfusionMatrix:
        """What predicting the most frequent class at every pixel would have scored on the same labels."""
        baseline = ConfusionMatrix(self.num_classes, self.ignore_index)
        pixels = self.counts.sum(axis=1)
        baseline.counts[:, np.argmax(pixels)] = pixels
        return baseline

    @property
    def _present(self) -> np.ndarray:
        present: np.ndarray = self.counts.sum(axis=1) > 0
        return present


def _ratio(part: Any, whole: Any) -> float:
    return float(part / whole) if whole else float("nan")


def _share(part: np.ndarray, whole: np.ndarray, present: np.ndarray) -> np.ndarray:
    share = np.full(len(part), np.nan)
    np.divide(part, whole, out=share, where=present)
    return share
