"""Reading and writing parameters: .safetensors and .npz files, each with a description of the network they belong to.

Files of other programs are read by `tinyfcn.formats`, and turned into these by `python -m tinyfcn.convert`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple
from zipfile import ZipFile

import numpy as np

from tinyfcn.description import Description
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import replacing
from tinyfcn.formats import DESCRIPTION, Content, Tensor, open_weights
from tinyfcn.parallel import split_evenly

CLASSIFIER_WEIGHTS = ("fc6.weight", "fc7.weight", "fc8.weight")  # flat, (C_out, C_in k k), or convolutions, (C_out, C_in, k, k)
SAFETENSORS = {"float64": "F64", "float32": "F32", "float16": "F16"}  # what it calls the types that are written
WRITE_BYTES = 1 << 24  # of a tensor that are made contiguous at a time


class LoadReport(NamedTuple):
    """What became of a file's tensors and a network's parameters."""

    loaded: list[str]  # parameters that the file gave
    kept: list[str]  # parameters that stay as they are: missing from the file, or made for other classes
    unexpected: list[str]  # tensors of the file that the network has no use for

    def __str__(self) -> str:
        text = f"{len(self.loaded)} parameters loaded"
        if self.kept:
            text += f"; left at their initial value: {listed(self.kept)}"
        if self.unexpected:
            text += f"; not used: {listed(self.unexpected)}"
        return text


def listed(names: Sequence[str]) -> str:
    """Names that may come from a file, the first eight of them."""
    return ", ".join(one_line(name, 80) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def write(path: str | Path, tensors: Mapping[str, np.ndarray | Tensor], description: Description) -> None:
    """Write named arrays and their description to PATH.safetensors or PATH.npz, whole or not at all.

    One tensor after the other: those of a file that is being converted are read when their turn has come.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise InputError(f"{path}: weights are written as .safetensors or .npz")
    text = json.dumps(description.to_metadata())
    with replacing(path) as partial:
        (_write_safetensors if path.suffix == ".safetensors" else _write_npz)(partial, tensors, text)


def _write_safetensors(path: Path, tensors: Mapping[str, np.ndarray | Tensor], text: str) -> None:
    """The length of a header, the header, and the values: https://github.com/huggingface/safetensors#format.

    By hand, since the package wants to have all tensors in memory, twice.
    """
    header: dict[str, Any] = {"__metadata__": {DESCRIPTION: text}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + prod(tensor.shape) * tensor.dtype.itemsize
        header[name] = {"dtype": SAFETENSORS[tensor.dtype.name], "shape": tensor.shape, "data_offsets": (start, end)}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # so that the values are aligned
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            _write_values(file, _values(tensor))


def _write_values(file: IO[bytes], array: np.ndarray) -> None:
    """Write an array's values in C order, without a second copy of all of them."""
    array = array.reshape(1) if array.ndim == 0 else array
    for rows in split_evenly(len(array), -(-array.nbytes // WRITE_BYTES)):
        file.write(np.ascontiguousarray(array[rows], array.dtype.newbyteorder("<")).data)


def _write_npz(path: Path, tensors: Mapping[str, np.ndarray | Tensor], text: str) -> None:
    with ZipFile(path, "w") as archive:
        for name, tensor in (tensors | {DESCRIPTION: np.array(text)}).items():  # type: ignore[operator]
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _values(tensor), allow_pickle=False)


def _values(tensor: np.ndarray | Tensor) -> np.ndarray:
    return tensor.read() if isinstance(tensor, Tensor) else tensor


def read(path: str | Path) -> tuple[dict[str, np.ndarray], Description | None]:
    """Return (tensors by name, description) of a .safetensors or .npz file; None where it has no description.

    Raises InputError where the file is missing, damaged or of another kind, or its description is wrong.
    """
    content = _open(path)
    description = described(path, content)
    return {name: tensor.read() for name, tensor in content.tensors.items()}, description


def read_description(path: str | Path) -> Description:
    """Return the description alone; raises InputError as `read` does, and where there is none."""
    description = described(path, _open(path))
    if description is None:
        raise InputError(f"{path} does not say which network it holds; convert it: python -m tinyfcn.convert")
    return description


def described(path: str | Path, content: Content) -> Description | None:
    """What a file of this package says of itself; None for others."""
    metadata = content.metadata.get("description")
    return None if metadata is None else Description.from_metadata(metadata, path)


def _open(path: str | Path) -> Content:
    content = open_weights(path)
    if content.container not in ("safetensors", "npz"):
        raise InputError(
            f"{path}: a {content.container} file; convert it first: python -m tinyfcn.convert {path} OUT.safetensors"
        )
    return content


def _flat(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], prod(shape[1:])


def check_finite(values: np.ndarray, name: str, source: str | Path) -> None:
    """Raise InputError where a parameter from `source` is not finite."""
    if not np.isfinite(values).all():
        raise InputError(f"{source}: {name} holds values that are infinite or NaN: its training must have diverged")


def fit(
    tensors: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    *,
    partial: bool,
    source: str | Path,
    replaceable: Collection[str] = (),
) -> LoadReport:
    """Decide which tensors go into parameters of these shapes; raises InputError where they do not fit.

    With `partial`, parameters may be missing, and those that are `replaceable`, since they belong to the classes, may differ.
    """
    loaded, kept = [], []
    for name, shape in shapes.items():
        found = tensors[name].shape if name in tensors else None
        if found and tensors[name].dtype.kind != "f":
            raise InputError(f"{source}: {name} has the type {tensors[name].dtype}, weights are floating-point numbers")
        if found == shape or (found and name in CLASSIFIER_WEIGHTS and _flat(found) == _flat(shape)):
            loaded.append(name)
        elif partial and (found is None or name in replaceable):
            kept.append(name)
        elif found is None:
            raise InputError(f"{source}: has no {name}: it is not a file of this network")
        else:
            raise InputError(f"{source}: {name} has shape {found}, the network's is {shape}: other width or classes?")
    if not loaded:
        first = next(iter(shapes))
        raise InputError(
            f"{source}: has none of the network's parameters, such as {first}; convert it: python -m tinyfcn.convert"
        )
    return LoadReport(loaded, kept, [name for name in tensors if name not in shapes])
