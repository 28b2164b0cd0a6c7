r"""Softmax cross-entropy at every pixel, forward and backward.

With scores s (one number a class) at a pixel of class t, p = softmax(s), and w[t] the weight of the class:

    loss = -w[t] log p[t] = w[t] (log sum_k exp(s[k]) - s[t])

Its gradient: the derivative of the log-sum-exp is p, that of s[t] is 1 at the label and 0 elsewhere, hence

    dloss/ds[k] = w[t] (p[k] - [k = t])

which sums to zero over the classes: raising all scores alike changes nothing. For the same reason the largest score may
be subtracted from all before exp, which then cannot overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tinyfcn.backend import Array, array_module
from tinyfcn.ops import _check

REDUCTIONS = ("mean", "sum", "none")


def softmax_cross_entropy_forward(
    scores: Array,
    labels: Array,
    *,
    ignore_index: int = 255,
    reduction: str = "mean",
    class_weight: Array | None = None,
) -> tuple[Any, tuple]:
    """Loss of scores (N, C, H, W) against integer labels (N, H, W); pixels labelled `ignore_index` do not count.

    `reduction` "sum" adds the loss of all pixels that count, "mean" divides that by the sum of their weights (their
    number, where `class_weight` (C,) is None; 0 where no pixel counts), "none" returns the loss of each pixel, (N, H, W),
    0 where ignored. The result has the dtype of scores. The cache holds the softmax, (N, C, H, W), and a weight a pixel.

    Any number of axes may follow (N, C) in scores and (N,) in labels.
    Raises TypeError for labels that are not integers, and ValueError for shapes that do not fit, an unknown reduction, or
    a label that is neither a class nor `ignore_index`.
    """
    op = "softmax_cross_entropy"
    xp = _check.arrays(op, {"class_weight": class_weight}, scores=scores)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    if array_module(labels) is not xp or labels.dtype.kind not in "iu":
        raise TypeError(f"{op}: labels must be integers of the scores' module, got {labels.dtype} of {type(labels)}")
    if scores.ndim < 2 or labels.shape != (scores.shape[0], *scores.shape[2:]):
        raise ValueError(f"{op}: scores of shape {scores.shape} do not fit labels of shape {labels.shape}")
    classes = scores.shape[1]
    if class_weight is not None:
        _check.shape(op, "class_weight", class_weight, (classes,))
    counted = labels != ignore_index
    index = xp.where(counted, labels, 0).astype(np.int64)  # ignored pixels look up class 0, with weight 0
    outside = (index < 0) | (index >= classes)
    if outside.any():
        raise ValueError(
            f"{op}: label {int(index[outside][0])} is not among the {classes} classes 0 to {classes - 1}, "
            f"nor the ignore label {ignore_index}"
        )
    index = index[:, None]  # (N, 1, H, W)
    weight = counted.astype(scores.dtype)[:, None]
    if class_weight is not None:
        weight *= class_weight[index]
    if reduction == "mean":
        count = weight.sum()
        weight /= xp.where(count > 0, count, 1).astype(scores.dtype)

    shifted = scores - scores.max(axis=1, keepdims=True)
    exp = xp.exp(shifted)
    total = exp.sum(axis=1, keepdims=True)
    exp /= total  # the softmax, (N, C, H, W)
    loss = xp.log(total) - xp.take_along_axis(shifted, index, axis=1)  # (N, 1, H, W)
    loss = xp.where(counted[:, None], loss, 0) * weight
    loss = loss[:, 0] if reduction == "none" else loss.sum()
    return loss, (exp, index, weight, loss.shape)


def softmax_cross_entropy_backward(dloss: Any, cache: tuple) -> Array:
    """Return dscores = dloss w[t] (p - [k = t]), (N, C, H, W), for dloss, the gradient at the loss.

    `dloss` is a number for "mean" and "sum", an array (N, H, W) for "none".
    """
    softmax, index, weight, loss_shape = cache
    xp = array_module(softmax)
    dloss = xp.asarray(dloss, softmax.dtype)
    _check.shape("softmax_cross_entropy_backward", "dloss", dloss, loss_shape)
    if dloss.ndim:
        dloss = dloss[:, None]
    classes = xp.arange(softmax.shape[1]).reshape(-1, *(1,) * (softmax.ndim - 2))
    return (softmax - (classes == index)) * (weight * dloss)  # (N, C, H, W)
