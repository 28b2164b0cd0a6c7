"""`python -m tinyfcn.predict RUN IMAGE... --out DIR`: label every pixel of photographs."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from os.path import realpath
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from tinyfcn import command, plot
from tinyfcn.data import read_image, write_label
from tinyfcn.data.pictures import check_image
from tinyfcn.errors import InputError
from tinyfcn.files import check_free, making, replacing
from tinyfcn.inference import MAX_SIDE, Predictor, load
from tinyfcn.ranks import Ranks, together
from tinyfcn.report import device_line, open_device
from tinyfcn.values import SIDE


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.predict",
        description="For each IMAGE write NAME.png, the class index of every pixel in VOC's palette, "
        "and NAME_overlay.png, the photograph tinted with its classes. Both have the photograph's size. Photographs are JPEG, "
        "PNG, WebP, TIFF, BMP or GIF files. Nothing that is there already is written over without --overwrite.",
    )
    parse.add_argument("run", type=Path, metavar="RUN", help="folder of a run (its best checkpoint), or a checkpoint file")
    parse.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    parse.add_argument("--out", type=Path, required=True, metavar="DIR")
    command.add_zoom(parse)
    parse.add_argument(
        "--max-side",
        type=command.option(SIDE),
        metavar="N",
        help=f"let the network see no side longer than N pixels (default: as in training, else {MAX_SIDE})",
    )
    command.add_max_pixels(parse)
    command.add_overwrite(parse)
    command.add_device(parse)
    return parse


def main() -> None:
    with together() as ranks:
        _predict(parser().parse_args(), ranks)


def _predict(options: argparse.Namespace, ranks: Ranks) -> None:
    _check_targets(options.images, options.out, options.overwrite)
    ranks.use_own_gpu(open_device(options.device))
    trained = load(options.run, options.device)
    for path in options.images:
        check_image(path)  # so that all can be read, as far as their beginnings show, before the first is labelled
    trained = trained._replace(zoom=options.zoom or trained.zoom, max_side=options.max_side or trained.max_side)
    ranks.total(0)  # all have checked before the first one writes
    seen: Counter[int] = Counter()
    alone = ranks.rank > 0 or len(options.images) == 1
    with making(options.out):
        for path in tqdm(options.images[ranks.rank :: ranks.size], unit="image", disable=alone):
            seen.update(_label(trained, path, *_targets(path, options.out)))
    seen = +Counter(dict(enumerate(ranks.total([seen[k] for k in range(256)]).tolist())))
    if ranks.rank:
        return
    print(device_line(trained.net.xp, options.device))
    command.say(f"{options.out}: {len(options.images)} label image(s) and overlay(s); share of the pixels:")
    for k, pixels in seen.most_common():
        command.say(f"  {trained.classes[k] if k < len(trained.classes) else k:22} {pixels / sum(seen.values()):6.1%}")


def _label(trained: Predictor, path: Path, label_path: Path, overlay_path: Path) -> dict[int, int]:
    """Write a photograph's labels and overlay; returns how many pixels each class has.

    What is as large as the photograph is made piece by piece, and kept no longer than it is needed.
    """
    image = read_image(path)
    label = trained.predict(image)
    background = trained.classes.index("background") if "background" in trained.classes else None
    image = plot.overlay(image, label, background)
    with replacing(label_path) as part:
        write_label(part, label)
    with replacing(overlay_path) as part:
        Image.fromarray(image).save(part)
    return {k: pixels for k, pixels in enumerate(Image.fromarray(label).histogram()) if pixels}


def _targets(image: Path, out: Path) -> tuple[Path, Path]:
    """The files for a photograph: its labels and its overlay."""
    return out / f"{image.stem}.png", out / f"{image.stem}_overlay.png"


def _check_targets(images: list[Path], out: Path, overwrite: bool) -> None:
    """Refuse to write one file twice, or over a photograph, and unasked over anything."""
    sources = {realpath(path) for path in images}
    targets = Counter(target for image in images for target in _targets(image, out))
    for target, count in targets.items():
        if count > 1:
            raise InputError(f"{count} predictions would be written to {target}, one over the other; use two --out")
        if realpath(target) in sources:
            raise InputError(f"{target} is one of the photographs and would be overwritten; give another --out")
    check_free(targets, overwrite)


if __name__ == "__main__":
    sys.exit(command.run(main))
