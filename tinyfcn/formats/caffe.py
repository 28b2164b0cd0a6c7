"""Caffe's .caffemodel, a NetParameter of caffe.proto, read without Caffe; see `protobuf`.

Its fields that matter, by number:

NetParameter      1 name, 2 layers (V1LayerParameter), 100 layer (LayerParameter)
LayerParameter    1 name, 2 type (text), 7 blobs
V1LayerParameter  4 name, 5 type (enum), 6 blobs; 1 layer, the still older V0LayerParameter
BlobProto         1 num, 2 channels, 3 height, 4 width; 5 data, float; 7 shape (BlobShape: 1 dim); 8 double_data

If one of num to width is there these are the shape, says blob.cpp, even of a bias: (1, 1, 1, N). Values are skipped here, and
read where they lie when asked for. Raised, beside InputError: what a damaged file makes NumPy and the decoding of text raise.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor, values_at
from tinyfcn.formats.protobuf import AXES, BYTES, VARINT, Field, Messages

TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 39: "Deconvolution"}
DATA: dict[int, np.dtype] = {5: np.dtype("<f4"), 8: np.dtype("<f8")}


def read(path: Path) -> Content:
    """List the blobs of a .caffemodel as LAYER/0, its weights, and LAYER/1, its bias.

    The metadata are the net's "name", the "types" of layers by name, as text, and their "order" in the file.
    """
    tensors: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    order: list[str] = []
    net = ""
    with open(path, "rb") as file:
        messages = Messages(file)
        for field in messages.fields(0, path.stat().st_size):
            if (field.number, field.kind) == (1, BYTES):
                net = messages.text(field)
            elif field.number in (2, 100) and field.kind == BYTES:
                name, kind, blobs = _layer(path, messages, field)
                if f"{name}/0" in tensors and blobs:
                    raise InputError(f"has two layers {name} with weights")
                if blobs or name not in types:  # layers without weights may share a name: the data of training and test
                    types[name] = kind
                order.append(name)
                tensors |= {f"{name}/{i}": blob for i, blob in enumerate(blobs)}
    if not tensors:
        raise InputError("as a .caffemodel, it has no layer with weights")
    return Content("caffemodel", tensors, {"name": net, "types": types, "order": order})


def _layer(path: Path, messages: Messages, layer: Field) -> tuple[str, str, list[Tensor]]:
    """Return (name, type, blobs) of a layer of either version."""
    old = layer.number == 2
    name, kind, blobs = "", "", []
    for field in messages.inside(layer):
        if old and field.number == 1:
            raise InputError("has layers of Caffe's oldest format, V0: run Caffe's upgrade_net_proto_binary on it")
        if field.number == (4 if old else 1) and field.kind == BYTES:
            name = messages.text(field)
        elif old and field.number == 5 and field.kind == VARINT:
            kind = TYPES.get(field.value, str(field.value))
        elif not old and field.number == 2 and field.kind == BYTES:
            kind = messages.text(field)
        elif field.number == (6 if old else 7) and field.kind == BYTES:
            blobs.append(field)
    return name, kind, [_blob(path, messages, f"{name}/{i}", blob) for i, blob in enumerate(blobs)]


def _blob(path: Path, messages: Messages, name: str, blob: Field) -> Tensor:
    legacy: dict[int, int] = {}
    dims: list[int] = []
    data: dict[int, Field] = {}
    for field in messages.inside(blob):
        if field.number in (1, 2, 3, 4) and field.kind == VARINT:
            legacy[field.number] = field.value
        elif field.number == 7 and field.kind == BYTES:
            dims += [n for dim in messages.inside(field) if dim.number == 1 for n in messages.numbers(dim, AXES)]
        elif field.number in DATA and field.end > field.start:
            if field.kind != BYTES or field.number in data:
                raise InputError(f"{name} has its values one by one or in pieces, not packed as Caffe writes them")
            data[field.number] = field
    shape = tuple(legacy.get(i, 0) for i in (1, 2, 3, 4)) if legacy else tuple(dims)
    if not data:
        raise InputError(f"{name} has no values")
    values = data[max(data)]  # double_data, if both are there
    dtype = DATA[values.number]
    if len(shape) > AXES or math.prod(shape) * dtype.itemsize != values.end - values.start:
        raise InputError(f"{name} has shape {shape} but {values.end - values.start} bytes of {dtype}")
    return Tensor(shape, dtype, partial(values_at, path, shape, dtype, values.start))
