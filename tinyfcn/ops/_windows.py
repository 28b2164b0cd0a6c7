"""Which windows of a sliding kernel, tap by tap, look inside the input."""

from __future__ import annotations


def inside(size: int, windows: int, offset: int, stride: int) -> tuple[slice, slice]:
    """The windows r with 0 <= r stride + offset < size, and those places, as slices of the same length."""
    first = max(-(offset // stride), 0)  # ceil(-offset / stride)
    last = min((size - 1 - offset) // stride, windows - 1)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + offset, last * stride + offset + 1, stride)
