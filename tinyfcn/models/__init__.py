"""VGG16 and the fully convolutional networks that stand on it."""

from tinyfcn.models.fcn import FCN, FCN8s, FCN8sAtOnce, FCN16s, FCN32s
from tinyfcn.models.vgg import VGG16

# The FCNs by their names on the command line, and by their classes' names, which saved files give.
FCNS: dict[str, type[FCN]] = {"fcn32s": FCN32s, "fcn16s": FCN16s, "fcn8s": FCN8s, "fcn8s-atonce": FCN8sAtOnce}
FCN_CLASSES = {kind.__name__: kind for kind in FCNS.values()}

__all__ = ["FCN", "FCNS", "FCN_CLASSES", "VGG16", "FCN8s", "FCN8sAtOnce", "FCN16s", "FCN32s"]
