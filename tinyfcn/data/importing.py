"""From what annotation tools write to a folder in VOC's layout; the files themselves tell which tool it was."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn import progress
from tinyfcn.data import coco, labelme, masks
from tinyfcn.data.counts import check_present
from tinyfcn.data.lists import IMAGE_SUFFIXES, IMAGES, LABELS, LISTS, split_items
from tinyfcn.data.names import IGNORE, Colour
from tinyfcn.data.pictures import image_size, write_label
from tinyfcn.data.source import Picture, Source, read_json
from tinyfcn.errors import InputError
from tinyfcn.files import PARTIAL

CHAFF = ("__MACOSX", ".DS_Store")  # what archives of a Mac have beside their folder


def read_source(path: Path, **options: Any) -> Source:
    """The set that a tool has left in a folder, or in a JSON file; `options` are those of `masks.read`.

    Raises InputError where nothing is recognised, or what is there cannot be used.
    """
    if not path.exists():
        raise InputError(f"no such folder or file: {path}")
    while path.is_dir() and (inner := _only_folder(path)):
        path = inner  # as archives are often unpacked
    root = path if path.is_dir() else path.parent
    found: dict[str, list[tuple[Path, Any]]] = {"labelme": [], "coco": []}
    for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
        content = read_json(file)
        if isinstance(content, dict) and set(content) >= labelme.FIELDS:
            if isinstance(labelme.image_of(file, content), Path):
                content.pop("imageData", None)  # which may be larger than all the rest
            found["labelme"].append((file, content))
        elif isinstance(content, dict) and set(content) >= coco.FIELDS:
            found["coco"].append((file, content))
    if found["labelme"]:
        source = labelme.read(found["labelme"], root)
    elif found["coco"]:
        source = coco.read(found["coco"], root)
    elif path.is_dir():
        source = masks.read(root, **options)
    else:
        raise InputError(f"{path} is JSON of neither labelme nor COCO; give one of these, or a folder of images and masks")
    return source._replace(notes=source.notes + _left_out(source))


def _only_folder(path: Path) -> Path | None:
    inside = [entry for entry in path.iterdir() if entry.name not in CHAFF]
    known = masks.IMAGE_FOLDERS + masks.LABEL_FOLDERS
    return inside[0] if len(inside) == 1 and inside[0].is_dir() and inside[0].name not in known else None


def _left_out(source: Source) -> list[str]:
    """A note on images that lie beside labelled ones but have no label."""
    used = {path for picture in source.pictures for path in (picture.image, picture.origin)}
    folders = sorted({picture.image.parent for picture in source.pictures if isinstance(picture.image, Path)})
    beside = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES]
    others = [path for path in beside if path not in used]
    return [f"{len(others)} of {len(beside)} images are left out, since they have no label, as {others[0]}"] if others else []


def write_source(source: Source, out: Path, val_share: float = 0.2, seed: int = 0) -> dict[str, int]:
    """Write a set in VOC's layout; returns the number of images in each list.

    The source's own split is kept where it holds out some images; else `val_share` of them, chosen by `seed`, are. The folder
    `out` is made in one step when all is there. Raises InputError where it is there already, or a picture cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is there already; give another folder")
    for name in source.classes:
        if not name.strip() or name.startswith("#") or source.classes.count(name) > 1 or len(source.classes) > IGNORE:
            raise InputError(f"{name!r} cannot be the name of a class: give 1 to {IGNORE} different names, none beginning with #")
    pictures = _unique(source.pictures)
    splits = _split(pictures, val_share, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=out.parent) as scratch:
        home = Path(scratch, "set")
        bar = progress.bar(pictures, "writing", len(pictures), " images")
        pixels = {picture.id: _write(picture, home, source.colours) for picture in bar}
        learned = np.sum([pixels[picture.id] for picture in splits["train"]], axis=0)
        check_present(learned, source.classes, f"{len(splits['train'])} images to train on")
        (home / LISTS).mkdir(parents=True)
        for split, chosen in splits.items():
            (home / LISTS / f"{split}.txt").write_text("".join(f"{picture.id}\n" for picture in chosen), encoding="utf-8")
        names = source.classes
        if source.colours:
            names = tuple(f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(names, source.colours, strict=True))
        (home / names_file(source)).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        if out.is_dir():
            out.rmdir()
        home.replace(out)
    return {split: len(chosen) for split, chosen in splits.items()}


def names_file(source: Source) -> str:
    """Where the names of a set's classes are written; with their colours, where they have some."""
    return "labelmap.txt" if source.colours else "classes.txt"


def _write(picture: Picture, home: Path, colours: tuple[Colour, ...] | None) -> np.ndarray:
    """Write an image and its label; returns the label's pixels by class."""
    source = picture.image
    suffix = source.suffix.lower() if isinstance(source, Path) else ""
    image = home / IMAGES / f"{picture.id}{suffix if suffix in IMAGE_SUFFIXES else IMAGE_SUFFIXES[0]}"
    label = home / LABELS / f"{picture.id}.png"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(source, bytes):
        image.write_bytes(source)
        size = image_size(image)
    else:
        size = image_size(source)
        shutil.copyfile(source, image)
    indices: np.ndarray = picture.label(size)
    write_label(label, indices, colours)
    return np.bincount(indices.ravel(), minlength=256)


def _unique(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures, by ids that differ: where two folders have the same names, with the split before them."""
    if len({picture.id for picture in pictures}) < len(pictures):
        pictures = [picture._replace(id=f"{picture.split or 'other'}/{picture.id}") for picture in pictures]
    seen: set[str] = set()
    for picture in pictures:
        if picture.id in seen:
            raise InputError(f"two images are called {picture.id}; rename one of them")
        seen.add(picture.id)
    return list(pictures)


def _split(pictures: Sequence[Picture], val_share: float, seed: int) -> dict[str, list[Picture]]:
    by_split: dict[str, list[Picture]] = {"train": [], "val": [], "test": []}
    for picture in pictures:
        by_split[picture.split or "train"].append(picture)
    if not by_split["val"]:
        by_split["train"], by_split["val"] = split_items(by_split["train"], val_share, seed)
    return {split: chosen for split, chosen in by_split.items() if chosen}
