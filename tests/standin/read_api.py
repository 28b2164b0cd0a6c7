"""What CuPy offers: the names, parameters and methods of two versions, written to api.json, which the stand-in obeys.

    python read_api.py --write        add the installed version to api.json: it is the oldest, or else the newest
    python read_api.py --check        compare the installed version with api.json; exit 1, with a line for each difference, where
                                      one of the two versions is installed and differs, or another one lacks what both have
    python read_api.py                print the listing of the installed version

CuPy need not find a GPU for this: nothing is computed.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy

PATH = Path(__file__).with_name("api.json")
MODULES = ("cupy", "cupy.random", "cupy.linalg", "cupy.lib.stride_tricks", "cupy.cuda", "cupy.cuda.runtime", "cupy.cuda.memory")
CLASSES = (
    "cupy.ndarray",
    "cupy.random.Generator",
    "cupy.cuda.Device",
    "cupy.cuda.Event",
    "cupy.cuda.MemoryPool",
    "cupy.cuda.Stream",
)
UFUNC_KEYWORDS = ("out", "dtype", "casting", "where", "order", "subok", "axes", "axis", "signature", "keepdims")


class Duck:
    """Takes every call that a ufunc's methods pass on to an array."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None


def read() -> dict[str, str]:
    """Everything that is public, by its full name: "function(...)", "ufunc(...) methods", "type",
    "module", "attribute", "operator", "value", or "numpy" for what is NumPy's own."""
    found = dict.fromkeys(CLASSES, "type")  # CuPy imports some only when they are asked for
    for owner in (*MODULES, *CLASSES):
        module, _, last = owner.rpartition(".")
        thing = importlib.import_module(owner) if owner in MODULES else getattr(importlib.import_module(module), last)
        for name in dir(thing):
            value = getattr(thing, name)
            if not name.startswith("_"):
                found[f"{owner}.{name}"] = (
                    "numpy" if owner == "cupy" and is_numpys(name, value) else describe(value, owner in CLASSES)
                )
            elif owner == "cupy.ndarray" and is_operator(name) and callable(value):
                found[f"{owner}.{name}"] = "operator"
    return found


def is_operator(name: str) -> bool:
    return name not in dir(object) and re.fullmatch(r"__(?!pyx|array|class_getitem)\w+__", name) is not None


def is_numpys(name: str, thing: Any) -> bool:
    return thing is vars(numpy).get(name) or (inspect.isclass(thing) and thing.__module__.partition(".")[0] == "numpy")


def describe(thing: Any, bound: bool) -> str:
    kind = type(thing).__name__
    if kind == "ufunc":
        return f"ufunc({', '.join(ufunc_keywords(thing))}) {' '.join(ufunc_methods(thing))}".rstrip()
    if inspect.isclass(thing):
        return "type"
    if inspect.ismodule(thing) or "Module" in kind:
        return "module"
    if not callable(thing):
        return "attribute" if bound and kind != "float" else "value"
    parameters = signature(thing)
    if parameters is None:
        return "function(?)"
    return f"function({', '.join(parameters[1:] if bound and parameters[:1] == ['self'] else parameters)})"


def signature(function: Any) -> list[str] | None:
    """The parameters in order, "name" or, where there is a default, "name="; "*" and "/" stand as in Python."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return signature_of_cython(function)
    found, star = [], False
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY and not star:
            found.append("*")
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        prefix = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        found.append(prefix + p.name + ("=" if p.default is not p.empty else ""))
    return found


def signature_of_cython(function: Any) -> list[str] | None:
    """From the first line of the docstring, as in `_ndarray_base.sum(self, int axis=None, out=None) -> _ndarray_base`."""
    line = (function.__doc__ or "").strip().split("\n")[0]
    match = re.fullmatch(r"[\w.]+\((.*)\)(?: -> .*)?", line)
    if match is None:
        return None
    parameters = re.split(r",\s*(?![^()\[\]]*[)\]])", match[1])
    return [p.split("=")[0].split()[-1] + ("=" if "=" in p else "") for p in parameters if p]


def ufunc_keywords(ufunc: Any) -> list[str]:
    """A ufunc looks at its keywords before it counts its arguments, of which it gets none here."""
    known = []
    for name in UFUNC_KEYWORDS:
        try:
            ufunc(**{name: None})
        except TypeError as error:
            if "number of arguments" in str(error):
                known.append(name + "=")
    return known


def ufunc_methods(ufunc: Any) -> list[str]:
    """Those that do not raise NotImplementedError."""
    known = []
    for name, arguments in {"at": 3, "reduce": 1, "accumulate": 1, "reduceat": 2}.items():
        try:
            getattr(ufunc, name)(*[Duck()] * arguments)
        except (AttributeError, NotImplementedError):
            continue
        known.append(name)
    return known


def listed() -> tuple[list[str], list[dict[str, str]]]:
    """The versions in api.json, oldest first, and the listing of each."""
    table = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {"versions": [], "names": {}}
    count = len(table["versions"])
    rows = {name: [row] * count if isinstance(row, str) else row for name, row in table["names"].items()}
    return table["versions"], [{name: row[k] for name, row in rows.items() if row[k] is not None} for k in range(count)]


def write(version: str, found: dict[str, str]) -> None:
    """Keep two versions. A name has one description where both agree, else a pair, with null for none."""
    versions, listings = listed()
    both = dict(zip(versions, listings, strict=True)) | {version: found}
    order = sorted(both, key=lambda text: [int(number) for number in re.findall(r"\d+", text)])
    order = [order[0], order[-1]] if len(order) > 1 else order
    names: dict[str, Any] = {}
    for name in sorted({name for kept in order for name in both[kept]}):
        row = [both[kept].get(name) for kept in order]
        names[name] = row[0] if len(set(row)) == 1 else row
    rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in names.items()]
    text = f'{{"versions": {json.dumps(order)}, "names": {{\n' + ",\n".join(rows) + "\n}}\n"
    PATH.write_text(text, encoding="utf-8")


def differences(version: str, found: dict[str, str]) -> list[str]:
    """Lines that say where the installed version is not as listed. What of it is NumPy's own depends on the NumPy beside it."""
    versions, listings = listed()
    if version in versions:
        listing = listings[versions.index(version)]
        rows = [(name, listing.get(name), found.get(name)) for name in sorted(listing.keys() | found.keys())]
        return [f"{name}: listed as {old}, is {new}" for name, old, new in rows if old != new and "numpy" not in (old, new)]
    both = set.intersection(*(set(listing) for listing in listings))
    lines = [f"{name}: in {' and '.join(versions)}, not in {version}" for name in sorted(both - found.keys())]
    for name in sorted(both & found.keys()):
        lost = set.intersection(*(words(listing[name]) for listing in listings)) - words(found[name])
        if lost and found[name] != "numpy":
            lines.append(f"{name}: {' '.join(sorted(lost))} in {' and '.join(versions)}, not in {version}")
    return lines


def words(description: str) -> set[str]:
    """The kind, parameters and methods of a description."""
    return set(re.findall(r"\w+", description))


def main() -> int:
    parse = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parse.add_argument("--write", action="store_true")
    parse.add_argument("--check", action="store_true")
    options = parse.parse_args()
    import cupy

    found = read()
    if options.write:
        write(cupy.__version__, found)
        print(f"{PATH.name}: versions {' and '.join(listed()[0])}")
    elif options.check:
        lines = differences(cupy.__version__, found)
        print("\n".join(lines) or f"CuPy {cupy.__version__} is as {PATH.name} says ({' and '.join(listed()[0])})")
        return 1 if lines else 0
    else:
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
