"""tinyfcn/data/sbd.py: labels in files of MATLAB, and the whole set."""

import base64
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tinyfcn.data import VOCSegmentation, sbd
from tinyfcn.errors import InputError

LABEL = np.random.default_rng(0).integers(0, 21, (7, 5), dtype=np.uint8)
LABEL[0, 0] = 255


def element(kind, body):
    if 0 < len(body) <= 4:
        return struct.pack("<2H", kind, len(body)) + body.ljust(4, b"\0")
    return struct.pack("<2I", kind, len(body)) + body + bytes(-len(body) % 8 if kind != 15 else 0)


def matrix(kind, shape, name, *parts):
    head = element(6, struct.pack("<2I", kind, 0)) + element(5, np.array(shape, "<i4").tobytes()) + element(1, name)
    return element(14, head + b"".join(parts))


def mat(label, compressed=True, name=b"GTcls", value_type=2):
    """A file as MATLAB wrote SBD's: beside the label, a field that nobody needs."""
    values = matrix(9, label.shape, b"", element(value_type, label.T.tobytes()))
    other = matrix(6, (1, 2), b"", element(9, bytes(16)))
    names = b"".join(field.ljust(32, b"\0") for field in (b"CategoriesPresent", b"Segmentation"))
    struct_ = matrix(2, (1, 1), name, element(5, struct.pack("<i", 32)), element(1, names), other, values)
    body = element(15, zlib.compress(struct_)) if compressed else struct_
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + body


@pytest.fixture
def published(tmp_path):
    home = tmp_path / "benchmark_RELEASE" / "dataset"
    (home / "img").mkdir(parents=True)
    (home / "cls").mkdir()
    for name, ids in (("train", "ab"), ("val", "c")):
        (home / f"{name}.txt").write_text("".join(f"{id_}\n" for id_ in ids))
        for id_ in ids:
            Image.new("RGB", (5, 7), "red").save(home / "img" / f"{id_}.jpg")
            (home / "cls" / f"{id_}.mat").write_bytes(mat(LABEL, compressed=id_ != "b"))
    return home


def test_the_set_becomes_a_folder_in_voc_s_layout(call, published, tmp_path):
    status, out, err = call(sbd, published.parent, tmp_path / "out")
    assert (status, err) == (0, "") and "2 photographs in the list train and 1 photographs in the list val" in out
    for name, ids in (("train", ("a", "b")), ("val", ("c",))):
        dataset = VOCSegmentation(tmp_path / "out", name)
        assert dataset.ids == ids and dataset.num_classes == 21
        assert all(np.array_equal(label, LABEL) and image.shape == (7, 5, 3) for image, label in dataset)
    assert (tmp_path / "out/JPEGImages/a.jpg").read_bytes() == (published / "img/a.jpg").read_bytes()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ImageSets", "JPEGImages", "SegmentationClass"]


def test_once_more_changes_nothing_and_what_is_missing_comes_back(published, tmp_path):
    assert sbd.convert_sbd(published, tmp_path / "out") == {"train": 2, "val": 1}
    kept, lost = (tmp_path / "out/SegmentationClass" / f"{id_}.png" for id_ in "ab")
    before = kept.stat()
    lost.unlink()
    (tmp_path / "out/JPEGImages/.tinyfcn.killed.jpg").write_text("")
    sbd.convert_sbd(published.parent, tmp_path / "out")
    assert kept.stat().st_mtime_ns == before.st_mtime_ns and lost.exists()
    assert sorted(path.name for path in (tmp_path / "out/JPEGImages").iterdir()) == ["a.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda home, out: (home / "cls/b.mat").unlink(), "no .*b.mat, which SBD's list names"),
        (lambda home, out: (home / "img/b.jpg").unlink(), "no .*b.jpg, which SBD's list names"),
        (lambda home, out: (home / "cls/b.mat").write_bytes(b"x"), "b.mat as a label of SBD .no MATLAB 5 file"),
        (lambda home, out: (home / "cls/b.mat").write_bytes(mat(LABEL)[:-9]), "b.mat as a label of SBD .it is cut off"),
        (lambda home, out: (home / "cls/b.mat").write_bytes(mat(LABEL, name=b"GTinst")), "it has no GTcls"),
        (lambda home, out: (home / "cls/b.mat").write_bytes(mat(LABEL, value_type=1)), "no matrix of uint8"),
        (lambda home, out: (home / "cls/b.mat").write_bytes(mat(LABEL + 21)), "b.mat has the label value"),
        (lambda home, out: (home / "train.txt").write_text("../a"), "train.txt has '../a', which is a path"),
        (lambda home, out: [(home / f"{name}.txt").unlink() for name in ("train", "val")], "no list train.txt or val.txt"),
        (lambda home, out: (out / "ImageSets/Segmentation/train.txt").write_text("mine"), "train.txt is there already"),
        (lambda home, out: (out / "classes.txt").write_text("mine"), "classes of its own"),
        (lambda home, out: (home / "cls").rename(home / "other"), "is not SBD: it has no dataset/cls"),
    ],
)
def test_what_is_wrong_is_one_line_and_no_list_is_left(published, tmp_path, damage, message):
    out = tmp_path / "out"
    (out / "ImageSets/Segmentation").mkdir(parents=True)
    damage(published, out)
    lists = {path: path.read_bytes() for path in (out / "ImageSets/Segmentation").iterdir()}
    with pytest.raises(InputError, match=message):
        sbd.convert_sbd(published.parent, out)
    assert lists == {path: path.read_bytes() for path in (out / "ImageSets/Segmentation").iterdir()}


def test_a_label_that_scipy_wrote_is_read(tmp_path):
    data = (
        "DwAAAHgAAAB4nONjYGDgYGRgYAPRQMzEAAGsUD4jEgaJuYck5xSD2SwMvFBxKSB2yi/NS0ksykwFSQanpuem5pUklmTm50HN4wPiBAaEPWxo9oDsZYaa"
        "BwKcQGzAAAMf7ImlQfZYINnDiWYPM9QumD1MMLcwsTAyAxUBAIhuE7Q="
    )
    (tmp_path / "theirs.mat").write_bytes(bytes(126) + b"IM" + base64.b64decode(data))
    assert sbd.read_label(tmp_path / "theirs.mat").tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("compressed", [False, True])
def test_labels_are_those_that_scipy_reads_and_writes(tmp_path, compressed):
    scipy = pytest.importorskip("scipy.io")
    (tmp_path / "ours.mat").write_bytes(mat(LABEL, compressed))
    assert np.array_equal(scipy.loadmat(tmp_path / "ours.mat")["GTcls"][0, 0]["Segmentation"], LABEL)
    found = {"other": np.eye(3), "GTcls": {"Boundaries": np.ones((2, 3)), "Segmentation": LABEL}}
    scipy.savemat(tmp_path / "theirs.mat", found, do_compression=compressed)
    assert np.array_equal(sbd.read_label(tmp_path / "theirs.mat"), LABEL)
