"""Plausible wrong answers to each exercise of notebook 3: its check must not accept them."""

WRONG = {
    # every input that equals the maximum gets the gradient
    "route": [
        """
def route(dy, x):
    y = ops.max_pool2d_forward(x, 2)[0]
    return (x == y.repeat(2, axis=2).repeat(2, axis=3)) * dy.repeat(2, axis=2).repeat(2, axis=3)
"""
    ],
    # the last window may begin beyond the input
    "windows_along": [
        """
def windows_along(size, k, s, p, ceil_mode):
    room = size + 2 * p - k
    return (-(-room // s) if ceil_mode else room // s) + 1
"""
    ],
    # the dilation taken as a stride of the layers above
    "receptive_field": [
        """
def receptive_field(layers):
    field, jump = 1, 1
    for kernel, stride, dilation in layers:
        field += (kernel - 1) * jump
        jump *= stride * dilation
    return field
"""
    ],
    # the sum's gradient
    "average_backward": [
        """
def average_backward(dy, k):
    return dy.repeat(k, axis=2).repeat(k, axis=3)
"""
    ],
}
