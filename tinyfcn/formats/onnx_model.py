"""ONNX models, .onnx, a ModelProto of onnx.proto, read without the onnx package; see `protobuf`.

A model is a graph. Its nodes name the tensors that they take and give; those that stand in the file are initializers, or come
from Constant nodes. Exporters name tensors as they please, so what counts is in which order the image meets them: "steps". The
fields that matter, by number:

ModelProto      7 graph
GraphProto      1 node, 5 initializer (TensorProto), 11 input (1 name)
NodeProto       1 input, 2 output, 4 op_type, 5 attribute
AttributeProto  1 name, 2 f, 3 i, 5 t (TensorProto), 8 ints, 20 type: 1 a float, 2 an int, 7 ints
TensorProto     1 dims, 2 data_type, 4 float_data, 5 int32_data, 8 name, 9 raw_data, 10 double_data, 13 external_data (1 key, 2
                value), 14 data_location: 1 is another file
"""

from __future__ import annotations

import math
import struct
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor, protobuf, values_at
from tinyfcn.formats.protobuf import AXES, BYTES, STEPS, Field, Messages, signed

TYPES: dict[int, tuple[np.dtype, int]] = {  # and the field where values are that are not raw
    1: (np.dtype("<f4"), 4),
    11: (np.dtype("<f8"), 10),
    10: (np.dtype("<f2"), 5),  # as whole numbers
}
BFLOAT16, RAW = 16, 9
INTS = 64  # of an attribute
PASSED = ("Relu", "Identity", "Cast", "Dropout", "Pad", "Reshape", "Flatten", "Squeeze", "AveragePool", "GlobalAveragePool")
FIRST = ("MaxPool", "Conv", *PASSED)
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # transpositions


class Node(NamedTuple):
    """A node of the graph: the names of the tensors that it takes and gives."""

    kind: str
    taken: list[str]
    given: list[str]
    attributes: dict[str, Any]


class Step(NamedTuple):
    """What an image meets on its way through the graph."""

    kind: str  # "Conv", "MaxPool", "BatchNormalization", "Gemm" (MatMul too), or the node that ends the way
    weight: str = ""
    bias: str | None = None
    usual: bool = True  # a convolution at stride 1, not dilated, in one group; pooling of 2x2 at stride 2; a plain product
    channels_last: bool = False  # a Gemm that sees its map flattened in the order H, W, C; its weight is (C_in, C_out)


def read(path: Path) -> Content:
    """List a model's floating-point tensors. Its metadata are the "steps", and whether images come "channels_last".

    The weight of a Gemm is (C_out, C_in) as in PyTorch, but (C_in, C_out) as in Keras where it sees a map as Keras flattens it.
    Raises InputError where values are in another file.
    """
    nodes: list[Node] = []
    tensors: dict[str, Tensor | None] = {}
    constants: dict[str, Tensor | None] = {}
    images: list[str] = []
    with open(path, "rb") as file:
        messages = Messages(file)
        for model in messages.fields(0, path.stat().st_size):
            for field in messages.inside(model) if (model.number, model.kind) == (7, BYTES) else ():
                if field.kind != BYTES:
                    continue
                if field.number == 1:
                    nodes.append(_node(messages, field))
                elif field.number == 5:
                    name, tensor = _tensor(path, messages, field)
                    tensors[name] = tensor
                elif field.number == 11:
                    images += [messages.text(part) for part in messages.inside(field) if (part.number, part.kind) == (1, BYTES)]
        for node in nodes:
            if node.kind == "Constant" and node.given and isinstance(value := node.attributes.get("value"), Field):
                constants[node.given[0]] = _tensor(path, messages, value)[1]
    found = {name: tensor for name, tensor in (tensors | constants).items() if tensor is not None}
    known = {name: name for name in found}  # a constant that the graph names, and the tensor that it is
    graph = _Graph(nodes, found, known)
    steps: list[Step] = []
    for image in images:  # in old models the initializers, too
        if image not in known and not steps:
            steps = list(graph.follow(image))
    if not found:
        raise InputError("as an ONNX model, it has no weights")
    return Content("onnx", found, {"steps": steps, "channels_last": graph.channels_last})


