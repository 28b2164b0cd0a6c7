"""From what annotation tools write to a folder in VOC's layout: which tool it was is told by the files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tinyfcn.data import coco, labelme, masks
from tinyfcn.data.lists import IMAGE_SUFFIXES, IMAGES, LABELS, LISTS, split_items
from tinyfcn.data.names import IGNORE, Colour
from tinyfcn.data.pictures import image_size, write_label
from tinyfcn.data.source import Picture, Source, read_json
from tinyfcn.errors import InputError
from tinyfcn.files import PARTIAL


def read_source(path: Path, **options: Any) -> Source:
    """The set that a tool has left in a folder, or in a JSON file; `options` are those of `masks.read`.

    Raises InputError where nothing is recognised, or what is there cannot be used.
    """
    if not path.exists():
        raise InputError(f"no such folder or file: {path}")
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
        return labelme.read(found["labelme"], root)
    if found["coco"]:
        return coco.read(found["coco"], root)
    if not path.is_dir():
        raise InputError(f"{path} is JSON of neither labelme nor COCO; give one of these, or a folder of images and masks")
    return masks.read(root, **options)


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
        for picture in tqdm(pictures, "writing", leave=False, unit=" images"):
            _write(picture, home, source.colours)
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


def _write(picture: Picture, home: Path, colours: tuple[Colour, ...] | None) -> None:
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
