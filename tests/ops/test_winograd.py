"""tinyfcn.ops.winograd: its constants in exact fractions, values and gradients against loops, rounding, cutting, threads."""

from fractions import Fraction
from math import prod

import numpy as np
import pytest
import reference
from devices import ops
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyfcn.errors import InputError
from tinyfcn.gradcheck import check_gradient
from tinyfcn.ops import tiles, winograd

pytestmark = pytest.mark.usefixtures("device")

CLOSE = {"rtol": 1e-10, "atol": 1e-10}
QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)

POINTS = [Fraction(p) for p in (0, 1, -1, 2, -2)]  # and infinity


@pytest.fixture(autouse=True, scope="module")
def winograd_wherever_it_can():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinyfcn.ops.conv2d.SMALL", 0)
        patch.setattr("tinyfcn.ops.conv2d.WINOGRAD_CHANNELS", 1)
        patch.setattr("tinyfcn.ops.conv2d.WINOGRAD_PIXELS", 1)
        patch.setattr("tinyfcn.ops.winograd.LEAST_CHANNELS", 1)
        patch.setattr("tinyfcn.ops.winograd.cost", lambda *_: 0)
        patch.setattr("tinyfcn.ops.tiles.WORTH_WAKING_BYTES", 1)  # small maps, too, are shared between threads
        patch.delenv("TINYFCN_CONV", raising=False)
        yield


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


# The constants, in exact fractions.


def values_at_the_points(n):
    """V_n: takes the n coefficients of a polynomial to its values at the points, and at infinity to the leading one."""
    return np.array([[p**k for k in range(n)] for p in POINTS] + [[Fraction(k == n - 1) for k in range(n)]], object)


