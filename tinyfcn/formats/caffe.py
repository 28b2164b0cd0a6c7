"""Caffe's .caffemodel, a NetParameter of caffe.proto, read without Caffe or protobuf.

A protobuf message is fields: a varint, number << 3 | kind, then by kind 0 a varint, 1 eight bytes, 5 four bytes, 2 a length,
varint, and so many bytes: text, packed numbers or another message. Those that matter, by number:

NetParameter      1 name, 2 layers (V1LayerParameter), 100 layer (LayerParameter)
LayerParameter    1 name, 2 type (text), 7 blobs
V1LayerParameter  4 name, 5 type (enum), 6 blobs; 1 layer, the still older V0LayerParameter
BlobProto         1 num, 2 channels, 3 height, 4 width; 5 data, float; 7 shape (BlobShape: 1 dim); 8 double_data

If one of num to width is there these are the shape, says blob.cpp, even of a bias: (1, 1, 1, N). Values are skipped here, and
read where they lie when asked for. Raised, beside InputError: what a damaged file makes NumPy and the decoding of text raise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor, values_at

TYPES = {4: "Convolution", 6: "Dropout", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 39: "Deconvolution"}
DATA: dict[int, np.dtype] = {5: np.dtype("<f4"), 8: np.dtype("<f8")}
LONGEST = 1024  # bytes of a name
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field of a message: a number, or bytes start:end of the file."""

    number: int
    kind: int
    value: int
    start: int
    end: int


def read(path: Path) -> Content:
    """List the blobs of a .caffemodel as LAYER/0, its weights, and LAYER/1, its bias.

    The metadata are the net's "name", the "types" of layers by name, as text, and their "order" in the file.
    """
    tensors: dict[str, Tensor] = {}
    types: dict[str, str] = {}
    order: list[str] = []
    net = ""
    with open(path, "rb") as file:
        for field in _fields(file, 0, path.stat().st_size):
            if (field.number, field.kind) == (1, BYTES):
                net = _text(file, field)
            elif field.number in (2, 100) and field.kind == BYTES:
                name, kind, blobs = _layer(path, file, field)
                if f"{name}/0" in tensors and blobs:
                    raise InputError(f"has two layers {name} with weights")
                if blobs or name not in types:  # layers without weights may share a name: the data of training and test
                    types[name] = kind
                order.append(name)
                tensors |= {f"{name}/{i}": blob for i, blob in enumerate(blobs)}
    if not tensors:
        raise InputError("as a .caffemodel, it has no layer with weights")
    return Content("caffemodel", tensors, {"name": net, "types": types, "order": order})


def _layer(path: Path, file: BinaryIO, layer: Field) -> tuple[str, str, list[Tensor]]:
    """Return (name, type, blobs) of a layer of either version."""
    old = layer.number == 2
    name, kind, blobs = "", "", []
    for field in _fields(file, layer.start, layer.end):
        if old and field.number == 1:
            raise InputError("has layers of Caffe's oldest format, V0: run Caffe's upgrade_net_proto_binary on it")
        if field.number == (4 if old else 1) and field.kind == BYTES:
            name = _text(file, field)
        elif old and field.number == 5 and field.kind == VARINT:
            kind = TYPES.get(field.value, str(field.value))
        elif not old and field.number == 2 and field.kind == BYTES:
            kind = _text(file, field)
        elif field.number == (6 if old else 7) and field.kind == BYTES:
            blobs.append(field)
    return name, kind, [_blob(path, file, f"{name}/{i}", blob) for i, blob in enumerate(blobs)]


def _blob(path: Path, file: BinaryIO, name: str, blob: Field) -> Tensor:
    legacy: dict[int, int] = {}
    dims: list[int] = []
    data: dict[int, Field] = {}
    for field in _fields(file, blob.start, blob.end):
        if field.number in (1, 2, 3, 4) and field.kind == VARINT:
            legacy[field.number] = field.value
        elif field.number == 7 and field.kind == BYTES:
            dims += _dims(file, field)
        elif field.number in DATA and field.end > field.start:
            if field.kind != BYTES or field.number in data:
                raise InputError(f"{name} has its values one by one or in pieces, not packed as Caffe writes them")
            data[field.number] = field
    shape = tuple(legacy.get(i, 0) for i in (1, 2, 3, 4)) if legacy else tuple(dims)
    if not data:
        raise InputError(f"{name} has no values")
    values = data[max(data)]  # double_data, if both are there
    dtype = DATA[values.number]
    if len(shape) > 32 or math.prod(shape) * dtype.itemsize != values.end - values.start:
        raise InputError(f"{name} has shape {shape} but {values.end - values.start} bytes of {dtype}")
    return Tensor(shape, dtype, partial(values_at, path, shape, dtype, values.start))


def _dims(file: BinaryIO, shape: Field) -> list[int]:
    """Read a BlobShape, whose dim is packed by new writers and one field each by old ones."""
    dims = []
    for field in _fields(file, shape.start, shape.end):
        if (field.number, field.kind) == (1, VARINT):
            dims.append(field.value)
        elif (field.number, field.kind) == (1, BYTES):
            file.seek(field.start)
            while file.tell() < field.end:
                dims.append(_varint(file))
        if len(dims) > 32:
            raise InputError("has a blob of more than 32 dimensions")
    return dims


def _text(file: BinaryIO, field: Field) -> str:
    if field.end - field.start > LONGEST:
        raise InputError(f"damaged: a name of {field.end - field.start} bytes")
    file.seek(field.start)
    return file.read(field.end - field.start).decode("utf-8")


def _fields(file: BinaryIO, start: int, end: int) -> Iterator[Field]:
    """Walk the fields of the message that lies at start:end, passing over what they hold."""
    while start < end:
        file.seek(start)
        tag = _varint(file)
        number, kind = tag >> 3, tag & 7
        value = _varint(file) if kind in (VARINT, BYTES) else 0
        start = file.tell()
        size = {VARINT: 0, FIXED64: 8, BYTES: value, FIXED32: 4}.get(kind)
        if size is None or number == 0:
            raise InputError(f"damaged, or no .caffemodel: a field {number} of kind {kind} before byte {start}")
        if start + size > end:
            raise InputError(f"damaged: field {number} at byte {start} ends after the {end - start} bytes that are left")
        yield Field(number, kind, value, start, start + size)
        start += size


def _varint(file: BinaryIO) -> int:
    """Read a number in groups of seven bits, lowest first, at most ten."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            raise InputError("damaged: the file ends inside a number")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise InputError(f"damaged: a number longer than ten bytes before byte {file.tell()}")
