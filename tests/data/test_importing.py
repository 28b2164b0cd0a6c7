"""python -m tinyfcn.data: what annotation tools write becomes a set, is checked, and is shown."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfcn.data import VOCSegmentation, read_label, voc
from tinyfcn.data import __main__ as data
from tinyfcn.data.draw import draw, from_run_lengths
from tinyfcn.data.importing import read_source, write_source
from tinyfcn.data.loader import class_colours
from tinyfcn.errors import InputError

BOX = {"label": "car", "points": [[1, 1], [4, 2]], "shape_type": "rectangle", "group_id": None, "flags": {}}
TRIANGLE = {"label": "tree", "points": [[6.0, 0.0], [9.0, 0.0], [9.0, 3.0]], "shape_type": "polygon"}


def photograph(path: Path, size: tuple[int, int] = (10, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 60)).save(path)


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def labelme(root: Path, *names: str, shapes: list | None = None, with_image: bool = True, **content) -> None:
    """JSON files of labelme 5, each with its image beside or in it."""
    for name in names:
        photograph(root / f"{name}.jpg")
        text = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [BOX, TRIANGLE] if shapes is None else shapes,
            "imagePath": f"{Path(name).name}.jpg",
            "imageData": base64.b64encode((root / f"{name}.jpg").read_bytes()).decode(),
            "imageHeight": 6,
            "imageWidth": 10,
        }
        (root / f"{name}.json").write_text(json.dumps(text | content))
        if not with_image:
            (root / f"{name}.jpg").unlink()


def coco(path: Path, names: list[str], segmentations: list, **image) -> None:
    """A JSON file of COCO; each image has all the segmentations, of the categories 7, 3, 7, 3 ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": k, "file_name": name, "height": 6, "width": 10, **image} for k, name in enumerate(names)]
    annotations = [
        {"id": k, "image_id": image["id"], "category_id": (7, 3)[k % 2], "segmentation": shape, "iscrowd": 0}
        for image in images
        for k, shape in enumerate(segmentations)
    ]
    categories = [{"id": 7, "name": "tree", "supercategory": "things"}, {"id": 3, "name": "car"}, {"id": 0, "name": "things"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def imported(source: Path, out: Path, **options) -> dict[str, VOCSegmentation]:
    """The sets that a source becomes, by split."""
    counts = write_source(read_source(source, **options), out)
    sets = {split: VOCSegmentation(out, split) for split in counts}
    assert {split: len(dataset) for split, dataset in sets.items()} == counts
    for dataset in sets.values():
        list(dataset)
    return sets


def labels_of(sets: dict[str, VOCSegmentation]) -> dict[str, np.ndarray]:
    return {id_: label for dataset in sets.values() for id_, (_, label) in zip(dataset.ids, dataset, strict=True)}


def error_of(call: Callable, *arguments, **options) -> str:
    with pytest.raises(InputError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# labelme


def test_labelme_shapes_are_drawn_in_their_order(tmp_path):
    labelme(tmp_path / "in", "a", "more/b")
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sets["train"].classes == ("background", "car", "tree")
    for label in labels_of(sets).values():
        expected = np.zeros((6, 10), int)
        expected[1:3, 1:5] = 1
        expected[0, 6:] = expected[1, 7:] = expected[2, 8:] = expected[3, 9:] = 2
        np.testing.assert_array_equal(label, expected)
    assert set(labels_of(sets)) == {"a", "more/b"}
    labelme(tmp_path / "over", "a", "b", shapes=[BOX, BOX | {"label": "tree"}])
    assert set(np.unique(labels_of(imported(tmp_path / "over", tmp_path / "out2"))["a"])) == {0, 2}


def test_labelmes_own_order_of_names_and_ignored_shapes(tmp_path):
    labelme(tmp_path / "in", "a", "b", shapes=[BOX, TRIANGLE | {"label": "__ignore__"}])
    (tmp_path / "in/labels.txt").write_text("__ignore__\n_background_\ntree\ncar\n")
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sets["train"].classes == ("background", "tree", "car")
    assert sorted(np.unique(labels_of(sets)["a"])) == [0, 2, 255]
    (tmp_path / "in/labels.txt").write_text("_background_\ntree\n")
    assert "has no car, which the JSON files use" in error_of(read_source, tmp_path / "in")


def test_labelme_images_in_the_file_and_paths_of_windows(tmp_path):
    labelme(tmp_path / "in", "a", with_image=False)
    labelme(tmp_path / "in", "b", imagePath="..\\pictures\\b.jpg")
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sorted(labels_of(sets)) == ["a", "b"]
    labelme(tmp_path / "in", "c", with_image=False, imageData=None)
    assert "c.json names the image 'c.jpg', which is not there" in error_of(read_source, tmp_path / "in")


def test_labelme_masks_lie_between_their_corners(tmp_path):
    inside = np.array([[True, False], [True, True]])
    shape = {"label": "car", "shape_type": "mask", "points": [[3, 2], [4, 3]], "mask": base64.b64encode(png(inside)).decode()}
    labelme(tmp_path / "in", "a", "b", shapes=[shape])
    label = labels_of(imported(tmp_path / "in", tmp_path / "out"))["a"]
    assert label[2:4, 3:5].tolist() == [[1, 0], [1, 1]] and label.sum() == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": [[1, 1], [2, 2]], "shape_type": "polygon"}, "shape 0 (car) cannot be drawn: a polygon of 2 points"),
        ({"shape_type": "cuboid"}, "a cuboid of 2 points; expected a polygon of 3 or more"),
        ({"points": [[1, 1], [2]]}, "shape 0 (car) cannot be drawn"),
        ({"points": None}, "shape 0 (car) cannot be drawn"),
        ({"points": [[0, 0], [1e300, 5]]}, "a point farther away"),
        ({"points": [[0, 0], [float("nan"), 5]]}, "a point farther away"),
        ({"shape_type": "mask", "mask": "no"}, "shape 0 (car) cannot be drawn"),
        ({"shape_type": "mask"}, "shape 0 (car) cannot be drawn: no 'mask'"),
    ],
)
def test_a_shape_that_cannot_be_drawn_is_named(tmp_path, change, words):
    labelme(tmp_path / "in", "a", "b", shapes=[BOX | change])
    assert words in error_of(imported, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_another_image_than_the_one_that_was_drawn_on_is_refused(tmp_path):
    labelme(tmp_path / "in", "a", "b", imageWidth=20)
    assert "was drawn on a.jpg of 20x6 pixels, but the image is 10x6" in error_of(imported, tmp_path / "in", tmp_path / "out")


# COCO


LETTERS = "h3X1Y9oNfG4M2N2N2O0O2O0O2Ec01]O82O0000000O2O000000000001N1000Ga01_O9N10001N101N101N2N2N3La4Q1h0"


def test_run_lengths_are_those_of_the_reference(tmp_path):
    """pycocotools wrote LETTERS for this mask."""
    y, x = np.mgrid[:40, :60]
    expected = ((x - 30) ** 2 / 400 + (y - 20) ** 2 / 150 < 1) | (x % 17 == 3)
    np.testing.assert_array_equal(from_run_lengths(LETTERS, 40, 60), expected)
    np.testing.assert_array_equal(from_run_lengths([1, 2, 3], 2, 3), [[False, True, False], [True, False, False]])


@pytest.mark.parametrize("counts", [[1, 2], [-1, 7], [6.0], ["6"], LETTERS, LETTERS[:-1], "", "ooo", "\x00", [], [6, 1 << 70]])
def test_run_lengths_that_do_not_fill_the_picture(counts):
    with pytest.raises(ValueError, match="do not fill 3x2 pixels"):
        from_run_lengths(counts, 2, 3)


def test_coco_polygons_and_run_lengths(tmp_path):
    for name in ("a", "sub/b"):
        photograph(tmp_path / f"in/images/{name}.jpg")
    runs = np.zeros((6, 10), bool)
    runs[4:, 8:] = True
    flat, counts, value = runs.T.ravel(), [], False
    while len(flat):
        length = int(np.argmin(np.append(flat == value, False)))
        counts, flat, value = [*counts, length], flat[length:], not value
    shapes = [[[1, 1, 4, 1, 4, 2, 1, 2], [6, 0, 7, 0, 7, 1, 6, 1]], {"counts": counts, "size": [6, 10]}]
    coco(tmp_path / "in/annotations/instances_default.json", ["a.jpg", "sub/b.jpg"], shapes)
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sets["train"].classes == ("background", "car", "tree")  # by number; "things" is a heading
    expected = runs.astype(int)
    expected[1:3, 1:5] = expected[0:2, 6:8] = 2
    assert set(labels_of(sets)) == {"a", "sub/b"}
    for label in labels_of(sets).values():
        np.testing.assert_array_equal(label, expected)


def test_cocos_own_split_is_kept_and_equal_names_told_apart(tmp_path):
    """As Roboflow exports it: a folder for each split, with the file among the images."""
    for split in ("train", "valid", "test"):
        photograph(tmp_path / f"in/{split}/a.jpg")
        coco(tmp_path / f"in/{split}/_annotations.coco.json", ["a.jpg"], [[[1, 1, 4, 1, 4, 2, 1, 2]]])
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert {split: dataset.ids for split, dataset in sets.items()} == {
        "train": ("train/a",),
        "val": ("val/a",),
        "test": ("test/a",),
    }


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([], "a box without an outline"),
        ([[1, 1, 2]], "annotation 0 cannot be drawn"),
        ([["a", "b"]], "annotation 0 cannot be drawn"),
        ({"counts": [60], "size": [10, 6]}, "run lengths of [10, 6] rows and columns"),
        ({"counts": [61], "size": [6, 10]}, "do not fill 10x6"),
        ({"size": [6, 10]}, "no 'counts'"),
    ],
)
def test_an_annotation_that_cannot_be_drawn_is_named(tmp_path, shape, words):
    photograph(tmp_path / "in/a.jpg")
    photograph(tmp_path / "in/b.jpg")
    coco(tmp_path / "in/c.json", ["a.jpg", "b.jpg"], [shape])
    assert words in error_of(imported, tmp_path / "in/c.json", tmp_path / "out")


