"""The options of `python -m tinyfcn.train`, and the configuration that they make."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tinyfcn import command, values
from tinyfcn.data.balance import CLASS_WEIGHTS
from tinyfcn.data.loader import READING, open_dataset, reading_of
from tinyfcn.description import LEARN_UPSAMPLING, PADDINGS, PREPROCESSING
from tinyfcn.models import FCNS
from tinyfcn.optim import SCHEDULES
from tinyfcn.recipes import RECIPES, options_of
from tinyfcn.run import EPOCHS, SCALE, Config
from tinyfcn.values import SIDE

DESCRIPTION = """\
Train an FCN. Without arguments: a small FCN-8s on a generated set of shapes, two or three minutes on two cores.

  python -m tinyfcn.train --data VOCdevkit/VOC2012 --subset 200 --init vgg16_notop.h5 --hidden 512 --epochs 20
  python -m tinyfcn.train --model fcn32s --out runs/32s
  python -m tinyfcn.train --model fcn16s --from runs/32s       stage by stage, all else as in that run
  python -m tinyfcn.train --resume runs/32s                    go on with a run that was interrupted
"""


FULL = 0.5  # width from which on a file's network counts as one that has learned ImageNet
HIGHEST = 3e-4  # rate of Adam: from 5e-4 on, a net was seen to label all as background after 40 steps
# What --from with other --data leaves behind.
OF_ONE_DATASET = ("split", "val_split", "subset", "subset_seed", "zoom", "max_side", *READING)


def parser() -> argparse.ArgumentParser:
    default = Config()
    parse = command.Parser(
        prog="python -m tinyfcn.train",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # only what is given, so that --from and --resume can fill in the rest
    )
    kinds = values.kinds(Config)

    def of(name: str) -> Callable[[str], Any]:
        return command.option(kinds[name])

    data = parse.add_argument_group("data")
    data.add_argument("--data", metavar="DIR", help='a folder in VOC layout, or "shapes", the generated set (default)')
    data.add_argument("--split", help=f"list to train on: a name, or a text file of ids (default {default.split})")
    data.add_argument("--val-split", help=f"list to evaluate on, likewise (default {default.val_split})")
    command.add_val_share(data, argparse.SUPPRESS)
    command.add_reading(data)
    data.add_argument("--subset", type=of("subset"), metavar="N", help="train on the first N images of the list only")
    data.add_argument("--subset-seed", type=of("subset_seed"), metavar="SEED", help="... on N random ones instead")
    data.add_argument(
        "--size", type=size_of, metavar="N | HxW | full", help="random crops of this size, or whole images (default 96)"
    )
    data.add_argument("--zoom", type=of("zoom"), metavar="Z", help="let the network see images Z times as large (default 1)")
    data.add_argument(
        "--max-side", type=of("max_side"), metavar="N", help="... but with no side longer than N; scores are at full size still"
    )
    data.add_argument(
        "--scale", type=command.option(SCALE), nargs=2, metavar=("LOW", "HIGH"), help="resize each image by a random factor first"
    )
    data.add_argument("--mirror", action=argparse.BooleanOptionalAction, help="mirror half of the images (default)")
    command.add_max_pixels(data)
    data.add_argument("--batch-size", type=of("batch_size"), metavar="N", help=f"images per step (default {default.batch_size})")

    model = parse.add_argument_group("network")
    model.add_argument("--model", choices=FCNS, help=f"(default {default.model})")
    model.add_argument("--width", type=of("width"), help=f"channels, as a part of the paper's (default {default.width})")
    model.add_argument(
        "--hidden", type=of("hidden"), metavar="N", help="channels of fc6 and fc7 (default: 4096 x width, or as in --init's file)"
    )
    model.add_argument("--padding", choices=PADDINGS, help="paper: 100 pixels around the image; same: none (default)")
    model.add_argument("--dropout", type=of("dropout"), metavar="RATE", help=f"after fc6 and fc7 (default {default.dropout})")
    model.add_argument(
        "--learn-upsampling",
        choices=LEARN_UPSAMPLING,
        nargs="?",
        const="skip",
        help="learn the x2 layers (skip, also without a word after it) or all; by default none: they stay bilinear",
    )
    model.add_argument(
        "--skip-scales",
        choices=("published", "measured"),
        help="multiply what skips score by the model's own constants (default), or by what brings it to 1 on the first batch",
    )
    model.add_argument(
        "--freeze-trunk",
        action=argparse.BooleanOptionalAction,
        help="leave conv1_1 to fc7 as they are; learn the scores only, and upsampling if asked",
    )
    model.add_argument("--init", metavar="WEIGHTS", help="start from a file of weights, of any kind that tinyfcn.convert takes")
    model.add_argument(
        "--from", dest="from_run", metavar="RUN", help="start from another run's best weights; other options as there"
    )
    model.add_argument("--preprocessing", choices=PREPROCESSING, help="what --init's weights expect, if the file can't tell")

    how = parse.add_argument_group("training")
    length = how.add_mutually_exclusive_group()
    length.add_argument("--steps", type=of("steps"), help=f"(default {default.steps})")
    length.add_argument("--epochs", type=command.option(EPOCHS), help="steps, counted in passes over the training images")
    how.add_argument("--optimiser", choices=("adam", "sgd"), help=f"(default {default.optimiser})")
    how.add_argument(
        "--recipe", choices=RECIPES, help="defaults that belong together (finetune with --init of a wide network, else scratch)"
    )
    how.add_argument("--lr", type=of("lr"), help=f"learning rate; biases learn at twice this (default {default.lr})")
    how.add_argument(
        "--trunk-rate",
        type=of("trunk_rate"),
        metavar="R",
        help="times the learning rate, for layers that --init brings trained; 0 leaves them as they are (default 1)",
    )
    how.add_argument("--momentum", type=of("momentum"), help=f"of sgd; Adam's first beta (default {default.momentum})")
    how.add_argument("--weight-decay", type=of("weight_decay"), help=f"biases have none (default {default.weight_decay})")
    how.add_argument("--schedule", choices=SCHEDULES, help=f"of the learning rate (default {default.schedule})")
    how.add_argument(
        "--class-weights",
        metavar="HOW",
        help=f"none (default), {', '.join(CLASS_WEIGHTS)}, or a JSON file of weights by class: rare classes count for more",
    )
    how.add_argument("--loss", choices=("mean", "sum"), help="over the pixels of a batch (default mean)")
    how.add_argument("--evaluations", type=of("evaluations"), help=f"in the course of training (default {default.evaluations})")
    how.add_argument(
        "--patience", type=of("patience"), metavar="N", help="stop after N evaluations without a better mean IU (default: never)"
    )
    how.add_argument("--seed", type=of("seed"), help=f"(default {default.seed})")
    command.add_device(how, default=argparse.SUPPRESS)

    run = parse.add_argument_group("run folder")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="new folder for all that the run makes (default: runs/DATA-MODEL-N)")
    where.add_argument(
        "--resume", metavar="RUN", help="go on with a run; only --steps, --epochs, --device and the options below may change"
    )
    run.add_argument(
        "--checkpoint-minutes",
        type=of("checkpoint_minutes"),
        metavar="M",
        help=f"save at least so often: what a killed run may lose (default {default.checkpoint_minutes:g})",
    )
    run.add_argument(
        "--keep",
        choices=("last", "best"),
        help="last (default): the checkpoint to go on from too, three times as large with the optimiser's moments; "
        "best: remove it in the end",
    )
    run.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        help="also log losses and scores to RUN/tensorboard, for TensorBoard",
    )
    return parse


def size_of(text: str) -> tuple[int, int] | None:
    """The size that "full", "N" or "HxW" means."""
    if text == "full":
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be N, HxW or full, got {values.shorten(text)}")
    height, width = (command.option(SIDE)(side) for side in (sides[0], sides[-1]))
    return height, width


def configure(base: dict[str, Any], given: dict[str, Any], sizes: dict[str, Any]) -> Config:
    """The options given, then the sizes of initial weights, the options of the run that this one builds on, and the defaults."""
    given = dict(given)
    epochs = given.pop("epochs", None)
    for name in ("data", "split", "val_split", "class_weights", "init", "from_run"):
        if name in given and (name in ("init", "from_run") or Path(given[name]).exists()):
            given[name] = os.path.realpath(given[name])  # so that RUN can be used from any folder
    for name in ("images", "labels"):  # in the data's folder, or anywhere
        if name in given and not Path(given.get("data", base.get("data", ".")), given[name]).is_dir():
            given[name] = os.path.realpath(given[name])
    recipe = given.get("recipe", "finetune" if sizes.get("width", 0) >= FULL else "scratch")
    if "recipe" in given or not base:
        base = base | options_of(recipe, given.get("model", base.get("model", Config.model))) | {"recipe": recipe}
    options = base | sizes | given
    config = Config(**options | {"scale": tuple(options.get("scale", Config.scale))})
    if epochs is not None:
        length = len(open_dataset(config.data, config.split, config.subset, config.subset_seed, **reading_of(config)))
        config = replace(config, steps=math.ceil(epochs * length / config.batch_size))
    return config


def next_stage(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The options of the stage before, with the rate that its recipe gives to the next one."""
    recipe, model = config["recipe"], config["model"]
    if config["lr"] == options_of(recipe, model).get("lr"):
        return config | {"lr": options_of(recipe, given.get("model", model))["lr"]}
    return config


def risk(config: Config) -> str | None:
    """What is known to destroy trained weights."""
    rate = config.lr * config.trunk_rate
    if config.init and config.width >= FULL and config.optimiser == "adam" and rate > HIGHEST:
        usual = options_of("finetune", config.model)
        return (
            f"Adam at a rate of {rate:g} is known to destroy VGG16's weights within some steps; "
            f"--recipe finetune takes {usual['lr'] * usual['trunk_rate']:g}"
        )
    return None
