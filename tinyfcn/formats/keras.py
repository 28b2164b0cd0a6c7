"""Keras' HDF5 files, read with h5py: the extra tinyfcn[keras]. Kernels stay as they are in the file, (k, k, C_in, C_out).

legacy       .h5 of Keras 1 and 2, keras/legacy/saving/legacy_h5_format.py: attribute layer_names, in the root or in
             /model_weights, names a group per layer, whose attribute weight_names names its datasets. A long list is cut into
             layer_names0, layer_names1, ...
.weights.h5  of Keras 2.13 and 3, keras/saving/saving_lib.py: /layers/LAYER/vars/0, 1, ... LAYER is the class and a number in the
             model's order, conv2d, conv2d_1, ..., until an attribute "name" gives the layer's own. In 2.13 "layers" is
             "_layer_checkpoint_dependencies", under Windows with a backslash behind it.

The HDF5 library, in C, parses the bytes; a file that was damaged on purpose can make it run on without end.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import DEFLATE, Content, Tensor

LAYERS = ("layers", "_layer_checkpoint_dependencies")


def read(path: Path) -> Content:
    """List a file's arrays as LAYER/0, the kernel, and LAYER/1, the bias; raises InputError where h5py is not installed."""
    tensors: dict[str, Tensor] = {}
    with _h5py(path) as file:
        for layer, places in _legacy(file) or _numbered(file):
            for i, place in enumerate(places):
                name = f"{layer}/{i}"
                if name in tensors:
                    raise InputError(f"{name} is there twice")
                tensors[name] = _tensor(path, file, name, place)
    if not tensors:
        raise InputError("an HDF5 file, but none of Keras: no layer_names and no /layers/LAYER/vars")
    return Content("h5", tensors, {})


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError('reading HDF5 needs h5py: pip install "tinyfcn[keras]"') from None
    return h5py.File(path, "r")


def _legacy(file: Any) -> list[tuple[str, list[str]]]:
    """Return (layer, paths of its datasets) in order, or nothing where there are no layer_names."""
    nested = "model_weights" in file and "layer_names" not in file.attrs  # beside a whole model
    root = "model_weights" if nested else ""
    found = []
    top = _child(file, root)
    for layer in _listed(top, "layer_names"):
        group = _child(top, layer)
        found.append((layer, [f"{root}/{layer}/{name}" for name in _listed(group, "weight_names")]))
    return found


def _numbered(file: Any) -> list[tuple[str, list[str]]]:
    found = []
    for layer, place in sorted(_groups(file), key=lambda found: _numeric(found[0])):
        group = _child(file, place)
        if "vars" not in group:
            continue
        variables = _child(group, "vars")
        name = variables.attrs.get("name", group.attrs.get("name", layer))
        found.append((_text(name), [f"{place}/vars/{key}" for key in sorted(variables.keys(), key=_numeric)]))
    return found


def _groups(file: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, path) of the layers' groups."""
    for key in file:
        top, _, layer = key.partition("\\")
        if top in LAYERS and layer:
            yield layer, key
        elif top in LAYERS:
            yield from ((layer, f"{key}/{layer}") for layer in _child(file, key).keys())  # noqa: SIM118


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


def _tensor(path: Path, file: Any, name: str, place: str) -> Tensor:
    """Describe a dataset, when it is of floating-point numbers that lie in this file."""
    import h5py

    data = _child(file, place)
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise InputError(f"{name} ({place}) is not an array in this file: refused")
    if data.dtype.kind != "f" or _text(data.attrs.get("dtype", "")) == "bfloat16":
        raise InputError(f"{name} ({place}) is {data.attrs.get('dtype', data.dtype)}, expected floating-point numbers")
    stored = data.id.get_storage_size()
    if data.shape is None or stored > path.stat().st_size or data.nbytes > stored * (1 if data.chunks is None else DEFLATE):
        raise InputError(f"{name} ({place}) has shape {data.shape}, but {stored} bytes in the file")
    return Tensor(data.shape, data.dtype, partial(_read, path, place))


def _read(path: Path, place: str) -> np.ndarray:
    with _h5py(path) as file:
        return np.asarray(_child(file, place)[()])
