"""FCN-32s, FCN-16s, FCN-8s, and FCN-8s trained at once (Long, Shelhamer and Darrell, 2015, section 4 and figure 3).

The trunk is VGG16 (for FCN-32s also AlexNet) with its fully connected layers turned into convolutions: fc6 is 7x7, fc7 and the
scores are 1x1. Its scores lie 32 pixels apart. The skip architecture refines them in seven steps:

    (1) score conv7, upsample x2        (4) upsample x2
    (2) score pool4                     (5) score pool3
    (3) add                             (6) add
                                        (7) upsample x8, crop to the image

FCN-32s upsamples (1) by 32 at once, FCN-16s stops after (3) and upsamples by 16. Scores are added where they see the same
place of the image, which takes a crop; by how much follows from `tinyfcn.models.alignment`. The layers are those of
`tinyfcn.models.parts`; each forward pass reads down the page, its backward pass up the same steps.
"""

from __future__ import annotations

from tinyfcn.backend import Array
from tinyfcn.models.alexnet import ALEXNET, CAFFENET
from tinyfcn.models.parts import FCN
from tinyfcn.optim import Update


class FCN32s(FCN):
    """Scores of conv7, upsampled 32 times."""

    upsamplings = {"upscore": 32}

    def forward(self, x: Array, training: bool = False) -> Array:
        _, conv7 = self.trunk(x, training)
        score = self.score("score_fr", conv7)
        return self.upsample_to_image("upscore", score)

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        self.start_backward(update)
        dscore = self.upsample_to_image_backward("upscore", dscores)
        dconv7 = self.score_backward("score_fr", dscore)
        return self.trunk_backward(dconv7, {}, need_dx)


class FCN16s(FCN):
    """Scores of conv7 and of pool4, upsampled 16 times."""

    upsamplings = {"upscore2": 2, "upscore16": 16}
    skips = {"score_pool4": 4}

    def forward(self, x: Array, training: bool = False) -> Array:
        (_, _, _, pool4, _), conv7 = self.trunk(x, training)
        up = self.upsample("upscore2", self.score("score_fr", conv7))  # (1)
        skip = self.score("score_pool4", pool4)  # (2)
        fused = self.add("score_pool4", skip, up)  # (3)
        return self.upsample_to_image("upscore16", fused)

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        self.start_backward(update)
        dfused = self.upsample_to_image_backward("upscore16", dscores)
        dskip, dup = self.add_backward("score_pool4", dfused)  # (3)
        dpool4 = self.score_backward("score_pool4", dskip)  # (2)
        dconv7 = self.score_backward("score_fr", self.upsample_backward("upscore2", dup))  # (1)
        return self.trunk_backward(dconv7, {4: dpool4}, need_dx)


class FCN8s(FCN):
    """Scores of conv7, of pool4 and of pool3, upsampled 8 times."""

    upsamplings = {"upscore2": 2, "upscore_pool4": 2, "upscore8": 8}
    skips = {"score_pool4": 4, "score_pool3": 3}

    def forward(self, x: Array, training: bool = False) -> Array:
        (_, _, pool3, pool4, _), conv7 = self.trunk(x, training)
        up = self.upsample("upscore2", self.score("score_fr", conv7))  # (1)
        skip = self.score("score_pool4", pool4)  # (2)
        fused = self.add("score_pool4", skip, up)  # (3)
        up = self.upsample("upscore_pool4", fused)  # (4)
        skip = self.score("score_pool3", pool3)  # (5)
        fused = self.add("score_pool3", skip, up)  # (6)
        return self.upsample_to_image("upscore8", fused)  # (7)

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        self.start_backward(update)
        dfused = self.upsample_to_image_backward("upscore8", dscores)  # (7)
        dskip, dup = self.add_backward("score_pool3", dfused)  # (6)
        dpool3 = self.score_backward("score_pool3", dskip)  # (5)
        dfused = self.upsample_backward("upscore_pool4", dup)  # (4)
        dskip, dup = self.add_backward("score_pool4", dfused)  # (3)
        dpool4 = self.score_backward("score_pool4", dskip)  # (2)
        dconv7 = self.score_backward("score_fr", self.upsample_backward("upscore2", dup))  # (1)
        return self.trunk_backward(dconv7, {4: dpool4, 3: dpool3}, need_dx)


class FCN8sAtOnce(FCN8s):
    """FCN-8s trained in one go from VGG16, all three streams together.

    VGG16's activations grow towards the image, so each skip is scaled down before it is scored, by the constants of the
    authors' published network; else the shallow streams' large gradients would swamp the deep one's.
    """

    published_scales = {"score_pool4": 0.01, "score_pool3": 0.0001}


class FCN32sAlexNet(FCN32s):
    """FCN-32s on the AlexNet of one tower."""

    backbone = ALEXNET


class FCN32sCaffeNet(FCN32s):
    """FCN-32s on CaffeNet: the paper's FCN-AlexNet."""

    backbone = CAFFENET
