"""Keras' HDF5 files, read with h5py: the extra tinyfcn[keras]. Kernels stay as they are in the file, (k, k, C_in, C_out).

legacy       .h5 of Keras 1 and 2, keras/legacy/saving/legacy_h5_format.py: attribute layer_names, in the root or in
             /model_weights, names a group per layer, whose attribute weight_names names its datasets. A long list is cut into
             layer_names0, layer_names1, ...
.weights.h5  of Keras 2.13 and 3, keras/saving/saving_lib.py: /layers/LAYER/vars/0, 1, ... LAYER is the class and a number in the
             model's order, conv2d, conv2d_1, ..., until an attribute "name" gives the layer's own. In 2.13 "layers" is
             "_layer_checkpoint_dependencies", under Windows with a backslash behind it.
.keras       a zip archive with such a file, model.weights.h5.

A model may be a layer of another one. In a legacy file, its group then has the datasets of all its layers, and their names begin
with these layers'; in the newer ones, its group has layers of its own. Either way they are listed as MODEL/LAYER.

The HDF5 library, in C, parses the bytes; a file that was damaged on purpose can make it run on without end. So h5py is used in
a process of its own, see `apart`.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count, takewhile
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from tinyfcn.errors import InputError
from tinyfcn.formats import Content
from tinyfcn.formats.apart import Found, Reader, read_apart

LAYERS = ("layers", "_layer_checkpoint_dependencies")
ARCHIVED = "model.weights.h5"  # in a .keras archive


def read(path: Path) -> Content:
    """List the arrays of a file as LAYER/0, the kernel, and LAYER/1, the bias; raises InputError where h5py is not installed."""
    return _content(path, find)


def read_archive(path: Path) -> Content:
    """List the arrays of a .keras archive, which keeps its weights as they are: raises InputError where they are compressed."""
    return _content(path, find_archived)


def _content(path: Path, reader: Reader) -> Content:
    if find_spec("h5py") is None:
        raise InputError('reading HDF5 needs h5py: pip install "tinyfcn[keras]"')
    tensors = read_apart(reader, path)
    if not tensors:
        raise InputError("an HDF5 file, but none of Keras: no layer_names and no /layers/LAYER/vars")
    return Content("h5", tensors, {})


def find(path: Path) -> Iterator[Found]:
    """The arrays of an HDF5 file, for `read_apart`."""
    import h5py

    size = path.stat().st_size
    with h5py.File(path, "r") as file:
        yield from _arrays(file, 0, size)


def find_archived(path: Path) -> Iterator[Found]:
    """The arrays of the HDF5 file in an archive."""
    import h5py

    with ZipFile(path) as archive, open(path, "rb") as file:
        info = archive.getinfo(ARCHIVED)
        if info.compress_type != ZIP_STORED or info.flag_bits & 1:
            raise InputError(f"a .keras archive that is compressed: unzip it and give its {ARCHIVED}")
        file.seek(info.header_offset)
        name, extra = struct.unpack("<26x2H", file.read(30))
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > path.stat().st_size:
        raise InputError(f"{ARCHIVED} lies outside the file")
    with _Window(path, start, info.file_size) as window, h5py.File(window, "r") as inside:
        yield from _arrays(inside, start, info.file_size)


def _arrays(file: Any, start: int, size: int) -> Iterator[Found]:
    """The arrays of an open file, which lies at `start` in another one and has so many bytes."""
    names = set()
    for layer, places in _legacy(file) or _numbered(file):
        for i, place in enumerate(places):
            name = f"{layer}/{i}"
            if name in names:
                raise InputError(f"{name} is there twice")
            names.add(name)
            yield from _array(file, start, size, name, place)


class _Window(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = open(path, "rb")  # noqa: SIM115
        self._start, self._size = start, size
        self._at = 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        left = max(0, min(len(buffer), self._size - self._at))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(memoryview(buffer)[:left])
        self._at += read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


def _legacy(file: Any) -> list[tuple[str, list[str]]]:
    """Return (layer, paths of its datasets) in order, or nothing where there are no layer_names."""
    nested = "model_weights" in file and "layer_names" not in file.attrs  # beside a whole model
    root = "model_weights" if nested else ""
    found = []
    top = _child(file, root)
    for layer in _listed(top, "layer_names"):
        names = _listed(_child(top, layer), "weight_names")
        parts: dict[str, list[str]] = {}  # the layers of a model that is a layer: its datasets may be in another order
        for name in names:
            parts.setdefault(_inner(name), []).append(f"{root}/{layer}/{name}")
        found += [(layer if len(parts) == 1 else f"{layer}/{part}", places) for part, places in parts.items()]
    return found


def _inner(name: str) -> str:
    """The layer whose weight or bias has this name: block1_conv1 of block1_conv1/kernel:0, and of block1_conv1_W_1:0."""
    found = re.match(r"(.*)/|(.*?)_(?:W|b|gamma|beta|(?:running|moving)_[a-z]+)(?:_\d+)?(?::0)?$", name)
    return found[1] or found[2] if found else ""


def _numbered(group: Any, place: str = "", model: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield (layer, paths of its datasets) in order, those of models that are layers with their names before."""
    import h5py

    for key in sorted(group, key=_numeric):
        if not place and key == "optimizer":
            continue
        child = _child(group, key)
        if not isinstance(child, h5py.Group) or key == "vars":
            continue
        layer = "/".join(part for part in key.split("\\") if part not in LAYERS)
        if "vars" in child:
            variables = _child(child, "vars")
            layer = _text(variables.attrs.get("name", child.attrs.get("name", layer)))
            places = [f"{place}{key}/vars/{number}" for number in sorted(variables, key=_numeric)]
            yield "/".join(filter(None, (model, layer))), places
        yield from _numbered(child, f"{place}{key}/", "/".join(filter(None, (model, layer))))


