"""The mathematics: each operation a forward and a backward function, side by side in a file of its own.

    y, cache = ops.conv2d_forward(x, weight, bias, padding=1)
    dx, dweight, dbias = ops.conv2d_backward(dy, cache)

Operations keep the dtype (float32 or float64) and the array module (NumPy or CuPy) of their input and change no argument.
"""

from tinyfcn.ops.activation import dropout_backward, dropout_forward, relu_backward, relu_forward
from tinyfcn.ops.conv2d import conv2d_backward, conv2d_forward
from tinyfcn.ops.linear import linear_backward, linear_forward
from tinyfcn.ops.loss import softmax_cross_entropy_backward, softmax_cross_entropy_forward
from tinyfcn.ops.norm import local_response_norm_backward, local_response_norm_forward
from tinyfcn.ops.pool import max_pool2d_backward, max_pool2d_forward
from tinyfcn.ops.upsample import (
    bilinear_filter,
    bilinear_weight,
    conv_transpose2d_backward,
    conv_transpose2d_forward,
    upsample_bilinear_backward,
    upsample_bilinear_forward,
)

__all__ = [
    "bilinear_filter",
    "bilinear_weight",
    "conv2d_backward",
    "conv2d_forward",
    "conv_transpose2d_backward",
    "conv_transpose2d_forward",
    "dropout_backward",
    "dropout_forward",
    "linear_backward",
    "linear_forward",
    "local_response_norm_backward",
    "local_response_norm_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "relu_backward",
    "relu_forward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "upsample_bilinear_backward",
    "upsample_bilinear_forward",
]
