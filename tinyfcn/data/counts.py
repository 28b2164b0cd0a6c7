"""Counting a set's labels before anything is learned from them: whatever is wrong with a file shows here, and what labels mean.

Each image's first bytes and each label are read once, and the result is kept in the user's cache folder, by the size and the time
of both files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn import progress
from tinyfcn.backend import thread_count
from tinyfcn.data.labels import Label
from tinyfcn.data.lists import Item
from tinyfcn.data.names import IGNORE
from tinyfcn.data.voc import Dataset, VOCSegmentation
from tinyfcn.errors import InputError
from tinyfcn.files import write_text

VERSION = 2  # of the cache
NOTHING = "there is nothing to tell apart; label at least two classes, one of which may be the background"
SMOOTH = 10  # so many values that are no classes look like interpolated ones

# What is known of a label: what its files were, the pixels of each value as written, and the palette's colour for each value.
Record = tuple[list[int], dict[str, int], dict[str, list[int]]]


def count_labels(*datasets: Dataset, bar: bool = False) -> list[np.ndarray]:
    """For each dataset, the pixels of each class in each label, (len(dataset), 256); column 255 has those that are ignored.

    Reads every file of a `VOCSegmentation` that its size and time do not show to be known, with a progress `bar` where wanted.
    Raises InputError where one cannot be used: unreadable, of another size than its image, with a value that is no class, or with
    another palette than the others, in which the same index means something else.
    """
    folders = [dataset for dataset in datasets if isinstance(dataset, VOCSegmentation)]
    known = [_records(dataset, bar) for dataset in folders]
    check_palettes([(item.label, record[2]) for found in known for item, record in found])
    tables = {id(dataset): _table(dataset, found) for dataset, found in zip(folders, known, strict=True)}
    if folders:
        _check_values(folders, [tables[id(dataset)] for dataset in folders])
    return [tables[id(dataset)] if id(dataset) in tables else _counted(dataset) for dataset in datasets]


def check_labels(train: Dataset | None, val: Dataset | None = None, bar: bool = False) -> list[str]:
    """What a user should know of labels before training on `train`, and evaluating on `val`, a line each.

    Raises InputError where there is nothing to learn or to score: no class or only one is labelled; and as `count_labels`.
    """
    sets = [dataset for dataset in (train, val) if dataset is not None]
    lines = [note for dataset in sets for note in getattr(dataset, "notes", ())]
    for dataset, counts in zip(sets, count_labels(*sets, bar=bar), strict=True):
        lines += _about_training(dataset, counts) if dataset is train else _about_scores(dataset, counts)
    return list(dict.fromkeys(lines))


def _about_training(dataset: Dataset, counts: np.ndarray) -> list[str]:
    pixels = counts[:, : dataset.num_classes].sum(axis=0)
    check_present(pixels, dataset.classes, f"{len(dataset)} images of {_name(dataset)}", _remedy(dataset, counts))
    lines = []
    missing = [name for name, number in zip(dataset.classes, pixels, strict=True) if not number]
    if missing:
        lines.append(f"warning: no pixel to train on for {', '.join(missing)}")
    if not pixels[0] and pixels[-1]:
        lines.append(
            f"warning: the label value 0 ({dataset.classes[0]}) never occurs, and {len(pixels) - 1} does: labels that count"
            " from 1 need a name for 0 before the others"
        )
    return lines


def check_present(pixels: np.ndarray, classes: Sequence[str], where: str, remedy: str = NOTHING) -> None:
    """Raise InputError where fewer than two classes have pixels to learn from."""
    present = np.flatnonzero(pixels[: len(classes)])
    if len(present) < 2:
        only = f"only the class {classes[present[0]]} is labelled" if len(present) else "no pixel is labelled"
        raise InputError(f"{only} in the {where}: {remedy}")


def _about_scores(dataset: Dataset, counts: np.ndarray) -> list[str]:
    present = np.flatnonzero(counts[:, : dataset.num_classes].sum(axis=0))
    if not len(present):
        raise InputError(
            f"no pixel is labelled in the {len(dataset)} images of {_name(dataset)}, so that there is nothing to score:"
            f" {_remedy(dataset, counts)}"
        )
    only = f"warning: only {dataset.classes[present[0]]} occurs in {_name(dataset)}: scores will tell little"
    return [only] if len(present) == 1 else []


def _name(dataset: Dataset) -> str:
    return f"{dataset.root}, {dataset.split}" if isinstance(dataset, VOCSegmentation) else "the generated set"


def _remedy(dataset: Dataset, counts: np.ndarray) -> str:
    values = set(np.flatnonzero(counts.sum(axis=0)).tolist())
    if isinstance(dataset, VOCSegmentation) and values <= {0, IGNORE} and IGNORE in values:
        if not dataset.has_names or dataset.num_classes == 2:
            return (
                f"its values are {' and '.join(map(str, sorted(values)))}, and {IGNORE} is ignored; if it is a class, add --mask"
            )
        return f"{IGNORE} is ignored; label classes with their indices, 0 to {dataset.num_classes - 1}"
    return NOTHING


def _counted(dataset: Dataset) -> np.ndarray:
    return np.array([np.bincount(label.ravel(), minlength=256) for _, label in dataset]).reshape(-1, 256)


def _table(dataset: VOCSegmentation, found: Iterable[tuple[Item, Record]]) -> np.ndarray:
    """The pixels of each class in each label, by what the values mean."""
    table = np.zeros((len(dataset), 256), np.int64)
    meaning = dataset.meaning(np.arange(256))
    for row, (_, (_, values, _)) in zip(table, found, strict=True):
        for value, number in values.items():
            row[meaning[int(value)]] += number
    return table


# Checks over all labels


def check_palettes(found: Sequence[tuple[Path, dict[str, list[int]]]]) -> None:
    """Raise InputError where two labels have other colours for the same index; 255 aside."""
    seen: dict[str, tuple[list[int], Path]] = {}
    for path, colours in found:
        for value, colour in colours.items():
            before, first = seen.setdefault(value, (colour, path))
            if colour != before and value != str(IGNORE):
                raise InputError(
                    f"{path} has a palette of its own: index {value} is the colour {','.join(map(str, colour))}, but"
                    f" {','.join(map(str, before))} in {first}, so that the same index means two classes; export the labels"
                    " in colours with a labelmap.txt, or as indices with one palette for all"
                )


def _check_values(datasets: Sequence[VOCSegmentation], tables: Sequence[np.ndarray]) -> None:
    values = np.flatnonzero(np.concatenate(tables).sum(axis=0))
    wrong = [int(value) for value in values if datasets[0].num_classes <= value != IGNORE]
    if not wrong:
        return
    table, dataset = next((t, d) for t, d in zip(tables, datasets, strict=True) if t[:, wrong].any())
    row = int(np.flatnonzero(table[:, wrong].any(axis=1))[0])
    value = next(value for value in wrong if table[row, value])
    files = sum(int(table[:, wrong].any(axis=1).sum()) for table in tables)
    why = hint(values.tolist(), wrong, dataset.classes)
    raise InputError(f"{dataset.no_class(dataset.items[row], value)}; so in {files} of {sum(map(len, tables))} labels{why}")


def hint(values: Sequence[int], wrong: Sequence[int], classes: Sequence[str]) -> str:
    """What values that are no classes are likely to mean; `values` are all that occur."""
    if list(wrong) == [len(classes)] and 0 not in values:
        return "; 0 never occurs, so labels seem to count from 1: give 0 a name, such as background, before the others"
    if list(wrong) == [len(classes)] and classes[0] != "background":
        return f"; if 0 is the background and not {classes[0]}, name it before the others"
    if len(wrong) >= SMOOTH:
        return f"; {len(wrong)} values are no classes: export labels again that have smooth edges, or were saved as JPEG"
    return ""


# Reading, and what was read before


def unusable(dataset: VOCSegmentation) -> list[InputError]:
    """What is wrong with each label that cannot be used. The others are known from here on."""
    return _read(dataset, bar=False)[1]


def _records(dataset: VOCSegmentation, bar: bool) -> list[tuple[Item, Record]]:
    known, wrong = _read(dataset, bar)
    if wrong:
        raise wrong[0]
    return [(item, known[str(item.label)]) for item in dataset.items]


def _read(dataset: VOCSegmentation, bar: bool) -> tuple[dict[str, Record], list[InputError]]:
    """What is known of labels, by their paths, once all new ones have been read; and what is wrong with the others."""
    path = _cache(dataset)
    known: dict[str, Record] = _read_cache(path)
    stamps = {str(item.label): _stamp(item) for item in dataset.items}
    new = [k for k, item in enumerate(dataset.items) if known.get(str(item.label), [None])[0] != stamps[str(item.label)]]
    wrong = []

    def read(k: int) -> tuple[str, Record] | InputError:
        name = str(dataset.items[k].label)
        try:
            return name, (stamps[name], *record_of(dataset.label(k)))
        except InputError as error:
            return error

    try:
        with ThreadPoolExecutor(thread_count()) as pool:
            for found in progress.bar(pool.map(read, new), "reading labels", len(new), " images", bar and bool(new)):
                if isinstance(found, InputError):
                    wrong.append(found)
                else:
                    known[found[0]] = found[1]
    finally:
        if new:
            with suppress(OSError, InputError):  # a cache is no reason to end
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(known))
    return known, wrong


def record_of(label: Label) -> tuple[dict[str, int], dict[str, list[int]]]:
    """The pixels of each value, and the colour that the palette has for it, as JSON keeps them."""
    counts = np.bincount(label.indices.ravel(), minlength=256)
    values = {str(value): int(counts[value]) for value in np.flatnonzero(counts)}
    return values, {str(value): list(colour) for value, colour in label.colours.items()}


def _stamp(item: Item) -> list[int]:
    return [number for path in (item.image, item.label) for number in (path.stat().st_size, path.stat().st_mtime_ns)]


def _cache(dataset: VOCSegmentation) -> Path:
    """The file in the user's cache folder for labels of this folder that are read in this way."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or os.path.expanduser("~/.cache")
    folder = os.environ.get("TINYFCN_CACHE") or os.path.join(home, "tinyfcn")
    what = [VERSION, str(dataset.root.resolve()), sorted(map(str, dataset.colours.items()))]
    return Path(folder, f"labels-{hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]}.json")


def _read_cache(path: Path) -> Any:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return known if isinstance(known, dict) else {}
    except (OSError, ValueError):
        return {}
