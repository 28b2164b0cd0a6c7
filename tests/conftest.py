"""The tests' matrix products are small: one BLAS thread is faster than several, most of all on a busy machine."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shutil
from pathlib import Path

import devices
import numpy as np
import published
import pytest
from pictures import draw_nothing
from PIL import Image
from small import SMALL

from tinyfcn import command, files, train
from tinyfcn.convert import __main__ as convert
from tinyfcn.data import Shapes, pictures, write_voc
from tinyfcn.models import VGG16


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What is known of labels is kept where nobody else looks."""
    os.environ["TINYFCN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(params=devices.PARAMS)
def device(request):
    """Run a test on each device that is there; see devices.py."""
    with devices.device(request.param):
        yield request.param


def pytest_terminal_summary(terminalreporter):
    if devices.EMULATED and devices.WHY_NOT:
        terminalreporter.write_line(f"tests marked gpu are skipped: {devices.WHY_NOT}")


@pytest.fixture
def call(monkeypatch, capfd):
    """Call a command's main function; returns (exit status, stdout, stderr). --max-pixels counts for this call alone."""

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        monkeypatch.setattr(pictures, "_max_pixels", files.MAX_PIXELS)
        capfd.readouterr()
        status = command.run(module.main)
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def quick_pictures(monkeypatch):
    draw_nothing(monkeypatch)


@pytest.fixture
def call_convert(capsys, monkeypatch):
    """Call `python -m tinyfcn.convert` in this process; returns (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
        status = command.run(convert.main)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def voc(tmp_path_factory):
    """A folder in VOC layout: 5 images to train on, 3 to evaluate on."""
    root = tmp_path_factory.mktemp("voc")
    write_voc(Shapes("train", 5), root, "train")
    write_voc(Shapes("val", 3), root, "val")
    return root


@pytest.fixture(scope="session")
def finished(voc, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["train", "--data", str(voc), *SMALL, "--steps", "4", "--out", str(folder)])
        assert command.run(train.main) == 0
    return folder


@pytest.fixture
def run_folder(finished, tmp_path):
    """A run of four steps that has ended; each test has a copy."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def trunk(tmp_path):
    """The convolutions of a VGG16 of width 1/32, as torchvision names them: a file that cannot tell how images are prepared."""
    params = {name: p for name, p in published.draw(VGG16, 5, 1 / 32).items() if name.startswith("conv")}
    np.savez(tmp_path / "trunk.npz", **published.named(params, [f"features.{k}" for k in published.VGG_PLACES]))
    return tmp_path / "trunk.npz", params


@pytest.fixture
def photograph(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"
