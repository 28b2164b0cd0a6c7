r"""Convolution by a 3x3 kernel at stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3).

One dimension first. Four outputs of a convolution with three taps, y[i] = sum_j g[j] d[i + j], see six inputs. Taken one
by one they cost 12 multiplications; six are enough. The way there is the product of polynomials (Toom-Cook): g(t) a(t), for
a with four coefficients and g with three, has degree 5, so its values at six points determine it, and its value at a
point is the product of two values. With V_n the matrix whose row for a point p is (1, p, p^2, ..., p^(n-1)), for the points
0, 1, -1, 2, -2 and infinity (whose row is (0, ..., 0, 1): the leading coefficient),

    coefficients of g a = V_6^-1 [(V_3 g) * (V_4 a)]          * is entry by entry

This is linear in a: a matrix that depends on g, and that has g[j] in row i + j of column i. The convolution
y = sum_j g[j] d[i + j] is its transpose, which reads the factors backwards:

    y = V_4^T [(V_3 g) * (V_6^-T d)] = A^T [(G g) * (B^T d)],      A = V_4,  G = V_3,  B^T = V_6^-T

Row k of V_6^-T has the denominator f_k = product of (p_k - p_l) over the other finite points l. Moving 1 / f_k from the
rows of B^T to those of G leaves small whole numbers in B^T, as below.

In two dimensions it goes along the columns, then along the rows. With a kernel g (3, 3) and a tile d (6, 6) of the input,

    Y = A^T [U * V] A,      U = G g G^T,   V = B^T d B      (Lavin and Gray, 2015, section 4.1)

is a tile (4, 4) of the output: 36 multiplications in place of 144. Sums over input channels can be taken before the last step,
so that each of the 36 entries k is a matrix product of its own, over all tiles of a band: M[k] = V[k] U[k]^T.

The gradients are the transposes of the same maps. From Y = A^T M A, M[k] = V[k] U[k]^T and U = G g G^T follow, for the weights,

    dM = A dY A^T,   dU[k] = sum over tiles of dM[k]^T V[k],   dg = G^T dU G

The gradient at the input needs nothing new: it is the convolution of dy with the kernel turned by 180 degrees and its
channels swapped.

The bias needs no pass of its own: the column of A^T for the point 1 is all ones, so b added to M at (1, 1) comes out
added to every output. For the same reason db is the sum of dM at (1, 1).

Rounding: values at the points 2 and -2 are larger than the inputs, and cancel. In float32 the result is exact to about 6e-6 of
its largest value with 512 channels, where the plain sum is exact to 1e-6; in float64 to 1e-14.

What each step wins, at two layers of FCN-8s for an image of 500x500 (float32, with ReLU; two cores whose matrix product reaches
430 GFLOP/s; NumPy 2.4, OpenBLAS with the SkylakeX kernel; the loops' time is that of 20 outputs, multiplied):

                                                            conv1_2, 64>64, 698x698    conv4_2, 512>512, 88x88
    loops over outputs, channels and taps, in Python                 4400 s                    4500 s
    im2col of the whole map, one product                             0.483 s                   0.199 s
    im2col band by band, so that columns stay in the cache           0.346 s                   0.224 s
    bands on two threads                                             0.204 s                   0.124 s
    Winograd, on one thread                                          0.103 s                   0.078 s
    Winograd, on two threads                                         0.061 s                   0.045 s
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain, cycle
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module, pixels
from tinyfcn.ops._windows import inside
from tinyfcn.parallel import at_once, bands, cut, each, parallel, workers

TILE = 4  # outputs along a tile's side
BAND_BYTES = 2 << 20  # spectra of one band: two such arrays, one read and one written, almost stay in a core's cache
BAND_WIDTH = 48  # tiles side by side in a band: lower and wider bands would share less of their borders
WORTH_WAKING_BYTES = 3 << 18  # spectra that it is worth to wake another thread up for
MANY_KERNELS = 1 << 13  # from which on it is worth to wake threads up for their spectra

Block = tuple[slice, slice]  # rows of tiles, columns of tiles

A_T = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
B_T = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
POINT_ONE = 1  # where the point 1 stands among the points


def correlate(
    x: Array,
    weight: Array,
    padding: tuple[int, int],
    y: Array,
    *,
    bias: Array | None = None,
    relu: bool = False,
    gate: Array | None = None,
) -> None:
    """Write the convolution of x (N, C_in, H, W) with weight (C_out, C_in, 3, 3) into y (N, C_out, H_out, W_out).

    With `relu`, write max(y, 0) instead. With `gate`, an array of x's shape, x counts as 0 wherever the gate is not
    positive. A negative padding leaves out that many pixels of x at each border.
    """
    xp = array_module(x, weight)
    c_out, c_in = weight.shape[:2]
    u = _kernel_spectra(weight)  # (36, C_in, C_out)
    a_t, b_t, _ = _matrices(xp, x.dtype)
    target = pixels(y)
    blocks = _blocks(y, max(c_in, c_out))

    def work(todo: Iterator[Block]) -> None:
        buffers = _buffers(xp, x.dtype, blocks, len(x) * max(c_in, c_out))
        for block in todo:
            v = _spectra(b_t, x, gate, block, padding, buffers)
            high, wide, n = v.shape[2:5]
            m = next(buffers)(6, 6, high, wide, n, c_out)
            xp.matmul(v.reshape(36, -1, c_in), u, out=m.reshape(36, -1, c_out))
            if bias is not None:
                m[POINT_ONE, POINT_ONE] += bias
            half = next(buffers)(TILE, 6, high, wide, n, c_out)
            _along_first_axis(a_t, m, half)
            tiles = next(buffers)(TILE, high * TILE, wide, n, c_out)  # (column in tile, row, tile column, N, C_out)
            xp.matmul(a_t, half.reshape(TILE, 6, high, -1).swapaxes(1, 2), out=tiles.reshape(TILE, high, TILE, -1))
            if relu:
                xp.maximum(tiles, 0, out=tiles)
            down, across = (slice(axis.start * TILE, axis.stop * TILE) for axis in block)
            here = target[down, across]
            for column in range(min(TILE, here.shape[1])):
                out = here[:, column::TILE]
                out[...] = tiles[column, : out.shape[0], : out.shape[1]]  # tiles may hang over the border

    each(xp, work, blocks)


def correlate_weight_gradient(dy: Array, x: Array, padding: tuple[int, int], gate: Array | None = None) -> tuple[Array, Array]:
    """Return (dweight, dbias) for dy, the gradient at y; dy counts as 0 wherever `gate`, of its shape, is not positive."""
    xp = array_module(dy, x)
    c_out, c_in = dy.shape[1], x.shape[1]
    blocks = _blocks(dy, max(c_in, c_out))
    # Threads share the blocks of a large map. With many channels on a small one, dU is the larger part of the memory, and
    # threads share the filters: then there is one sum and not one for each thread.
    tiles = sum(prod(axis.stop - axis.start for axis in block) for block in blocks)
    if 0 < 64 * tiles < c_out * c_in:
        pieces = [(blocks, filters) for filters in cut(c_out, workers(xp))]
    else:
        pieces = [(blocks[share], slice(0, c_out)) for share in cut(len(blocks), workers(xp))]

    def work(share: Sequence[tuple[list[Block], slice]]) -> list[tuple[Array, Array]]:
        return [_gradient_of_filters(dy, gate, filters, x, padding, part) for part, filters in share]

    dweight, dbias = xp.zeros((c_out, c_in, 3, 3), x.dtype), xp.zeros(c_out, x.dtype)
    found = chain.from_iterable(parallel(xp, work, pieces))
    for (_, filters), (dw, db) in zip(pieces, found, strict=True):
        dweight[filters] += dw
        dbias[filters] += db
    return dweight, dbias


def _gradient_of_filters(
    dy: Array, gate: Array | None, filters: slice, x: Array, padding: tuple[int, int], blocks: list[Block]
) -> tuple[Array, Array]:
    """(dweight, dbias) of these filters, from these blocks."""
    xp = array_module(dy, x)
    dy, gate = dy[:, filters], None if gate is None else gate[:, filters]
    c_out, c_in = dy.shape[1], x.shape[1]
    inputs = _buffers(xp, x.dtype, blocks, len(x) * c_in)
    outputs = _buffers(xp, x.dtype, blocks, len(x) * c_out)
    a_t, b_t, both = _matrices(xp, x.dtype)
    du = xp.empty((36, c_out, c_in), x.dtype)
    product = xp.empty(du.shape if len(blocks) > 1 else 0, x.dtype)
    dbias = xp.zeros(c_out, x.dtype)
    for block in blocks:
        v = _spectra(b_t, x, None, block, padding, inputs).reshape(36, -1, c_in)
        dm = _spectra(a_t.T, dy, gate, block, (0, 0), outputs).reshape(36, -1, c_out)
        if block is blocks[0]:
            xp.matmul(dm.swapaxes(1, 2), v, out=du)
        else:
            du += xp.matmul(dm.swapaxes(1, 2), v, out=product)
        dbias += dm[6 * POINT_ONE + POINT_ONE].sum(axis=0)
    return (du.reshape(36, -1).T @ both).reshape(c_out, c_in, 3, 3), dbias  # dg = G^T dU G


def _blocks(y: Array, channels: int) -> list[Block]:
    """Cut y into blocks of tiles whose spectra fit into the cache, but hold enough tiles that reading all kernels once a block
    costs less than reading the tiles."""
    xp = array_module(y)
    n, _, height, width = y.shape
    high, wide = -(-height // TILE), -(-width // TILE)
    tile_bytes = 36 * channels * y.itemsize
    tiles = max(at_once(xp, BAND_BYTES) // tile_bytes, 2 * channels // 3)
    a_share = max(-(-n * high * wide // workers(xp)), WORTH_WAKING_BYTES // tile_bytes, 1)
    return [
        (rows, columns)
        for columns in cut(wide, -(-wide // at_once(xp, BAND_WIDTH)))
        for rows in bands(xp, high, (columns.stop - columns.start) * n, min(tiles, a_share))
    ]


def _kernel_spectra(weight: Array) -> Array:
    """U = G g G^T of every kernel, as (36, C_in, C_out), its columns first, as in `_spectra`."""
    xp = array_module(weight)
    c_out, c_in = weight.shape[:2]
    u = xp.empty((36, c_in * c_out), weight.dtype)
    *_, both = _matrices(xp, weight.dtype)

    def work(share: Sequence[slice]) -> None:
        for channels in share:
            kernels = weight[:, channels].transpose(2, 3, 1, 0).reshape(9, -1)
            xp.matmul(both, kernels, out=u[:, channels.start * c_out : channels.stop * c_out])

    parallel(xp, work, cut(c_in, workers(xp) if c_in * c_out > MANY_KERNELS else 1))
    return u.reshape(36, c_in, c_out)


@cache
def _matrices(xp: ModuleType, dtype: Any) -> tuple[Array, Array, Array]:
    """A^T, B^T, and the matrix (36, 9) that takes g to G g G^T. They go to a GPU once, not with every convolution."""
    both = np.kron(G, G).reshape(6, 6, 9).swapaxes(0, 1).reshape(36, 9)
    return xp.asarray(A_T, dtype), xp.asarray(B_T, dtype), xp.asarray(both, dtype)


def _buffers(xp: ModuleType, dtype: Any, blocks: Sequence[Block], depth: int) -> Any:
    """Two scratch arrays that take turns, so that the one is read while the other is written.

    Each has room for the spectra of the largest block, 36 for each tile and each of `depth` values, and for the patch of the
    smallest, 6 by 8. Call what `next` gives with a shape.
    """
    tiles = max(prod(axis.stop - axis.start for axis in block) for block in blocks)

    def shaped(flat: Array) -> Callable[..., Array]:
        return lambda *shape: flat[: prod(shape)].reshape(shape)

    return cycle([shaped(xp.empty(48 * tiles * depth, dtype)) for _ in range(2)])


def _spectra(p: Array, x: Array, gate: Array | None, block: Block, padding: tuple[int, int], buffers: Any) -> Array:
    """P d P^T for the matrix P (6, k) and every tile d (k, k) of a block of x: (6, 6, tile rows, tile columns, N, C).

    Tiles begin at every fourth row and column, the first one `padding` outside x. The first axis counts columns.
    """
    xp = array_module(x)
    down, across = block
    high, wide, k = down.stop - down.start, across.stop - across.start, p.shape[1]
    columns = _columns(x, gate, block, padding, k, buffers)
    half = next(buffers)(6, *columns.shape[1:])
    _along_first_axis(p, columns, half)
    spectra = next(buffers)(6, 6, high, wide, *columns.shape[3:])
    line = half[0, 0].size
    windows = xp.lib.stride_tricks.as_strided(  # the k rows of each tile row; tiles of inputs overlap
        half, (6, high, k, line), tuple(half.itemsize * step for step in (half[0].size, TILE * line, line, 1))
    )
    xp.matmul(p, windows, out=spectra.reshape(6, 6, high, line).swapaxes(1, 2))
    return spectra


def _columns(x: Array, gate: Array | None, block: Block, padding: tuple[int, int], k: int, buffers: Any) -> Array:
    """Copy the tiles d (k, k) of a block, column by column: (k, rows, tile columns, N, C).

    Column j, row r, tile s of the block holds x[r + top, j + 4 s + left], or 0 outside x.
    """
    n, channels, height, width = x.shape
    top, left = (TILE * axis.start - p for axis, p in zip(block, padding, strict=True))
    high, wide = (axis.stop - axis.start for axis in block)
    rows = TILE * (high - 1) + k
    patch = next(buffers)(rows, TILE * (wide + 1), n, channels)
    down, source_rows = inside(height, rows, top, 1)
    across, source_columns = inside(width, patch.shape[1], left, 1)
    for outside in patch[: down.start], patch[down.stop :], patch[:, : across.start], patch[:, across.stop :]:
        outside[...] = 0
    source = pixels(x)[source_rows, source_columns]
    if gate is None:
        patch[down, across] = source
    else:
        array_module(x).multiply(source, pixels(gate)[source_rows, source_columns] > 0, out=patch[down, across])
    by_tile = patch.reshape(rows, wide + 1, TILE, n, channels).transpose(2, 0, 1, 3, 4)  # (column in tile, row, tile, N, C)
    columns = next(buffers)(k, rows, wide, n, channels)
    columns[:TILE] = by_tile[:, :, :wide]
    columns[TILE:] = by_tile[: k - TILE, :, 1:]  # the first columns of the next tile
    return columns


def _along_first_axis(matrix: Array, source: Array, target: Array) -> None:
    """target[k] = sum over j of matrix[k, j] source[j], on a processor row by row of the image, which fits into the cache."""
    xp = array_module(source)
    lines = prod(source.shape[1:-3]) if xp is np else 1
    source, target = (a.reshape(len(a), lines, -1).swapaxes(0, 1) for a in (source, target))
    xp.matmul(matrix, source, out=target)
