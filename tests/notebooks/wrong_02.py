"""Plausible wrong answers to each exercise of notebook 2: its check must not accept them."""

WRONG = {
    # The kernel read backwards; the bias forgotten; windows counted as if the stride were 1.
    "conv_taps": [
        """
def conv_taps(x, w, b, stride=1, padding=0):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kh, kw = w.shape[2:]
    h, k = (x.shape[2] - kh) // stride + 1, (x.shape[3] - kw) // stride + 1
    y = np.zeros((len(x), len(w), h, k)) + b[:, None, None]
    for i in range(kh):
        for j in range(kw):
            seen = x[:, :, i : i + stride * h : stride, j : j + stride * k : stride]
            y += np.einsum("ok,nkrc->norc", w[:, :, kh - 1 - i, kw - 1 - j], seen)
    return y
""",
        """
def conv_taps(x, w, b, stride=1, padding=0):
    return ops.conv2d_forward(x, w, stride=stride, padding=padding)[0]
""",
        """
def conv_taps(x, w, b, stride=1, padding=0):
    return ops.conv2d_forward(x, w, b, padding=padding)[0]
""",
    ],
    # Where windows overlap, the last one wins; dw is a mean over the images; the padding stays on.
    "conv_taps_backward": [
        """
def conv_taps_backward(dy, cache):
    x, w, stride, p = cache
    xp = np.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
    dxp, dw = np.zeros_like(xp), np.zeros_like(w)
    h, k = dy.shape[2:]
    for i, j in np.ndindex(w.shape[2:]):
        piece = np.s_[:, :, i : i + stride * h : stride, j : j + stride * k : stride]
        dw[:, :, i, j] = np.einsum("norc,nkrc->ok", dy, xp[piece])
        dxp[piece] = np.einsum("norc,ok->nkrc", dy, w[:, :, i, j])
    return dxp[:, :, p : p + x.shape[2], p : p + x.shape[3]], dw, dy.sum(axis=(0, 2, 3))
""",
        """
def conv_taps_backward(dy, cache):
    x, w, stride, padding = cache
    _, kept = ops.conv2d_forward(x, w, np.zeros(len(w)), stride=stride, padding=padding)
    dx, dw, db = ops.conv2d_backward(dy, kept)
    return dx, dw / len(x), db
""",
        """
def conv_taps_backward(dy, cache):
    x, w, stride, p = cache
    _, kept = ops.conv2d_forward(np.pad(x, ((0, 0), (0, 0), (p, p), (p, p))), w, np.zeros(len(w)), stride=stride)
    return ops.conv2d_backward(dy, kept)
""",
    ],
    # The ReLU is forgotten; it cuts off negative gradients instead of those of negative inputs.
    "two_layers_backward": [
        """
def two_layers_backward(dy, cache):
    z, cache1, cache2 = cache
    da, dw2, db2 = ops.conv2d_backward(dy, cache2)
    return *ops.conv2d_backward(da, cache1), dw2, db2
""",
        """
def two_layers_backward(dy, cache):
    z, cache1, cache2 = cache
    da, dw2, db2 = ops.conv2d_backward(dy, cache2)
    return *ops.conv2d_backward(np.maximum(da, 0), cache1), dw2, db2
""",
    ],
    # Channels swapped, but the kernel is not turned round; the gradients stand side by side, not a stride apart.
    "input_gradient": [
        """
def input_gradient(dy, w, shape, stride, padding):
    kh, kw = w.shape[2:]
    height, width = (size + 2 * p - k + 1 for size, p, k in zip(shape[2:], padding, (kh, kw)))
    apart = np.zeros((*dy.shape[:2], height, width))
    apart[:, :, ::stride, ::stride] = dy
    return ops.conv2d_forward(apart, w.swapaxes(0, 1), padding=(kh - 1 - padding[0], kw - 1 - padding[1]))[0]
""",
        """
def input_gradient(dy, w, shape, stride, padding):
    kh, kw = w.shape[2:]
    turned = w[:, :, ::-1, ::-1].swapaxes(0, 1)
    return ops.conv2d_forward(dy, turned, padding=(kh - 1 - padding[0], kw - 1 - padding[1]))[0]
""",
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
