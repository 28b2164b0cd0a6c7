"""Plausible wrong answers to each exercise of notebook 11: its check must not accept them."""

WRONG = {
    # Only what is read counts.
    "relu_intensity": [
        """
def relu_intensity(itemsize):
    return 1 / itemsize
"""
    ],
    # The weight alone, as if columns and output cost nothing.
    "pixels_at_the_ridge": [
        """
def pixels_at_the_ridge(c_out, depth, ridge):
    return ceil(2 * ridge)
"""
    ],
    # A copy writes, too.
    "numbers_a_launch": [
        """
def numbers_a_launch(bandwidth, host):
    return host * bandwidth / 4
"""
    ],
}
