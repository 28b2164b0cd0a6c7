"""A backbone with its fully connected layers: the classification network that an FCN starts from."""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import Array
from tinyfcn.description import Description
from tinyfcn.models.backbone import Backbone
from tinyfcn.models.network import Network
from tinyfcn.optim import Update
from tinyfcn.weights import CLASSIFIER_WEIGHTS


class Classifier(Network):
    """Images (N, 3, S, S) to scores (N, num_classes), for the backbone's image size S. Use one of the subclasses.

    `width` scales every hidden channel count; `hidden` gives fc6 and fc7 another number of channels than 4096 x width.
    """

    backbone: Backbone

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        *,
        hidden: int | None = None,
        dropout: float = 0.5,
        seed: int = 0,
        dtype: Any = np.float32,
        xp: ModuleType = np,
    ) -> None:
        Description(type(self).__name__, num_classes, width, hidden)  # which raises where one cannot be
        self.num_classes, self.width, self.dropout_rate = num_classes, width, dropout
        self.first_padding = self.backbone.convs[0].padding
        shapes = self.shapes(num_classes, width, hidden)
        self.hidden = shapes["fc7.bias"][0]
        flat = {name: (shape[0], prod(shape[1:])) for name, shape in shapes.items() if name in CLASSIFIER_WEIGHTS}
        super().__init__(shapes | flat, seed=seed, dtype=dtype, xp=xp)

    @classmethod
    def shapes(cls, num_classes: int, width: float, hidden: int | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, those of fully connected layers as of the convolutions that they become."""
        shapes = cls.backbone.shapes(width, hidden)
        channels = shapes["fc7.bias"][0]
        return shapes | {"fc8.weight": (num_classes, channels, 1, 1), "fc8.bias": (num_classes,)}

    def forward(self, x: Array, training: bool = False) -> Array:
        """Scores (N, num_classes) of images x (N, 3, S, S).

        Raises ValueError for images of a size that does not end as the map that fc6 sees (for VGG16, 193 to 224 pixels do).
        """
        self.start(x, training)
        x = self.backbone.forward(self, x, self.first_padding)[-1]  # for VGG16 (N, 512, 7, 7)
        side = self.backbone.fc6
        if x.shape[2:] != (side, side):
            size = self.backbone.image_size
            raise ValueError(
                f"{type(self).__name__}: a classifier takes images that end as {side}x{side} maps, {size}x{size}, "
                f"not as {x.shape[2:]}; score_map takes larger ones"
            )
        self._last_shape = x.shape
        x = x.reshape(len(x), -1)  # (N, 25088)
        for name in ("6", "7"):
            x = self.dropout(f"drop{name}", self.relu(f"relu{name}", self.linear(f"fc{name}", x)), self.dropout_rate)
        return self.linear("fc8", x)

    def score_map(self, x: Array) -> Array:
        """Scores (N, num_classes, h, w) of images x (N, 3, H, W) of any size from S on: the classifier at h w places at once.

        This is how a classifier becomes fully convolutional (section 3.1 of the paper): a fully connected layer that sees a map
        of 7x7 units is a convolution by a kernel of 7x7. Score (r, c) is that of the crop which begins at pixel (32 r, 32 c), up
        to what the convolutions' padding adds at the crop's borders, and, at the end of an image whose size is not S plus a
        multiple of 32, of a crop that reaches beyond it. Raises ValueError for images smaller than `forward` takes.
        """
        self.start(x, training=False)
        x = self.backbone.forward(self, x, self.first_padding)[-1]
        if min(x.shape[2:]) < self.backbone.fc6:
            size = self.backbone.image_size
            raise ValueError(f"{type(self).__name__}: score_map takes images of about {size}x{size} pixels or more")
        for name, side in ("fc6", self.backbone.fc6), ("fc7", 1), ("fc8", 1):
            weight = self.params[f"{name}.weight"]
            kernel = weight.reshape(len(weight), -1, side, side)
            x, _ = ops.conv2d_forward(x, kernel, self.params[f"{name}.bias"], relu=name != "fc8")
        return x

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        """Fill `grads` from dscores, the gradient at the scores; see `FCN.backward`."""
        self.start_backward(update)
        dx = self.linear_backward("fc8", dscores)
        for name in ("7", "6"):
            dx = self.linear_backward(f"fc{name}", self.relu_backward(f"relu{name}", self.dropout_backward(f"drop{name}", dx)))
        return self.backbone.backward(self, {len(self.backbone.blocks): dx.reshape(self._last_shape)}, need_dx)

    def description(self) -> Description:
        return Description(type(self).__name__, self.num_classes, self.width, self.hidden, self.preprocessing)
