"""VGG16 and the fully convolutional networks that stand on it."""

from tinyfcn.models.fcn import FCN, FCN8s, FCN8sAtOnce, FCN16s, FCN32s
from tinyfcn.models.vgg import VGG16

# The names of the FCNs on the command line and in saved files.
FCNS: dict[str, type[FCN]] = {"fcn32s": FCN32s, "fcn16s": FCN16s, "fcn8s": FCN8s, "fcn8s-atonce": FCN8sAtOnce}

__all__ = ["FCN", "FCNS", "VGG16", "FCN8s", "FCN8sAtOnce", "FCN16s", "FCN32s"]
