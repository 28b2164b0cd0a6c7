"""Where a map's units lie in the image, and the crops that follow from it."""

import numpy as np
import pytest

from tinyfcn.models import FCN8s, FCN8sAtOnce, FCN16s, FCN32s
from tinyfcn.models.alignment import IMAGE, Grid
from tinyfcn.models.vgg import VGG

NETS = (FCN32s, FCN16s, FCN8s, FCN8sAtOnce)


@pytest.mark.parametrize(
    "net, offsets",
    [
        (FCN32s, {"score": 19}),
        (FCN16s, {"score_pool4": 5, "score": 27}),
        (FCN8s, {"score_pool4": 5, "score_pool3": 9, "score": 31}),
        (FCN8sAtOnce, {"score_pool4": 5, "score_pool3": 9, "score": 31}),
    ],
)
def test_crop_offsets_are_the_published_ones(net, offsets):
    assert net(2, width=1 / 64).offsets == offsets


@pytest.mark.parametrize(
    "net, offsets",
    [
        (FCN32s, {"score": 16}),
        (FCN16s, {"score_pool4": -1, "score": 8}),
        (FCN8s, {"score_pool4": -1, "score_pool3": -1, "score": 4}),
    ],
)
def test_crop_offsets_with_same_padding(net, offsets):
    assert net(2, width=1 / 64, padding="same").offsets == offsets


def test_scores_of_the_32s_lie_at_32_j_plus_12_5():
    assert VGG.grids(100)[-1].window(7) == Grid(32, 12.5)
    assert VGG.grids(1)[-1].window(7, padding=3) == Grid(32, 15.5)


def test_alexnet_32s_crops_18():
    # CaffeNet with conv1 padded by 100: conv 11/4, pool 3/2, conv 5, pool 3/2, three convs 3, pool 3/2, fc6 6x6, up 63/32
    grid = IMAGE.window(11, 4, 100).window(3, 2).window(5, 1, 2).window(3, 2)
    grid = grid.window(3, 1, 1).window(3, 1, 1).window(3, 1, 1).window(3, 2).window(6)
    assert grid.upsample(63, 32).offset_to(IMAGE) == 18


def test_a_window_grid_agrees_with_the_centres_of_its_windows():
    pixels = np.arange(50.0)
    first, second = Grid(1, 0).window(5, 3, 2), Grid(1, 0).window(5, 3, 2).window(2, 2, 0)
    padded = np.concatenate([[-2, -1], pixels, [50, 51]])
    centres = np.array([padded[3 * j : 3 * j + 5].mean() for j in range(10)])
    assert np.allclose(centres, [first.stride * j + first.start for j in range(10)])
    centres = np.array([centres[2 * j : 2 * j + 2].mean() for j in range(5)])
    assert np.allclose(centres, [second.stride * j + second.start for j in range(5)])


def test_grids_without_common_places_are_refused():
    with pytest.raises(ValueError, match="no units at common places"):
        Grid(2, 0).offset_to(Grid(2, 0.5))
    with pytest.raises(ValueError, match="no units at common places"):
        Grid(2, 0).offset_to(Grid(4, 0))


def passing_through(net):
    """Set the weights so that every convolution hands on channel 0, and every score is channel 0.

    Each max pooling of a ramp takes the larger of two neighbours, which lies half a step of its input after the centre.
    """
    for name, p in net.params.items():
        p[...] = 0
        if name.endswith("weight"):
            p[0, 0, p.shape[2] // 2, p.shape[3] // 2] = 1
    return net


@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("kind", NETS)
def test_a_ramp_comes_back_exactly_where_it_was(kind, axis, padding):
    """The image whose pixels are their own coordinate, through the whole net: an aligned net gives each pixel its own
    coordinate back (plus what max pooling adds), away from the border."""
    net = passing_through(kind(1, width=1 / 64, padding=padding, dropout=0, dtype=np.float64))
    size = [1, 3, 200, 200]
    size[axis] = 400
    ramp = np.broadcast_to(np.arange(400.0).reshape([-1 if a == axis else 1 for a in range(4)]), size)
    shift = {"pool5": 0.5 * 31, "score_pool4": 0.5 * 15, "score_pool3": 0.5 * 7}  # half a step at each pooling
    streams = {"pool5": 1.0} | {skip: net.skip_scales.get(skip, 1.0) for skip in net.skips}
    scores = np.moveaxis(net.forward(np.ascontiguousarray(ramp)), axis, -1)[0, 0]
    middle = np.arange(120, 280)
    expected = sum(scale * (middle + shift[name]) for name, scale in streams.items())
    assert np.allclose(scores[100, middle], expected, rtol=0, atol=1e-9)
