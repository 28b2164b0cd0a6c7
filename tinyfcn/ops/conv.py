r"""Convolution (cross-correlation, as in every deep-learning library), forward and backward.

Forward, for stride s, padding p and dilation d, with x taken as zero outside its bounds:

    y[n, o, r, c] = b[o] + sum_{k, i, j} w[o, k, i, j] x[n, k, r s + i d - p, c s + j d - p]

Written as a matrix product: put the k_h k_w C_in inputs that output (r, c) sees into one column (im2col). Then

    y = W X,    W: (C_out, C_in k_h k_w),    X: (C_in k_h k_w, outputs)

and the chain rule needs nothing but the same two matrices. With dy the gradient of the loss at y:

    dW = dy X^T          each weight meets the inputs that it was multiplied with
    dX = W^T dy          each column collects what every output channel asks of it
    db[o] = sum of dy over images, rows and columns

X only copies entries of x, so dx adds each entry of dX back to the place that it was copied from: `_scatter` below is
`_gather` read backwards, as the transpose of a 0-1 matrix is.

X repeats each input k_h k_w times, which is too much to hold for a large image (1.1 GB for conv1_2 of FCN at 500x500).
So all three products go band by band: a few rows of outputs at a time, whose columns stay in the processor's cache, where bias
and ReLU are applied too. Bands run on several threads; see `tinyfcn.parallel`.

In g groups (Krizhevsky et al., 2012), filters and input channels are each cut into g equal parts, and the filters of the k-th
part see the inputs of the k-th part only: g convolutions side by side, over slices of the channels.

3x3 kernels at stride 1, which do nearly all of VGG's work, take the shorter way of `tinyfcn.ops.winograd` where it is faster,
and weights that lie in memory tap by tap, such as a padded fc6's, that of `tinyfcn.ops.taps`. The environment variable
TINYFCN_CONV=plain sends them here as well.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from itertools import product
from types import ModuleType
from typing import NamedTuple

from tinyfcn.backend import Array, array_module, empty_pixels, pixels, zero_pixels
from tinyfcn.errors import InputError
from tinyfcn.ops import _check, taps, winograd
from tinyfcn.parallel import at_once, bands, cut, each, parallel, workers

BAND_BYTES = 4 << 20  # columns of one band: half of a common last-level cache leaves room for inputs and outputs
BAND_COLUMNS = 256  # but at least so many columns, so that reading the weights once a band costs little
BLOCK_BYTES = 32 << 20  # weights whose gradient is computed at a time

SHARED_BYTES = 1 << 18  # weights from which on it is worth to wake threads up to share them
WINOGRAD_CHANNELS = 16  # with fewer channels, transforming tiles costs more than it saves
WINOGRAD_PIXELS = 64  # with fewer outputs, so does transforming the kernels


class Geometry(NamedTuple):
    """Where a kernel's windows lie; each entry is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def span(self, axis: int) -> int:
        """Input pixels from the first to the last one that a window touches."""
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Windows that fit into a padded input of this height and width."""
        h, w = ((size[a] + 2 * self.padding[a] - self.span(a)) // self.stride[a] + 1 for a in (0, 1))
        return h, w

    def input_rows(self, rows: slice) -> tuple[int, int]:
        """The input rows [top, bottom) that output rows see; rows of padding count as outside [0, height)."""
        top = rows.start * self.stride[0] - self.padding[0]
        return top, (rows.stop - 1) * self.stride[0] - self.padding[0] + self.span(0)


POINTWISE = Geometry(kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1))


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    relu: bool = False,
) -> tuple[Array, tuple]:
    """Convolve x (N, C_in, H, W) with weight (C_out, C_in / groups, k_h, k_w), add bias (C_out,), take max(y, 0) if `relu`.

    Returns y (N, C_out, H_out, W_out) with H_out = floor((H + 2 p - d (k_h - 1) - 1) / s) + 1, likewise W_out, and a
    cache of references to x and weight, and to y if `relu`, for `conv2d_backward`: the columns are cheaper to gather again
    than to keep. In memory y lies pixel by pixel, see `tinyfcn.backend.empty_pixels`.

    Arrays are all float32 or all float64 and of one module. Raises TypeError for other dtypes or mixed modules, and
    ValueError for shapes that do not fit, `groups` that do not divide C_out, or a kernel larger than the padded input.
    """
    op = "conv2d"
    xp = _check.arrays(op, {"bias": bias}, x=x, weight=weight)
    _check.ndim(op, "x", x, "N, C_in, H, W")
    _check.ndim(op, "weight", weight, "C_out, C_in, k_h, k_w")
    groups = _check.integer(op, "groups", groups, 1)
    if len(weight) % groups:
        raise ValueError(f"{op}: groups must divide the {len(weight)} filters of weight, got {groups}")
    if x.shape[1] != groups * weight.shape[1]:
        expected = f"{groups} groups of {weight.shape[1]}" if groups > 1 else weight.shape[1]
        raise ValueError(f"{op}: x has {x.shape[1]} channels, weight expects {expected}")
    if bias is not None:
        _check.shape(op, "bias", bias, (weight.shape[0],))
    geometry = window_geometry(op, weight, stride, padding, dilation)
    size = geometry.output_size(x.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"{op}: kernel {geometry.kernel} with dilation {geometry.dilation} does not fit into "
            f"x of {x.shape[2:]} padded by {geometry.padding}"
        )
    y = empty_pixels(xp, (len(x), len(weight), *size), x.dtype)
    way = _way(weight, geometry, size, groups)
    for x_k, w_k, b_k, y_k in _side_by_side(groups, (x, 1), (weight, 0), (bias, 0), (y, 1)):
        if way is winograd:
            winograd.correlate(x_k, w_k, geometry.padding, y_k, bias=b_k, relu=relu)
        elif way is taps:
            taps.correlate(x_k, w_k, geometry.padding, y_k, b_k, relu)
        else:
            correlate(x_k, w_k, geometry, y_k, b_k, relu)
    return y, (x, weight, bias is not None, geometry, groups, y if relu else None)


def conv2d_backward(dy: Array, cache: tuple, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    `need_dx=False` leaves out dx (None), a third of the work: nobody asks for the gradient at the first layer's image.
    The formulas are derived at the top of this file; with ReLU, dy counts as 0 wherever y is 0. Raises ValueError where dy
    has not y's shape.
    """
    x, weight, has_bias, geometry, groups, y = cache
    xp = _check.arrays("conv2d_backward", dy=dy, x=x)
    _check.shape("conv2d_backward", "dy", dy, (len(x), len(weight), *geometry.output_size(x.shape[2:])))
    way = _way(weight, geometry, dy.shape[2:], groups)
    if way is taps:
        dx, dweight, dbias = taps.gradients(dy, x, weight, geometry.padding, gate=y, need_dx=need_dx)
        return dx, dweight, dbias if has_bias else None
    dx = (empty_pixels if way is winograd else zero_pixels)(xp, x.shape, x.dtype) if need_dx else None
    found = []
    for dy_k, x_k, w_k, y_k, dx_k in _side_by_side(groups, (dy, 1), (x, 1), (weight, 0), (y, 1), (dx, 1)):
        if way is winograd:
            found.append(winograd.correlate_weight_gradient(dy_k, x_k, geometry.padding, gate=y_k))
            if need_dx:  # each input collects what the windows around it ask for: a convolution with the kernel turned round
                turned = w_k[:, :, ::-1, ::-1].swapaxes(0, 1)
                winograd.correlate(dy_k, turned, tuple(2 - p for p in geometry.padding), dx_k, gate=y_k)
        else:
            found.append(correlate_weight_gradient(dy_k, x_k, geometry, w_k.shape, gate=y_k))
            if need_dx:
                add_input_gradient(dy_k, w_k, geometry, dx_k, gate=y_k)
    dweight, dbias = found[0] if groups == 1 else (xp.concatenate(parts) for parts in zip(*found, strict=True))
    return dx, dweight, dbias if has_bias else None


