"""What the tests of the ways to convolve share."""

import numpy as np
import reference
from devices import ops

from tinyfcn.backend import hwnc
from tinyfcn.ops import conv2d

EXACT = {"rtol": 1e-11, "atol": 1e-11}


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def force(monkeypatch, way):
    """Let every convolution be computed in one way."""
    monkeypatch.setattr(conv2d, "choose", lambda *_: way)


def without_groups(weight, groups):
    """The weights of the same convolution without groups, 0 between different groups, and the places of those that are not."""
    filters, channels = weight.shape[:2]
    o = np.arange(filters)[:, None]
    places = o, o * groups // filters * channels + np.arange(channels)
    full = np.zeros((filters, groups * channels, *weight.shape[2:]))
    full[places] = weight
    return full, places


def agree_with_reference(x, weight, bias, groups=1, relu=False, **options):
    full, places = without_groups(weight, groups)
    y, cache = ops.conv2d_forward(x, weight, bias, groups=groups, relu=relu, **options)
    expected = reference.conv2d(x, full, bias, **options)
    passes = expected > 0 if relu else True
    np.testing.assert_allclose(y, np.where(passes, expected, 0), **EXACT)
    dy = draw(*y.shape, seed=9)
    kept = dy.copy()
    dx, dweight, dbias = reference.conv2d_backward(np.where(passes, dy, 0), x, full, **options)
    gradients = ops.conv2d_backward(dy, cache)
    for name, found, wanted in zip(("dx", "dweight", "dbias"), gradients, (dx, dweight[places], dbias), strict=True):
        if name == "dbias" and bias is None:
            assert found is None
        else:
            np.testing.assert_allclose(found, wanted, **EXACT, err_msg=name)
    np.testing.assert_array_equal(dy, kept)
    nothing, same, _ = ops.conv2d_backward(dy, cache, need_dx=False)
    assert nothing is None and (same == gradients[1]).all()
    assert all(hwnc(a).flags.c_contiguous for a in (y, gradients[0]))  # they lie pixel by pixel
    return y


def poison(monkeypatch):
    """Fill memory that is taken without being set with NaN: whatever reads it shows."""
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float, order="C": np.full(shape, np.nan, dtype, order))
