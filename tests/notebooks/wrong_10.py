"""Plausible wrong answers to each exercise of notebook 10: its check must not accept them."""

WRONG = {
    # The last product as in F(2, 3), where it has the other sign.
    "three_outputs": [
        """
def three_outputs(d, g):
    m0 = (d[0] - d[2]) * g[0]
    m1 = (d[1] + d[2]) * ((g[0] + g[1]) / 2)
    m2 = (d[2] - d[1]) * ((g[0] - g[1]) / 2)
    m3 = (d[1] - d[3]) * g[1]
    return m0 + m1 + m2, m1 - m2, m1 + m2 + m3
"""
    ],
    # Goes back by the inverse, where the chain rule takes the transpose.
    "tile_weight_gradient": [
        """
def tile_weight_gradient(dY, d, A_T, G, B_T):
    dM = np.linalg.pinv(A_T) @ dY @ np.linalg.pinv(A_T).T
    dU = dM * (B_T @ d @ B_T.T)
    return np.linalg.pinv(G) @ dU @ np.linalg.pinv(G).T
"""
    ],
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
}
