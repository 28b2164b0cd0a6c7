"""AlexNet, in the two forms whose weights are published: one tower, and two groups with local response normalisation.

Krizhevsky, Sutskever and Hinton (2012) split the network over two GPUs: its second, fourth and fifth convolution see only half of
the channels each. Caffe's CaffeNet keeps these groups (and normalises after pooling, not before); torchvision's AlexNet, after
Krizhevsky (2014), has neither groups nor normalisation. FCN-AlexNet (section 4.1 of the paper) stands on CaffeNet.
"""

from __future__ import annotations

from tinyfcn.models.backbone import Backbone, Block, Conv
from tinyfcn.models.classifier import Classifier
from tinyfcn.ops.norm import Norm

ALEXNET = Backbone(
    (
        Block((Conv("conv1", 64, kernel=11, stride=4, padding=2),), pool=3),
        Block((Conv("conv2", 192, kernel=5, padding=2),), pool=3),
        Block((Conv("conv3", 384), Conv("conv4", 256), Conv("conv5", 256)), pool=3),
    ),
    fc6=6,
    image_size=224,
)

NORM = Norm(size=5, alpha=1e-4, beta=0.75, k=1.0)

CAFFENET = Backbone(
    (
        Block((Conv("conv1", 96, kernel=11, stride=4, padding=0),), pool=3, norm=NORM),
        Block((Conv("conv2", 256, kernel=5, padding=2, groups=2),), pool=3, norm=NORM),
        Block((Conv("conv3", 384), Conv("conv4", 384, groups=2), Conv("conv5", 256, groups=2)), pool=3),
    ),
    fc6=6,
    image_size=227,
)


class AlexNet(Classifier):
    """One tower: images (N, 3, 224, 224) to scores (N, num_classes)."""

    backbone = ALEXNET


class CaffeNet(Classifier):
    """Two groups: images (N, 3, 227, 227) to scores (N, num_classes)."""

    backbone = CAFFENET
