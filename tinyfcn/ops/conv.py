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
So all three products go band by band: a few rows of outputs at a time, whose columns stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import _check

BAND_BYTES = 4 << 20  # columns of one band: half of a common last-level cache leaves room for inputs and outputs
BAND_COLUMNS = 256  # but at least so many columns, so that reading the weights once a band costs little


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


def conv2d_forward(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
) -> tuple[Array, tuple]:
    """Convolve x (N, C_in, H, W) with weight (C_out, C_in, k_h, k_w) and add bias (C_out,).

    Returns y (N, C_out, H_out, W_out) with H_out = floor((H + 2 p - d (k_h - 1) - 1) / s) + 1, likewise W_out, and a
    cache of references to x and weight for `conv2d_backward`: the columns are cheaper to gather again than to keep.

    Arrays are all float32 or all float64 and of one module. Raises TypeError for other dtypes or mixed modules, and
    ValueError for shapes that do not fit, or a kernel larger than the padded input.
    """
    op = "conv2d"
    xp = _check.arrays(op, {"bias": bias}, x=x, weight=weight)
    _check.ndim(op, "x", x, "N, C_in, H, W")
    _check.ndim(op, "weight", weight, "C_out, C_in, k_h, k_w")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"{op}: x has {x.shape[1]} channels, weight expects {weight.shape[1]}")
    if bias is not None:
        _check.shape(op, "bias", bias, (weight.shape[0],))
    geometry = window_geometry(op, weight, stride, padding, dilation)
    size = geometry.output_size(x.shape[2:])
    if min(size) < 1:
        raise ValueError(
            f"{op}: kernel {geometry.kernel} with dilation {geometry.dilation} does not fit into "
            f"x of {x.shape[2:]} padded by {geometry.padding}"
        )
    y = xp.empty((len(x), len(weight), *size), x.dtype)  # (N, C_out, H_out, W_out)
    correlate(x, weight, geometry, y)
    if bias is not None:
        y += bias[:, None, None]
    return y, (x, weight, bias is not None, geometry)


def conv2d_backward(dy: Array, cache: tuple, *, need_dx: bool = True) -> tuple[Array | None, Array, Array | None]:
    """Return (dx, dweight, dbias) for dy, the gradient at y; dbias is None where the forward pass had no bias.

    `need_dx=False` leaves out dx (None), a third of the work: nobody asks for the gradient at the first layer's image.
    The formulas are derived at the top of this file. Raises ValueError where dy has not y's shape.
    """
    x, weight, has_bias, geometry = cache
    _check.arrays("conv2d_backward", dy=dy, x=x)
    _check.shape("conv2d_backward", "dy", dy, (len(x), len(weight), *geometry.output_size(x.shape[2:])))
    dx = correlate_input_gradient(dy, weight, geometry, x.shape) if need_dx else None
    dweight = correlate_weight_gradient(dy, x, geometry, weight.shape)
    return dx, dweight, dy.sum(axis=(0, 2, 3)) if has_bias else None


def window_geometry(op: str, weight: Array, stride, padding, dilation) -> Geometry:
    if min(weight.shape) < 1:
        raise ValueError(f"{op}: weight must have no empty axis, got shape {weight.shape}")
    return Geometry(
        kernel=weight.shape[2:],
        stride=_check.pair(op, "stride", stride, 1),
        padding=_check.pair(op, "padding", padding, 0),
        dilation=_check.pair(op, "dilation", dilation, 1),
    )


def correlate(x: Array, weight: Array, geometry: Geometry, y: Array) -> None:
    """Write y = W X into y, band by band."""
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)
    for images, rows in _bands(w.shape[1] * x.itemsize, y.shape):
        columns = _gather(x, images, rows, geometry, y.shape[3])
        product = w @ columns  # (C_out, n rows W_out)
        y[images, :, rows] = _per_image(product, images, rows).swapaxes(0, 1)


def correlate_input_gradient(dy: Array, weight: Array, geometry: Geometry, x_shape: tuple[int, ...]) -> Array:
    """Return dx: dX = W^T dy, every entry added to where `_gather` took it from."""
    xp = array_module(dy, weight)
    dx = xp.zeros(x_shape, dy.dtype)
    w = weight.reshape(len(weight), -1)  # (C_out, C_in k_h k_w)
    for images, rows in _bands(w.shape[1] * dy.itemsize, dy.shape):
        columns = w.T @ _outputs(dy, images, rows)  # (C_in k_h k_w, n rows W_out)
        _scatter(columns, dx, images, rows, geometry, dy.shape[3])
    return dx


