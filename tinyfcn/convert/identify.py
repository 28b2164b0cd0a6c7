"""Whose network is in a file? Names and shapes of the published VGG16s, AlexNets and FCNs, and how they become this package's.

VGG16's convolutions are found by their shapes, see `tinyfcn.convert.trunk`; what their publisher calls them tells which fully
connected layers belong to them. An AlexNet belongs to the scheme of names, and an FCN to the class, all of whose names a file
has, if it has no others and all shapes fit. File names say nothing here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyfcn.convert.schemes import FC, SCHEMES, Scheme, called_by, names_of, preprocessing, takes_rgb
from tinyfcn.convert.trunk import Trunk, find_trunk, graph_head, layers, match, parameters
from tinyfcn.data import VOC_CLASSES
from tinyfcn.description import PREPROCESSING, Description
from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor, open_weights
from tinyfcn.models import CLASSIFIERS, FCN_CLASSES, VGG16, FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sCaffeNet
from tinyfcn.models.classifier import Classifier
from tinyfcn.models.network import layer_of
from tinyfcn.models.parts import FCN
from tinyfcn.ops.upsample import is_bilinear
from tinyfcn.weights import described


class Source(NamedTuple):
    """A network that was recognised in a file."""

    title: str
    model: str  # the name of its class here
    tensors: dict[str, Tensor]  # under the names that files of this package give; fully connected layers as convolutions
    description: Description  # to build it again; its preprocessing is None where the file cannot tell
    own: bool = False  # whether this package wrote the file
    unused: tuple[str, ...] = ()  # tensors of the file that no network of this package has: of another head, say


Shape = tuple[int, ...]


def identify(path: Path | str) -> Source:
    """Find out which network a file of weights holds.

    Raises InputError where the file cannot be read, is of no network that is known here, or of one of another shape.
    """
    content = open_weights(path)
    if (description := described(path, content)) is not None:
        return _own(path, content, description)
    dicts = content.metadata.get("dicts", [""])
    if len(dicts) > 1:
        return _one_of(path, content, dicts)
    found = _foreign(path, content)
    if found is not None:
        return found
    names = ", ".join(f"{name} {tensor.shape}" for name, tensor in list(content.tensors.items())[:3])
    raise InputError(
        f"{path}: not a network that is known here (VGG16, AlexNet, CaffeNet, or an FCN on one of them): "
        f"its {len(content.tensors)} tensors begin with {names or 'none'}"
    )


def _one_of(path: Path | str, content: Content, dicts: list[str]) -> Source:
    """The network of a checkpoint with several dicts of tensors, when only one of them is a network's."""
    found: dict[str, Source] = {}
    wrong: list[InputError] = []
    for place in dicts:
        tensors = {name.removeprefix(place): t for name, t in content.tensors.items() if name.startswith(place)}
        try:
            source = _foreign(path, content._replace(tensors=tensors))
        except InputError as error:
            wrong.append(error)
        else:
            found |= {place: source} if source else {}
    if len(found) == 1:
        ((place, source),) = found.items()
        others = tuple(name for name in content.tensors if not name.startswith(place))
        return source._replace(unused=(*(f"{place}{name}" for name in source.unused), *others))
    keys = ", ".join(place.rstrip(".") or "itself" for place in dicts)
    how = f"of which {len(found)} are networks that are known here: save the state dict of one alone"
    raise wrong[0] if wrong and not found else InputError(f"{path}: has several dicts of tensors, {keys}, {how}")


def _foreign(path: Path | str, content: Content) -> Source | None:
    """The network in a file of somebody else's. An FCN is also a VGG16 with another head, so FCNs come first."""
    for kind in FCN32sCaffeNet, FCN8s, FCN16s, FCN32s:
        if (found := _fcn(path, content, kind)) is not None:
            return found
    return _vgg16(path, content) or _by_names(path, content)


