"""What all FCNs are made of: a trunk from the image to conv7, score layers, upsampling layers, and sums of what they give."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn import ops
from tinyfcn.backend import Array, by_pixels
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.models.alignment import align
from tinyfcn.models.backbone import Backbone
from tinyfcn.models.crop import cropped, cropped_sum, uncrop, window
from tinyfcn.models.network import Network, layer_of
from tinyfcn.models.vgg import VGG
from tinyfcn.ops.upsample import is_bilinear
from tinyfcn.optim import Update
from tinyfcn.parallel import PIECE, at_once, bands
from tinyfcn.weights import LoadReport

BORDER = 100  # pixels of zeros around the image in the paper's networks
UPSAMPLINGS = ("upscore", "upscore2", "upscore16", "upscore_pool4", "upscore8")  # of all FCNs: a file may be another stage's


def paddings(backbone: Backbone, padding: str) -> tuple[int, int]:
    """Padding of the first convolution and of fc6.

    "paper": 100 pixels on every side, so that fc6, which shrinks its map by 6, has something to work on for any image. "same":
    the first convolution as in the classifier, and fc6 keeps its map's size (for an even kernel, one more), at a fraction of
    the arithmetic.
    """
    return {"paper": (BORDER, 0), "same": (backbone.convs[0].padding, backbone.fc6 // 2)}[padding]


class FCN(Network):
    """What the FCNs share. Use one of the subclasses.

    num_classes       C, with the background
    width             scales every hidden channel count; 1.0 is the paper's
    hidden            channels of fc6 and fc7, by default 4096 x width. Where only VGG16's convolutions are to be had, these two
                      layers start from random numbers: 120 million with the paper's 4096 channels, 13 million with 512
    padding           "paper" or "same", see `paddings`; the same weights serve both
    dropout           rate after fc6 and fc7, entry by entry, while training
    learn_upsampling  "none" fixes all upsampling to bilinear (the authors' published files); "skip" learns the x2 layers and
                      fixes the last (the paper's text); "all" learns the last one too
    freeze_convs      leave the backbone's convolutions as they are, and learn what stands on them
    freeze_trunk      leave fc6 and fc7 as they are too, and learn the score layers alone (the paper's 32s-fixed)
    skip_scales       a constant for each skip that its pooling layer is multiplied with before it is scored; by default none,
                      in `FCN8sAtOnce` the published ones

    Upsampling layers that are fixed are no parameters. Those that are learned have weights (C, C, k, k) that start
    as the bilinear ones.
    """

    backbone: Backbone = VGG
    skips: dict[str, int] = {}  # name of a skip's score layer -> number of the pooling layer that it scores
    published_scales: dict[str, float] = {}  # ... -> constant that its authors multiply the pooling layer's output with

    def __init__(
        self,
        num_classes: int = 21,
        width: float = 1.0,
        padding: str = "paper",
        *,
        hidden: int | None = None,
        dropout: float = 0.5,
        learn_upsampling: str = "none",
        freeze_convs: bool = False,
        freeze_trunk: bool = False,
        skip_scales: Mapping[str, float] | None = None,
        seed: int = 0,
        dtype: Any = np.float32,
        xp: ModuleType = np,
    ) -> None:
        self.skip_scales = dict(self.published_scales if skip_scales is None else skip_scales)
        # Which raises where one of them cannot be:
        Description(type(self).__name__, num_classes, width, hidden, None, padding, learn_upsampling, self.skip_scales)
        self.num_classes, self.width, self.padding, self.dropout_rate = num_classes, width, padding, dropout
        self.learn_upsampling = learn_upsampling
        self.freeze_convs, self.freeze_trunk = freeze_convs or freeze_trunk, freeze_trunk
        self.first_padding, self.fc6_padding = paddings(self.backbone, padding)
        self.kernels, self.offsets = self.align(padding)
        self.score_layers = ("score_fr", *self.skips)  # which begin with zeros: told before the parameters are made
        self.class_layers = (*self.score_layers, *self.upsamplings)
        layers = list(self.upsamplings)
        learned = {"none": [], "skip": layers[:-1], "all": layers}[learn_upsampling]
        shapes = self.shapes(num_classes, width, hidden)
        self.hidden = shapes["fc7.bias"][0]
        drawn = {name: shape for name, shape in shapes.items() if layer_of(name) not in self.upsamplings}
        super().__init__(drawn, seed=seed, dtype=dtype, xp=xp)
        if self.fc6_padding and xp is np:  # its large kernel hangs over the border of the map, see tinyfcn.ops.taps
            self.params["fc6.weight"] = by_pixels(self.params["fc6.weight"])
        for layer in learned:
            self.params[f"{layer}.weight"] = ops.bilinear_weight(num_classes, self.kernels[layer], self.dtype, xp)

    @classmethod
    def shapes(cls, num_classes: int, width: float, hidden: int | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all weights and biases, also of upsampling layers that are fixed."""
        shapes = cls.backbone.shapes(width, hidden)
        scored = {"score_fr": shapes["fc7.weight"][0]}
        scored |= {skip: cls.backbone.pool_channels(pool, width) for skip, pool in cls.skips.items()}
        for score, channels in scored.items():
            shapes |= {f"{score}.weight": (num_classes, channels, 1, 1), f"{score}.bias": (num_classes,)}
        kernels, _ = cls.align("paper")
        return shapes | {f"{layer}.weight": (num_classes, num_classes, kernel, kernel) for layer, kernel in kernels.items()}

    @classmethod
    def align(cls, padding: str) -> tuple[dict[str, int], dict[str, int]]:
        """The sizes of the upsampling layers' kernels, and where to crop: `tinyfcn.models.alignment.align`."""
        first_padding, fc6_padding = paddings(cls.backbone, padding)
        pools = cls.backbone.grids(first_padding)
        conv7 = pools[-1].window(cls.backbone.fc6, padding=fc6_padding)
        return align(conv7, cls.upsamplings, {skip: pools[pool - 1] for skip, pool in cls.skips.items()})

    def forward(self, x: Array, training: bool = False) -> Array:
        """Scores (N, num_classes, H, W) of images x (N, 3, H, W), of any height and width.

        `training` turns dropout on and keeps what `backward` needs. Raises ValueError for x that are no images, and
        TypeError for a dtype other than the parameters'.
        """
        raise NotImplementedError

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        """Fill `grads` from dscores (N, num_classes, H, W), the gradient at the scores of the last forward pass.

        Returns the gradient at the images if `need_dx`, None where the convolutions are frozen. With `update`, such as an
        optimiser's `begin` returns, `grads` stays empty: update(name, gradient) is called as soon as a gradient is final, and
        the gradient is gone before the next one is computed. Raises RuntimeError without a forward pass in training.
        """
        raise NotImplementedError

    def trainable(self) -> dict[str, Array]:
        frozen = [conv.name for conv in self.backbone.convs] if self.freeze_convs else []
        frozen += ["fc6", "fc7"] if self.freeze_trunk else []
        return {name: p for name, p in self.params.items() if layer_of(name) not in frozen}

    def tensors(self) -> dict[str, np.ndarray]:
        """As published: upsampling layers are there with their weights, also those that are fixed and no parameters here."""
        tensors = super().tensors()
        for layer, kernel in self.kernels.items():
            name = f"{layer}.weight"
            if name not in self.params:
                tensors[name] = ops.bilinear_weight(self.num_classes, kernel, self.dtype)
        return tensors

    def assign(
        self, tensors: dict[str, np.ndarray], description: Description | None, *, source: str | Path, partial: bool = False
    ) -> LoadReport:
        """See `Network.assign`. Upsampling layers that are fixed here must be bilinear in the file too, unless `partial`."""
        used = {}
        for name, tensor in tensors.items():
            if layer_of(name) not in UPSAMPLINGS or name in self.params:
                used[name] = tensor
            elif not is_bilinear(tensor):
                if not partial:
                    raise InputError(f"{source}: {name} is not bilinear: it belongs to a network that learns its upsampling")
                used[name] = tensor  # for the report
        return super().assign(used, description, source=source, partial=partial)

    def predict(self, x: Array) -> Array:
        """The class with the largest score at every pixel, (N, H, W) uint8."""
        return self.decide(self.forward(x))

    def decide(self, scores: Array) -> Array:
        """The class with the largest of the scores (N, num_classes, H, W) at every pixel, (N, H, W) uint8.

        It is found in bands of rows, of each of which `argmax` makes a copy that has a pixel's scores side by side.
        """
        count, classes, height, width = scores.shape
        labels = self.xp.empty((count, height, width), np.uint8)
        for rows in bands(self.xp, height, count * classes * width, at_once(self.xp, PIECE)):
            labels[:, rows] = scores[:, :, rows].argmax(axis=1)
        return labels

    def description(self) -> Description:
        return Description(
            type(self).__name__,
            self.num_classes,
            self.width,
            self.hidden,
            self.preprocessing,
            self.padding,
            self.learn_upsampling,
            self.skip_scales,
        )

    # The trunk, from the image to conv7

    def trunk(self, x: Array, training: bool) -> tuple[list[Array], Array]:
        """Run the first convolution to conv7; returns ([pool1, pool2, ...], conv7)."""
        self.start(x, training)
        self.check_size(*x.shape[2:])
        self._image_size = x.shape[2:]
        kept = self._caches
        if self.freeze_convs:
            self._caches = None  # no gradient goes down there: nothing to keep
        pools = self.backbone.forward(self, x, self.first_padding)
        self._caches = None if self.freeze_trunk else kept
        conv6 = self.conv("fc6", pools[-1], padding=self.fc6_padding, relu=True)
        conv7 = self.conv("fc7", self.dropout("drop6", conv6, self.dropout_rate), relu=True)
        conv7 = self.dropout("drop7", conv7, self.dropout_rate)
        self._caches = kept
        return pools, conv7

    def measure_scales(self, x: Array) -> dict[str, float]:
        """For each skip, what brings the pooling layer that it scores to a root mean square of 1 on images x (N, 3, H, W).

        VGG16's activations, for pixels from 0 to 255, are largest in the middle: about 750 at pool3, 140 at pool4 and 10 at
        pool5. A skip that is scored as it is would take steps as many times larger than the deep stream's; the constants of
        `FCN8sAtOnce` are its authors' answer to that, this is one for any weights.
        """
        self.start(x, training=False)
        pools = self.backbone.forward(self, x, self.first_padding)
        return {skip: 1 / max(float((pools[pool - 1] ** 2).mean()) ** 0.5, 1e-6) for skip, pool in self.skips.items()}

    def check_size(self, height: int, width: int) -> None:
        """Raise InputError for images so small that nothing is left of them in some layer."""
        if all(min(self._map_sizes(side).values()) > 0 for side in (height, width)):
            return
        least = next(side for side in count(1) if min(self._map_sizes(side).values()) > 0)
        raise InputError(
            f"{type(self).__name__}: with padding {self.padding!r} images must have at least {least}x{least} pixels, "
            f"got {height}x{width}"
        )

    def _map_sizes(self, side: int) -> dict[str, int]:
        return self.backbone.map_sizes(self.first_padding, self.fc6_padding, side)

    def trunk_backward(self, dconv7: Array, dpools: dict[int, Array], need_dx: bool) -> Array | None:
        """Run conv7 up to conv1_1, from the gradients that reach conv7 and the pooling layers."""
        if self.freeze_trunk:
            return None
        dconv6 = self.conv_backward("fc7", self.dropout_backward("drop7", dconv7))
        dpool = self.conv_backward("fc6", self.dropout_backward("drop6", dconv6), need_dx=not self.freeze_convs)
        if self.freeze_convs:
            return None
        return self.backbone.backward(self, dpools | {len(self.backbone.blocks): dpool}, need_dx)

    # The pieces of the seven steps

    def score(self, name: str, features: Array) -> Array:
        scale = self.skip_scales.get(name, 1.0)
        return self.conv(name, features if scale == 1.0 else features * self.dtype.type(scale))

    def score_backward(self, name: str, dscore: Array) -> Array:
        frozen = self.freeze_convs if name in self.skips else self.freeze_trunk
        dfeatures = self.conv_backward(name, dscore, need_dx=not frozen)
        scale = self.skip_scales.get(name, 1.0)
        return dfeatures if scale == 1.0 or frozen else dfeatures * self.dtype.type(scale)

    def upsample(self, name: str, x: Array) -> Array:
        stride = self.upsamplings[name]
        if f"{name}.weight" in self.params:
            return self.apply(name, ops.conv_transpose2d_forward, x, self.params[f"{name}.weight"], stride=stride)
        return self.apply(name, ops.upsample_bilinear_forward, x, self.kernels[name], stride)

    def upsample_backward(self, name: str, dy: Array) -> Array:
        if f"{name}.weight" in self.params:
            dx, dweight, _ = ops.conv_transpose2d_backward(dy, self.take(name))
            self._keep(f"{name}.weight", dweight)
            return dx
        return ops.upsample_bilinear_backward(dy, self.take(name))

    def add(self, name: str, skip: Array, up: Array) -> Array:
        """Add a skip's scores to the upsampled ones on the part of the image that both cover."""
        return self.apply(f"{name}.add", cropped_sum, skip, up, self.offsets[name])

    def add_backward(self, name: str, dy: Array) -> tuple[Array, Array]:
        """Addition hands the gradient to both; what was cropped away gets none."""
        skip, up = self.take(f"{name}.add")
        return uncrop(dy, skip), uncrop(dy, up)

    def upsample_to_image(self, name: str, x: Array) -> Array:
        """The last upsampling, cropped to the image."""
        crop = window(self.offsets["score"], *self._image_size)
        if f"{name}.weight" in self.params:
            return self.apply("crop", cropped, self.upsample(name, x), crop)
        stride = self.upsamplings[name]
        return self.apply(name, ops.upsample_bilinear_forward, x, self.kernels[name], stride, crop[1:])

    def upsample_to_image_backward(self, name: str, dy: Array) -> Array:
        if f"{name}.weight" in self.params:
            dy = uncrop(dy, self.take("crop"))
        return self.upsample_backward(name, dy)
