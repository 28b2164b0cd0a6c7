"""A trained network at work on pictures: loading it, labelling a picture, scoring a dataset."""

from __future__ import annotations

from contextlib import closing
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import Array, array_module, to_device, to_host
from tinyfcn.convert.identify import identify
from tinyfcn.data import IGNORE, Dataset, normalise, read_image, zoomed
from tinyfcn.data.balance import weight_of
from tinyfcn.data.loader import prefetch
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import CLASSIFIERS, FCN, FCN_CLASSES
from tinyfcn.ops.loss import softmax_in_place
from tinyfcn.parallel import PIECE, at_once, bands
from tinyfcn.progress import bar
from tinyfcn.ranks import ALONE, Ranks
from tinyfcn.report import open_device
from tinyfcn.run import paths

STRIDE = 32  # pixels from one unit of the deepest map to the next
MARGIN = 224  # pixels of context around a tile, beyond which nothing changes its scores: a unit of fc7 sees 202 to each side
AT_ONCE = 1 << 20  # scores whose loss is taken at a time
MAX_SIDE = 1024  # a photograph of 12 megapixels would take gigabytes, and its objects would be larger than any seen in training


class Predictor(NamedTuple):
    """A trained network, and what it takes to label pictures as it was trained to."""

    net: FCN
    classes: list[str]  # by index; empty where the file does not tell
    zoom: float  # the network sees images so many times as large
    max_side: int | None  # ... but with no side longer than this
    colours: tuple[tuple[int, int, int], ...] | None = None  # of the classes; None: VOC's
    tile: int | None = None  # the network sees images in tiles of so many pixels a side

    def predict(self, image: str | Path | np.ndarray, probabilities: np.ndarray | None = None) -> np.ndarray:
        """The class of every pixel of a picture, a file or an array (H, W, 3) uint8: (H, W) uint8, on the host.

        The network sees no side longer than 1,024 pixels, where its training does not say otherwise and it sees no tiles. Where
        `probabilities` are given, (C, H, W) of any floating type, in memory or mapped from a file, they become the softmax of the
        scores. Raises InputError for a file that is no picture, and ValueError for any other array.
        """
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"a picture must be (H, W, 3) of uint8, got {pixels.shape} of {pixels.dtype}")
        max_side = self.max_side or (None if self.tile else MAX_SIDE)
        return to_host(predict(self.net, pixels, self.zoom, max_side, self.tile, probabilities=probabilities))

    def probabilities(self, image: str | Path | np.ndarray) -> np.ndarray:
        """The probability of each class at every pixel of a picture: (C, H, W) float32, on the host. Otherwise as `predict`."""
        pixels = image if isinstance(image, np.ndarray) else read_image(Path(image))
        result = np.empty((self.net.num_classes, *pixels.shape[:2]), np.float32)
        self.predict(pixels, result)
        return result


def load(path: str | Path, device: str = "auto") -> Predictor:
    """The trained network of a run's folder (its best checkpoint), or of a checkpoint file, ready to label pictures.

    Raises InputError where there is none, and where `device`, "auto", "cpu" or "gpu", asks for a GPU and none answers.
    """
    net, description = load_network(Path(path), device)
    return Predictor(net, list(description.classes or ()), description.zoom, description.max_side, description.colours)


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


class Assessment(NamedTuple):
    """What a network makes of a dataset."""

    matrix: ConfusionMatrix
    loss: float  # mean over the labelled pixels, as the network sees them; with class weights, as in training
    accuracy: np.ndarray  # share of each image's labelled pixels that are right, (N,); NaN where there are none


def evaluate(net: FCN, dataset: Dataset, zoom: float = 1.0, max_side: int | None = None, ranks: Ranks = ALONE) -> ConfusionMatrix:
    """The counts of `assess` alone."""
    return assess(net, dataset, zoom, max_side, ranks).matrix


def assess(
    net: FCN,
    dataset: Dataset,
    zoom: float = 1.0,
    max_side: int | None = None,
    ranks: Ranks = ALONE,
    class_weight: np.ndarray | None = None,
) -> Assessment:
    """Predict every image of a dataset and count the pixels, at the image's own size. Several ranks share the images.

    Raises InputError where no pixel is labelled.
    """
    matrix = ConfusionMatrix(net.num_classes)
    mine = range(ranks.rank, len(dataset), ranks.size)
    weight = np.ones(net.num_classes, net.dtype) if class_weight is None else class_weight.astype(net.dtype)
    on_device = to_device(weight, net.xp)
    labelled = np.zeros((len(dataset), 2))  # pixels of each image, and their weight as the network sees them
    found = [net.xp.zeros((0, 2))]  # of these pixels, how many are right, and their loss: on the device, to wait for it once
    with closing(prefetch(lambda i: dataset[i], mine)) as pairs:
        shown = bar(pairs, "evaluating", len(mine), "image", not ranks.rank)
        for i, (image, label) in zip(mine, shown, strict=True):
            seen, truth = zoomed(image, label, zoom, max_side)
            scores = net.forward(_prepared(net, seen))
            prediction, there = _enlarged(net.decide(scores)[0], label.shape), to_device(label, net.xp)
            matrix.update(there[None], prediction[None])
            right, loss = (there == prediction).sum(), _loss(scores, to_device(truth, net.xp)[None], on_device)
            found.append(net.xp.stack([right.astype(float), loss.astype(float)])[None])
            labelled[i] = (label != IGNORE).sum(), weight_of(truth, weight)
    matrix.counts[...] = ranks.total(matrix.counts)
    if len(dataset) and not matrix.counts.any():
        raise InputError(f"{dataset.ids[0]} and all other images to evaluate on have no labelled pixel: all are ignored")
    counted = np.zeros((len(dataset), 2))
    counted[ranks.rank :: ranks.size] = to_host(net.xp.concatenate(found))
    (right, loss), (pixels, weighed) = ranks.total(counted).T, ranks.total(labelled).T
    with np.errstate(invalid="ignore"):
        return Assessment(matrix, float(loss.sum() / max(weighed.sum(), 1e-300)), right / pixels)


