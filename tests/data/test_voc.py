"""tinyfcn/data/voc.py: the layout is read as it is, and whatever does not fit is said in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyfcn.data import VOC_CLASSES, Shapes, VOCSegmentation, palette, read_image, read_label, write_label, write_voc
from tinyfcn.errors import InputError

REPO = Path(__file__).parents[2]
RED, WHITE = (255, 0, 0), (255, 255, 255)


def save_pair(root: Path, id_: str, image: np.ndarray, label: np.ndarray) -> None:
    """Write a pair with Pillow alone."""
    Image.fromarray(image).save(root / "JPEGImages" / f"{id_}.png")
    Image.fromarray(label).save(root / "SegmentationClass" / f"{id_}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs a, b, c of 4x6 pixels with VOC's classes, and a list of them."""
    root = tmp_path / "set"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for index, id_ in enumerate("abc"):
        save_pair(root, id_, np.full((4, 6, 3), 50 * index, np.uint8), np.full((4, 6), index, np.uint8))
    (root / "ImageSets/Segmentation/train.txt").write_text("a\n\nb\r\n c \n")
    return root


def error_of(function, *args, **kwargs) -> str:
    """The message of the InputError that a call ends in, which must be one line."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def set_list(root: Path, text: str) -> None:
    (root / "ImageSets/Segmentation/train.txt").write_text(text)


# The palette


@pytest.mark.parametrize(
    ("index", "colour"),
    [
        (0, (0, 0, 0)),
        (1, (128, 0, 0)),  # aeroplane
        (2, (0, 128, 0)),
        (8, (64, 0, 0)),
        (15, (192, 128, 128)),  # person
        (20, (0, 64, 128)),
        (21, (128, 64, 128)),
        (255, (224, 224, 192)),  # void
    ],
)
def test_palette_is_vocs(index, colour):
    assert tuple(palette()[index]) == colour


def test_palette_colours_all_differ():
    assert len(np.unique(palette(), axis=0)) == 256


# Reading


def test_reads_pairs_in_list_order(root):
    dataset = VOCSegmentation(root)
    assert dataset.ids == ("a", "b", "c")
    assert (len(dataset), dataset.classes, dataset.num_classes) == (3, VOC_CLASSES, 21)
    for index, (image, label) in enumerate(dataset):
        assert image.dtype == label.dtype == np.uint8
        np.testing.assert_array_equal(image, np.full((4, 6, 3), 50 * index))
        np.testing.assert_array_equal(label, np.full((4, 6), index))
    np.testing.assert_array_equal(dataset[-1][1], dataset[2][1])
    with pytest.raises(IndexError):
        dataset[3]


def test_reads_jpeg_and_palette_indices(root):
    (root / "JPEGImages/a.png").unlink()
    Image.new("RGB", (6, 4), RED).save(root / "JPEGImages/a.jpg")
    label = Image.fromarray(np.array([[0, 1, 20, 255, 5, 15]] * 4, np.uint8))
    label.putpalette(bytes(range(256)) * 3)  # the colours do not matter
    label.save(root / "SegmentationClass/a.png")
    image, indices = VOCSegmentation(root)[0]
    assert np.abs(image.astype(int) - RED).max() < 8
    assert indices[0].tolist() == [0, 1, 20, 255, 5, 15]


def test_list_may_be_a_file_anywhere(root, tmp_path):
    (tmp_path / "mine.txt").write_text("c\na\n", encoding="utf-8-sig")
    shutil.rmtree(root / "ImageSets")
    assert VOCSegmentation(root, str(tmp_path / "mine.txt")).ids == ("c", "a")


def test_classes_come_from_classes_txt(root):
    (root / "classes.txt").write_text("# index 0 first\nground\n\nhouse\ntree\n")
    assert VOCSegmentation(root).classes == ("ground", "house", "tree")


def test_subset_keeps_the_first_or_a_seeded_choice_in_order(root):
    set_list(root, "c\na\nb\n")
    assert VOCSegmentation(root, subset=2).ids == ("c", "a")
    choices = {VOCSegmentation(root, subset=2, subset_seed=seed).ids for seed in range(20)}
    assert choices == {("c", "a"), ("c", "b"), ("a", "b")}
    assert all(VOCSegmentation(root, subset=2, subset_seed=3).ids in choices for _ in range(3))
    small, large = (set(VOCSegmentation(root, subset=n, subset_seed=5).ids) for n in (1, 2))
    assert small < large


def test_files_are_only_read(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    list(VOCSegmentation(root))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


# Errors that the folders and lists show


def test_no_such_folder(tmp_path):
    assert f"no such folder: {tmp_path / 'no'}" in error_of(VOCSegmentation, tmp_path / "no")


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
def test_missing_folder_is_named(root, folder):
    shutil.rmtree(root / folder)
    assert f"no {folder}" in error_of(VOCSegmentation, root)


@pytest.mark.parametrize("levels", ["VOC2012", "VOCdevkit/VOC2012"])
def test_folder_above_is_told_which_to_give(root, tmp_path, levels):
    above = tmp_path / "above"
    shutil.copytree(root, above / levels)
    assert f"give {above / levels}" in error_of(VOCSegmentation, above)


def test_unknown_list_names_those_there_are(root):
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    for split in ("test", "lists/test.txt"):
        message = error_of(VOCSegmentation, root, split)
        assert split in message and "train, val" in message


def test_empty_list(root):
    set_list(root, "\n \n")
    message = error_of(VOCSegmentation, root)
    assert "train.txt is empty" in message


def test_list_that_is_no_text(root):
    (root / "ImageSets/Segmentation/train.txt").write_bytes(b"\xff\xfe\x00a")
    assert "train.txt" in error_of(VOCSegmentation, root)


def test_repeated_id(root):
    set_list(root, "a\nb\na\n")
    assert "the id a 2 times" in error_of(VOCSegmentation, root)


@pytest.mark.parametrize("id_", ["../a", "x/../a", "..", "..\\a", "a ../../b.png", "/", "."])
def test_id_that_leaves_the_folder(root, id_):
    set_list(root, f"b\n{id_}\n")
    message = error_of(VOCSegmentation, root)
    assert repr(id_.replace("\\", "/")) in message and "is a path out of the folder" in message


@pytest.mark.parametrize("id_", ["/etc/passwd", "C:\\photo.jpg", "/etc/hosts /etc/hosts"])
def test_what_lies_outside_is_not_found(root, id_):
    set_list(root, f"b\n{id_}\n")
    assert error_of(VOCSegmentation, root).startswith(f"no image {root}/JPEGImages/")


@pytest.mark.parametrize(("what", "folder"), [("image", "JPEGImages"), ("label", "SegmentationClass")])
def test_missing_files_are_counted(root, what, folder):
    for id_ in "bc":
        (root / folder / f"{id_}.png").unlink()
    message = error_of(VOCSegmentation, root)
    assert message.startswith(f"no {what} {root / folder / 'b'}") and "2 of the 3 ids" in message
    assert VOCSegmentation(root, subset=1).ids == ("a",)  # what is not asked for need not be there


@pytest.mark.parametrize("count", [-1, 0, 4])
def test_impossible_subset(root, count):
    message = error_of(VOCSegmentation, root, subset=count)
    assert f"subset of {count}" in message and "1 to 3" in message


@pytest.mark.parametrize("text", ["\n# nothing\n", "".join(f"class{k}\n" for k in range(256))])
def test_impossible_classes(root, text):
    (root / "classes.txt").write_text(text)
    assert "classes.txt" in error_of(VOCSegmentation, root)


# Errors that only a file shows


@pytest.mark.parametrize(("width", "height"), [(5, 4), (6, 5), (4, 6)])
def test_sizes_that_differ(root, width, height):
    Image.new("P", (width, height)).save(root / "SegmentationClass/b.png")
    message = error_of(VOCSegmentation(root).__getitem__, 1)
    assert f"SegmentationClass/b.png is {width}x{height}" in message and "JPEGImages/b.png is 6x4" in message


def test_label_value_that_is_no_class(root):
    (root / "classes.txt").write_text("ground\nhouse\n")
    message = error_of(VOCSegmentation(root).__getitem__, 2)
    assert all(part in message for part in ("SegmentationClass/c.png", "value 2", "2 classes"))


def test_palette_label_of_fewer_bits_keeps_its_indices(root):
    label = Image.fromarray(np.full((4, 6), 3, np.uint8))
    label.putpalette(palette().tobytes())
    label.save(root / "SegmentationClass/a.png", bits=2)
    assert (root / "SegmentationClass/a.png").read_bytes()[24] == 2  # the header's bit depth
    assert (VOCSegmentation(root)[0][1] == 3).all()


@pytest.mark.parametrize("folder", ["JPEGImages", "SegmentationClass"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.9])
def test_truncated_file(root, folder, keep):
    noise = np.random.default_rng(0).integers(0, 21, (64, 64, 3), dtype=np.uint8)
    save_pair(root, "a", noise, noise[..., 0])
    path = root / folder / "a.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    assert f"cannot read {path}" in error_of(VOCSegmentation(root).__getitem__, 0)


def test_file_that_is_no_picture(root):
    (root / "JPEGImages/a.png").write_bytes(b"not a picture")
    message = error_of(VOCSegmentation(root).__getitem__, 0)
    assert "JPEGImages/a.png" in message and "replace the file" in message


@pytest.mark.parametrize("read", [read_image, read_label])
def test_no_such_file(tmp_path, read):
    assert f"{tmp_path / 'no.png'}; check the path" in error_of(read, tmp_path / "no.png")


# Photographs of any mode


def image_read(image: Image.Image, tmp_path: Path, suffix: str = ".png", **options) -> np.ndarray:
    image.save(tmp_path / f"image{suffix}", **options)
    return read_image(tmp_path / f"image{suffix}")


def test_grey_image(tmp_path):
    assert image_read(Image.new("L", (3, 2), 77), tmp_path).tolist() == [[[77] * 3] * 3] * 2


def test_bilevel_image(tmp_path):
    assert image_read(Image.new("1", (3, 2), 1), tmp_path)[0, 0].tolist() == [255] * 3


def test_palette_image(tmp_path):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, *RED])
    assert image_read(image, tmp_path)[1, 2].tolist() == list(RED)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_become_white(tmp_path, mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    assert image_read(image.convert(mode), tmp_path).tolist() == [[[0] * 3, list(WHITE)]]


def test_transparent_palette_entry_becomes_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([0, 0, 0, *RED])
    assert image_read(image, tmp_path, transparency=0).tolist() == [[list(WHITE), list(RED)]]


def test_half_transparent_pixels_are_mixed_with_white(tmp_path):
    assert np.abs(image_read(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), tmp_path).astype(int) - 127).max() <= 1


def test_16_bit_grey_keeps_the_upper_byte(tmp_path):
    image = Image.fromarray(np.array([[0, 0x1234, 0xFFFF]], np.uint16))
    assert image_read(image, tmp_path)[0, :, 0].tolist() == [0, 0x12, 0xFF]


def test_cmyk_image(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    for suffix in (".jpg", ".tif"):
        assert np.abs(image_read(image, tmp_path, suffix)[4, 4].astype(int) - RED).max() < 10


def test_floating_point_image_is_refused(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "image.tif")
    assert "image.tif" in error_of(read_image, tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.swapaxes(0, 1)),
        (7, lambda stored: stored[::-1, ::-1].swapaxes(0, 1)),
        (6, lambda stored: np.rot90(stored, -1)),  # the camera was turned left: turn right
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
def test_exif_orientation(tmp_path, orientation, upright):
    stored = np.zeros((2, 3, 3), np.uint8)
    stored[0, 0] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = image_read(Image.fromarray(stored), tmp_path, exif=exif)
    np.testing.assert_array_equal(result, upright(stored))


def test_label_fits_the_upright_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (4, 6)).save(root / "JPEGImages/a.png", exif=exif)
    assert VOCSegmentation(root)[0][0].shape == (4, 6, 3)


# Writing


def test_label_is_written_with_indices_and_vocs_colours(tmp_path):
    label = np.arange(256).reshape(8, 32)
    write_label(tmp_path / "label.png", label)
    with Image.open(tmp_path / "label.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), label)
        assert np.asarray(image.convert("RGB"))[0, 15].tolist() == [192, 128, 128]
    np.testing.assert_array_equal(read_label(tmp_path / "label.png"), label)


@pytest.mark.parametrize("label", [np.zeros((2, 2, 3), int), np.zeros((2, 2)), np.array([[256]]), np.array([[-1]])])
def test_label_of_another_kind_is_not_written(tmp_path, label):
    with pytest.raises(ValueError, match="write_label"):
        write_label(tmp_path / "label.png", label)
    assert not (tmp_path / "label.png").exists()


def test_round_trip_of_two_splits(tmp_path):
    written = {split: Shapes(split, length=3) for split in ("train", "val")}
    for split, dataset in written.items():
        write_voc(dataset, tmp_path, split)
    for split, dataset in written.items():
        read = VOCSegmentation(tmp_path, split)
        assert (read.ids, read.classes, len(read)) == (dataset.ids, dataset.classes, 3)
        for (image, label), (image_read, label_read) in zip(dataset, read, strict=True):
            np.testing.assert_array_equal(image_read, image)
            np.testing.assert_array_equal(label_read, label)


def test_other_classes_are_not_mixed_in(root):
    assert "other classes" in error_of(write_voc, Shapes(length=1), root, "shapes")


def test_nothing_is_overwritten(root, tmp_path):
    dataset = VOCSegmentation(root)
    write_voc(dataset, tmp_path / "copy", "train")
    assert "a.png exists already" in error_of(write_voc, dataset, tmp_path / "copy", "again")
    shutil.rmtree(tmp_path / "copy/JPEGImages")
    assert "SegmentationClass/a.png exists already" in error_of(write_voc, dataset, tmp_path / "copy", "again")
    shutil.rmtree(tmp_path / "copy/SegmentationClass")
    assert "train.txt exists already" in error_of(write_voc, dataset, tmp_path / "copy", "train")
    (tmp_path / "copy/ImageSets/Segmentation/train.txt").unlink()
    (tmp_path / "copy/classes.txt").write_text("other\n")
    assert "other classes" in error_of(write_voc, dataset, tmp_path / "copy", "train")
    assert (tmp_path / "copy/classes.txt").read_text() == "other\n"


def test_a_second_split_keeps_classes_txt(tmp_path):
    write_voc(Shapes("train", length=1), tmp_path, "train")
    text = "# my note\n" + (tmp_path / "classes.txt").read_text()
    (tmp_path / "classes.txt").write_text(text)
    write_voc(Shapes("val", length=1), tmp_path, "val")
    assert (tmp_path / "classes.txt").read_text() == text


@pytest.mark.parametrize("split", ["../train", "x/train", "train.txt", "", "x\\train"])
def test_a_split_called_like_a_path_is_not_written(tmp_path, split):
    assert repr(split) in error_of(write_voc, Shapes(length=1), tmp_path / "new", split)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("ids", "part"), [(("a", "../b"), "'../b', which is a path"), (("a", "a"), "the id a 2 times")])
def test_ids_that_make_no_files_are_not_written(tmp_path, ids, part):
    dataset = Shapes(length=2)
    dataset.ids = ids
    assert part in error_of(write_voc, dataset, tmp_path / "new", "train")
    assert not (tmp_path / "new").exists()


# The lists in data/


def read_list(name: str) -> list[str]:
    return (REPO / "data/voc2012" / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("name", "count", "within"),
    [
        ("train", 1464, "train"),
        ("val", 1449, "val"),
        ("seg11valid", 736, "val"),
        ("mini_train", 49, "train"),
        ("mini_val", 56, "seg11valid"),
        ("tiny_train", 21, "mini_train"),
    ],
)
def test_id_lists(name, count, within):
    ids = read_list(name)
    assert len(ids) == len(set(ids)) == count
    assert set(ids) <= set(read_list(within))


def test_train_and_val_lists_are_disjoint():
    assert not set(read_list("train")) & set(read_list("val"))


def test_every_list_is_in_the_readme():
    readme = (REPO / "data/README.md").read_text()
    for path in (REPO / "data/voc2012").iterdir():
        assert f"| `{path.name}` | {len(path.read_text().splitlines())} |" in readme


def test_the_readmes_snippet_makes_a_label(tmp_path):
    (tmp_path / "mine/SegmentationClass").mkdir(parents=True)
    picture = np.array([[(0, 0, 0), (255, 0, 0)], [(0, 0, 255), (9, 9, 9)]], np.uint8)
    Image.fromarray(picture).save(tmp_path / "annotation.png")
    for folder in ("JPEGImages", "ImageSets/Segmentation"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "mine/JPEGImages/a.png")
    (tmp_path / "mine/ImageSets/Segmentation/train.txt").write_text("a\n")
    snippet = (REPO / "data/README.md").read_text().split("```python\n")[1].split("```")[0]
    subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPO)}, check=True)
    assert np.asarray(Image.open(tmp_path / "mine/SegmentationClass/a.png")).tolist() == [[0, 1], [2, 255]]


# Real photographs


@pytest.fixture
def real_data() -> Path:
    folder = os.environ.get("TINYFCN_DATA")
    if not folder:
        pytest.skip("TINYFCN_DATA does not name a folder with voc_mini and camvid")
    return Path(folder)


def test_tiny_train_has_enough_of_each_class(real_data):
    labels = [label for _, label in VOCSegmentation(real_data / "voc_mini", str(REPO / "data/voc2012/tiny_train.txt"))]
    for name in ("bus", "car", "cat", "person", "train"):
        shares = [(label == VOC_CLASSES.index(name)).sum() / (label != 255).sum() for label in labels]
        assert sum(share >= 0.05 for share in shares) >= 5, name


@pytest.mark.parametrize(
    ("name", "counts", "classes", "read"),
    [("voc_mini", (49, 56), 21, 56), ("camvid", (367, 101), 11, 5)],
    ids=["voc_mini", "camvid"],
)
def test_real_photographs(real_data, name, counts, classes, read):
    root = real_data / name
    for split, count in zip(("train", "val"), counts, strict=True):
        dataset = VOCSegmentation(root, split)
        assert (len(dataset), dataset.num_classes) == (count, classes)
        for id_ in dataset.ids:
            with Image.open(root / f"JPEGImages/{id_}.jpg") as image, Image.open(root / f"SegmentationClass/{id_}.png") as label:
                assert image.size == label.size
        chosen = range(0, count, max(1, count // read))[:read]
        assert len(chosen) == min(read, count)
        for image, label in (dataset[index] for index in chosen):
            assert image.shape == (*label.shape, 3)
            assert len(np.unique(label)) > 1
