"""Work is not lost: a run that is killed, stopped, torn or broken goes on from where it was, and one line says what happened."""

import csv
import os
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from tinyfcn import evaluate, files, predict, train, training, weights
from tinyfcn.data import Shapes, write_voc
from tinyfcn.errors import InputError
from tinyfcn.inference import load_network
from tinyfcn.report import COLUMNS, read_log
from tinyfcn.weights import read, read_description

OPTIONS = ["--width", "0.015625", "--size", "32", "--batch-size", "2", "--steps", "4", "--evaluations", "2", "--dropout", "0.5"]


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    root = tmp_path_factory.mktemp("voc")
    write_voc(Shapes("train", 5), root, "train")
    write_voc(Shapes("val", 2), root, "val")
    return root


@pytest.fixture
def start(call, voc, tmp_path):
    """Start a run; returns its folder and what the command gave."""

    def run(name="run", *more):
        return tmp_path / name, call(train, "--data", voc, *OPTIONS, "--out", tmp_path / name, *more)

    return run


@pytest.fixture
def whole(start):
    folder, (status, _, err) = start("whole")
    assert status == 0, err
    return folder


def same(folder, other):
    """Two runs ended alike: parameters and moments to the bit, and rows of the log that say the same."""
    ours, theirs = read(folder / "last.safetensors"), read(other / "last.safetensors")
    assert replace(ours[1], seconds=0) == replace(theirs[1], seconds=0)
    assert ours[0].keys() == theirs[0].keys()
    for name, tensor in ours[0].items():
        np.testing.assert_array_equal(tensor, theirs[0][name], err_msg=name)
    rows = [[{**row, "images_per_s": ""} for row in read_log(run / "log.csv")] for run in (folder, other)]
    assert rows[0] == rows[1]


# Kills


def test_a_kill_at_any_file_event_loses_nothing(start, call, monkeypatch):
    """Each event at which a file is made, filled, forced, replaced or removed, one after the other."""
    state = {"left": None, "dead": False}
    short = "--steps", "2", "--evaluations", "1"
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).write_bytes(b"a picture"))  # faster

    def killing(function):
        def event(*arguments, **options):
            if state["dead"]:
                raise Killed  # what is cleaned up on the way out is not: a dead process cleans nothing up
            if state["left"] is not None:
                state["left"] -= 1
                state["dead"] = state["left"] < 0
                if state["dead"]:
                    raise Killed
            return function(*arguments, **options)

        return event

    whole, _ = start("whole", *short)
    for module, name in [
        (os, "replace"),
        (os, "fsync"),
        (os, "unlink"),
        (os, "mkdir"),
        (tempfile, "mkstemp"),
        (Path, "unlink"),
        (Path, "open"),
        (Path, "write_text"),
        (Path, "write_bytes"),
    ]:
        monkeypatch.setattr(module, name, killing(getattr(module, name)))
    for n in range(1000):
        state.update(left=n, dead=False)
        try:
            folder, (status, _, err) = start(f"run-{n}", *short)
            assert status == 0, err
            break
        except Killed:
            pass
        state.update(left=None, dead=False)
        if (folder := whole.parent / f"run-{n}") and (folder / "last.safetensors").exists():
            status, _, err = call(train, "--resume", folder)
            assert status == 0 or "has done its 2 steps" in err, (n, err)
        else:
            folder, (status, _, err) = start(f"run-{n}", *short)
            assert status == 0, (n, err)
        same(folder, whole)
        left = {path.name for path in folder.iterdir()} - {path.name for path in whole.iterdir()}
        assert not left, (n, left)
    assert 30 < n < 999


def test_a_log_that_is_torn_is_mended(whole, call, start):
    log = whole / "log.csv"
    text = log.read_text()
    for damage in text[:-20] + "\0" * 100, "\0" * 50, text + "9,0.1":
        log.write_text(damage)
        assert call(train, "--resume", whole, "--steps", 6)[0] == 0
        with log.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[-1]["step"] == "6" and all(tuple(row) == tuple(COLUMNS) for row in rows)
        whole, _ = start(f"again-{len(damage)}-{hash(damage) % 1000}")
        log = whole / "log.csv"


def test_a_missing_or_old_picture_is_drawn_again(whole, call):
    assert call(train, "--resume", whole)[0] == 2
    (whole / "predictions.png").unlink()
    assert call(train, "--resume", whole)[0] == 0 and (whole / "predictions.png").stat().st_size > 0
    os.utime(whole / "curves.png", (0, 0))
    assert call(train, "--resume", whole)[0] == 0
    assert "has done its 4 steps" in call(train, "--resume", whole)[2]


# Signals and errors


@pytest.fixture
def with_handler():
    """Handle a signal so until the test has ended."""
    before = {}

    def handle(number, handler):
        before[number] = signal.signal(number, handler)

    yield handle
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_run_under_nohup_goes_on_without_its_terminal(start, monkeypatch, with_handler):
    def hung_up(*arguments):
        signal.raise_signal(signal.SIGHUP)
        return true_step(*arguments)

    with_handler(signal.SIGHUP, signal.SIG_IGN)
    true_step = training.train_step
    monkeypatch.setattr(training, "train_step", hung_up)
    folder, (status, _, _) = start()
    assert status == 0 and read_description(folder / "last.safetensors").step == 4


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_run_after_its_step(start, call, whole, monkeypatch, with_handler, name):
    number, steps, true_step = getattr(signal, name), iter(range(100)), training.train_step
    with_handler(number, signal.SIG_DFL)  # whatever started the tests may have it ignored

    def signalled(*arguments):
        if next(steps) == 2:
            signal.raise_signal(number)
        return true_step(*arguments)

    monkeypatch.setattr(training, "train_step", signalled)
    folder, (status, out, _) = start()
    assert status == 128 + number and "stopped at step 3; go on with" in out
    monkeypatch.setattr(training, "train_step", true_step)
    assert call(train, "--resume", folder)[0] == 0
    same(folder, whole)


