"""Plausible wrong answers to each exercise of notebook 4: its check must not accept them."""

WRONG = {
    # the mean over the examples instead of their sum
    "linear_backward": [
        """
def linear_backward(dy, x, weight):
    return dy @ weight, dy.T @ x / len(x), dy.mean(axis=0)
"""
    ],
    "end_backward": [
        # forgets that what was kept was divided
        """
def end_backward(dy, cache):
    x, w6, hidden, kept, rate, dropped, w7 = cache
    dhidden = (dy @ w7) * kept * (hidden > 0)
    return dhidden @ w6, dhidden.T @ x, dhidden.sum(axis=0), dy.T @ dropped, dy.sum(axis=0)
""",
        # gives the last layer the features before dropout
        """
def end_backward(dy, cache):
    x, w6, hidden, kept, rate, dropped, w7 = cache
    dhidden = (dy @ w7) * kept / (1 - rate) * (hidden > 0)
    return dhidden @ w6, dhidden.T @ x, dhidden.sum(axis=0), dy.T @ hidden, dy.sum(axis=0)
""",
    ],
    # the mean over the places instead of their sum
    "pointwise_backward": [
        """
def pointwise_backward(dy, cache):
    x, weight = cache
    dx = np.einsum("ok,norc->nkrc", weight, dy)
    return dx, np.einsum("norc,nkrc->ok", dy, x) / dy[0, 0].size, dy.sum(axis=(0, 2, 3))
"""
    ],
    # the right shape, with the numbers in their old order
    "to_convolution": [
        """
def to_convolution(matrix, channels, side, channels_last=False):
    return (matrix.T if channels_last else matrix).reshape(-1, channels, side, side)
"""
    ],
    # floor mode
    "crops_of": [
        """
def crops_of(height, width):
    rows, columns = ((side - 224) // 32 + 1 for side in (height, width))
    return [(32 * r, 32 * c, 0, 0) for r in range(rows) for c in range(columns)]
"""
    ],
    # as if the fully connected layers shared their work, too
    "saving": [
        """
def saving(n, convs, fc, side=224, stride=32):
    return n**2 * side**2 / (side + stride * (n - 1)) ** 2
"""
    ],
}
