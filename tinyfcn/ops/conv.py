r"""Convolution (cross-correlation, as in every deep-learning library), forward and backward: the idea.

Forward, for stride s, padding p and dilation d, with x taken as zero outside its bounds:

    y[n, o, r, c] = b[o] + sum_{k, i, j} w[o, k, i, j] x[n, k, r s + i d - p, c s + j d - p]

Written as a matrix product: put the k_h k_w C_in inputs that output (r, c) sees into one column (im2col). Then

    y = W X,    W: (C_out, C_in k_h k_w),    X: (C_in k_h k_w, outputs)

and the chain rule needs nothing but the same two matrices. With dy the gradient of the loss at y:

    dW = dy X^T          each weight meets the inputs that it was multiplied with
    dX = W^T dy          each column collects what every output channel asks of it
    db[o] = sum of dy over images, rows and columns

X only copies entries of x, so dx adds each entry of dX back to the place that it was copied from: `col2im` is `im2col` read
backwards, as the transpose of a 0-1 matrix is.

`tinyfcn.ops.conv2d` is what networks call. It takes `forward` and `backward` of this file where a convolution is small, and else
others that compute the same faster: `tinyfcn.ops.columns`, `winograd` and `taps`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tinyfcn.backend import Array, array_module, hwnc


class Geometry(NamedTuple):
    """Where a kernel's windows lie; each entry is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Windows that fit into a padded input of this height and width."""
        h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(size, *self, strict=True))
        return h, w


POINTWISE = Geometry(kernel=(1, 1), stride=(1, 1), padding=(0, 0), dilation=(1, 1))  # each output sees one input


def forward(x: Array, weight: Array, geometry: Geometry, y: Array, bias: Array | None = None, relu: bool = False) -> None:
    """Write y = W X + b, and max(y, 0) if `relu`, into y (N, C_out, H_out, W_out)."""
    xp = array_module(x, weight)
    columns = im2col(x, geometry, slice(0, y.shape[2]), y.shape[3])  # (C_in k_h k_w, H_out W_out N)
    outputs = as_matrix(y)  # (H_out W_out N, C_out), a view of y
    xp.matmul(columns.T, weight.reshape(len(weight), -1).T, out=outputs)
    add_bias(outputs, bias, relu)


def input_gradient(dy: Array, weight: Array, geometry: Geometry, dx: Array) -> None:
    """Write dX = W^T dy, every entry added to where `im2col` took it from, into dx."""
    columns = weight.reshape(len(weight), -1).T @ as_matrix(dy).T  # (C_in k_h k_w, H_out W_out N)
    dx[...] = 0
    col2im(columns, dx, geometry, slice(0, dy.shape[2]), dy.shape[3])


def weight_gradient(dy: Array, x: Array, geometry: Geometry, weight_shape: tuple[int, ...]) -> Array:
    """Return dW = dy X^T."""
    columns = im2col(x, geometry, slice(0, dy.shape[2]), dy.shape[3])  # (C_in k_h k_w, H_out W_out N)
    return (as_matrix(dy).T @ columns.T).reshape(weight_shape)


def backward(dy: Array, x: Array, weight: Array, geometry: Geometry, dx: Array | None = None) -> Array:
    """Return dW, and write dX into dx, unless that is None."""
    if dx is not None:
        input_gradient(dy, weight, geometry, dx)
    return weight_gradient(dy, x, geometry, weight.shape)


def im2col(x: Array, geometry: Geometry, rows: slice, width: int) -> Array:
    """The columns (C_in k_h k_w, rows W_out N) of inputs that these rows of outputs see."""
    if geometry == POINTWISE:
        return as_matrix(x, rows).T
    (kh, kw), height = geometry.kernel, rows.stop - rows.start
    patch, inside, source = _patch(x, geometry, rows)
    patch[inside] = x[source].transpose(1, 2, 3, 0)
    columns = array_module(x).empty((x.shape[1], kh, kw, height, width, len(x)), x.dtype)
    for i, j, seen in _taps(geometry, height, width):
        columns[:, i, j] = patch[seen]
    return columns.reshape(x.shape[1] * kh * kw, -1)


def col2im(columns: Array, dx: Array, geometry: Geometry, rows: slice, width: int) -> None:
    """`im2col` with every copy turned round into an addition: add the columns to dx."""
    (kh, kw), height = geometry.kernel, rows.stop - rows.start
    if geometry == POINTWISE:
        hwnc(dx)[rows] += columns.T.reshape(height, width, len(dx), dx.shape[1])
        return
    patch, inside, source = _patch(dx, geometry, rows)
    columns = columns.reshape(dx.shape[1], kh, kw, height, width, len(dx))
    for i, j, seen in _taps(geometry, height, width):
        patch[seen] += columns[:, i, j]
    dx[source] += patch[inside].transpose(3, 0, 1, 2)


def _patch(x: Array, geometry: Geometry, rows: slice) -> tuple[Array, Any, Any]:
    """The zero-padded piece of the input that these rows of outputs see, and which part of it lies inside the input.

    Returns (patch, inside, source): patch (C_in, rows_in, W + 2 p, N) of zeros, and the indices with which
    patch[inside] and x[source].transpose(1, 2, 3, 0) are the same pixels.
    """
    (batch, channels, height, width), (kernel, stride, (pad, p), dilation) = x.shape, geometry
    top = rows.start * stride[0] - pad
    bottom = (rows.stop - 1) * stride[0] - pad + (kernel[0] - 1) * dilation[0] + 1
    patch = array_module(x).zeros((channels, bottom - top, width + 2 * p, batch), x.dtype)
    first, last = min(max(top, 0), height), min(max(bottom, 0), height)  # equal where the outputs see nothing but padding
    inside = (slice(None), slice(first - top, last - top), slice(p, p + width))
    source = (slice(None), slice(None), slice(first, last))
    return patch, inside, source


def _taps(geometry: Geometry, height: int, width: int) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each tap (i, j) of the kernel, the index of the patch's pixels that it meets in so many outputs."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    for i in range(kh):
        for j in range(kw):
            down = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
            across = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
            yield i, j, (slice(None), down, across)


def as_matrix(a: Array, window: slice | tuple[slice, slice] = slice(None)) -> Array:
    """Rows, or a window, of a map (N, C, H, W) as a matrix (pixels N, C): a view of rows, where the map lies pixel by pixel."""
    return hwnc(a)[window].reshape(-1, a.shape[1])


def add_bias(outputs: Array, bias: Array | None, relu: bool) -> None:
    """Add bias (C,) to outputs (..., C), and take max(y, 0) if `relu`, in place."""
    xp = array_module(outputs)
    if bias is not None:
        outputs += bias
    if relu:  # of two arrays, not of an array and a number, NumPy takes the maximum with vector instructions
        xp.maximum(outputs, xp.zeros(outputs.shape[1:], outputs.dtype), out=outputs)
