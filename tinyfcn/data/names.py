"""The names of a set's classes, as annotation tools write them, and VOC's where there are none.

classes.txt         a name a line, index 0 first, or each with its index; lines that begin with # are for people
class_names.txt     the same, by labelme: __ignore__ comes before index 0, and _background_ is the background
labelmap.txt        name:red,green,blue:parts:actions, by CVAT and Datumaro; the labels are in these colours
_classes.csv        Pixel Value, Class; by Roboflow
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from os.path import lexists
from pathlib import Path
from typing import NamedTuple

from tinyfcn.description import MOST_CLASSES
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import read_text

IGNORE = 255
VOC_CLASSES = (
    "background",
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

Colour = tuple[int, int, int]


class ClassNames(NamedTuple):
    """The names by index, the colours in which labels are drawn where a file tells them, and that file."""

    names: tuple[str, ...]
    colours: dict[Colour, int] = {}  # colour -> index, or IGNORE
    path: Path | None = None


def read_class_names(*folders: Path) -> ClassNames:
    """The class names in the first of these folders that has one of `FILES`, else VOC's own 21.

    Raises `InputError` where a file cannot be used, or names a class twice.
    """
    paths = (folder / name for folder in folders for name in FILES)
    path = next(filter(lexists, paths), None)
    if path is None:
        return ClassNames(VOC_CLASSES)
    names, colours = FILES[path.name](path)
    names = tuple(one_line(name) for name in names)  # they will be printed
    check_class_names(names, str(path))
    return ClassNames(names, colours, path)


def colours_by_class(label_map: Mapping[Colour, int], number: int) -> tuple[Colour, ...] | None:
    """The colour of each class, where a label map has one for all of them."""
    colour_of = {index: colour for colour, index in label_map.items()}
    own = [colour_of[index] for index in range(number) if index in colour_of]
    return tuple(own) if len(own) == number else None


def check_class_names(names: Sequence[str], source: str) -> None:
    """Raise InputError where there are too many names, none, or one twice."""
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(f"{source} names {len(names)} classes; give 1 to {MOST_CLASSES} names, one a line, index 0 first")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source} has the class {name} {count} times; give each class a name of its own")


def lines_of(path: Path) -> list[str]:
    """The lines of a text file that say something."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def plain_name(name: str) -> str:
    """A class's name without the underscores that labelme puts around the background's."""
    return "background" if name == "_background_" else name


def _classes_txt(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    lines = [line for line in lines_of(path) if not line.startswith("#")]
    for pattern in (r"(?P<index>\d+)[\s:,;=]+(?P<name>.+)", r"(?P<name>.+?)[\s:,;=]+(?P<index>\d+)"):
        found = [match for line in lines if (match := re.fullmatch(pattern, line, re.ASCII))]
        numbered = {int(match["index"]): match["name"] for match in found}
        if sorted(numbered) == list(range(len(lines))) == list(range(len(set(numbered.values())))):
            return tuple(numbered[index] for index in range(len(lines))), {}
    return tuple(lines), {}


def _class_names_txt(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    return tuple(plain_name(line) for line in lines_of(path) if line != "__ignore__"), {}


def _labelmap_txt(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    names: list[str] = []
    colours: dict[Colour, int] = {}
    for line in lines_of(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        numbers = rest.partition(":")[0].split(",") if rest.strip(":") else []
        if numbers and not (len(numbers) == 3 and all(n.strip().isdecimal() and int(n) <= 255 for n in numbers)):
            raise InputError(f"{path} has the line {line!r}; expected name:red,green,blue:: with numbers from 0 to 255")
        index = IGNORE if name in ("__ignore__", "ignored") else len(names)
        if index != IGNORE:
            names.append(plain_name(name))
        if numbers:
            red, green, blue = map(int, numbers)
            if (red, green, blue) in colours:
                raise InputError(f"{path} gives the colour {red},{green},{blue} twice; give each class a colour of its own")
            colours[red, green, blue] = index
    return tuple(names), colours


def _classes_csv(path: Path) -> tuple[tuple[str, ...], dict[Colour, int]]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines_of(path), skipinitialspace=True)]
    rows = [row for row in rows if row and not row[0].lower().startswith("pixel")]
    by_value = {int(row[0]): plain_name(row[1]) for row in rows if len(row) == 2 and row[0].isdecimal()}
    if len(by_value) < len(rows) or sorted(by_value) != list(range(len(by_value))):
        raise InputError(f"{path} must have the columns Pixel Value and Class, with each value from 0 on once")
    return tuple(by_value[value] for value in range(len(by_value))), {}


FILES: dict[str, Callable[[Path], tuple[tuple[str, ...], dict[Colour, int]]]] = {
    "classes.txt": _classes_txt,
    "class_names.txt": _class_names_txt,
    "labelmap.txt": _labelmap_txt,
    "_classes.csv": _classes_csv,
}
