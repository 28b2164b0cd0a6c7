"""PASCAL VOC's layout on disk: reading a segmentation set, and writing any set in the same form.

    ROOT/JPEGImages/ID.jpg                      the photographs (.jpeg and .png are read too)
    ROOT/SegmentationClass/ID.png               the labels: PNGs whose pixels are class indices, 255 = ignore
    ROOT/ImageSets/Segmentation/SPLIT.txt       lists of ids, one a line
    ROOT/classes.txt                            class names, one a line, index 0 first (absent: VOC's own 21)

A label's pixels are indices; the colours of its palette are for people and are never read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from os.path import isfile
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from tinyfcn.data.pictures import PathLike, read_image, read_label, write_label
from tinyfcn.description import MOST_CLASSES
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import read_text

IGNORE = 255
VOC_CLASSES = (
    "background",
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

IMAGES, LABELS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Pair = tuple[np.ndarray, np.ndarray]


class Dataset(Protocol):
    """What training, evaluation and `write_voc` need of a dataset; `VOCSegmentation` and `Shapes` have it."""

    @property
    def ids(self) -> tuple[str, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def num_classes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Pair: ...
    def __iter__(self) -> Iterator[Pair]: ...


class VOCSegmentation:
    """A segmentation set in VOC layout: `image, label = dataset[i]`, in the order of its list.

    `split` is the name of a list in ImageSets/Segmentation, or the path of a text file (ending in .txt, or with a
    folder in it) that holds one id a line. `subset` keeps the first so many ids of it or, with `subset_seed`, a
    random so many in list order (those of a smaller subset are among those of a larger one with the same seed).

    Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with the palette's indices, 255 = ignore. Files are only
    read, one pair when it is asked for; nothing is kept.

    Raises `InputError`, here for what the folders and the list show (layout, unknown list, empty list, repeated id,
    missing files, impossible subset) and on access for what only a file shows (unreadable, not an index image,
    sizes that differ, a value that is no class).
    """

    def __init__(self, root: PathLike, split: str = "train", subset: int | None = None, subset_seed: int | None = None) -> None:
        self.root = Path(root)
        _check_layout(self.root)
        list_path = _find_list(self.root, split)
        ids = _read_ids(list_path)
        self.ids = ids if subset is None else _choose_subset(ids, subset, subset_seed, list_path)
        self.classes = _read_classes(self.root)
        _check_files(self.root, self.ids, list_path)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.ids)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a pair: the photograph and its label."""
        return _image_path(self.root, self.ids[index]), _label_path(self.root, self.ids[index])

    def __getitem__(self, index: int) -> Pair:
        image_path, label_path = self.paths(index)
        image, label = read_image(image_path), read_label(label_path)
        if image.shape[:2] != label.shape:
            raise InputError(
                f"{label_path} is {_size(label)} pixels but {image_path} is {_size(image)}"
                " (width x height, EXIF rotation applied); a label must have its image's size"
            )
        _check_values(label, self.num_classes, label_path)
        return image, label

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))


