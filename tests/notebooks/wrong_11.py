"""Plausible wrong answers to each exercise of notebook 11: its check must not accept them."""

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
    # Where tiles overlap, the later gradient takes the place of the earlier; the kernel is turned round, as it is for dx.
    "strip_input_gradient": [
        """
def strip_input_gradient(dY, g, A_T, G, B_T):
    dd = np.zeros((6, dY.shape[1] + 2))
    for left in range(0, dY.shape[1], 4):
        dM = A_T.T @ dY[:, left : left + 4] @ A_T
        dd[:, left : left + 6] = B_T.T @ (dM * (G @ g @ G.T)) @ B_T
    return dd
""",
        """
def strip_input_gradient(dY, g, A_T, G, B_T):
    dd = np.zeros((6, dY.shape[1] + 2))
    for left in range(0, dY.shape[1], 4):
        dM = A_T.T @ dY[:, left : left + 4] @ A_T
        dd[:, left : left + 6] += B_T.T @ (dM * (G @ g[::-1, ::-1] @ G.T)) @ B_T
    return dd
""",
    ],
}
