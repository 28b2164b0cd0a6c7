"""A disk that is full: one line says so, what was there stays whole, and a run goes on once there is room again.

Files that may not grow (RLIMIT_FSIZE) stand for it.
"""

import contextlib
import io
import resource

import pytest

from tinyfcn import __main__ as tinyfcn
from tinyfcn import command, files, train, training
from tinyfcn.bench import __main__ as bench
from tinyfcn.bench.timing import Measurement
from tinyfcn.weights import read_description


@pytest.fixture
def limit():
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def call(monkeypatch):
    """As the `call` of all tests, but what is printed goes to no file, which could not grow either."""

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = module.main() if module is tinyfcn else command.run(module.main)
        return status, out.getvalue(), err.getvalue()

    return run


def one_error(err):
    """The one line that says what was wrong, beside bars of progress."""
    (line,) = [line for line in err.replace("\r", "\n").splitlines() if "error" in line]
    assert line.startswith("error: ") and "Traceback" not in err
    return line


@pytest.mark.parametrize("size", [0, 100, 1 << 16], ids=["nothing", "a line", "no checkpoint"])
def test_a_run_loses_nothing(start, call, whole, same, monkeypatch, limit, size):
    def filling(*arguments):
        if arguments[1].steps == 3:
            limit(size)
        return true_step(*arguments)

    true_step = training.train_step
    monkeypatch.setattr(training, "train_step", filling)
    folder, (status, _, err) = start()
    limit(resource.RLIM_INFINITY)
    assert status == 2 and str(folder) in one_error(err) and "File too large" in err
    assert read_description(folder / "last.safetensors").step == 2
    assert not list(folder.glob(f"{files.PARTIAL}*"))
    monkeypatch.setattr(training, "train_step", true_step)
    assert call(train, "--resume", folder)[0] == 0
    same(folder, whole)


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def no_benchmark(monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda work, *_: [Measurement(work, "tinyfcn", (1.0,), 1, 1, None, None)])
    monkeypatch.setattr(bench, "installed", lambda name: name == "tinyfcn")


@pytest.mark.parametrize(
    "line, size",
    [
        ("train --data voc --width 0.015625 --steps 1 --out new/run", 0),
        ("train --data voc --width 0.015625 --steps 1 --out new/run", 10_000),
        ("evaluate run --out new/scores", 0),
        ("predict run photo.jpg --out new/labels", 0),
        ("predict run photo.jpg --out old --overwrite", 0),
        ("convert run new.safetensors", 0),
        ("convert run new.safetensors", 10_000),
        ("convert run new.npz", 10_000),
        ("convert run new.onnx", 10_000),
        ("convert run old/weights.npz --overwrite", 10_000),
        ("bench --width 0.015625 --size 32 --json new.json", 0),
        ("bench --width 0.015625 --size 32 --json old/times.json --overwrite", 0),
    ],
)
def test_nothing_is_left_and_nothing_is_lost(world, call, limit, no_benchmark, line, size):
    (world / "old").mkdir()
    for name in "photo.png", "photo_overlay.png", "weights.npz", "times.json":
        (world / "old" / name).write_text("mine")
    before = contents(world)
    limit(size)
    status, _, err = call(tinyfcn, *line.split())
    limit(resource.RLIM_INFINITY)
    assert status == 2 and ("new" in one_error(err) or "old" in one_error(err)) and "File too large" in err
    assert contents(world) == before
