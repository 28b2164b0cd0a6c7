"""A small world that the tests of this folder work in: data, a finished run, weights and a photograph."""

import os
import shutil
from dataclasses import replace

import numpy as np
import published
import pytest
from pictures import draw_nothing
from PIL import Image

from tinyfcn import command, train
from tinyfcn.data import write_label
from tinyfcn.models import VGG16, FCN32s
from tinyfcn.report import read_log
from tinyfcn.run import read_config
from tinyfcn.weights import read

WIDTH = 1 / 64
CLASSES = "background", "cat", "dog"
IDS = {"train": "abcd", "val": "ef"}
OPTIONS = f"--width {WIDTH} --size 32 --batch-size 2 --steps 4 --evaluations 2 --dropout 0.5 --device cpu".split()


def make_world(root):
    """voc/ with four pairs to train on and two to evaluate on, run/ trained on it, weights of others, and a photograph."""
    rng = np.random.default_rng(0)
    for folder in "JPEGImages", "SegmentationClass", "ImageSets/Segmentation":
        (root / "voc" / folder).mkdir(parents=True)
    (root / "voc/classes.txt").write_text("\n".join(CLASSES))
    for split, ids in IDS.items():
        (root / f"voc/ImageSets/Segmentation/{split}.txt").write_text("\n".join(ids))
        for id_ in ids:
            Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(root / f"voc/JPEGImages/{id_}.png")
            write_label(root / f"voc/SegmentationClass/{id_}.png", rng.integers(0, 3, (32, 40), dtype=np.uint8))
    Image.open(root / "voc/JPEGImages/a.png").save(root / "photo.jpg")
    params = {name: p for name, p in published.draw(VGG16, 5, WIDTH).items() if name.startswith("conv")}
    np.savez(root / "vgg.npz", **published.named(params, [f"features.{k}" for k in published.VGG_PLACES]))
    FCN32s(3, WIDTH, "same").save(root / "fcn32s.safetensors", classes=CLASSES)
    FCN32s(5, WIDTH, "same").save(root / "five.safetensors", classes=tuple("abcde"))
    (root / "note.txt").write_text("no picture, and no weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        quicken(patch)
        patch.setattr("sys.argv", ["train", "--data", "voc", *OPTIONS, "--out", "run"])
        assert command.run(train.main) == 0
        config = replace(read_config(root / "run"), data="voc")  # so that it goes where the world goes
        config.write(root / "run/config.json")


def quicken(patch):
    """Draw nothing, and wait for no disk: both take longer than all that these runs compute."""
    draw_nothing(patch)
    patch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    make_world(root)
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


@pytest.fixture
def world(template, tmp_path, monkeypatch):
    """A copy of the world, which is the working directory."""
    folder = tmp_path / "world"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def start(call, template, tmp_path):
    """Start a run; returns its folder and what the command gave."""

    def run(name="run", *more):
        out = ["--out", tmp_path / name] if name else []
        return tmp_path / (name or "runs"), call(train, "--data", template / "voc", *OPTIONS, *out, *more)

    return run


@pytest.fixture
def whole(template, tmp_path):
    """A run that has ended, in four steps."""
    folder = tmp_path / "whole"
    shutil.copytree(template / "run", folder)
    replace(read_config(folder), data=str(template / "voc")).write(folder / "config.json")
    return folder


@pytest.fixture
def same():
    """Check that two runs ended alike: parameters and moments to the bit, and rows of the log that say the same."""

    def check(folder, other):
        ours, theirs = read(folder / "last.safetensors"), read(other / "last.safetensors")
        assert replace(ours[1], seconds=0) == replace(theirs[1], seconds=0)
        assert ours[0].keys() == theirs[0].keys()
        for name, tensor in ours[0].items():
            np.testing.assert_array_equal(tensor, theirs[0][name], err_msg=name)
        rows = [[{**row, "images_per_s": ""} for row in read_log(run / "log.csv")] for run in (folder, other)]
        assert rows[0] == rows[1]

    return check
