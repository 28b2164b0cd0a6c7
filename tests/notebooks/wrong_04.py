"""Plausible wrong answers to each exercise of notebook 4: its check must not accept them."""

WRONG = {
    # channels last: the order of another library
    "to_convolution": [
        """
def to_convolution(weight, channels, side):
    return weight.reshape(len(weight), side, side, channels).transpose(0, 3, 1, 2)
"""
    ],
    # the right shape, with the numbers in their old order
    "from_channels_last": [
        """
def from_channels_last(matrix, channels, side):
    return matrix.T.reshape(-1, channels, side, side)
"""
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
    # floor mode
    "score_map_size": [
        """
def score_map_size(height, width):
    return (height - 224) // 32 + 1, (width - 224) // 32 + 1
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
