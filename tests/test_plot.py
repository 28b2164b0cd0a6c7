"""tinyfcn.plot: the pictures that are computed; those that Matplotlib draws are tested where commands write them."""

import numpy as np

from tinyfcn import plot
from tinyfcn.data import palette


def test_overlays_are_made_piece_by_piece():
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (301, 700, 3), dtype=np.uint8), rng.integers(0, 7, (301, 700), dtype=np.uint8)
    for background in None, 0:
        tinted = image + 0.55 * (palette()[label].astype(np.float32) - image)
        expected = np.where((label == background)[..., None], image, tinted).round().astype(np.uint8)
        assert np.array_equal(plot.overlay(image, label, background), expected)
