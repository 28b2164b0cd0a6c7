"""Writing an FCN as an ONNX model, which ONNX Runtime and others run without this package."""

from __future__ import annotations

import json
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import to_host
from tinyfcn.description import PREPROCESSING, Description
from tinyfcn.errors import InputError
from tinyfcn.models import FCN

OPSET = 13  # of the operators; ONNX Runtime knows it since 2021
IR_VERSION = 8


def write_onnx(net: FCN, path: Path | str, description: Description) -> None:
    """Write a network as an ONNX model: input "image" (N, 3, H, W), output "scores" (N, num_classes, H, W), for any N, H and W.

    The image is prepared as the network expects it; the model's metadata say how, at which zoom, and name the classes. Raises
    InputError where the onnx package is missing.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("writing .onnx takes the onnx package: pip install 'tinyfcn[onnx]'") from None
    graph = Graph(onnx, net)
    graph.build()
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", channels, "H", "W"])
        for name, channels in (("image", 3), ("scores", net.num_classes))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, type(net).__name__, ends[:1], ends[1:], graph.weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="tinyfcn",
    )
    metadata: dict[str, Any] = {
        "preprocessing": PREPROCESSING[net.preprocessing]._asdict(),
        "classes": description.classes or [],
        "zoom": description.zoom,
    }
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


class Graph:
    """Nodes and constants of a model in the making. A method that adds a node returns the name of its output."""

    def __init__(self, onnx: ModuleType, net: FCN) -> None:
        self.onnx, self.net = onnx, net
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def build(self) -> None:
        """The network from "image" to "scores", as in `tinyfcn.models.fcn`."""
        net, x, pools = self.net, "image", []
        for _, block, convs in net.backbone.padded(net.first_padding):
            for conv in convs:
                options: dict[str, Any] = {"pads": [conv.padding] * 4, "strides": [conv.stride] * 2, "group": conv.groups}
                x = self.node("Relu", [self.conv(conv.name, x, **options)])
            x = self.node("MaxPool", [x], kernel_shape=[block.pool] * 2, strides=[2, 2], ceil_mode=1)
            if block.norm is not None:
                options = {"bias" if name == "k" else name: value for name, value in block.norm._asdict().items()}
                x = self.node("LRN", [x], **options)
            pools.append(x)
        x = self.node("Relu", [self.conv("fc6", x, pads=[net.fc6_padding] * 4)])
        x = self.conv("score_fr", self.node("Relu", [self.conv("fc7", x)]))
        for (layer, stride), skip in zip_longest(net.upsamplings.items(), net.skips):
            x = self.upsample(layer, x, stride)
            if skip is not None:
                features = pools[net.skips[skip] - 1]
                if skip in net.skip_scales:
                    features = self.node("Mul", [features, self.constant(f"{skip}.scale", np.float32(net.skip_scales[skip]))])
                x = self.add(self.conv(skip, features), x, net.offsets[skip])
        self.crop(x, net.offsets["score"], "image", output="scores")

    def conv(self, layer: str, x: str, **options: Any) -> str:
        return self.node("Conv", [x, *(self.parameter(f"{layer}.{kind}") for kind in ("weight", "bias"))], **options)

    def upsample(self, layer: str, x: str, stride: int) -> str:
        """A learned kernel as it is; a bilinear one channel by channel, since it leaves each to itself."""
        name, groups = f"{layer}.weight", self.net.num_classes
        if name in self.net.params:
            kernel, groups = self.parameter(name), 1
        else:
            kernel = self.constant(name, np.repeat(ops.bilinear_weight(1, self.net.kernels[layer]), groups, axis=0))
        return self.node("ConvTranspose", [x, kernel], strides=[stride, stride], group=groups)

    def add(self, skip: str, up: str, offset: int) -> str:
        """The sum on the part that both cover, see `FCN.align`."""
        if offset >= 0:
            return self.node("Add", [self.crop(skip, offset, up), up])
        return self.node("Add", [skip, self.crop(up, -offset, skip)])

    def crop(self, x: str, offset: int, like: str, output: str | None = None) -> str:
        """The rows and columns of x from `offset` on, as many as `like` has."""
        start = self.constant(f"offset_{offset}", np.array([offset, offset]))
        size = self.node("Slice", [self.node("Shape", [like]), *(self.constant(f"axis_{k}", np.array([k])) for k in (2, 4))])
        end = self.node("Add", [start, size])
        return self.node("Slice", [x, start, end, self.constant("axes", np.array([2, 3]))], output)

    def node(self, kind: str, inputs: list[str], output: str | None = None, **options: Any) -> str:
        output = output or f"{kind}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **options))
        return output

    def parameter(self, name: str) -> str:
        return self.constant(name, to_host(self.net.params[name]).astype(np.float32, copy=False))

    def constant(self, name: str, value: np.ndarray | np.generic) -> str:
        if all(weight.name != name for weight in self.weights):
            self.weights.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name