def correlate_weight_gradient(dy: Array, x: Array, geometry: Geometry, weight_shape: tuple[int, ...]) -> Array:
    """Return dW = dy X^T, summed over the bands."""
    xp = array_module(dy, x)
    dw = None
    depth = weight_shape[1] * weight_shape[2] * weight_shape[3]
    for images, rows in _bands(depth * dy.itemsize, dy.shape):
        columns = _gather(x, images, rows, geometry, dy.shape[3])
        product = _outputs(dy, images, rows) @ columns.T  # (C_out, C_in k_h k_w)
        dw = product if dw is None else xp.add(dw, product, out=dw)
    return xp.zeros(weight_shape, dy.dtype) if dw is None else dw.reshape(weight_shape)


def _bands(column_bytes: int, y_shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut the outputs of shape (N, C_out, H_out, W_out) into (images, rows): rows of one image, or whole images."""
    batch, _, height, width = y_shape
    columns = max(BAND_BYTES // max(column_bytes, 1), BAND_COLUMNS)
    rows = min(max(columns // width, 1), height)
    images = max(columns // (width * height), 1)
    for n in range(0, batch, images):
        for r in range(0, height, rows):
            yield slice(n, min(n + images, batch)), slice(r, min(r + rows, height))


def _per_image(matrix: Array, images: slice, rows: slice) -> Array:
    """See a matrix (channels, n rows W_out) as (channels, n, rows, W_out)."""
    return matrix.reshape(len(matrix), images.stop - images.start, rows.stop - rows.start, -1)


def _outputs(dy: Array, images: slice, rows: slice) -> Array:
    """A band of dy as a matrix whose columns match those of `_gather`."""
    return dy[images, :, rows].swapaxes(0, 1).reshape(dy.shape[1], -1)  # (C_out, n rows W_out)


def _gather(x: Array, images: slice, rows: slice, geometry: Geometry, width: int) -> Array:
    """im2col of one band: the columns (C_in k_h k_w, n rows W_out) that its outputs see."""
    xp = array_module(x)
    patch, inside, source = _patch(xp, x.shape, x.dtype, images, rows, geometry)
    patch[inside] = x[source].swapaxes(0, 1)
    kh, kw = geometry.kernel
    n, height = images.stop - images.start, rows.stop - rows.start
    columns = xp.empty((x.shape[1], kh, kw, n, height, width), x.dtype)
    for i, j, seen in _offsets(geometry, height, width):
        columns[:, i, j] = patch[seen]
    return columns.reshape(x.shape[1] * kh * kw, -1)


def _scatter(columns: Array, dx: Array, images: slice, rows: slice, geometry: Geometry, width: int) -> None:
    """col2im of one band: `_gather` with every copy turned round into an addition."""
    xp = array_module(dx)
    patch, inside, source = _patch(xp, dx.shape, dx.dtype, images, rows, geometry)
    kh, kw = geometry.kernel
    n, height = images.stop - images.start, rows.stop - rows.start
    columns = columns.reshape(dx.shape[1], kh, kw, n, height, width)
    for i, j, seen in _offsets(geometry, height, width):
        patch[seen] += columns[:, i, j]
    dx[source] += patch[inside].swapaxes(0, 1)


def _patch(xp, x_shape, dtype, images: slice, rows: slice, geometry: Geometry):
    """The zero-padded piece of the input under one band, and which part of it lies inside the input.

    Returns (patch, inside, source): patch (C_in, n, rows_in, W + 2 p) of zeros, and the indices with which
    patch[inside] and x[source].swapaxes(0, 1) are the same pixels.
    """
    _, channels, height, width = x_shape
    top, bottom = geometry.input_rows(rows)
    p = geometry.padding[1]
    patch = xp.zeros((channels, images.stop - images.start, bottom - top, width + 2 * p), dtype)
    first, last = (min(max(r, 0), height) for r in (top, bottom))  # equal where a band sees nothing but padding
    inside = (slice(None), slice(None), slice(first - top, last - top), slice(p, p + width))
    source = (images, slice(None), slice(first, last))
    return patch, inside, source


def _offsets(geometry: Geometry, height: int, width: int) -> Iterator[tuple[int, int, tuple[slice, ...]]]:
    """For each tap (i, j) of the kernel, the index of the patch's pixels that it meets in the band's outputs."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    for i in range(kh):
        for j in range(kw):
            down = slice(i * dh, i * dh + sh * (height - 1) + 1, sh)
            across = slice(j * dw, j * dw + sw * (width - 1) + 1, sw)
            yield i, j, (slice(None), slice(None), down, across)
