"""The tests' matrix products are small: one BLAS thread is faster than several, most of all on a busy machine."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import devices
import pytest


@pytest.fixture(params=devices.PARAMS)
def device(request):
    """Run a test on each device that is there; see devices.py."""
    with devices.device(request.param):
        yield request.param


def pytest_terminal_summary(terminalreporter):
    if devices.EMULATED and devices.WHY_NOT:
        terminalreporter.write_line(f"tests marked gpu are skipped: {devices.WHY_NOT}")


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
