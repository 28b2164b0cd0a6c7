"""The three commands, as a user calls them: what they write, and what they say to input that cannot be used."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import published
import pytest
from PIL import Image

from tinyfcn import command, evaluate, predict, train, training
from tinyfcn.convert import __main__ as convert
from tinyfcn.convert.identify import identify
from tinyfcn.data import Shapes, normalise, palette, read_image, write_voc
from tinyfcn.data.lists import named_images
from tinyfcn.data.loader import make_batch
from tinyfcn.inference import load, load_network
from tinyfcn.initial import sizes_of
from tinyfcn.models import VGG16
from tinyfcn.recipes import RECIPES
from tinyfcn.run import Config, read_config
from tinyfcn.weights import read, read_description, write

pytestmark = pytest.mark.usefixtures("quick_pictures")

SMALL = ["--width", "0.03125", "--size", "32", "--batch-size", "2", "--evaluations", "2"]


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """A folder in VOC layout: 5 images to train on, 3 to evaluate on."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(Shapes("train", 5), root, "train")
    write_voc(Shapes("val", 3), root, "val")
    return root


@pytest.fixture(scope="session")
def finished(voc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train", "--data", str(voc), *SMALL, "--steps", "4", "--out", str(folder)])
        assert command.run(train.main) == 0
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A run of four steps that has ended; each test has a copy."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


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


def test_initial_weights_from_a_file(run_folder, voc, call, tmp_path):
    status, out, _ = call(
        train, "--data", voc, *SMALL, "--steps", 2, "--init", run_folder / "best.safetensors", "--out", tmp_path / "b"
    )
    assert status == 0 and "parameters loaded" in out and "random" not in out


@pytest.fixture
def trunk(tmp_path):
    """The convolutions of a VGG16 of width 1/32, as torchvision names them: a file that cannot tell how images are prepared."""
    params = {name: p for name, p in published.draw(VGG16, 5, 1 / 32).items() if name.startswith("conv")}
    np.savez(tmp_path / "trunk.npz", **published.named(params, [f"features.{k}" for k in published.VGG_PLACES]))
    return tmp_path / "trunk.npz", params


def test_a_foreign_file_of_convolutions_starts_a_run(trunk, voc, call, tmp_path):
    """Its width is the file's, fc6 and fc7 are random, and how images are prepared has to be said."""
    file, params = trunk
    options = ["--data", voc, "--size", "32", "--steps", 2, "--evaluations", 1, "--hidden", 16, "--init", file]
    status, _, err = call(train, *options, "--out", tmp_path / "c")
    assert status == 2 and "--preprocessing" in err
    status, out, err = call(train, *options, "--preprocessing", "caffe", "--trunk-rate", 0, "--out", tmp_path / "d")
    assert status == 0, err
    random, scores = 16 * 16 * 49 + 16 * 16, 7 * (16 + 16 + 8) + 3 * 7
    share = random / (sum(p.size for p in params.values()) + random + 2 * 16 + scores)
    assert "26 parameters loaded" in out and f"fc6 and fc7 start from random numbers, {share:.0%} of all parameters" in out
    tensors, description = read(tmp_path / "d" / "best.safetensors")
    assert description.preprocessing == "caffe" and description.width == 1 / 32 and description.hidden == 16
    assert all(np.array_equal(tensors[name], p) for name, p in params.items())  # --trunk-rate 0
    random = training.build_network(Config(width=1 / 32, hidden=16), 7).params
    assert all(not np.array_equal(tensors[f"{layer}.weight"], random[f"{layer}.weight"]) for layer in ("fc6", "fc7", "score_fr"))


def moved(after, before, layer):
    return abs(after[f"{layer}.weight"] - before[f"{layer}.weight"]).max()


def test_layers_that_come_trained_learn_at_a_rate_of_their_own_through_stages_and_resumption(trunk, voc, call, tmp_path):
    """Adam's first steps move every parameter by about its rate: 1e-4 where the file gave it, 1e-3 elsewhere. (Scores start at
    zero, so that the layers below them move from the second step on.)"""
    file, params = trunk
    options = ["--data", voc, "--size", "32", "--evaluations", 1, "--hidden", 16, "--schedule", "constant", "--dropout", 0]
    options += ["--lr", 1e-3, "--trunk-rate", 0.1, "--preprocessing", "caffe", "--model", "fcn32s", "--init", file]
    assert call(train, *options, "--steps", 2, "--out", tmp_path / "32s")[0] == 0
    first, description = read(tmp_path / "32s" / "last.safetensors")
    assert list(description.trained) == sorted({name.partition(".")[0] for name in params})
    fresh = training.build_network(Config(model="fcn32s", width=1 / 32, hidden=16), 7).params
    assert 0.5e-4 < moved(first, params, "conv5_3") < 1e-4 and 0.5e-3 < moved(first, fresh, "fc7") < 1e-3

    assert call(train, "--model", "fcn16s", "--from", tmp_path / "32s", "--out", tmp_path / "16s")[0] == 0
    second, description = read(tmp_path / "16s" / "last.safetensors")
    assert "fc6" not in description.trained and "conv1_1" in description.trained
    assert 0.5e-4 < moved(second, first, "conv5_3") < 3e-4 and 0.5e-3 < moved(second, first, "fc7") < 3e-3

    assert call(train, "--resume", tmp_path / "16s", "--steps", 3)[0] == 0
    third = read(tmp_path / "16s" / "last.safetensors")[0]
    assert 0 < moved(third, second, "conv5_3") < 1.5e-4 and moved(third, second, "fc7") > 5e-4


def test_freezing_leaves_what_is_trained_and_refuses_what_is_not(trunk, run_folder, voc, call, tmp_path):
    options = ["--data", voc, *SMALL, "--steps", 2, "--out", tmp_path / "frozen", "--freeze-trunk"]
    status, _, err = call(train, *options)
    assert status == 2 and "start with --init or --from" in err
    status, _, err = call(train, *options, "--hidden", 16, "--init", trunk[0], "--preprocessing", "caffe")
    assert status == 2 and "fc6 and fc7 would stay the random numbers" in err and "--trunk-rate 0" in err
    assert not (tmp_path / "frozen").exists()
    status, _, err = call(train, *options, "--init", run_folder / "best.safetensors")
    assert status == 0, err
    before, after = read(run_folder / "best.safetensors")[0], read(tmp_path / "frozen" / "last.safetensors")[0]
    changed = {name for name, p in before.items() if not np.array_equal(p, after[name])}
    assert changed == {name for name in before if name.startswith("score")}
    status, _, err = call(train, "--data", voc, *SMALL, "--trunk-rate", 0.1)
    assert status == 2 and "--trunk-rate is for layers that come trained from a file" in err


def test_skips_are_scaled_by_what_the_first_batch_measures(trunk, voc, call, tmp_path):
    """They are the inverse of the pooling layers' root mean squares, stay those of the stage before, and travel with weights."""
    file, _ = trunk
    options = ["--data", voc, "--size", "32", "--steps", 1, "--evaluations", 1, "--hidden", 16, "--skip-scales", "measured"]
    options += ["--init", file, "--preprocessing", "caffe"]
    status, out, err = call(train, *options, "--model", "fcn16s", "--out", tmp_path / "16s")
    assert status == 0, err
    scales = read_description(tmp_path / "16s" / "last.safetensors").scales
    net, _ = load_network(tmp_path / "16s")
    assert scales.keys() == {"score_pool4"} and net.skip_scales == scales and f"features times {scales['score_pool4']:.3g}" in out

    run = training.Run(read_config(tmp_path / "16s"), tmp_path / "again")
    run.start()
    pixels, _ = make_batch(run.train_set, run.config, 0)
    run.net.start(x := normalise(pixels, "caffe"), False)
    pool4 = run.net.backbone.forward(run.net, x, 1)[3]
    assert scales["score_pool4"] == pytest.approx(1 / np.sqrt(np.mean(pool4.astype(np.float64) ** 2)), rel=1e-5)

    assert call(train, "--model", "fcn8s", "--from", tmp_path / "16s", "--out", tmp_path / "8s")[0] == 0
    later = read_description(tmp_path / "8s" / "last.safetensors").scales
    assert later["score_pool4"] == scales["score_pool4"] and later.keys() == {"score_pool4", "score_pool3"}
    assert call(train, "--resume", tmp_path / "8s", "--steps", 2)[0] == 0
    assert read_description(tmp_path / "8s" / "last.safetensors").scales == later


def test_scales_come_with_the_scores_that_they_belong_to(trunk, voc, call, tmp_path):
    """Skips whose scores a file holds keep its scales, 1 where it has none; others are measured."""
    small = ["--data", voc, "--size", "32", "--steps", 1, "--evaluations", 1]
    options = ["--width", 0.03125, "--hidden", 16]
    assert call(train, *small, *options, "--model", "fcn16s", "--out", tmp_path / "16s")[0] == 0
    start = ["--init", tmp_path / "16s", "--model", "fcn8s", "--skip-scales", "measured"]
    assert call(train, *small, *start, "--out", tmp_path / "8s")[0] == 0
    scales = read_description(tmp_path / "8s" / "last.safetensors").scales
    assert scales["score_pool4"] == 1 and scales["score_pool3"] != 1

    more = tmp_path / "voc"
    shutil.copytree(voc, more)
    (more / "classes.txt").write_text((voc / "classes.txt").read_text() + "another\n")  # so that all scores are new
    assert call(train, *small, *start, "--data", more, "--out", tmp_path / "more")[0] == 0
    assert read_description(tmp_path / "more" / "last.safetensors").scales["score_pool4"] != 1


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


@pytest.mark.parametrize("model, rate", [("fcn32s", 1e-10), ("fcn16s", 1e-12), ("fcn8s", 1e-14)])
def test_a_recipe_fills_in_what_is_not_given(model, rate):
    config = train._config({}, {"recipe": "paper", "model": model, "width": 0.03125}, {})
    assert (config.lr, config.momentum, config.loss, config.batch_size, config.size) == (rate, 0.99, "sum", 1, None)
    assert config.width == 0.03125 and config.padding == "paper"
    assert train._config({}, {"recipe": "paper", "model": model, "lr": 1e-9}, {}).lr == 1e-9


def test_a_wide_file_is_fine_tuned_and_a_rate_that_destroys_it_is_warned_of(tmp_path):
    tensors = {name: p for name, p in published.draw(VGG16, 5, 0.5).items() if name.startswith("conv")}
    names = [name.removesuffix(".weight") for name in tensors if name.endswith(".weight")]
    np.savez(tmp_path / "wide.npz", **published.named(tensors, names))
    sizes = sizes_of(identify(tmp_path / "wide.npz"))
    config = train._config({}, {"init": str(tmp_path / "wide.npz")}, sizes)
    assert config.recipe == "finetune" and config.width == 0.5 and config.lr == RECIPES["finetune"]["lr"]
    assert train.risk(config) is None
    config = train._config({}, {"init": str(tmp_path / "wide.npz"), "recipe": "scratch"}, sizes)
    assert config.lr == 2e-3 and "known to destroy" in train.risk(config)
    assert train.risk(train._config({}, {}, {})) is None


def test_the_next_stage_takes_its_recipe_s_rate(call, voc, tmp_path):
    options = ["--data", voc, "--recipe", "paper", "--width", 0.03125, "--steps", 1, "--evaluations", 1]
    assert call(train, *options, "--model", "fcn32s", "--out", tmp_path / "32s")[0] == 0
    assert call(train, "--model", "fcn16s", "--from", tmp_path / "32s", "--out", tmp_path / "16s")[0] == 0
    config = json.loads((tmp_path / "16s" / "config.json").read_text())
    assert config["lr"] == 1e-12 and config["recipe"] == "paper" and config["width"] == 0.03125


def test_a_run_may_train_on_a_thread(voc, tmp_path):
    """Where no signal can be heard: a notebook's widget, a server."""
    config = Config(data=str(voc), width=1 / 64, size=(32, 32), steps=2, batch_size=2, evaluations=1)
    (tmp_path / "run").mkdir()
    run = training.Run(config, tmp_path / "run")
    run.start()
    run.write_settings()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run.train).result()
    assert run.step == 2 and run.paths.best.exists() and run.paths.predictions.exists()