def inverted(matrix):
    """Gauss and Jordan's elimination."""
    n = len(matrix)
    rows = [[*row, *(Fraction(j == i) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(r for r in range(column, n) if rows[r][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [entry / rows[column][column] for entry in rows[column]]
        for r in range(n):
            if r != column:
                rows[r] = [a - rows[r][column] * b for a, b in zip(rows[r], rows[column], strict=True)]
    return np.array([row[n:] for row in rows], object)


DENOMINATORS = [prod(p - q for q in POINTS if q != p) for p in POINTS] + [Fraction(1)]
A = values_at_the_points(4)
G = np.array([[entry / f for entry in row] for row, f in zip(values_at_the_points(3), DENOMINATORS, strict=True)], object)
B_T = np.array([[e * f for e in row] for row, f in zip(inverted(values_at_the_points(6)).T, DENOMINATORS, strict=True)], object)


def test_the_constants_are_those_of_the_derivation():
    assert (winograd.A_T == A.T).all()
    assert (winograd.B_T == B_T).all()
    np.testing.assert_array_equal(winograd.G, G.astype(float))  # each fraction's nearest float
    assert (A[winograd.POINT_ONE] == 1).all()  # where a bias may be added


def fractions(*shape, seed=0):
    rng = np.random.default_rng([seed, *shape])
    tops, bottoms = rng.integers(-99, 100, shape), rng.integers(1, 100, shape)
    return np.array([Fraction(int(a), int(b)) for a, b in zip(tops.flat, bottoms.flat, strict=True)], object).reshape(shape)


def correlated(d, g):
    """The definition, for a tile d (6, ...) and a kernel g (3, ...) of one or two axes."""
    size = tuple(a - b + 1 for a, b in zip(d.shape, g.shape, strict=True))
    y = np.full(size, Fraction(0), object)
    for out in np.ndindex(size):
        for tap in np.ndindex(g.shape):
            y[out] += g[tap] * d[tuple(i + j for i, j in zip(out, tap, strict=True))]
    return y


@pytest.mark.parametrize("seed", range(5))
def test_six_products_make_four_outputs_exactly(seed):
    d, g = fractions(6, seed=seed), fractions(3, seed=seed)
    assert (winograd.A_T @ ((G @ g) * (winograd.B_T @ d)) == correlated(d, g)).all()


@pytest.mark.parametrize("seed", range(5))
def test_36_products_make_a_tile_exactly_and_the_transposes_its_gradient(seed):
    d, g, dy = fractions(6, 6, seed=seed), fractions(3, 3, seed=seed), fractions(4, 4, seed=seed)
    v = winograd.B_T @ d @ winograd.B_T.T
    assert (winograd.A_T @ ((G @ g @ G.T) * v) @ winograd.A_T.T == correlated(d, g)).all()
    dg = G.T @ ((winograd.A_T.T @ dy @ winograd.A_T) * v) @ G
    assert (dg == correlated(d, dy)).all()  # each weight meets the inputs that it was multiplied with


# Values and gradients.


def agree_with_reference(x, weight, bias, padding, relu=False):
    y, cache = ops.conv2d_forward(x, weight, bias, padding=padding, relu=relu)
    expected = reference.conv2d(x, weight, bias, padding=padding)
    dy = draw(*y.shape, seed=9)
    taken = dy
    if relu:
        taken = dy * (expected > 0)
        expected = np.where(expected > 0, expected, 0)
    np.testing.assert_allclose(y, expected, **CLOSE)
    wanted = reference.conv2d_backward(taken, x, weight, padding=padding)
    gradients = ops.conv2d_backward(dy, cache)
    for name, a, b in zip(("dx", "dweight", "dbias"), gradients, wanted, strict=True):
        if name == "dbias" and bias is None:
            assert a is None
        else:
            np.testing.assert_allclose(a, b, **CLOSE, err_msg=name)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("size", range(1, 15))
def test_every_height_and_width_equals_the_loops(size, relu):
    agree_with_reference(draw(2, 2, size, 15 - size), draw(3, 2, 3, 3), draw(3), 1, relu)


@pytest.mark.parametrize("padding", [(0, 0), (2, 2), (3, 3), (4, 4), (0, 4), (3, 1), (2, 0), (4, 1)], ids=str)
def test_every_padding_equals_the_loops(padding):
    """From 3 on, the gradient at the input leaves out the border of dy, which no input is seen by."""
    for size in (3, 3), (4, 9), (10, 5):
        agree_with_reference(draw(1, 2, *size), draw(2, 2, 3, 3), draw(2), padding)


@pytest.mark.parametrize("padding", [1, (3, 4)], ids=str)
def test_one_pixel(padding):
    agree_with_reference(draw(1, 1, 1, 1), draw(1, 1, 3, 3), draw(1), padding)


@st.composite
def convolutions(draw_from):
    padding = draw_from(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    size = [draw_from(st.integers(max(1, 3 - 2 * p), 14)) for p in padding]
    counts = draw_from(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 5)))
    return counts, size, padding


@QUICK
@given(convolutions(), st.booleans(), st.booleans())
def test_any_shape_and_padding_equals_the_loops(case, with_bias, relu):
    (images, channels, filters), size, padding = case
    bias = draw(filters) if with_bias else None
    agree_with_reference(draw(images, channels, *size), draw(filters, channels, 3, 3), bias, padding, relu)


def test_relu_of_zero_passes_no_gradient():
    y, cache = ops.conv2d_forward(draw(1, 2, 6, 6), np.zeros((3, 2, 3, 3)), np.array([0.0, 1.0, -1.0]), padding=1, relu=True)
    assert [set(y[0, k].flat) for k in range(3)] == [{0.0}, {1.0}, {0.0}]
    assert list(ops.conv2d_backward(np.ones_like(y), cache)[2]) == [0, 36, 0]


def test_batch_of_none_gives_zero_gradients():
    y, cache = ops.conv2d_forward(draw(0, 2, 5, 6), draw(3, 2, 3, 3), draw(3), padding=1)
    dx, dweight, dbias = ops.conv2d_backward(y, cache)
    assert y.shape == (0, 3, 5, 6) and dx.shape == (0, 2, 5, 6)
    assert dweight.shape == (3, 2, 3, 3) and not dweight.any() and dbias.shape == (3,) and not dbias.any()


def test_without_dx_the_other_gradients_are_the_same():
    y, cache = ops.conv2d_forward(draw(2, 3, 7, 6), draw(2, 3, 3, 3), draw(2), padding=1)
    dx, *others = ops.conv2d_backward(draw(*y.shape), cache, need_dx=False)
    assert dx is None
    for a, b in zip(others, ops.conv2d_backward(draw(*y.shape), cache)[1:], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(dtype):
    x, weight, bias = (draw(*s, dtype=dtype) for s in [(2, 3, 6, 5), (4, 3, 3, 3), (4,)])
    y, cache = ops.conv2d_forward(x, weight, bias, padding=1, relu=True)
    assert {a.dtype for a in (y, *ops.conv2d_backward(y, cache))} == {np.dtype(dtype)}


LAYOUTS = {
    "images apart": np.ascontiguousarray,
    "pixel by pixel": lambda a: np.ascontiguousarray(a.transpose(2, 3, 0, 1)).transpose(2, 3, 0, 1),
    "channels last": lambda a: np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "columns first": np.asfortranarray,
    "with gaps": lambda a: np.repeat(np.repeat(a, 2, 1), 3, 3)[:, ::2, :, ::3],
    "turned round": lambda a: np.ascontiguousarray(a[:, ::-1, ::-1, ::-1])[:, ::-1, ::-1, ::-1],
    "one value seen at every place": lambda a: np.broadcast_to(a[:, :, :1, :1], a.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_only_arrays_of_any_layout_are_taken_and_left_unchanged(layout):
    laid = [LAYOUTS[layout](a) for a in (draw(2, 3, 9, 6), draw(4, 3, 3, 3), draw(2, 4, 9, 6, seed=1))]
    kept = [a.copy() for a in laid]
    for a in laid:
        a.flags.writeable = False
    x, weight, dy = laid
    bias = np.repeat(draw(4), 2)[::-2]
    for relu in False, True:
        y, cache = ops.conv2d_forward(x, weight, bias, padding=1, relu=relu)
        expected = reference.conv2d(*kept[:2], bias, padding=1)
        np.testing.assert_allclose(y, np.maximum(expected, 0) if relu else expected, **CLOSE)
        wanted = reference.conv2d_backward(kept[2] * (expected > 0) if relu else kept[2], *kept[:2], padding=1)
        for a, b in zip(ops.conv2d_backward(dy, cache), wanted, strict=True):
            np.testing.assert_allclose(a, b, **CLOSE)
    for a, b in zip(laid, kept, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize(("size", "padding"), [((7, 6), 1), ((5, 9), (3, 0)), ((2, 1), 2)], ids=str)
def test_gradient_check(size, padding, relu):
    options = {"padding": padding, "relu": relu}
    x, weight = np.asfortranarray(draw(2, 3, *size)), draw(2, 3, 3, 3)
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, weight, draw(2), **options)
    check_gradient(ops.conv2d_forward, ops.conv2d_backward, x, weight, None, **options)


# Rounding.


def in_float64(x, weight, dy):
    """y, dx and dweight for padding 1, tap by tap."""
    x, weight, dy = (a.astype(np.float64) for a in (x, weight, dy))
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y, dwide, dweight = np.zeros(dy.shape), np.zeros(wide.shape), np.zeros(weight.shape)
    for i, j in np.ndindex(3, 3):
        seen = (..., slice(i, i + x.shape[2]), slice(j, j + x.shape[3]))
        y += np.tensordot(weight[:, :, i, j], wide[seen], (1, 1)).swapaxes(0, 1)
        dwide[seen] += np.tensordot(weight[:, :, i, j], dy, (0, 1)).swapaxes(0, 1)
        dweight[:, :, i, j] = np.tensordot(dy, wide[seen], ((0, 2, 3), (0, 2, 3)))
    return y, dwide[:, :, 1:-1, 1:-1], dweight


def test_float32_is_exact_to_five_digits_of_the_largest_value_with_512_channels():
    x, dy = draw(1, 512, 10, 9, dtype=np.float32), draw(1, 512, 10, 9, seed=1, dtype=np.float32)
    weight = (draw(512, 512, 3, 3) * (2 / (512 * 9)) ** 0.5).astype(np.float32)
    y, cache = ops.conv2d_forward(x, weight, padding=1)
    dx, dweight, _ = ops.conv2d_backward(dy, cache)
    for name, found, expected in zip(("y", "dx", "dweight"), (y, dx, dweight), in_float64(x, weight, dy), strict=True):
        assert abs(found - expected).max() < 2e-5 * abs(expected).max(), name


# Cutting into blocks, and threads.

# Threads share the blocks of a large map, and the filters where channels are many.
BIG = {"x": draw(2, 5, 17, 23), "weight": draw(4, 5, 3, 3), "bias": draw(4), "dy": draw(2, 4, 17, 23, seed=1)}
DEEP = {"x": draw(1, 17, 4, 6), "weight": draw(15, 17, 3, 3), "bias": draw(15), "dy": draw(1, 15, 4, 6, seed=1)}
SHAPES = {"a large map": BIG, "many channels": DEEP}


def passes(x, weight, bias, dy, relu=False):
    y, cache = ops.conv2d_forward(x, weight, bias, padding=1, relu=relu)
    return y, *ops.conv2d_backward(dy, cache)


@pytest.fixture(scope="module")
def expected():
    found = {}
    for shape, a in SHAPES.items():
        y = reference.conv2d(a["x"], a["weight"], a["bias"], padding=1)
        for relu, dy in (False, a["dy"]), (True, a["dy"] * (y > 0)):
            gradients = reference.conv2d_backward(dy, a["x"], a["weight"], padding=1)
            found[shape, relu] = (np.maximum(y, 0) if relu else y, *gradients)
    return found


def agree_with_expected(found, expected):
    for name, a, b in zip(("y", "dx", "dweight", "dbias"), found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * abs(b).max(), err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("band", [(1, 48), (1, 1), (1, 4), (36 * 5 * 8 * 7, 48), (36 * 5 * 8 * 7, 5), (1 << 30, 48)], ids=str)
@pytest.mark.parametrize(("shape", "relu"), [("a large map", False), ("many channels", False), ("many channels", True)])
def test_blocks_and_threads_change_nothing(monkeypatch, expected, shape, relu, band, threads):
    monkeypatch.setattr(tiles, "BLOCK_BYTES", band[0])
    monkeypatch.setattr(tiles, "BLOCK_WIDTH", band[1])
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    first = passes(**SHAPES[shape], relu=relu)
    agree_with_expected(first, expected[shape, relu])
    for a, b in zip(passes(**SHAPES[shape], relu=relu), first, strict=True):
        np.testing.assert_array_equal(a, b)  # the same bits


@pytest.mark.parametrize("shape", SHAPES)
def test_one_thread_where_another_is_not_worth_waking_up(monkeypatch, expected, shape):
    monkeypatch.setattr(tiles, "WORTH_WAKING_BYTES", 1 << 30)
    monkeypatch.setenv("TINYFCN_THREADS", "3")
    agree_with_expected(passes(**SHAPES[shape], relu=True), expected[shape, True])


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_share_the_transform_of_many_kernels(monkeypatch, expected, shape):
    monkeypatch.setattr(winograd, "MANY_KERNELS", 1)
    monkeypatch.setenv("TINYFCN_THREADS", "3")
    agree_with_expected(passes(**SHAPES[shape]), expected[shape, False])


@pytest.mark.parametrize("band", [1, 36 * 5 * 8 * 7, 1 << 30])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (9, 14), (1, 30)], ids=str)
def test_memory_is_set_before_it_is_read(monkeypatch, size, band):
    """Scratch arrays are taken once a thread, and used again for blocks of other sizes."""
    monkeypatch.setattr(tiles, "BLOCK_BYTES", band)
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float, order="C": np.full(shape, np.nan, dtype, order))
    found = passes(draw(2, 3, *size), draw(4, 3, 3, 3), draw(4), draw(2, 4, *size, seed=1), relu=True)
    assert all(np.isfinite(a).all() for a in found)


# Which path is taken.


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
def test_both_paths_agree(monkeypatch, relu):
    results = []
    for path in "plain", "fast":
        monkeypatch.setenv("TINYFCN_CONV", path)
        results.append(passes(**BIG, relu=relu))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)
    assert results[0][0].strides == results[1][0].strides  # both pixel by pixel
    assert any((a != b).any() for a, b in zip(*results, strict=True))  # there are two


def fail(*arguments, **options):
    raise ZeroDivisionError("Winograd's way was taken")


def test_plain_never_goes_winograd_s_way(monkeypatch):
    y, cache = ops.conv2d_forward(BIG["x"], BIG["weight"], padding=1)
    monkeypatch.setattr(winograd, "forward", fail)
    monkeypatch.setattr(winograd, "backward", fail)
    for path in None, "fast":
        monkeypatch.delenv("TINYFCN_CONV", raising=False)
        if path is not None:
            monkeypatch.setenv("TINYFCN_CONV", path)
        with pytest.raises(ZeroDivisionError):
            ops.conv2d_forward(BIG["x"], BIG["weight"], padding=1)
        with pytest.raises(ZeroDivisionError):
            ops.conv2d_backward(y, cache)
    monkeypatch.setenv("TINYFCN_CONV", "plain")
    passes(**BIG)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3), {"stride": 2}),
        ((3, 3), {"stride": (1, 2)}),
        ((3, 3), {"dilation": (2, 1)}),
        ((3, 1), {}),
        ((1, 1), {}),
        ((5, 5), {"padding": 2}),
    ],
    ids=str,
)
def test_other_kernels_strides_and_dilations_go_the_plain_way(monkeypatch, kernel, options):
    monkeypatch.setattr(winograd, "forward", fail)
    monkeypatch.setattr(winograd, "backward", fail)
    y, cache = ops.conv2d_forward(BIG["x"], draw(4, 5, *kernel), **options)
    ops.conv2d_backward(y, cache)


@pytest.mark.parametrize("value", ["", "winograd", "Plain", "1"])
def test_another_path_is_refused_by_name(monkeypatch, value):
    monkeypatch.setenv("TINYFCN_CONV", value)
    with pytest.raises(InputError, match=f"TINYFCN_CONV must be fast, columns or plain, got '{value}'"):
        ops.conv2d_forward(BIG["x"], BIG["weight"], padding=1)
