"""Values that people edit: each kind of slip, in each file of a run and on the command line, is one line that names it."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from networks import describe
from safetensors.numpy import load_file

from tinyfcn import evaluate, inference, predict, train, values
from tinyfcn.data import Shapes, VOCSegmentation, write_voc
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.inference import load_network
from tinyfcn.models import VGG16, FCN8s, FCN32s
from tinyfcn.report import COLUMNS, Metrics, read_log
from tinyfcn.run import Config, read_config
from tinyfcn.weights import read, read_description

SMALL = ["--width", 1 / 64, "--size", 32, "--batch-size", 2, "--steps", 2, "--evaluations", 1]
pytestmark = pytest.mark.usefixtures("quick_pictures")

HUGE = int("9" * 401)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    write_voc(Shapes("train", 3), root, "train")
    write_voc(Shapes("val", 1), root, "val")
    return root


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b"a picture"))


@pytest.fixture(scope="module")
def runs():
    return []


@pytest.fixture
def run(call, voc, tmp_path, tmp_path_factory, runs):
    """The folder of a run that has done its two steps: a copy, to be edited."""
    if not runs:
        folder = tmp_path_factory.mktemp("runs") / "run"
        status, _, err = call(train, "--data", voc, *SMALL, "--out", folder)
        assert status == 0, err
        runs.append(folder)
    return shutil.copytree(runs[0], tmp_path / "run")


def told(result):
    """The one line in which a command refused its input."""
    status, _, err = result
    lines = err.replace("\r", "\n").strip().splitlines()
    assert status == 2 and lines[-1].startswith("error: ") and "Traceback" not in err, err
    return lines[-1]


# Every field of every record

RECORDS = {
    Config: {},
    Description: {"model": "FCN8s", "num_classes": 3, "width": 0.5},
    Metrics: dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"), 0.5)
    | {"iou": {"a": None, "b": 0.5}}
    | {"constant_baseline": dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou"), 0.1)},
}
NOWHERE = [HUGE, -HUGE, -2, math.nan, math.inf, -math.inf, [], [[]], {"": ""}, ["x"], "", "\0", "\ud800", b"x", object()]
# What a field of another kind may hold, and one of this kind may not: true is no 1, and "1" is none.
OTHERS = {bool: [0, 1, "true", None], int: [True, False, 1.0, "1", None], float: [True, False, "1", None], str: [1, True, None]}
ALLOWED = {"evaluated": ({"": ""},), "trained": ([], ["x"])} | dict.fromkeys(
    ("init", "from_run", "command", "machine", "images", "labels", "label_suffix"), ("nope",)
)


def test_no_field_takes_a_value_of_another_kind():
    count = 0
    for record, given in RECORDS.items():
        for name, value in vars(record(**given)).items():
            for wrong in NOWHERE + OTHERS.get(type(value), [True, 1j, "nope"]):
                if wrong in ALLOWED.get(name, ()):
                    continue
                with pytest.raises(InputError, match=f"^{name} must be ") as caught:
                    record(**given | {name: wrong})
                assert str(caught.value).isprintable() and len(str(caught.value)) < 300, (name, wrong)
                count += 1
    assert count > 900


def test_every_default_is_of_its_kind_and_comes_back_from_json():
    for record, given in RECORDS.items():
        whole = record(**given)
        assert values.from_json(record, json.loads(json.dumps(values.to_json(whole))), "file") == whole


@pytest.mark.parametrize(
    "change, words",
    [
        ({"classes": ("a", "b")}, "classes must be num_classes, 3, names, got 2"),
        ({"classes": tuple("abcd")}, "classes must be num_classes, 3, names, got 4"),
        ({"classes": ("a", "b", "a")}, "classes must be names, none of them twice"),
        ({"classes": ("a", "b", 3)}, "classes must be names"),
        ({"classes": ("a", "b", "")}, "classes must be names"),
        ({"colours": [[0, 0, 0]] * 2}, "colours must be num_classes, 3, colours, got 2"),
        ({"colours": [[0, 0, 256]] * 3}, "colours must be colours, each of three whole numbers from 0 to 255, or null, got "),
        ({"width": 1e308}, r"width must be a number, more than 0 and at most 4, got 1e\+308"),
        ({"preprocessing": ["x"]}, r"preprocessing must be one of caffe, torchvision, vgg, or null, got \['x'\]"),
        ({"scales": {"score_pool4": 0}}, "scales must be a table"),
        ({"losses": (1.0, 1.5)}, "losses must be a sum and a whole number"),
        ({"losses": (math.nan, 1)}, "losses must be a sum"),
        ({"best": 1.1}, "best must be a number, at least -1 and at most 1, or null, got 1.1"),
        ({"padding": "same"}, "padding and learn_upsampling belong together"),
        ({"padding": "same", "learn_upsampling": "none", "num_classes": 256}, "num_classes must be at most 255 .*, got 256"),
    ],
)
def test_a_description_says_what_can_be(change, words):
    with pytest.raises(InputError, match=words):
        replace(Description("FCN8s", 3, 0.5), **change)


# Files of a run

CONFIG = [
    ("", "not a JSON file"),
    ("{", "not a JSON file"),
    ("[1]", "not a JSON object"),
    ("null", "not a JSON object"),
    ("[" * 100_000, "not a JSON file"),
    ('{"lr": NaN}', "NaN is no number"),
    ('{"lr": 1, "lr": 2}', "a name is there twice"),
    ('{"lr": ' + "9" * 5000 + "}", "not a JSON file"),
    (b"\xfe\xfa{}", "as text"),
    ("{}", "has no data, which must be text"),
    ({"lr": None}, "lr must be a number, more than 0 and at most 1e+06, got None"),
    ({"lr": HUGE}, "lr must be"),
    ({"lr": 1e999}, "Infinity is no number"),
    ({"learning_rate": 1}, "has 'learning_rate', which is none of its fields"),
    ({"steps": 1.5}, "steps must be a whole number from 1 to 1,000,000, got 1.5"),
    ({"steps": True}, "steps must be"),
    ({"size": [32]}, "size must be two of"),
    ({"size": "32"}, "size must be two of"),
    ({"scale": [2, 1]}, "give the smaller factor first"),
    ({"model": "nope"}, "model must be one of fcn32s"),
    ({"model": ["fcn8s"]}, "model must be one of"),
    ({"data": "a\0b"}, "data must be text"),
    ({"width": 1e300}, "width must be"),
    ({"width": 0.03125}, "its width is 0.015625; by config.json and the data it must be 0.03125"),
    ({"padding": "paper"}, "its padding is same; by config.json"),
    ({"optimiser": "sgd"}, "it is none of SGD's moments"),
    ({"steps": 1}, "2 steps are done already"),
    ({"subset": 4}, "a subset of 4 is not possible"),
]


def test_a_config_that_was_edited_is_one_line(run, call):
    path = run / "config.json"
    before = json.loads(path.read_text())
    for change, words in CONFIG:
        text = json.dumps(before | change) if isinstance(change, dict) else change
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        line = told(call(train, "--resume", run))
        assert (words in line and str(run) in line) or "a subset of" in line, line
    for name in before:
        path.write_text(json.dumps({other: value for other, value in before.items() if other != name}))
        with pytest.raises(InputError, match=rf"config.json: has no {name}, which must be "):
            read_config(run)
    path.unlink()
    assert "it has no config.json" in told(call(train, "--resume", run))
    path.mkdir()
    assert "config.json is a folder" in told(call(evaluate, run))


def test_a_checkpoint_that_was_edited_is_one_line(run, call):
    path = run / "last.safetensors"
    tensors, before = load_file(path), read_description(path).to_metadata()
    moment = "optimiser.conv1_1.weight.v"
    for change, words in [
        ({"step": 3}, "3 steps are done already"),
        ({"step": None}, "it has no step"),
        ({"step": "2"}, "step must be a whole number from 0"),
        ({"best": 2}, "best must be a number"),
        ({"best": None}, "no best score"),
        ({"losses": [1, 2, 3]}, "losses must be"),
        ({"seconds": -1}, "seconds must be"),
        ({"model": "FCN32s"}, "its model is FCN32s; by config.json"),
        ({"num_classes": 6, "classes": None}, "its num_classes is 6; by config.json and the data it must be 7"),
        ({"x" * 500: 1}, "which is none of its fields"),
    ]:
        describe(path, tensors, before | change)
        line = told(call(train, "--resume", run, "--steps", 2))
        assert words in line and str(path) in line, line
    for name, wrong, words in [
        (moment, np.zeros(5, np.float32), r"float32 (5,), must be float32 (1, 3, 3, 3)"),
        (moment, tensors[moment].astype(np.float64), "float64 (1, 3, 3, 3), must be float32"),
        (moment, tensors[moment] * np.nan, "it holds numbers that no moment can have"),
        (moment, -1 - tensors[moment], "it holds numbers that no moment can have"),
        ("optimiser.conv9_9.weight.v", tensors[moment], "it is none of Adam's moments of what is learned"),
        ("fc6.weight", tensors["fc6.weight"].astype(np.int32), "fc6.weight has the type int32"),
        ("fc6.weight", tensors["fc6.weight"] * np.inf, "fc6.weight holds values that are infinite or NaN"),
    ]:
        describe(path, tensors | {name: wrong}, before)
        line = told(call(train, "--resume", run, "--steps", 3))
        assert words in line and str(path) in line, line


def test_moments_that_are_missing_are_told_of(run, call):
    path = run / "last.safetensors"
    tensors, before = load_file(path), read_description(path).to_metadata()
    describe(path, {name: t for name, t in tensors.items() if name != "optimiser.fc6.bias.m"}, before)
    status, out, err = call(train, "--resume", run, "--steps", 3)
    assert status == 0, err
    assert f"{path} lacks 1 of the optimiser's moments, such as fc6.bias.m: they start at zero" in out
    assert "lacks" not in call(train, "--resume", run, "--steps", 4)[1]


def test_the_checkpoint_of_a_file_is_checked_by_all_commands(run, call, voc, tmp_path):
    path = run / "best.safetensors"
    tensors, before = load_file(path), read_description(path).to_metadata()
    for change, words in [
        ({"model": "nope"}, "holds 'nope', which is no network of this package"),
        ({"model": "FCN32s"}, "scales" if before.get("scales") else "does not belong to the FCN32s"),
        ({"padding": None, "learn_upsampling": None}, "has no padding"),
        ({"scales": {"score_pool9": 1}}, "scales names 'score_pool9'"),
        ({"classes": ["a"] * 7}, "classes must be names, none of them twice"),
        ({"num_classes": 300, "classes": None}, "num_classes must be at most 255"),
        ({"preprocessing": None}, "does not say how its images are prepared"),
        ({"zoom": 0}, "zoom must be"),
    ]:
        describe(path, tensors, before | change)
        for module, *arguments in (
            (evaluate, run),
            (predict, path, voc / "JPEGImages" / "shapes_val_00000.png", "--out", tmp_path / "out"),
            (train, "--data", voc, *SMALL, "--init", path, "--out", tmp_path / "next"),
        ):
            if not (module is train and "zoom" in change):
                line = told(call(module, *arguments))
                assert words in line and str(path) in line, line
    assert not (tmp_path / "out").exists() and not (tmp_path / "next").exists()


def test_a_log_that_was_edited_is_one_line(tmp_path):
    log, head, row = tmp_path / "log.csv", ",".join(COLUMNS), "1,0.1,2.5,3,,,,,"
    for text, words in [
        (f"{row}\n", "the columns must be step,lr,loss"),
        ("lr,step,loss\n", "the columns must be"),
        (f"{head},x\n", "the columns must be"),
        (f"{head}\n{row}\n2,0.1,nan,3,,,,,\n", "line 3: loss must be a number"),
        (f"{head}\n{row}\n2,inf,1,3,,,,,\n", "line 3: lr must be"),
        (f"{head}\n{row}\n1,0.1,1,3,,,,,\n", "line 3: step must be more than 1, as in the line before, got 1"),
        (f"{head}\n{row}\n2.5,0.1,1,3,,,,,\n", "line 3: step must be a whole number"),
        (f"{head}\n{row}\n2,0.1,1,3\n", "line 3: must have 9 values, got 4"),
        (f"{head}\n{row}\n2,0.1,,3,,,,,\n", "line 3: loss must be"),
        (f"{head}\n2,0.1,1,3,2,,,,\n", "line 2: pixel_accuracy must be a number, at least 0 and at most 1, got 2"),
        (f"{head}\n{'9' * 401},0.1,1,3,,,,,\n", "line 2: step must be"),
        (f"{head}\n{'9' * 200_000}\n", "line 2: must have 9 values"),
        (b"\xfe\xfa", "as text"),
    ]:
        log.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError) as caught:
            read_log(log)
        assert str(log) in str(caught.value) and words in str(caught.value) and len(str(caught.value)) < 400
    log.write_text(f"{head}\r\n\r\n{row}\r\n2,0.1,\0\0\0\n3,0.1,1")  # what a crash leaves is no one's slip
    assert read_log(log) == [dict(zip(COLUMNS, (1, 0.1, 2.5, 3, None, None, None, None, None), strict=True))]


def test_metrics_that_were_edited_are_one_line(run, call):
    path = run / "metrics.json"
    before = json.loads(path.read_text())
    (run / "predictions.png").unlink()  # so that there is something to do
    for change, words in [
        ({"mean_iou": 2}, "mean_iou must be a number, at least 0 and at most 1, got 2"),
        ({"iou": {"a": "b"}}, "iou must be"),
        ({"constant_baseline": {}}, "constant_baseline must be a table of pixel_accuracy"),
        ({"step": -1}, "step must be"),
    ]:
        path.write_text(json.dumps(before | change))
        line = told(call(train, "--resume", run))
        assert words in line and str(path) in line, line
        (run / "predictions.png").unlink()


# The command line

LIMITS = [
    ("--batch-size", "1e12", "a whole number from 1 to 4,096"),
    ("--batch-size", 10**12, "a whole number from 1 to 4,096"),
    ("--steps", HUGE, "a whole number from 1 to 1,000,000"),
    ("--steps", "9" * 5000, "a whole number from 1 to 1,000,000"),
    ("--epochs", 1e300, "a number, more than 0 and at most"),
    ("--evaluations", 10**9, "a whole number from 1 to 10,000"),
    ("--subset", 10**9, "a whole number from 1 to 1,000,000"),
    ("--subset-seed", 2**32, "a whole number from 0 to 4,294,967,295"),
    ("--seed", -1, "a whole number from 0 to 4,294,967,295"),
    ("--width", 1e300, "a number, more than 0 and at most 4"),
    ("--width", "nan", "a number, more than 0 and at most 4"),
    ("--hidden", 10**9, "a whole number from 1 to 16,384"),
    ("--size", 10**9, "a whole number from 1 to 20,000"),
    ("--size", f"32x{HUGE}", "a whole number from 1 to 20,000"),
    ("--size", "0", "a whole number from 1 to 20,000"),
    ("--zoom", 1e9, "a number, more than 0 and at most 16"),
    ("--max-side", 10**9, "a whole number from 1 to 20,000"),
    ("--max-pixels", 10**20, "a whole number from 1 to 2,147,483,647"),
    ("--lr", 1e300, "a number, more than 0 and at most"),
    ("--trunk-rate", 1e9, "a number, at least 0 and at most 1,000"),
    ("--momentum", 1, "a number, at least 0 and less than 1"),
    ("--weight-decay", 1e9, "a number, at least 0 and at most 1,000"),
    ("--checkpoint-minutes", "inf", "a number, more than 0 and at most 100,000"),
]


@pytest.mark.parametrize("option, value, expected", LIMITS, ids=lambda value: str(value)[:20])
def test_an_option_beyond_its_limit_names_the_limit(call, tmp_path, monkeypatch, option, value, expected):
    monkeypatch.chdir(tmp_path)
    line = told(call(train, option, value))
    assert f"{option}: must be {expected}" in line and len(line) < 200 and not list(tmp_path.iterdir())


def test_two_options_beyond_their_limits(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--scale: must be a number, more than 0 and at most 16, got 1e9" in told(call(train, "--scale", "1e9", "1e9"))
    assert "steps must be a whole number from 1 to 1,000,000, got 120000000" in told(call(train, "--epochs", 1e6))
    assert not list(tmp_path.iterdir())


# Classes


def test_as_many_classes_as_bytes_can_tell_apart(voc, tmp_path):
    for kind in FCN8s, FCN32s:
        with pytest.raises(InputError, match=r"num_classes must be at most 255 where pixels are labelled, got 256"):
            kind(256, 1 / 64)
    assert VGG16(300, 1 / 64).num_classes == 300  # a classifier labels no pixels
    write_voc(Shapes("train", 1), tmp_path / "voc", "train")
    path = tmp_path / "voc" / "classes.txt"
    for names, words in [
        ([], "names 0 classes; give 1 to 255"),
        ([f"c{k}" for k in range(256)], "names 256 classes; give 1 to 255"),
        (["a", "b", "a", "c"], "has the class a 2 times"),
    ]:
        path.write_text("\n".join(names))
        with pytest.raises(InputError, match=words):
            VOCSegmentation(tmp_path / "voc", "train")
    dataset = Shapes("train", 1)
    dataset.classes = tuple(f"c{k}" for k in range(300))
    with pytest.raises(InputError, match=r"dataset\.classes names 300 classes"):
        write_voc(dataset, tmp_path / "other", "train")


# What has changed since a run began


def test_resume_says_what_has_changed(call, tmp_path):
    root, run = tmp_path / "voc", tmp_path / "run"
    write_voc(Shapes("train", 3), root, "train")
    write_voc(Shapes("val", 1), root, "val")
    assert call(train, "--data", root, *SMALL, "--out", run)[0] == 0
    assert "changed since" not in call(train, "--resume", run, "--steps", 3)[1]

    ids = root / "ImageSets" / "Segmentation" / "train.txt"
    ids.write_text("\n".join(ids.read_text().split()[::-1]))
    status, out, err = call(train, "--resume", run, "--steps", 4)
    assert status == 0 and "changed since this run began: images to train on" in out, err
    classes = root / "classes.txt"
    classes.write_text(classes.read_text().replace("triangle", "trigon"))
    picture = root / "JPEGImages" / "shapes_val_00000.png"
    picture.write_bytes(picture.read_bytes() + b"more")
    out = call(train, "--resume", run, "--steps", 5)[1]
    assert "changed since this run began: names of classes, images to train on, sizes of files" in out

    classes.write_text(classes.read_text() + "another\n")
    assert "its num_classes is 7; by config.json and the data it must be 8" in told(call(train, "--resume", run, "--steps", 6))


def test_a_checkpoint_written_and_read_is_the_same(run):
    tensors, description = read(run / "last.safetensors")
    assert (
        description.step == 2
        and description.losses == (0.0, 0)
        and set(description.data)
        == {
            "names of classes",
            "images to train on",
            "images to evaluate on",
            "sizes of files",
        }
    )
    assert load_network(run)[1].data is None  # the best checkpoint is for others
    assert description.classes == Shapes.classes and any(name.startswith("optimiser.") for name in tensors)


def test_a_set_without_a_labelled_pixel_is_one_line(run, call, tmp_path):
    class Ignored(Shapes):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image, np.full_like(label, 255)

    write_voc(Ignored("val", 1), tmp_path / "voc", "val")
    line = told(call(evaluate, run, "--data", tmp_path / "voc"))
    assert "no pixel is labelled in the 1 images of" in line
    with pytest.raises(InputError, match="shapes_val_00000 and all other images to evaluate on have no labelled pixel"):
        inference.evaluate(load_network(run)[0], Ignored("val", 1))
