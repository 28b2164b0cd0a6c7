"""Plausible wrong answers to each exercise of notebook 1: its check must not accept them."""

WRONG = {
    # rows and columns the other way round; in uint8, where 20 times 21 is 164
    "confusion": [
        """
def confusion(truth, guess, num_classes):
    counted = truth != 255
    pairs = guess[counted].astype(int) * num_classes + truth[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
""",
        """
def confusion(truth, guess, num_classes):
    counted = truth != 255
    pairs = truth[counted] * num_classes + guess[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
""",
    ],
    # absent classes count as 0
    "mean_iu": [
        """
def mean_iu(counts):
    right, truth, guessed = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return (right / np.maximum(truth + guessed - right, 1)).mean()
"""
    ],
    # by the red channel alone
    "decode": [
        """
def decode(picture):
    return (picture[:, :, None, 0] == palette()[:, 0]).argmax(axis=-1).astype(np.uint8)
"""
    ],
}
