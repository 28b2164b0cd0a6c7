"""Each operation again, as slowly and plainly as its definition reads: loops over single float64 entries.

Nothing here shares a line, a formula for a size or an idea with `tinyfcn.ops`, so that the two can only agree
by both being right. Backward passes follow the forward loops: where y gets a * b, dy * b goes to the gradient
of a.
"""

import math

import numpy as np


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def count(fits):
    """How many r = 0, 1, 2, ... in a row satisfy fits(r)."""
    r = 0
    while fits(r):
        r += 1
    return r


def conv_windows(size, kernel, stride, padding, dilation):
    """Windows whose last tap still lies inside the padded input."""
    return count(lambda r: r * stride + (kernel - 1) * dilation < size + 2 * padding)


def conv_terms(x_shape, w_shape, stride, padding, dilation):
    """All (x index, w index, y index) such that y[...] += x[...] w[...], for taps inside x."""
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    images, channels, height, width = x_shape
    filters, _, kh, kw = w_shape
    for n in range(images):
        for o in range(filters):
            for r in range(conv_windows(height, kh, sh, ph, dh)):
                for c in range(conv_windows(width, kw, sw, pw, dw)):
                    for k in range(channels):
                        for i in range(kh):
                            for j in range(kw):
                                row, column = r * sh + i * dh - ph, c * sw + j * dw - pw
                                if 0 <= row < height and 0 <= column < width:
                                    yield (n, k, row, column), (o, k, i, j), (n, o, r, c)


def conv2d(x, weight, bias=None, stride=1, padding=0, dilation=1):
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    rows = conv_windows(x.shape[2], weight.shape[2], sh, ph, dh)
    columns = conv_windows(x.shape[3], weight.shape[3], sw, pw, dw)
    y = np.zeros((len(x), len(weight), rows, columns))
    for a, b, out in conv_terms(x.shape, weight.shape, stride, padding, dilation):
        y[out] += x[a] * weight[b]
    return y if bias is None else y + np.reshape(bias, (1, -1, 1, 1))


def conv2d_backward(dy, x, weight, stride=1, padding=0, dilation=1):
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for a, b, out in conv_terms(x.shape, weight.shape, stride, padding, dilation):
        dx[a] += dy[out] * weight[b]
        dw[b] += dy[out] * x[a]
    for out in np.ndindex(dy.shape):
        db[out[1]] += dy[out]
    return dx, dw, db


def conv_transpose_terms(x_shape, w_shape, y_shape, stride, padding):
    """All (x index, w index, y index) such that y[...] += x[...] w[...], for places inside y."""
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    images, channels, height, width = x_shape
    _, filters, kh, kw = w_shape
    for n in range(images):
        for k in range(channels):
            for r in range(height):
                for c in range(width):
                    for o in range(filters):
                        for i in range(kh):
                            for j in range(kw):
                                row, column = r * sh + i - ph, c * sw + j - pw
                                if 0 <= row < y_shape[2] and 0 <= column < y_shape[3]:
                                    yield (n, k, r, c), (k, o, i, j), (n, o, row, column)


def conv_transpose_size(size, kernel, stride, padding, extra):
    """Places that the kernels cover, less the padding at either end, plus those added at the far end."""
    spread = {r * stride + i for r in range(size) for i in range(kernel)}
    return max(spread) + 1 - 2 * padding + extra


def conv_transpose2d(x, weight, bias=None, stride=1, padding=0, output_padding=0):
    (sh, sw), (ph, pw), (eh, ew) = pair(stride), pair(padding), pair(output_padding)
    rows = conv_transpose_size(x.shape[2], weight.shape[2], sh, ph, eh)
    columns = conv_transpose_size(x.shape[3], weight.shape[3], sw, pw, ew)
    y = np.zeros((len(x), weight.shape[1], rows, columns))
    for a, b, out in conv_transpose_terms(x.shape, weight.shape, y.shape, stride, padding):
        y[out] += x[a] * weight[b]
    return y if bias is None else y + np.reshape(bias, (1, -1, 1, 1))


def conv_transpose2d_backward(dy, x, weight, stride=1, padding=0):
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(weight.shape[1])
    for a, b, out in conv_transpose_terms(x.shape, weight.shape, dy.shape, stride, padding):
        dx[a] += dy[out] * weight[b]
        dw[b] += dy[out] * x[a]
    for out in np.ndindex(dy.shape):
        db[out[1]] += dy[out]
    return dx, dw, db


