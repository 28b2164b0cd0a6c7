"""Fully Convolutional Networks for Semantic Segmentation (Long, Shelhamer and Darrell, 2015), from nothing but array operations.

Where to begin:

    tinyfcn.ops             the mathematics: convolution, pooling, upsampling, loss, each forward and backward
    tinyfcn.models          VGG16, FCN32s, FCN16s, FCN8s, and the classifiers that they start from
    tinyfcn.data            photographs and labels: VOC's layout, a generated set, batches
    tinyfcn.optim, metrics  SGD and Adam; the paper's four scores
    tinyfcn.gradcheck       check_gradient proves any backward pass numerically
    tinyfcn.convert         weights from elsewhere, and for elsewhere

    labels = tinyfcn.load("runs/shapes-fcn8s-1").predict("photo.jpg")      # (H, W), the class of every pixel

    net = tinyfcn.FCN8s(num_classes=21, padding="same")
    scores = net.forward(x, training=True)      # x (N, 3, H, W), scores (N, 21, H, W)
    net.backward(dscores)                       # fills net.grads

On the command line: `tinyfcn train`, `evaluate`, `predict`, `convert`, `download` and `bench`, each with --help.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinyfcn import convert, data, metrics, models, ops, optim
    from tinyfcn.data import Shapes, VOCSegmentation
    from tinyfcn.errors import InputError
    from tinyfcn.gradcheck import check_gradient
    from tinyfcn.inference import load
    from tinyfcn.metrics import ConfusionMatrix
    from tinyfcn.models import VGG16, FCN8s, FCN8sAtOnce, FCN16s, FCN32s

__version__ = "0.1.0"

__all__ = [
    "VGG16",
    "ConfusionMatrix",
    "FCN8s",
    "FCN8sAtOnce",
    "FCN16s",
    "FCN32s",
    "InputError",
    "Shapes",
    "VOCSegmentation",
    "check_gradient",
    "convert",
    "data",
    "load",
    "metrics",
    "models",
    "ops",
    "optim",
]

# Where those live that are no modules.
_HOMES = {
    "ConfusionMatrix": "metrics",
    "InputError": "errors",
    "Shapes": "data",
    "VOCSegmentation": "data",
    "check_gradient": "gradcheck",
    "load": "inference",
} | dict.fromkeys(("VGG16", "FCN32s", "FCN16s", "FCN8s", "FCN8sAtOnce"), "models")


def __getattr__(name: str) -> Any:
    """Import what is asked for, and no sooner: a command pays for what it uses alone."""
    if name not in __all__:
        raise AttributeError(f"module 'tinyfcn' has no attribute {name!r}")
    module = import_module(f"tinyfcn.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return [*globals(), *__all__]
