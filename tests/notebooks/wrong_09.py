"""Plausible wrong answers to each exercise of notebook 9: its check must not accept them."""

WRONG = {
    # The mean over all classes, also over those that no label has.
    "constant_scores": [
        """
def constant_scores(pixels):
    share = pixels.max() / pixels.sum()
    return share, share / len(pixels)
"""
    ],
    # The velocity as a running mean of gradients; the right numbers, but v and g changed in place.
    "sgd_step": [
        """
def sgd_step(w, v, g, lr, momentum, weight_decay):
    v = momentum * v - (1 - momentum) * lr * (g + weight_decay * w)
    return w + v, v
""",
        """
def sgd_step(w, v, g, lr, momentum, weight_decay):
    g += weight_decay * w
    v *= momentum
    v -= lr * g
    return w + v, v
""",
    ],
    # No correction; the decay within the gradient; epsilon within the root; corrected means handed on.
    "adam_step": [
        """
def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    return w - lr * (m / (np.sqrt(v) + eps) + weight_decay * w), m, v
""",
        """
def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * w
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    return w - lr * m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps), m, v
""",
        """
def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g**2
    step = m / (1 - betas[0] ** t) / np.sqrt(v / (1 - betas[1] ** t) + eps)
    return w - lr * (step + weight_decay * w), m, v
""",
        """
def adam_step(w, m, v, g, t, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = (betas[0] * m + (1 - betas[0]) * g) / (1 - betas[0] ** t)
    v = (betas[1] * v + (1 - betas[1]) * g**2) / (1 - betas[1] ** t)
    return w - lr * (m / (np.sqrt(v) + eps) + weight_decay * w), m, v
""",
    ],
    # A random score layer, as any other layer would begin; arrays that both networks share, but for the first.
    "next_stage": [
        """
def next_stage(params, shapes):
    rng = np.random.default_rng(0)
    return {
        name: params[name].copy() if name in params else rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
""",
        """
def next_stage(params, shapes):
    new = {name: params.get(name, np.zeros(shape, np.float32)) for name, shape in shapes.items()}
    return new | {"conv1_1.weight": params["conv1_1.weight"].copy()}
""",
    ],
}
