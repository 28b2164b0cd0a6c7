"""From a list of pictures to their files, however the list and the files are written.

A line is an id, `2007_000032` or `street/17`; or an id with a suffix or a second column; or the path of an image, with or without
that of its label, as it was on the machine that wrote it. Files are found by the names that their folders list: suffixes in any
case, accented letters in either of Unicode's forms, and nothing outside the set's folder.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from glob import glob
from os.path import isdir, isfile, lexists
from pathlib import Path
from typing import NamedTuple, TypeVar
from unicodedata import normalize

import numpy as np

from tinyfcn.data.names import lines_of
from tinyfcn.errors import InputError

IMAGES, LABELS, LISTS = "JPEGImages", "SegmentationClass", "ImageSets/Segmentation"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")  # the last two are found, and refused as lossy

T = TypeVar("T")


class Item(NamedTuple):
    """A picture of a set; a path that is not there is where the file should be."""

    id: str
    image: Path
    label: Path


def named_images(names: Iterable[str]) -> list[Path]:
    """The photographs that a user names: by a file, by a folder of them, or by a pattern such as `photos/*.jpg`.

    Patterns are for shells that do not expand them. A file whose own name looks like one is itself, and what is not there stays
    in the list. Raises InputError for a folder without pictures.
    """
    found: list[Path] = []
    for name in names:
        if isdir(name):
            inside = [path for path in sorted(Path(name).iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
            inside = [path for path in inside if not path.name.startswith(".")]
            if not inside:
                raise InputError(f"{name} has no pictures ({', '.join(IMAGE_SUFFIXES)}); give a folder that has some")
            found += inside
        else:
            matches = [] if lexists(name) else [Path(match) for match in sorted(glob(name, recursive=True)) if isfile(match)]
            found += matches or [Path(name)]
    return found


class Tree:
    """The files in a folder and below it, by name; each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: dict[Path, dict[str, Path]] = {}

    def find(self, name: str, suffixes: Sequence[str] = ("",), other_than: Path | None = None) -> Path | None:
        """The file that `name` and one of the suffixes make, the first that is there and is not `other_than`."""
        *folders, last = name.split("/")
        folder: Path | None = self.root
        for part in folders:
            folder = folder and self._list(folder).get(_key(part))
        candidates = (self._list(folder).get(_key(last + suffix)) for suffix in suffixes) if folder else ()
        return next((path for path in candidates if path and path != other_than and isfile(path)), None)

    def find_end(self, path: str) -> Path | None:
        """The file at the longest end of a path that is there."""
        parts = path.split("/")
        return next((found for k in range(len(parts)) if (found := self.find("/".join(parts[k:])))), None)

    def walk(self) -> Iterator[str]:
        """The names of all files, in order; not those that begin with a dot."""
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                if not name.startswith("."):
                    yield Path(folder, name).relative_to(self.root).as_posix()

    def _list(self, folder: Path) -> dict[str, Path]:
        if folder not in self._entries:
            names = sorted(os.listdir(folder)) if folder.is_dir() else []
            self._entries[folder] = {_key(name): folder / name for name in names}
        return self._entries[folder]


