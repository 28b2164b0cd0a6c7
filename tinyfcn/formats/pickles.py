"""Files of torch.save, .pth or .pt, read without PyTorch. Layouts: torch/serialization.py.

zip     ROOT/data.pkl, a pickle; ROOT/data/KEY, one storage's bytes, not compressed; ROOT/byteorder, "little" or missing
legacy  five pickles: a magic number, 1001, {"little_endian": True, ...}, the object, [KEY, ...]; then for each key the storage's
        number of elements, int64, and the elements. torch.save wrote so before 1.6

`unpickle` reads the pickles. Tensors are views of storages: that they lie inside them, and these in the file, is checked here.
"""

from __future__ import annotations

import math
import struct
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor
from tinyfcn.formats.unpickle import Parameter, Pickle, Storage, View, counts, unpickle

LONGEST = 1 << 24  # bytes of a pickle; VGG's has 5000
WRAPPERS = ("model_state_dict", "state_dict", "model")  # where training scripts put the state dict, beside others
PARTS, DEPTH, LONGEST_NAME = 1000, 8, 1024  # of dicts in dicts, and of their keys, where tensors are looked for


def read_zip(path: Path) -> Content:
    """List a file of torch.save since 1.6; raises InputError where an entry is missing, compressed or of another size."""
    places = _entries(path)
    pickled = [name for name in places if name.endswith("/data.pkl")]
    if len(pickled) != 1:
        raise InputError(f"has {len(pickled)} pickles, {' and '.join(pickled[:2])}: one is expected")
    root = pickled[0].removesuffix("data.pkl")
    if f"{root}byteorder" in places and _bytes(path, *places[f"{root}byteorder"]) != b"little":
        raise InputError("its byte order is not little: save it on a little-endian machine")
    storages: dict[str, Storage] = {}
    found = unpickle(Pickle(_bytes(path, *places[pickled[0]])), storages)
    starts = {}
    for key, storage in storages.items():
        starts[key], size = places.get(f"{root}data/{key}", (0, None))
        if size is None:
            raise InputError(f"has no {root}data/{key}, a storage that its pickle asks for")
        if size != storage.whole * storage.dtype.itemsize:
            raise InputError(f"{root}data/{key} has {size} bytes, expected {storage.whole} elements of {storage.dtype}")
    return _content(path, found, starts)


def _entries(path: Path) -> dict[str, tuple[int, int]]:
    """Return (start, size) of each entry's bytes, which are in the file, as they are, and no other entry's."""
    places: dict[str, tuple[int, int]] = {}
    free = 0
    with ZipFile(path) as archive, open(path, "rb") as file:
        for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
            if info.compress_type != ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
                raise InputError(f"{info.filename} is compressed or encrypted, which torch.save does not do: save it again")
            if info.filename in places:
                raise InputError(f"{info.filename} is there twice")
            file.seek(info.header_offset)
            mark, *_, name, extra = struct.unpack("<4s22x2H", file.read(30))
            start = info.header_offset + 30 + name + extra
            if mark != b"PK\3\4" or info.header_offset < free or start + info.file_size > path.stat().st_size:
                raise InputError(f"{info.filename} lies over another entry or outside the file")
            places[info.filename] = start, info.file_size
            free = start + info.file_size
    return places


def _bytes(path: Path, start: int, size: int) -> bytes:
    if size > LONGEST:
        raise InputError(f"its pickle has {size} bytes, more than {LONGEST}: refused")
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def read_legacy(path: Path) -> Content:
    """List a file of torch.save before 1.6; raises InputError where a storage is missing or lies outside the file."""
    end = path.stat().st_size
    stream = Pickle(_bytes(path, 0, min(end, LONGEST)))
    storages: dict[str, Storage] = {}
    _, version, system, found, keys = (unpickle(stream, storages) for _ in range(5))
    if version != 1001:
        raise InputError("its version is not 1001")
    if type(system) is not dict or system.get("little_endian") is not True:
        raise InputError("its byte order is not little: save it on a little-endian machine")
    starts = {}
    position = stream.tell()
    for key in keys:
        if type(key) is not str or key not in storages or key in starts:
            raise InputError(f"has a storage {key if type(key) is str else '?'}, which its pickle does not have, or has twice")
        size = int.from_bytes(_bytes(path, position, 8), "little", signed=True)
        starts[key] = position + 8
        position += 8 + size * storages[key].dtype.itemsize
        if size != storages[key].whole or position > end:
            raise InputError(f"storage {key} has {size} elements, expected {storages[key].whole} and them inside the file")
    if len(starts) < len(storages):
        raise InputError(f"has no storage {next(iter(storages.keys() - starts))}, which its pickle asks for")
    return _content(path, found, starts)


