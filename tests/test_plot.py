"""tinyfcn.plot: the pictures that are computed, and those that Matplotlib draws."""

import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from tinyfcn import plot
from tinyfcn.data import palette
from tinyfcn.report import COLUMNS, Log

NAMES = ["a$b$ \\frac{", "犬", "_ <i>", "x" * 90]  # that Matplotlib could take for something else, or has no letters for


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved; a warning is an error."""
    found, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *args, **options: (found.append(figure), save(figure, *args, **options))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield found


def test_overlays_are_made_piece_by_piece():
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (301, 700, 3), dtype=np.uint8), rng.integers(0, 7, (301, 700), dtype=np.uint8)
    for background in None, 0:
        tinted = image + 0.55 * (palette()[label].astype(np.float32) - image)
        expected = np.where((label == background)[..., None], image, tinted).round().astype(np.uint8)
        assert np.array_equal(plot.overlay(image, label, background), expected)


def test_curves_have_plain_numbers_and_their_legends_beside_them(figures, tmp_path):
    with Log(tmp_path / "log.csv", 0) as log:
        for step in range(1000, 40_001, 1000):
            row = {"step": step, "lr": 0.1, "loss": 1e-4 + 1e-7 * step, "images_per_s": 3}
            log.write(dict.fromkeys(COLUMNS, 0.5) | row if step % 10_000 == 0 else row)
    plot.curves(tmp_path / "log.csv", tmp_path / "curves.png")
    left, right = figures[0].axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["training", "validation"]
    assert len(left.lines[0].get_xdata()) == 40 and list(left.lines[1].get_xdata()) == [10_000, 20_000, 30_000, 40_000]
    for axis in left, right:
        texts = [label.get_text() for way in (axis.xaxis, axis.yaxis) for label in way.get_ticklabels(which="both")]
        assert len(texts) > 8 and all(set(text) <= set("0123456789.,") for text in texts), texts
        assert axis.get_xaxis().get_offset_text().get_text() == axis.get_yaxis().get_offset_text().get_text() == ""
        assert axis.get_legend().get_window_extent().x0 >= axis.get_window_extent().x1
    assert "20,000" in [label.get_text() for label in left.get_xticklabels()]


@pytest.mark.parametrize("losses", [[], [0.0], [123456.0]])
def test_curves_may_be_short(figures, tmp_path, losses):
    with Log(tmp_path / "log.csv", 0) as log:
        for step, loss in enumerate(losses, 1):
            log.write({"step": step, "lr": 0.1, "loss": loss, "images_per_s": 3})
    plot.curves(tmp_path / "log.csv", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("number", [2, 21, 60])
def test_a_confusion_matrix_shows_shares_of_rows(figures, tmp_path, number):
    counts = np.random.default_rng(number).integers(0, 1000, (number, number))
    counts[1] = 0  # a class that no label has
    plot.confusion(counts, (NAMES * 15)[:number], tmp_path / "confusion.png")
    axis = figures[0].axes[0]
    shown = np.ma.getdata(axis.images[0].get_array())
    np.testing.assert_allclose(shown[0], counts[0] / counts[0].sum())
    assert np.isnan(np.ma.filled(axis.images[0].get_array().astype(float), np.nan)[1]).all()
    assert len(axis.get_xticklabels()) == len(axis.get_yticklabels()) == number
    assert bool(axis.texts) == (number <= 21)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert min(picture.size) > (200 if number == 2 else 900)


def test_predictions_of_classes_with_any_names(figures, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8), *rng.integers(0, 4, (2, 30, 40), dtype=np.uint8))] * 2
    plot.predictions(pictures, NAMES, "step 7", tmp_path / "predictions.png")
    with Image.open(tmp_path / "predictions.png") as picture:
        assert picture.width == 900
    assert "prediction, step 7" in [axis.get_title() for axis in figures[0].axes]
    assert len(figures[0].legends[0].get_texts()) == 4
