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
so that each of the 36 entries k is a matrix product of its own, over all tiles of a block: M[k] = V[k] U[k]^T.

The gradients are the transposes of the same maps. From Y = A^T M A, M[k] = V[k] U[k]^T and U = G g G^T follow, for the weights,

    dM = A dY A^T,   dU[k] = sum over tiles of dM[k]^T V[k],   dg = G^T dU G

The gradient at the input needs nothing new: dx is the convolution of dy with the kernel g' that is g turned by 180 degrees, its
channels swapped. And with that convolution at hand, the weights' gradient comes nearly free. The loss is linear in g as far as
dg is concerned, and the sum over outputs of dy * conv(x, g) is the sum over inputs of x * conv(dy, g'), term by term. So dg is
also what the convolution of dy with g' gives its own kernel for x as the gradient at its output:

    V' = B^T dY B,   dX = A^T [U' * V'] A,   dM' = A X A^T,   dU'[k] = sum over tiles of dM'[k]^T V'[k],   dg' = G^T dU' G

Both take the same spectra V' of dy; otherwise x and dy would be transformed anew for the weights.

The bias needs no pass of its own: the column of A^T for the point 1 is all ones, so b added to M at (1, 1) comes out
added to every output.

Rounding: values at the points 2 and -2 are larger than the inputs, and cancel. In float32 the result is exact to about 6e-6 of
its largest value with 512 channels, where the plain sum is exact to 1e-6; in float64 to 1e-14.

What each step wins, at two layers of FCN-8s for an image of 500x500 (float32, with ReLU; two cores whose matrix product reaches
220 GFLOP/s; NumPy 2.4, OpenBLAS with the SkylakeX kernel; the loops' time is that of 20 outputs, multiplied):

                                                            conv1_2, 64>64, 698x698    conv4_2, 512>512, 88x88
    loops over outputs, channels and taps, in Python                 4800 s                    5100 s
    im2col of the whole map, one product                             1.006 s                   0.208 s
    im2col band by band, so that columns stay in the cache           0.897 s                   0.395 s
    bands on two threads                                             0.449 s                   0.203 s
    Winograd, on one thread                                          0.247 s                   0.129 s
    Winograd, on two threads                                         0.133 s                   0.065 s
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import kernels, tiles
from tinyfcn.ops.conv import Geometry
from tinyfcn.ops.tiles import Block
from tinyfcn.parallel import map_queue, map_shares, split_evenly, workers

LEAST_CHANNELS = 8  # with fewer, matrices of tiles are too narrow for a fast product
MANY_KERNELS = 1 << 13  # from which on it is worth waking threads up for their spectra

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


def applies(weight: Array, geometry: Geometry) -> bool:
    """Whether the kernels are 3x3, at stride 1 and with enough channels."""
    plain = geometry.kernel == (3, 3) and geometry.stride == geometry.dilation == (1, 1)
    return plain and min(weight.shape[:2]) >= LEAST_CHANNELS


def cost(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> float:
    """See `tinyfcn.ops.conv2d.choose`: products and transforms, for each tile; kernels; a call."""
    count, (c_out, c_in) = tiles.count(len(x), size), weight.shape[:2]
    found: float = count * (1.4 * 36 * c_in * c_out + 7500 * (c_in + c_out)) + 8500 * c_in * c_out + 23e6
    return found


def forward(x: Array, weight: Array, geometry: Geometry, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write the convolution of x (N, C_in, H, W) with weight (C_out, C_in, 3, 3), and max(y, 0) if `relu`, into y.

    Y = A^T [U * V] A for every tile, a block of tiles at a time.
    """
    xp = array_module(x, weight)
    c_out, c_in = weight.shape[:2]
    a_t, b_t, _ = matrices(xp, x.dtype)
    u = kernel_spectra(weight)  # (36, C_in, C_out)
    few = share_filters(tiles.count(len(y), y.shape[2:]), c_out)
    threads = workers(xp, cost(x, weight, geometry, y.shape[2:]))
    blocks = tiles.blocks(y, max(c_in, c_out), 1 if few else threads)
    pieces = list(product(blocks, split_evenly(c_out, threads if few else 1)))

    def work(todo: Iterator[tuple[Block, slice]]) -> None:
        buffers = tiles.buffers(xp, x.dtype, blocks, len(x) * max(c_in, c_out))
        for block, filters in todo:
            v = tiles.spectra(b_t, x, block, geometry.padding, buffers)  # (6, 6, tile rows, tile columns, N, C_in)
            m = next(buffers)(*v.shape[:-1], filters.stop - filters.start)
            xp.matmul(v.reshape(36, -1, c_in), u[..., filters], out=m.reshape(36, -1, m.shape[-1]))
            if bias is not None:
                at_one = m[POINT_ONE, POINT_ONE]
                at_one += bias[filters]
            tiles.write(a_t, m, y[:, filters], block, relu, buffers)

    map_queue(xp, work, pieces, threads)


def backward(dy: Array, x: Array, weight: Array, geometry: Geometry, dx: Array | None = None) -> Array:
    """Return dweight, and write dx, unless that is None, both from the same spectra of dy."""
    xp = array_module(dy, x)
    c_out, c_in = weight.shape[:2]
    padding = 2 - geometry.padding[0], 2 - geometry.padding[1]  # a negative one leaves out as many pixels of dy at each border
    a_t, b_t, both = matrices(xp, x.dtype)
    u: Array = None if dx is None else kernel_spectra(weight, turned=True)  # (36, C_out, C_in)
    small = share_channels(tiles.count(len(x), x.shape[2:]), c_in, c_out)
    threads = workers(xp, 2 * cost(x, weight, geometry, dy.shape[2:]))
    blocks = tiles.blocks(x, max(c_in, c_out), 1 if small else threads)
    if not blocks:  # no images
        return xp.zeros(weight.shape, dy.dtype)
    if small:
        pieces = [(blocks, channels) for channels in split_evenly(c_in, threads)]
    else:
        pieces = [(blocks[share], slice(0, c_in)) for share in split_evenly(len(blocks), threads)]

    def work(share: Sequence[tuple[list[Block], slice]]) -> Array:
        ((blocks, channels),) = share
        inputs, depth = x[:, channels], channels.stop - channels.start
        of_y = tiles.buffers(xp, x.dtype, blocks, len(x) * c_out)
        of_x = tiles.buffers(xp, x.dtype, blocks, len(x) * depth)
        du = xp.empty((36, c_out, depth), x.dtype)
        more = xp.empty(du.shape if len(blocks) > 1 else 0, x.dtype)
        for block in blocks:
            v = tiles.spectra(b_t, dy, block, padding, of_y)  # (6, 6, tile rows, tile columns, N, C_out)
            dm = tiles.spectra(a_t.T, inputs, block, (0, 0), of_x)  # likewise, of these input channels
            rows, columns = v.reshape(36, -1, c_out), dm.reshape(36, -1, depth)
            if block is blocks[0]:
                xp.matmul(rows.swapaxes(1, 2), columns, out=du)
            else:
                du += xp.matmul(rows.swapaxes(1, 2), columns, out=more)
            if dx is not None:
                m = next(of_x)(*dm.shape)
                xp.matmul(rows, u[..., channels], out=m.reshape(columns.shape))
                tiles.write(a_t, m, dx[:, channels], block, False, of_x)
        return (du.reshape(36, -1).T @ both[:, ::-1]).reshape(c_out, depth, 3, 3)  # dg = G^T dU G, turned back

    found = map_shares(xp, work, pieces, threads)
    return xp.concatenate(found, axis=1) if small else functools.reduce(xp.add, found)


def share_filters(count: int, c_out: int) -> bool:
    """Whether threads share the filters, forward, and not the blocks: tiles are so few that reading all kernels takes longer."""
    return 2 * count < c_out


def share_channels(count: int, c_in: int, c_out: int) -> bool:
    """Whether threads share the input channels, backward, and not the blocks, for which each needs a sum dU of its own: where
    channels are many and tiles few, these sums would be the larger part of the memory."""
    return 64 * count < c_out * c_in


def kernel_spectra(weight: Array, turned: bool = False) -> Array:
    """U = G g G^T of every kernel g, as (36, C_in, C_out), its columns first, as in `tiles.spectra`.

    If `turned`, those of the kernels g' that take the gradient back: turned by 180 degrees, as (36, C_out, C_in).
    """
    xp = array_module(weight)
    if turned:
        weight = weight.swapaxes(0, 1)
    if xp is not np:
        return kernels.kernel_spectra(G, weight[:, :, ::-1, ::-1] if turned else weight)
    c_out, c_in = weight.shape[:2]
    u = xp.empty((36, c_in, c_out), weight.dtype)
    *_, both = matrices(xp, weight.dtype)
    both = xp.ascontiguousarray(both[:, ::-1]) if turned else both
    g = weight.reshape(c_out, c_in, 9).transpose(1, 2, 0)  # (C_in, 9, C_out)

    def work(share: Sequence[slice]) -> None:
        for channels in share:
            xp.matmul(both, g[channels], out=u[:, channels].swapaxes(0, 1))

    map_shares(xp, work, split_evenly(c_in, workers(xp) if c_in * c_out > MANY_KERNELS else 1))
    return u


@cache
def matrices(xp: ModuleType, dtype: Any) -> tuple[np.ndarray, np.ndarray, Array]:
    """A^T and B^T, which a GPU's kernels have among their constants, and the matrix (36, 9) that takes g to G g G^T, which goes
    to a GPU once, not with every convolution."""
    both = np.kron(G, G).reshape(6, 6, 9).swapaxes(0, 1).reshape(36, 9)
    return A_T.astype(dtype), B_T.astype(dtype), xp.asarray(both, dtype)
