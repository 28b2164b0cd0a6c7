"""A trained network at work on pictures: loading it, labelling a picture, scoring a dataset."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tinyfcn import plot
from tinyfcn.backend import Array, to_device, to_host
from tinyfcn.convert.identify import identify
from tinyfcn.data import Dataset, normalise, read_image, zoomed
from tinyfcn.data.loader import prefetch
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import CLASSIFIERS, FCN, FCN_CLASSES
from tinyfcn.ranks import ALONE, Ranks
from tinyfcn.report import open_device
from tinyfcn.run import paths

SHOWN = 4  # images in predictions.png
MAX_SIDE = 1024  # a photograph of 12 megapixels would take gigabytes, and its objects would be larger than any seen


class Predictor(NamedTuple):
    """A trained network, and what it takes to label pictures as it was trained to."""

    net: FCN
    classes: list[str]  # by index; empty where the file does not tell
    zoom: float  # the network sees images so many times as large
    max_side: int | None  # ... but with no side longer than this

    def predict(self, image: str | Path | np.ndarray) -> np.ndarray:
        """The class of every pixel of a picture, a file or an array (H, W, 3) uint8: (H, W) uint8, on the host.

        The network sees no side longer than 1,024 pixels, where its training does not say otherwise. Raises InputError for a file
        that is no picture, and ValueError for any other array.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"a picture must be (H, W, 3) of uint8, got {pixels.shape} of {pixels.dtype}")
        return to_host(predict(self.net, pixels, self.zoom, self.max_side or MAX_SIDE))


def load(path: str | Path, device: str = "auto") -> Predictor:
    """The trained network of a run's folder (its best checkpoint), or of a checkpoint file, ready to label pictures.

    Raises InputError where there is none, and where `device`, "auto", "cpu" or "gpu", asks for a GPU and none answers.
    """
    net, description = load_network(Path(path), device)
    return Predictor(net, list(description.classes or ()), description.zoom, description.max_side)


def load_network(checkpoint: Path, device: str = "auto") -> tuple[FCN, Description]:
    """The network that a checkpoint holds, and its description (class names among it), from the file alone.

    `checkpoint` is a file, or the folder of a run, whose best checkpoint is then taken.
    """
    path = paths(checkpoint).best if checkpoint.is_dir() else checkpoint
    source = identify(path)
    description = source.description
    if not source.own:
        raise InputError(f"{path}: {source.title}; convert it first: python -m tinyfcn.convert {path} OUT.safetensors")
    if source.model in CLASSIFIERS:
        raise InputError(
            f"{path}: holds {source.model}, a classifier; train an FCN from it: python -m tinyfcn.train --init {path}"
        )
    if description.preprocessing is None:
        raise InputError(f"{path} does not say how its images are prepared: convert it, with --preprocessing")
    net = FCN_CLASSES[source.model](
        description.num_classes,
        description.width,
        str(description.padding),
        hidden=description.hidden,
        learn_upsampling=str(description.learn_upsampling),
        skip_scales=description.scales,
        xp=open_device(device),
    )
    net.assign({name: tensor.read() for name, tensor in source.tensors.items()}, description, source=path)
    return net, description


def evaluate(net: FCN, dataset: Dataset, zoom: float = 1.0, max_side: int | None = None, ranks: Ranks = ALONE) -> ConfusionMatrix:
    """Predict every image of a dataset and count the pixels, at the image's own size. Several ranks share the images.

    Raises InputError where no pixel is labelled.
    """
    matrix = ConfusionMatrix(net.num_classes)
    mine = range(ranks.rank, len(dataset), ranks.size)
    with closing(prefetch(lambda i: dataset[i], mine)) as pairs:
        shown = pairs if ranks.rank else tqdm(pairs, "evaluating", len(mine), unit="image", leave=False)
        for image, label in shown:
            matrix.update(to_device(label, net.xp)[None], predict(net, image, zoom, max_side)[None])
    matrix.counts[...] = ranks.total(matrix.counts)
    if len(dataset) and not matrix.counts.any():
        raise InputError(f"{dataset.ids[0]} and all other images to evaluate on have no labelled pixel: all are ignored")
    return matrix


def predict(net: FCN, image: np.ndarray, zoom: float = 1.0, max_side: int | None = None) -> Array:
    """The class of every pixel of one image (H, W, 3) uint8: (H, W) uint8, on the network's device.

    The network sees the image `zoom` times as large, though with no side longer than `max_side`; each pixel then gets the class
    of the nearest one that was labelled.
    """
    seen, _ = zoomed(image, np.zeros(image.shape[:2], np.uint8), zoom, max_side)
    x = normalise(to_device(seen, net.xp)[None], net.preprocessing).astype(net.dtype, copy=False)
    label = net.predict(x)[0]
    rows, columns = (
        (2 * net.xp.arange(full) + 1) * small // (2 * full) for full, small in zip(image.shape[:2], label.shape, strict=True)
    )
    return label[rows[:, None], columns]


def plot_predictions(net: FCN, dataset: Dataset, path: Path, zoom: float = 1.0, max_side: int | None = None) -> None:
    """Image, truth and prediction of a few images, spread over the dataset."""
    chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    pairs = (dataset[int(i)] for i in chosen)
    rows = [(image, label, to_host(predict(net, image, zoom, max_side))) for image, label in pairs]
    plot.predictions(rows, dataset.classes, path)
