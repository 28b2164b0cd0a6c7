"""Plausible wrong answers to each exercise of notebook 7: its check must not accept them."""

import re
from pathlib import Path

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "text" / "07_fcn.py"
PAGES = re.findall(r"^# ```python\n(.*?)^# ```$", NOTEBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
OWN = re.sub(r"^# ?", "", PAGES[-1], flags=re.MULTILINE)  # the solution of the last exercise


def with_a_mistake(right: str, wrong: str) -> str:
    assert right in OWN
    return OWN.replace(right, wrong)


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
    "own_fcn8s": [
        with_a_mistake("d = d + dpools.get(block, 0)", "d = dpools.get(block, d)"),  # overwrites instead of adding
        with_a_mistake("counted / counted.sum()", "counted / labels.size"),  # the gradient of another mean
        with_a_mistake("u[crop : crop + outputs]", "u[:outputs]"),  # from the corner
        with_a_mistake("if relu else dy", "if relu and pad else dy"),  # fc7 has a ReLU too
    ],
}
