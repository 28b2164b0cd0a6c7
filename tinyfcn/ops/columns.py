"""Convolution by columns, as in `tinyfcn.ops.conv`, band by band and on threads.

The columns repeat each input k_h k_w times, which is too much to hold for a large image (1.1 GB for conv1_2 of FCN at 500x500).
So all three products go band by band: a few rows of outputs at a time, whose columns stay in the processor's cache, where bias
and ReLU are applied too. Bands run on several threads; see `tinyfcn.parallel`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import product
from math import prod
from types import ModuleType

import numpy as np

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import conv, kernels
from tinyfcn.ops.conv import POINTWISE, Geometry, as_matrix
from tinyfcn.parallel import at_once, bands, map_queue, map_shares, split_evenly, workers

BAND_BYTES = 4 << 20  # columns of one band: half of a common last-level cache leaves room for inputs and outputs
BAND_COLUMNS = 256  # but at least so many columns, so that reading the weights once per band costs little
BLOCK_BYTES = 32 << 20  # weights whose gradient is computed at a time
SHARED_BYTES = 1 << 18  # weights from which on it is worth waking threads up to share them


def cost(x: Array, weight: Array, geometry: Geometry, size: tuple[int, int]) -> float:
    """See `tinyfcn.ops.conv2d.choose`: products and columns, for each output; weights; a call."""
    a_weight = 150 if weight.flags.c_contiguous else 260  # where it must be copied
    return _work(len(x) * prod(size), weight.shape) + float(a_weight * weight.size) + 20e6


def _work(outputs: int, weight_shape: tuple[int, ...]) -> float:
    """Products and columns for so many output pixels."""
    c_out, *seen = weight_shape
    return outputs * prod(seen) * (1.6 * c_out + 300)


def forward(x: Array, weight: Array, geometry: Geometry, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write y = W X + b, and max(y, 0) if `relu`, into y (N, C_out, H_out, W_out).

    y lies pixel by pixel, or is a slice of the channels of an array that does: either way, a band of it is a matrix, not a copy.
    """
    xp = array_module(x, weight)
    how = conv if xp is np else kernels
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)

    def work(todo: Iterator[tuple[slice, slice]]) -> None:
        for rows, filters in todo:
            columns = how.im2col(x, geometry, rows, y.shape[3])
            outputs = as_matrix(y, rows)[:, filters]  # (rows W_out N, filters), a view
            if xp is np and len(outputs) < outputs.shape[1]:  # as for fc6; BLAS is faster with the larger matrix first
                outputs[...] = (w[filters] @ columns).T
            else:
                xp.matmul(columns.T, w[filters].T, out=outputs)
            how.add_bias(outputs, None if bias is None else bias[filters], relu)

    threads = workers(xp, _work(y[:, 0].size, weight.shape))
    pieces = _bands(xp, w.shape[1] * x.itemsize, y.shape)
    few = len(pieces) < threads and w.nbytes > SHARED_BYTES  # as for fc6: threads then share the filters
    map_queue(xp, work, list(product(pieces, split_evenly(len(w), threads if few else 1))), threads)


def backward(dy: Array, x: Array, weight: Array, geometry: Geometry, dx: Array | None = None) -> Array:
    """Return dW = dy X^T, and write dX = W^T dy into dx, unless that is None."""
    if dx is not None:
        input_gradient(dy, weight, geometry, dx)
    return weight_gradient(dy, x, geometry, weight.shape)


def input_gradient(dy: Array, weight: Array, geometry: Geometry, dx: Array) -> None:
    """Write dX, every entry added to where `im2col` took it from, into dx.

    Each thread does some of the input channels, since the windows of neighbouring bands overlap in x.
    """
    xp = array_module(dy, weight)
    how = conv if xp is np else kernels
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)
    taps = geometry.kernel[0] * geometry.kernel[1]

    def work(share: Sequence[slice]) -> None:
        for channels in share:
            block = w[:, channels.start * taps : channels.stop * taps]
            if geometry != POINTWISE:
                dx[:, channels] = 0
            for rows in _bands(xp, block.shape[1] * dy.itemsize, dy.shape):
                outputs = as_matrix(dy, rows)  # (rows W_out N, C_out)
                if geometry == POINTWISE:  # nothing to add up
                    xp.matmul(outputs, block, out=as_matrix(dx, rows)[:, channels])
                else:
                    columns = block.T @ outputs.T  # (c k_h k_w, rows W_out N)
                    how.col2im(columns, dx[:, channels], geometry, rows, dy.shape[3])

    threads = workers(xp, _work(dy[:, 0].size, weight.shape))
    map_shares(xp, work, _channel_blocks(xp, weight.shape, dy.itemsize, threads), threads)


def weight_gradient(dy: Array, x: Array, geometry: Geometry, weight_shape: tuple[int, ...]) -> Array:
    """Return dW, summed over the bands.

    Threads share the bands, or, where a sum for each thread would take much memory, as for fc6, the input channels.
    """
    xp = array_module(dy, x)
    how = conv if xp is np else kernels
    taps = geometry.kernel[0] * geometry.kernel[1]
    depth = weight_shape[1] * taps
    every_band = _bands(xp, depth * dy.itemsize, dy.shape)
    threads = workers(xp, _work(dy[:, 0].size, weight_shape))
    share_bands = weight_shape[0] * depth * dy.itemsize <= SHARED_BYTES
    if share_bands:
        shares = split_evenly(len(every_band), threads)
        pieces = [(k, every_band[share], slice(0, weight_shape[1])) for k, share in enumerate(shares)]
    else:
        pieces = [(0, every_band, channels) for channels in _channel_blocks(xp, weight_shape, dy.itemsize, threads)]
    if not every_band:  # no images
        return xp.zeros(weight_shape, dy.dtype)
    sums = len(pieces) if share_bands else 1
    dw = (xp.zeros if share_bands else xp.empty)((sums, weight_shape[0], depth), dy.dtype)  # (sums, C_out, C_in k_h k_w)

    def work(share: Sequence[tuple[int, list[slice], slice]]) -> None:
        for k, some_bands, channels in share:
            total = dw[k, :, channels.start * taps : channels.stop * taps]
            for rows in some_bands:
                outputs = as_matrix(dy, rows)
                columns = how.im2col(x[:, channels], geometry, rows, dy.shape[3])
                if share_bands:
                    total += (columns @ outputs).T  # BLAS is slower at a narrow outputs.T @ columns.T
                elif rows == some_bands[0]:
                    xp.matmul(outputs.T, columns.T, out=total)
                else:
                    total += outputs.T @ columns.T

    map_shares(xp, work, pieces, threads)
    return functools.reduce(xp.add, dw).reshape(weight_shape)


def _bands(xp: ModuleType, column_bytes: int, y_shape: tuple[int, ...]) -> list[slice]:
    """Cut the rows of the outputs (N, C_out, H_out, W_out) into bands whose columns fit into the cache."""
    batch, _, height, width = y_shape
    return bands(xp, height, width * batch, max(at_once(xp, BAND_BYTES) // column_bytes, BAND_COLUMNS))


def _channel_blocks(xp: ModuleType, weight_shape: tuple[int, ...], itemsize: int, threads: int) -> list[slice]:
    """Cut the input channels into blocks: one for each thread, or more where their weights would take much memory."""
    channels = weight_shape[1]
    block_bytes = weight_shape[0] * channels * weight_shape[2] * weight_shape[3] * itemsize
    return split_evenly(channels, max(threads if block_bytes > SHARED_BYTES else 1, block_bytes // at_once(xp, BLOCK_BYTES)))