def _own(path: Path | str, content: Content, about: Description) -> Source:
    """A file that this package wrote, without an optimiser's state. Its tensors must be those of the network that it names."""
    kinds: dict[str, type[FCN | Classifier]] = {**CLASSIFIERS, **FCN_CLASSES}
    kind = kinds.get(about.model)
    if kind is None:
        raise InputError(f"{path}: holds {about.model!r}, which is no network of this package ({', '.join(kinds)})")
    if issubclass(kind, FCN):
        if about.padding is None:
            raise InputError(f"{path}: has no padding, which belongs to the {kind.__name__} that it describes")
        if other := [skip for skip in about.scales or () if skip not in kind.skips]:
            raise InputError(f"{path}: scales names {other[0]!r}, which is no skip of {kind.__name__}")
    shapes = kind.shapes(about.num_classes, about.width, about.hidden)
    tensors = {name: tensor for name, tensor in content.tensors.items() if not name.startswith("optimiser.")}
    missing = [name for name in shapes if name not in tensors and layer_of(name) not in kind.upsamplings]  # those are bilinear
    partly = issubclass(kind, Classifier) and all(layer_of(name) in FC for name in missing)  # a trunk alone
    for name, tensor in tensors.items():
        if prod(tensor.shape) != prod(shapes.get(name, ())) or tensor.dtype.kind != "f":
            raise InputError(
                f"{path}: {name}, {tensor.dtype} {tensor.shape}, does not belong to the {kind.__name__} that it describes"
            )
    if missing and not partly:
        raise InputError(f"{path}: has no {missing[0]}, which belongs to the {kind.__name__} that it describes")
    return Source(f"{kind.__name__} of this package", kind.__name__, tensors, about, own=True)


def settle_preprocessing(path: Path | str, source: Source, given: str | None) -> str:
    """How images are prepared, by what a file says and what a user says; raises InputError where neither does, or they differ.

    What a foreign file's names suggest, a user may know better: somebody may have trained on under the same names.
    """
    stated = source.description.preprocessing
    if given and not (source.own and stated):
        return given
    if stated is None:
        raise InputError(
            f"{path} does not say how its images are prepared; add --preprocessing {' or '.join(PREPROCESSING)} "
            "(torchvision: its own weights; caffe: copies of Caffe's; vgg: Keras)"
        )
    if given not in (None, stated):
        raise InputError(f"{path} takes images prepared as for {stated}; --preprocessing {given} does not fit it")
    return stated


def _vgg16(path: Path | str, content: Content) -> Source | None:
    """VGG16's convolutions and, where they fit, its fully connected layers; any other head is left out."""
    trunk = find_trunk(path, content)
    if trunk is None:
        return None
    names: dict[str, str] = {}
    for conv, layer in zip(names_of("VGG16"), trunk.convs, strict=True):
        names |= parameters(conv, layer)
    scheme, head, head_last = _head(content, trunk)
    channels_last = [*(names if trunk.channels_last else ()), *(head if head_last else ())]
    names |= head
    tensors, description = _fit(path, content, names, VGG16, channels_last)
    title = "VGG16" if head else f"VGG16's {len(trunk.convs)} convolutions"
    found = "in its graph" if "steps" in content.metadata else "by their shapes and order"
    title += f", layers named as by {scheme.publisher}" if scheme else f", found {found}"
    how = preprocessing(content, scheme, tensors["conv1_1.bias"].read(), trunk.channels_last)
    description = replace(description, preprocessing=how)
    first = tensors["conv1_1.weight"]
    if how in ("caffe", "vgg") and takes_rgb(scheme, first.read()):
        tensors["conv1_1.weight"] = first._replace(read=lambda: first.read()[:, ::-1])
        title += ", conv1_1 turned from RGB to BGR"
    used = set(names.values())
    return Source(title, "VGG16", tensors, description, unused=tuple(name for name in content.tensors if name not in used))


def _head(content: Content, trunk: Trunk) -> tuple[Scheme | None, dict[str, str], bool]:
    """Whose names a trunk has, its fully connected layers if they have VGG16's shapes, and whether they are in Keras's order."""
    schemes = [scheme for scheme in SCHEMES if called_by(scheme, trunk)]
    if "steps" in content.metadata:  # the graph knows better than names do
        behind, channels_last = graph_head(content)
        names = {k: v for ours, layer in zip(FC, behind, strict=False) for k, v in parameters(ours, layer).items()}
        return (schemes[0] if schemes else None), _fitting(content, names, trunk, channels_last), channels_last
    heads = [match(layers(content), dict(zip(FC, scheme.fully_connected, strict=True))) for scheme in schemes]
    found = [(scheme, _fitting(content, head, trunk)) for scheme, head in zip(schemes, heads, strict=True)]
    return (*max(found, key=lambda pair: len(pair[1]), default=(None, {})), trunk.channels_last)


