"""`python -m tinyfcn.evaluate RUN --data ...`: the scores of a trained network on labelled images."""

from __future__ import annotations

import argparse
import sys
from os.path import realpath
from pathlib import Path
from typing import Any

from tinyfcn import command, plot
from tinyfcn.data.counts import check_labels
from tinyfcn.data.loader import READING, open_dataset, reading_of
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import check_free, making, read_json
from tinyfcn.gallery import draw_predictions, examples
from tinyfcn.inference import assess, load_network
from tinyfcn.ranks import Ranks, together
from tinyfcn.report import Metrics, device_line, report
from tinyfcn.run import paths, read_config
from tinyfcn.values import SUBSET

METRICS, PREDICTIONS, CONFUSION = "metrics.json", "predictions.png", "confusion.png"


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.evaluate",
        description="Print and write the four scores of a trained network, and IU per class. An evaluation that is there already "
        "is written anew where it is of the same network, images and zoom; any other file only with --overwrite.",
    )
    parse.add_argument("run", type=Path, metavar="RUN", help="folder of a run (its best checkpoint), or a checkpoint file")
    parse.add_argument("--data", metavar="DIR", help='a folder in VOC layout, or "shapes" (default: the data of the run)')
    parse.add_argument("--split", help="list of images: a name, or a text file of ids (default: the run's --val-split)")
    parse.add_argument("--subset", type=command.option(SUBSET), metavar="N", help="the first N images only")
    command.add_reading(parse)
    command.add_zoom(parse)
    command.add_max_pixels(parse)
    command.add_device(parse)
    parse.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/evaluation-[DATA-]SPLIT)")
    command.add_overwrite(parse)
    return parse


def main() -> None:
    with together() as ranks:
        _evaluate(parser().parse_args(), ranks)


def _evaluate(options: argparse.Namespace, ranks: Ranks) -> None:
    subset, subset_seed = options.subset, None
    reading: dict[str, Any] = {}
    if options.run.is_dir():
        config = read_config(options.run)
        data, split = options.data or config.data, options.split or config.val_split
        if subset is None and (data, split) == (config.data, config.split):  # the images that it was trained on
            subset, subset_seed = config.subset, config.subset_seed
        if data == config.data or realpath(data) == config.data:
            reading = reading_of(config)
            lists = {config.split: paths(options.run).train_list, config.val_split: paths(options.run).val_list}
            if config.val_share is not None and split in lists:
                split, reading["val_share"] = str(lists[split]), None
        home = options.run
    elif options.data:
        data, split, home = options.data, options.split or "val", options.run.parent
    else:
        raise InputError(f"{options.run} is no folder, and a file does not know its data: add --data")
    told = {name: value for name in READING if (value := getattr(options, name, None)) not in (None, False)}
    reading |= told
    name = f"{Path(realpath(data)).name}-{Path(split).stem}" if options.data else Path(split).stem
    name += f"-zoom{options.zoom:g}" if options.zoom else ""
    out = options.out or home / f"evaluation-{name}"
    what = {
        "network": realpath(options.run),
        "data": data if data == "shapes" else realpath(data),
        "split": split,
        "subset": options.subset,
        "zoom": options.zoom,
        **told,
    }
    if not _is_of(out / METRICS, what):
        check_free([out / name for name in (METRICS, PREDICTIONS, CONFUSION)], options.overwrite)
    ranks.use_own_gpu(options.device)
    net, description = load_network(options.run, options.device)
    dataset = open_dataset(data, split, subset, subset_seed, **reading)
    if data != "shapes" and not ranks.rank:
        for line in check_labels(None, dataset, bar=True):
            command.say(line)
    classes = description.classes
    if dataset.num_classes != net.num_classes or (classes and dataset.classes != tuple(map(one_line, classes))):
        raise InputError(
            f"{data} has the classes {', '.join(dataset.classes)}, "
            f"but {options.run} was trained on {', '.join(classes) if classes else f'{net.num_classes} others'}"
        )
    view = options.zoom or description.zoom, description.max_side
    found = assess(net, dataset, *view, ranks)
    if ranks.rank:
        return
    with making(out):
        metrics = Metrics(**found.matrix.summary(dataset.classes), images=len(dataset), zoom=view[0], evaluated=what)
        metrics.write(out / METRICS)
        draw_predictions(net, dataset, examples(found.accuracy), "", out / PREDICTIONS, *view)
        plot.confusion(found.matrix.counts, dataset.classes, out / CONFUSION)
    print(device_line(net.xp, options.device))
    command.say(f"{options.run} on {len(dataset)} images of {data}, {split}\n")
    command.say(report(metrics))
    command.say(f"\n{out}: {METRICS}, {PREDICTIONS}, {CONFUSION}")


def _is_of(metrics: Path, what: dict[str, Any]) -> bool:
    """Whether a metrics.json tells of this evaluation."""
    try:
        return read_json(metrics).get("evaluated") == what
    except InputError:
        return False


if __name__ == "__main__":
    sys.exit(command.run(main))