def pool_windows(size, kernel, stride, padding, ceil_mode):
    """Windows that lie inside the padded input.

    In ceil mode also one that hangs over its end by less than a stride, if it starts inside the input or the
    padding before it.
    """
    end = size + 2 * padding
    if not ceil_mode:
        return count(lambda r: r * stride + kernel <= end)
    return count(lambda r: r * stride + kernel < end + stride and r * stride < padding + size)


def max_pool2d(x, kernel, stride=None, padding=0, ceil_mode=False):
    """The largest input of each window, and its place in x: the first one, where several are equal."""
    (kh, kw), (sh, sw), (ph, pw) = pair(kernel), pair(kernel if stride is None else stride), pair(padding)
    rows = pool_windows(x.shape[2], kh, sh, ph, ceil_mode)
    columns = pool_windows(x.shape[3], kw, sw, pw, ceil_mode)
    y, places = np.zeros((*x.shape[:2], rows, columns)), {}
    for out in np.ndindex(y.shape):
        n, k, r, c = out
        place = None
        for i in range(kh):
            for j in range(kw):
                row, column = r * sh + i - ph, c * sw + j - pw
                inside = 0 <= row < x.shape[2] and 0 <= column < x.shape[3]
                if inside and (place is None or x[n, k, row, column] > x[place]):
                    place = n, k, row, column
        y[out], places[out] = x[place], place
    return y, places


def max_pool2d_backward(dy, x, places):
    dx = np.zeros(x.shape)
    for out, place in places.items():
        dx[place] += dy[out]
    return dx


def linear(x, weight, bias):
    y = np.zeros((len(x), len(weight)))
    for n, o in np.ndindex(y.shape):
        y[n, o] = bias[o] + sum(x[n, d] * weight[o, d] for d in range(x.shape[1]))
    return y


def linear_backward(dy, x, weight):
    dx, dw, db = np.zeros(x.shape), np.zeros(weight.shape), np.zeros(len(weight))
    for n, o in np.ndindex(dy.shape):
        db[o] += dy[n, o]
        for d in range(x.shape[1]):
            dx[n, d] += dy[n, o] * weight[o, d]
            dw[o, d] += dy[n, o] * x[n, d]
    return dx, dw, db


def pixel_loss(scores, label):
    """-log of the probability of the label, of one pixel's scores."""
    top = max(scores)
    return math.log(sum(math.exp(s - top) for s in scores)) - (scores[label] - top)


def softmax_cross_entropy(scores, labels, ignore_index=255, reduction="mean", class_weight=None):
    losses, weights = np.zeros(labels.shape), np.zeros(labels.shape)
    for n, r, c in np.ndindex(labels.shape):
        label = int(labels[n, r, c])
        if label != ignore_index:
            weights[n, r, c] = 1.0 if class_weight is None else class_weight[label]
            losses[n, r, c] = weights[n, r, c] * pixel_loss([float(s) for s in scores[n, :, r, c]], label)
    if reduction == "none":
        return losses
    total = math.fsum(losses.ravel())
    counted = math.fsum(weights.ravel())
    return total if reduction == "sum" else (total / counted if counted else 0.0)


def softmax_cross_entropy_backward(scores, labels, dloss, ignore_index=255, class_weight=None):
    """Gradient of sum over pixels of dloss[n, r, c] times that pixel's weighted loss."""
    ds = np.zeros(scores.shape)
    for n, r, c in np.ndindex(labels.shape):
        label = int(labels[n, r, c])
        if label == ignore_index:
            continue
        weight = 1.0 if class_weight is None else class_weight[label]
        for k in range(scores.shape[1]):
            probability = math.exp(-pixel_loss([float(s) for s in scores[n, :, r, c]], k))
            ds[n, k, r, c] = dloss[n, r, c] * weight * (probability - (1.0 if k == label else 0.0))
    return ds


def bilinear(x, kernel, stride):
    """Each output between its nearest inputs, by its distance to each; inputs beyond the border are zero.

    Input (r, c) lies at output (r s + (k - 1) / 2, c s + (k - 1) / 2), and its weight falls linearly from 1
    on its own place to 0 at half of (k + 1), rounded down, away from it.
    """
    reach = (kernel + 1) // 2
    y = np.zeros((*x.shape[:2], (x.shape[2] - 1) * stride + kernel, (x.shape[3] - 1) * stride + kernel))
    for n, k, row, column in np.ndindex(y.shape):
        for r in range(x.shape[2]):
            for c in range(x.shape[3]):
                down = abs(row - r * stride - (kernel - 1) / 2) / reach
                across = abs(column - c * stride - (kernel - 1) / 2) / reach
                y[n, k, row, column] += max(0.0, 1 - down) * max(0.0, 1 - across) * x[n, k, r, c]
    return y
