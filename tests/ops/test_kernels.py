"""A GPU's kernels give what their twins in NumPy's calls give, at odd sizes, from maps in any order in memory."""

import devices
import numpy as np
import pytest
from devices import get, put

from tinyfcn.backend import empty_hwnc, hwnc
from tinyfcn.ops import activation, conv, kernels, tiles, winograd
from tinyfcn.ops.conv import Geometry

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda t: t.__name__)
GEOMETRIES = pytest.mark.parametrize(
    "geometry",
    [
        Geometry((3, 3), (1, 1), (1, 1), (1, 1)),
        Geometry((7, 6), (1, 1), (3, 2), (1, 1)),
        Geometry((2, 3), (2, 3), (2, 1), (3, 2)),
        Geometry((1, 1), (1, 1), (0, 0), (1, 1)),
        Geometry((5, 5), (4, 4), (0, 0), (1, 1)),
    ],
    ids=str,
)


@pytest.fixture(autouse=True, params=[devices.GPU])
def xp(request):
    with devices.device(request.param) as module:
        yield module


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def by_pixels(a):
    copied = empty_hwnc(np, a.shape, a.dtype)
    copied[...] = a
    return copied


def agree(found, expected):
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(get(found), expected, rtol=0, atol=abs(expected).max() * 100 * np.finfo(expected.dtype).eps)


@DTYPES
@pytest.mark.parametrize("order", [np.ascontiguousarray, by_pixels, lambda a: a[:, ::-1]], ids=["rows", "pixels", "reversed"])
@pytest.mark.parametrize("k", [4, 6])
def test_spectra_of_tiles(dtype, order, k):
    a_t, b_t, _ = winograd.matrices(np, np.dtype(dtype))
    p = b_t if k == 6 else a_t.T
    x = order(draw(2, 5, 9, 14, dtype=dtype))
    for block in (slice(0, 3), slice(0, 4)), (slice(1, 3), slice(2, 4)):
        buffers = tiles.buffers(np, x.dtype, [block], x.shape[0] * x.shape[1])
        expected = tiles.spectra(p, x, block, (2, 1), buffers)
        agree(tiles.spectra(p, put(x), block, (2, 1), None), expected)


@DTYPES
@pytest.mark.parametrize("relu", [False, True])
def test_tiles_are_written_up_to_the_border(dtype, relu):
    a_t, *_ = winograd.matrices(np, np.dtype(dtype))
    m, y = draw(6, 6, 3, 4, 2, 5, dtype=dtype), by_pixels(np.full((2, 5, 10, 15), 7, dtype))
    there, block = put(y.copy()), (slice(0, 3), slice(0, 4))
    tiles.write(a_t, m, y, block, relu, tiles.buffers(np, y.dtype, [block], 10))
    tiles.write(a_t, put(m), there, block, relu, None)
    agree(there, y)


@DTYPES
def test_spectra_of_kernels(dtype):
    weight = draw(7, 5, 3, 3, dtype=dtype)
    for turned in False, True:
        agree(winograd.kernel_spectra(put(weight), turned), winograd.kernel_spectra(weight, turned))
    agree(put(winograd.kernel_spectra(weight[:, :, ::-1, ::-1].swapaxes(0, 1))), winograd.kernel_spectra(weight, turned=True))


@DTYPES
@GEOMETRIES
def test_columns_and_the_way_back(dtype, geometry):
    x = by_pixels(draw(2, 3, 13, 11, dtype=dtype))
    height, width = geometry.output_size(x.shape[2:])
    for rows in slice(0, height), slice(1, height):
        columns = conv.im2col(x, geometry, rows, width)
        agree(kernels.im2col(put(x), geometry, rows, width), columns)
        dx, c = by_pixels(draw(*x.shape, seed=2, dtype=dtype)), draw(*columns.shape, dtype=dtype)
        there = put(dx.copy())
        conv.col2im(c, dx, geometry, rows, width)
        kernels.col2im(put(c), there, geometry, rows, width)
        agree(there, dx)


@DTYPES
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_bias_and_relu(dtype, relu, with_bias):
    outputs, bias = draw(6, 5, dtype=dtype), draw(5, dtype=dtype) if with_bias else None
    outputs[0, 0] = np.nan
    there = put(outputs.copy())
    conv.add_bias(outputs, bias, relu)
    kernels.add_bias(there, None if bias is None else put(bias), relu)
    np.testing.assert_array_equal(get(there), outputs)


def test_a_gate():
    dy, y, found = draw(6, 5), draw(6, 5, seed=1), put(np.empty((6, 5)))
    kernels.gated(put(dy), put(y), found)
    expected = np.empty_like(dy)
    activation.gated(dy, y, expected)
    np.testing.assert_array_equal(get(found), expected)
    np.testing.assert_array_equal(expected, np.where(y > 0, dy, 0))


def test_maps_stay_as_they_lie(xp):
    y = kernels.max_pool_backward(
        *(put(by_pixels(draw(1, 2, *size))) for size in ((2, 2), (4, 4), (2, 2))), (2, 2), (2, 2), (0, 0)
    )
    assert hwnc(y).flags.c_contiguous
