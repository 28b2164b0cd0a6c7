"""A training run: how it begins, the loop around its steps, and how it stops and goes on."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyfcn import checkpoint, gallery, plot, weights
from tinyfcn.backend import Array, describe_device, processor_name, random_generator, to_device, to_host
from tinyfcn.board import Board, check_tensorboard
from tinyfcn.convert.identify import Source, identify
from tinyfcn.data import VOCSegmentation, normalise
from tinyfcn.data.balance import class_weights, read_class_weights, weight_of
from tinyfcn.data.loader import batch_indices, class_colours, fingerprint, make_batch, open_sets, prefetch
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import write_json, write_text
from tinyfcn.inference import Assessment, assess
from tinyfcn.initial import initialise, refuse_frozen_noise
from tinyfcn.models.network import layer_of
from tinyfcn.optim import SCHEDULES
from tinyfcn.progress import Progress
from tinyfcn.ranks import ALONE, Ranks
from tinyfcn.report import Log, Metrics, Row, describe, read_log
from tinyfcn.run import Config, Paths, paths
from tinyfcn.step import build_network, build_optimiser, train_step
from tinyfcn.stopping import deferred_signals

REPORT_EVERY = 10  # steps between reports: reading a loss makes a GPU wait


class Mean(NamedTuple):
    """A running mean over steps."""

    total: float
    steps: int


class Run:
    """A training run: its network, its optimiser, and how far it has come."""

    def __init__(self, config: Config, folder: Path, ranks: Ranks = ALONE) -> None:
        """Set up a run at step 0. Raises InputError for data that do not fit."""
        self.config, self.folder, self.ranks = config, folder, ranks
        if config.tensorboard:
            check_tensorboard()
        ranks.use_own_gpu(config.device)
        self.train_set, self.val_set = open_sets(config, folder)
        if config.batch_size < ranks.size:
            raise InputError(f"--batch-size {config.batch_size} is too small to be shared by {ranks.size} processes")
        self.data = fingerprint(self.train_set, self.val_set)
        self.net = build_network(config, self.train_set.num_classes)
        if config.size is not None:
            self.net.check_size(*config.size)
        self.optimiser = build_optimiser(config)
        self.trained: set[str] = set()  # layers that came trained from the file that the first stage started from
        self.class_weights: dict[str, float] | None = None
        self.step = 0
        self.saved: int | None = None  # step of the last checkpoint
        self.evaluate_at = {math.ceil(config.steps * (k + 1) / config.evaluations) for k in range(config.evaluations)}
        self.best = -1.0  # mean IU of the best evaluation so far
        self.stale = 0  # evaluations since then
        self.seconds = 0.0  # of training and evaluating so far
        self.whole = True  # whether no step is half done
        self.finite = -1  # the step after which all parameters were last seen to be finite
        self.losses: list[Array] = []  # of the last steps, on the device
        self.reported = Mean(0.0, 0)  # what the next report averages, together with those

    @property
    def paths(self) -> Paths:
        return paths(self.folder)

    def start(self, source: Source | None = None) -> str:
        """Take over initial weights where the configuration names some; returns an account of them.

        `source` is what their file holds, if that is known already.
        """
        config = self.config
        trained: set[str] = set()
        told = ""
        measured = config.skip_scales == "measured"
        if measured:
            self.net.skip_scales = {}
        path = paths(Path(config.from_run)).best if config.from_run else config.init
        if path:
            source = source or identify(path)
            trained, told = initialise(self.net, path, source, config.preprocessing, measured)
        else:
            self.net.preprocessing = config.preprocessing or self.net.preprocessing
        refuse_frozen_noise(self.net, trained)
        self.set_trained(source.description.trained if source and config.from_run else trained)
        if measured:
            pixels, _ = make_batch(self.train_set, config, 0)
            x = normalise(to_device(pixels, self.net.xp), self.net.preprocessing)
            self.net.skip_scales = self.net.measure_scales(x) | self.net.skip_scales
            told += "".join(f"\n{skip} takes its features times {scale:.3g}" for skip, scale in self.net.skip_scales.items())
        if config.class_weights != "none":
            self.class_weights = class_weights(config.class_weights, self.train_set)
        return told.strip()

    def set_trained(self, layers: Iterable[str]) -> None:
        """Let the layers that came trained learn at a rate of their own."""
        self.trained = set(layers)
        rate = self.config.trunk_rate
        if rate == 0:
            self.net.freeze_convs = True
            self.net.freeze_trunk |= "fc7" in layers
        self.optimiser.rates = {name: rate for name in self.net.params if layer_of(name) in layers}

    @property
    def megabytes(self) -> float:
        """The size that the folder will have: the last checkpoint holds the optimiser's moments too, the best one does not."""
        every: int = sum(p.nbytes for p in self.net.params.values())
        trainable: int = sum(p.nbytes for p in self.net.trainable().values())
        return (2 * every + len(self.optimiser.suffixes) * trainable) / 1e6

    def write_settings(self) -> None:
        """Write what decides the run into its folder."""
        self.config.write(self.paths.config)
        if self.class_weights is not None:
            write_json(self.paths.class_weights, self.class_weights)
        if self.config.val_share is not None:
            for dataset, path in ((self.train_set, self.paths.train_list), (self.val_set, self.paths.val_list)):
                assert isinstance(dataset, VOCSegmentation)
                write_text(path, "".join(f"{id_}\n" for id_ in dataset.listed))

    def resume(self) -> str:
        """Go back to the last checkpoint of the folder; returns an account of what is not as it was."""
        last = self.paths.last
        about, tensors = checkpoint.read(last, self.net, self.config)
        self.set_trained(about.trained)
        if self.config.class_weights != "none":
            self.class_weights = read_class_weights(self.paths.class_weights, self.train_set.classes)
        assert about.step is not None and about.best is not None  # else `checkpoint.read` refuses
        self.seconds, self.step, self.best = about.seconds, about.step, about.best
        self.saved, self.reported = self.step, Mean(*about.losses)
        scores = [row["mean_iou"] for row in read_log(self.paths.log) if row["step"] <= self.logged]
        scores = [score for score in scores if score is not None]
        self.stale = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        told = []
        data, self.data = self.data, about.data or self.data
        if changed := [what for what, value in data.items() if self.data.get(what) != value]:
            told.append(f"changed since this run began: {', '.join(changed)}")
        missing = checkpoint.restore(last, tensors, self.net, self.optimiser, self.step)
        if missing and self.step:
            told.append(f"{last} lacks {len(missing)} of the optimiser's moments, such as {missing[0]}: they start at zero")
        return "\n".join(told)

    def join(self) -> None:
        """Give all ranks what rank 0 has read and made; from here on they stay equal."""
        if not self.ranks.comm:
            return
        net, first = self.net, self.ranks.first
        for attribute in "step", "saved", "best", "stale", "seconds", "reported", "data", "class_weights":
            setattr(self, attribute, first(getattr(self, attribute)))
        self.set_trained(first(self.trained))
        net.skip_scales, net.preprocessing = first((net.skip_scales, net.preprocessing))
        for p in net.params.values():
            p[...] = to_device(first(to_host(p)), net.xp)
        moments = first({name: to_host(moment) for name, moment in self.optimiser.state.items()})
        self.optimiser.restore({name: to_device(moment, net.xp) for name, moment in moments.items()}, self.step)

    def save(self) -> None:
        """Write the last checkpoint. Raises InputError where training has diverged; the checkpoint before stays."""
        self.settle()
        self.check_parameters()
        if not self.ranks.rank:
            extra = {"best": self.best, "seconds": self._elapsed(), "losses": tuple(self.reported), "data": self.data}
            about = replace(self.net.description(), **self._extra() | extra)
            checkpoint.write(self.paths.last, self.net, self.optimiser, about)
        self.saved = self.step

    def discard(self) -> None:
        """Remove the files of a run that has come to an end before its first checkpoint."""
        if self.saved is None:
            for path in self.paths.early:
                path.unlink(missing_ok=True)

    def check_parameters(self) -> None:
        """Raise InputError where training has made a parameter infinite or NaN; looks once per step."""
        if self.finite == self.step:
            return
        for name, p in self.net.params.items():
            if not self.net.xp.isfinite(p).all():
                raise self._diverged(f"{name} is no longer finite", self.step)
        self.finite = self.step

    def settle(self) -> None:
        """Add up the losses of the last steps, which waits for a GPU. Raises InputError where one is not finite."""
        losses: list[float] = []
        if self.losses:
            losses = self.ranks.total(to_host(self.net.xp.stack(self.losses))).tolist()  # all of them in one go
        for step, loss in enumerate(losses, self.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", step)
        self.reported = Mean(self.reported.total + sum(losses), self.reported.steps + len(losses))
        self.losses.clear()

    def _diverged(self, what: str, step: int) -> InputError:
        """The error that says where training went wrong, and what to do about it."""
        config = self.config
        indices = batch_indices(len(self.train_set), config.batch_size, step - 1, config.seed)
        images = ", ".join(one_line(str(self.train_set.ids[i]), 80) for i in indices[:8])
        kept = f"; the checkpoint of step {self.saved} is whole" if self.saved else ""
        remedy = f"start anew with a lower --lr, here {config.lr:g}"
        return InputError(f"training diverged: {what} at step {step} (images {images}); {remedy}{kept}")

    def _extra(self) -> dict[str, Any]:
        """What a checkpoint says beyond the description of its network."""
        return {
            "classes": self.train_set.classes,
            "colours": class_colours(self.train_set),
            "zoom": self.config.zoom,
            "max_side": self.config.max_side,
            "step": self.step,
            "trained": tuple(sorted(self.trained)),
        }

    def _lr_factor(self, step: int) -> float:
        return SCHEDULES[self.config.schedule](step / self.config.steps)

    def _elapsed(self) -> float:
        return round(self.seconds + time.perf_counter() - self.started, 1)

    @property
    def logged(self) -> int:
        """The last step of which the log may tell; the next report is due at once where an evaluation has not been made."""
        return self.step - bool(self.step in self.evaluate_at and self.reported.steps)

    @property
    def out_of_patience(self) -> bool:
        return self.config.patience is not None and self.stale >= self.config.patience

    def train(self) -> None:
        """Go on to the configured number of steps, then write the pictures and scores."""
        self.join()
        config = self.config
        class_weight = None if self._class_weight is None else to_device(self._class_weight, self.net.xp)
        self.started = self.clock = time.perf_counter()
        self.images = 0  # since then
        first = not self.ranks.rank
        with (
            warnings.catch_warnings(),
            closing(prefetch(self._batch, range(self.step, config.steps))) as batches,
            self._logs() as logs,
            Progress(self.step, config.steps, first) as progress,
            deferred_signals() as came,
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of numbers that overflow: `settle` says more
            due = time.monotonic() + 60 * config.checkpoint_minutes
            try:
                if self.logged < self.step:
                    self._report(logs, progress)
                for pixels, labels, part in batches:
                    if self.out_of_patience:
                        progress.say(f"no better mean IU in {self.stale} evaluations: --patience ends training here")
                        break
                    if self.saved is None:  # and the first batch could be made
                        self.save()
                    stop, late = self.ranks.total([len(came()), int(time.monotonic() > due)])  # any, so that all agree
                    if stop or late:
                        self.save()
                        due = time.monotonic() + 60 * config.checkpoint_minutes
                    if stop:
                        if signal.SIGINT in came() and first and self.step:
                            self._sketch()
                        raise KeyboardInterrupt(*came())
                    self.losses.append(self._train_step(pixels, labels, part, self._lr_factor(self.step), class_weight))
                    self.images += config.batch_size
                    progress.step()
                    if not self.step % REPORT_EVERY or self.step in self.evaluate_at:
                        self._report(logs, progress)
            except Exception:  # an image that does not open, a terminal that was closed
                if self.whole and self.saved not in (None, self.step) and not self.ranks.comm:  # the other ranks may be elsewhere
                    with suppress(InputError):
                        self.save()
                raise
        if first:
            self.finish()

    @contextmanager
    def _logs(self) -> Iterator[list[Log | Board]]:
        """What reports go to; on rank 0 alone."""
        with ExitStack() as opened:
            logs: list[Log | Board] = []
            if not self.ranks.rank:
                logs.append(opened.enter_context(Log(self.paths.log, self.logged)))
                if self.config.tensorboard:
                    logs.append(opened.enter_context(Board(self.paths.tensorboard, self.logged)))
            yield logs

    def _report(self, logs: list[Log | Board], progress: Progress) -> None:
        """Log the last steps; where an evaluation is due, make it, with a checkpoint before and after."""
        evaluating = self.step in self.evaluate_at
        if evaluating:
            self.save()
        self.settle()
        loss = self.reported.total / self.reported.steps
        speed = self.images / (time.perf_counter() - self.clock)
        progress.report(self.step, loss, speed)
        lr = self.config.lr * self._lr_factor(self.step - 1)
        row = {"step": self.step, "lr": lr, "loss": loss, "images_per_s": round(speed, 2)}
        if evaluating:
            row |= self._evaluate()
        for log in logs:
            log.write(row)
        self.reported = Mean(0.0, 0)
        if evaluating:
            if logs:
                gallery.renew_page(self.folder)
            self.save()
            progress.say(f"step {self.step}: {describe(row)}")
            self.clock, self.images = time.perf_counter(), 0  # the clock stops for evaluation

    @property
    def _class_weight(self) -> np.ndarray | None:
        """The weights of the classes in their order, (num_classes,), on the host."""
        return None if self.class_weights is None else np.array(list(self.class_weights.values()), self.net.dtype)

    def _batch(self, step: int) -> tuple[np.ndarray, np.ndarray, float]:
        """This rank's images and labels of a step, and the part that they have in the batch's loss."""
        pixels, labels = make_batch(self.train_set, self.config, step)
        if not self.ranks.comm:
            return pixels, labels, 1.0
        mine = self.ranks.share(len(labels))
        weight = np.ones(self.net.num_classes) if self._class_weight is None else self._class_weight
        weighed = [weight_of(some, weight) for some in (labels[mine], labels)]
        part = weighed[0] / weighed[1] if self.config.loss == "mean" and weighed[1] else 1.0
        return pixels[mine], labels[mine], float(part)

    def _train_step(
        self, pixels: np.ndarray, labels: np.ndarray, part: float, lr_factor: float, class_weight: Array | None
    ) -> Array:
        """One step on a batch, which goes to the network's device as bytes; returns the loss."""
        config, net = self.config, self.net
        if config.dropout:
            place = [self.ranks.rank] if self.ranks.comm else []
            net.rng = random_generator(net.xp, [config.seed, 3, self.step, *place])
        x = normalise(to_device(pixels, net.xp), net.preprocessing)
        self.whole = False  # some layers have been updated, and others not
        labelled = to_device(labels, net.xp)
        loss = train_step(net, self.optimiser, x, labelled, config.loss, lr_factor, class_weight, self.ranks, part)
        self.whole = True
        self.step += 1
        return loss

    def _assess(self, ranks: Ranks) -> Assessment:
        return assess(self.net, self.val_set, self.config.zoom, self.config.max_side, ranks, self._class_weight)

    def _evaluate(self) -> Row:
        """Scores and loss on the validation list; where no evaluation was better, the network is kept and shown."""
        self.check_parameters()
        found = self._assess(self.ranks)
        matrix = found.matrix
        if not math.isfinite(found.loss):
            raise self._diverged(f"the loss on held-out images is {found.loss}", self.step)
        better = matrix.mean_iou > self.best
        self.best, self.stale = (matrix.mean_iou, 0) if better else (self.best, self.stale + 1)
        if better and not self.ranks.rank:
            self.net.save(self.paths.best, **self._extra())
            machine = f"{processor_name()}, {describe_device(self.net.xp)}"
            summary = matrix.summary(self.val_set.classes)
            Metrics(**summary, step=self.step, seconds=self._elapsed(), machine=machine).write(self.paths.metrics)
            self._show(found, self.step)
        return matrix.scores() | {"validation_loss": found.loss}

    def _show(self, found: Assessment, step: int | None) -> None:
        """Draw what the network makes of images of the validation list."""
        plot.confusion(found.matrix.counts, self.val_set.classes, self.paths.confusion)
        self._draw(gallery.examples(found.accuracy), step)

    def _draw(self, chosen: list[int], step: int | None) -> None:
        view = self.config.zoom, self.config.max_side
        gallery.draw_predictions(self.net, self.val_set, chosen, f"step {step}", self.paths.predictions, *view)

    def _sketch(self) -> None:
        """Show how far an interrupted run has come."""
        with suppress(InputError):  # a picture that fails must not change how the run ends
            if not self.paths.best.exists():
                self._draw(gallery.spread(len(self.val_set)), self.step)
            gallery.renew_page(self.folder)

    def finish(self) -> None:
        """Let all pictures be of the best checkpoint, and of the whole log."""
        if not gallery.is_current(self.paths):
            self.net.load(self.paths.best)
            self._show(self._assess(ALONE), weights.read_description(self.paths.best).step)
            gallery.renew_page(self.folder)
        if self.config.keep == "best":
            self.paths.last.unlink(missing_ok=True)

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, and all pictures are of the best checkpoint."""
        done = self.logged >= self.config.steps or self.out_of_patience
        return done and self.paths.best.exists() and gallery.is_current(self.paths)