def test_coco_files_that_do_not_fit(tmp_path):
    photograph(tmp_path / "in/a.jpg")
    coco(tmp_path / "in/c.json", ["gone.jpg"], [[[1, 1, 4, 1, 4, 2]]])
    assert "c.json names the image 'gone.jpg', which is not in" in error_of(read_source, tmp_path / "in")
    coco(tmp_path / "in/c.json", ["../../a.jpg"], [[[1, 1, 4, 1, 4, 2]]])
    assert [picture.id for picture in read_source(tmp_path / "in").pictures] == ["a"]  # the one inside
    (tmp_path / "in/c.json").write_text('{"images": [{"id": []}], "annotations": 1, "categories": [{"id": 1, "name": "x"}]}')
    assert "must be a list of entries with" in error_of(read_source, tmp_path / "in")
    text = {
        "images": [],
        "annotations": [],
        "categories": [{"id": "1", "name": "a", "supercategory": []}, {"id": 1, "name": "b"}],
    }
    (tmp_path / "in/c.json").write_text(json.dumps(text))
    assert read_source(tmp_path / "in").classes == ("background", "b", "a")
    (tmp_path / "in/c.json").write_text("{")
    assert "c.json is no JSON file" in error_of(read_source, tmp_path / "in")


# Masks


def pairs(root: Path, image: str, mask: str, masks: list[np.ndarray]) -> None:
    for k, array in enumerate(masks):
        photograph(root / image.format(k), (array.shape[1], array.shape[0]))
        (root / mask.format(k)).parent.mkdir(parents=True, exist_ok=True)
        (root / mask.format(k)).write_bytes(png(array))


