"""What publishers call the layers of a classifier, and what tells their weights apart.

A naming scheme is a table: for each convolution or fully connected layer, what its publisher calls it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinyfcn.convert.trunk import Trunk, is_called
from tinyfcn.formats import Content
from tinyfcn.models import CLASSIFIERS


class Scheme(NamedTuple):
    """What a publisher calls the layers of a classifier."""

    publisher: str
    model: str  # key of CLASSIFIERS
    convs: tuple[str, ...]  # names of the convolutions, first to last
    fully_connected: tuple[str, str, str]  # of fc6, fc7 and fc8
    preprocessing: str | None  # None: several publishers use these names
    channels_last: bool = False  # Keras: kernels (k, k, C_in, C_out), and fc6 sees its map in the order H, W, C
    weight: str = ""  # what the names of its kernels end in, where that matters
    rgb: bool = False  # conv1_1 takes RGB where `preprocessing` means BGR


def _features(*places: int) -> tuple[str, ...]:
    return tuple(f"features.{place}" for place in places)


def names_of(model: str) -> tuple[str, ...]:
    """What this package calls a classifier's convolutions."""
    return tuple(conv.name for conv in CLASSIFIERS[model].backbone.convs)


VGG_FEATURES = _features(0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # ReLUs and poolings are counted too
FC = ("fc6", "fc7", "fc8")
KERAS = tuple(name.replace("conv", "block").replace("_", "_conv") for name in names_of("VGG16"))  # block1_conv1, ...
KERAS_CLASSES = ("conv2d", *(f"conv2d_{k}" for k in range(1, 13)))  # how .weights.h5 names layers: by class and number

SCHEMES = (
    Scheme("torchvision", "VGG16", VGG_FEATURES, ("classifier.0", "classifier.3", "classifier.6"), None),
    Scheme("timm", "VGG16", VGG_FEATURES, ("pre_logits.fc1", "pre_logits.fc2", "head.fc"), "torchvision"),
    Scheme("Keras", "VGG16", KERAS, ("fc1", "fc2", "predictions"), "vgg", channels_last=True),
    Scheme("Keras", "VGG16", KERAS_CLASSES, ("dense", "dense_1", "dense_2"), "vgg", channels_last=True),
    Scheme("its authors", "VGG16", names_of("VGG16"), FC, "caffe"),
    Scheme("Davi Frossard", "VGG16", names_of("VGG16"), FC, "vgg", channels_last=True, weight="_W", rgb=True),
    Scheme("torchvision", "AlexNet", _features(0, 3, 6, 8, 10), ("classifier.1", "classifier.4", "classifier.6"), "torchvision"),
    Scheme("Caffe", "CaffeNet", names_of("CaffeNet"), FC, "caffe"),
)

# The first biases of conv1_1 tell whose weights these are, whatever they are called.
FINGERPRINTS = {"torchvision": (0.4034, 0.3778, 0.4644), "caffe": (0.73430, 0.09340, 0.06776)}
# VGG's own weights, "caffe" above, take BGR, and some copies of them RGB: the first corner of conv1_1's first kernel tells.
CORNER = (0.42947, 0.55038, 0.48002)


def called_by(scheme: Scheme, trunk: Trunk) -> bool:
    """Whether the layers of a trunk are called as a publisher calls them."""
    if scheme.model != "VGG16" or scheme.channels_last != trunk.channels_last:
        return False
    return all(
        is_called(layer.name, name) and layer.weight.endswith(scheme.weight)
        for layer, name in zip(trunk.convs, scheme.convs, strict=True)
    )


def preprocessing(content: Content, scheme: Scheme | None, bias: np.ndarray, channels_last: bool) -> str | None:
    """How images are prepared, as far as the file tells. Names tell it only where the first biases are nobody's."""
    stated = scheme.preprocessing if scheme else None
    whose = next((whose for whose, values in FINGERPRINTS.items() if _begins(bias, values)), None)
    if whose != "caffe":
        return whose or stated
    if stated in ("caffe", "vgg"):
        return stated
    if channels_last or content.metadata.get("channels_last"):
        return "vgg"  # these weights with images (N, H, W, C): Keras's copy
    return "caffe" if content.container != "onnx" else None


def takes_rgb(scheme: Scheme | None, kernel: np.ndarray) -> bool:
    """Whether the first convolution takes RGB: its values tell; where they are nobody's, its publisher."""
    corner = kernel[0, :, 0, 0]
    if _begins(corner, CORNER) or _begins(corner[::-1], CORNER):
        return not _begins(corner, CORNER)
    return scheme is not None and scheme.rgb


def _begins(values: np.ndarray, known: tuple[float, ...]) -> bool:
    return len(values) >= len(known) and np.allclose(values[: len(known)], known, rtol=0, atol=1e-3)