def _side_by_side(groups: int, *arrays: tuple[Array | None, int]) -> Iterator[tuple]:
    """For each group, its slice of every (array, axis that counts channels or filters): a view, or None of None."""
    if groups == 1:
        return iter([tuple(array for array, _ in arrays)])
    slices = ([None] * groups if array is None else array_module(array).split(array, groups, axis) for array, axis in arrays)
    return zip(*slices, strict=True)


def _way(weight: Array, geometry: Geometry, size: tuple[int, int], groups: int) -> ModuleType | None:
    """The module with a faster way for such a convolution; None for the one in this file."""
    choice = os.environ.get("TINYFCN_CONV", "fast")
    if choice not in ("fast", "plain"):
        raise InputError(f"TINYFCN_CONV must be fast or plain, got {choice!r}")
    if choice == "plain" or not geometry.stride == geometry.dilation == (1, 1):
        return None
    channels = min(len(weight) // groups, weight.shape[1])  # a group's outputs, and its inputs
    if geometry.kernel == (3, 3) and channels >= WINOGRAD_CHANNELS and size[0] * size[1] >= WINOGRAD_PIXELS:
        return winograd
    tap_by_tap = pixels(weight).flags.c_contiguous and geometry.kernel != (1, 1)
    return taps if groups == 1 and tap_by_tap else None


def window_geometry(op: str, weight: Array, stride, padding, dilation) -> Geometry:
    if min(weight.shape) < 1:
        raise ValueError(f"{op}: weight must have no empty axis, got shape {weight.shape}")
    return Geometry(
        kernel=weight.shape[2:],
        stride=_check.pair(op, "stride", stride, 1),
        padding=_check.pair(op, "padding", padding, 0),
        dilation=_check.pair(op, "dilation", dilation, 1),
    )


def correlate(x: Array, weight: Array, geometry: Geometry, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write y = W X + b into y, and max(y, 0) if `relu`, band by band.

    y lies pixel by pixel, or is a slice of the channels of an array that does: either way, a band of it is a matrix, not a copy.
    """
    xp = array_module(x, weight)
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)

    def work(todo: Iterator[tuple[slice, slice]]) -> None:
        for rows, filters in todo:
            columns = _gather(x, rows, geometry, y.shape[3])
            out = pixels(y)[rows].reshape(-1, len(w))[:, filters]  # (rows W_out N, C_out), a view
            if len(columns.T) < len(w[filters]):  # as for fc6; BLAS is faster with the larger matrix first
                out[...] = (w[filters] @ columns).T
            else:
                xp.matmul(columns.T, w[filters].T, out=out)
            if bias is not None:
                out += bias[filters]
            if relu:
                xp.maximum(out, 0, out=out)

    pieces = _bands(xp, w.shape[1] * x.itemsize, y.shape)
    few = len(pieces) < workers(xp) and w.nbytes > SHARED_BYTES  # as for fc6: threads then share the filters
    each(xp, work, list(product(pieces, cut(len(w), workers(xp) if few else 1))))


def correlate_input_gradient(
    dy: Array, weight: Array, geometry: Geometry, x_shape: tuple[int, ...], gate: Array | None = None
) -> Array:
    """Return dx, for x of this shape; for `gate` see `_outputs`."""
    dx = zero_pixels(array_module(dy, weight), x_shape, dy.dtype)
    add_input_gradient(dy, weight, geometry, dx, gate)
    return dx


def add_input_gradient(dy: Array, weight: Array, geometry: Geometry, dx: Array, gate: Array | None = None) -> None:
    """Add dX = W^T dy to dx, every entry to where `_gather` took it from; for `gate` see `_outputs`.

    Each thread does some of the input channels, since the windows of neighbouring bands overlap in x.
    """
    xp = array_module(dy, weight)
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)
    taps = geometry.kernel[0] * geometry.kernel[1]

    def work(share: Sequence[slice]) -> None:
        for channels in share:
            block = w[:, channels.start * taps : channels.stop * taps]
            for rows in _bands(xp, block.shape[1] * dy.itemsize, dy.shape):
                columns = block.T @ _outputs(dy, gate, rows).T  # (c k_h k_w, rows W_out N)
                _scatter(columns, dx[:, channels], rows, geometry, dy.shape[3])

    parallel(xp, work, _channel_blocks(xp, weight.shape, dy.itemsize))


def correlate_weight_gradient(
    dy: Array, x: Array, geometry: Geometry, weight_shape: tuple[int, ...], gate: Array | None = None
) -> tuple[Array, Array]:
    """Return dW = dy X^T and db, summed over the bands; for `gate` see `_outputs`.

    Threads share the bands, or, where a sum for each thread would take much memory, as for fc6, the input channels.
    """
    xp = array_module(dy, x)
    taps = geometry.kernel[0] * geometry.kernel[1]
    depth = weight_shape[1] * taps
    every_band = _bands(xp, depth * dy.itemsize, dy.shape)
    share_bands = weight_shape[0] * depth * dy.itemsize <= SHARED_BYTES
    if share_bands:
        shares = cut(len(every_band), workers(xp))
        pieces = [(k, every_band[share], slice(0, weight_shape[1])) for k, share in enumerate(shares)]
    else:
        pieces = [(0, every_band, channels) for channels in _channel_blocks(xp, weight_shape, dy.itemsize)]
    if not every_band:  # no images
        return xp.zeros(weight_shape, dy.dtype), xp.zeros(weight_shape[0], dy.dtype)
    sums = pieces[-1][0] + 1
    dw = (xp.zeros if share_bands else xp.empty)((sums, weight_shape[0], depth), dy.dtype)  # (sums, C_out, C_in k_h k_w)
    db = xp.zeros(dw.shape[:2], dy.dtype)

    def work(share: Sequence[tuple[int, list[slice], slice]]) -> None:
        for k, some_bands, channels in share:
            total = dw[k, :, channels.start * taps : channels.stop * taps]
            for rows in some_bands:
                outputs = _outputs(dy, gate, rows)
                columns = _gather(x[:, channels], rows, geometry, dy.shape[3])
                if share_bands:
                    total += (columns @ outputs).T  # BLAS is slower at a narrow outputs.T @ columns.T
                elif rows == some_bands[0]:
                    xp.matmul(outputs.T, columns.T, out=total)
                else:
                    total += outputs.T @ columns.T
                if channels.start == 0:
                    db[k] += xp.ones(len(outputs), dy.dtype) @ outputs

    parallel(xp, work, pieces)
    return functools.reduce(xp.add, dw).reshape(weight_shape), functools.reduce(xp.add, db)


def _bands(xp: ModuleType, column_bytes: int, y_shape: tuple[int, ...]) -> list[slice]:
    """Cut the rows of the outputs (N, C_out, H_out, W_out) into bands whose columns fit into the cache."""
    batch, _, height, width = y_shape
    return bands(xp, height, width * batch, max(at_once(xp, BAND_BYTES) // column_bytes, BAND_COLUMNS))


def _channel_blocks(xp: ModuleType, weight_shape: tuple[int, ...], itemsize: int) -> list[slice]:
    """Cut the input channels into blocks: one for each thread, or more where their weights would take much memory."""
    channels = weight_shape[1]
    block_bytes = weight_shape[0] * channels * weight_shape[2] * weight_shape[3] * itemsize
    return cut(channels, max(workers(xp) if block_bytes > SHARED_BYTES else 1, block_bytes // at_once(xp, BLOCK_BYTES)))


def _outputs(dy: Array, gate: Array | None, rows: slice) -> Array:
    """A band of dy, 0 wherever `gate` is not positive, as a matrix whose rows match the columns of `_gather`."""
    outputs = pixels(dy)[rows].reshape(-1, dy.shape[1])  # (rows W_out N, C_out)
    return outputs if gate is None else outputs * (pixels(gate)[rows].reshape(outputs.shape) > 0)


def _gather(x: Array, rows: slice, geometry: Geometry, width: int) -> Array:
    """im2col of one band: the columns (C_in k_h k_w, rows W_out N) that its outputs see."""
    xp = array_module(x)
    if geometry == POINTWISE:  # every output sees one input
        return pixels(x)[rows].reshape(-1, x.shape[1]).T
    patch, inside, source = _patch(xp, x.shape, x.dtype, rows, geometry)
    patch[inside] = x[source].transpose(1, 2, 3, 0)
    (kh, kw), height = geometry.kernel, rows.stop - rows.start
    columns = xp.empty((x.shape[1], kh, kw, height, width, len(x)), x.dtype)
    for i, j, seen in _offsets(geometry, height, width):
        columns[:, i, j] = patch[seen]
    return columns.reshape(x.shape[1] * kh * kw, -1)


def _scatter(columns: Array, dx: Array, rows: slice, geometry: Geometry, width: int) -> None:
    """col2im of one band: `_gather` with every copy turned round into an addition."""
    xp = array_module(dx)
    height = rows.stop - rows.start
    if geometry == POINTWISE:
        pixels(dx)[rows] += columns.T.reshape(height, width, len(dx), -1)
        return
    patch, inside, source = _patch(xp, dx.shape, dx.dtype, rows, geometry)
    columns = columns.reshape(dx.shape[1], *geometry.kernel, height, width, len(dx))
    for i, j, seen in _offsets(geometry, height, width):
        patch[seen] += columns[:, i, j]
    dx[source] += patch[inside].transpose(3, 0, 1, 2)


def _patch(xp, x_shape, dtype, rows: slice, geometry: Geometry):
    """The zero-padded piece of the input under one band, and which part of it lies inside the input.

    Returns (patch, inside, source): patch (C_in, rows_in, W + 2 p, N) of zeros, and the indices with which
    patch[inside] and x[source].transpose(1, 2, 3, 0) are the same pixels.
    """
    batch, channels, height, width = x_shape
    top, bottom = geometry.input_rows(rows)
    p = geometry.padding[1]
    patch = xp.zeros((channels, bottom - top, width + 2 * p, batch), dtype)
    first, last = (min(max(r, 0), height) for r in (top, bottom))  # equal where a band sees nothing but padding
    inside = (slice(None), slice(first - top, last - top), slice(p, p + width))
    source = (slice(None), slice(None), slice(first, last))
    return patch, inside, source


def _offsets(geometry: Geometry, height: int, width: int) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each tap (i, j) of the kernel, the index of the patch's pixels that it meets in the band's outputs."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    for i in range(kh):
        for j in range(kw):
            down = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
            across = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
            yield i, j, (slice(None), down, across)