INDICES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def test_cvats_segmentation_mask(tmp_path):
    colours = np.array([[0, 0, 0], [51, 221, 255], [250, 50, 83]], np.uint8)
    pairs(tmp_path / "in", "JPEGImages/{}.jpg", "SegmentationClass/{}.png", [colours[INDICES], colours[INDICES.T]])
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:51,221,255::\nroad:250,50,83::\n"
    (tmp_path / "in/labelmap.txt").write_text(text)
    lists = tmp_path / "in/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("0\n1\n")
    assert np.array_equal(VOCSegmentation(tmp_path / "in", "default")[0][1], INDICES)  # also as it is
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sets["train"].classes == ("background", "car", "road") and len(sets["val"]) == 1
    assert class_colours(sets["train"]) == ((0, 0, 0), (51, 221, 255), (250, 50, 83))  # also in what was imported
    with Image.open(sets["train"].paths(0)[1]) as label:
        assert label.mode == "P" and label.getpalette()[3:6] == [51, 221, 255]
    np.testing.assert_array_equal(labels_of(sets)["1"], INDICES.T)
    (lists / "Train.txt").write_text("1\n")
    (lists / "Validation.txt").write_text("0\n")
    (lists / "default.txt").unlink()
    assert imported(tmp_path / "in", tmp_path / "out2")["val"].ids == ("0",)


