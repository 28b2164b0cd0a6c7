"""Reading and writing parameters: .safetensors and .npz files, each with a description of the network they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tinyfcn.errors import InputError

DESCRIPTION = "tinyfcn"  # key of the description, JSON, in a file's metadata
CLASSIFIER_WEIGHTS = ("fc6.weight", "fc7.weight")  # which may be flat, (C_out, C_in k k), in the file of a classifier


class LoadReport(NamedTuple):
    """What became of a file's tensors and a network's parameters."""

    loaded: list[str]  # parameters that the file gave
    kept: list[str]  # parameters that stay as they are: missing from the file, or made for other classes
    unexpected: list[str]  # tensors of the file that the network has no use for

    def __str__(self) -> str:
        text = f"{len(self.loaded)} parameters loaded"
        if self.kept:
            text += f"; left at their initial value: {_listed(self.kept)}"
        if self.unexpected:
            text += f"; not used: {_listed(self.unexpected)}"
        return text


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def write(path: str | Path, tensors: dict[str, np.ndarray], description: dict[str, Any]) -> None:
    """Write named arrays and a description to PATH.safetensors or PATH.npz, whole or not at all."""
    path = Path(path)
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    text = json.dumps(description)
    try:
        if path.suffix == ".safetensors":
            save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, partial, metadata={DESCRIPTION: text})
        elif path.suffix == ".npz":
            np.savez(partial, **tensors | {DESCRIPTION: np.array(text)})  # type: ignore[arg-type]
        else:
            raise InputError(f"{path}: weights are written as .safetensors or .npz")
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return (tensors by name, description) of a .safetensors or .npz file; the description is {} where there is none.

    Raises InputError where the file is missing, damaged or of another kind.
    """
    return _read(Path(path), lambda name: True)


def read_description(path: str | Path) -> dict[str, Any]:
    """Return the description alone; raises InputError as `read` does."""
    return _read(Path(path), lambda name: False)[1]


def _read(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    if path.suffix not in (".safetensors", ".npz"):
        raise InputError(f"{path}: weights are read from .safetensors and .npz files")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys() if wanted(name)}  # noqa: SIM118
                text = (file.metadata() or {}).get(DESCRIPTION, "{}")
        else:
            with np.load(path, allow_pickle=False) as archive:
                tensors = {name: archive[name] for name in archive.files if wanted(name) and name != DESCRIPTION}
                text = str(archive[DESCRIPTION]) if DESCRIPTION in archive.files else "{}"
        return tensors, json.loads(text)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, SafetensorError) as error:
        raise InputError(f"{path}: not a readable file of weights: {error}") from None


def fit(tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]], *, partial: bool, source: str | Path) -> LoadReport:
    """Decide which tensors go into parameters of these shapes; raises InputError where they do not fit."""
    loaded, kept = [], []
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else None
        flat = name in CLASSIFIER_WEIGHTS and found == (shape[0], int(np.prod(shape[1:])))
        if found == shape or flat:
            loaded.append(name)
        elif partial and (found is None or name.startswith(("score", "upscore"))):
            kept.append(name)
        elif found is None:
            raise InputError(f"{source}: has no {name}: it is not a file of this network")
        else:
            raise InputError(f"{source}: {name} has shape {found}, the network's is {shape}: other width or classes?")
    if not loaded:
        raise InputError(f"{source}: has none of the network's parameters, such as {next(iter(shapes))}")
    return LoadReport(loaded, kept, [name for name in tensors if name not in shapes])
