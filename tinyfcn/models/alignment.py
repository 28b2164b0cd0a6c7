r"""Where a feature map's units lie in the image, and so by how much to crop.

The centre of a unit is an affine function of its index, the same one vertically and horizontally: unit j of a map
sees the image around coordinate `stride * j + start` (pixel i of the image has its centre at coordinate i). Composing
the function layer by layer gives FCN's crop offsets, which are often handed down as magic numbers:

- a window of k units at stride s and padding p starts at unit j s - p, so its centre is at unit j s - p + (k - 1) / 2;
- a transposed convolution turns that round: its output unit i has input coordinate (i + p - (k - 1) / 2) / s.

Example, FCN-32s: conv1_1 (k 3, padding 100) puts unit j at j - 99. Five 2x2 poolings make that 32 j - 83.5, fc6 (k 7) makes
it 32 j + 12.5. Upsampling (k 64, s 32) ends at i - 19: pixel 0 of the image is unit 19 of the upsampled map.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from typing import NamedTuple


class Grid(NamedTuple):
    """Unit j's centre lies at image coordinate `stride * j + start`."""

    stride: float
    start: float

    def window(self, kernel: int, stride: int = 1, padding: int = 0) -> Grid:
        """The grid after a convolution or a pooling. (Ceil mode adds units at the end, and moves none.)"""
        return Grid(self.stride * stride, self.start + self.stride * ((kernel - 1) / 2 - padding))

    def upsample(self, kernel: int, stride: int) -> Grid:
        """The grid after a transposed convolution."""
        return Grid(self.stride / stride, self.start - self.stride / stride * (kernel - 1) / 2)

    def offset_to(self, other: Grid) -> int:
        """The unit of this map that lies where unit 0 of the other does; negative where the other begins earlier.

        Raises ValueError where the strides differ, or where units of one fall between those of the other.
        """
        offset = (other.start - self.start) / self.stride
        if self.stride != other.stride or offset != int(offset):
            raise ValueError(f"{self} and {other} have no units at common places")
        return int(offset)


IMAGE = Grid(1, 0)


def align(conv7: Grid, upsamplings: Mapping[str, int], skips: Mapping[str, Grid]) -> tuple[dict[str, int], dict[str, int]]:
    """The size of each upsampling layer's kernel, and by how much to crop each skip's scores, and in the end ("score") all.

    The scores of `conv7` are upsampled by the strides `upsamplings`; after each layer but the last, those of a skip are added.
    A kernel is twice the stride, and one less where the scores' centres lie on pixels and not between them. Where an offset is
    negative, the upsampled scores begin first, and are the ones to crop, by as much.
    """
    grid, kernels, offsets = conv7, {}, {}
    for (name, stride), skip in zip_longest(upsamplings.items(), skips):
        kernels[name] = 2 * stride - (grid.start % 1 == 0)
        grid = grid.upsample(kernels[name], stride)
        if skip is not None:
            offsets[skip] = skips[skip].offset_to(grid)
            grid = grid if offsets[skip] >= 0 else skips[skip]
    return kernels, offsets | {"score": grid.offset_to(IMAGE)}
