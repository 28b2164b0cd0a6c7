"""Plausible wrong answers to each exercise of notebook 10: its check must not accept them."""

WRONG = {
    # The share of pixels of the padded map: those at the border are met less often.
    "share_inside": [
        """
def share_inside(size, kernel, padding):
    return (size / (size + 2 * padding)) ** 2
"""
    ],
    # Right, but all columns are there at once, and cut into bands afterwards.
    "conv_in_bands": [
        """
def conv_in_bands(x, w, rows):
    k = w.shape[2]
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    columns = im2col(x, k, k).reshape(-1, len(x), height, width)
    y = np.empty((len(x), len(w), height, width), x.dtype)
    for top in range(0, height, rows):
        band = columns[:, :, top : top + rows]
        y[:, :, top : top + rows] = np.tensordot(w.reshape(len(w), -1), band, 1).swapaxes(0, 1)
    return y
"""
    ],
    # Pads first, and multiplies the padding; takes the kernel's last row of taps for the map's.
    "conv_by_taps": [
        """
def conv_by_taps(x, w, padding):
    k = w.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    y = np.zeros((len(x), len(w), height, width))
    for i, j in np.ndindex(k, k):
        y += np.einsum("oc,nchw->nohw", w[:, :, i, j], x[:, :, i : i + height, j : j + width])
    return y
""",
        """
def conv_by_taps(x, w, padding):
    (n, _, H, W), (c_out, _, k, _) = x.shape, w.shape
    height, width = H + 2 * padding - k + 1, W + 2 * padding - k + 1
    y = np.zeros((n, c_out, height, width))
    for i, j in np.ndindex(k, k):
        rows = [r for r in range(height) if 0 <= r + i - padding < H]
        cols = [c for c in range(width) if 0 <= c + j - padding < W]
        for r in rows:
            for c in cols:
                y[:, :, r, c] = x[:, :, r + i - padding, c + j - padding] @ w[:, :, i, j].T
    return y
""",
    ],
}
