"""Plausible wrong answers to each exercise of notebook 12: its check must not accept them."""

WRONG = {
    "crossing": [
        # The weights' share grows with the images, too.
        """
def crossing(pixels, busy, fixed, host):
    return pixels * host / busy
""",
        # It is taken off the device's time alone.
        """
def crossing(pixels, busy, fixed, host):
    return pixels * host / (busy - fixed)
""",
    ],
    "pool_thread": [
        # The rows of channels, as in (C, H, W).
        """
def pool_thread(i, x, y, height, width, depth, width_out):
    height_out = (height + 1) // 2
    c, r, channel = i % width_out, i // width_out % height_out, i // width_out // height_out
    places = [(row, col) for row in (2 * r, 2 * r + 1) for col in (2 * c, 2 * c + 1) if row < height and col < width]
    y[i] = max(x[(channel * height + row) * width + col] for row, col in places)
""",
        # A window that hangs over the border reads what lies behind it.
        """
def pool_thread(i, x, y, height, width, depth, width_out):
    channel, c, r = i % depth, i // depth % width_out, i // depth // width_out
    places = [(row * width + col) * depth + channel for row in (2 * r, 2 * r + 1) for col in (2 * c, 2 * c + 1)]
    y[i] = max(x[place] for place in places if place < len(x))
""",
        # As if no input were negative.
        """
def pool_thread(i, x, y, height, width, depth, width_out):
    channel, c, r = i % depth, i // depth % width_out, i // depth // width_out
    best = 0.0
    for row in range(2 * r, min(2 * r + 2, height)):
        for col in range(2 * c, min(2 * c + 2, width)):
            best = max(best, x[(row * width + col) * depth + channel])
    y[i] = best
""",
    ],
    "collected": [
        # Every equal input wins.
        """
def collected(i, x, y, dy):
    return sum(dy[r] for r in range(len(y)) if 2 * r <= i <= 2 * r + 2 and x[i] == y[r])
""",
        # As if windows did not overlap.
        """
def collected(i, x, y, dy):
    r = min(i // 2, len(y) - 1)
    return dy[r] if x[i] == y[r] and all(value != y[r] for value in x[2 * r : i]) else 0.0
""",
    ],
}
