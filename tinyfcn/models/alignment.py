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
