"""tinyfcn.train, as a user calls it: what a run leaves, stage after stage, and from labels as people have them."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small import SMALL

from tinyfcn import evaluate, predict, train
from tinyfcn.data import Shapes, write_voc
from tinyfcn.run import read_config
from tinyfcn.weights import read, read_description

pytestmark = pytest.mark.usefixtures("quick_pictures")


READ = ["--images", "img", "--labels", "masks", "--label-suffix", "_m", "--val-share", "0.4"]


def test_a_run_leaves_all_that_it_promises(run_folder, voc):
    assert {path.name for path in run_folder.iterdir()} == {
        "config.json",
        "log.csv",
        "index.html",
        "curves.png",
        "predictions.png",
        "confusion.png",
        "metrics.json",
        "last.safetensors",
        "best.safetensors",
    }
    config = json.loads((run_folder / "config.json").read_text())
    assert config["data"] == str(voc) and config["steps"] == 4 and config["size"] == [32, 32]
    metrics = json.loads((run_folder / "metrics.json").read_text())
    scores = {"pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"}
    assert scores <= set(metrics) and set(metrics["iou"]) == set(Shapes.classes)
    assert all(0 <= metrics[name] <= 1 and 0 < metrics["constant_baseline"][name] < 1 for name in scores)
    with (run_folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"] and all(float(row["mean_iou"]) >= 0 for row in rows)
    assert float(rows[1]["lr"]) == pytest.approx(2e-3 * (1 - 3 / 4) ** 0.9)
    page = (run_folder / "index.html").read_text()
    assert set(re.findall(r'src="([^"]*)"', page)) == {"curves.png", "predictions.png", "confusion.png"}
    assert "--steps 4" in page and "triangle" in page and f"{metrics['mean_iou']:.3f}" in page


def test_the_terminal_shows_scores_baseline_and_classes(voc, call, tmp_path):
    status, out, err = call(train, "--data", voc, *SMALL, "--steps", 2, "--out", tmp_path / "run")
    assert status == 0
    assert "7 classes; 5 images to train on, 3 to evaluate on" in out
    for word in ("pixel accuracy", "mean accuracy", "mean iou", "frequency weighted iou", "triangle", "one class"):
        assert word in out
    assert "loss=" in err and "images_per_s=" in err  # the progress bar


def test_training_learns(tmp_path, call):
    """A small net learns two pictures by heart."""
    write_voc(Shapes("train", 2, seed=3), tmp_path / "voc", "train")
    folder = tmp_path / "run"
    options = ["--width", "0.0625", "--size", "full", "--no-mirror", "--batch-size", "1", "--steps", "300", "--evaluations", "1"]
    status, _, err = call(train, "--data", tmp_path / "voc", "--val-split", "train", *options, "--lr", "2e-3", "--out", folder)
    assert status == 0, err
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["mean_iou"] > 0.9 > metrics["constant_baseline"]["mean_iou"] + 0.5


def test_resume_goes_further_with_more_steps(run_folder, call):
    status, _, err = call(train, "--resume", run_folder)
    assert status == 2 and "has done its 4 steps" in err
    assert call(train, "--resume", run_folder, "--steps", 6)[0] == 0
    assert read_description(run_folder / "last.safetensors").step == 6


def test_stages_follow_each_other(run_folder, voc, call, tmp_path):
    status, _, err = call(train, "--data", voc, *SMALL, "--steps", 2, "--model", "fcn32s", "--out", tmp_path / "32s")
    assert status == 0, err
    status, out, err = call(train, "--model", "fcn16s", "--from", tmp_path / "32s", "--out", tmp_path / "16s")
    assert status == 0, err
    assert "left at their initial value: score_pool4.weight, score_pool4.bias" in out
    config = json.loads((tmp_path / "16s" / "config.json").read_text())
    assert config["model"] == "fcn16s" and config["width"] == 0.03125 and config["data"] == str(voc)


@pytest.mark.parametrize(
    "options",
    [
        ["--learn-upsampling"],
        ["--learn-upsampling", "all", "--padding", "paper"],
        ["--optimiser", "sgd", "--loss", "sum", "--lr", "1e-7", "--momentum", "0.99", "--weight-decay", "5e-4"],
        ["--schedule", "constant", "--scale", "0.5", "1.5", "--no-mirror", "--dropout", "0.5"],
        ["--size", "full", "--batch-size", "1"],
        ["--size", "40x24", "--subset", "3", "--subset-seed", "1"],
        ["--model", "fcn8s-atonce", "--epochs", "1.5"],
    ],
)
def test_options_train(voc, call, tmp_path, options):
    length = [] if "--epochs" in options else ["--steps", 2]
    status, _, err = call(train, "--data", voc, *SMALL, *length, *options, "--out", tmp_path / "run")
    assert status == 0, err
    if "--epochs" in options:  # 1.5 passes over 5 images, two a step
        assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 4


def test_class_weights_are_kept_in_the_run(voc, call, tmp_path):
    options = ["--data", voc, *SMALL, "--steps", 2, "--class-weights"]
    assert call(train, *options, "median-frequency", "--out", tmp_path / "a")[0] == 0
    weights = json.loads((tmp_path / "a" / "class_weights.json").read_text())
    dataset = [label for _, label in Shapes("train", 5)]
    share = {}
    for k, name in enumerate(Shapes.classes):
        inside = [label for label in dataset if (label == k).any()]
        share[name] = sum((label == k).sum() for label in inside) / max(1, sum((label != 255).sum() for label in inside))
    median = np.median([value for value in share.values() if value])
    assert weights == pytest.approx({name: median / value if value else 1 for name, value in share.items()}, rel=1e-3)

    (tmp_path / "mine.json").write_text(json.dumps(weights))
    assert call(train, *options, tmp_path / "mine.json", "--out", tmp_path / "b")[0] == 0
    assert call(train, *options, "none", "--out", tmp_path / "c")[0] == 0
    a, b, c = (read(tmp_path / run / "last.safetensors")[0]["score_fr.weight"] for run in "abc")
    assert np.array_equal(a, b) and not np.allclose(a, c, rtol=1e-3)
    (tmp_path / "mine.json").unlink()  # the run has its own copy
    assert call(train, "--resume", tmp_path / "b", "--steps", 4)[0] == 0


def test_the_next_stage_takes_its_recipe_s_rate(call, voc, tmp_path):
    options = ["--data", voc, "--recipe", "paper", "--width", 0.03125, "--steps", 1, "--evaluations", 1]
    assert call(train, *options, "--model", "fcn32s", "--out", tmp_path / "32s")[0] == 0
    assert call(train, "--model", "fcn16s", "--from", tmp_path / "32s", "--out", tmp_path / "16s")[0] == 0
    config = json.loads((tmp_path / "16s" / "config.json").read_text())
    assert config["lr"] == 1e-12 and config["recipe"] == "paper" and config["width"] == 0.03125


@pytest.mark.parametrize("name, classes", [("voc_mini", 21), ("camvid", 11)])
def test_real_photographs_train_and_evaluate(name, classes, call, tmp_path):
    if "TINYFCN_DATA" not in os.environ:
        pytest.skip("TINYFCN_DATA is not set: no real photographs")
    root = Path(os.environ["TINYFCN_DATA"]) / name
    ids = (root / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:3]
    (tmp_path / "few.txt").write_text("\n".join(ids))
    options = ["--data", root, "--val-split", tmp_path / "few.txt", "--subset", 8, "--model", "fcn16s"]
    status, out, err = call(train, *options, *SMALL, "--steps", 4, "--out", tmp_path / "run")
    assert status == 0, err
    assert f"{classes} classes; 8 images to train on, 3 to evaluate on" in out
    photographs = [root / "JPEGImages" / f"{id_}.jpg" for id_ in ids]
    assert call(predict, tmp_path / "run", *photographs, "--out", tmp_path / "out")[0] == 0
    assert Image.open(tmp_path / "out" / f"{ids[0]}.png").size == Image.open(photographs[0]).size


@pytest.fixture
def masks(tmp_path):
    """Five images with masks of 0 and 255, in folders of their own, without lists or names."""
    rng = np.random.default_rng(0)
    for folder in ("img", "masks"):
        (tmp_path / "mine" / folder).mkdir(parents=True)
    for k in range(5):
        pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"mine/img/{k}.png")
        Image.fromarray(np.where(pixels[..., 0] > 128, 255, 0).astype(np.uint8)).save(tmp_path / f"mine/masks/{k}_m.png")
    return tmp_path / "mine"


def test_a_folder_of_masks_trains_on_and_keeps_the_images_that_it_held_out(masks, call, tmp_path):
    run = tmp_path / "run"
    status, out, err = call(train, "--data", masks, *READ, "--mask", *SMALL, "--steps", 2, "--out", run)
    assert status == 0, err
    assert "2 classes; 3 images to train on, 2 to evaluate on" in out
    held_out = (run / "val.txt").read_text().split()
    assert sorted(held_out + (run / "train.txt").read_text().split()) == list("01234")
    for k in range(5, 20):  # which would make another choice
        for path in (f"img/{k}.png", f"masks/{k}_m.png"):
            (masks / path).write_bytes((masks / path.replace(str(k), "0")).read_bytes())
    status, out, err = call(evaluate, run)
    assert status == 0 and "on 2 images" in out, err
    status, out, err = call(train, "--resume", run, "--steps", 3)
    assert status == 0 and "changed since" not in out and "3 images to train on, 2 to evaluate on" in out, err
    status, out, err = call(train, "--from", run, "--steps", 1, "--seed", 5, "--out", tmp_path / "next")
    assert status == 0 and read_config(tmp_path / "next").val_split == str(run / "val.txt"), err


def test_labels_that_mean_nothing_end_a_run_before_it_has_a_folder(masks, call, tmp_path):
    options = ["--data", masks, *READ, *SMALL, "--steps", 2, "--out", tmp_path / "run"]
    status, _, err = call(train, *options)
    assert status == 2 and "255 is ignored; if it is a class, add --mask" in err and not (tmp_path / "run").exists()
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(masks / "masks/4_m.png")
    status, _, err = call(train, *options, "--mask")
    assert status == 2 and "4_m.png has the label value 7" in err and not (tmp_path / "run").exists()
    status, _, err = call(train, "--mask", "--out", tmp_path / "run")
    assert status == 2 and "--mask says how a folder is read; give --data DIR" in err
