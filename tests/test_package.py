"""`import tinyfcn`, and the command of that name."""

import subprocess
import sys

import pytest

import tinyfcn
from tinyfcn import __main__, command


@pytest.fixture
def call(monkeypatch, capsys):
    """Call `tinyfcn ARGUMENTS`; returns (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tinyfcn", *arguments])
        try:
            status = __main__.main()
        except SystemExit as leave:  # argparse's, after --help
            status = leave.code
        return status, *capsys.readouterr()

    return run


def test_the_package_offers_what_people_use():
    from tinyfcn import data, errors, gradcheck, inference, metrics, models

    homes = (data, errors, gradcheck, inference, metrics, models)
    for name in tinyfcn.__all__:
        value = getattr(tinyfcn, name)
        assert name in dir(tinyfcn)
        assert value is sys.modules.get(f"tinyfcn.{name}") or value in [getattr(home, name, None) for home in homes]
    with pytest.raises(AttributeError, match="module 'tinyfcn' has no attribute 'FCN4s'"):
        tinyfcn.FCN4s  # noqa: B018


@pytest.mark.parametrize(
    "code, absent",
    [
        ("import tinyfcn", "numpy"),
        *(
            (f"import tinyfcn.{name}", "matplotlib")
            for name in ("train", "evaluate", "predict", "convert.__main__", "download", "bench.__main__")
        ),
        ("import tinyfcn.ops, tinyfcn.models", "PIL"),
    ],
)
def test_imports_bring_no_more_than_they_need(code, absent):
    check = f"{code}\nimport sys\nsys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_one_name_for_all_commands(call):
    assert call("--version") == (0, f"tinyfcn {tinyfcn.__version__}\n", "")
    status, usage, _ = call()
    assert status == 0 and call("--help")[1] == usage
    for name in __main__.COMMANDS:
        assert f"\n  {name} " in usage
        status, out, err = call(name, "--help")
        assert status == 0 and out.startswith(f"usage: python -m tinyfcn.{name}") and not err


def test_what_is_no_command_is_named(call):
    status, out, err = call("trian", "--steps", "1")
    assert (
        status == 2 and not out and err == f"error: 'trian' is none of the commands {', '.join(__main__.COMMANDS)} (see --help)\n"
    )


def test_a_command_gets_its_arguments(call, tmp_path):
    status, _, err = call("predict", str(tmp_path / "none.safetensors"), "photo.jpg", "--out", str(tmp_path))
    assert status == 2 and "none.safetensors" in err
    assert command.run(__main__._dispatch) == 2
