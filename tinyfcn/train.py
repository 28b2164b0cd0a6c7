"""`python -m tinyfcn.train`: train an FCN, on the generated set or on a folder in VOC layout."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from tinyfcn import command, values
from tinyfcn.convert.identify import identify
from tinyfcn.data.counts import check_labels
from tinyfcn.errors import InputError
from tinyfcn.files import OWNER, PARTIAL, check_free, making, owned
from tinyfcn.initial import sizes_of
from tinyfcn.options import configure, options_of_run, parser, risk
from tinyfcn.ranks import Ranks, together
from tinyfcn.report import Metrics, device_line, report
from tinyfcn.run import Config, paths, read_config
from tinyfcn.training import Run
from tinyfcn.weights import read_description


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
        base = options_of_run(Path(given["from_run"]), given)
        start = start or paths(Path(given["from_run"])).best
    source = identify(start) if start else None
    out = given.pop("out", None)
    config = configure(base, given, sizes_of(source) if source and "init" in given else {})
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
    if not folder.exists():
        return
    only_begun = folder.is_dir() and all(path in begun or path.name.startswith((OWNER, PARTIAL)) for path in folder.iterdir())
    if only_begun and not (files.last.exists() and read_description(files.last).step != 0):
        return
    go_on = f", or --resume {folder} to go on with it" if files.config.exists() and files.last.exists() else ""
    raise InputError(f"{folder} is there already; give another --out{go_on}")


def _resume(folder: Path, given: dict[str, Any], owning: contextlib.ExitStack, ranks: Ranks) -> Run:
    fixed = sorted(set(given) - {"steps", "epochs", "device", "checkpoint_minutes", "keep", "patience", "tensorboard"})
    if fixed:
        option = {"from_run": "from"}.get(fixed[0], fixed[0].replace("_", "-"))
        raise InputError(f"--{option} cannot change in a run that is resumed; start a new one")
    config = configure(asdict(read_config(folder)), given, {})
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


def _free_folder(config: Config) -> Path:
    name = f"{Path(os.path.realpath(config.data)).name if config.data != 'shapes' else 'shapes'}-{config.model}"
    folders = (Path("runs") / f"{name}-{n}" for n in count(1))
    return next(folder for folder in folders if not folder.exists())


if __name__ == "__main__":
    sys.exit(command.run(main))
