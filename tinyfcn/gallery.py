"""What there is to see of a run: its network at work on images that it has not learned from, its curves, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tinyfcn import page, plot
from tinyfcn.backend import to_host
from tinyfcn.data import Dataset
from tinyfcn.data.loader import class_colours
from tinyfcn.inference import predict
from tinyfcn.models import FCN
from tinyfcn.run import Paths, paths

SHOWN = (0.5, 0.9, 0.25, 0.1)  # share of all images that are labelled worse, for each of those in predictions.png


def examples(accuracy: np.ndarray) -> list[int]:
    """The images to show of those that were labelled so well: a typical one first, then a good, a poor and a bad one."""
    order = np.argsort(accuracy)  # those without a labelled pixel last
    last = np.isfinite(accuracy).sum() - 1
    return list(dict.fromkeys(int(order[round(share * last)]) for share in SHOWN))


def spread(length: int) -> list[int]:
    """Images to show where none is labelled yet, from all parts of a list."""
    number = min(length, len(SHOWN))
    return [(2 * k + 1) * length // (2 * number) for k in range(number)]


def draw_predictions(
    net: FCN, dataset: Dataset, chosen: Sequence[int], title: str, path: Path, zoom: float = 1.0, max_side: int | None = None
) -> None:
    """Image, truth and prediction of some images of a dataset."""
    pairs = (dataset[i] for i in chosen)
    rows = [(image, label, to_host(predict(net, image, zoom, max_side))) for image, label in pairs]
    plot.predictions(rows, dataset.classes, title, path, class_colours(dataset))


def renew_page(run: Path) -> None:
    """Draw the curves of a run's folder by its log, and write its page."""
    plot.curves(paths(run).log, paths(run).curves)
    page.write(run)


def is_current(files: Paths) -> bool:
    """Whether all pictures are of the best checkpoint, and not of one before."""
    pictures = files.curves, files.predictions, files.confusion, files.page
    newest = files.best.stat().st_mtime_ns
    return all(path.exists() and path.stat().st_mtime_ns >= newest for path in pictures)
