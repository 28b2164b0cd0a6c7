"""The options of `python -m tinyfcn.train`, and the configuration that they make."""

from __future__ import annotations

import argparse
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tinyfcn import command, values
from tinyfcn.data.balance import CLASS_WEIGHTS
from tinyfcn.data.loader import READING, open_dataset, reading_of
from tinyfcn.description import LEARN_UPSAMPLING, PADDINGS, PREPROCESSING
from tinyfcn.models import FCNS
from tinyfcn.optim import SCHEDULES
from tinyfcn.recipes import RECIPES, options_of
from tinyfcn.run import EPOCHS, SCALE, Config, paths, read_config
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

    def add(group: argparse._ActionsContainer, name: str, help: str, **more: Any) -> None:
        """Add the option for this field of `Config`; the field's kind says what it may be, where `choices` or `action` do not."""
        more = more if {"choices", "action", "type"} & more.keys() else {"type": command.option(kinds[name])} | more
        group.add_argument(f"--{name.replace('_', '-')}", help=help, **more)

    data = parse.add_argument_group("data")
    data.add_argument("--data", metavar="DIR", help='a folder in VOC layout, or "shapes", the generated set (default)')
    data.add_argument("--split", help=f"list to train on: a name, or a text file of ids (default {default.split})")
    data.add_argument("--val-split", help=f"list to evaluate on, likewise (default {default.val_split})")
    command.add_val_share(data, argparse.SUPPRESS)
    command.add_reading(data)
    add(data, "subset", "train on the first N images of the list only", metavar="N")
    add(data, "subset_seed", "... on N random ones instead", metavar="SEED")
    add(data, "size", "random crops of this size, or whole images (default 96)", type=size_of, metavar="N | HxW | full")
    add(data, "zoom", "let the network see images Z times as large (default 1)", metavar="Z")
    add(data, "max_side", "... but with no side longer than N; scores are at full size still", metavar="N")
    scale = {"type": command.option(SCALE), "nargs": 2, "metavar": ("LOW", "HIGH")}
    add(data, "scale", "resize each image by a random factor first", **scale)
    add(data, "mirror", "mirror half of the images (default)", action=argparse.BooleanOptionalAction)
    command.add_max_pixels(data)
    add(data, "batch_size", f"images per step (default {default.batch_size})", metavar="N")

    model = parse.add_argument_group("network")
    add(model, "model", f"(default {default.model})", choices=FCNS)
    add(model, "width", f"channels, as a part of the paper's (default {default.width})")
    add(model, "hidden", "channels of fc6 and fc7 (default: 4096 x width, or as in --init's file)", metavar="N")
    add(model, "padding", "paper: 100 pixels around the image; same: none (default)", choices=PADDINGS)
    add(model, "dropout", f"after fc6 and fc7 (default {default.dropout})", metavar="RATE")
    learned = "learn the x2 layers (skip, also without a word after it) or all; by default none: they stay bilinear"
    add(model, "learn_upsampling", learned, choices=LEARN_UPSAMPLING, nargs="?", const="skip")
    scales = "multiply what skips score by the model's own constants (default), or by what brings it to 1 on the first batch"
    add(model, "skip_scales", scales, choices=("published", "measured"))
    frozen = "leave conv1_1 to fc7 as they are; learn the scores only, and upsampling if asked"
    add(model, "freeze_trunk", frozen, action=argparse.BooleanOptionalAction)
    model.add_argument("--init", metavar="WEIGHTS", help="start from a file of weights, of any kind that tinyfcn.convert takes")
    before = "start from another run's best weights; other options as there"
    model.add_argument("--from", dest="from_run", metavar="RUN", help=before)
    add(model, "preprocessing", "what --init's weights expect, if the file can't tell", choices=PREPROCESSING)

    how = parse.add_argument_group("training")
    length = how.add_mutually_exclusive_group()
    add(length, "steps", f"(default {default.steps})")
    add(length, "epochs", "steps, counted in passes over the training images", type=command.option(EPOCHS))
    add(how, "optimiser", f"(default {default.optimiser})", choices=("adam", "sgd"))
    add(how, "recipe", "defaults that belong together (finetune with --init of a wide network, else scratch)", choices=RECIPES)
    add(how, "lr", f"learning rate; biases learn at twice this (default {default.lr})")
    rate = "times the learning rate, for layers that --init brings trained; 0 leaves them as they are (default 1)"
    add(how, "trunk_rate", rate, metavar="R")
    add(how, "momentum", f"of sgd; Adam's first beta (default {default.momentum})")
    add(how, "weight_decay", f"biases have none (default {default.weight_decay})")
    add(how, "schedule", f"of the learning rate (default {default.schedule})", choices=SCHEDULES)
    weights = f"none (default), {', '.join(CLASS_WEIGHTS)}, or a JSON file of weights by class: rare classes count for more"
    how.add_argument("--class-weights", metavar="HOW", help=weights)
    add(how, "loss", "over the pixels of a batch (default mean)", choices=("mean", "sum"))
    add(how, "evaluations", f"in the course of training (default {default.evaluations})")
    add(how, "patience", "stop after N evaluations without a better mean IU (default: never)", metavar="N")
    add(how, "seed", f"(default {default.seed})")
    command.add_device(how, default=argparse.SUPPRESS)

    run = parse.add_argument_group("run folder")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--out", metavar="DIR", help="new folder for all that the run makes (default: runs/DATA-MODEL-N)")
    resumed = "go on with a run; only --steps, --epochs, --device and the options below may change"
    where.add_argument("--resume", metavar="RUN", help=resumed)
    often = f"save at least so often: what a killed run may lose (default {default.checkpoint_minutes:g})"
    add(run, "checkpoint_minutes", often, metavar="M")
    kept = "last (default): the checkpoint to go on from too, three times as large with the optimiser's moments; "
    add(run, "keep", f"{kept}best: remove it in the end", choices=("last", "best"))
    shown = "also log losses and scores to RUN/tensorboard, for TensorBoard"
    add(run, "tensorboard", shown, action=argparse.BooleanOptionalAction)
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


def options_of_run(before: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The options that a stage takes over from the run before it: where the data are other ones, none that belong to the old."""
    base = next_stage(asdict(read_config(before)), given) | {"init": None, "preprocessing": None}
    if given.get("data", base["data"]) != base["data"]:
        return {name: value for name, value in base.items() if name not in OF_ONE_DATASET}
    if base["val_share"] is not None and "val_share" not in given:  # so that what was held out stays so
        lists = {"split": paths(before).train_list, "val_split": paths(before).val_list}
        base |= {name: str(path.resolve()) for name, path in lists.items()} | {"val_share": None}
    return base


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
