"""What a run says of itself: lines of progress, its page, and events for TensorBoard."""

import re
import sys

import pytest

from tinyfcn import page
from tinyfcn.board import Board, check_tensorboard
from tinyfcn.errors import InputError
from tinyfcn.metrics import SCORES
from tinyfcn.progress import Progress
from tinyfcn.report import COLUMNS, Log, Metrics
from tinyfcn.run import Config, paths

ROW = dict.fromkeys(COLUMNS, 0.5) | {"step": 10}


@pytest.mark.parametrize("done, steps, every", [(0, 20, 1), (0, 1600, 10), (8000, 10_000, 10), (0, 10_000, 10)])
def test_without_a_terminal_progress_is_at_most_a_hundred_lines(capsys, done, steps, every):
    with Progress(done, steps, shown=True) as progress:
        for step in range(done + 1, steps + 1):
            progress.step()
            if not step % every:
                progress.report(step, 1.25, 3.5)
    lines = capsys.readouterr().err.splitlines()
    assert min(50, steps // every) * (steps - done) // steps <= len(lines) <= 100
    assert re.fullmatch(rf"step {steps} of {steps}: loss=1.25, images_per_s=3.5, 00:00 left", lines[-1])


def test_other_processes_say_nothing(capsys):
    with Progress(0, 10, shown=False) as progress:
        progress.step()
        progress.report(10, 1.25, 3.5)
        progress.say("done")
    assert capsys.readouterr() == ("", "")


def test_a_page_shows_what_is_there_and_names_do_nothing_to_it(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    files, bad = paths(run), "<script>alert('a & b')</script>\x1b"
    Config(data=f"/data/{bad}", command=f"python -m tinyfcn.train --data '{bad}'", steps=40).write(files.config)
    page.write(run)
    assert "of 40 steps" in files.page.read_text() and "<img" not in files.page.read_text()

    scores = dict.fromkeys(SCORES, 0.25)
    Metrics(**scores, iou={bad: 0.75, "cat": None}, constant_baseline=scores, step=1234).write(files.metrics)
    files.curves.write_bytes(b"")
    with Log(files.log, 0) as log:
        log.write(ROW)
    page.write(run)
    text = files.page.read_text()
    assert "step 10 of 40" in text and "step 1,234" in text and "0.750" in text and "not in the labels" in text
    assert text.count("&lt;script&gt;alert(&#x27;a &amp; b&#x27;)&lt;/script&gt;") == 3
    assert re.findall(r'src="([^"]*)"', text) == ["curves.png"]
    assert "<script" not in text and "http" not in text and "\x1b" not in text


def test_tensorboard_reads_what_the_log_says(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begun, steps in (0, (10, 20, 30)), (15, (20,)):  # resumed from step 15
        with Board(tmp_path, begun) as board:
            for step in steps:
                board.write(ROW | {"step": step, "loss": step + begun})
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss/training")] == [(10, 10), (20, 35)]
    assert set(found.Tags()["scalars"]) == {
        "loss/training",
        "loss/validation",
        "speed/lr",
        "speed/images_per_s",
        *(f"score/{name}" for name in SCORES),
    }


def test_a_missing_tensorboard_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r'pip install "tinyfcn\[tensorboard\]"'):
        check_tensorboard()
