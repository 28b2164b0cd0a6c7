"""Whose network is in a file? Names and shapes of the published VGG16s, AlexNets and FCNs, and how they become this package's.

A naming scheme is a table: for each convolution or fully connected layer, what its publisher calls it. A file belongs to the
scheme all of whose names it has, if it has no others and all shapes fit. File names say nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.data import PREPROCESSING, VOC_CLASSES
from tinyfcn.errors import InputError
from tinyfcn.formats import Content, Tensor, open_weights
from tinyfcn.models import CLASSIFIERS, FCN_CLASSES, FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sCaffeNet
from tinyfcn.models.classifier import Classifier
from tinyfcn.models.fcn import FCN, LEARN_UPSAMPLING, PADDINGS, is_bilinear

# How files end the names of a layer's weight and bias: PyTorch, this package's reading of Keras's and Caffe's files, and Keras
# in an archive of arrays.
ENDINGS = ((".weight", ".bias"), ("/0", "/1"), ("/kernel", "/bias"), ("/kernel:0", "/bias:0"), ("_W_1:0", "_b_1:0"))


class Scheme(NamedTuple):
    """What a publisher calls the layers of a classifier."""

    publisher: str
    model: str  # key of CLASSIFIERS
    convs: tuple[str, ...]  # names of the convolutions, first to last
    fully_connected: tuple[str, str, str]  # of fc6, fc7 and fc8
    preprocessing: str | None  # None: several publishers use these names
    channels_last: bool = False  # Keras: kernels (k, k, C_in, C_out), and fc6 sees its map in the order H, W, C


def _features(*places: int) -> tuple[str, ...]:
    return tuple(f"features.{place}" for place in places)


def _names(model: str) -> tuple[str, ...]:
    return tuple(conv.name for conv in CLASSIFIERS[model].backbone.convs)


VGG_FEATURES = _features(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # ReLUs and poolings are counted too
FC = ("fc6", "fc7", "fc8")
KERAS = tuple(name.replace("conv", "block").replace("_", "_conv") for name in _names("VGG16"))  # block1_conv1, ...
KERAS_CLASSES = ("conv2d", *(f"conv2d_{k}" for k in range(1, 13)))  # how .weights.h5 names layers: by class and number

SCHEMES = (
    Scheme("torchvision", "VGG16", VGG_FEATURES, ("classifier.0", "classifier.3", "classifier.6"), None),
    Scheme("timm", "VGG16", VGG_FEATURES, ("pre_logits.fc1", "pre_logits.fc2", "head.fc"), "torchvision"),
    Scheme("Keras", "VGG16", KERAS, ("fc1", "fc2", "predictions"), "vgg", channels_last=True),
    Scheme("Keras", "VGG16", KERAS_CLASSES, ("dense", "dense_1", "dense_2"), "vgg", channels_last=True),
    Scheme("its authors", "VGG16", _names("VGG16"), FC, "caffe"),
    Scheme("torchvision", "AlexNet", _features(0, 3, 6, 8, 10), ("classifier.1", "classifier.4", "classifier.6"), "torchvision"),
    Scheme("Caffe", "CaffeNet", _names("CaffeNet"), FC, "caffe"),
)

# The first biases of conv1_1 tell two publishers apart who use the same names. (Bias and not weight: whether the channels
# are RGB or BGR does not change it.)
FINGERPRINTS = {"torchvision": (0.4034, 0.3778, 0.4644), "caffe": (0.73430, 0.09340, 0.06776)}


class Source(NamedTuple):
    """A network that was recognised in a file."""

    title: str
    model: str  # the name of its class here
    tensors: dict[str, Tensor]  # under the names that files of this package give; fully connected layers as convolutions
    description: dict[str, Any]  # to build it again; without "preprocessing" where the file cannot tell
    own: bool = False  # whether this package wrote the file


Shape = tuple[int, ...]


def recognise(path: Path | str) -> Source:
    """Find out which network a file of weights holds.

    Raises InputError where the file cannot be read, is of no network that is known here, or of one of another shape.
    """
    content = open_weights(path)
    if "model" in content.metadata.get("description", {}):
        return _own(path, content)
    found = _classifier(path, content)
    for kind in FCN32sCaffeNet, FCN8s, FCN16s, FCN32s:
        found = found or _fcn(path, content, kind)
    if found is not None:
        return found
    names = ", ".join(f"{name} {tensor.shape}" for name, tensor in list(content.tensors.items())[:3])
    raise InputError(
        f"{path}: not a network that is known here (VGG16, AlexNet, CaffeNet, or an FCN on one of them): "
        f"its {len(content.tensors)} tensors begin with {names or 'none'}"
    )


def _positive(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


FIELDS: dict[str, Callable[[Any], bool]] = {  # what a description may say
    "num_classes": lambda value: type(value) is int and value > 0,
    "width": lambda value: _positive(value),
    "hidden": lambda value: type(value) is int and value > 0,
    "preprocessing": lambda value: value is None or (type(value) is str and value in PREPROCESSING),
    "padding": lambda value: value in PADDINGS,
    "learn_upsampling": lambda value: value in LEARN_UPSAMPLING,
    "scales": lambda value: type(value) is dict and all(type(k) is str and _positive(v) for k, v in value.items()),
    "classes": lambda value: type(value) is list and all(type(name) is str for name in value),
    "zoom": lambda value: _positive(value),
    "max_side": lambda value: value is None or (type(value) is int and value > 0),
}


def _own(path: Path | str, content: Content) -> Source:
    """A file that this package wrote, without an optimiser's state. Its tensors must be those of the network that it names."""
    about = content.metadata["description"]
    kinds: dict[str, type[FCN | Classifier]] = {**CLASSIFIERS, **FCN_CLASSES}
    kind = kinds.get(about["model"]) if type(about["model"]) is str else None
    if kind is None:
        raise InputError(f"{path}: holds {about['model']!r}, which is no network of this package")
    needed = {"num_classes", "width"} | ({"padding", "learn_upsampling"} if issubclass(kind, FCN) else set())
    for field, valid in FIELDS.items():
        if (field in about and not valid(about[field])) or (field in needed and field not in about):
            raise InputError(f"{path}: its description is damaged: {field} is {about.get(field)!r}")
    shapes = kind.shapes(about["num_classes"], about["width"], about.get("hidden"))
    expected = {kind.published.get(name, name): shape for name, shape in shapes.items()}
    tensors = {name: tensor for name, tensor in content.tensors.items() if not name.startswith("optimiser.")}
    missing = [name for name in expected if name not in tensors and not name.startswith("upscore")]
    partly = issubclass(kind, Classifier) and all(name.startswith("fc") for name in missing)  # a trunk alone
    for name, tensor in tensors.items():
        if prod(tensor.shape) != prod(expected.get(name, ())) or tensor.dtype.kind != "f":
            raise InputError(
                f"{path}: {name}, {tensor.dtype} {tensor.shape}, does not belong to the {kind.__name__} that it describes"
            )
    if missing and not partly:
        raise InputError(f"{path}: has no {missing[0]}, which belongs to the {kind.__name__} that it describes")
    return Source(f"{kind.__name__} of this package", kind.__name__, tensors, about, own=True)


