"""`python -m tinyfcn.train`: train an FCN, on the generated set or on a folder in VOC layout."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

from tinyfcn import command, values
from tinyfcn.convert.identify import identify
from tinyfcn.data.balance import CLASS_WEIGHTS
from tinyfcn.data.counts import check_labels
from tinyfcn.data.loader import READING, open_dataset, reading_of
from tinyfcn.description import LEARN_UPSAMPLING, PADDINGS, PREPROCESSING
from tinyfcn.errors import InputError
from tinyfcn.files import OWNER, PARTIAL, check_free, making, owned
from tinyfcn.initial import sizes_of
from tinyfcn.models import FCNS
from tinyfcn.optim import SCHEDULES
from tinyfcn.ranks import Ranks, together
from tinyfcn.recipes import RECIPES, options_of
from tinyfcn.report import Metrics, device_line, report
from tinyfcn.run import EPOCHS, SCALE, Config, paths, read_config
from tinyfcn.training import Run
from tinyfcn.values import SIDE
from tinyfcn.weights import read_description

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
        "--size", type=_size, metavar="N | HxW | full", help="random crops of this size, or whole images (default 96)"
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
        help=f"what a run that is killed may lose (default {default.checkpoint_minutes:g})",
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


def main() -> None:
    command_line = shlex.join(["python", "-m", "tinyfcn.train", *sys.argv[1:]])
    with together() as ranks, contextlib.ExitStack() as owning:
        given = vars(parser().parse_args())
        if ranks.rank:
            Run(*ranks.first((Config(), Path())), ranks).train()
            return
        if "resume" in given:
            run = _resume(Path(given.pop("resume")), given, owning, ranks)
        else:
            run = _new(given | {"command": command_line}, owning, ranks)
        ranks.first((run.config, run.folder))
        _train(run)


def _train(run: Run) -> None:
    config = run.config
    command.say(device_line(run.net.xp, config.device))
    if (warning := risk(config)) is not None:
        command.say(f"warning: {warning}")
    command.say(
        f"{config.model}, width {config.width}, {sum(p.size for p in run.net.params.values()) / 1e6:.2f} M parameters, "
        f"{run.net.num_classes} classes; {len(run.train_set)} images to train on, {len(run.val_set)} to evaluate on"
    )
    if run.ranks.comm:
        command.say(f"{run.ranks.size} processes share each batch")
    command.say(f"{run.folder} takes {run.megabytes:,.0f} MB in the end")
    try:
        run.train()
    except KeyboardInterrupt:
        if run.saved is not None:
            where = "" if run.saved == run.step else f" from step {run.saved}"
            command.say(f"stopped at step {run.step}; go on{where} with: python -m tinyfcn.train --resume {run.folder}")
        raise
    metrics = values.read_record(Metrics, run.paths.metrics)
    command.say(f"\nbest checkpoint: step {metrics.step}, on {len(run.val_set)} held-out images\n")
    command.say(report(metrics))
    command.say(f"\n{run.folder}: {', '.join(path.name for path in run.paths if path.exists())}")


def _new(given: dict[str, Any], owning: contextlib.ExitStack, ranks: Ranks) -> Run:
    base: dict[str, Any] = {}
    if "init" in given and Path(given["init"]).is_dir():  # a run's folder
        given["init"] = str(paths(Path(given["init"])).best)
    start = given.get("init")
    if "from_run" in given:
        before = Path(given["from_run"])
        base = _of_stage(asdict(read_config(before)), given) | {"init": None, "preprocessing": None}
        if given.get("data", base["data"]) != base["data"]:
            base = {name: value for name, value in base.items() if name not in OF_ONE_DATASET}
        elif base["val_share"] is not None and "val_share" not in given:  # so that what was held out stays so
            lists = {"split": paths(before).train_list, "val_split": paths(before).val_list}
            base |= {name: str(path.resolve()) for name, path in lists.items()} | {"val_share": None}
        start = start or paths(before).best
    source = identify(start) if start else None
    out = given.pop("out", None)
    config = _config(base, given, sizes_of(source) if source and "init" in given else {})
    folder = Path(out) if out else _free_folder(config)
    _refuse_taken(folder)
    run = Run(config, folder, ranks)
    _look_at_labels(run)
    told = run.start(source)
    if "trunk_rate" in given and not run.trained:
        raise InputError("--trunk-rate is for layers that come trained from a file: give --init")
    if told:
        command.say(told)
    while True:
        try:
            owning.enter_context(making(run.folder, exist_ok=bool(out)))
            break
        except FileExistsError:  # another run has taken the free folder since
            run.folder = _free_folder(config)
    owning.enter_context(owned(run.folder))
    _refuse_taken(run.folder)  # by a run that has ended since
    owning.callback(run.discard)
    run.write_settings()
    return run


def _look_at_labels(run: Run) -> None:
    """Read all labels before the first is learned from, and say what is odd about them."""
    if run.config.data != "shapes":
        for line in check_labels(run.train_set, run.val_set, bar=True):
            command.say(line)


def _refuse_taken(folder: Path) -> None:
    """Raise InputError where there is something to lose in a folder: more than a run leaves whose first step was never saved."""
    files = paths(folder)
    begun = {*files.early, files.last, files.tensorboard}
    if not folder.exists() or (
        folder.is_dir()
        and all(path in begun or path.name.startswith((OWNER, PARTIAL)) for path in folder.iterdir())
        and not (files.last.exists() and read_description(files.last).step != 0)
    ):
        return
    go_on = f", or --resume {folder} to go on with it" if files.config.exists() and files.last.exists() else ""
    raise InputError(f"{folder} is there already; give another --out{go_on}")


def _resume(folder: Path, given: dict[str, Any], owning: contextlib.ExitStack, ranks: Ranks) -> Run:
    fixed = sorted(set(given) - {"steps", "epochs", "device", "checkpoint_minutes", "keep", "patience", "tensorboard"})
    if fixed:
        option = {"from_run": "from"}.get(fixed[0], fixed[0].replace("_", "-"))
        raise InputError(f"--{option} cannot change in a run that is resumed; start a new one")
    config = _config(asdict(read_config(folder)), given, {})
    owning.enter_context(owned(folder))
    if not paths(folder).last.exists():
        remedy = f"start from its best weights, --from {folder}" if paths(folder).best.exists() else "start a new run"
        raise InputError(f"{folder} has no checkpoint to go on from: {paths(folder).last.name} is missing; {remedy}")
    check_free(paths(folder), overwrite=True)
    run = Run(config, folder, ranks)
    _look_at_labels(run)
    told = run.resume()
    if run.is_finished:
        if run.step < config.steps:
            raise InputError(
                f"{folder} has run out of --patience {config.patience} at step {run.step}; give a larger one to go on"
            )
        raise InputError(f"{folder} has done its {run.step} steps; give a larger --steps to go on")
    config.write(run.paths.config)
    if told:
        command.say(told)
    return run


def _config(base: dict[str, Any], given: dict[str, Any], sizes: dict[str, Any]) -> Config:
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


def _of_stage(config: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
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


def _free_folder(config: Config) -> Path:
    name = f"{Path(os.path.realpath(config.data)).name if config.data != 'shapes' else 'shapes'}-{config.model}"
    return next(folder for n in count(1) if not (folder := Path("runs") / f"{name}-{n}").exists())


def _size(text: str) -> tuple[int, int] | None:
    """The size that "full", "N" or "HxW" means."""
    if text == "full":
        return None
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"must be N, HxW or full, got {values.shorten(text)}")
    height, width = (command.option(SIDE)(side) for side in (sides[0], sides[-1]))
    return height, width


if __name__ == "__main__":
    sys.exit(command.run(main))
