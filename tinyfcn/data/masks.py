"""Images with a mask each, in folders: CVAT's "Segmentation mask", Roboflow's PNG masks, and what people's own scripts write."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tinyfcn.data.counts import check_palettes, record_of
from tinyfcn.data.labels import decode_label
from tinyfcn.data.lists import LISTS, Files, Item, read_list
from tinyfcn.data.names import IGNORE, ClassNames, colours_by_class, read_class_names
from tinyfcn.data.source import Picture, Source, check_size, split_of
from tinyfcn.errors import InputError

# What people call their folders and add to the names of masks, the likeliest first.
IMAGE_FOLDERS = ("JPEGImages", "images", "image", "imgs", "img", "photos")
LABEL_FOLDERS = ("SegmentationClass", "masks", "mask", "labels", "label", "annotations", "gt")
SUFFIXES = ("", "_mask", "_label", "_labels", "_gt", "_seg", "_L")


def read(
    root: Path,
    images: str | None = None,
    labels: str | None = None,
    label_suffix: str | None = None,
    ignore: int | None = None,
    mask: bool = False,
) -> Source:
    """The set that folders of images and masks make. Masks of 0 and 255 alone become classes 0 and 1, of two."""
    found, names = _items(root, images, labels, label_suffix)
    records = [record_of(decode_label(item.label, names.colours)) for item, _ in tqdm(found, "reading masks", leave=False)]
    check_palettes([(item.label, colours) for (item, _), (_, colours) in zip(found, records, strict=True)])
    values = {int(value) for present, _ in records for value in present} - {ignore}
    notes = []
    if not mask and values <= {0, IGNORE} and IGNORE in values and (names.path is None or len(names.names) == 2):
        mask = True
        notes.append("the masks have the values 0 and 255 alone: 255 becomes class 1")
    meaning = np.arange(256, dtype=np.uint8)
    if ignore is not None:
        meaning[ignore] = IGNORE
    if mask:
        meaning[255] = 1
    classes = names.names
    if names.path is None:
        highest = max((int(meaning[value]) for value in values if meaning[value] != IGNORE), default=0)
        classes = ("background", "foreground") if mask else ("background", *(f"class{k}" for k in range(1, highest + 1)))
        notes.append("no class names were found; change those in classes.txt to yours")
    for (item, _), (present, _) in zip(found, records, strict=True):
        wrong = [value for value in map(int, present) if len(classes) <= meaning[value] != IGNORE]
        if wrong:
            raise InputError(
                f"{item.label} has the value {wrong[0]}, but {names.path} names {len(classes)} classes: name all, or"
                f" pass over one value with --ignore {wrong[0]}"
            )
    pictures = [Picture(item.id, item.image, partial(_label, item, names, meaning), split) for item, split in found]
    return Source("images and masks", classes, pictures, notes, colours_by_class(names.colours, len(classes)))


def _label(item: Item, names: ClassNames, meaning: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    indices = decode_label(item.label, names.colours).indices
    check_size(item.label, item.image.name, (indices.shape[0], indices.shape[1]), size)
    label: np.ndarray = meaning[indices]
    return label


def _items(
    root: Path, images: str | None, labels: str | None, label_suffix: str | None
) -> tuple[list[tuple[Item, str]], ClassNames]:
    """The pairs, with the split where a list or a folder tells it, and the class names."""
    parts = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and split_of(folder.name)]
    if images is None and labels is None:
        home = [path for folder in (root, *parts) if (path := folder / "_classes.csv").exists()]
        if home and parts:  # Roboflow
            folders = [(Files(root, part.name, part.name, "_mask"), split_of(part.name)) for part in parts]
            found = [(item, split) for files, split in folders for item in files.all() if item.label.is_file()]
            return _some(found, root), read_class_names(home[0].parent)
        images, labels = _guess(root, IMAGE_FOLDERS), _guess(root, LABEL_FOLDERS)
        if labels is None:
            images = labels = "."
    images, labels = images or _guess(root, IMAGE_FOLDERS) or ".", labels or _guess(root, LABEL_FOLDERS) or "."
    for suffix in SUFFIXES if label_suffix is None else (label_suffix,):
        files = Files(root, images, labels, suffix)
        found = [(item, "") for item in files.all() if item.label.is_file()]
        if found:
            break
    names = read_class_names(root, files.labels, files.labels.parent)
    lists = {path.stem: path for path in sorted((root / LISTS).glob("*.txt"))}
    splits = {item.id: split_of(name) for name, path in lists.items() if name != "trainval" for item in read_list(files, path)}
    return _some([(item, splits.get(item.id, "")) for item, _ in found if not splits or item.id in splits], root), names


def _some(found: list[tuple[Item, str]], root: Path) -> list[tuple[Item, str]]:
    if not found:
        raise InputError(
            f"{root} has no images with labels that are recognised: neither JSON of labelme or COCO, nor folders such as images"
            " and masks with files of the same names; say where they are with --images, --labels and --label-suffix"
        )
    return found


def _guess(root: Path, names: tuple[str, ...]) -> str | None:
    there = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    return next((there[name.lower()] for name in names if name.lower() in there), None)