def _node(messages: Messages, node: Field) -> Node:
    kind, taken, given, attributes = "", [], [], {}
    for field in messages.inside(node):
        if field.kind != BYTES:
            continue
        if field.number == 1:
            taken.append(messages.text(field))
        elif field.number == 2:
            given.append(messages.text(field))
        elif field.number == 4:
            kind = messages.text(field)
        elif field.number == 5:
            name, value = _attribute(messages, field)
            attributes[name] = value
    return Node(kind, taken, given, attributes)


def _attribute(messages: Messages, attribute: Field) -> tuple[str, Any]:
    """Return (name, value): a number, numbers, or the field of a tensor; None for others."""
    name, kind = "", 0
    values: dict[int, Any] = {1: 0.0, 2: 0, 7: []}
    for field in messages.inside(attribute):
        match field.number, field.kind:
            case 1, protobuf.BYTES:
                name = messages.text(field)
            case 2, protobuf.FIXED32:
                values[1] = struct.unpack("<f", messages.bytes(field))[0]
            case 3, protobuf.VARINT:
                values[2] = signed(field.value)
            case 5, protobuf.BYTES:
                values[4] = field
            case 8, protobuf.VARINT | protobuf.BYTES:
                values[7] = [*values[7], *map(signed, messages.numbers(field, INTS))]
            case 20, protobuf.VARINT:
                kind = field.value
    return name, values.get(kind)


def _tensor(path: Path, messages: Messages, proto: Field) -> tuple[str, Tensor | None]:
    """Return (name, tensor); None where its numbers are no floating-point numbers: shapes and indices."""
    name, kind, elsewhere, other = "", 0, False, "another file"
    dims: list[int] = []
    data: dict[int, list[Field]] = defaultdict(list)
    for field in messages.inside(proto):
        match field.number, field.kind:
            case 1, protobuf.VARINT | protobuf.BYTES:
                dims += map(signed, messages.numbers(field, AXES))
            case 2, protobuf.VARINT:
                kind = field.value
            case 8, protobuf.BYTES:
                name = messages.text(field)
            case 13, protobuf.BYTES:
                entry = {part.number: messages.text(part) for part in messages.inside(field) if part.kind == BYTES}
                other = entry.get(2, other) if entry.get(1) == "location" else other
            case 14, protobuf.VARINT:
                elsewhere = field.value == 1
            case _:
                data[field.number].append(field)
    if elsewhere:
        raise InputError(
            f"{name} has its values in {other}: beside that, save both in one, onnx.save(onnx.load({path.name!r}), 'one.onnx')"
        )
    if kind == BFLOAT16:
        raise InputError(f"{name} is bfloat16, which NumPy does not have: save it as float32")
    if kind not in TYPES:
        return name, None
    dtype, typed = TYPES[kind]
    values = data[RAW] or data[typed]
    shape = tuple(dims)
    if len(values) > 1 or (values and values[0].kind != BYTES):
        raise InputError(f"{name} has its values one by one or in pieces, not packed as others write them")
    start, end = (values[0].start, values[0].end) if values else (0, 0)
    if dtype.itemsize == 2 and not data[RAW] and values:
        halves = np.array(messages.numbers(values[0], STEPS), np.uint16).view(dtype)
        count, read = float(len(halves)), partial(halves.reshape, shape)
    else:
        count, read = (end - start) / dtype.itemsize, partial(values_at, path, shape, dtype, start)
    if len(shape) > AXES or min(shape, default=0) < 0 or math.prod(shape) != count:
        raise InputError(f"{name} has shape {shape}, but {count:g} values")
    return name, Tensor(shape, dtype, read)


def _turned(tensor: Tensor, axes: list[int]) -> Tensor:
    """A tensor with its axes in another order."""
    return Tensor(tuple(tensor.shape[axis] for axis in axes), tensor.dtype, lambda: tensor.read().transpose(axes))


def _flat(tensor: Tensor) -> Tensor:
    return Tensor((math.prod(tensor.shape),), tensor.dtype, lambda: tensor.read().reshape(-1))


