"""VGG16 (Simonyan and Zisserman, 2015, configuration D): as the classifier, and as the trunk of every FCN."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import Array
from tinyfcn.models.alignment import IMAGE, Grid
from tinyfcn.models.border import borders
from tinyfcn.models.network import Network
from tinyfcn.optim import Update

# Channels and number of 3x3 convolutions of each block; a block ends in a 2x2 max pooling at stride 2.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
FULLY_CONNECTED = 4096  # channels of fc6 and fc7
FC6_SIZE = 7  # fc6 sees 7x7 units of pool5: all of them, for an image of 224x224


def scaled(channels: int, width: float) -> int:
    """Hidden channels of a network `width` times as wide as the published one."""
    return max(1, round(channels * width))


def trunk_shapes(width: float) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the parameters conv1_1 to conv5_3."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels_in = 3
    for block, (channels, convolutions) in enumerate(BLOCKS, 1):
        channels = scaled(channels, width)
        for k in range(1, convolutions + 1):
            shapes[f"conv{block}_{k}.weight"] = (channels, channels_in, 3, 3)
            shapes[f"conv{block}_{k}.bias"] = (channels,)
            channels_in = channels
    return shapes


def trunk_forward(net: Network, x: Array, first_padding: int = 1) -> list[Array]:
    """Run conv1_1 to pool5; returns [pool1, ..., pool5]. `first_padding` is that of conv1_1, all others have 1.

    Where `first_padding` is wide, the first blocks run with less, see `tinyfcn.models.border`: their results are the same.
    """
    pools = []
    image_size = x.shape[2:]
    widths, stretches = borders([convolutions for _, convolutions in BLOCKS], first_padding)
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for k in range(1, convolutions + 1):
            x = net.conv(f"conv{block}_{k}", x, padding=widths[0] if (block, k) == (1, 1) else 1, relu=True)
        x = net.pool(f"pool{block}", x)
        how = stretches[block - 1]
        if how is not None:
            x = net.stretch(f"pool{block}.stretch", x, image_size, how)
        pools.append(x)
    return pools


def trunk_backward(net: Network, dpools: dict[int, Array], need_dx: bool = False) -> Array | None:
    """Run pool5 up to conv1_1. `dpools` holds the gradient that reaches each pooling layer, by number, from outside
    the trunk; 5 must be among them. Returns the gradient at the image if `need_dx`."""
    dx = None
    for block in range(len(BLOCKS), 0, -1):
        if block in dpools:
            dx = dpools[block] if dx is None else dx + dpools[block]
        dx = net.pool_backward(f"pool{block}", net.stretch_backward(f"pool{block}.stretch", dx))
        for k in range(BLOCKS[block - 1][1], 0, -1):
            dx = net.conv_backward(f"conv{block}_{k}", dx, need_dx=need_dx or (block, k) != (1, 1))
    return dx


def trunk_grids(first_padding: int) -> list[Grid]:
    """Where the units of [pool1, ..., pool5] lie in the image."""
    grid, grids = IMAGE, []
    for block, (_, convolutions) in enumerate(BLOCKS, 1):
        for k in range(1, convolutions + 1):
            grid = grid.window(3, padding=first_padding if (block, k) == (1, 1) else 1)
        grid = grid.window(2, stride=2)
        grids.append(grid)
    return grids


class VGG16(Network):
    """The classifier: images (N, 3, 224, 224) to scores (N, num_classes)."""

    def __init__(
        self,
        num_classes: int = 1000,
        width: float = 1.0,
        *,
        dropout: float = 0.5,
        seed: int = 0,
        dtype: Any = np.float32,
        xp: ModuleType = np,
    ) -> None:
        self.num_classes, self.width, self.rate = num_classes, width, dropout
        hidden, features = scaled(FULLY_CONNECTED, width), scaled(BLOCKS[-1][0], width) * FC6_SIZE**2
        shapes = trunk_shapes(width) | {
            "fc6.weight": (hidden, features),
            "fc6.bias": (hidden,),
            "fc7.weight": (hidden, hidden),
            "fc7.bias": (hidden,),
            "fc8.weight": (num_classes, hidden),
            "fc8.bias": (num_classes,),
        }
        super().__init__(shapes, seed=seed, dtype=dtype, xp=xp)

    def forward(self, x: Array, training: bool = False) -> Array:
        """Scores (N, num_classes) of images x (N, 3, 224, 224).

        Raises ValueError for images of a size that does not end as 7x7 units (193 to 224 pixels do, in ceil mode).
        """
        self._start(x, training)
        x = trunk_forward(self, x)[-1]  # (N, 512, 7, 7)
        if x.shape[2:] != (FC6_SIZE, FC6_SIZE):
            raise ValueError(f"VGG16: a classifier takes images that end as 7x7 maps, 224x224, not as {x.shape[2:]}")
        self._pool5_shape = x.shape
        x = x.reshape(len(x), -1)  # (N, 25088)
        for name in ("6", "7"):
            x = self.dropout(f"drop{name}", self.relu(f"relu{name}", self.linear(f"fc{name}", x)), self.rate)
        return self.linear("fc8", x)

    def backward(self, dscores: Array, need_dx: bool = False, update: Update | None = None) -> Array | None:
        """Fill `grads` from dscores, the gradient at the scores; see `FCN.backward`."""
        self._start_backward(update)
        dx = self.linear_backward("fc8", dscores)
        for name in ("7", "6"):
            dx = self.linear_backward(f"fc{name}", self.relu_backward(f"relu{name}", self.dropout_backward(f"drop{name}", dx)))
        return trunk_backward(self, {5: dx.reshape(self._pool5_shape)}, need_dx)

    def description(self) -> dict[str, Any]:
        return super().description() | {"num_classes": self.num_classes, "width": self.width}
