"""tinyfcn.ops._windows, by counting."""

from itertools import product

from tinyfcn.ops._windows import inside


def test_the_windows_whose_tap_lies_inside_are_found_with_its_places():
    for size, windows, offset, stride in product(range(1, 5), range(5), range(-6, 7), range(1, 4)):
        meet = [r for r in range(windows) if 0 <= r * stride + offset < size]
        found, places = inside(size, windows, offset, stride)
        assert list(range(windows)[found]) == meet
        assert list(range(size)[places]) == [r * stride + offset for r in meet]