class _Graph:
    """The nodes by what they take, and the constants as the nodes see them."""

    def __init__(self, nodes: list[Node], tensors: dict[str, Tensor], known: dict[str, str]) -> None:
        self.tensors, self.known = tensors, known
        self.used: set[str] = set()  # weights: each belongs to one layer
        self.channels_last = False  # whether the image is turned before the first convolution
        self.takers: dict[str, list[Node]] = defaultdict(list)
        for node in nodes:
            for name in node.taken:
                self.takers[name].append(node)
            if node.kind in ("Identity", "Cast", "Transpose") and node.given and node.taken and node.taken[0] in known:
                self._rename(node)

    def _rename(self, node: Node) -> None:
        """A constant that goes through a node before it is used: nodes stand in the order in which they are computed."""
        name = self.known[node.taken[0]]
        axes = list(range(len(self.tensors[name].shape)))
        perm = node.attributes.get("perm", axes[::-1])
        if node.kind == "Transpose" and sorted(perm) == axes:
            self.tensors[name] = _turned(self.tensors[name], perm)
        self.known[node.given[0]] = name

    def follow(self, name: str) -> Iterator[Step]:
        """What an image of this name meets, up to the first node that no VGG has."""
        begun, last = False, False  # whether a convolution was met; whether the map is (N, H, W, C) here
        for _ in range(sum(map(len, self.takers.values()))):
            nodes = [node for node in self.takers[name] if node.kind != "Shape" and node.given]
            if not nodes:
                return
            node = min(nodes, key=self._rank)
            name, kind, attributes = node.given[0], node.kind, node.attributes
            if kind in ("Conv", "Gemm", "MatMul"):
                step, name = self._layer(node, attributes, last)
                begun = True
                yield step
            elif kind == "Transpose":
                perm = list(attributes.get("perm", []))
                last = perm == TO_CHANNELS_LAST
                self.channels_last |= not begun and perm == TO_CHANNELS_FIRST
            elif kind == "MaxPool":
                sides = attributes.get("kernel_shape"), attributes.get("strides"), attributes.get("dilations", [1, 1])
                yield Step(kind, usual=sides == ([2, 2], [2, 2], [1, 1]))
            elif kind == "BatchNormalization":
                yield Step(kind)
            elif begun and kind not in PASSED:  # before the first convolution, anything may prepare the image
                yield Step(kind)
                return

    def _rank(self, node: Node) -> tuple[int, bool]:
        """Where a map goes to several nodes, VGG goes on with the lowest: other heads convolve it with kernels of 1x1."""
        weight = self.tensors.get(self.known.get(node.taken[1], "") if len(node.taken) > 1 else "")
        order = FIRST.index(node.kind) if node.kind in FIRST else len(FIRST)
        return order, weight is None or weight.shape[2:] != (3, 3)

    def _layer(self, node: Node, attributes: dict[str, Any], last: bool) -> tuple[Step, str]:
        """A convolution or a fully connected layer, and the name of what it gives, its bias being added."""
        weight, bias = (self.known.get(name) for name in (*node.taken[1:3], "", "")[:2])
        if weight is None or (bias is None and len(node.taken) > 2 and node.taken[2]):
            return Step(f"{node.kind} with weights that are computed"), node.given[0]
        if weight in self.used:
            return Step(f"{node.kind} with another layer's weights"), node.given[0]
        self.used.add(weight)
        name = node.given[0]
        if bias is None and len(self.takers[name]) == 1 and self.takers[name][0].kind == "Add":
            add = self.takers[name][0]
            bias = next((self.known[other] for other in add.taken if other in self.known), None)
            name = add.given[0] if bias is not None and add.given else name
        if bias is not None:
            self.tensors[bias] = _flat(self.tensors[bias])
        if node.kind == "Conv":
            ones = [*attributes.get("strides", []), *attributes.get("dilations", []), attributes.get("group", 1)]
            return Step("Conv", weight, bias, usual=set(ones) == {1}), name
        factors = attributes.get("alpha", 1), attributes.get("beta", 1), attributes.get("transA", 0) + 1
        if bool(attributes.get("transB")) == last and len(self.tensors[weight].shape) == 2:
            self.tensors[weight] = _turned(self.tensors[weight], [1, 0])
        return Step("Gemm", weight, bias, usual=set(factors) == {1}, channels_last=last), name