def _fitting(content: Content, names: dict[str, str], trunk: Trunk, channels_last: bool | None = None) -> dict[str, str]:
    """Of these parameters those of fc6 and fc7, and of fc8 beside them, if they have the shapes; {} for a foreign head."""
    channels_last = trunk.channels_last if channels_last is None else channels_last
    there = {ours: content.tensors[theirs].shape for ours, theirs in names.items()}
    channels = content.tensors[trunk.convs[-1].weight].shape[3 if trunk.channels_last else 0]
    hidden, classes = (prod(there.get(f"{layer}.bias", (0,))) for layer in ("fc7", "fc8"))
    shapes = VGG16.shapes(classes, channels / VGG16.backbone.convs[-1].channels, hidden)
    good = {ours for ours, shape in there.items() if shape in _shapes_there(shapes[ours], channels_last)}
    whole = [layer for layer in FC if {f"{layer}.weight", f"{layer}.bias"} <= good]
    return {ours: theirs for ours, theirs in names.items() if layer_of(ours) in whole} if whole[:2] == ["fc6", "fc7"] else {}


def _by_names(path: Path | str, content: Content) -> Source | None:
    """An AlexNet, by the scheme that explains most names: its fully connected layers may be missing."""
    matches = []
    for scheme in SCHEMES:
        convs = names_of(scheme.model)
        theirs = dict(zip(convs, scheme.convs, strict=True))
        if scheme.model != "VGG16":
            theirs |= dict(zip(FC, scheme.fully_connected, strict=True))
        matches.append((_match(content, theirs, required=convs), scheme))
    names, scheme = max(matches, key=lambda match: len(match[0]))
    if not names:
        return None
    kind = CLASSIFIERS[scheme.model]
    if scheme.model == "VGG16":  # which would have been found by its shapes: say which of them is wrong
        _fit(path, content, names, kind)
        return None
    _refuse_others(path, content, names.values(), kind)
    order = content.metadata.get("order", [])
    norm_first = {"norm1", "pool1"} <= set(order) and order.index("norm1") < order.index("pool1")
    if scheme.model == "CaffeNet" and (norm_first or content.metadata.get("name") == "AlexNet"):
        raise InputError(f"{path}: Caffe's AlexNet normalises before it pools; CaffeNet (bvlc_reference_caffenet) can be used")
    tensors, description = _fit(path, content, names, kind)
    description = replace(description, preprocessing=scheme.preprocessing)
    return Source(f"{scheme.model}, layers named as by {scheme.publisher}", scheme.model, tensors, description)


def _fcn(path: Path | str, content: Content, kind: type[FCN]) -> Source | None:
    """A finished FCN: one of the authors' .caffemodel files, or of their copies for PyTorch, whose names are the same."""
    called = [*(conv.name for conv in kind.backbone.convs), "fc6", "fc7", "score_fr", *kind.skips, *kind.upsamplings]
    names = _match(content, {layer: layer for layer in called}, required=called)
    if not names:
        return None
    scales = {skip: name for skip in kind.skips if (name := f"{skip.replace('score', 'scale')}/0") in content.tensors}
    _refuse_others(path, content, [*names.values(), *scales.values()], kind)
    if scales:
        kind = FCN8sAtOnce
        for skip, name in scales.items():
            if not np.allclose(content.tensors[name].read(), kind.published_scales[skip], rtol=1e-6):
                raise InputError(f"{path}: {name} is not {kind.published_scales[skip]}, as it is in FCN-8s trained at once")
    tensors, description = _fit(path, content, names, kind)
    learned = [layer for layer in kind.upsamplings if not is_bilinear(tensors[f"{layer}.weight"].read())]
    learn = "none" if not learned else "all" if list(kind.upsamplings)[-1] in learned else "skip"
    classes = VOC_CLASSES if description.num_classes == len(VOC_CLASSES) else None
    description = replace(description, preprocessing="caffe", padding="paper", learn_upsampling=learn, classes=classes)
    return Source(f"{kind.__name__}, layers named as by its authors", kind.__name__, tensors, description)


