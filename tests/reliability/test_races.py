"""A folder has one owner, and a file one writer."""

import os
import shutil

import pytest

from tinyfcn import files, train, training, weights
from tinyfcn.convert import __main__ as convert


def test_a_folder_has_one_owner(whole, call):
    with files.owned(whole):
        status, _, err = call(train, "--resume", whole, "--steps", 6)
        assert status == 2 and f"is in use by process {os.getpid()}" in err
    assert call(train, "--resume", whole, "--steps", 6)[0] == 0


def test_two_runs_without_a_folder_take_two(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    true_run = training.Run.start

    def meanwhile(run, *arguments):
        if not (tmp_path / "runs").exists():
            (tmp_path / "runs" / "voc-fcn8s-1").mkdir(parents=True)  # another run has taken it
        return true_run(run, *arguments)

    monkeypatch.setattr(training.Run, "start", meanwhile)
    assert start(None)[1][0] == 0
    assert (tmp_path / "runs" / "voc-fcn8s-2" / "last.safetensors").exists()
    assert not any((tmp_path / "runs" / "voc-fcn8s-1").iterdir())


def at_once(*calls):
    """Let processes begin together, each a function that returns an exit status; returns the statuses."""
    begin, go = os.pipe()
    children = []
    for work in calls:
        if not (child := os.fork()):
            os.close(go)
            os.read(begin, 1)  # until all are there
            status = 1
            try:
                status = work()
            finally:
                os._exit(status)
        children.append(child)
    os.close(begin)
    os.close(go)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_runs_that_begin_together_take_folders_of_their_own(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert at_once(*[lambda: start(None)[1][0]] * 3) == [0, 0, 0]
    assert {path.parent.name for path in tmp_path.glob("runs/*/last.safetensors")} == {f"voc-fcn8s-{n}" for n in (1, 2, 3)}


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_of_runs_that_begin_together_in_one_folder_one_begins(start, whole, same, tmp_path):
    assert sorted(at_once(*[lambda: start("one")[1][0]] * 3)) == [0, 2, 2]
    same(tmp_path / "one", whole)


def test_a_folder_that_vanishes_under_its_run_is_told_in_one_line(start, tmp_path, monkeypatch):
    def vanishing(*arguments):
        if arguments[1].steps == 3:
            shutil.rmtree(folder)
        return true_step(*arguments)

    true_step, folder = training.train_step, tmp_path / "run"
    monkeypatch.setattr(training, "train_step", vanishing)
    status, _, err = start()[1]
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if "error" in line]
    assert status == 2 and line.startswith("error: ") and str(folder) in line and not folder.exists()


def test_of_two_writers_of_one_file_the_last_one_leaves_it_whole(world, call, monkeypatch):
    def reading(*arguments):
        monkeypatch.setattr(weights, "check_finite", true_check)
        assert call(convert, "fcn32s.safetensors", "new.safetensors")[0] == 0
        return true_check(*arguments)

    true_check = weights.check_finite
    monkeypatch.setattr(weights, "check_finite", reading)
    assert call(convert, "run", "new.safetensors")[0] == 0
    assert weights.read_description("new.safetensors").model == "FCN8s"
    assert not list(world.glob(f"{files.PARTIAL}*"))
