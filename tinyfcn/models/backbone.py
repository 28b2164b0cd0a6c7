"""The trunk of a classification network, as data, and how to run it: what a classifier and an FCN share.

A backbone is a list of blocks, each of convolutions with ReLUs, a max pooling at stride 2, and, in CaffeNet, a local response
normalisation. The fully connected layers fc6 and fc7 follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinyfcn import ops
from tinyfcn.backend import Array
from tinyfcn.models.alignment import IMAGE, Grid
from tinyfcn.models.border import Stretch, borders, stretch, stretch_backward
from tinyfcn.models.network import Network
from tinyfcn.ops.norm import Norm
from tinyfcn.ops.pool import pool_output_size


class Conv(NamedTuple):
    name: str
    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1


class Block(NamedTuple):
    convs: tuple[Conv, ...]
    pool: int = 2  # side of the pooling window; its stride is 2
    norm: Norm | None = None  # the local response normalisation that follows the pooling


class Backbone(NamedTuple):
    blocks: tuple[Block, ...]
    fc6: int  # fc6 sees this many units of the last map, vertically and horizontally: all of them, for an image of `image_size`
    image_size: int
    hidden: int = 4096  # channels of fc6 and fc7, where no other number is asked for

    @property
    def convs(self) -> list[Conv]:
        return [conv for block in self.blocks for conv in block.convs]

    def scaled(self, channels: int, width: float) -> int:
        """Hidden channels of a network `width` times as wide as the published one; groups share them evenly."""
        groups = max(conv.groups for conv in self.convs)
        return groups * max(1, round(channels * width / groups))

    def shapes(self, width: float, hidden: int | None = None) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameters, with fc6 and fc7 as convolutions to `hidden` channels."""
        shapes: dict[str, tuple[int, ...]] = {}
        channels_in = 3
        for conv in self.convs:
            channels = self.scaled(conv.channels, width)
            shapes[f"{conv.name}.weight"] = (channels, channels_in // conv.groups, conv.kernel, conv.kernel)
            shapes[f"{conv.name}.bias"] = (channels,)
            channels_in = channels
        hidden = hidden or self.scaled(self.hidden, width)
        return shapes | {
            "fc6.weight": (hidden, channels_in, self.fc6, self.fc6),
            "fc6.bias": (hidden,),
            "fc7.weight": (hidden, hidden, 1, 1),
            "fc7.bias": (hidden,),
        }

    def pool_channels(self, number: int, width: float) -> int:
        """Channels of pool `number`'s output."""
        return self.scaled(self.blocks[number - 1].convs[-1].channels, width)

    def padded(self, first_padding: int) -> Iterator[tuple[int, Block, list[Conv]]]:
        """Number, block and convolutions of each block, with `first_padding` at the very first one."""
        for number, block in enumerate(self.blocks, 1):
            first = [block.convs[0]._replace(padding=first_padding)] if number == 1 else [block.convs[0]]
            yield number, block, [*first, *block.convs[1:]]

    def grids(self, first_padding: int) -> list[Grid]:
        """Where the units of [pool1, pool2, ...] lie in the image."""
        grid, grids = IMAGE, []
        for _, block, convs in self.padded(first_padding):
            for conv in convs:
                grid = grid.window(conv.kernel, conv.stride, conv.padding)
            grid = grid.window(block.pool, stride=2)
            grids.append(grid)
        return grids

    def map_sizes(self, first_padding: int, fc6_padding: int, side: int) -> dict[str, int]:
        """Height (or width) of the map that each layer computes from an image of this height; 0 where nothing is left of it."""
        sizes: dict[str, int] = {}
        for number, block, convs in self.padded(first_padding):
            for conv in convs:
                side = sizes[conv.name] = max(0, (side + 2 * conv.padding - conv.kernel) // conv.stride + 1)
            side = sizes[f"pool{number}"] = max(0, pool_output_size(side, block.pool, stride=2, padding=0, ceil_mode=True))
        return sizes | {"fc6": max(0, side + 2 * fc6_padding - self.fc6 + 1)}

    def borders(self, first_padding: int) -> tuple[list[int], list[Stretch | None]]:
        """Border of each block's maps, and how each block's output is widened, see `tinyfcn.models.border`: VGG only."""
        wide = first_padding > self.convs[0].padding
        plain = all((conv.kernel, conv.stride, conv.padding, conv.groups) == (3, 1, 1, 1) for conv in self.convs)
        if wide and plain and all(block.pool == 2 and block.norm is None for block in self.blocks):
            return borders([len(block.convs) for block in self.blocks], first_padding)
        return [first_padding] * len(self.blocks), [None] * len(self.blocks)

    def forward(self, net: Network, x: Array, first_padding: int) -> list[Array]:
        """Run all blocks with the parameters of `net`; returns [pool1, pool2, ...]. `first_padding` is the first convolution's.

        Where it is wide, the first blocks may run with less, see `tinyfcn.models.border`: their results are the same.
        """
        pools = []
        image_size = x.shape[2:]
        widths, stretches = self.borders(first_padding)
        for number, block, convs in self.padded(widths[0]):
            for conv in convs:
                x = net.conv(conv.name, x, padding=conv.padding, relu=True, stride=conv.stride, groups=conv.groups)
            x = net.pool(f"pool{number}", x, block.pool)
            if block.norm is not None:
                x = net.apply(f"norm{number}", ops.local_response_norm_forward, x, **block.norm._asdict())
            how = stretches[number - 1]
            if how is not None:
                x = net.apply(f"pool{number}.stretch", stretch, x, image_size, how)
            pools.append(x)
        return pools

    def backward(self, net: Network, dpools: dict[int, Array], need_dx: bool = False) -> Array | None:
        """Run the last pooling up to the first convolution. `dpools` holds the gradient that reaches each block's output, by
        number, from outside the trunk; the last must be among them. Returns the gradient at the image if `need_dx`."""
        dx = None
        for number in range(len(self.blocks), 0, -1):
            block = self.blocks[number - 1]
            if number in dpools:
                dx = dpools[number] if dx is None else dx + dpools[number]
            if net.has(f"pool{number}.stretch"):
                dx = stretch_backward(dx, net.take(f"pool{number}.stretch"))
            if block.norm is not None:
                dx = ops.local_response_norm_backward(dx, net.take(f"norm{number}"))
            dx = net.pool_backward(f"pool{number}", dx)
            for conv in reversed(block.convs):
                dx = net.conv_backward(conv.name, dx, need_dx=need_dx or conv is not self.blocks[0].convs[0])
        return dx