def test_roboflows_masks(tmp_path):
    for split in ("train", "valid"):
        pairs(tmp_path / f"in/{split}", f"{split}_jpg.rf.{{}}.jpg", f"{split}_jpg.rf.{{}}_mask.png", [INDICES, INDICES])
        (tmp_path / f"in/{split}/_classes.csv").write_text("Pixel Value, Class\n0, background\n1, car\n2, road\n")
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert sets["val"].classes == ("background", "car", "road")
    assert sets["val"].ids == ("valid_jpg.rf.0", "valid_jpg.rf.1") and len(sets["train"]) == 2


@pytest.mark.parametrize(
    ("image", "mask", "options"),
    [
        ("images/{}.jpg", "masks/{}.png", {}),
        ("imgs/{}.jpg", "Masks/{}_mask.png", {}),
        ("{}.jpg", "{}_mask.png", {}),
        ("photo/{}.jpg", "truth/{}-x.png", {"images": "photo", "labels": "truth", "label_suffix": "-x"}),
    ],
)
def test_folders_of_images_and_masks_of_0_and_255(tmp_path, image, mask, options):
    pairs(tmp_path / "in", image, mask, [np.array([[0, 255], [255, 0]], np.uint8)] * 3)
    source = read_source(tmp_path / "in", **options)
    assert "255 becomes class 1" in source.notes[0]
    sets = imported(tmp_path / "in", tmp_path / "out", **options)
    assert sets["train"].classes == ("background", "foreground")
    assert all(label.tolist() == [[0, 1], [1, 0]] for label in labels_of(sets).values())


def test_masks_without_names_get_names_to_change(tmp_path):
    pairs(tmp_path / "in", "images/{}.jpg", "masks/{}.png", [INDICES, INDICES * 2])
    assert imported(tmp_path / "in", tmp_path / "out", ignore=4)["train"].classes == ("background", "class1", "class2")


def test_masks_that_do_not_fit_their_names_or_images(tmp_path):
    pairs(tmp_path / "in", "images/{}.jpg", "masks/{}.png", [INDICES, INDICES])
    (tmp_path / "in/classes.txt").write_text("ground\ncar\n")
    assert "0.png has the value 2, but" in error_of(read_source, tmp_path / "in")
    assert imported(tmp_path / "in", tmp_path / "out", ignore=2)["train"][0][1].tolist() == [[0, 1, 255], [255, 1, 0]]
    photograph(tmp_path / "in/images/0.jpg")
    assert "masks/0.png is 3x2 pixels but" in error_of(imported, tmp_path / "in", tmp_path / "out2", ignore=2)


def test_nothing_that_is_known(tmp_path):
    assert "no such folder or file" in error_of(read_source, tmp_path / "no")
    (tmp_path / "in").mkdir()
    assert "say where they are with --images" in error_of(read_source, tmp_path / "in")
    (tmp_path / "in/package.json").write_text("{}")
    assert "JSON of neither labelme nor COCO" in error_of(read_source, tmp_path / "in/package.json")


def test_nothing_is_written_over(tmp_path):
    labelme(tmp_path / "in", "a", "b")
    (tmp_path / "out").mkdir()
    imported(tmp_path / "in", tmp_path / "out")  # an empty folder is free
    assert "is there already" in error_of(imported, tmp_path / "in", tmp_path / "out")
    labelme(tmp_path / "odd", "a", "b", shapes=[BOX | {"label": "#1"}])
    assert "'#1' cannot be the name of a class" in error_of(imported, tmp_path / "odd", tmp_path / "out2")


# Shapes, against their definitions


