"""Each reader against damaged files for a few seconds (TINYFCN_FUZZ_SECONDS), and against what longer searches have found."""

import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from reliability import fuzz

from tinyfcn.errors import InputError

FOUND = [
    ("config", b'{"a":' * 3000),  # deeper than Python's stack
    ("list", b"x" * 5000),  # no file has so long a name
]


def test_damaged_files_of_every_kind_are_read_or_refused(tmp_path):
    seconds = os.environ.get("TINYFCN_FUZZ_SECONDS", "5")
    command = [sys.executable, fuzz.__file__, "--seconds", seconds, "--found", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=float(seconds) + 120)
    assert done.returncode == 0 and " 0 findings" in done.stdout, done.stdout + done.stderr


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """By kind, the name of the file and the reader."""
    folder = tmp_path_factory.mktemp("fuzz")
    return {kind: (folder / name, reader) for kind, name, reader, *_ in fuzz.seeds(folder)}


@pytest.mark.parametrize(("kind", "data"), FOUND, ids=lambda value: value if isinstance(value, str) else "")
def test_what_was_found_is_mended(readers, kind, data):
    path, reader = readers[kind]
    path.write_bytes(data)
    assert fuzz.check(reader, path) is None
    with pytest.raises(InputError):
        reader(path)


def test_whole_files_are_read(readers, tmp_path):
    for kind, name, reader, parts, join in fuzz.seeds(tmp_path):
        path = tmp_path / name
        path.write_bytes(join(parts))
        try:
            reader(path)
        except InputError as error:  # readable, but too small to be a network
            assert re.search("not a network that is known here|not of VGG16|has no conv1_2.weight|of this width", str(error)), (
                kind
            )


def test_the_search_notices_what_is_wrong(tmp_path, monkeypatch):
    path = tmp_path / "x"

    def warn(path):
        warnings.warn("look", stacklevel=1)

    def unnamed(path):
        raise InputError("no name")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "UserWarning: look" in fuzz.check(warn, path)
    assert "ZeroDivisionError" in fuzz.check(lambda path: 1 / 0, path)
    assert fuzz.check(unnamed, path) == "the file is not named: no name"
    assert fuzz.check(lambda path: None, path) is None
    monkeypatch.setattr(fuzz, "SECONDS", -1)
    assert fuzz.check(lambda path: None, path) == "took 0.0 s"
    monkeypatch.setattr(fuzz, "SECONDS", 9)
    monkeypatch.setattr(fuzz, "MEGABYTES", -1)
    assert fuzz.check(lambda path: np.ones(3), path) == "took 0 MB"
