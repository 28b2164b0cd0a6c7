"""VGG16 (Simonyan and Zisserman, 2015, configuration D): 3x3 convolutions only, and five 2x2 poolings."""

from __future__ import annotations

from tinyfcn.models.backbone import Backbone, Block, Conv
from tinyfcn.models.classifier import Classifier

# Channels and number of 3x3 convolutions of each block.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

VGG = Backbone(
    tuple(
        Block(tuple(Conv(f"conv{block}_{k}", channels) for k in range(1, convolutions + 1)))
        for block, (channels, convolutions) in enumerate(BLOCKS, 1)
    ),
    fc6=7,
    image_size=224,
)


class VGG16(Classifier):
    """The classifier: images (N, 3, 224, 224) to scores (N, num_classes)."""

    backbone = VGG
