"""tinyfcn/data/lists.py: files are found however lists and folders are written, and never outside."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from tinyfcn.data import VOCSegmentation
from tinyfcn.data.lists import Files
from tinyfcn.errors import InputError


def make(root: Path, *names: str, value: int = 0) -> None:
    """Pictures of 6x4 pixels by path."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), value, np.uint8)).save(root / name, format="PNG")


def write_list(root: Path, text: str, encoding: str = "utf-8") -> None:
    path = root / "ImageSets/Segmentation/train.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    make(root, "JPEGImages/a.JPG", "JPEGImages/my photo.jpeg", "JPEGImages/street/b.Png")
    make(root, "SegmentationClass/a.PNG", "SegmentationClass/my photo.png", "SegmentationClass/street/b.png")
    return root


@pytest.mark.parametrize(
    "lines",
    [
        "a\nmy photo\nstreet/b",
        "a.jpg\nmy photo.jpeg\nstreet/b.png",
        "a.png\nmy photo\nstreet\\b",
        "a 1\nmy photo\nstreet/b  -1",
        "JPEGImages/a.jpg SegmentationClass/a.png\nmy photo\n/JPEGImages/street/b.png\t/SegmentationClass/street/b.png",
        "/home/me/set/JPEGImages/a.jpg\nmy photo\nC:\\set\\JPEGImages\\street\\b.png",
        "./a\nmy photo\n./street/b.png",
        "a.jpg,a.png\nmy photo\nstreet/b.png;street/b.png",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_list_of_any_kind_finds_the_same_pairs(root, lines, encoding):
    write_list(root, lines, encoding)
    dataset = VOCSegmentation(root)
    assert dataset.ids == ("a", "my photo", "street/b")
    assert [item.image.name for item in dataset.items] == ["a.JPG", "my photo.jpeg", "b.Png"]
    assert [item.label.name for item in dataset.items] == ["a.PNG", "my photo.png", "b.png"]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_accented_letters_in_either_form_are_found(tmp_path, on_disk, in_list):
    make(tmp_path, normalize(on_disk, "JPEGImages/Köln/Äcker.jpg"), normalize(on_disk, "SegmentationClass/Köln/Äcker.png"))
    write_list(tmp_path, normalize(in_list, "Köln/Äcker"))
    dataset = VOCSegmentation(tmp_path)
    assert dataset.ids == (normalize("NFC", "Köln/Äcker"),) and dataset[0][1].shape == (4, 6)


def test_two_paths_a_line_need_no_folders_of_voc(tmp_path):
    """As in SegNet's CamVid."""
    make(tmp_path / "CamVid", "train/1.png", "train/2.png", value=3)
    make(tmp_path / "CamVid", "trainannot/1.png", "trainannot/2.png", value=1)
    lines = "".join(f"/SegNet/CamVid/train/{k}.png /SegNet/CamVid/trainannot/{k}.png\n" for k in (1, 2))
    (tmp_path / "CamVid/train.txt").write_text(lines)
    dataset = VOCSegmentation(tmp_path / "CamVid", str(tmp_path / "CamVid/train.txt"))
    assert dataset.ids == ("train/1", "train/2")
    assert [(int(image.max()), int(label.max())) for image, label in dataset] == [(3, 1), (3, 1)]


@pytest.mark.parametrize("place", ["in the set", "elsewhere"])
def test_other_folders_and_suffixes(tmp_path, place):
    make(tmp_path, "set/img/a.jpg", "set/img/b.jpg", "set/masks/a_mask.png", "set/masks/b_mask.gif")
    write_list(tmp_path / "set", "a\nb\n")
    folders = ("img", "masks") if place == "in the set" else (str(tmp_path / "set/img"), str(tmp_path / "set/masks"))
    dataset = VOCSegmentation(tmp_path / "set", images=folders[0], labels=folders[1], label_suffix="_mask")
    assert [item.label.name for item in dataset.items] == ["a_mask.png", "b_mask.gif"]
    with pytest.raises(InputError, match="--labels none: no such folder"):
        VOCSegmentation(tmp_path / "set", images="img", labels="none")


def test_a_jpeg_label_is_found_and_refused(root):
    (root / "SegmentationClass/a.PNG").unlink()
    Image.new("L", (6, 4)).save(root / "SegmentationClass/a.jpg")
    write_list(root, "a")
    with pytest.raises(InputError, match="a.jpg is a label compressed as JPEG"):
        VOCSegmentation(root)[0]


def test_a_name_in_two_spellings_is_one_picture(root):
    write_list(root, "a\na.jpg\n")
    with pytest.raises(InputError, match="the id a 2 times"):
        VOCSegmentation(root)


def test_without_lists_a_seeded_share_is_held_out(tmp_path):
    make(tmp_path, *(f"img/{k}.jpg" for k in range(11)), *(f"img/{k}_mask.png" for k in range(10)), "img/.hidden.jpg")

    def split(name: str, seed: int = 0) -> set[str]:
        dataset = VOCSegmentation(tmp_path, name, images="img", labels="img", label_suffix="_mask", val_share=0.2, seed=seed)
        assert any("1 of 11 images" in note and "10.jpg" in note for note in dataset.notes)
        return set(dataset.ids)

    train, val = split("train"), split("val")
    assert (len(train), len(val)) == (8, 2) and train | val == {str(k) for k in range(10)}
    assert split("val") == val and {frozenset(split("val", seed)) for seed in range(5)} > {frozenset(val)}


def test_images_and_labels_of_one_folder_and_one_name(tmp_path):
    make(tmp_path, "all/a.jpg", "all/a.png", "all/b.jpg", "all/b.png")
    dataset = VOCSegmentation(tmp_path, images="all", labels="all", val_share=0.5)
    assert (dataset.items[0].image.suffix, dataset.items[0].label.suffix) == (".jpg", ".png")


def test_a_share_that_cannot_be_made_is_refused(root):
    with pytest.raises(InputError, match="--val-share 1 of 3"):
        VOCSegmentation(root, val_share=1.0)
    with pytest.raises(InputError, match="--val-share 0.2 splits a set without lists"):
        VOCSegmentation(root)
    write_list(root, "a")
    with pytest.raises(InputError, match="where there are none; .* has train"):
        VOCSegmentation(root, val_share=0.2)
    (root / "only").mkdir()
    with pytest.raises(InputError, match="no image in .* has a label: .*a.JPG would have .*only/a.png"):
        (root / "ImageSets/Segmentation/train.txt").unlink()
        VOCSegmentation(root, labels="only", val_share=0.2)


def test_ignored_values_and_masks(tmp_path):
    make(tmp_path, "JPEGImages/a.png")
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(np.array([[0, 1, 11, 255, 0, 0]] * 4, np.uint8)).save(tmp_path / "SegmentationClass/a.png")
    write_list(tmp_path, "a")
    assert VOCSegmentation(tmp_path, ignore=11)[0][1][0].tolist() == [0, 1, 255, 255, 0, 0]
    masked = VOCSegmentation(tmp_path, ignore=11, mask=True)
    assert masked.classes == ("background", "foreground") and masked[0][1][0].tolist() == [0, 1, 255, 1, 0, 0]
    (tmp_path / "classes.txt").write_text("".join(f"class{k}\n" for k in range(11)) + "unlabelled\n")
    assert VOCSegmentation(tmp_path, ignore=11).num_classes == 11
    with pytest.raises(InputError, match="--mask is for two classes, 0 and 255; .* names 12"):
        VOCSegmentation(tmp_path, mask=True)
    with pytest.raises(InputError, match="--ignore 256"):
        VOCSegmentation(tmp_path, ignore=256)


def test_an_image_in_the_folder_of_labels_is_never_its_own_label(tmp_path):
    for name in ("a.JPG", "a_gt.png", "b.png", "b_gt.png"):
        (tmp_path / name).write_bytes(b"")
    found = {item.image.name: item.label.name for item in Files(tmp_path, ".", ".").all()}
    assert found["a.JPG"] == "a.png" and found["b.png"] == "b.tif"  # where they should be
    found = {item.image.name: item.label.name for item in Files(tmp_path, ".", ".", "_gt").all()}
    assert found == {"a.JPG": "a_gt.png", "b.png": "b_gt.png"}
