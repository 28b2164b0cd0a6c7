"""Plausible wrong answers to each exercise of notebook 2: its check must not accept them."""

WRONG = {
    # One size too many: that one has room for another window.
    "input_sizes": [
        """
def input_sizes(outputs, kernel, stride=1, padding=0, dilation=1):
    smallest = (outputs - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding
    return smallest, smallest + stride
"""
    ],
    # The size is right, but the taps are side by side.
    "dilated_columns": [
        """
def dilated_columns(x, kh, kw, dilation):
    n, c, height, width = x.shape
    h, w = height - dilation * (kh - 1), width - dilation * (kw - 1)
    columns = np.empty((c, kh, kw, n, h, w), x.dtype)
    for i in range(kh):
        for j in range(kw):
            columns[:, i, j] = x[:, :, i : i + h, j : j + w].swapaxes(0, 1)
    return columns.reshape(c * kh * kw, -1)
"""
    ],
    # Where windows overlap, the last one wins.
    "conv1d_backward": [
        """
def conv1d_backward(dy, cache):
    x, w, stride = cache
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for r, upstream in enumerate(dy):
        window = slice(r * stride, r * stride + len(w))
        dx[window] = upstream * w
        dw += upstream * x[window]
    return dx, dw
"""
    ],
    # Channels swapped, but the kernel is not turned round.
    "input_gradient": [
        """
def input_gradient(dy, w, padding):
    kh, kw = w.shape[2:]
    dx, _ = ops.conv2d_forward(dy, w.swapaxes(0, 1), padding=(kh - 1 - padding[0], kw - 1 - padding[1]))
    return dx
"""
    ],
    # The stride stays a stride.
    "weight_gradient": [
        """
def weight_gradient(dy, x, kh, kw, stride):
    dw, _ = ops.conv2d_forward(x.swapaxes(0, 1), dy.swapaxes(0, 1), stride=stride)
    return dw.swapaxes(0, 1)[:, :, :kh, :kw]
"""
    ],
}
