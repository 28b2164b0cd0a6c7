"""Signals, errors and checkpoints: what was done is kept, and what is said of it is true."""

import signal

import numpy as np
import pytest

from tinyfcn import train, training
from tinyfcn.errors import InputError
from tinyfcn.report import read_log
from tinyfcn.weights import read, read_description


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
def test_a_signal_ends_a_run_after_its_step(start, call, whole, monkeypatch, with_handler, name, same):
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


def test_ctrl_c_shows_how_far_the_run_has_come(start, monkeypatch):
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return true_step(*arguments)

    true_step = training.train_step
    monkeypatch.setattr(training, "train_step", interrupted)
    folder, (status, _, _) = start()
    assert status == 130 and not (folder / "best.safetensors").exists()
    assert all((folder / name).exists() for name in ("predictions.png", "curves.png", "index.html"))


def test_a_second_signal_acts_at_once_and_the_message_is_true(start, call, whole, monkeypatch, same):
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


def test_what_was_done_before_an_error_is_kept(start, call, whole, monkeypatch, same):
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


@pytest.mark.parametrize("failing, step", [(0, 2), (1, 4)])
def test_a_run_that_ended_in_an_evaluation_makes_it_when_it_goes_on(start, call, whole, monkeypatch, same, failing, step):
    def broken(*arguments):
        if next(evaluations) == failing:
            raise InputError("photo.jpg: cannot be read")
        return true_assess(*arguments)

    evaluations, true_assess = iter(range(9)), training.assess
    monkeypatch.setattr(training, "assess", broken)
    folder, (status, _, err) = start()
    assert status == 2 and "photo.jpg: cannot be read" in err
    assert read_description(folder / "last.safetensors").step == step
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


def test_checkpoints_come_by_time_and_a_row_averages_all_its_steps(start, call, whole, monkeypatch, same):
    saved, true_save = [], training.Run.save
    monkeypatch.setattr(training.Run, "save", lambda run: (saved.append(run.step), true_save(run)))
    folder, (status, _, _) = start("often", "--checkpoint-minutes", 1e-9)
    assert status == 0 and sorted(set(saved)) == [0, 1, 2, 3, 4]
    same(folder, whole)


def test_patience_ends_a_run_that_gets_no_better_and_more_of_it_goes_on(start, call):
    more = "--steps", 9, "--evaluations", 9, "--lr", 1e-9
    folder, (status, out, err) = start("run", *more, "--patience", 2)
    assert status == 0 and "no better mean IU in 2 evaluations" in out and "best checkpoint: step 1" in out, err
    assert [row["step"] for row in read_log(folder / "log.csv")] == [1, 2, 3]
    status, _, err = call(train, "--resume", folder)
    assert status == 2 and "has run out of --patience 2 at step 3; give a larger one" in err
    assert call(train, "--resume", folder, "--patience", 4)[0] == 0
    assert [row["step"] for row in read_log(folder / "log.csv")] == [1, 2, 3, 4, 5]


def test_after_a_refusal_the_same_command_works_and_no_message_advises_what_fails(start, call, tmp_path):
    folder, (status, _, err) = start("run", "--lr", 1e6, "--evaluations", 1)
    assert status == 2 and "start anew with a lower --lr" in err and (folder / "last.safetensors").exists()
    assert start("run", "--lr", 1e-3)[1][0] == 0
    status, _, err = start("run")[1]
    assert status == 2 and f"--resume {folder} to go on" in err
    assert call(train, "--resume", folder, "--steps", 5)[0] == 0

    (folder / "last.safetensors").unlink()
    status, _, err = start("run")[1]
    assert status == 2 and "is there already; give another --out" in err and "--resume" not in err
    status, _, err = call(train, "--resume", folder)
    assert status == 2 and f"--from {folder}" in err
    assert call(train, "--from", folder, "--steps", 1, "--out", tmp_path / "next")[0] == 0


def test_the_last_checkpoint_can_go_in_the_end(start):
    folder, (status, _, _) = start("small", "--keep", "best")
    assert status == 0 and not (folder / "last.safetensors").exists() and (folder / "best.safetensors").exists()


def test_divergence_is_told_in_one_line_and_the_last_checkpoint_is_whole(start, call):
    folder, (status, _, err) = start("wild", "--lr", 1e6)
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("error: training diverged:") and "Warning" not in err
    assert "at step" in last and "(images 2008_" not in last and "images " in last and "lower --lr, here 1e+06" in last
    tensors, description = read(folder / "last.safetensors")
    assert description.step == 0 or f"the checkpoint of step {description.step} is whole" in last
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
