"""tinyfcn.ops.columns: bands, blocks of weights and threads change nothing."""

import numpy as np
import pytest
import reference
from convolutions import agree_with_reference, draw, force, poison
from devices import ops

from tinyfcn.ops import columns, conv

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("band", [(1, 1), (200, 1), (1, 10**4), (2000, 5)], ids=str)
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": (3, 2), "padding": (2, 1), "dilation": 2}], ids=str)
def test_the_size_of_a_band_changes_nothing(monkeypatch, band, options):
    force(monkeypatch, columns)
    monkeypatch.setattr(columns, "BAND_BYTES", band[0])
    monkeypatch.setattr(columns, "BAND_COLUMNS", band[1])
    agree_with_reference(draw(5, 2, 8, 7), draw(3, 2, 3, 3), draw(3), **options)


# Threads share bands, filters (where bands are few), or input channels (where a sum for each thread would take much memory).
CASES = {
    "3x3": ((5, 2, 8, 7), (3, 2, 3, 3), {"padding": 1}),
    "all options": ((2, 3, 9, 8), (4, 3, 2, 3), {"stride": (3, 2), "padding": (2, 1), "dilation": 2}),
    "one output": ((1, 5, 4, 3), (7, 5, 4, 3), {}),
    "1x1": ((2, 6, 3, 4), (5, 6, 1, 1), {}),
}


@pytest.fixture(scope="module")
def expected():
    found = {}
    for name, (x_shape, w_shape, options) in CASES.items():
        x, weight = draw(*x_shape), draw(*w_shape)
        y = reference.conv2d(x, weight, draw(w_shape[0]), **options)
        found[name] = y, *reference.conv2d_backward(draw(*y.shape, seed=9), x, weight, **options)
    return found


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("band", [(1, 1), (1, 20), (500, 1), (1 << 22, 256)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_bands_and_threads_change_nothing_and_the_bits_are_the_same_every_run(monkeypatch, expected, case, band, threads):
    force(monkeypatch, columns)
    for name, value in ("BAND_BYTES", band[0]), ("BAND_COLUMNS", band[1]), ("SHARED_BYTES", 0):
        monkeypatch.setattr(columns, name, value)
    monkeypatch.setenv("TINYFCN_THREADS", str(threads))
    x_shape, w_shape, options = CASES[case]
    runs = []
    for _ in range(2):
        y, cache = ops.conv2d_forward(draw(*x_shape), draw(*w_shape), draw(w_shape[0]), **options)
        runs.append([y, *ops.conv2d_backward(draw(*y.shape, seed=9), cache)])
    for first, second, wanted in zip(*runs, expected[case], strict=True):
        np.testing.assert_allclose(first, wanted, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("block", [1, 7 * 12 * 8 * 2])
def test_weights_in_blocks_change_nothing(monkeypatch, expected, block):
    """Blocks of one or two input channels, as of weights that take much memory."""
    force(monkeypatch, columns)
    monkeypatch.setattr(columns, "BAND_BYTES", 1)
    monkeypatch.setattr(columns, "BLOCK_BYTES", block)
    x_shape, w_shape, options = CASES["one output"]
    y, cache = ops.conv2d_forward(draw(*x_shape), draw(*w_shape), draw(w_shape[0]), **options)
    found = y, *ops.conv2d_backward(draw(*y.shape, seed=9), cache)
    for a, b in zip(found, expected["one output"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("band", [1, 1 << 22, None])
@pytest.mark.parametrize("case", CASES)
def test_memory_is_set_before_it_is_read(monkeypatch, case, band, relu):
    force(monkeypatch, columns if band else conv)
    monkeypatch.setattr(columns, "BAND_BYTES", band)
    poison(monkeypatch)
    x_shape, w_shape, options = CASES[case]
    y, cache = ops.conv2d_forward(draw(*x_shape), draw(*w_shape), draw(w_shape[0]), relu=relu, **options)
    assert all(np.isfinite(a).all() for a in (y, *ops.conv2d_backward(draw(*y.shape), cache)))
