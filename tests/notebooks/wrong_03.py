"""Plausible wrong answers to each exercise of notebook 3: its check must not accept them."""

WRONG = {
    # every input that equals the maximum gets the gradient; where windows overlap, the last one wins
    "route": [
        """
def route(dy, x, k, s):
    dx = np.zeros_like(x)
    for n, channel, r, c in np.ndindex(dy.shape):
        window = np.s_[n, channel, r * s : r * s + k, c * s : c * s + k]
        dx[window] += dy[n, channel, r, c] * (x[window] == x[window].max())
    return dx
""",
        """
def route(dy, x, k, s):
    dx = np.zeros_like(x)
    for n, channel, r, c in np.ndindex(dy.shape):
        window = x[n, channel, r * s : r * s + k, c * s : c * s + k]
        i, j = np.unravel_index(window.argmax(), window.shape)
        dx[n, channel, r * s + i, c * s + j] = dy[n, channel, r, c]
    return dx
""",
    ],
    # the last window may begin beyond the input
    "windows_along": [
        """
def windows_along(size, k, s, p, ceil_mode):
    room = size + 2 * p - k
    return (-(-room // s) if ceil_mode else room // s) + 1
"""
    ],
    # the dilation taken as a stride of the layers above; the centre moved by the stride after the layer
    "receptive_field": [
        """
def receptive_field(layers):
    field, jump, start = 1, 1, 0
    for kernel, stride, padding, dilation in layers:
        field += (kernel - 1) * jump
        start += ((kernel - 1) / 2 - padding) * jump
        jump *= stride * dilation
    return field, jump, start
""",
        """
def receptive_field(layers):
    field, jump, start = 1, 1, 0
    for kernel, stride, padding, dilation in layers:
        span = (kernel - 1) * dilation
        field += span * jump
        jump *= stride
        start += (span / 2 - padding) * jump
    return field, jump, start
""",
    ],
    # the sum's gradient; each window overwrites what the last one gave
    "average_backward": [
        """
def average_backward(dy, shape, k, s):
    dx = np.zeros(shape)
    for r, c in np.ndindex(dy.shape[2:]):
        dx[:, :, r * s : r * s + k, c * s : c * s + k] += dy[:, :, r, c, None, None]
    return dx
""",
        """
def average_backward(dy, shape, k, s):
    dx = np.zeros(shape)
    for r, c in np.ndindex(dy.shape[2:]):
        dx[:, :, r * s : r * s + k, c * s : c * s + k] = dy[:, :, r, c, None, None] / k**2
    return dx
""",
    ],
}
