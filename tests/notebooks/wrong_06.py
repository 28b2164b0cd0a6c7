"""Plausible wrong answers to each exercise of notebook 6: its check must not accept them."""

WRONG = {
    # the logarithm of a probability that may be 0
    "log_softmax": [
        """
def log_softmax(scores):
    exps = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.log(exps / exps.sum(axis=1, keepdims=True))
"""
    ],
    # divides by all pixels
    "mean_gradient": [
        """
def mean_gradient(p, labels):
    onehot = labels[:, None] == np.arange(p.shape[1])[:, None, None]
    return (p - onehot) * (labels[:, None] != 255) / labels.size
"""
    ],
    # forgets that the rate multiplies the weight decay
    "on_the_mean": [
        """
def on_the_mean(lr, weight_decay, pixels):
    return lr * pixels, weight_decay
"""
    ],
    # the wrong way round
    "same_memory": [
        """
def same_memory(momentum, batch, new_batch):
    return momentum ** (batch / new_batch)
"""
    ],
    # overflows where s is large
    "binary_loss": [
        """
def binary_loss(s, t):
    return np.log1p(np.exp(s)) - t * s, 1 / (1 + np.exp(-s)) - t
"""
    ],
}
