"""api.json: what both versions of CuPy have, and so the stand-in; everything else is refused with the reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

_table = json.loads(Path(__file__).with_name("api.json").read_text(encoding="utf-8"))
VERSIONS: tuple[str, ...] = tuple(_table["versions"])
_names: dict[str, Any] = _table["names"]


class Accepts(NamedTuple):
    """Which arguments a function takes in every version."""

    name: str
    positional: float  # how many
    keywords: frozenset[str] | None  # None: any

    def check(self, args: tuple, kwargs: dict[str, Any]) -> None:
        if len(args) > self.positional:
            raise TypeError(f"{self.name}() takes {self.positional} positional arguments in every CuPy, got {len(args)}")
        if self.keywords is not None and not kwargs.keys() <= self.keywords:
            unknown = ", ".join(sorted(kwargs.keys() - self.keywords))
            raise TypeError(f"{self.name}() has no keyword argument {unknown} in CuPy {' and '.join(VERSIONS)}")


def kind(name: str) -> str:
    """ "function", "ufunc", "type", "module", "attribute", "value" or "numpy", which is NumPy's own.

    Raises AttributeError for what a version lacks.
    """
    row = _names.get(name)
    rows = row if isinstance(row, list) else [row] * len(VERSIONS)
    lacking = [version for version, text in zip(VERSIONS, rows, strict=True) if text is None]
    if lacking:
        raise AttributeError(f"CuPy {' and '.join(lacking)} has no {name}")
    return re.match(r"\w+", rows[0])[0]


def members(owner: str) -> list[str]:
    """The names that every version has in a module or class."""
    prefix = f"{owner}."
    found = [name.removeprefix(prefix) for name, row in _names.items() if name.startswith(prefix) and _in_all(row)]
    return [name for name in found if "." not in name]


def accepts(name: str) -> Accepts:
    row = _names[name]
    positional, keywords = float("inf"), None
    for text in row if isinstance(row, list) else [row]:
        if "(?)" in text:
            continue
        before, _, after = text[text.index("(") + 1 : text.index(")")].partition("*, ")
        names = [parameter.strip("= ") for parameter in f"{before},{after}".split(",") if parameter.strip()]
        if not any(parameter.startswith("*") for parameter in names):
            positional = min(positional, len([p for p in before.split(",") if p.strip()]))
        named = frozenset(parameter for parameter in names if not parameter.startswith("*"))
        if not any(parameter.startswith("**") for parameter in names):
            keywords = named if keywords is None else keywords & named
    return Accepts(name, positional, keywords)


def methods(ufunc: str) -> set[str]:
    """Those of "at", "reduce", "accumulate" and "reduceat" that a ufunc has in every version."""
    row = _names[ufunc]
    return set.intersection(*(set(text.partition(") ")[2].split()) for text in (row if isinstance(row, list) else [row])))


def _in_all(row: Any) -> bool:
    return isinstance(row, str) or None not in row
