"""Classifiers, and the fully convolutional networks that stand on them."""

from tinyfcn.models.alexnet import AlexNet, CaffeNet
from tinyfcn.models.classifier import Classifier
from tinyfcn.models.fcn import FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sAlexNet, FCN32sCaffeNet
from tinyfcn.models.parts import FCN
from tinyfcn.models.vgg import VGG16

# The FCNs by their names on the command line, and by their classes' names, which saved files give.
FCNS: dict[str, type[FCN]] = {
    "fcn32s": FCN32s,
    "fcn16s": FCN16s,
    "fcn8s": FCN8s,
    "fcn8s-atonce": FCN8sAtOnce,
    "fcn32s-alexnet": FCN32sAlexNet,
    "fcn32s-caffenet": FCN32sCaffeNet,
}
FCN_CLASSES = {kind.__name__: kind for kind in FCNS.values()}
CLASSIFIERS: dict[str, type[Classifier]] = {kind.__name__: kind for kind in (VGG16, AlexNet, CaffeNet)}

__all__ = [
    "CLASSIFIERS",
    "FCN",
    "FCNS",
    "FCN_CLASSES",
    "VGG16",
    "AlexNet",
    "CaffeNet",
    "Classifier",
    "FCN8s",
    "FCN8sAtOnce",
    "FCN16s",
    "FCN32s",
    "FCN32sAlexNet",
    "FCN32sCaffeNet",
]
