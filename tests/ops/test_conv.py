"""tinyfcn.ops.conv: the two matrices and their products, each against loops over windows and taps."""

import numpy as np
import pytest
import reference
from convolutions import EXACT, draw

from tinyfcn.backend import empty_hwnc
from tinyfcn.ops import conv
from tinyfcn.ops.conv import Geometry

GEOMETRIES = [
    Geometry((3, 3), (1, 1), (1, 1), (1, 1)),
    Geometry((1, 1), (1, 1), (0, 0), (1, 1)),
    Geometry((2, 3), (2, 1), (1, 2), (1, 2)),
    Geometry((2, 2), (1, 3), (4, 0), (3, 1)),  # windows of nothing but padding
]


def places(geometry, rows, width):
    """(row, column) that each output of these rows meets with each tap, in the order of im2col: outputs, then taps."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry
    for r in range(rows.start, rows.stop):
        for c in range(width):
            yield [(r * sh + i * dh - ph, c * sw + j * dw - pw) for i in range(kh) for j in range(kw)]


def inside(x, row, column):
    return 0 <= row < x.shape[2] and 0 <= column < x.shape[3]


@pytest.mark.parametrize("some", [slice(0, None), slice(1, 3)], ids=["all rows", "some rows"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_a_column_holds_what_an_output_sees_and_col2im_adds_it_back(geometry, some):
    x = draw(2, 3, 7, 6)
    height, width = geometry.output_size(x.shape[2:])
    rows = slice(*some.indices(height)[:2])
    columns = conv.im2col(x, geometry, rows, width)  # (C k_h k_w, rows W_out N)
    every = list(places(geometry, rows, width))
    expected = [[[x[:, k, r, c] if inside(x, r, c) else np.zeros(2) for r, c in seen] for k in range(3)] for seen in every]
    np.testing.assert_array_equal(
        columns, np.array(expected).reshape(len(every), -1, 2).transpose(1, 0, 2).reshape(len(columns), -1)
    )

    dx, wanted = draw(*x.shape, seed=1), draw(*x.shape, seed=1)
    conv.col2im(columns, dx, geometry, rows, width)
    for seen in every:
        for r, c in seen:
            if inside(x, r, c):
                wanted[:, :, r, c] += x[:, :, r, c]
    np.testing.assert_allclose(dx, wanted, **EXACT)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_the_products_equal_the_loops(geometry):
    x, weight, bias = draw(2, 3, 7, 6), draw(4, 3, *geometry.kernel), draw(4)
    options = geometry._asdict()
    del options["kernel"]
    y = empty_hwnc(np, (2, 4, *geometry.output_size(x.shape[2:])), x.dtype)
    conv.forward(x, weight, geometry, y, bias)
    np.testing.assert_allclose(y, reference.conv2d(x, weight, bias, **options), **EXACT)
    dy, found = draw(*y.shape, seed=9), empty_hwnc(np, x.shape, x.dtype)
    dx, dweight, _ = reference.conv2d_backward(dy, x, weight, **options)
    np.testing.assert_allclose(conv.backward(dy, x, weight, geometry, found), dweight, **EXACT)
    np.testing.assert_allclose(found, dx, **EXACT)
    np.testing.assert_allclose(conv.backward(dy, x, weight, geometry), dweight, **EXACT)
