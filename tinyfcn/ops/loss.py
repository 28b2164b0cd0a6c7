r"""Softmax cross-entropy at every pixel, forward and backward.

With scores s (one number per class) at a pixel of class t, p = softmax(s), and w[t] the weight of the class:

    loss = -w[t] log p[t] = w[t] (log sum_k exp(s[k]) - s[t])

Its gradient: the derivative of the log-sum-exp is p, that of s[t] is 1 at the label and 0 elsewhere, hence

    dloss/ds[k] = w[t] (p[k] - [k = t])

which sums to zero over the classes: raising all scores alike changes nothing. For the same reason the largest score may
be subtracted from all before exp, which then cannot overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import _check, kernels
from tinyfcn.parallel import PIECE, at_once, bands, in_pieces, map_queue, split_evenly

PIXELS = 1 << 13  # whose scores, a few dozen classes, stay in the cache
REDUCTIONS = ("mean", "sum", "none")


class Cache(NamedTuple):
    """The gradient of each pixel's loss at its scores, (N, C, H, W), and the loss's shape."""

    gradient: Array
    loss_shape: tuple[int, ...]


def softmax_cross_entropy_forward(
    scores: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    reduction: str = "mean",
    class_weight: Array | None = None,
) -> tuple[Any, Cache]:
    """Loss of scores (N, C, H, W) against integer labels (N, H, W); pixels labelled `ignore_index` do not count.

    `reduction` "sum" adds the loss of all pixels that count, "mean" divides that by the sum of their weights (their
    number, where `class_weight` (C,) is None; 0 where no pixel counts), "none" returns the loss of each pixel, (N, H, W),
    0 where ignored. The result has the dtype of scores. The cache holds the gradient of each pixel's loss at its scores,
    (N, C, H, W): softmax and label are at hand here, so that one pass over the scores does both.

    Any number of axes may follow (N, C) in scores and (N,) in labels.
    Raises TypeError for labels that are not integers, and ValueError for shapes that do not fit, an unknown reduction, or
    a label that is neither a class nor `ignore_index`. On a GPU such a label makes loss and gradient NaN at its pixel instead,
    and in the sum and mean: to raise an error, the host would have to wait for the device at every step.
    """
    op = "softmax_cross_entropy"
    xp = _check.arrays(op, scores=(scores, "..."), class_weight=(class_weight, "..."))
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if array_module(labels) is not xp or labels.dtype.kind not in "iu":
        raise TypeError(f"{op}: labels must be integers of the scores' module, got {labels.dtype} of {type(labels)}")
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(f"{op}: scores of shape {scores.shape} do not fit labels of shape {labels.shape}")
    classes = scores.shape[1]
    if class_weight is not None:
        _check.shape(op, "class_weight", class_weight, (classes,))
    index = labels.astype(np.int64)
    counted = index != ignore_index
    outside = counted & ((index < 0) | (index >= classes))
    if xp is np and outside.any():
        raise ValueError(
            f"{op}: label {index[outside][0]} is not among the {classes} classes 0 to {classes - 1}, "
            f"nor the ignore label {ignore_index}"
        )
    index = xp.where(counted & ~outside, index, 0)  # others look up class 0, with weight 0 or NaN
    weight = xp.where(outside, np.nan, counted).astype(scores.dtype)
    if class_weight is not None:
        weight *= class_weight[index]
    if reduction == "mean":
        total = weight.sum()
        weight /= xp.where(total > 0, total, 1).astype(scores.dtype)

    images, count = len(scores), prod(labels.shape[1:])
    flat = scores.reshape(images, classes, count)  # (N, C, P), a pixel a column
    index, weight = index.reshape(images, count), weight.reshape(images, count)  # (N, P)
    gradient = xp.empty(flat.shape, scores.dtype)
    loss = xp.empty(index.shape, scores.dtype)

    def work(todo: Iterator[tuple[int, slice]]) -> None:
        for n, pixels in todo:
            g, t, w = gradient[n, :, pixels], index[n, pixels], weight[n, pixels]
            place = (t, np.arange(len(t)))
            np.subtract(flat[n, :, pixels], flat[n, :, pixels].max(axis=0), out=g)  # s - max s
            label_score = g[place]
            np.exp(g, out=g)
            total = g.sum(axis=0)
            loss[n, pixels] = w * np.where(w != 0, np.log(total) - label_score, 0)
            g *= w / total
            g[place] -= w  # w (softmax - [k = t])

    if xp is np:
        pieces = split_evenly(count, -(-count // PIXELS))
        map_queue(xp, work, [(n, pixels) for n in range(images) for pixels in pieces])
    else:
        kernels.softmax_cross_entropy(flat, index, weight, gradient, loss)
    loss = loss.reshape(labels.shape) if reduction == "none" else loss.sum()
    return loss, Cache(gradient.reshape(scores.shape), loss.shape)


def softmax_cross_entropy_backward(dloss: Any, cache: Cache) -> Array:
    """Return dscores = dloss w[t] (p - [k = t]), (N, C, H, W), for dloss, the gradient at the loss.

    `dloss` is a number for "mean" and "sum", an array (N, H, W) for "none". For the number 1, as at the start of a backward
    pass, the result is the cache's own array.
    """
    gradient, loss_shape = cache
    if loss_shape == () and isinstance(dloss, Real) and dloss == 1:
        return gradient
    xp = array_module(gradient)
    dloss = xp.asarray(dloss, gradient.dtype)
    _check.shape("softmax_cross_entropy_backward", "dloss", dloss, loss_shape)
    if dloss.ndim:
        return gradient * dloss[:, None]
    dscores = xp.empty_like(gradient)
    in_pieces(lambda out, g: xp.multiply(g, dloss, out=out), dscores, gradient)
    return dscores


def softmax_in_place(scores: Array) -> None:
    """Turn scores (N, C, H, W) into the probabilities of the classes, in their place."""
    xp = array_module(scores)
    for rows in bands(xp, scores.shape[2], scores.size // scores.shape[2], at_once(xp, PIECE)):
        band = scores[:, :, rows]
        band -= band.max(axis=1, keepdims=True)
        xp.exp(band, out=band)
        band /= band.sum(axis=1, keepdims=True)
