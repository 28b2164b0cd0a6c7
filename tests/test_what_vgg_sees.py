"""The scripts of docs/what_vgg_sees.md: a classifier on VGG16 is a convolution, and its maps lie where they belong.

With weights of VGG16 and photographs with boxes, which the folder TINYFCN_DATA has, it points at a cat.
"""

import importlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from tinyfcn.errors import InputError
from tinyfcn.models import VGG16

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def page():
    """docs/what_vgg_sees.py as a module, with the others beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DOCS))
        yield importlib.import_module("what_vgg_sees")


def small_trunk(**options):
    return VGG16(num_classes=1, hidden=1, width=1 / 64, **options)


def test_the_mean_of_a_class_map_is_the_classifiers_score(page):
    rng = np.random.default_rng(0)
    net = small_trunk(seed=1)
    crops = rng.integers(0, 256, (3, 80, 112, 3), np.uint8)
    maps = page.conv5_3(net, crops)
    assert maps.shape == (3, 8, 5, 7) and maps.std() > 0
    head = {"fc.weight": rng.normal(size=(5, 8)).astype(np.float32), "fc.bias": rng.normal(size=5).astype(np.float32)}
    places = page.class_maps(head, maps)
    assert places.shape == (3, 5, 5, 7)
    for n, k, row, column in np.ndindex(places.shape):
        expected = sum(w * v for w, v in zip(head["fc.weight"][k], maps[n, :, row, column], strict=True)) + head["fc.bias"][k]
        assert places[n, k, row, column] == pytest.approx(expected, abs=1e-4)
    scores = page.classify(head, page.features(net, crops, batch=2))
    np.testing.assert_allclose(places.mean(axis=(2, 3)), scores, atol=1e-4)


def test_a_pixel_lights_the_units_whose_centres_are_near(page, monkeypatch):
    """All weights 1, and an image that is 0 but for one pixel: of conv5_3, which sees 196 pixels, those units become positive
    whose centre lies within 97.5 pixels."""
    monkeypatch.setenv("TINYFCN_CONV", "columns")  # exact zeros
    monkeypatch.setattr(page, "normalise", lambda images, _: images.transpose(0, 3, 1, 2).astype(float))
    net = small_trunk(dtype=np.float64)
    for name, p in net.params.items():
        p[...] = name.endswith("weight")
    pixel, image = (203, 150), np.zeros((400, 336, 3), np.uint8)
    image[pixel] = 1
    lit = page.conv5_3(net, image[None])[0].sum(axis=0) > 0
    for axis in (0, 1):
        centres = page.GRID.stride * np.arange(lit.shape[axis]) + page.GRID.start
        np.testing.assert_array_equal(lit.any(axis=1 - axis), abs(centres - pixel[axis]) <= 97.5)


def test_maps_are_laid_over_the_image_by_interpolation_between_centres(page):
    drawing = importlib.import_module("drawing")
    maps = np.random.default_rng(0).normal(size=(2, 5, 4))
    size = (75, 58)
    expected = np.empty((2, *size))
    for map_, out in zip(maps, expected, strict=True):
        along_rows = np.array([np.interp(np.arange(58), 16 * np.arange(4) + 7.5, row) for row in map_])  # flat beyond the ends
        out[:] = np.array([np.interp(np.arange(75), 16 * np.arange(5) + 7.5, column) for column in along_rows.T]).T
    np.testing.assert_allclose(drawing.over_image(maps, page.GRID, size), expected, atol=1e-12)


def test_the_highest_place_is_a_pixel_of_the_image(page):
    scores = np.zeros((3, 4))
    scores[1, 2] = 1
    assert page.highest(scores, (48, 64)) == (16 + 7, 32 + 7)
    scores[2, 3] = 2
    assert page.highest(scores, (36, 50)) == (35, 49)  # the last units hang over the border


def test_a_crop_is_centred_on_its_box(page):
    image = np.zeros((100, 200, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(200), np.arange(100)[:, None]
    crop = page.cut(image, page.Box("a.jpg", 0, left=120, top=30, right=160, bottom=50), side=64)
    assert crop.shape == (64, 64, 3)
    row, column = crop[32, 32, 1], crop[32, 32, 0]
    assert abs(int(column) - 140) <= 1 and abs(int(row) - 40) <= 1
    assert crop[0, :, 1].max() < 30 and crop[-1, :, 1].min() > 50  # all of the box, and some margin


def test_the_head_learns_whatever_the_features_scale(page):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 400)
    x = (rng.random((400, 12)) + 3 * np.eye(5, 12)[labels]).astype(np.float32)
    head, other = page.train_head(x, labels), page.train_head(1000 * x, labels)
    scores = page.classify(head, x)
    assert (scores.argmax(axis=1) == labels).mean() > 0.98
    np.testing.assert_allclose(page.classify(other, 1000 * x), scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("line", ["a.jpg\tcar\t1\t2\t3", "a.jpg\tdog\t1\t2\t3\t4", "a.jpg\tcar\t1\t2\t3\tx", None])
def test_boxes_that_do_not_fit_are_named_in_one_line(page, line, tmp_path):
    if line is not None:
        (tmp_path / "boxes.tsv").write_text(f"file\tclass\txmin\tymin\txmax\tymax\n{line}\n")
    with pytest.raises(InputError, match="boxes.tsv") as error:
        page.read_boxes(tmp_path, page.CLASSES)
    assert "\n" not in str(error.value)


def test_the_page_quotes_the_numbers_of_the_run():
    text, run = ((DOCS / f"what_vgg_sees.{kind}").read_text(encoding="utf-8") for kind in ("md", "json"))
    run = json.loads(run)
    pointing, race = run["pointing"], run["race"]
    quoted = [
        f"{run[part][what]:{form}}" for part in ("training", "held out") for what, form in (("crops", ",d"), ("accuracy", ".3f"))
    ]
    quoted += [f"{run['most frequent class']:.3f}", f"{race['crops']} crops", f"{race['correlation']:.2f}"]
    quoted += [f"{race[time]:.1f}" for time in ("crops' time", "pass's time")]
    for row in pointing.values():
        quoted.append(f"| {row['pairs']} | {row['highest place']:.2f} | {row['middle']:.2f} | {row['share']:.2f} |")
    quoted += [f"{name} {score:.1f}".replace("-", "\N{MINUS SIGN}") for name, score in run["scores"].items()]
    text = " ".join(text.split())  # wherever its lines end
    assert [number for number in quoted if number not in text] == []


@pytest.fixture(scope="module")
def real_data():
    folder = os.environ.get("TINYFCN_DATA")
    if not folder:
        pytest.skip("TINYFCN_DATA does not name a folder with vgg16_imagenet and voc_boxes")
    pytest.importorskip("h5py", reason="reading Keras's file takes h5py")
    return Path(folder)


def test_real_weights_point_at_the_cat(page, real_data):
    """A head learned from 150 crops, and where it finds the highest score in photographs it has never seen."""
    net = page.load_trunk(real_data / "vgg16_imagenet" / "vgg16_notop.h5")
    folder = real_data / "voc_boxes"
    large = [box for box in page.read_boxes(folder, page.CLASSES) if min(box.right - box.left, box.bottom - box.top) >= 40]
    boxes = [box for label in range(5) for box in [box for box in large if box.label == label][:30]]
    x = page.features(net, (page.cut(page.read_image(folder / "JPEGImages" / box.file), box, side=80) for box in boxes))
    head = page.train_head(x, np.array([box.label for box in boxes]))

    def within(image, left, top, right, bottom):
        cat = page.class_maps(head, page.conv5_3(net, image[None]))[0, page.CLASSES.index("cat")]
        row, column = page.highest(cat, image.shape[:2])
        return left <= column <= right and top <= row <= bottom

    assert within(page.read_image(page.PHOTOGRAPHS / "chelsea.jpg"), 30, 0, 390, 285)  # her head
    assert within(page.collage(page.COLLAGE, height=192), 19, 0, 250, 182)  # the same head, beside two persons and a cup