def settle_preprocessing(path: Path | str, stated: str | None, given: str | None, option: str) -> str:
    """How images are prepared, by what a file says and what a user says with `option`; raises InputError where neither does."""
    if stated is None and given is None:
        raise InputError(
            f"{path} does not say how its images are prepared; add {option} {' or '.join(PREPROCESSING)} "
            "(torchvision: its own weights; caffe: copies of Caffe's; vgg: Keras)"
        )
    if stated and given and stated != given:
        raise InputError(f"{path} takes images prepared as for {stated}; {option} {given} does not fit it")
    return stated or given or ""


def _classifier(path: Path | str, content: Content) -> Source | None:
    """A classifier, by the scheme that explains most names: its fully connected layers may be missing."""
    matches = []
    for scheme in SCHEMES:
        convs = [conv.name for conv in CLASSIFIERS[scheme.model].backbone.convs]
        theirs = dict(zip([*convs, *FC], [*scheme.convs, *scheme.fully_connected], strict=True))
        matches.append((_match(content, theirs, required=convs), scheme))
    names, scheme = max(matches, key=lambda match: len(match[0]))
    if not names or any(name.startswith("score_fr") for name in content.tensors):  # an FCN's trunk has the same names
        return None
    kind = CLASSIFIERS[scheme.model]
    _refuse_others(path, content, names.values(), kind)
    order = content.metadata.get("order", [])
    norm_first = {"norm1", "pool1"} <= set(order) and order.index("norm1") < order.index("pool1")
    if scheme.model == "CaffeNet" and (norm_first or content.metadata.get("name") == "AlexNet"):
        raise InputError(f"{path}: Caffe's AlexNet normalises before it pools; CaffeNet (bvlc_reference_caffenet) can be used")
    tensors, width, classes = _fit(path, content, names, kind, scheme.channels_last)
    description: dict[str, Any] = {"model": scheme.model, "num_classes": classes, "width": width}
    preprocessing = scheme.preprocessing or _fingerprint(tensors[f"{kind.backbone.convs[0].name}.bias"].read())
    if preprocessing is not None:
        description["preprocessing"] = preprocessing
    return Source(f"{scheme.model}, layers named as by {scheme.publisher}", scheme.model, tensors, description)


