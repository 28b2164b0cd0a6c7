"""tinyfcn.models.border: which rows are constant, found without its formulas, and maps that equal those of wider borders."""

import numpy as np
import pytest
from networks import spread

from tinyfcn import ops
from tinyfcn.models import FCN8s, FCN8sAtOnce, FCN16s, FCN32s
from tinyfcn.models.border import Stretch, borders, stretch, stretch_backward
from tinyfcn.models.vgg import BLOCKS

VGG16 = [2, 2, 3, 3, 3]
CHAINS = {
    "VGG16": (VGG16, 100),
    "VGG16, a narrow border": (VGG16, 9),
    "three blocks": ([2, 2, 3], 61),
    "shallow": ([2, 1, 1], 40),
    "mixed": ([1, 3, 2], 55),
}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def test_the_borders_of_vgg16():
    assert [convolutions for _, convolutions in BLOCKS] == VGG16
    widths, stretches = borders(VGG16, 100)
    assert widths == [8, 20, 52, 100, 100]
    assert [how and (how.stride, how.copies) for how in stretches] == [(2, 6), (4, 8), (8, 6), None, None]


@pytest.mark.parametrize("padding", [0, 1, 2, 6, 7, 8])
def test_a_narrow_border_is_not_stretched(padding):
    assert borders(VGG16, padding) == ([padding] * 5, [None] * 5)


# Which rows are constant: those that nothing has reached from the image, nor from the zeros that layers add at the map's edges.
# NaN shows what reaches where, through the operations themselves. Rows alone, on maps three pixels wide.

WEIGHT = np.ones((1, 1, 3, 3))


def constant_rows(blocks, border, height):
    """For the output of these blocks, with `border` zeros around an image of `height`: is each row constant?"""
    x = np.zeros((1, 1, height + 2 * border, 3))
    x[:, :, border : border + height] = np.nan
    first = True
    for convolutions in blocks:
        for _ in range(convolutions):
            if not first:
                x = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)), constant_values=np.nan)
            first = False
            x, _ = ops.conv2d_forward(x, WEIGHT, padding=(0, 1))
        x, _ = ops.max_pool2d_forward(x, 2, stride=2, ceil_mode=True)
    return ~np.isnan(x).any(axis=(0, 1, 3))


def runs(flags):
    """Where runs of True begin and end."""
    steps = np.diff(np.concatenate([[0], flags.astype(int), [0]]))
    return list(zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True))


@pytest.mark.parametrize("chain", CHAINS)
def test_each_border_is_the_least_that_leaves_constant_rows_on_both_sides_of_any_image(chain):
    blocks, padding = CHAINS[chain]
    widths, stretches = borders(blocks, padding)
    assert len(widths) == len(stretches) == len(blocks) and widths[-1] == padding and stretches[-1] is None
    for k in range(len(blocks) - 1):
        stride = 2 ** (k + 1)

        def enough(border, k=k, stride=stride):
            heights = range(1, stride + 1)  # in every place relative to the pooling windows
            return all(len(runs(constant_rows(blocks[: k + 1], border, height))) == 2 for height in heights)

        candidates = range(widths[k + 1] % stride or stride, widths[k + 1], stride)
        assert widths[k] == next(filter(enough, candidates), widths[k + 1])
        assert (stretches[k] is None) == (widths[k] == widths[k + 1])


@pytest.mark.parametrize("chain", CHAINS)
def test_the_rows_to_repeat_are_the_first_constant_ones_before_and_after_the_image(chain):
    blocks, padding = CHAINS[chain]
    widths, stretches = borders(blocks, padding)
    for k, how in enumerate(stretches):
        for height in range(1, 20) if how else ():
            (before, _), (after, _) = runs(constant_rows(blocks[: k + 1], widths[k], height))
            assert how.places(height) == (before, after)
            assert how.copies * how.stride == widths[k + 1] - widths[k]


# Maps.


