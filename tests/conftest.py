"""The tests' matrix products are small: one BLAS thread is faster than several, most of all on a busy machine."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import devices
import pytest


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
    from tinyfcn import command, files
    from tinyfcn.data import pictures

    def run(module, *arguments):
        monkeypatch.setattr("sys.argv", [module.__name__, *map(str, arguments)])
        monkeypatch.setattr(pictures, "_max_pixels", files.MAX_PIXELS)
        capfd.readouterr()
        status = command.run(module.main)
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def quick_pictures(monkeypatch):
    from pictures import draw_nothing

    draw_nothing(monkeypatch)


@pytest.fixture
def call_convert(capsys, monkeypatch):
    """Call `python -m tinyfcn.convert` in this process; returns (exit status, stdout, stderr)."""
    from tinyfcn import command
    from tinyfcn.convert import __main__ as convert

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
        status = command.run(convert.main)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