def _fcn(path: Path | str, content: Content, kind: type[FCN]) -> Source | None:
    """A finished FCN: one of the authors' .caffemodel files, or of their copies for PyTorch, whose names are the same."""
    ups = {layer: kind.published.get(f"{layer}.weight", f"{layer}.weight").removesuffix(".weight") for layer in kind.upsamplings}
    scored = [conv.name for conv in kind.backbone.convs] + ["fc6", "fc7", "score_fr", *kind.skips]
    names = _match(content, {layer: layer for layer in scored} | ups, required=[*scored, *ups])
    if not names:
        return None
    scales = {skip: name for skip in kind.skips if (name := f"{skip.replace('score', 'scale')}/0") in content.tensors}
    _refuse_others(path, content, [*names.values(), *scales.values()], kind)
    if scales:
        kind = FCN8sAtOnce
        for skip, name in scales.items():
            if not np.allclose(content.tensors[name].read(), kind.published_scales[skip], rtol=1e-6):
                raise InputError(f"{path}: {name} is not {kind.published_scales[skip]}, as it is in FCN-8s trained at once")
    tensors, width, classes = _fit(path, content, names, kind)
    learned = [layer for layer in ups if not is_bilinear(tensors[f"{layer}.weight"].read())]
    learn = "none" if not learned else "all" if list(ups)[-1] in learned else "skip"
    description = {"num_classes": classes, "width": width, "padding": "paper", "learn_upsampling": learn}
    description |= {"model": kind.__name__, "preprocessing": "caffe"}
    if classes == len(VOC_CLASSES):
        description["classes"] = list(VOC_CLASSES)
    published = {kind.published.get(name, name): tensor for name, tensor in tensors.items()}
    return Source(f"{kind.__name__}, layers named as by its authors", kind.__name__, published, description)


def _match(content: Content, layers: dict[str, str], required: Iterable[str]) -> dict[str, str]:
    """Our names of parameters to the file's, for layers (ours to theirs) that the file has; {} if it lacks a required one."""
    for weight, bias in ENDINGS:
        names = {f"{ours}.weight": f"{theirs}{weight}" for ours, theirs in layers.items()}
        names |= {f"{ours}.bias": f"{theirs}{bias}" for ours, theirs in layers.items()}
        if all(names[f"{layer}.weight"] in content.tensors for layer in required):
            return {ours: theirs for ours, theirs in names.items() if theirs in content.tensors}
    return {}


def _refuse_others(path: Path | str, content: Content, known: Iterable[str], kind: type) -> None:
    """A network with more layers is another one, such as VGG19."""
    others = sorted(content.tensors.keys() - set(known))
    if others:
        raise InputError(f"{path}: has {others[0]}, which {kind.__name__} has not: another network?")


def _fit(
    path: Path | str, content: Content, names: dict[str, str], kind: type[FCN | Classifier], channels_last: bool = False
) -> tuple[dict[str, Tensor], float, int]:
    """The file's tensors as this package has them, with (width, number of classes), which the biases tell."""
    for weight in names:
        bias = weight.replace(".weight", ".bias")
        if bias not in names and not weight.startswith("upscore"):
            raise InputError(f"{path}: {names[weight]} has no bias beside it")
    if ("fc6.weight" in names) != ("fc7.weight" in names):
        raise InputError(f"{path}: has one of the fully connected layers fc6 and fc7 and not the other")
    sizes = {ours: prod(content.tensors[theirs].shape) for ours, theirs in names.items()}
    last = kind.backbone.convs[-1]
    hidden = sizes.get("fc7.bias")
    width = hidden / kind.backbone.hidden if hidden else sizes[f"{last.name}.bias"] / last.channels
    classes = sizes.get("fc8.bias") or sizes.get("score_fr.bias") or 1000
    shapes = kind.shapes(classes, width)
    tensors = {}
    for ours, theirs in names.items():
        tensor = content.tensors[theirs]
        allowed = _shapes_there(shapes[ours], channels_last)
        if tensor.shape not in allowed:
            expected = " or ".join(map(str, allowed))
            raise InputError(
                f"{path}: {theirs} has shape {tensor.shape}, for a {kind.__name__} of this width it must be {expected}"
            )
        if tensor.dtype.kind != "f":
            raise InputError(f"{path}: {theirs} has the type {tensor.dtype}, weights are floating-point numbers")
        read = partial(_values, path, theirs, tensor, shapes[ours], channels_last)
        tensors[ours] = Tensor(shapes[ours], np.dtype(np.float32), read)
    return tensors, width, classes


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


def _fingerprint(bias: np.ndarray) -> str | None:
    for preprocessing, values in FINGERPRINTS.items():
        if len(bias) >= len(values) and np.allclose(bias[: len(values)], values, rtol=0, atol=1e-3):
            return preprocessing
    return None