class Files:
    """Where a set's pictures are: `images` and `labels` are folders, in `root` or anywhere."""

    def __init__(self, root: Path, images: str | None = None, labels: str | None = None, label_suffix: str = "") -> None:
        self.root, self.label_suffix = root, label_suffix
        folders = [root / IMAGES if images is None else _folder(root, images, "--images")]
        folders += [root / LABELS if labels is None else _folder(root, labels, "--labels")]
        self._root, self._images, self._labels = Tree(root), *map(Tree, folders)

    @property
    def images(self) -> Path:
        return self._images.root

    @property
    def labels(self) -> Path:
        return self._labels.root

    def item(self, line: str, source: str) -> Item:
        """What a line of a list means. Raises `InputError` where it leads out of the set's folder."""
        line = re.sub("^[A-Za-z]:/", "/", line.replace("\\", "/"))  # what Windows writes
        fields = [field for field in re.split(r"[\s,;]+", line) if field]
        if ".." in re.split(r"[\s,;/]+", line) or not line.strip("./"):
            raise InputError(f"{source} has {line!r}, which is a path out of the folder; give ids, one a line, e.g. 2007_000032")
        if found := self._image(line):
            return Item(*found, self.label(*found))
        if found := self._image(fields[0]) or self._image_at(fields[0]):
            label = self._root.find_end(fields[1]) if len(fields) > 1 else None
            return Item(*found, label or self.label(*found))
        if found := self._image_at(line):
            return Item(*found, self.label(*found))
        id_ = normalize("NFC", line.lstrip("/"))
        return Item(id_, self.images / f"{id_}{IMAGE_SUFFIXES[0]}", self.label(id_))

    def label(self, id_: str, image: Path | None = None) -> Path:
        """The label of an id, or where it should be."""
        name = f"{id_}{self.label_suffix}"
        places = (self.labels / f"{name}{suffix}" for suffix in LABEL_SUFFIXES)
        return self._labels.find(name, LABEL_SUFFIXES, image) or next(place for place in places if place != image)

    def all(self) -> Iterator[Item]:
        """Each image in the folder of images, in the order of their names; with its label where there is one."""
        seen = set()
        for name in self._images.walk():
            stem = _without_suffix(normalize("NFC", name))
            if self.label_suffix and self.images == self.labels and stem.endswith(self.label_suffix):
                continue
            if stem and stem not in seen and (found := self._images.find(stem, IMAGE_SUFFIXES)):
                seen.add(stem)
                yield Item(stem, found, self.label(stem, found))

    def _image(self, text: str) -> tuple[str, Path] | None:
        """An image by its id, or its file's name, and the id."""
        text = normalize("NFC", text.removeprefix("./").lstrip("/"))
        for id_ in (text, _without_suffix(text)):
            if id_ and (found := self._images.find(id_, IMAGE_SUFFIXES)):
                return id_, found
        return None

    def _image_at(self, path: str) -> tuple[str, Path] | None:
        """An image by the end of its path, and its id."""
        if "/" in _without_suffix(path):
            for tree in (self._root, self._images):
                if found := tree.find_end(path):
                    home = self.images if found.is_relative_to(self.images) else tree.root
                    return normalize("NFC", found.relative_to(home).with_suffix("").as_posix()), found
        return None


def read_list(files: Files, path: Path) -> list[Item]:
    """The pictures of a list, in its order. Raises `InputError` where it is empty, or names a picture twice."""
    lines = lines_of(path)
    if not lines:
        raise InputError(f"{path} is empty; give a list with at least one id, one a line")
    return [files.item(line, str(path)) for line in lines]


def read_ids(path: Path) -> tuple[str, ...]:
    """The ids of a list, one a line. Raises `InputError` where it is empty, names one twice, or has paths."""
    ids = tuple(lines_of(path))
    if not ids:
        raise InputError(f"{path} is empty; give a list with at least one id, one a line")
    check_ids(ids, str(path))
    return ids


def check_ids(ids: Sequence[str], source: str) -> None:
    """Raise `InputError` where an id is a path, or there twice."""
    for id_ in ids:
        if id_ in (".", "..") or "/" in id_ or "\\" in id_:
            raise InputError(f"{source} has {id_!r}, which is a path; give bare ids, one a line, e.g. 2007_000032")
    check_unique(ids, source)


def check_unique(ids: Sequence[str], source: str) -> None:
    """Raise `InputError` where an id is there twice."""
    id_, count = Counter(ids).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} has the id {id_} {count} times; list each id once")


def split_items(items: Sequence[T], val_share: float, seed: int) -> tuple[list[T], list[T]]:
    """A seeded choice of `val_share` of the items to evaluate on, at least one, and the others to train on, both in order."""
    if not 0 < val_share < 1 or len(items) < 2:
        raise InputError(
            f"--val-share {val_share:g} of {len(items)} labelled images leaves nothing to train or to evaluate on;"
            " give a share between 0 and 1, of two images or more"
        )
    count = min(max(1, round(val_share * len(items))), len(items) - 1)
    chosen = set(np.random.default_rng([seed, 3]).permutation(len(items))[:count].tolist())
    return [item for k, item in enumerate(items) if k not in chosen], [items[k] for k in sorted(chosen)]


def _folder(root: Path, name: str, option: str) -> Path:
    for folder in (root / name, Path(name)):
        if isdir(folder):
            return folder
    raise InputError(f"{option} {name}: no such folder, neither in {root} nor here")


def _without_suffix(name: str) -> str:
    """A name without the suffix of an image, "" where it has none."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix.lower()}" in IMAGE_SUFFIXES else ""


def _key(name: str) -> str:
    stem, dot, suffix = normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}" if dot else suffix