def write_voc(dataset: Dataset, root: PathLike, split: str) -> None:
    """Write a dataset in VOC layout under `root` with `split` as its list; `VOCSegmentation` reads it back.

    Images are written as PNG, which loses nothing. A root may take several splits of one set of classes; nothing
    that is there is overwritten. Raises `InputError` where the root's classes differ, where it has the list or an id
    already, and where `split` or an id is a path.
    """
    root = Path(root)
    list_path = root / LISTS / f"{split}.txt"
    if not split or split.endswith(".txt") or Path(split).name != split or "\\" in split:
        raise InputError(f"a list cannot be called {split!r}; give a bare name without .txt, e.g. train")
    _check_ids(dataset.ids, "dataset.ids")
    _check_classes(dataset.classes, "dataset.classes")
    _check_room(dataset, root, list_path)
    for folder in (IMAGES, LABELS, LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if not (root / "classes.txt").exists():
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")
    for id_, (image, label) in zip(dataset.ids, dataset, strict=True):
        Image.fromarray(image).save(root / IMAGES / f"{id_}.png")
        write_label(_label_path(root, id_), label)
    # The list comes last, so that it never names a picture that is not there.
    list_path.write_text("".join(f"{id_}\n" for id_ in dataset.ids), encoding="utf-8")


# Where things are


def _image_path(root: Path, id_: str) -> Path:
    """The image of an id: the first suffix that exists, or the .jpg that should."""
    candidates = [root / IMAGES / f"{id_}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in candidates if isfile(path)), candidates[0])


def _label_path(root: Path, id_: str) -> Path:
    return root / LABELS / f"{id_}.png"


def _find_list(root: Path, split: str) -> Path:
    is_path = split.endswith(".txt") or Path(split).name != split
    path = Path(split) if is_path else root / LISTS / f"{split}.txt"
    if not path.is_file():
        lists = ", ".join(sorted(list_.stem for list_ in (root / LISTS).glob("*.txt"))) or "none"
        raise InputError(f"no such list: {path}; give a text file of ids or one of the lists in {root / LISTS}: {lists}")
    return path


# What lists and classes say


def _read_lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _read_ids(path: Path) -> tuple[str, ...]:
    ids = tuple(_read_lines(path))
    if not ids:
        raise InputError(f"{path} is empty; give a list with at least one id, one a line")
    _check_ids(ids, str(path))
    return ids


def _read_classes(root: Path) -> tuple[str, ...]:
    path = root / "classes.txt"
    if not path.exists():
        return VOC_CLASSES
    classes = tuple(one_line(line) for line in _read_lines(path) if not line.startswith("#"))  # they will be printed
    _check_classes(classes, str(path))
    return classes


def _choose_subset(ids: tuple[str, ...], count: int, seed: int | None, path: Path) -> tuple[str, ...]:
    if not 1 <= count <= len(ids):
        raise InputError(f"a subset of {count} is not possible: {path} has {len(ids)} ids; give 1 to {len(ids)}")
    if seed is None:
        return ids[:count]
    chosen = np.random.default_rng(seed).permutation(len(ids))[:count]
    return tuple(ids[index] for index in sorted(chosen))


# Checks


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        raise InputError(f"no such folder: {root}; give the folder that holds {IMAGES} and {LABELS}")
    missing = [folder for folder in (IMAGES, LABELS) if not (root / folder).is_dir()]
    if missing:
        nested = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{IMAGES}"))
        remedy = f"give {nested[0]}, which has {IMAGES}" if nested else f"give the folder that has {IMAGES} and {LABELS}"
        raise InputError(f"{root} is not in VOC layout: it has no {' and no '.join(missing)}; {remedy}")


def _check_classes(classes: Sequence[str], source: str) -> None:
    if not 1 <= len(classes) <= MOST_CLASSES:
        raise InputError(f"{source} names {len(classes)} classes; give 1 to {MOST_CLASSES} names, one a line, index 0 first")
    name, count = Counter(classes).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} has the class {name} {count} times; give each class a name of its own")


def _check_ids(ids: Sequence[str], source: str) -> None:
    for id_ in ids:
        if id_ in (".", "..") or "/" in id_ or "\\" in id_:
            raise InputError(f"{source} has {id_!r}, which is a path; give bare ids, one a line, e.g. 2007_000032")
    id_, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} has the id {id_} {count} times; list each id once")


def _check_files(root: Path, ids: Sequence[str], list_path: Path) -> None:
    other_suffixes = f" (nor {' nor '.join(IMAGE_SUFFIXES[1:])})"
    for what, find, also in (("image", _image_path, other_suffixes), ("label", _label_path, "")):
        missing = [path for id_ in ids if not isfile(path := find(root, id_))]
        if missing:
            raise InputError(
                f"no {what} {missing[0]}{also}, and so for {len(missing)} of the {len(ids)} ids of {list_path};"
                f" add the {what}s or take these ids off the list"
            )


def _check_values(label: np.ndarray, num_classes: int, path: Path) -> None:
    wrong = label[(label >= num_classes) & (label != IGNORE)]
    if wrong.size:
        raise InputError(
            f"{path} has the label value {wrong[0]}, but there are {num_classes} classes: use 0 to {num_classes - 1}"
            f" or {IGNORE} (ignore), or name all classes in classes.txt beside {IMAGES}"
        )


def _check_room(dataset: Dataset, root: Path, list_path: Path) -> None:
    has_set = any((root / name).exists() for name in (IMAGES, LABELS, "classes.txt"))
    if has_set and _read_classes(root) != tuple(dataset.classes):
        raise InputError(f"{root} holds a set with other classes; write into another folder")
    taken = [path for find in (_image_path, _label_path) for id_ in dataset.ids if (path := find(root, id_)).exists()]
    if list_path.exists() or taken:
        raise InputError(f"{(taken or [list_path])[0]} exists already; write another split or into another folder")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
