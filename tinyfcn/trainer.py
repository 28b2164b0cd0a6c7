"""Training: the step, the loop around it, evaluation, and the run folder in which all of it is kept."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tinyfcn import ops, plot, weights
from tinyfcn.backend import Array, describe_device, processor_name, to_device, to_host
from tinyfcn.data import Dataset, Shapes, VOCSegmentation, normalise, stack, training_batch, zoomed
from tinyfcn.data.balance import class_weights, read_class_weights
from tinyfcn.data.batch import mirror
from tinyfcn.data.voc import Pair
from tinyfcn.errors import InputError
from tinyfcn.initial import initialise, refuse_frozen_noise
from tinyfcn.metrics import ConfusionMatrix
from tinyfcn.models import CLASSIFIERS, FCN, FCN_CLASSES, FCNS
from tinyfcn.optim import SCHEDULES, SGD, Adam
from tinyfcn.report import Log, describe, open_device, write_metrics
from tinyfcn.sources import recognise

REPORT_EVERY = 10  # steps between reports: reading a loss makes a GPU wait
SHOWN = 4  # images in predictions.png
MOMENT = "optimiser."  # before the names of the optimiser's moments, in the last checkpoint


@dataclass(frozen=True)
class Config:
    """All that decides a run; the options of `python -m tinyfcn.train`, which explains them."""

    data: str = "shapes"
    split: str = "train"
    val_split: str = "val"
    subset: int | None = None
    subset_seed: int | None = None
    model: str = "fcn8s"
    width: float = 0.125
    hidden: int | None = None  # channels of fc6 and fc7; None: 4096 x width
    padding: str = "same"
    dropout: float = 0.0
    learn_upsampling: str = "none"
    skip_scales: str = "published"  # constants before skips are scored: the model's own, or "measured" on the first batch
    freeze_trunk: bool = False
    size: tuple[int, int] | None = (96, 96)  # (height, width) of crops; None: whole images
    zoom: float = 1.0  # the network sees images so many times as large; its answer is scaled back
    max_side: int | None = None  # ... but with no side longer than this
    scale: tuple[float, float] = (1.0, 1.0)
    mirror: bool = True
    batch_size: int = 4
    steps: int = 1600
    evaluations: int = 4
    optimiser: str = "adam"
    schedule: str = "poly"
    lr: float = 2e-3
    trunk_rate: float = 1.0  # times lr, for the layers that come trained from `init`; 0: they stay as they are
    momentum: float = 0.9
    weight_decay: float = 0.0
    loss: str = "mean"
    class_weights: str = "none"  # a name in data.balance.CLASS_WEIGHTS, or a JSON file
    recipe: str = "scratch"  # which of tinyfcn.recipes gave the options that were not given by hand
    init: str | None = None
    from_run: str | None = None
    preprocessing: str | None = None  # None: what the initial weights say, torchvision's where there are none
    seed: int = 0
    device: str = "auto"
    command: str = ""  # that made the run, for people

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_config(run: Path) -> dict[str, Any]:
    """The options that a run was made with. Raises InputError where RUN is no run folder."""
    path = run / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return asdict(Config(**values))
    except FileNotFoundError:
        raise InputError(f"{run} is not the folder of a run: it has no config.json") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a configuration of this version: {error}") from None


def open_dataset(data: str, split: str, subset: int | None = None, subset_seed: int | None = None) -> Dataset:
    """The generated set for "shapes", else the folder in VOC layout."""
    if subset_seed is not None and (subset is None or data == "shapes"):
        raise InputError("--subset-seed chooses the images of a --subset of --data DIR; give both")
    if data == "shapes":
        return Shapes(split, length=subset)
    return VOCSegmentation(data, split, subset, subset_seed)


# One step, and the batches that it takes


def train_step(
    net: FCN,
    optimiser: SGD | Adam,
    x: Array,
    labels: Array,
    reduction: str = "mean",
    factor: float = 1.0,
    class_weight: Array | None = None,
) -> Array:
    """Forward, loss, backward, update; returns the loss, on the network's device."""
    update = optimiser.begin(net.learned(), factor)
    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction, class_weight=class_weight)
    del scores
    dscores = ops.softmax_cross_entropy_backward(1.0, cache)
    del cache  # as large as dscores
    net.backward(dscores, update=update)
    return loss