def _match(content: Content, wanted: dict[str, str], required: Iterable[str]) -> dict[str, str]:
    """Our names of parameters to the file's, for layers (ours to theirs) that the file has; {} if it lacks a required one."""
    names = match(layers(content), wanted)
    return names if all(f"{layer}.weight" in names for layer in required) else {}


def _refuse_others(path: Path | str, content: Content, known: Iterable[str], kind: type) -> None:
    """A network with more layers is another one, such as VGG19."""
    others = sorted(content.tensors.keys() - set(known))
    if others:
        raise InputError(f"{path}: has {others[0]}, which is not part of {kind.__name__}: is it another network?")


def _fit(
    path: Path | str, content: Content, names: dict[str, str], kind: type[FCN | Classifier], channels_last: Container[str] = ()
) -> tuple[dict[str, Tensor], Description]:
    """The file's tensors as this package has them, and a description of the network, whose sizes the biases tell.

    Those in `channels_last` have their axes in Keras's order.
    """
    for weight in names:
        bias = weight.replace(".weight", ".bias")
        if bias not in names and layer_of(weight) not in kind.upsamplings:
            raise InputError(f"{path}: {names[weight]} has no bias beside it")
    if ("fc6.weight" in names) != ("fc7.weight" in names):
        raise InputError(f"{path}: has one of the fully connected layers fc6 and fc7 and not the other")
    sizes = {ours: prod(content.tensors[theirs].shape) for ours, theirs in names.items()}
    last = kind.backbone.convs[-1]
    hidden = sizes.get("fc7.bias")
    width = sizes[f"{last.name}.bias"] / last.channels
    classes = sizes.get("fc8.bias") or sizes.get("score_fr.bias") or 1000
    shapes = kind.shapes(classes, width, hidden)
    tensors = {}
    for ours, theirs in names.items():
        tensor = content.tensors[theirs]
        allowed = _shapes_there(shapes[ours], ours in channels_last)
        if tensor.shape not in allowed:
            expected = " or ".join(map(str, allowed))
            raise InputError(
                f"{path}: {theirs} has shape {tensor.shape}, for a {kind.__name__} of this width it must be {expected}"
            )
        if tensor.dtype.kind != "f":
            raise InputError(f"{path}: {theirs} has the type {tensor.dtype}, weights are floating-point numbers")
        read = partial(_values, path, theirs, tensor, shapes[ours], ours in channels_last)
        tensors[ours] = Tensor(shapes[ours], np.dtype(np.float32), read)
    try:
        return tensors, Description(kind.__name__, classes, width, hidden or None)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _shapes_there(shape: Shape, channels_last: bool) -> list[Shape]:
    """In which shapes a parameter of this shape may be in a file; Caffe's oldest files have four axes for everything."""
    if len(shape) == 1:
        return [shape, (1, 1, 1, *shape)]
    c_out, c_in, height, width = shape
    if channels_last:
        return [(height, width, c_in, c_out), (height * width * c_in, c_out)]
    return [shape, (c_out, c_in * height * width), (1, 1, c_out, c_in * height * width)]


def _values(path: Path | str, name: str, tensor: Tensor, shape: Shape, channels_last: bool) -> np.ndarray:
    """Read a tensor in this package's order of axes, (C_out, C_in, height, width)."""
    with np.errstate(all="ignore"):
        values = tensor.read().astype(np.float32, copy=False)
        finite = np.isfinite(values.sum(dtype=np.float64))
    if not finite:
        hint = " (torchvision's IMAGENET1K_FEATURES have no classifier: take IMAGENET1K_V1)" if np.isnan(values).all() else ""
        raise InputError(f"{path}: {name} holds values that are no finite numbers{hint}")
    if channels_last and len(shape) == 4:
        c_out, c_in, height, width = shape
        values = values.reshape(height, width, c_in, c_out).transpose(3, 2, 0, 1)
    return values.reshape(shape)
