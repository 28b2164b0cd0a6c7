"""Where are VGG16's 13 convolutions? They are found in whatever wraps them: a prefix, another head, a model around the model.

Names differ from file to file; shapes and order do not. A trunk is a row of kernels of 3x3 that go from 3 channels to 64, to 64,
to 128 and so on, and no other published network has such a row. It is looked for in the order of the file, then in that of the
names, where conv10 comes after conv9; in an ONNX model, in the order in which the image meets the kernels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyfcn.errors import InputError
from tinyfcn.formats import Content
from tinyfcn.models.vgg import VGG

# How files end the names of a layer's weight and bias: PyTorch, this package's reading of Keras's and Caffe's files, Keras in an
# archive of arrays, Chainer and others.
ENDINGS = (
    *(("weight", "bias"), ("weights", "biases"), ("/0", "/1"), ("kernel", "bias"), ("kernel:0", "bias:0")),
    *(("_W_1:0", "_b_1:0"), ("W:0", "b:0"), ("W", "b")),
)
PLANS = {  # convolutions in each block of the published VGGs
    "VGG16": tuple(len(block.convs) for block in VGG.blocks),
    "VGG19": (2, 2, 4, 4, 4),
    "VGG13": (2, 2, 2, 2, 2),
    "VGG11": (1, 1, 2, 2, 2),
}


class Layer(NamedTuple):
    """A layer as a file has it, and what its weight and bias are called there."""

    name: str
    weight: str
    bias: str | None


class Trunk(NamedTuple):
    convs: list[Layer]  # conv1_1 to conv5_3
    channels_last: bool  # kernels are (3, 3, C_in, C_out), not (C_out, C_in, 3, 3)


def layers(content: Content, order: Iterable[str] | None = None) -> list[Layer]:
    """The layers of a file, those of an ONNX model as its graph has them: in the file's order, or that of the names given."""
    if "steps" in content.metadata:
        return [Layer(_stem(step.weight)[0], step.weight, step.bias) for step in content.metadata["steps"] if step.weight]
    found = []
    for weight in content.tensors if order is None else order:
        name, bias = _stem(weight)
        if bias is not None:
            found.append(Layer(name, weight, bias if bias in content.tensors else None))
    return found


def _stem(weight: str) -> tuple[str, str | None]:
    """The name of a weight's layer, and of the bias that belongs beside it; None where it is not called as weights are."""
    for ending, bias in ENDINGS:
        if weight.endswith(ending):
            stem = weight.removesuffix(ending)
            return stem.rstrip("./_:"), stem + bias
    return weight, None


def is_called(layer: str, name: str) -> bool:
    """Whether a layer has this name, whatever stands before or within: model.features.module.0 is features.0."""
    *before, last = re.split("[./]", layer)
    *wanted, end = re.split("[./]", name)
    rest = iter(before)
    return last == end and all(part in rest for part in wanted)


def match(found: list[Layer], wanted: dict[str, str]) -> dict[str, str]:
    """Our names of parameters to the file's, for layers (ours to theirs) of which the file has one."""
    names: dict[str, str] = {}
    for ours, theirs in wanted.items():
        called = [layer for layer in found if layer.name == theirs] or [layer for layer in found if is_called(layer.name, theirs)]
        if len(called) == 1:
            names |= parameters(ours, called[0])
    return names


def parameters(ours: str, layer: Layer) -> dict[str, str]:
    """Our names of a layer's parameters to the file's."""
    return {f"{ours}.weight": layer.weight} | ({f"{ours}.bias": layer.bias} if layer.bias is not None else {})


def find_trunk(path: Path | str, content: Content) -> Trunk | None:
    """The convolutions of the VGG16 in a file, if there is one.

    Raises InputError where it is another VGG, where there are two of VGG16 that differ, and for an ONNX model of anything else.
    """
    graph = "steps" in content.metadata
    for order in _orders(content):
        found = list(_rows(content, order))
        for plan, trunk in found:
            if (normal := _normalisation(content, order, trunk)) is not None:
                raise InputError(f"{path}: this is {plan} with batch normalisation ({normal}); VGG16 without can be used")
        trunks = [trunk for plan, trunk in found if plan == "VGG16"]
        if found and not trunks:
            plan, trunk = found[0]
            raise InputError(f"{path}: this is {plan}, of {len(trunk.convs)} convolutions; VGG16, of 13, can be used")
        if any(not _same(content, trunks[0], trunk) for trunk in trunks[1:]):
            names = " and ".join(trunk.convs[0].weight for trunk in trunks)
            raise InputError(f"{path}: has several VGG16s, which begin with {names}: save the one that you want alone")
        if trunks and not (graph and _departure(content)):
            return trunks[0]
    if graph:
        raise InputError(f"{path}: an ONNX model, but not of VGG16: {_departure(content) or 'its channels are other ones'}")
    return None


