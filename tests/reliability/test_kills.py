"""A run that is killed, or whose files are torn, goes on from where it was, to the same end."""

import csv
import os
import tempfile
from pathlib import Path

import pytest

from tinyfcn import files, train
from tinyfcn.report import COLUMNS


class Killed(BaseException):
    """As if the process had ended here."""


def test_a_kill_at_any_file_event_loses_nothing(start, call, monkeypatch, same):
    """Each event at which a file is made, filled, forced, replaced or removed, one after the other."""
    state = {"left": None, "dead": False}
    short = "--steps", "2", "--evaluations", "1"

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
        (os, "rmdir"),
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


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:-20] + "\0" * 100, lambda text: "\0" * 50, lambda text: text + "9,0.1"],
    ids=["zeros", "lost", "torn"],
)
def test_a_log_that_is_torn_is_mended(whole, call, damage):
    log = whole / "log.csv"
    log.write_text(damage(log.read_text()))
    assert call(train, "--resume", whole, "--steps", 6)[0] == 0
    with log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["step"] == "6" and all(tuple(row) == tuple(COLUMNS) for row in rows)


def test_a_missing_or_old_picture_is_drawn_again(whole, call):
    assert call(train, "--resume", whole)[0] == 2
    (whole / "predictions.png").unlink()
    assert call(train, "--resume", whole)[0] == 0 and (whole / "predictions.png").stat().st_size > 0
    os.utime(whole / "curves.png", (0, 0))
    assert call(train, "--resume", whole)[0] == 0
    assert "has done its 4 steps" in call(train, "--resume", whole)[2]


def test_leftovers_of_dead_runs_are_removed(whole, call):
    (whole / f"{files.PARTIAL}123.safetensors").write_bytes(b"half a checkpoint")
    assert call(train, "--resume", whole, "--steps", 6)[0] == 0
    assert not list(whole.glob(f"{files.PARTIAL}*"))
