"""tinyfcn.initial: what a run takes over from a file or from another run, at which rate it learns, and what is refused."""

import shutil

import numpy as np
import pytest
from small import SMALL

from tinyfcn import train, training
from tinyfcn.data import normalise
from tinyfcn.data.loader import make_batch
from tinyfcn.inference import load_network
from tinyfcn.run import Config, read_config
from tinyfcn.weights import read, read_description

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_initial_weights_from_a_file(run_folder, voc, call, tmp_path):
    status, out, _ = call(
        train, "--data", voc, *SMALL, "--steps", 2, "--init", run_folder / "best.safetensors", "--out", tmp_path / "b"
    )
    assert status == 0 and "parameters loaded" in out and "random" not in out


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