def batch_indices(length: int, batch_size: int, step: int, seed: int) -> list[int]:
    """The items of a step's batch: epoch after epoch, each a new permutation, cut into batches.

    It depends on (seed, step) alone, so a run that is resumed takes the batches that it would have taken.
    """
    places = range(step * batch_size, (step + 1) * batch_size)
    epochs = {place // length for place in places}
    order = {epoch: np.random.default_rng([seed, 1, epoch]).permutation(length) for epoch in epochs}
    return [int(order[place // length][place % length]) for place in places]


def make_batch(dataset: Dataset, config: Config, step: int) -> Pair:
    """Images (N, H, W, 3) and labels (N, H, W) of a step: random crops, or whole images, half of them mirrored."""
    indices = batch_indices(len(dataset), config.batch_size, step, config.seed)
    pairs = [zoomed(*dataset[i], config.zoom, config.max_side) for i in indices]
    rng = np.random.default_rng([config.seed, 2, step])
    if config.size is None:
        return stack([mirror(*pair) if config.mirror and rng.random() < 0.5 else pair for pair in pairs])
    return training_batch(pairs, config.size, rng, config.scale, config.mirror)


def ahead(make: Callable[[int], Any], steps: range) -> Iterator[Any]:
    """make(step) for each step, the next one always under way on another thread."""
    with ThreadPoolExecutor(1) as pool:
        pending = [pool.submit(make, step) for step in steps[:1]]
        for step in steps:
            result = pending.pop().result()
            if step + 1 in steps:
                pending.append(pool.submit(make, step + 1))
            yield result


def evaluate(net: FCN, dataset: Dataset, zoom: float = 1.0, max_side: int | None = None) -> ConfusionMatrix:
    """Predict every image of a dataset and count the pixels, at the image's own size."""
    matrix = ConfusionMatrix(net.num_classes)
    pairs = ahead(lambda i: dataset[i], range(len(dataset)))
    for image, label in tqdm(pairs, "evaluating", len(dataset), unit="image", leave=False):
        matrix.update(to_device(label, net.xp)[None], predict(net, image, zoom, max_side)[None])
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


# The run folder


class Paths(NamedTuple):
    """The files of a run."""

    config: Path
    class_weights: Path  # where there are some
    log: Path
    curves: Path
    predictions: Path
    metrics: Path
    last: Path
    best: Path


def paths(run: Path) -> Paths:
    return Paths(
        run / "config.json",
        run / "class_weights.json",
        run / "log.csv",
        run / "curves.png",
        run / "predictions.png",
        run / "metrics.json",
        run / "last.safetensors",
        run / "best.safetensors",
    )


def build_network(config: Config, num_classes: int) -> FCN:
    """A new network as configured, with random weights."""
    return FCNS[config.model](
        num_classes,
        config.width,
        config.padding,
        hidden=config.hidden,
        dropout=config.dropout,
        learn_upsampling=config.learn_upsampling,
        freeze_trunk=config.freeze_trunk,
        seed=config.seed,
        xp=open_device(config.device),
    )


def build_optimiser(config: Config) -> SGD | Adam:
    if config.optimiser == "sgd":
        return SGD(config.lr, config.momentum, config.weight_decay)
    return Adam(config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)


def load_network(checkpoint: Path, device: str = "auto") -> tuple[FCN, dict[str, Any]]:
    """The network that a checkpoint holds, and its description (class names among it), from the file alone.

    `checkpoint` is a file, or the folder of a run, whose best checkpoint is then taken.
    """
    path = paths(checkpoint).best if checkpoint.is_dir() else checkpoint
    source = recognise(path)
    description = source.description
    if not source.own:
        raise InputError(f"{path}: {source.title}; convert it first: python -m tinyfcn.convert {path} OUT.safetensors")
    if source.model in CLASSIFIERS:
        raise InputError(
            f"{path}: holds {source.model}, a classifier; train an FCN from it: python -m tinyfcn.train --init {path}"
        )
    if description.get("preprocessing") is None:
        raise InputError(f"{path} does not say how its images are prepared: convert it, with --preprocess")
    options = {name: description[name] for name in ("num_classes", "width", "padding", "learn_upsampling")}
    options |= {name: description.get(name) for name in ("hidden", "scales")}
    net = FCN_CLASSES[source.model](**options, xp=open_device(device))
    net.assign({name: tensor.read() for name, tensor in source.tensors.items()}, description, source=path)
    return net, description


class Run:
    """A training run: its network, its optimiser, and how far it has come."""

    def __init__(self, config: Config, folder: Path) -> None:
        """Set up a run at step 0. Raises InputError for data that do not fit."""
        self.config, self.folder, self.paths = config, folder, paths(folder)
        self.train_set = open_dataset(config.data, config.split, config.subset, config.subset_seed)
        self.val_set = open_dataset(config.data, config.val_split)
        if self.train_set.classes != self.val_set.classes:
            raise InputError(f"{config.split} and {config.val_split} have different classes")
        if config.size is None and config.scale != (1.0, 1.0):
            raise InputError("--scale resizes images before they are cropped; with --size full there is no crop")
        self.net = build_network(config, self.train_set.num_classes)
        if config.size is not None:
            self.net.check_size(*config.size)
        self.optimiser = build_optimiser(config)
        self.trained: set[str] = set()  # layers that came trained from the file that the first stage started from
        self.class_weights: dict[str, float] | None = None
        self.step = 0
        self.best = -1.0  # mean IU of the best evaluation so far
        self.seconds = 0.0  # of training and evaluating so far

    def start(self) -> str:
        """Take over initial weights where the configuration names some; returns an account of them."""
        config = self.config
        trained: set[str] = set()
        told = ""
        measured = config.skip_scales == "measured"
        if measured:
            self.net.scales = {}
        if config.from_run:
            best = paths(Path(config.from_run)).best
            before = weights.read_description(best)
            trained, told = initialise(self.net, best, measured=measured)
        elif config.init:
            trained, told = initialise(self.net, config.init, config.preprocessing, measured)
        else:
            self.net.preprocessing = config.preprocessing or self.net.preprocessing
        refuse_frozen_noise(self.net, trained)
        if config.from_run:
            trained = set(before.get("trained", ()))
        self.set_trained(trained)
        if measured:
            pixels, _ = make_batch(self.train_set, config, 0)
            x = normalise(to_device(pixels, self.net.xp), self.net.preprocessing)
            self.net.scales = self.net.measure_scales(x) | self.net.scales
            told += "".join(f"\n{skip} takes its features times {scale:.3g}" for skip, scale in self.net.scales.items())
        if config.class_weights != "none":
            self.class_weights = class_weights(config.class_weights, self.train_set)
        return told.strip()

    def set_trained(self, layers: set[str]) -> None:
        """Let the layers that came trained learn at the rate that is theirs."""
        self.trained = layers
        rate = self.config.trunk_rate
        if rate == 0:
            self.net.freeze_convs = True
            self.net.freeze_trunk |= "fc7" in layers
        self.optimiser.rates = {name: rate for name in self.net.params if name.partition(".")[0] in layers}

    @property
    def megabytes(self) -> float:
        """How large the folder becomes: the last checkpoint holds the optimiser's moments too, the best one weights alone."""
        learned = sum(p.nbytes for p in self.net.learned().values())
        return (2 * sum(p.nbytes for p in self.net.params.values()) + self.optimiser.moments * learned) / 1e6

    def write_settings(self) -> None:
        """Write what decides the run into its folder."""
        self.config.write(self.paths.config)
        if self.class_weights is not None:
            self.paths.class_weights.write_text(json.dumps(self.class_weights, indent=2) + "\n", encoding="utf-8")

    def resume(self) -> None:
        """Go back to the last checkpoint of the folder."""
        tensors, description = weights.read(self.paths.last)
        self.net.assign(tensors, description, source=self.paths.last)
        self.net.scales = description.get("scales", self.net.scales)
        self.set_trained(set(description.get("trained", ())))
        if self.config.class_weights != "none":
            self.class_weights = read_class_weights(self.paths.class_weights, self.train_set.classes)
        self.seconds = description.get("seconds", 0.0)
        self.step, self.best = description["step"], description["best"]
        self.optimiser.state = {
            name.removeprefix(MOMENT): to_device(moment, self.net.xp)
            for name, moment in tensors.items()
            if name.startswith(MOMENT)
        }
        if isinstance(self.optimiser, Adam):
            self.optimiser.steps = self.step

    def save(self) -> None:
        """Write the last checkpoint: weights, and what it takes to go on from there, in one file that is whole or old."""
        moments = {MOMENT + name: to_host(moment) for name, moment in self.optimiser.state.items()}
        extra = self._extra() | {"best": self.best, "seconds": self._elapsed()}
        weights.write(self.paths.last, self.net.tensors() | moments, self.net.description() | extra)

    def _extra(self) -> dict[str, Any]:
        """What a checkpoint says besides what its network does."""
        return {
            "classes": list(self.train_set.classes),
            "zoom": self.config.zoom,
            "max_side": self.config.max_side,
            "step": self.step,
            "trained": sorted(self.trained),
        }

    def _elapsed(self) -> float:
        return round(self.seconds + time.perf_counter() - self.started, 1)

    def train(self) -> None:
        """Go on to the configured number of steps, then write the pictures and scores."""
        config, net = self.config, self.net
        evaluate_at = {math.ceil(config.steps * (k + 1) / config.evaluations) for k in range(config.evaluations)}
        factor = SCHEDULES[config.schedule]
        losses: list[Array] = []
        steps = range(self.step, config.steps)
        batches = ahead(lambda step: make_batch(self.train_set, config, step), steps)
        class_weight = None
        if self.class_weights is not None:
            class_weight = to_device(np.array(list(self.class_weights.values()), net.dtype), net.xp)
        started, images = time.perf_counter(), 0
        self.started = started
        with (
            Log(self.paths.log, self.step) as log,
            tqdm(total=config.steps, initial=self.step, unit="step") as bar,
            deferred_interrupt() as interrupted,
        ):
            for step, (pixels, labels) in zip(steps, batches, strict=True):
                if interrupted():
                    self.save()
                    raise KeyboardInterrupt
                if config.dropout:
                    net.rng = net.xp.random.default_rng([config.seed, 3, step])
                x = normalise(to_device(pixels, net.xp), net.preprocessing)
                lr_factor = factor(step / config.steps)
                y = to_device(labels, net.xp)
                losses.append(train_step(net, self.optimiser, x, y, config.loss, lr_factor, class_weight))
                self.step = step + 1
                images += len(pixels)
                bar.update()
                if self.step % REPORT_EVERY and self.step not in evaluate_at:
                    continue
                loss = float(sum(losses)) / len(losses)
                losses.clear()
                if not math.isfinite(loss):
                    raise InputError(f"the loss is {loss} at step {self.step}: training diverged; lower --lr")
                speed = images / (time.perf_counter() - started)
                bar.set_postfix(loss=f"{loss:.4g}", images_per_s=f"{speed:.1f}")
                row = {"step": self.step, "lr": config.lr * lr_factor, "loss": loss, "images_per_s": round(speed, 2)}
                if self.step in evaluate_at:
                    scores = self._evaluate()
                    row |= scores
                    bar.write(f"step {self.step}: " + describe(scores))
                    started, images = time.perf_counter(), 0  # the clock stops for evaluation
                log.write(row)
        self.finish()

    def _evaluate(self) -> dict[str, float]:
        matrix = evaluate(self.net, self.val_set, self.config.zoom, self.config.max_side)
        if math.isnan(matrix.mean_iou):
            raise InputError(f"{self.config.val_split} of {self.config.data} has no labelled pixel: all are ignored")
        if matrix.mean_iou > self.best:
            self.best = matrix.mean_iou
            self.net.save(self.paths.best, **self._extra())
            about = {
                "step": self.step,
                "seconds": self._elapsed(),
                "machine": f"{processor_name()}, {describe_device(self.net.xp)}",
            }
            write_metrics(self.paths.metrics, matrix, self.val_set.classes, **about)
        self.save()
        return matrix.scores()

    def finish(self) -> None:
        """Draw the curves, and the predictions of the best checkpoint."""
        plot.curves(self.paths.log, self.paths.curves)
        self.net.load(self.paths.best)
        plot_predictions(self.net, self.val_set, self.paths.predictions, self.config.zoom, self.config.max_side)


def plot_predictions(net: FCN, dataset: Dataset, path: Path, zoom: float = 1.0, max_side: int | None = None) -> None:
    """Image, truth and prediction of a few images, spread over the dataset."""
    chosen = np.linspace(0, len(dataset) - 1, min(SHOWN, len(dataset))).round().astype(int)
    pairs = (dataset[int(i)] for i in chosen)
    rows = [(image, label, to_host(predict(net, image, zoom, max_side))) for image, label in pairs]
    plot.predictions(rows, dataset.classes, path)


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back, so that a step is done whole; the function given tells whether it came. A second one acts at once."""
    came = False

    def hold(_signal: int, _frame: Any) -> None:
        nonlocal came
        if came:
            raise KeyboardInterrupt
        came = True
        tqdm.write("stopping after this step")

    previous = signal.signal(signal.SIGINT, hold)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, previous)
