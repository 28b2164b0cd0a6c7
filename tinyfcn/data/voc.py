"""PASCAL VOC's layout on disk: reading a segmentation set, and writing any set in the same form.

    ROOT/JPEGImages/ID.jpg                      the photographs (.png and others are read too, by `lists.IMAGE_SUFFIXES`)
    ROOT/SegmentationClass/ID.png               the labels, whose pixels are class indices, 255 = ignore
    ROOT/ImageSets/Segmentation/SPLIT.txt       lists of ids, one a line
    ROOT/classes.txt                            class names, one a line, index 0 first (absent: VOC's own 21)

A label's pixels are indices; the colours of its palette are for people and are never read. What other tools write in the place
of each of these is read as well: see `lists`, `labels` and `names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os.path import isfile
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from tinyfcn.data.labels import Label, decode_label
from tinyfcn.data.lists import IMAGE_SUFFIXES, IMAGES, LABELS, LISTS, Files, Item, check_ids, check_unique, read_list, split_items
from tinyfcn.data.names import IGNORE, VOC_CLASSES, check_class_names, read_class_names
from tinyfcn.data.pictures import PathLike, image_size, read_image, write_label
from tinyfcn.errors import InputError

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
    folder in it) that names one picture a line. `subset` keeps the first so many of it or, with `subset_seed`, a
    random so many in list order (those of a smaller subset are among those of a larger one with the same seed).

    `images` and `labels` are other folders, in `root` or anywhere; a label is called as its image, with `label_suffix` added.
    Where there are no lists, `val_share` of the labelled images, chosen by `seed`, become "val", and the others "train".
    `ignore` is another value that counts for nothing, beside 255. With `mask`, 255 is class 1 of two, as in black and white.

    Images are (H, W, 3) uint8 RGB, labels (H, W) uint8 with class indices, 255 = ignore. Files are only
    read, one pair when it is asked for; nothing is kept. `notes` are lines that a user should read.

    Raises `InputError`, here for what the folders and the list show (layout, unknown list, empty list, repeated id,
    missing files, impossible subset) and on access for what only a file shows (unreadable, lossy,
    sizes that differ, a value that is no class).
    """

    def __init__(
        self,
        root: PathLike,
        split: str = "train",
        subset: int | None = None,
        subset_seed: int | None = None,
        *,
        images: str | None = None,
        labels: str | None = None,
        label_suffix: str | None = None,
        ignore: int | None = None,
        mask: bool = False,
        val_share: float | None = None,
        seed: int = 0,
    ) -> None:
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise InputError(f"no such folder: {root}; give the folder that holds {IMAGES} and {LABELS}")
        files = Files(self.root, images, labels, label_suffix or "")
        self.notes: list[str] = []
        path, items = self._items(files, split, val_share, seed)
        check_unique([item.id for item in items], str(path))
        self.listed = tuple(item.id for item in items)  # ids of the whole list, without a subset's limit
        self.items = tuple(items if subset is None else _choose_subset(items, subset, subset_seed, path))
        self.ids = tuple(item.id for item in self.items)
        self._read_classes(files, ignore, mask)
        _check_files(self.items, files, path)

    def _items(self, files: Files, split: str, val_share: float | None, seed: int) -> tuple[Path, list[Item]]:
        """The pictures of a split, and what names them: a list, or the folder of images."""
        if val_share is None:
            path = _find_list(files, split)
            items = read_list(files, path)
            if not all(isfile(path) for item in items for path in (item.image, item.label)):
                _check_layout(files)  # which paths of both do not need
            return path, items
        lists = _lists(self.root)
        if lists or split not in ("train", "val"):
            raise InputError(
                f"--val-share makes the lists train and val where there are none; {self.root} has {', '.join(lists) or 'none'},"
                f" and {split} was asked for"
            )
        _check_layout(files)
        items = list(files.all())
        labelled = [item for item in items if isfile(item.label)]
        if items and not labelled:
            raise InputError(f"no image in {files.images} has a label: {items[0].image} would have {items[0].label}")
        if len(labelled) < len(items):
            without = next(item for item in items if not isfile(item.label))
            self.notes.append(
                f"{len(items) - len(labelled)} of {len(items)} images have no label, as {without.image.name}: left out"
            )
        return files.images, split_items(labelled, val_share, seed)[split == "val"]

    def _read_classes(self, files: Files, ignore: int | None, mask: bool) -> None:
        """Sets the classes, and what each value of a label means."""
        names = read_class_names(self.root, files.labels, files.labels.parent)
        self.classes, self.colours, self.has_names = names.names, names.colours, names.path is not None
        self._meaning = np.arange(256, dtype=np.uint8)
        if ignore is not None:
            if not 0 <= ignore <= 255:
                raise InputError(f"--ignore {ignore}: a label's values are 0 to 255")
            self._meaning[ignore] = IGNORE
            if ignore == len(self.classes) - 1 and self.has_names:
                self.classes = self.classes[:-1]
        if mask:
            if names.path is None:
                self.classes = ("background", "foreground")
            if len(self.classes) != 2:
                raise InputError(f"--mask is for two classes, 0 and 255; {names.path} names {len(self.classes)}")
            self._meaning[255] = 1
        elif names.path is None:
            self.notes.append(f"no class names found in {self.root}: VOC's {len(VOC_CLASSES)}; name your own in classes.txt")

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.items)

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a pair: the photograph and its label."""
        return self.items[index].image, self.items[index].label

    def __getitem__(self, index: int) -> Pair:
        item = self.items[index]
        image, label = read_image(item.image), self.meaning(decode_label(item.label, self.colours).indices)
        check_sizes(item, image.shape[:2], label.shape)
        wrong = label[(label >= self.num_classes) & (label != IGNORE)]
        if wrong.size:
            raise InputError(self.no_class(item, int(wrong[0])))
        return image, label

    def __iter__(self) -> Iterator[Pair]:
        return (self[index] for index in range(len(self)))

    def meaning(self, values: np.ndarray) -> np.ndarray:
        """Values of a label to class indices, 255 = ignore."""
        classes: np.ndarray = self._meaning[values]
        return classes

    def label(self, index: int) -> Label:
        """A label as it is written; only the first bytes of its image are read, to compare their sizes."""
        item = self.items[index]
        label = decode_label(item.label, self.colours)
        check_sizes(item, image_size(item.image), label.indices.shape)
        return label

    def no_class(self, item: Item, value: int) -> str:
        """What to say of a value that is no class."""
        names = "name all classes in classes.txt" if self.has_names else "no class names were found, so name yours in classes.txt"
        return (
            f"{item.label} has the label value {value}, but there are {self.num_classes} classes: use 0 to {self.num_classes - 1}"
            f" or {IGNORE} (ignore), {names} beside {IMAGES}, or pass over one value with --ignore {value}"
        )


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
    check_class_names(dataset.classes, "dataset.classes")
    _check_room(dataset, root, list_path)
    for folder in (IMAGES, LABELS, LISTS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    if not (root / "classes.txt").exists():
        (root / "classes.txt").write_text("".join(f"{name}\n" for name in dataset.classes), encoding="utf-8")
    for id_, (image, label) in zip(dataset.ids, dataset, strict=True):
        Image.fromarray(image).save(root / IMAGES / f"{id_}.png")
        write_label(root / LABELS / f"{id_}.png", label)
    # The list comes last, so that it never names a picture that is not there.
    list_path.write_text("".join(f"{id_}\n" for id_ in dataset.ids), encoding="utf-8")


# Where things are


def _lists(root: Path) -> list[str]:
    return sorted(list_.stem for list_ in (root / LISTS).glob("*.txt"))


def _find_list(files: Files, split: str) -> Path:
    is_path = split.endswith(".txt") or Path(split).name != split
    root = files.root
    path = Path(split) if is_path else root / LISTS / f"{split}.txt"
    if not path.is_file():
        _check_layout(files)
        lists = ", ".join(_lists(root)) or "none; --val-share 0.2 splits a set without lists"
        raise InputError(f"no such list: {path}; give a text file of ids or one of the lists in {root / LISTS}: {lists}")
    return path


def _choose_subset(items: Sequence[Item], count: int, seed: int | None, path: Path) -> Sequence[Item]:
    if not 1 <= count <= len(items):
        raise InputError(f"a subset of {count} is not possible: {path} has {len(items)} ids; give 1 to {len(items)}")
    if seed is None:
        return items[:count]
    chosen = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[index] for index in sorted(chosen)]


# Checks


def _check_layout(files: Files) -> None:
    missing = [folder for folder in (files.images, files.labels) if not folder.is_dir()]
    if missing:
        root = files.root
        nested = sorted(path.parent for pattern in ("*", "*/*") for path in root.glob(f"{pattern}/{IMAGES}"))
        remedy = f"give {nested[0]}, which has {IMAGES}" if nested else f"give the folder that has {IMAGES} and {LABELS}"
        names = " and no ".join(folder.name for folder in missing)
        raise InputError(
            f"{root} is not in VOC layout: it has no {names}; {remedy}, or say where they are with --images and --labels;"
            " python -m tinyfcn.data import brings what annotation tools write into this layout"
        )


def _check_files(items: Sequence[Item], files: Files, list_path: Path) -> None:
    nor = f" (nor {' nor '.join(IMAGE_SUFFIXES[1:])})"
    for what, paths, also in (("image", [i.image for i in items], nor), ("label", [i.label for i in items], "")):
        missing = [path for path in paths if not isfile(path)]
        if missing:
            raise InputError(
                f"no {what} {missing[0]}{also}, and so for {len(missing)} of the {len(items)} ids of {list_path};"
                f" add the {what}s or take these ids off the list"
            )


def check_sizes(item: Item, image: tuple[int, ...], label: tuple[int, ...]) -> None:
    """Raise InputError where a label does not have the (height, width) of its image."""
    if image != label:
        raise InputError(
            f"{item.label} is {label[1]}x{label[0]} pixels but {item.image} is {image[1]}x{image[0]}"
            " (width x height, EXIF rotation applied); a label must have its image's size"
        )


def _check_room(dataset: Dataset, root: Path, list_path: Path) -> None:
    check_ids(dataset.ids, "dataset.ids")
    has_set = any((root / name).exists() for name in (IMAGES, LABELS, "classes.txt"))
    if has_set and read_class_names(root).names != tuple(dataset.classes):
        raise InputError(f"{root} holds a set with other classes; write into another folder")
    files = Files(root)
    items = [files.item(id_, "dataset.ids") for id_ in dataset.ids]
    taken = [path for item in items for path in (item.image, item.label) if path.exists()]
    if list_path.exists() or taken:
        raise InputError(f"{(taken or [list_path])[0]} exists already; write another split or into another folder")
