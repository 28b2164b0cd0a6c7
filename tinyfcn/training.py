"""Training: the step, the loop around it, and how a run begins, stops and goes on."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinyfcn import ops, plot, weights
from tinyfcn.backend import Array, describe_device, processor_name, random_generator, to_device, to_host
from tinyfcn.data import normalise
from tinyfcn.data.balance import class_weights, read_class_weights
from tinyfcn.data.loader import make_batch, open_dataset, prefetch
from tinyfcn.errors import InputError
from tinyfcn.inference import evaluate, plot_predictions
from tinyfcn.initial import initialise, refuse_frozen_noise
from tinyfcn.models import FCN, FCNS
from tinyfcn.models.network import layer_of
from tinyfcn.optim import SCHEDULES, SGD, Adam, Optimiser
from tinyfcn.report import Log, describe, open_device, write_metrics
from tinyfcn.run import Config, paths

REPORT_EVERY = 10  # steps between reports: reading a loss makes a GPU wait
MOMENT = "optimiser."  # before the names of the optimiser's moments, in the last checkpoint


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


def build_optimiser(config: Config) -> Optimiser:
    if config.optimiser == "sgd":
        return SGD(config.lr, config.momentum, config.weight_decay)
    return Adam(config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)


def train_step(
    net: FCN,
    optimiser: Optimiser,
    x: Array,
    labels: Array,
    reduction: str = "mean",
    lr_factor: float = 1.0,
    class_weight: Array | None = None,
) -> Array:
    """Forward, loss, backward, update; returns the loss, on the network's device."""
    update = optimiser.begin(net.trainable(), lr_factor)
    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction, class_weight=class_weight)
    del scores
    dscores = ops.softmax_cross_entropy_backward(1.0, cache)
    del cache  # as large as dscores
    net.backward(dscores, update=update)
    return loss


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
            self.net.skip_scales = {}
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
            self.net.skip_scales = self.net.measure_scales(x) | self.net.skip_scales
            told += "".join(f"\n{skip} takes its features times {scale:.3g}" for skip, scale in self.net.skip_scales.items())
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
        self.optimiser.rates = {name: rate for name in self.net.params if layer_of(name) in layers}

    @property
    def megabytes(self) -> float:
        """How large the folder becomes: the last checkpoint holds the optimiser's moments too, the best one weights alone."""
        every: int = sum(p.nbytes for p in self.net.params.values())
        trainable: int = sum(p.nbytes for p in self.net.trainable().values())
        return (2 * every + self.optimiser.moments * trainable) / 1e6

    def write_settings(self) -> None:
        """Write what decides the run into its folder."""
        self.config.write(self.paths.config)
        if self.class_weights is not None:
            self.paths.class_weights.write_text(json.dumps(self.class_weights, indent=2) + "\n", encoding="utf-8")

    def resume(self) -> None:
        """Go back to the last checkpoint of the folder."""
        tensors, description = weights.read(self.paths.last)
        self.net.assign(tensors, description, source=self.paths.last)
        self.net.skip_scales = description.get("scales", self.net.skip_scales)
        self.set_trained(set(description.get("trained", ())))
        if self.config.class_weights != "none":
            self.class_weights = read_class_weights(self.paths.class_weights, self.train_set.classes)
        self.seconds = description.get("seconds", 0.0)
        self.step, self.best = description["step"], description["best"]
        moments = {
            name.removeprefix(MOMENT): to_device(moment, self.net.xp)
            for name, moment in tensors.items()
            if name.startswith(MOMENT)
        }
        self.optimiser.restore(moments, self.step)

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
        config = self.config
        evaluate_at = {math.ceil(config.steps * (k + 1) / config.evaluations) for k in range(config.evaluations)}
        batches = prefetch(lambda step: make_batch(self.train_set, config, step), range(self.step, config.steps))
        class_weight = None
        if self.class_weights is not None:
            class_weight = to_device(np.array(list(self.class_weights.values()), self.net.dtype), self.net.xp)
        losses: list[Array] = []
        self.started = clock = time.perf_counter()
        images = 0  # since then
        with (
            Log(self.paths.log, self.step) as log,
            tqdm(total=config.steps, initial=self.step, unit="step") as bar,
            deferred_interrupt() as interrupted,
        ):
            for pixels, labels in batches:
                if interrupted():
                    self.save()
                    raise KeyboardInterrupt
                lr_factor = SCHEDULES[config.schedule](self.step / config.steps)
                losses.append(self._train_step(pixels, labels, lr_factor, class_weight))
                images += len(pixels)
                bar.update()
                if self.step % REPORT_EVERY and self.step not in evaluate_at:
                    continue
                loss = float(sum(losses)) / len(losses)  # a GPU is waited for here
                if not math.isfinite(loss):
                    raise InputError(f"the loss is {loss} at step {self.step}: training diverged; lower --lr")
                losses.clear()
                speed = images / (time.perf_counter() - clock)
                bar.set_postfix(loss=f"{loss:.4g}", images_per_s=f"{speed:.1f}")
                row = {"step": self.step, "lr": config.lr * lr_factor, "loss": loss, "images_per_s": round(speed, 2)}
                if self.step in evaluate_at:
                    scores = self._evaluate()
                    row |= scores
                    bar.write(f"step {self.step}: " + describe(scores))
                    clock, images = time.perf_counter(), 0  # the clock stops for evaluation
                log.write(row)
        self.finish()

    def _train_step(self, pixels: np.ndarray, labels: np.ndarray, lr_factor: float, class_weight: Array | None) -> Array:
        """One step on a batch, which goes to the network's device as bytes; returns the loss."""
        config, net = self.config, self.net
        if config.dropout:
            net.rng = random_generator(net.xp, [config.seed, 3, self.step])
        x = normalise(to_device(pixels, net.xp), net.preprocessing)
        loss = train_step(net, self.optimiser, x, to_device(labels, net.xp), config.loss, lr_factor, class_weight)
        self.step += 1
        return loss

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
            write_metrics(self.paths.metrics, matrix.summary(self.val_set.classes) | about)
        self.save()
        return matrix.scores()

    def finish(self) -> None:
        """Draw the curves, and the predictions of the best checkpoint."""
        plot.curves(self.paths.log, self.paths.curves)
        self.net.load(self.paths.best)
        plot_predictions(self.net, self.val_set, self.paths.predictions, self.config.zoom, self.config.max_side)


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
