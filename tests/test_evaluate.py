"""tinyfcn.evaluate, as a user calls it."""

import json

import pytest
from small import files

from tinyfcn import evaluate

pytestmark = pytest.mark.usefixtures("quick_pictures")


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