def test_shapes_cover_what_they_say():
    y, x = np.mgrid[:40, :40]
    for kind, points, inside in (
        ("rectangle", [(30, 25), (10, 5)], (x >= 10) & (x <= 30) & (y >= 5) & (y <= 25)),
        ("circle", [(20, 20), (20, 28)], np.hypot(x - 20, y - 20) <= 8),
        ("point", [(20, 20)], np.hypot(x - 20, y - 20) <= 5),
        ("line", [(5, 20), (34, 20)], (x >= 5) & (x <= 34) & (abs(y - 20) <= 4)),
        ("linestrip", [(5, 20), (20, 20), (34, 20)], (x >= 5) & (x <= 34) & (abs(y - 20) <= 4)),
        ("polygon", [(10, 5), (30, 5), (30, 25), (10, 25)], (x >= 10) & (x <= 30) & (y >= 5) & (y <= 25)),
    ):
        label = np.zeros((40, 40), np.uint8)
        draw(label, kind, points, 3)
        assert set(np.unique(label)) == {0, 3}
        assert ((label == 3) != inside).sum() <= 0.2 * inside.sum(), kind


# The commands


def test_from_a_tool_to_a_set_and_its_picture(tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    labelme(tmp_path / "in", *"abcde")
    status, out, _ = call(data, "import", "in", "out")
    assert status == 0
    assert "labelme's JSON, 5 labelled images, 3 classes" in out and "4 in train.txt, 1 in val.txt" in out
    assert "train: 4 images of 10x6 pixels" in out and "   1  car" in out and "13.33 % in     4" in out
    assert "python -m tinyfcn.train --data out" in out
    assert call(data, "import", "in", "out")[0] == 2
    status, out, _ = call(data, "show", "out", "--number", 2)
    assert (status, out) == (0, "labels.png: 2 of 4 images of train\n")
    with Image.open("labels.png") as image:
        assert image.format == "PNG" and image.width > 800
    assert call(data, "show", "out")[0] == 2  # labels.png is there already
    assert call(data, "show", "out", "--overwrite", "--split", "val")[0] == 0


def test_check_names_all_that_cannot_be_used(tmp_path, call):
    labelme(tmp_path / "in", *"abcde")
    imported(tmp_path / "in", tmp_path / "out")
    label = read_label(tmp_path / "out/SegmentationClass/a.png")
    for name in "ab":
        Image.fromarray(label[:3]).save(tmp_path / f"out/SegmentationClass/{name}.png")
    (tmp_path / "out/SegmentationClass/c.png").write_bytes(b"no picture")
    for split in ("train", "val"):
        (tmp_path / f"out/ImageSets/Segmentation/{split}.txt").write_text("a\nb\nc\nd\n")
    status, out, error = call(data, "check", tmp_path / "out")
    assert status == 2 and "3 of the 4 images in train cannot be used" in error
    assert out.count("odd: ") == 3 and "a.png is 10x3 pixels but" in out and "c.png as a picture" in out


def test_check_decodes_each_label_once(tmp_path, call, monkeypatch):
    pairs(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", [INDICES] * 5)
    decoded, decode = [], voc.decode_label
    monkeypatch.setattr(voc, "decode_label", lambda path, colours: decoded.append(path.name) or decode(path, colours))
    assert call(data, "check", tmp_path)[0] == 0
    assert sorted(decoded) == [f"{k}.png" for k in range(5)]


def test_check_of_folders_without_lists(tmp_path, call):
    pairs(tmp_path, "images/{}.jpg", "masks/{}_m.png", [INDICES] * 5)
    options = ("--images", "images", "--labels", "masks", "--label-suffix", "_m", "--val-share", "0.4")
    status, out, _ = call(data, "check", tmp_path, *options)
    assert status == 0 and "train: 3 images" in out and "no class names found" in out
    assert "warning: no pixel to train on for bird" in out


# What a newcomer meets


def drawn(root: Path, mask: np.ndarray, *more: np.ndarray) -> Path:
    """A folder of five images and masks."""
    pairs(root, "images/{}.jpg", "masks/{}.png", [mask, mask, mask, *(more or (mask,)), mask])
    return root


@pytest.mark.parametrize("names", ["", "ground\ncar\n", "car\n"])
@pytest.mark.parametrize("white", [2, 128, 255])
def test_two_values_are_two_classes_whatever_the_second_is(tmp_path, names, white):
    root = drawn(tmp_path / "in", np.array([[0, white], [white, 0]], np.uint8))
    if names:
        (root / "classes.txt").write_text(names)
    sets = imported(root, tmp_path / "out")
    expected = {"": ("background", "foreground"), "car\n": ("background", "car")}.get(names, ("ground", "car"))
    assert sets["train"].classes == expected and sets["train"][0][1].tolist() == [[0, 1], [1, 0]]


def test_values_with_gaps_need_a_label_map(tmp_path):
    root = drawn(tmp_path / "in", np.array([[0, 128, 255]], np.uint8))
    message = error_of(read_source, root)
    assert (
        "have 3 values, 0, 128, 255, and no class names" in message and "name:128,128,128:: for each in labelmap.txt" in message
    )
    (root / "labelmap.txt").write_text("ground:0,0,0::\ncar:128,128,128::\ntree:255,255,255::\n")
    assert imported(root, tmp_path / "out")["train"][0][1].tolist() == [[0, 1, 2]]


def test_smooth_edges_of_masks_are_recognised(tmp_path):
    root = drawn(tmp_path / "in", np.arange(0, 256, 2, dtype=np.uint8)[None])
    assert "have 128 values, 0, 2, 4, 6, 8, 10 ... 254, and no class names: export labels again" in error_of(read_source, root)
    (root / "classes.txt").write_text("ground\ncar\n")
    assert "127 values are no classes: export labels again" in error_of(read_source, root)


@pytest.mark.parametrize(
    ("value", "only"), [(0, "only the class background is"), (255, "no pixel is"), (1, "only the class class1 is")]
)
def test_labels_with_nothing_to_tell_apart_leave_no_folder(tmp_path, call, value, only):
    root = drawn(tmp_path / "in", np.full((2, 2), value, np.uint8))
    status, _, error = call(data, "import", root, tmp_path / "out")
    assert status == 2 and f"{only} labelled in the 4 images to train on" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("{}/images/{{}}.jpg", "{}/masks/{{}}.png"),
        ("{}/{{}}.jpg", "{}annot/{{}}.png"),
        ("{}_images/{{}}.JPG", "{}_masks/{{}}_mask.png"),
        ("{}/{{}}.JPG", "{}/{{}}_gt.PNG"),
        ("export/{}/{{}}.png", "export/{}_labels/{{}}.png"),
    ],
)
def test_folders_of_the_splits(tmp_path, image, mask):
    for split, number in (("train", 3), ("valid", 2)):
        pairs(tmp_path / "in", image.format(split), mask.format(split), [INDICES] * number)
    sets = imported(tmp_path / "in", tmp_path / "out")
    assert {split: len(dataset) for split, dataset in sets.items()} == {"train": 3, "val": 2}
    np.testing.assert_array_equal(sets["val"][1][1], INDICES)


