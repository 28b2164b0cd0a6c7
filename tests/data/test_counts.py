"""tinyfcn/data/counts.py: labels that mean nothing, or something else than their set says, are found before training."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfcn.data import Shapes, VOCSegmentation, counts, palette
from tinyfcn.data.counts import check_labels, count_labels
from tinyfcn.errors import InputError


def make(root: Path, labels: dict[str, list], classes: str | None = "ground\ncar\n", val: tuple[str, ...] = ()) -> Path:
    """A set with one row of pixels a label, or with a picture of it; ids in `val` are held out."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for id_, label in labels.items():
        image = label if isinstance(label, Image.Image) else Image.fromarray(np.array([label], np.uint8))
        image.save(root / f"SegmentationClass/{id_}.png")
        Image.new("RGB", image.size).save(root / f"JPEGImages/{id_}.jpg")
    for split, ids in (("train", [id_ for id_ in labels if id_ not in val]), ("val", val)):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def check(root: Path, **options) -> list[str]:
    val = (root / "ImageSets/Segmentation/val.txt").read_text()
    return check_labels(VOCSegmentation(root, **options), VOCSegmentation(root, "val", **options) if val else None)


def error_of(root: Path, **options) -> str:
    with pytest.raises(InputError) as error:
        check(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_pixels_are_counted_by_class(tmp_path):
    root = make(tmp_path, {"a": [0, 0, 1, 255], "b": [1, 1, 1, 7]})
    table = count_labels(VOCSegmentation(root, ignore=7))[0]
    assert table.shape == (2, 256)
    assert table[:, [0, 1, 255]].tolist() == [[2, 1, 1], [0, 3, 1]] and table.sum() == 8


def test_the_generated_set_is_counted_like_any_other():
    dataset = Shapes("train", 2)
    expected = [[int((label == k).sum()) for k in range(256)] for _, label in dataset]
    assert count_labels(dataset)[0].tolist() == expected
    assert check_labels(dataset) == [line for line in check_labels(dataset) if line.startswith("warning: no pixel to train on")]


def test_a_good_set_has_nothing_to_say(tmp_path):
    assert check(make(tmp_path, {"a": [0, 1], "b": [1, 0]}, val=("b",))) == []


# What is refused


@pytest.mark.parametrize("classes", [None, "ground\ncar\n"])
def test_masks_of_0_and_255_are_told_of_the_option(tmp_path, classes):
    root = make(tmp_path, {"a": [0, 255], "b": [255, 0]}, classes, val=("b",))
    message = error_of(root)
    assert "only the class" in message and "0 and 255, and 255 is ignored; if it is a class, add --mask" in message
    assert check(root, mask=True) == []


def test_masks_of_255_alone_and_labels_that_are_all_ignored(tmp_path):
    root = make(tmp_path, {"a": [255, 255]})
    assert "no pixel is labelled in the 1 images" in error_of(root) and "--mask" in error_of(root)
    root = make(tmp_path, {"a": [255, 255]}, "ground\ncar\ntree\n")
    assert "label classes with their indices, 0 to 2" in error_of(root)


def test_one_class_alone_is_refused(tmp_path):
    assert "only the class ground is labelled in the 2 images" in error_of(make(tmp_path, {"a": [0, 0], "b": [0, 0]}))
    assert "at least two classes" in error_of(make(tmp_path, {"a": [0, 0]}, "ground\n"))


def test_nothing_to_score_is_refused_and_one_class_to_score_a_warning(tmp_path):
    assert "nothing to score" in error_of(make(tmp_path / "1", {"a": [0, 1], "b": [255, 255]}, val=("b",)))
    assert any("only car occurs" in line for line in check(make(tmp_path / "2", {"a": [0, 1], "b": [1, 255]}, val=("b",))))


def test_a_stray_value_in_the_last_label_of_the_other_list_is_found(tmp_path):
    message = error_of(make(tmp_path, {"a": [0, 1], "b": [0, 1], "c": [0, 9]}, val=("b", "c")))
    assert "SegmentationClass/c.png has the label value 9, but there are 2 classes" in message
    assert "--ignore 9" in message and "so in 1 of 3 labels" in message


def test_labels_that_count_from_1(tmp_path):
    assert "0 never occurs, so labels seem to count from 1" in error_of(make(tmp_path / "1", {"a": [1, 2]}))
    lines = check(make(tmp_path / "2", {"a": [1, 2]}, "ground\ncar\ntree\n"))
    assert any("the label value 0 (ground) never occurs" in line for line in lines)


def test_smoothly_resized_labels_are_recognised(tmp_path):
    message = error_of(make(tmp_path, {"a": list(range(0, 250, 10))}))
    assert "24 of" not in message and "have smooth edges" in message


def test_a_file_of_either_list_that_cannot_be_read_is_named(tmp_path):
    root = make(tmp_path, {"a": [0, 1], "b": [0, 1]}, val=("b",))
    Image.new("RGB", (3, 1)).save(root / "JPEGImages/b.jpg")
    assert "b.png is 2x1 pixels but" in error_of(root)
    (root / "SegmentationClass/b.png").write_bytes(b"no picture")
    assert "b.png" in error_of(root)


def test_a_turned_photograph_is_measured_upright(tmp_path):
    root = make(tmp_path, {"a": [0, 1]})
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1, 2)).save(root / "JPEGImages/a.jpg", exif=exif)
    assert check(root) == []


