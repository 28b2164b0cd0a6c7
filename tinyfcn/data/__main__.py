"""`python -m tinyfcn.data`: labelled pictures from annotation tools to VOC's layout, what a folder holds, and how it looks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn import command
from tinyfcn.data.counts import check_labels, count_labels, unusable
from tinyfcn.data.importing import names_file, read_source, write_source
from tinyfcn.data.lists import LISTS
from tinyfcn.data.names import IGNORE
from tinyfcn.data.pictures import image_size
from tinyfcn.data.voc import VOCSegmentation
from tinyfcn.errors import InputError
from tinyfcn.files import check_free
from tinyfcn.run import SEED
from tinyfcn.values import SUBSET

DESCRIPTION = """\
  python -m tinyfcn.data import SOURCE OUT     from labelme's or COCO's JSON, CVAT's "Segmentation mask", Roboflow's masks,
                                               or folders of images and masks, to a folder that all commands take as --data
  python -m tinyfcn.data check DIR             images, sizes, pixels of each class, and what is odd
  python -m tinyfcn.data show DIR              a picture of some images with their labels over them
"""
SHOWN = 100  # of what is odd


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.data", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parse.add_subparsers(dest="what", required=True, metavar="import | check | show")
    bring = what.add_parser("import", help="bring a tool's labels into VOC's layout")
    bring.add_argument("source", type=Path, metavar="SOURCE", help="the folder, or the JSON file, that the tool has written")
    bring.add_argument("out", type=Path, metavar="OUT", help="new folder for the set")
    check = what.add_parser("check", help="say what is in a folder")
    show = what.add_parser("show", help="draw the labels of a folder over its images")
    for one in (check, show):
        one.add_argument("root", type=Path, metavar="DIR", help="a folder in VOC's layout")
    for one in (bring, check, show):
        command.add_reading(one)
        command.add_val_share(one, 0.2)
        one.add_argument("--seed", type=command.option(SEED), default=0, help="of that choice (default 0)")
        command.add_max_pixels(one)
    show.add_argument(
        "--split", metavar="LIST", help="list to show: a name, or a text file of ids (default train)", default="train"
    )
    show.add_argument("--number", type=command.option(SUBSET), default=24, metavar="N", help="of images (default 24)")
    show.add_argument("--out", type=Path, default=Path("labels.png"), metavar="PNG", help="(default labels.png)")
    command.add_overwrite(show)
    return parse


def main() -> None:
    options = parser().parse_args()
    reading = {name: getattr(options, name) for name in ("images", "labels", "label_suffix", "ignore", "mask")}
    if options.what == "import":
        source = read_source(options.source, **reading)
        command.say(f"{options.source}: {source.kind}, {len(source.pictures)} labelled images, {len(source.classes)} classes")
        counts = write_source(source, options.out, options.val_share, options.seed)
        for note in source.notes:
            command.say(f"note: {note}")
        lists = ", ".join(f"{number} in {split}.txt" for split, number in counts.items())
        command.say(f"{options.out}: {lists}, and the names in {names_file(source)}\n")
        check(open_sets(options.out))
        command.say(f"\nlook at them: python -m tinyfcn.data show {options.out}")
        command.say(f"train on them: python -m tinyfcn.train --data {options.out}")
        return
    reading |= {"val_share": options.val_share, "seed": options.seed}
    if options.what == "check":
        check(open_sets(options.root, **reading))
        return
    from tinyfcn.data.sheet import draw_sheet  # and with it Matplotlib

    check_free([options.out], options.overwrite)
    sets = open_sets(options.root, (options.split,), **reading)
    dataset = sets[options.split]
    draw_sheet(dataset, options.out, options.number)
    command.say(f"{options.out}: {min(len(dataset), options.number)} of {len(dataset)} images of {options.split}")


def open_sets(root: Path, splits: tuple[str, ...] = (), **options: Any) -> dict[str, VOCSegmentation]:
    """The sets of a folder by their lists: those named, else all; without lists, train and val as `val_share` says."""
    lists = sorted((path.stem for path in (root / LISTS).glob("*.txt")), key=lambda name: (name not in ("train", "val"), name))
    if lists or any(split not in ("train", "val") for split in splits):
        options.pop("val_share", None)
    return {split: VOCSegmentation(root, split, **options) for split in splits or lists or ("train", "val")}


def check(sets: dict[str, VOCSegmentation]) -> None:
    """Print what sets hold, and what is odd about them. Raises InputError where something cannot be used."""
    for split, dataset in sets.items():
        wrong = unusable(dataset)
        for error in wrong[:SHOWN]:
            command.say(f"odd: {error}")
        if wrong:
            raise InputError(f"{len(wrong)} of the {len(dataset)} images in {split} cannot be used")
    counts = dict(zip(sets, count_labels(*sets.values()), strict=True))
    for split, dataset in sets.items():
        sizes = np.array([image_size(item.image) for item in dataset.items])
        low, high = (f"{width}x{height}" for height, width in (sizes.min(axis=0), sizes.max(axis=0)))
        command.say(f"{split}: {len(dataset)} images of {low if low == high else f'{low} to {high}'} pixels")
    print()
    command.say(_table(sets, counts))
    train = sets.get("train") or next(iter(sets.values()))
    for line in check_labels(train, sets.get("val")) + _notes(sets, counts):
        command.say(line)


def _notes(sets: dict[str, VOCSegmentation], counts: dict[str, np.ndarray]) -> list[str]:
    """What a list lacks: a class to be scored, and labels other than the first class, as nobody has drawn them yet."""
    lines = []
    if "train" in sets and "val" in sets:
        classes, learned, scored = sets["val"].classes, counts["train"].sum(axis=0), counts["val"].sum(axis=0)
        if missing := [name for k, name in enumerate(classes) if learned[k] and not scored[k]]:
            lines.append(f"note: val has no pixel of {', '.join(missing)}, and so no score")
    for split, dataset in sets.items():
        alone = np.flatnonzero(counts[split][:, 0].astype(bool) & ~counts[split][:, 1:IGNORE].any(axis=1))
        if len(alone):
            of = f"{len(alone)} of {len(dataset)} images in {split}, as in {dataset.ids[alone[0]]}"
            lines.append(f"note: {dataset.classes[0]} is all that is labelled in {of}")
    return lines


def _table(sets: dict[str, VOCSegmentation], counts: dict[str, np.ndarray]) -> str:
    """The share of labelled pixels, and the images, of each class in each list."""
    classes = next(iter(sets.values())).classes
    wide = max(len(name) for name in (*classes, "(ignored)"))
    lines = [f"{'':{wide + 6}}" + "".join(f"{split:>22}" for split in sets)]
    for value, name in [*enumerate(classes), (IGNORE, "(ignored)")]:
        cells = (f"{100 * t[:, value].sum() / max(1, t.sum()):8.2f} % in {(t[:, value] > 0).sum():5d}  " for t in counts.values())
        lines.append(f"{value:4d}  {name:{wide}}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(main))