def test_images_without_a_label_are_counted(tmp_path):
    labelme(tmp_path / "in", *"abc")
    photograph(tmp_path / "in/d.JPG")
    assert read_source(tmp_path / "in").notes == [
        f"1 of 4 images are left out, since they have no label, as {tmp_path / 'in/d.JPG'}"
    ]
    root = drawn(tmp_path / "masks", INDICES)
    photograph(root / "images/0.png")  # beside 0.jpg, whose label there is
    assert "1 of 6 images are left out" in read_source(root).notes[-1] and "0.png" in read_source(root).notes[-1]


def test_an_archive_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("a.json", "{}")
    assert "export.zip is a ZIP archive; unpack it" in error_of(read_source, tmp_path / "export.zip")


def test_check_notes_what_has_no_score_and_no_label(tmp_path):
    drawn(tmp_path / "in", INDICES)
    (tmp_path / "in/masks/1.png").write_bytes(png(INDICES * 0))
    for split, ids in (("train", "0\n1\n"), ("val", "2\n1\n")):
        (tmp_path / f"in/{split}.txt").write_text(ids)
    sets = {
        split: VOCSegmentation(tmp_path / "in", f"{tmp_path}/in/{split}.txt", images="images", labels="masks")
        for split in ("train", "val")
    }
    (tmp_path / "in/masks/2.png").write_bytes(png(INDICES % 2))
    counts = dict(zip(sets, data.count_labels(*sets.values()), strict=True))
    assert data._notes(sets, counts) == [
        "note: val has no pixel of bicycle, and so no score",
        "note: background is all that is labelled in 1 of 2 images in train, as in 1",
        "note: background is all that is labelled in 1 of 2 images in val, as in 1",
    ]
