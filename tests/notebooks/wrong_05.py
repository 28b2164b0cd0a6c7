"""Plausible wrong answers to each exercise of notebook 5: its check must not accept them."""

WRONG = {
    # overwrites where copies overlap; a padding that adds
    "conv_transpose1d": [
        """
def conv_transpose1d(x, w, stride, padding):
    n, k = x.shape[1], w.shape[2]
    y = np.zeros((w.shape[1], (n - 1) * stride + k))
    for r in range(n):
        y[:, r * stride : r * stride + k] = np.tensordot(x[:, r], w, 1)
    return y[:, padding : y.shape[1] - padding]
""",
        """
def conv_transpose1d(x, w, stride, padding):
    n, k = x.shape[1], w.shape[2]
    y = np.zeros((w.shape[1], (n - 1) * stride + k + 2 * padding))
    for r in range(n):
        y[:, padding + r * stride : padding + r * stride + k] += np.tensordot(x[:, r], w, 1)
    return y
""",
    ],
    # the kernel turned round, as for the backward pass of a convolution; a mean over the inputs
    "conv_transpose1d_backward": [
        """
def conv_transpose1d_backward(dy, cache):
    x, w, stride, padding = cache
    dy = np.pad(dy, ((0, 0), (padding, padding)))
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for r in range(x.shape[1]):
        window = dy[:, r * stride : r * stride + w.shape[2]]
        dx[:, r] = np.tensordot(w[:, :, ::-1], window, 2)
        dw += x[:, r, None, None] * window
    return dx, dw
""",
        """
def conv_transpose1d_backward(dy, cache):
    x, w, stride, padding = cache
    dy = np.pad(dy, ((0, 0), (padding, padding)))
    windows = np.stack([dy[:, r * stride : r * stride + w.shape[2]] for r in range(x.shape[1])])
    dx = np.einsum("rok,iok->ir", windows, w)
    return dx, np.einsum("ir,rok->iok", x, windows) / x.shape[1]
""",
    ],
    # the centre on a tap, also for an even kernel; the matrices change places on the way back
    "upsample_backward": [
        """
def upsample(x, k):
    stride = (k + 1) // 2
    triangle = 1 - abs(np.arange(k) - k // 2) / stride
    matrices = []
    for n in x.shape[2:]:
        U = np.zeros(((n - 1) * stride + k, n))
        for r in range(n):
            U[r * stride : r * stride + k, r] = triangle
        matrices.append(U)
    return matrices[0] @ x @ matrices[1].T, matrices


def upsample_backward(dy, cache):
    return cache[0].T @ dy @ cache[1]
""",
        """
def upsample(x, k):
    return ops.upsample_bilinear_forward(x, k, (k + 1) // 2)


def upsample_backward(dy, cache):
    stride = round((dy.shape[2] - 1) / 4) or 1
    return dy[:, :, ::stride, ::stride][:, :, :4, :5]
""",
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
