"""One plausible wrong answer to each exercise of notebooks/09_training.py."""

WRONG = {
    # The mean over all classes, also over those that no label has.
    "constant_scores": """
def constant_scores(pixels):
    share = pixels.max() / pixels.sum()
    return share, share / len(pixels)
""",
    # The velocity as a running mean of gradients.
    "sgd_step": """
def sgd_step(w, v, g, lr, momentum, weight_decay):
    v = momentum * v - (1 - momentum) * lr * (g + weight_decay * w)
    return w + v, v
""",
    # All pixels, also those that do not count.
    "rate_for_sum": """
def rate_for_sum(lr, labels):
    return lr / labels.size
""",
    # A random score layer, as any other layer would begin.
    "next_stage": """
def next_stage(params, shapes):
    rng = np.random.default_rng(0)
    return {
        name: params[name].copy() if name in params else rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
""",
}
