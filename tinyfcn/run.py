"""The folder of a run: what decides the run, which is kept there as config.json, and the other files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tinyfcn.description import LEARN_UPSAMPLING, PADDINGS, PREPROCESSING
from tinyfcn.errors import InputError
from tinyfcn.files import write_json
from tinyfcn.models import FCNS
from tinyfcn.optim import SCHEDULES
from tinyfcn.recipes import RECIPES
from tinyfcn.values import (
    FLAG,
    HELD_OUT,
    HIDDEN,
    SIDE,
    STEPS,
    SUBSET,
    TEXT,
    VALUE,
    WIDTH,
    ZOOM,
    check,
    field,
    number,
    one_of,
    optional,
    pair,
    read_record,
    whole,
)

SEED = whole(0, 2**32 - 1)
SCALE = number(0, 16, above=True)
RATE = number(0, 1, below=True)
EVALUATIONS = whole(1, 10_000)
EPOCHS = number(0, 1e6, above=True)


@dataclass(frozen=True)
class Config:
    """All that decides a run; the options of `python -m tinyfcn.train`, which explains them. Raises InputError for a value that
    cannot be."""

    data: str = field(TEXT, "shapes")
    split: str = field(TEXT, "train")
    val_split: str = field(TEXT, "val")
    subset: int | None = field(optional(SUBSET), None)
    subset_seed: int | None = field(optional(SEED), None)
    # How data is read, where it is not in VOC's layout: see data.voc.VOCSegmentation
    images: str | None = field(optional(TEXT), None)
    labels: str | None = field(optional(TEXT), None)
    label_suffix: str | None = field(optional(TEXT), None)
    ignore: int | None = field(optional(VALUE), None)
    mask: bool = field(FLAG, False)
    val_share: float | None = field(optional(HELD_OUT), None)  # the lists are then in the run's folder
    model: str = field(one_of(FCNS), "fcn8s")
    width: float = field(WIDTH, 0.125)
    hidden: int | None = field(optional(HIDDEN), None)  # channels of fc6 and fc7; None: 4096 x width
    padding: str = field(one_of(PADDINGS), "same")
    dropout: float = field(RATE, 0.0)
    learn_upsampling: str = field(one_of(LEARN_UPSAMPLING), "none")
    # Constants before skips are scored: the model's own, or "measured" on the first batch
    skip_scales: str = field(one_of(("published", "measured")), "published")
    freeze_trunk: bool = field(FLAG, False)
    size: tuple[int, int] | None = field(optional(pair(SIDE)), (96, 96))  # (height, width) of crops; None: whole images
    zoom: float = field(ZOOM, 1.0)  # the network sees images so many times as large; its answer is scaled back
    max_side: int | None = field(optional(SIDE), None)  # ... but with no side longer than this
    scale: tuple[float, float] = field(pair(SCALE), (1.0, 1.0))
    mirror: bool = field(FLAG, True)
    batch_size: int = field(whole(1, 4096), 4)
    steps: int = field(STEPS, 1600)
    evaluations: int = field(EVALUATIONS, 4)
    patience: int | None = field(optional(EVALUATIONS), None)  # evaluations without a better mean IU that end training
    optimiser: str = field(one_of(("adam", "sgd")), "adam")
    schedule: str = field(one_of(SCHEDULES), "poly")
    lr: float = field(number(0, 1e6, above=True), 2e-3)
    trunk_rate: float = field(number(0, 1000), 1.0)  # times lr, for layers that come trained; 0: they stay as they are
    momentum: float = field(RATE, 0.9)
    weight_decay: float = field(number(0, 1000), 0.0)
    loss: str = field(one_of(("mean", "sum")), "mean")
    class_weights: str = field(TEXT, "none")  # a name in data.balance.CLASS_WEIGHTS, or a JSON file
    recipe: str = field(one_of(RECIPES), "scratch")  # which of tinyfcn.recipes gave the options that were not given by hand
    init: str | None = field(optional(TEXT), None)
    from_run: str | None = field(optional(TEXT), None)
    # None: what the initial weights say, torchvision's where there are none
    preprocessing: str | None = field(optional(one_of(PREPROCESSING)), None)
    seed: int = field(SEED, 0)
    device: str = field(one_of(("auto", "cpu", "gpu")), "auto")
    checkpoint_minutes: float = field(number(0, 100_000, above=True), 5.0)  # that a run which is killed may lose
    keep: str = field(one_of(("last", "best")), "last")  # "best": the last checkpoint goes in the end, with the moments
    tensorboard: bool = field(FLAG, False)
    command: str | None = field(optional(TEXT), None)  # that made the run, for people

    def __post_init__(self) -> None:
        check(self)
        low, high = self.scale
        if low > high:
            raise InputError(f"--scale {low:g} {high:g}: give the smaller factor first")
        if self.size is None and self.scale != (1.0, 1.0):
            raise InputError("--scale resizes images before they are cropped; with --size full there is no crop")
        if self.init and self.from_run:
            raise InputError("--init and --from both name initial weights; give one of them")

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


def read_config(run: Path) -> Config:
    """The options that a run was made with. Raises InputError where RUN is no run folder."""
    path = paths(run).config
    if not path.exists():
        raise InputError(f"{run} is not the folder of a run: it has no {path.name}")
    return read_record(Config, path, complete=True)


class Paths(NamedTuple):
    """The files of a run."""

    config: Path
    class_weights: Path  # where there are some
    train_list: Path  # this and the next one where --val-share made them
    val_list: Path
    log: Path
    page: Path
    curves: Path
    predictions: Path
    confusion: Path
    metrics: Path
    last: Path
    best: Path

    @property
    def tensorboard(self) -> Path:
        """A folder, with --tensorboard."""
        return self.config.parent / "tensorboard"

    @property
    def early(self) -> tuple[Path, ...]:
        """Those that are there before the first checkpoint, and worth nothing without one."""
        return self.config, self.class_weights, self.train_list, self.val_list, self.log


def paths(run: Path) -> Paths:
    documents = "config.json", "class_weights.json", "train.txt", "val.txt", "log.csv", "index.html"
    pictures = "curves.png", "predictions.png", "confusion.png"
    return Paths(*(run / name for name in (*documents, *pictures, "metrics.json", "last.safetensors", "best.safetensors")))