def block_maps(x, blocks, border, weights):
    """The output of these blocks: convolutions with bias and ReLU, the first with `border`, and pooling."""
    weights = iter(weights)
    for k, convolutions in enumerate(blocks):
        for j in range(convolutions):
            weight, bias = next(weights)
            x, _ = ops.conv2d_forward(x, weight, bias, padding=border if k == j == 0 else 1, relu=True)
        x, _ = ops.max_pool2d_forward(x, 2, stride=2, ceil_mode=True)
    return x


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (7, 3), (16, 9), (31, 12)], ids=str)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_stretched_map_is_that_of_the_wider_border(depth, size):
    widths, stretches = borders(VGG16, 100)
    weights = [(draw(2, 2 if k else 3, 3, 3, seed=k) / 3, draw(2, seed=k) + 0.3) for k in range(sum(VGG16[:depth]))]
    x, how = draw(2, 3, *size), stretches[depth - 1]
    narrow, wide = (block_maps(x, VGG16[:depth], border, weights) for border in widths[depth - 1 : depth + 1])
    y, _ = stretch(narrow, size, how)
    assert y.shape == wide.shape and narrow.shape != wide.shape and wide.any()
    np.testing.assert_allclose(y, wide, rtol=1e-11, atol=1e-11)


def test_stretch_repeats_one_row_and_one_column_on_either_side():
    """By hand: at stride 2 the units 1 and 1 + 6 / 2 of an image of 6 rows, 1 and 1 + 2 / 2 of one of 2 columns."""
    how = Stretch(stride=2, before=1, after=1, copies=2)
    assert how.places(6) == (1, 4) and how.places(2) == (1, 2)
    rows = np.arange(6.0)[:, None] + 10 * np.arange(4.0)
    y, cache = stretch(rows[None, None], (6, 2), how)
    down, across = [0, 1, 1, 1, 2, 3, 4, 4, 4, 5], [0, 1, 1, 1, 2, 2, 2, 3]
    np.testing.assert_array_equal(y[0, 0], np.array(down)[:, None] + 10 * np.array(across))
    dx = stretch_backward(np.ones_like(y), cache)
    np.testing.assert_array_equal(dx[0, 0], np.outer([1, 3, 1, 1, 3, 1], [1, 3, 3, 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (13, 2)], ids=str)
@pytest.mark.parametrize("block", [0, 1, 2])
def test_stretch_backward_is_the_adjoint(block, size, dtype):
    how = borders(VGG16, 100)[1][block]
    last = [place + 3 for place in (how.places(size[0])[1], how.places(size[1])[1])]  # with units after the last constant one
    x = draw(2, 3, *last).astype(dtype)
    y, cache = stretch(x, size, how)
    assert y.shape == (2, 3, *(extent + 2 * how.copies for extent in last)) and y.dtype == dtype
    dy = draw(*y.shape, seed=1).astype(dtype)
    dx = stretch_backward(dy, cache)
    assert dx.shape == x.shape and dx.dtype == dtype
    np.testing.assert_allclose(np.vdot(dx, x), np.vdot(dy, y), rtol=1e-12 if dtype is np.float64 else 1e-3)


# Networks.


def passes(net, x, dscores):
    scores = net.forward(x, training=True)
    dx = net.backward(dscores, need_dx=True)
    return {"scores": scores, "dx": dx} | net.grads


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (31, 64), (70, 41)], ids=str)
def test_a_network_is_the_same_with_and_without_stretching(monkeypatch, size):
    net = spread(FCN8s(3, width=1 / 32, padding="paper", dropout=0, learn_upsampling="all", dtype=np.float64))
    x, dscores = draw(2, 3, *size), draw(2, 3, *size, seed=1)
    found = passes(net, x, dscores)
    asked = []

    def none(blocks, padding):
        asked.append((list(blocks), padding))
        return [padding] * len(blocks), [None] * len(blocks)

    monkeypatch.setattr("tinyfcn.models.backbone.borders", none)
    expected = passes(net, x, dscores)
    assert asked == [(VGG16, 100)]
    assert found.keys() == expected.keys() == net.params.keys() | {"scores", "dx"}
    for name, value in expected.items():
        assert abs(value).max() > 0, name
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-10 * abs(value).max(), err_msg=name)


@pytest.mark.parametrize("kind", [FCN32s, FCN16s, FCN8s, FCN8sAtOnce])
@pytest.mark.parametrize("size", [(9, 34)], ids=str)
def test_every_network_gives_the_same_scores_without_stretching(monkeypatch, kind, size):
    net = spread(kind(3, width=1 / 32, padding="paper", dtype=np.float64))
    found = net.forward(draw(1, 3, *size))
    monkeypatch.setattr("tinyfcn.models.backbone.borders", lambda blocks, padding: ([padding] * 5, [None] * 5))
    expected = net.forward(draw(1, 3, *size))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * abs(expected).max())
