"""`python -m tinyfcn.predict RUN IMAGE... --out DIR`: label every pixel of photographs."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections import Counter
from os.path import realpath
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from PIL import Image

from tinyfcn import command, plot
from tinyfcn.data import read_image, write_label
from tinyfcn.data.lists import named_images
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import check_free, making, replacing
from tinyfcn.inference import MARGIN, MAX_SIDE, STRIDE, Predictor, load
from tinyfcn.progress import bar
from tinyfcn.ranks import Ranks, together
from tinyfcn.report import device_line
from tinyfcn.values import SIDE, whole

# What is written of a photograph: the end of the file's name, and what it is called.
KINDS = {
    "labels": (".png", "label image(s)"),
    "overlay": ("_overlay.png", "overlay(s)"),
    "probabilities": ("_probabilities.npz", "file(s) of probabilities"),
}
TILE = whole(4 * STRIDE, 20_000)


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.predict",
        description="For each IMAGE write NAME.png, the class index of every pixel, in the photograph's size, and "
        "NAME_overlay.png, the photograph tinted with its classes, whose names stand beside it. Colours are those of the label "
        "map that the network was trained with, else VOC's. Photographs are JPEG, PNG, WebP, TIFF, BMP or GIF files; one that "
        "cannot be read is skipped. Nothing that is there already is overwritten without --overwrite.",
        epilog="Exit status: 0, all are labelled; 1, some are not, which are listed; 2, none is.",
    )
    parse.add_argument("run", type=Path, metavar="RUN", help="folder of a run (its best checkpoint), or a checkpoint file")
    parse.add_argument("images", nargs="+", metavar="IMAGE", help='a file, a folder of files, or a pattern ("photos/*.jpg")')
    parse.add_argument("--out", type=Path, required=True, metavar="DIR")
    only = parse.add_mutually_exclusive_group()
    only.add_argument("--only-labels", dest="only", action="store_const", const="labels", help="write no overlays")
    only.add_argument("--only-overlay", dest="only", action="store_const", const="overlay", help="write no labels")
    parse.add_argument(
        "--probabilities",
        action="store_true",
        help="write NAME_probabilities.npz too: float16 (classes, height, width), and the names of the classes",
    )
    command.add_zoom(parse)
    parse.add_argument(
        "--max-side",
        type=command.option(SIDE),
        metavar="N",
        help=f"let the network see no side longer than N pixels (default: as in training, else {MAX_SIDE}, or any with --tile)",
    )
    parse.add_argument(
        "--tile",
        type=command.option(TILE),
        metavar="N",
        help=f"let the network see tiles of N pixels a side, which overlap by half of that, at most {2 * MARGIN}: large "
        f"photographs then take little memory, and from {4 * MARGIN} on get the labels that they get whole",
    )
    command.add_max_pixels(parse)
    command.add_overwrite(parse)
    command.add_device(parse)
    return parse


def main() -> int:
    with together() as ranks:
        return _predict(parser().parse_args(), ranks)


def _predict(options: argparse.Namespace, ranks: Ranks) -> int:
    images = named_images(options.images)
    kinds = [options.only] if options.only else ["labels", "overlay"]
    kinds += ["probabilities"] * options.probabilities
    targets = [{kind: options.out / f"{image.stem}{KINDS[kind][0]}" for kind in kinds} for image in images]
    _check_targets(images, [path for some in targets for path in some.values()], options.overwrite)
    ranks.use_own_gpu(options.device)
    trained = load(options.run, options.device)
    trained = trained._replace(
        zoom=options.zoom or trained.zoom, max_side=options.max_side or trained.max_side, tile=options.tile
    )
    ranks.total(0)  # all have checked before the first one writes
    pixels = np.zeros((len(images), 256), np.int64)  # of each class, in each photograph
    mine = range(ranks.rank, len(images), ranks.size)
    with making(options.out):
        for k in bar(mine, "labelling", len(mine), "image", shown=not ranks.rank and len(images) > 1):
            try:
                pixels[k] = _label(trained, images[k], targets[k])
            except Unreadable as error:
                if len(images) == 1:
                    raise
                command.complain(str(error))
        pixels = ranks.total(pixels)
        if not pixels.any():
            raise InputError(f"none of the {len(images)} pictures can be read")
    failed = [image for image, some in zip(images, pixels, strict=True) if not some.any()]
    if not ranks.rank:
        _report(trained, options, kinds, pixels, failed)
    return 1 if failed else 0


class Unreadable(InputError):
    """One photograph cannot be read; the others may be."""


def _label(trained: Predictor, path: Path, targets: dict[str, Path]) -> np.ndarray:
    """Write what is wanted of a photograph; returns how many pixels each class has. Raises Unreadable where it cannot be read.

    What is as large as the photograph is made piece by piece, and kept no longer than it is needed.
    """
    try:
        image = read_image(path)
    except InputError as error:
        raise Unreadable(str(error)) from None
    if "probabilities" in targets:
        with replacing(targets["probabilities"]) as part, TemporaryFile(dir=part.parent) as scratch:
            probabilities = _on_disk(scratch, (trained.net.num_classes, *image.shape[:2]))
            label = trained.predict(image, probabilities)
            np.savez_compressed(part, probabilities=probabilities, classes=np.array(trained.classes, str))
    else:
        label = trained.predict(image)
    pixels = np.array(Image.fromarray(label).histogram())
    if "labels" in targets:
        with replacing(targets["labels"]) as part:
            write_label(part, label, trained.colours)
    if "overlay" in targets:
        background = trained.classes.index("background") if "background" in trained.classes else None
        image = plot.overlay(image, label, background, own=trained.colours)
        names = {k: _name(trained, k) for k in np.flatnonzero(pixels).tolist() if k != background}
        image = plot.with_legend(image, names, trained.colours)
        with replacing(targets["overlay"]) as part:
            Image.fromarray(image).save(part)
    return pixels


def _on_disk(file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """An array of float16 in a file, since it may be larger than the memory. Raises OSError where the disk is too full for it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, 2 * math.prod(shape))
    return np.memmap(file, np.float16, "w+", shape=shape)


def _name(trained: Predictor, k: int) -> str:
    return trained.classes[k] if k < len(trained.classes) else f"class {k}"


def _report(trained: Predictor, options: argparse.Namespace, kinds: list[str], pixels: np.ndarray, failed: list[Path]) -> None:
    print(device_line(trained.net.xp, options.device))
    what = ", ".join(f"{len(pixels) - len(failed)} {KINDS[kind][1]}" for kind in kinds)
    command.say(f"{options.out}: {what}; share of the pixels:")
    seen = pixels.sum(axis=0)
    for k in sorted(np.flatnonzero(seen).tolist(), key=lambda k: -seen[k]):
        command.say(f"  {_name(trained, k):22} {seen[k] / seen.sum():6.1%}")
    if failed:
        command.complain(f"{len(failed)} of {len(pixels)} pictures cannot be read, and are not labelled:")
        command.say("\n".join(f"  {one_line(str(image))}" for image in failed), sys.stderr)


def _check_targets(images: list[Path], targets: list[Path], overwrite: bool) -> None:
    """Refuse to write one file twice, or over a photograph, and unasked over anything."""
    sources = {realpath(path) for path in images}
    for target, count in Counter(targets).items():
        if count > 1:
            raise InputError(f"{count} predictions would be written to {target}, one over the other; use two --out")
        if realpath(target) in sources:
            raise InputError(f"{target} is one of the photographs and would be overwritten; give another --out")
    check_free(targets, overwrite)


if __name__ == "__main__":
    sys.exit(command.run(main))
