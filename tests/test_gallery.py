"""tinyfcn.gallery: which images are shown."""

import numpy as np
import pytest

from tinyfcn import gallery


@pytest.mark.parametrize(
    "accuracy, chosen",
    [
        ([0.1, 0.9, np.nan, 0.5], [3, 1, 0]),
        ([0.7], [0]),
        (np.arange(101) / 100, [50, 90, 25, 10]),
    ],
)
def test_a_typical_image_is_shown_first(accuracy, chosen):
    assert gallery.examples(np.array(accuracy)) == chosen


def test_where_nothing_is_labelled_yet_images_come_from_all_parts_of_the_list():
    assert [gallery.spread(length) for length in (1, 3, 4, 80)] == [[0], [0, 1, 2], [0, 1, 2, 3], [10, 30, 50, 70]]
