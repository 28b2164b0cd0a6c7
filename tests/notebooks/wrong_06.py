"""Plausible wrong answers to each exercise of notebook 6: its check must not accept them."""

WRONG = {
    "log_softmax": [
        # the logarithm of a probability that may be 0
        """
def log_softmax(scores):
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.log(exps / exps.sum(axis=1, keepdims=True))
""",
        # the largest score of all pixels
        """
def log_softmax(scores):
    lowered = scores - scores.max()
    return lowered - np.log(np.exp(lowered).sum(axis=1, keepdims=True))
""",
    ],
    "weighted_loss": [
        # divides by all pixels
        """
def weighted_loss(scores, labels, weights):
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    counted = labels != 255
    w = (weights[np.where(counted, labels, 0)] * counted)[:, None]
    onehot = labels[:, None] == np.arange(scores.shape[1])[:, None, None]
    return -(w * onehot * log_p).sum() / labels.size, w * (np.exp(log_p) - onehot) / labels.size
""",
        # divides by the number of pixels that count, not by their weights
        """
def weighted_loss(scores, labels, weights):
    log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    counted = labels != 255
    w = (weights[np.where(counted, labels, 0)] * counted)[:, None]
    onehot = labels[:, None] == np.arange(scores.shape[1])[:, None, None]
    return -(w * onehot * log_p).sum() / counted.sum(), w * (np.exp(log_p) - onehot) / counted.sum()
""",
    ],
    "another_recipe": [
        # forgets that the rate multiplies the weight decay
        """
def another_recipe(lr, momentum, weight_decay, pixels, batch):
    faded = momentum**batch
    return lr * (1 - faded) / (1 - momentum) * batch * pixels, faded, weight_decay
""",
        # the rate for a batch that moves the weights once for each image
        """
def another_recipe(lr, momentum, weight_decay, pixels, batch):
    return lr * batch * pixels, momentum**batch, weight_decay / pixels
""",
        # the momentum the wrong way round
        """
def another_recipe(lr, momentum, weight_decay, pixels, batch):
    return lr * batch * pixels, momentum ** (1 / batch), weight_decay / pixels
""",
    ],
    # overflows where s is large
    "binary_loss": [
        """
def binary_loss(s, t):
    return np.log1p(np.exp(s)) - t * s, 1 / (1 + np.exp(-s)) - t
"""
    ],
    "adam_step": [
        # without the corrections
        """
def adam_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    return w - lr * m / (np.sqrt(v) + eps), m, v
""",
        # keeps the corrected averages
        """
def adam_step(w, g, m, v, t, lr, beta1=0.9, beta2=0.999, eps=1e-8):
    m = (beta1 * m + (1 - beta1) * g) / (1 - beta1**t)
    v = (beta2 * v + (1 - beta2) * g**2) / (1 - beta2**t)
    return w - lr * m / (np.sqrt(v) + eps), m, v
""",
    ],
}
