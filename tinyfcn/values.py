"""Values that people give, as options, in files that they edit, or to a constructor: what each may be is decided in one place.

A `Kind` says what a value may be. A record is a frozen dataclass whose fields are made by `field(kind)`, and which calls `check`
when it is made: the same bounds hold wherever a value comes from. Numbers have upper bounds, far above what anybody needs, so
that a slip of the keyboard is reported at once, and not when memory is full.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tinyfcn.errors import InputError
from tinyfcn.files import read_json

Record = TypeVar("Record")


class Kind(NamedTuple):
    """What a value may be."""

    expected: str  # in words
    allows: Callable[[Any], bool]
    convert: Callable[[str], Any] = str  # from text; raises ValueError
    optional: bool = False  # whether None is one too

    def fits(self, value: Any) -> bool:
        return (value is None and self.optional) or self.allows(value)

    def parse(self, text: str) -> Any:
        """The value that a text stands for. Raises InputError where it is of another kind."""
        try:
            value = self.convert(text)
        except ValueError:
            value = None
        if not self.allows(value):
            raise InputError(f"must be {self.expected}, got {shorten(text)}")
        return value


def shorten(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:40]}..."


# Kinds


def _is(value: Any, types: type | tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def whole(low: int, high: int) -> Kind:
    return Kind(f"a whole number from {low:,} to {high:,}", lambda value: _is(value, int) and low <= value <= high, int)


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Kind:
    """Numbers from `low`, or only `above` it, to `high`, or only `below` it; never NaN."""

    def allows(value: Any) -> bool:
        return (
            _is(value, (int, float)) and low <= value <= high and not (above and value == low) and not (below and value == high)
        )

    least, most = "more than" if above else "at least", "less than" if below else "at most"
    return Kind(f"a number, {least} {low:g} and {most} {high:,g}", allows, float)


def one_of(names: Collection[str]) -> Kind:
    return Kind(f"one of {', '.join(names)}", lambda value: type(value) is str and value in names)


def _is_text(value: Any) -> bool:
    try:
        return type(value) is str and value != "" and b"\0" not in value.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False


TEXT = Kind("text", _is_text)  # also paths, which bytes of another encoding may stand in
FLAG = Kind("true or false", lambda value: type(value) is bool)


def _are_names(value: Any) -> bool:
    return _is_list(value) and all(map(TEXT.fits, value)) and len(set(value)) == len(value)


NAMES = Kind("names, none of them twice", _are_names)


def optional(kind: Kind) -> Kind:
    return kind._replace(optional=True)


def pair(kind: Kind) -> Kind:
    return Kind(f"two of {kind.expected}", lambda value: _is_list(value) and len(value) == 2 and all(map(kind.fits, value)))


def table(kind: Kind, keys: Collection[str] | None = None) -> Kind:
    """Values of a kind by name; for these keys and no others, where they are given."""

    def allows(value: Any) -> bool:
        if type(value) is not dict or (keys is not None and value.keys() != set(keys)):
            return False
        return all(TEXT.fits(name) and kind.fits(item) for name, item in value.items())

    return Kind(f"a table of {' and '.join(keys) if keys else 'names'}, each with {kind.expected}", allows)


def _is_list(value: Any) -> bool:
    return type(value) in (list, tuple)


# What several records and options have

STEPS, STEP = whole(1, 1_000_000), whole(0, 1_000_000)  # how many there are, and how many are done
SUBSET = whole(1, 1_000_000)
WIDTH = number(0, 4, above=True)
HIDDEN = whole(1, 4 * 4096)
SIDE = whole(1, 20_000)  # pixels
PIXELS = whole(1, 2**31 - 1)  # of a picture
ZOOM = number(0, 16, above=True)
SHARE = number(0, 1)
VALUE = whole(0, 255)  # of a label
COLOURS = Kind(
    "colours, each of three whole numbers from 0 to 255",
    lambda value: (
        _is_list(value) and all(_is_list(colour) and len(colour) == 3 and all(map(VALUE.fits, colour)) for colour in value)
    ),
)
HELD_OUT = number(0, 1, above=True, below=True)  # share of images
SECONDS = number(0, 1e10)


# Records


def field(kind: Kind, default: Any = dataclasses.MISSING) -> Any:
    """A field of a record: what it may be, and its default."""
    return dataclasses.field(default=default, metadata={"kind": kind})


def kinds(record: type) -> dict[str, Kind]:
    return {own.name: own.metadata["kind"] for own in dataclasses.fields(record)}


def check(record: Any) -> None:
    """Raise InputError where a field of a record is not of its kind; to be called in __post_init__."""
    for name, kind in kinds(type(record)).items():
        value = getattr(record, name)
        if not kind.fits(value):
            expected = kind.expected + (", or null" if kind.optional else "")
            raise InputError(f"{name} must be {expected}, got {reprlib.repr(value)}")


def from_json(record: type[Record], values: dict[str, Any], source: Path | str, complete: bool = False) -> Record:
    """The record that a JSON object gives, with all its fields if it must be `complete`.

    Raises InputError, with the source and the field, where one is wrong, missing or unknown.
    """
    known = kinds(record)
    needed = [own.name for own in dataclasses.fields(record) if complete or own.default is dataclasses.MISSING]  # type: ignore[arg-type]
    try:
        for name in values:
            if name not in known:
                raise InputError(f"has {reprlib.repr(name)}, which is none of its fields ({', '.join(known)})")
        for name in needed:
            if name not in values:
                raise InputError(f"has no {name}, which must be {known[name].expected}")
        return record(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def read_record(record: type[Record], path: Path, complete: bool = False) -> Record:
    """The record in a JSON file; raises InputError as `from_json` does, and where the file is missing or no JSON."""
    return from_json(record, read_json(path), path, complete)


def to_json(record: Any) -> dict[str, Any]:
    """What `from_json` takes: the fields that are not as by default."""
    return {own.name: value for own in dataclasses.fields(record) if (value := getattr(record, own.name)) != own.default}