def test_evaluate_gives_the_scores_that_training_gave(run_folder, call):
    status, out, err = call(evaluate, run_folder)
    assert status == 0, err
    trained, again = (
        json.loads(p.read_text()) for p in (run_folder / "metrics.json", run_folder / "evaluation-val/metrics.json")
    )
    assert again["iou"] == trained["iou"] and again["mean_iou"] == trained["mean_iou"]
    assert f"{again['mean_iou']:.3f}" in out and "triangle" in out
    assert {path.name for path in (run_folder / "evaluation-val").iterdir()} == {
        "metrics.json",
        "predictions.png",
        "confusion.png",
    }


def test_evaluate_a_file_on_other_data(run_folder, voc, call, tmp_path):
    arguments = [run_folder / "last.safetensors", "--data", voc, "--split", "train", "--subset", 2, "--out", tmp_path / "e"]
    assert call(evaluate, *arguments)[0] == 0
    assert json.loads((tmp_path / "e" / "metrics.json").read_text())["images"] == 2


def test_predict_photographs_of_any_mode_and_size(run_folder, call, tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    rgb.save(tmp_path / "rgb.jpg")
    rgb.convert("L").save(tmp_path / "grey.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "rotated.jpg", exif=exif)
    rgb.resize((1, 1)).save(tmp_path / "dot.png")
    rgb.resize((300, 41)).save(tmp_path / "wide.png")
    photographs = sorted(path for path in tmp_path.iterdir() if path.is_file())
    status, out, err = call(predict, run_folder, *photographs, "--max-side", 128, "--out", tmp_path / "out")
    assert status == 0, err
    sizes = {"rotated": (50, 70), "dot": (1, 1), "wide": (300, 41)}
    for path in photographs:
        label = Image.open(tmp_path / "out" / f"{path.stem}.png")
        assert label.mode == "P" and label.size == sizes.get(path.stem, (70, 50)), path
        assert np.asarray(label).max() < 7
        assert np.array_equal(np.asarray(label.convert("RGB")), palette()[np.asarray(label)])
        overlay = read_image(tmp_path / "out" / f"{path.stem}_overlay.png")
        background = np.asarray(label) == 0
        overlay = overlay[: label.height, : label.width]  # the legend is beside it
        assert np.array_equal(overlay[background], read_image(path)[background])
    assert "background" in out and "%" in out


def files(folder):
    """What is in a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def photograph(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize("there", ["photo.png", "photo_overlay.png"])
def test_predict_overwrites_nothing_unasked(run_folder, photograph, call, tmp_path, there):
    out = tmp_path / "out"
    out.mkdir()
    (out / there).write_text("mine")
    for run in (run_folder, tmp_path / "no run"):  # the files are looked for before the network is
        status, _, err = call(predict, run, photograph, "--out", out)
        assert status == 2 and err.splitlines() == [err.strip()] and str(out / there) in err and "--overwrite" in err
    assert files(out) == {there: b"mine"}
    status, _, err = call(predict, run_folder, photograph, "--out", out, "--overwrite")
    assert status == 0, err
    assert files(out).keys() == {"photo.png", "photo_overlay.png"} and b"mine" not in files(out).values()


@pytest.mark.parametrize("other", ["photo.png", "other/photo.jpg", "photo_overlay.jpg", "photo.jpg"])
def test_predictions_of_one_name_are_refused_in_any_case(run_folder, photograph, call, tmp_path, other):
    other = tmp_path / other
    other.parent.mkdir(exist_ok=True)
    Image.open(photograph).save(other)
    target = "photo_overlay.png" if "overlay" in other.name else "photo.png"
    for options in [], ["--overwrite"]:
        status, _, err = call(predict, run_folder, photograph, other, "--out", tmp_path / "out", *options)
        assert status == 2 and f"2 predictions would be written to {tmp_path / 'out' / target}" in err
    assert not (tmp_path / "out").exists()


def test_predict_carries_on_past_what_it_cannot_read_and_lists_it(run_folder, photograph, call, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    wrong = [tmp_path / "text.jpg", tmp_path / "none[1].jpg", tmp_path / "*.webp"]
    status, out, err = call(predict, run_folder, *wrong[:2], photograph, wrong[2], "--out", tmp_path / "out")
    said = [line for line in err.splitlines() if "error: " in line]
    assert status == 1 and "1 label image(s), 1 overlay(s)" in out and len(said) == 4
    assert "not JPEG" in said[0] and all("no such image" in line for line in said[1:3])
    assert err.splitlines()[-4:] == [
        "error: 3 of 4 pictures cannot be read, and are not labelled:",
        *(f"  {path}" for path in wrong),
    ]
    assert files(tmp_path / "out").keys() == {"photo.png", "photo_overlay.png"}
    status, out, err = call(predict, run_folder, *wrong, "--out", tmp_path / "none")
    assert (
        status == 2
        and out == ""
        and err.splitlines()[-1] == "error: none of the 3 pictures can be read"
        and not (tmp_path / "none").exists()
    )


def test_predict_takes_files_folders_and_patterns(run_folder, photograph, call, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in "b.jpg", "a.PNG", "a[1].jpg", "a1.jpg", "._b.jpg", "below/c.jpg", "note.txt":
        shutil.copy(photograph, folder / name)
    monkeypatch.chdir(folder)
    for given, names in {
        (".",): ["a", "a1", "a[1]", "b"],
        ("*.jpg",): ["a1", "a[1]", "b"],
        ("a[1].jpg",): ["a[1]"],  # which as a pattern would be a1.jpg
        ("[b-z].jpg", "below"): ["b", "c"],
        ("**/?.jpg",): ["b", "c"],
    }.items():
        assert [path.stem for path in named_images(given)] == sorted(names)
    status, out, err = call(predict, run_folder, "*.jpg", "below", "--only-labels", "--out", tmp_path / "out")
    assert status == 0 and "4 label image(s); share" in out, err
    assert files(tmp_path / "out").keys() == {"a1.png", "a[1].png", "b.png", "c.png"}
    status, _, err = call(predict, run_folder, ".", "below/c.jpg", "--only-overlay", "--out", tmp_path / "overlays")
    assert status == 0 and files(tmp_path / "overlays").keys() == {f"{x}_overlay.png" for x in ("a", "a1", "a[1]", "b", "c")}
    (tmp_path / "empty").mkdir()
    status, _, err = call(predict, run_folder, photograph, tmp_path / "empty", "--out", tmp_path / "nothing")
    assert status == 2 and "empty has no pictures (.jpg," in err and err.count("\n") == 1 and not (tmp_path / "nothing").exists()


def test_probabilities_are_those_of_the_labels(run_folder, photograph, call, tmp_path):
    trained = load(run_folder, "cpu")
    for options in [], ["--max-side", 32]:
        out = tmp_path / f"out{len(options)}"
        status, told, err = call(predict, run_folder, photograph, "--probabilities", *options, "--out", out)
        assert status == 0 and "1 file(s) of probabilities" in told, err
        with np.load(out / "photo_probabilities.npz") as file:
            found, names = file["probabilities"], file["classes"].tolist()
        label = np.asarray(Image.open(out / "photo.png"))
        assert found.shape == (7, 40, 60) and found.dtype == np.float16 and names == trained.classes
        np.testing.assert_allclose(found.astype(float).sum(axis=0), 1, atol=2e-3)
        chosen = np.take_along_axis(found, label[None].astype(int), 0)[0]
        assert (chosen >= found.max(axis=0) - np.float16(1e-3)).all()
        np.testing.assert_allclose(found, trained._replace(max_side=32 if options else None).probabilities(photograph), atol=1e-3)


def test_labels_and_overlays_have_the_colours_of_the_label_map(voc, photograph, call, tmp_path):
    root = shutil.copytree(voc, tmp_path / "mine")
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").unlink()
    own = [(0, 0, 0), *((10 * k, 200 - k, 99) for k in range(1, len(names)))]
    lines = [f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in zip(names, own, strict=True)]
    (root / "labelmap.txt").write_text("".join(lines))
    status, _, err = call(train, "--data", root, *SMALL, "--steps", 2, "--out", tmp_path / "run")
    assert status == 0 and read_description(tmp_path / "run/best.safetensors").colours == tuple(map(list, own)), err
    tensors, about = read(tmp_path / "run/best.safetensors")
    tensors["score_fr.bias"] += np.eye(7, dtype=np.float32)[3] * 1e6  # so that all is class 3
    write(tmp_path / "threes.safetensors", tensors, about)
    assert call(predict, tmp_path / "threes.safetensors", photograph, "--out", tmp_path / "out")[0] == 0
    assert (np.asarray(Image.open(tmp_path / "out/photo.png").convert("RGB")) == own[3]).all()
    overlay, picture = read_image(tmp_path / "out/photo_overlay.png"), read_image(photograph)
    np.testing.assert_allclose(overlay[:40, :60], picture + 0.55 * (np.array(own[3]) - picture), atol=0.51)
    legend = overlay[:, 60:]
    assert (legend == own[3]).all(axis=-1).sum() > 50 and not (legend == own[2]).all(axis=-1).any()


def test_evaluate_writes_over_the_same_evaluation_alone(run_folder, call, tmp_path):
    def refused(file, *options):
        before = files(file.parent)
        status, _, err = call(evaluate, run_folder, *options)
        assert status == 2 and err.count("\n") == 1 and str(file) in err and "--overwrite" in err
        assert files(file.parent) == before

    refused(run_folder / "metrics.json", "--out", run_folder)  # the run's own
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "predictions.png").write_text("mine")
    refused(tmp_path / "pictures" / "predictions.png", "--out", tmp_path / "pictures")

    assert call(evaluate, run_folder)[0] == 0
    scores = run_folder / "evaluation-val" / "metrics.json"
    before = files(scores.parent)
    assert call(evaluate, run_folder)[0] == 0  # the same once more
    assert files(scores.parent) == before
    refused(scores, "--subset", 2)
    refused(scores, "--zoom", 2, "--out", scores.parent)
    assert call(evaluate, run_folder, "--subset", 2, "--overwrite")[0] == 0
    assert json.loads(scores.read_text())["images"] == 2
    refused(scores)


def test_convert_overwrites_nothing_unasked(run_folder, call, tmp_path):
    out = tmp_path / "out.npz"
    out.write_text("mine")
    status, _, err = call(convert, run_folder, out)
    assert status == 2 and err.count("\n") == 1 and str(out) in err and "--overwrite" in err and out.read_text() == "mine"
    assert call(convert, run_folder, out, "--overwrite")[0] == 0
    assert read(out)[0].keys() == read(run_folder / "best.safetensors")[0].keys()
    before = files(run_folder)
    (tmp_path / "link.safetensors").symlink_to(run_folder / "best.safetensors")
    for same in run_folder / "best.safetensors", tmp_path / "link.safetensors":
        for options in [], ["--overwrite"]:
            status, _, err = call(convert, run_folder, same, *options)
            assert status == 2 and f"{same} is the source itself" in err
    assert files(run_folder) == before


def test_each_command_that_reads_pictures_has_a_limit(run_folder, voc, photograph, call, tmp_path):
    assert call(train, "--data", voc, *SMALL, "--steps", 2, "--max-pixels", 100_000, "--out", tmp_path / "enough")[0] == 0
    assert "max_pixels" not in (tmp_path / "enough" / "config.json").read_text()
    for module, *arguments in (
        (train, "--data", voc, *SMALL, "--steps", 2, "--out", tmp_path / "less"),
        (train, "--resume", run_folder, "--steps", 6),
        (evaluate, run_folder),
        (predict, run_folder, photograph, "--out", tmp_path / "out"),
    ):
        status, _, err = call(module, *arguments, "--max-pixels", 2399)
        line = err.splitlines()[-1]
        assert status == 2 and re.search(r"\.(jpg|png) has \d+x\d+ pixels, .* 2,399 are read .* --max-pixels \d+$", line)
    assert call(predict, run_folder, photograph, "--out", tmp_path / "out", "--max-pixels", 2400)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_do_nothing_to_the_terminal(voc, photograph, call, tmp_path):
    """Neither those of classes, in a folder and in a checkpoint, nor those of files."""
    escape = "\x1b[31m"
    root = tmp_path / f"voc{escape}"
    shutil.copytree(voc, root)
    names = (root / "classes.txt").read_text().splitlines()
    (root / "classes.txt").write_text("".join(f"{name}{escape}\tx\n" for name in names))
    run = tmp_path / f"run{escape}"
    status, out, err = call(train, "--data", root, *SMALL, "--steps", 2, "--out", run)
    assert status == 0 and "\x1b[31m" not in json.dumps(json.loads((run / "metrics.json").read_text())["iou"], ensure_ascii=False)
    tensors, description = read(run / "best.safetensors")
    write(run / "best.safetensors", tensors, replace(description, classes=tuple(f"{name}{escape}\tx" for name in names)))
    picture = photograph.rename(tmp_path / f"photo{escape}.jpg")
    for module, *arguments in (
        (evaluate, run),
        (predict, run, picture, "--out", tmp_path / f"out{escape}"),
        (predict, run, picture, "--out", tmp_path / f"out{escape}"),  # refused
        (convert, run, tmp_path / f"out{escape}.npz"),
    ):
        status, out, err = call(module, *arguments)
        assert " [31m" in out + err and escape not in out + err
        assert status == (2 if "there already" in err else 0), err


def test_a_terminal_that_cannot_show_a_name_does_not_end_a_command(run_folder, photograph, tmp_path):
    picture = photograph.rename(tmp_path / "Größe 中.jpg")
    out = tmp_path / "größer"
    tensors, about = read(run_folder / "best.safetensors")
    about = replace(about, classes=tuple(f"{name} 猫 γάτα" for name in about.classes))
    write(run_folder / "best.safetensors", tensors, about)
    env = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[1]), "PYTHONIOENCODING": "cp1252", "LC_ALL": "C"}
    arguments = [sys.executable, "-m", "tinyfcn.predict", run_folder, picture, tmp_path / "無.jpg", "--out", out]
    done = subprocess.run(arguments, env=env, capture_output=True)
    said, complained = (text.decode("cp1252") for text in (done.stdout, done.stderr))
    assert done.returncode == 1 and "größer: 1 label image(s)" in said and r" \u732b \u03b3" in said, complained
    assert r"\u7121.jpg; check the path" in complained and "Traceback" not in complained
    assert {path.name for path in out.iterdir()} == {"Größe 中.png", "Größe 中_overlay.png"}
    done = subprocess.run(arguments, env=env, capture_output=True)
    assert done.returncode == 2 and r"Größe \u4e2d.png is there already" in done.stderr.decode("cp1252")


def test_a_large_photograph_takes_few_bytes_a_pixel(run_folder, call, tmp_path):
    """Of what NumPy allocates, that is; 42 a pixel where an overlay was made in one go."""
    Image.new("RGB", (3000, 2000), (200, 100, 50)).save(tmp_path / "photo.jpg")
    trained = load(run_folder, "cpu")._replace(max_side=64)
    targets = {"labels": tmp_path / "photo.png", "overlay": tmp_path / "photo_overlay.png"}
    tracemalloc.start()
    try:
        assert predict._label(trained, tmp_path / "photo.jpg", targets).sum() == 6_000_000
        assert tracemalloc.get_traced_memory()[1] < 10 * 6_000_000
    finally:
        tracemalloc.stop()


def test_the_command_line_itself(tmp_path):
    """In a process of its own: exit status 2, one line on stderr, no traceback."""
    env = os.environ | {"PYTHONPATH": str(Path(training.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "tinyfcn.train", "--data", "nowhere"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no such folder: nowhere") and done.stderr.count("\n") == 1


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


# Labels as people have them


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


READ = ["--images", "img", "--labels", "masks", "--label-suffix", "_m", "--val-share", "0.4"]


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