def _content(path: Path, found: Any, starts: dict[str, int]) -> Content:
    """List the tensors of what was pickled; `starts` are the storages' positions in the file.

    Of several dicts of tensors those count that are in one with a usual name. If there are still several, a tensor's name begins
    with its dict's, and the metadata's "dicts" are these beginnings.
    """
    dicts = _dicts(found)
    for key in WRAPPERS:
        dicts = {place: views for place, views in dicts.items() if key in place} or dicts
    if not dicts:
        raise InputError("holds no tensors by name: save model.state_dict()")
    tensors = {}
    beginnings = ["".join(f"{key}." for key in place) if len(dicts) > 1 else "" for place in dicts]
    for beginning, views in zip(beginnings, dicts.values(), strict=True):
        for name, view in views.items():
            if f"{beginning}{name}" in tensors:
                raise InputError(f"{beginning}{name} is there twice")
            tensors[f"{beginning}{name}"] = _tensor(path, name, view, starts)
    return Content("pth", tensors, {"dicts": beginnings})


def _dicts(found: Any) -> dict[tuple[str, ...], dict[str, View]]:
    """All dicts of tensors in what was pickled, by the keys that lead there.

    What has no axes is a count or a score and makes no dict of tensors. An optimiser's state has numbers for keys.
    """
    dicts: dict[tuple[str, ...], dict[str, View]] = {}
    parts: list[tuple[tuple[str, ...], dict[Any, Any]]] = [((), found)] if type(found) is dict else []
    for place, part in parts:  # which grows
        if len(parts) > PARTS or len(place) > DEPTH:
            raise InputError(f"has more than {PARTS} dicts, or deeper ones than {DEPTH}, where a state dict is expected: refused")
        named = {name: value for name, value in part.items() if type(name) is str and len(name) <= LONGEST_NAME}
        values = {name: value.data if isinstance(value, Parameter) else value for name, value in named.items()}
        views = {name: value for name, value in values.items() if isinstance(value, View)}
        if any(view.size != () for view in views.values()):
            dicts[place] = views
        parts += [((*place, name), value) for name, value in named.items() if type(value) is dict]
    return dicts


def _tensor(path: Path, name: str, view: View, starts: dict[str, int]) -> Tensor:
    storage, offset, shape, stride = view
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
        raise InputError(f"{name} is not a tensor of a storage, an offset, sizes and as many strides")
    if len(shape) > 32 or not counts(offset, *shape, *stride):
        raise InputError(f"{name} has an offset, size or stride that is no number of elements")
    count = math.prod(shape)
    stride = tuple(s if n > 1 else 0 for n, s in zip(shape, stride, strict=True))  # where n is 1, it may be anything
    span = 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if count else 0
    if offset + span > storage.size or count > storage.size:  # the latter repeats elements: as large as it likes
        raise InputError(
            f"{name}, {shape} with strides {stride} at {offset}, lies outside its storage of {storage.size} elements"
        )
    start = starts[storage.key] + (storage.start + offset) * storage.dtype.itemsize
    return Tensor(shape, storage.dtype, partial(_read, path, storage.dtype, start, span, shape, stride))


def _read(path: Path, dtype: np.dtype, start: int, span: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> np.ndarray:
    values = np.fromfile(path, dtype, span, offset=start)
    view = np.ndarray(shape, dtype, values, strides=tuple(s * dtype.itemsize for s in stride))  # checks that it lies in values
    return np.asarray(view, order="C")
