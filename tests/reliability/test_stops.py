"""Signals, errors and checkpoints: what was done is kept, and what is said of it is true."""

import signal

import numpy as np
import pytest

from tinyfcn import train, training
from tinyfcn.errors import InputError
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


def test_the_last_checkpoint_can_go_in_the_end(start):
    folder, (status, _, _) = start("small", "--keep", "best")
    assert status == 0 and not (folder / "last.safetensors").exists() and (folder / "best.safetensors").exists()


def test_divergence_is_told_in_one_line_and_the_last_checkpoint_is_whole(start, call):
    folder, (status, _, err) = start("wild", "--lr", 1e6)
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("error: training diverged:") and "Warning" not in err
    assert "at step" in last and "(images 2008_" not in last and "images " in last and "lower --lr, here 1e+06" in last
    tensors, description = read(folder / "last.safetensors")
    assert f"the checkpoint of step {description.step} is whole" in last
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
