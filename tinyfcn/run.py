"""The folder of a run: what decides the run, which is kept there as config.json, and the other files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tinyfcn.errors import InputError
from tinyfcn.files import write_json


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
    checkpoint_minutes: float = 5.0  # that a run which is killed may lose
    keep: str = "last"  # "best": in the end the last checkpoint goes, with the optimiser's moments
    command: str = ""  # that made the run, for people

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))


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
