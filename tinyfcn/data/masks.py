"""Images with a mask each, in folders: CVAT's "Segmentation mask", Roboflow's PNG masks, and what people's own scripts write."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from tinyfcn import progress
from tinyfcn.data.counts import check_palettes, hint, record_of
from tinyfcn.data.labels import decode_label
from tinyfcn.data.lists import LISTS, Files, Item, read_list
from tinyfcn.data.names import IGNORE, ClassNames, colours_by_class, read_class_names
from tinyfcn.data.source import Picture, Source, split_of
from tinyfcn.data.voc import check_sizes
from tinyfcn.errors import InputError

# What people call their folders and add to the names of masks, the likeliest first.
IMAGE_FOLDERS = ("JPEGImages", "images", "image", "imgs", "img", "photos")
LABEL_FOLDERS = ("SegmentationClass", "masks", "mask", "labels", "label", "annotations", "gt")
MOST_UNNAMED = 64  # values without names; more look like those of smooth edges
SUFFIXES = ("", "_mask", "_label", "_labels", "_gt", "_seg", "_L")


def read(
    root: Path,
    images: str | None = None,
    labels: str | None = None,
    label_suffix: str | None = None,
    ignore: int | None = None,
    mask: bool = False,
) -> Source:
    """The set that folders of images and masks make. Masks of 0 and one other value become classes 0 and 1, of two."""
    found, names = _items(root, images, labels, label_suffix)
    bar = progress.bar(found, "reading masks", len(found), " images")
    records = [record_of(decode_label(item.label, names.colours)) for item, _ in bar]
    check_palettes([(item.label, colours) for (item, _), (_, colours) in zip(found, records, strict=True)])
    values = sorted({int(value) for present, _ in records for value in present} - {ignore})
    classes, notes = names.names, []
    alone = len(values) == 2 and values[0] == 0 and values[1] > 1 and (names.path is None or len(classes) <= 2)
    white = 255 if mask else values[1] if alone else None
    if white is not None:
        if names.path is None:
            classes = ("background", "foreground")
        elif len(classes) == 1:
            classes = ("background", *classes)
        if not mask:
            notes.append(f"the masks have the values 0 and {white} alone: {white} becomes class 1, {classes[1]}")
    elif names.path is None:
        classes = _numbered(values, found[0][0].label)
    if names.path is None:
        notes.append("no class names were found; change those in classes.txt to yours")
    meaning = np.arange(256, dtype=np.uint8)
    if ignore is not None:
        meaning[ignore] = IGNORE
    if white is not None:
        meaning[white] = 1
    wrong = [value for value in values if len(classes) <= meaning[value] != IGNORE]
    for (item, _), (present, _) in zip(found, records, strict=True):
        if value := next((value for value in wrong if str(value) in present), None):
            raise InputError(
                f"{item.label} has the value {value}, but {names.path or '--mask'} names {len(classes)} classes: name all, or"
                f" pass over one value with --ignore {value}{hint(values, wrong, classes)}"
            )
    pictures = [Picture(item.id, item.image, partial(_label, item, names, meaning), split, item.label) for item, split in found]
    return Source("images and masks", classes, pictures, notes, colours_by_class(names.colours, len(classes)))


def _numbered(values: list[int], path: Path) -> tuple[str, ...]:
    """Names for values that have none. Raises InputError where the values leave such gaps that they are no class indices."""
    highest = max((value for value in values if value != IGNORE), default=0)
    smooth = len(values) > MOST_UNNAMED
    if smooth or highest > 2 * len(values) + 1:
        some = ", ".join(map(str, values[:6])) + (f" ... {values[-1]}" if len(values) > 6 else "")
        remedy = f"give a line name:{highest},{highest},{highest}:: for each in labelmap.txt, or export class indices"
        raise InputError(
            f"the labels, such as {path}, have {len(values)} values, {some}, and no class names:"
            f" {'export labels again that have smooth edges, or were saved as JPEG' if smooth else remedy}"
        )
    return ("background", *(f"class{k}" for k in range(1, highest + 1)))


def _label(item: Item, names: ClassNames, meaning: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    indices = decode_label(item.label, names.colours).indices
    check_sizes(item, size, indices.shape)
    label: np.ndarray = meaning[indices]
    return label


def _items(
    root: Path, images: str | None, labels: str | None, label_suffix: str | None
) -> tuple[list[tuple[Item, str]], ClassNames]:
    """The pairs, with the split where a list or a folder tells it, and the class names."""
    found, homes = [], [root]
    for image_folder, label_folder, split in _folders(root, images, labels):
        for suffix in SUFFIXES if label_suffix is None else (label_suffix,):
            files = Files(root, image_folder, label_folder, suffix)
            pairs = [(item, split) for item in files.all() if item.label.is_file()]
            if pairs:
                break
        found += pairs
        homes += [files.labels, files.labels.parent]
    lists = {path.stem: path for path in sorted((root / LISTS).glob("*.txt"))}
    splits = {item.id: split_of(name) for name, path in lists.items() if name != "trainval" for item in read_list(files, path)}
    listed = [(item, splits.get(item.id, split)) for item, split in found if not splits or item.id in splits]
    if not listed:
        raise InputError(
            f"{root} has no images with labels that are recognised: neither JSON of labelme or COCO, nor folders such as images"
            " and masks with files of the same names; say where they are with --images, --labels and --label-suffix"
        )
    return listed, read_class_names(*homes)


def _folders(root: Path, images: str | None, labels: str | None) -> list[tuple[str, str, str]]:
    """Folders of images, those of their labels, and the splits that their names tell; what is not given is guessed.

    They are called as `IMAGE_FOLDERS` and `LABEL_FOLDERS`, in `root` or in a folder of each split; or a split's labels are in a
    second folder of its name (train, trainannot); or labels lie among the images.
    """
    given = images or labels
    images, labels = images or _guess(root, IMAGE_FOLDERS), labels or _guess(root, LABEL_FOLDERS)
    if images and labels:
        return [(images, labels, "")]
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and split_of(path.name))
    of_labels = {split_of(name): name for name in names if any(word in name.lower() for word in ("annot", "mask", "label", "gt"))}
    folders = []
    for name in names:
        split = split_of(name)
        inside = _guess(root / name, LABEL_FOLDERS)
        if inside:
            folders.append((f"{name}/{_guess(root / name, IMAGE_FOLDERS) or '.'}", f"{name}/{inside}", split))
        elif name not in of_labels.values():
            folders.append((name, of_labels.get(split, name), split))
    return folders if folders and not given else [(images or ".", labels or images or ".", "")]


def _guess(root: Path, names: tuple[str, ...]) -> str | None:
    there = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    return next((there[name.lower()] for name in names if name.lower() in there), None)