def _numeric(name: str) -> tuple[str, int]:
    """Order conv2d, conv2d_1, conv2d_2, conv2d_10; and 0, 1, 2, 10."""
    stem = name.rstrip("0123456789")
    return stem.removesuffix("_"), int(name[len(stem) :] or 0)


def _listed(group: Any, name: str) -> list[str]:
    parts = takewhile(lambda part: part in group.attrs, (f"{name}{i}" for i in count()))
    return [_text(value) for part in ([name] if name in group.attrs else parts) for value in group.attrs[part]]


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _child(group: Any, place: str) -> Any:
    """Return what lies at a path, following no link: they can lead to other files."""
    import h5py

    for part in filter(None, place.split("/")):
        if not isinstance(group, h5py.Group) or part not in group:
            raise InputError(f"has no {place}: {part} is missing")
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise InputError(f"{group.name.rstrip('/')}/{part} is a link, perhaps to another file: refused")
        group = group[part]
    return group


def _array(file: Any, start: int, size: int, name: str, place: str) -> Iterator[Found]:
    """A dataset of floating-point numbers that lie in this file; nothing for whole numbers: counts and seeds."""
    import h5py

    data = _child(file, place)
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise InputError(f"{name} ({place}) is not an array in this file: refused")
    if data.dtype.kind in "iu":
        return
    if data.dtype.kind != "f" or _text(data.attrs.get("dtype", "")) == "bfloat16":
        raise InputError(f"{name} ({place}) is {data.attrs.get('dtype', data.dtype)}, expected floating-point numbers")
    stored = data.id.get_storage_size()
    if data.shape is None or stored > size or (stored < data.nbytes if data.chunks is None else stored == 0 < data.nbytes):
        raise InputError(f"{name} ({place}) has shape {data.shape}, but {stored} bytes in the file")
    offset = data.id.get_offset()
    yield Found(name, data.shape, data.dtype, None if offset is None else start + offset, lambda: data[()])
