"""Plausible wrong answers to each exercise of notebook 5: its check must not accept them."""

WRONG = {
    # overwrites where copies overlap
    "conv_transpose1d": [
        """
def conv_transpose1d(x, w, stride, padding):
    y = np.zeros((len(x) - 1) * stride + len(w))
    for r, value in enumerate(x):
        y[r * stride : r * stride + len(w)] = value * w
    return y[padding : len(y) - padding]
"""
    ],
    # the kernel turned round, as for the backward pass of a convolution
    "conv_transpose1d_backward": [
        """
def conv_transpose1d_backward(dy, cache):
    x, w, stride = cache
    windows = np.stack([dy[r * stride : r * stride + len(w)] for r in range(len(x))])
    return windows @ w[::-1], x @ windows
"""
    ],
    # the centre on a tap, also for an even kernel
    "triangle": [
        """
def triangle(k):
    stride = (k + 1) // 2
    return 1 - abs(np.arange(k) - k // 2) / stride
"""
    ],
    # the kernel as it is
    "transposed_by_insertion": [
        """
def transposed_by_insertion(x, weight, stride, padding):
    n, channels, height, width = x.shape
    apart = np.zeros((n, channels, (height - 1) * stride + 1, (width - 1) * stride + 1))
    apart[:, :, ::stride, ::stride] = x
    return ops.conv2d_forward(apart, weight.swapaxes(0, 1), padding=weight.shape[2] - 1 - padding)[0]
"""
    ],
    # the middle of what is left over, for an image of 500 pixels
    "last_crop": [
        """
def last_crop(first_padding, fc6_padding, strides):
    size = VGG.map_sizes(first_padding, fc6_padding, 500)["fc6"]
    for stride in strides:
        size = (size - 1) * stride + 2 * stride
    return (size - 500) // 2
"""
    ],
}
