"""Plausible wrong answers to each exercise of notebook 7: its check must not accept them."""

WRONG = {
    # crops from the corner
    "fuse": [
        """
def fuse(coarse, skip4, skip3):
    total = coarse
    for skip in (skip4, skip3):
        up, _ = ops.upsample_bilinear_forward(total, 4, 2)
        total = up + skip[:, :, : up.shape[2], : up.shape[3]]
    return total
"""
    ],
    # divides the gradient between the two
    "add_backward": [
        """
def add_backward(dy, skip_shape, offset):
    dskip = np.zeros(skip_shape, dy.dtype)
    dskip[:, :, offset : offset + dy.shape[2], offset : offset + dy.shape[3]] = dy / 2
    return dskip, dy / 2
"""
    ],
    # forgets where the crop began
    "head_backward": [
        """
def head_backward(dy, cache):
    up_cache, last_cache, skip_shape = cache
    dtotal = ops.upsample_bilinear_backward(dy, last_cache)
    dskip = np.zeros(skip_shape, dy.dtype)
    dskip[:, :, : dtotal.shape[2], : dtotal.shape[3]] = dtotal
    return ops.upsample_bilinear_backward(dtotal, up_cache), dskip
"""
    ],
    # forgets the biases
    "count_parameters": [
        """
def count_parameters(classes):
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    total = sum(9 * a * b for a, b in zip(channels, channels[1:]))
    return total + 49 * 512 * 4096 + 4096 * 4096 + (4096 + 512 + 256) * classes
"""
    ],
    # squares what enters squared already
    "balancing_scales": [
        """
def balancing_scales(conv7, pool4, pool3):
    return 1.0, (conv7 / pool4) ** 2, (conv7 / pool3) ** 2
"""
    ],
}