def _loss(scores: Array, labels: Array, class_weight: Array) -> Array:
    """The sum of the pixels' losses, in bands, since the gradient that comes with a loss is as large as the scores."""
    _, classes, height, width = scores.shape
    xp = array_module(scores)
    parts = [
        ops.softmax_cross_entropy_forward(scores[:, :, rows], labels[:, rows], reduction="sum", class_weight=class_weight)[0]
        for rows in bands(xp, height, classes * width, at_once(xp, AT_ONCE))
    ]
    return sum(parts)


class Span(NamedTuple):
    """A tile of an image, along one of its sides."""

    seen: slice  # what the network sees
    kept: slice  # those pixels of it that are labelled by this tile
    inner: slice  # the same, counted from the tile's beginning


def spans(length: int, tile: int | None = None, margin: int | None = None) -> list[Span]:
    """Tiles of `tile` pixels, or fewer, over a side; None: a single one.

    They begin at multiples of the network's stride, so that its maps lie as in the whole image, and overlap by twice the margin:
    what is closer to a tile's border than that is labelled by the next tile, where there is one. By default the margin is
    `MARGIN`, but no more than a quarter of the tile, of which a quarter is then labelled.
    """
    side = length if tile is None else tile - tile % STRIDE
    if margin is None:
        margin = min(MARGIN, side // (2 * STRIDE) * (STRIDE // 2))
    result = []
    for start in [0] if length <= side else range(0, length - 2 * margin, side - 2 * margin):
        stop = min(start + side, length)
        first, last = start + margin if start else 0, stop - margin if stop < length else length
        result.append(Span(slice(start, stop), slice(first, last), slice(first - start, last - start)))
    return result


def predict(
    net: FCN,
    image: np.ndarray,
    zoom: float = 1.0,
    max_side: int | None = None,
    tile: int | None = None,
    margin: int | None = None,
    probabilities: np.ndarray | None = None,
) -> Array:
    """The class of every pixel of one image (H, W, 3) uint8: (H, W) uint8, on the network's device.

    The network sees the image `zoom` times as large, though with no side longer than `max_side`, and in tiles, see `spans`; each
    pixel then gets the class of the nearest one that was labelled. So do `probabilities`, (C, H, W) on the host, where they are
    given to be filled.
    """
    seen, _ = zoomed(image, np.zeros(image.shape[:2], np.uint8), zoom, max_side)
    rows, columns = (_nearest(net.xp, *sides) for sides in zip(image.shape[:2], seen.shape[:2], strict=True))
    label = net.xp.empty(seen.shape[:2], np.uint8)
    for down, across in product(*(spans(side, tile, margin) for side in seen.shape[:2])):
        x = _prepared(net, seen[down.seen, across.seen])
        kept, inner = (down.kept, across.kept), (..., down.inner, across.inner)
        if probabilities is None:
            label[kept] = net.predict(x)[0][inner]
            continue
        scores = net.forward(x)
        label[kept] = net.decide(scores)[0][inner]
        softmax_in_place(scores)
        places = [_within(rows, down.kept), _within(columns, across.kept)]
        nearest = rows[places[0]] - down.kept.start, columns[places[1]] - across.kept.start
        _spread(scores[0][inner], *nearest, probabilities[:, places[0], places[1]])
    return _enlarged(label, image.shape[:2])


def _prepared(net: FCN, image: np.ndarray) -> Array:
    """An image (H, W, 3) uint8 as the network takes it, (1, 3, H, W)."""
    return normalise(to_device(image, net.xp)[None], net.preprocessing).astype(net.dtype, copy=False)


def _nearest(xp: ModuleType, full: int, small: int) -> Array:
    """For each pixel along a side of an image, the nearest of those of a smaller one, or a larger one."""
    return (2 * xp.arange(full) + 1) * small // (2 * full)


def _enlarged(label: Array, shape: tuple[int, ...]) -> Array:
    """A label at another size: each pixel gets the class of the nearest one."""
    rows, columns = (_nearest(array_module(label), *sides) for sides in zip(shape, label.shape, strict=True))
    return label[rows[:, None], columns]


def _within(nearest: Array, kept: slice) -> slice:
    """The pixels whose nearest one is among those kept."""
    first, last = array_module(nearest).searchsorted(nearest, array_module(nearest).array([kept.start, kept.stop]))
    return slice(int(first), int(last))


def _spread(small: Array, rows: Array, columns: Array, out: np.ndarray) -> None:
    """out[:, i, j] = small[:, rows[i], columns[j]], a few rows at a time, since `out` may be larger than the memory."""
    for band in bands(array_module(small), len(rows), len(small) * len(columns), at_once(array_module(small), PIECE)):
        out[:, band] = to_host(small[:, rows[band]][:, :, columns])