def graph_head(content: Content) -> tuple[list[Layer], bool]:
    """What stands behind pool5 in the graph of a VGG16, and whether it sees the map in the order H, W, C."""
    behind = content.metadata["steps"][len(VGG.convs) + len(VGG.blocks) - 1 :]
    if not behind or behind[0].kind != "MaxPool" or not behind[0].usual:
        return [], False
    head = list(takewhile(lambda step: step.weight and step.usual, behind[1:]))
    return [Layer(step.weight, step.weight, step.bias) for step in head], any(step.channels_last for step in head)


def _orders(content: Content) -> Iterator[list[str]]:
    names = list(content.tensors)
    if content.container != "safetensors":  # whose order is the alphabet's
        yield names
    if "steps" not in content.metadata:
        yield sorted(names, key=lambda name: re.sub(r"\d+", lambda digits: digits[0].zfill(20), name))


def _rows(content: Content, order: list[str]) -> Iterator[tuple[str, Trunk]]:
    """All rows of convolutions that are those of a VGG, with its name."""
    convs = [layer for layer in layers(content, order) if len(content.tensors[layer.weight].shape) == 4]
    for channels_last in (False, True):
        channels = [_channels(content.tensors[conv.weight].shape, channels_last) for conv in convs]
        for start in (place for place, (c_in, _) in enumerate(channels) if c_in == 3):
            for plan, convolutions in PLANS.items():
                row = slice(start, start + sum(convolutions))
                if channels[row] == _planned(convolutions, channels[row][-1][1]):
                    yield plan, Trunk(convs[row], channels_last)


def _channels(shape: tuple[int, ...], channels_last: bool) -> tuple[int, int]:
    """(C_in, C_out) of a kernel of 3x3, (0, 0) of others."""
    height, width, c_in, c_out = shape if channels_last else (*shape[2:], shape[1], shape[0])
    return (c_in, c_out) if (height, width) == (3, 3) else (0, 0)


def _planned(convolutions: tuple[int, ...], last: int) -> list[tuple[int, int]]:
    """(C_in, C_out) of a VGG's convolutions, when the last one has so many channels."""
    published = [block.convs[-1].channels for block, n in zip(VGG.blocks, convolutions, strict=True) for _ in range(n)]
    channels = [VGG.scaled(c, last / published[-1]) for c in published]
    return list(zip([3, *channels[:-1]], channels, strict=True))


def _normalisation(content: Content, order: list[str], trunk: Trunk) -> str | None:
    """The first batch normalisation of a trunk, where there is one: a scale and a shift, or a mean, beside its convolutions.

    They stand between them or, where a file puts layers of one kind together, are as many, and as long as these have channels.
    """
    if "steps" in content.metadata:
        kinds = [step.kind for step in content.metadata["steps"] if step.kind != "MaxPool"]
        return "BatchNormalization" if "BatchNormalization" in kinds[: len(trunk.convs)] else None
    scales = {layer.weight for layer in layers(content, order) if layer.bias is not None}
    vectors = [name for name in order if len(content.tensors[name].shape) == 1]
    found: dict[str, str] = {}  # by layer, the first of its vectors
    for name in vectors:
        if name in scales or re.search(r"(gamma|(running|moving)_mean)\W*\d*$", name):
            found.setdefault(re.sub("[./][^./]*$", "", name), name)
    first, last = (order.index(trunk.convs[end].weight) for end in (0, -1))
    channels = [content.tensors[conv.weight].shape[3 if trunk.channels_last else 0] for conv in trunk.convs]
    lengths = [content.tensors[name].shape[0] for name in found.values()]
    for place, name in enumerate(found.values()):
        if first < order.index(name) < last or lengths[place : place + len(channels)] == channels:
            return name
    return None


def _same(content: Content, one: Trunk, other: Trunk) -> bool:
    """Whether two trunks have the same values: a module may be registered twice, whole and in pieces."""
    names = [[name for conv in trunk.convs for name in (conv.weight, conv.bias) if name is not None] for trunk in (one, other)]
    if len(names[0]) != len(names[1]):
        return False
    return all(np.array_equal(content.tensors[a].read(), content.tensors[b].read()) for a, b in zip(*names, strict=True))


def _departure(content: Content) -> str | None:
    """Where a graph leaves VGG16's way; behind conv5_3 anything may follow."""
    planned = [name for k, block in enumerate(VGG.blocks, 1) for name in (*(conv.name for conv in block.convs), f"pool{k}")][:-1]
    steps = content.metadata["steps"][: len(planned)]
    for name, step in zip_longest(planned, steps):
        if step is None:
            return f"it ends before {name}"
        if step.kind != ("MaxPool" if name.startswith("pool") else "Conv"):
            return f"where that has {name}, it has {step.kind}"
        if step.kind == "Conv" and content.tensors[step.weight].shape[2:] != (3, 3):
            return f"its {name} is {content.tensors[step.weight].shape}"
        if not step.usual:
            return f"its {name} has another stride, dilation, window or number of groups"
    return None