def test_a_second_signal_acts_at_once_and_the_message_is_true(start, call, whole, monkeypatch):
    steps, true_step = iter(range(100)), training.train_step

    def signalled(*arguments):
        if next(steps) == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return true_step(*arguments)

    monkeypatch.setattr(training, "train_step", signalled)
    folder, (status, out, _) = start()
    assert status == 130 and "stopped at step 3; go on from step 2 with" in out
    assert read_description(folder / "last.safetensors").step == 2
    monkeypatch.setattr(training, "train_step", true_step)
    assert call(train, "--resume", folder)[0] == 0
    same(folder, whole)


def test_what_was_done_before_an_error_is_kept(start, call, whole, monkeypatch):
    def broken(dataset, config, step):
        if step == 3:
            raise InputError("photo.jpg: cannot be read")
        return true_batch(dataset, config, step)

    true_batch = training.make_batch
    monkeypatch.setattr(training, "make_batch", broken)
    folder, (status, _, err) = start()
    assert status == 2 and "photo.jpg: cannot be read" in err
    assert read_description(folder / "last.safetensors").step == 3
    monkeypatch.setattr(training, "make_batch", true_batch)
    assert call(train, "--resume", folder)[0] == 0
    same(folder, whole)


def test_a_step_that_fails_half_way_is_not_saved(start, monkeypatch):
    def half(net, optimiser, *arguments):
        if optimiser.steps == 3:
            for p in net.params.values():
                p += 1
            raise MemoryError("out of memory")
        return true_step(net, optimiser, *arguments)

    true_step = training.train_step
    monkeypatch.setattr(training, "train_step", half)
    folder, (status, _, err) = start()
    assert status == 2 and "out of memory" in err
    assert read_description(folder / "last.safetensors").step == 2


def test_checkpoints_come_by_time_and_a_row_averages_all_its_steps(start, call, whole, monkeypatch):
    saved, true_save = [], training.Run.save
    monkeypatch.setattr(training.Run, "save", lambda run: (saved.append(run.step), true_save(run)))
    folder, (status, _, _) = start("often", "--checkpoint-minutes", 1e-9)
    assert status == 0 and sorted(set(saved)) == [0, 1, 2, 3, 4]
    same(folder, whole)


# One owner


def test_a_folder_has_one_owner(whole, call):
    with files.owned(whole):
        status, _, err = call(train, "--resume", whole, "--steps", 6)
        assert status == 2 and f"is in use by process {os.getpid()}" in err
    assert call(train, "--resume", whole, "--steps", 6)[0] == 0


def test_leftovers_of_dead_runs_are_removed(whole, call):
    (whole / f"{files.PARTIAL}123.safetensors").write_bytes(b"half a checkpoint")
    assert call(train, "--resume", whole, "--steps", 6)[0] == 0
    assert not list(whole.glob(f"{files.PARTIAL}*"))


def test_two_runs_without_a_folder_take_two(voc, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    true_run = training.Run.start

    def meanwhile(run, *arguments):
        if not (tmp_path / "runs").exists():
            (tmp_path / "runs" / f"{voc.name}-fcn8s-1").mkdir(parents=True)  # another run has taken it
        return true_run(run, *arguments)

    monkeypatch.setattr(training.Run, "start", meanwhile)
    assert call(train, "--data", voc, *OPTIONS)[0] == 0
    assert (tmp_path / "runs" / f"{voc.name}-fcn8s-2" / "last.safetensors").exists()
    assert not any((tmp_path / "runs" / f"{voc.name}-fcn8s-1").iterdir())


def test_the_last_checkpoint_can_go_in_the_end(start):
    folder, (status, _, _) = start("small", "--keep", "best")
    assert status == 0 and not (folder / "last.safetensors").exists() and (folder / "best.safetensors").exists()


# Finite or nothing


def test_divergence_is_told_in_one_line_and_the_last_checkpoint_is_whole(start, call):
    folder, (status, _, err) = start("wild", "--lr", 1e6)
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("error: training diverged:") and "Warning" not in err
    assert "at step" in last and "(images 2008_" not in last and "images " in last and "lower --lr, here 1e+06" in last
    tensors, description = read(folder / "last.safetensors")
    assert f"the checkpoint of step {description.step} is whole" in last
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_the_file_s_fault(whole, call, voc, tmp_path, value):
    tensors, description = read(whole / "best.safetensors")
    tensors["fc6.weight"][0, 0, 0, 0] = value
    bad = tmp_path / "bad.safetensors"
    weights.write(bad, tensors, description)
    with pytest.raises(InputError, match=r"bad\.safetensors: fc6\.weight holds numbers that are infinite or none"):
        load_network(bad)
    for arguments in [
        (train, "--data", voc, *OPTIONS, "--init", bad, "--out", tmp_path / "from-bad"),
        (predict, bad, voc / "JPEGImages", "--out", tmp_path / "labels"),
        (evaluate, bad, "--data", voc, "--out", tmp_path / "scores"),
    ]:
        status, _, err = call(*arguments)
        assert status == 2 and "bad.safetensors" in err and "fc6.weight" in err, err