def test_palettes_that_differ_are_refused(tmp_path):
    """As Pillow's quantize makes them: of the colours that a picture has, and no others."""
    rgb = [np.array([[[255, 0, 0], other]], np.uint8) for other in ([0, 0, 255], [0, 255, 0])]
    quantized = {name: Image.fromarray(array).quantize(2) for name, array in zip("ab", rgb, strict=True)}
    assert quantized["a"].getpalette()[:6] != quantized["b"].getpalette()[:6]
    message = error_of(make(tmp_path, quantized, val=("b",)))
    assert "b.png has a palette of its own: index 0 is the colour" in message and "a.png" in message


def test_palettes_of_one_table_may_be_cut_where_they_end(tmp_path):
    images = {}
    for name, row, length in (("a", [0, 1], 2), ("b", [0, 1, 2], 256)):
        images[name] = Image.fromarray(np.array([row], np.uint8))
        images[name].putpalette(palette()[:length].tobytes())
    assert check(make(tmp_path, images, "ground\ncar\ntree\n", val=("a",))) == []


# What is said


def test_classes_without_a_pixel_and_vocs_names_are_said(tmp_path):
    lines = check(make(tmp_path, {"a": [0, 1], "b": [2, 0]}, None, val=("b",)))
    assert lines[0] == f"no class names found in {tmp_path}: VOC's 21; name your own in classes.txt"
    assert lines[1].startswith("warning: no pixel to train on for bicycle, bird, ") and len(lines) == 2


# What is known


def test_a_second_start_reads_no_label_and_a_new_label_is_read(tmp_path, monkeypatch):
    root = make(tmp_path, {"a": [0, 1], "b": [1, 1]}, val=("b",))
    read = []
    decode = VOCSegmentation.label
    monkeypatch.setattr(VOCSegmentation, "label", lambda self, k: read.append(self.ids[k]) or decode(self, k))
    first = count_labels(VOCSegmentation(root))[0]
    assert read == ["a"]
    np.testing.assert_array_equal(count_labels(VOCSegmentation(root))[0], first)
    check(root)
    assert read == ["a", "b"]
    make(root, {"a": [1, 1]})
    assert count_labels(VOCSegmentation(root, "train"))[0][0, 1] == 2 and read == ["a", "b", "a"]
    path = root / "JPEGImages/a.jpg"
    os.utime(path, ns=(0, 0))
    count_labels(VOCSegmentation(root))
    assert read == ["a", "b", "a", "a"]


@pytest.mark.parametrize("content", ["", "[]", '{"a": '])
def test_a_broken_cache_is_no_cache(tmp_path, content):
    dataset = VOCSegmentation(make(tmp_path, {"a": [0, 1]}))
    counts._cache(dataset).parent.mkdir(parents=True, exist_ok=True)
    counts._cache(dataset).write_text(content)
    assert count_labels(dataset)[0][0, :2].tolist() == [1, 1]


def test_without_a_folder_to_keep_it_nothing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TINYFCN_CACHE", str(tmp_path / "file/below"))
    assert count_labels(VOCSegmentation(make(tmp_path / "set", {"a": [0, 1]})))[0].sum() == 2
