"""ONNX models, read with the onnx package: the extra tinyfcn[onnx].

A model is a graph. Its nodes name the tensors that they take and give; those that stand in the file are initializers, or come
from Constant nodes. Exporters name tensors as they please, so what counts is in which order the image meets them: "steps".

The package has the whole model in memory, and keeps it there until the last tensor was read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor

PASSED = ("Relu", "Identity", "Cast", "Dropout", "Pad", "Reshape", "Flatten", "Squeeze", "AveragePool", "GlobalAveragePool")
FIRST = ("MaxPool", "Conv", *PASSED)
TO_CHANNELS_LAST, TO_CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # transpositions


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
    Raises InputError where the onnx package is missing, or values are in another file.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise InputError('reading ONNX needs the onnx package: pip install "tinyfcn[onnx]"') from None
    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except DecodeError:
        raise InputError("not a readable file of weights, damaged: no ONNX model") from None
    tensors: dict[str, Tensor] = {}
    known: dict[str, str] = {}  # a constant that the graph names, and the tensor that it is
    for name, proto in _constants(onnx, model.graph):
        tensor = _tensor(onnx, path, name, proto)
        if tensor is not None:
            tensors[name] = tensor
            known[name] = name
    graph = _Graph(onnx, model.graph, tensors, known)
    steps: list[Step] = []
    for image in model.graph.input:  # in old models the initializers, too
        if image.name not in known and not steps:
            steps = list(graph.follow(image.name))
    if not tensors:
        raise InputError("as an ONNX model, it has no weights")
    return Content("onnx", tensors, {"steps": steps, "channels_last": graph.channels_last})


def _constants(onnx: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    yield from ((proto.name, proto) for proto in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            yield from ((node.output[0], attribute.t) for attribute in node.attribute if attribute.name == "value")


def _tensor(onnx: Any, path: Path, name: str, proto: Any) -> Tensor | None:
    """Describe a tensor; None where its numbers are no floating-point numbers: shapes and indices."""
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        other = next((entry.value for entry in proto.external_data if entry.key == "location"), "another file")
        raise InputError(
            f"{name} has its values in {other}: beside that, save both in one, onnx.save(onnx.load({path.name!r}), 'one.onnx')"
        )
    if proto.data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        if proto.data_type == onnx.TensorProto.BFLOAT16:
            raise InputError(f"{name} is bfloat16, which NumPy does not have: save it as float32")
        return None
    shape, dtype = tuple(proto.dims), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
    values = max(len(proto.float_data), len(proto.double_data), len(proto.int32_data))
    count = len(proto.raw_data) / dtype.itemsize if proto.HasField("raw_data") else values
    if min(shape, default=0) < 0 or math.prod(shape) != count:
        raise InputError(f"{name} has shape {shape}, but {count:g} values")
    return Tensor(shape, dtype, partial(onnx.numpy_helper.to_array, proto))


def _turned(tensor: Tensor, axes: list[int]) -> Tensor:
    """A tensor with its axes in another order."""
    return Tensor(tuple(tensor.shape[axis] for axis in axes), tensor.dtype, lambda: tensor.read().transpose(axes))


def _flat(tensor: Tensor) -> Tensor:
    return Tensor((math.prod(tensor.shape),), tensor.dtype, lambda: tensor.read().reshape(-1))


class _Graph:
    """The nodes by what they take, and the constants as the nodes see them."""

    def __init__(self, onnx: Any, graph: Any, tensors: dict[str, Tensor], known: dict[str, str]) -> None:
        self.onnx, self.tensors, self.known = onnx, tensors, known
        self.used: set[str] = set()  # weights: each belongs to one layer
        self.channels_last = False  # whether the image is turned before the first convolution
        self.takers: dict[str, list[Any]] = defaultdict(list)
        for node in graph.node:
            for name in node.input:
                self.takers[name].append(node)
            if node.op_type in ("Identity", "Cast", "Transpose") and node.output and node.input and node.input[0] in known:
                self._rename(node)

    def attributes(self, node: Any) -> dict[str, Any]:
        return {attribute.name: self.onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}

    def _rename(self, node: Any) -> None:
        """A constant that goes through a node before it is used: nodes stand in the order in which they are computed."""
        name = self.known[node.input[0]]
        axes = list(range(len(self.tensors[name].shape)))
        perm = self.attributes(node).get("perm", axes[::-1])
        if node.op_type == "Transpose" and sorted(perm) == axes:
            self.tensors[name] = _turned(self.tensors[name], perm)
        self.known[node.output[0]] = name

    def follow(self, name: str) -> Iterator[Step]:
        """What an image of this name meets, up to the first node that no VGG has."""
        begun, last = False, False  # whether a convolution was met; whether the map is (N, H, W, C) here
        for _ in range(sum(map(len, self.takers.values()))):
            nodes = [node for node in self.takers[name] if node.op_type != "Shape" and node.output]
            if not nodes:
                return
            node = min(nodes, key=self._rank)
            name, kind, attributes = node.output[0], node.op_type, self.attributes(node)
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

    def _rank(self, node: Any) -> tuple[int, bool]:
        """Where a map goes to several nodes, VGG goes on with the lowest: other heads convolve it with kernels of 1x1."""
        weight = self.tensors.get(self.known.get(node.input[1], "") if len(node.input) > 1 else "")
        order = FIRST.index(node.op_type) if node.op_type in FIRST else len(FIRST)
        return order, weight is None or weight.shape[2:] != (3, 3)

    def _layer(self, node: Any, attributes: dict[str, Any], last: bool) -> tuple[Step, str]:
        """A convolution or a fully connected layer, and the name of what it gives, its bias being added."""
        weight, bias = (self.known.get(name) for name in (*node.input[1:3], "", "")[:2])
        if weight is None or (bias is None and len(node.input) > 2 and node.input[2]):
            return Step(f"{node.op_type} with weights that are computed"), node.output[0]
        if weight in self.used:
            return Step(f"{node.op_type} with another layer's weights"), node.output[0]
        self.used.add(weight)
        name = node.output[0]
        if bias is None and len(self.takers[name]) == 1 and self.takers[name][0].op_type == "Add":
            add = self.takers[name][0]
            bias = next((self.known[other] for other in add.input if other in self.known), None)
            name = add.output[0] if bias is not None and add.output else name
        if bias is not None:
            self.tensors[bias] = _flat(self.tensors[bias])
        if node.op_type == "Conv":
            ones = [*attributes.get("strides", []), *attributes.get("dilations", []), attributes.get("group", 1)]
            return Step("Conv", weight, bias, usual=set(ones) == {1}), name
        factors = attributes.get("alpha", 1), attributes.get("beta", 1), attributes.get("transA", 0) + 1
        if bool(attributes.get("transB")) == last and len(self.tensors[weight].shape) == 2:
            self.tensors[weight] = _turned(self.tensors[weight], [1, 0])
        return Step("Gemm", weight, bias, usual=set(factors) == {1}, channels_last=last), name
