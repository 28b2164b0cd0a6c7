"""tinyfcn.command: which errors are one line and exit status 2, and what holds for all commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small import SMALL

from tinyfcn import command, evaluate, predict, train
from tinyfcn.convert import __main__ as convert
from tinyfcn.weights import read, write

pytestmark = pytest.mark.usefixtures("quick_pictures")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Out of memory allocating 512 bytes"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    ],
    ids=str,
)
def test_too_little_memory_is_one_line_whoever_says_so(error, capsys):
    def main():
        raise error

    assert command.run(main) == 2
    assert (
        capsys.readouterr().err == f"error: out of memory: lower --batch-size, --size, --max-side, --tile or --width ({error})\n"
    )


def test_any_other_error_of_the_runtime_is_a_fault():
    def main():
        raise RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="IllegalAddress"):
        command.run(main)


def test_the_command_line_itself(tmp_path):
    """In a process of its own: exit status 2, one line on stderr, no traceback."""
    env = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "tinyfcn.train", "--data", "nowhere"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: no such folder: nowhere") and done.stderr.count("\n") == 1


def test_each_command_that_reads_pictures_has_a_limit(run_folder, voc, photograph, call, tmp_path):
    assert call(train, "--data", voc, *SMALL, "--steps", 2, "--max-pixels", 100_000, "--out", tmp_path / "enough")[0] == 0
    assert "max_pixels" not in (tmp_path / "enough" / "config.json").read_text()
    for module, *arguments in (
        (train, "--data", voc, *SMALL, "--steps", 2, "--out", tmp_path / "less"),
        (train, "--resume", run_folder, "--steps", 6),
        (evaluate, run_folder),
        (predict, run_folder, photograph, "--out", tmp_path / "out"),
    ):
        status, _, err = call(module, *arguments, "--max-pixels", 2399)
        line = err.splitlines()[-1]
        assert status == 2 and re.search(r"\.(jpg|png) has \d+x\d+ pixels, .* 2,399 are read .* --max-pixels \d+$", line)
    assert call(predict, run_folder, photograph, "--out", tmp_path / "out", "--max-pixels", 2400)[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such names")
def test_names_do_nothing_to_the_terminal(voc, photograph, call, tmp_path):
    """Neither those of classes, in a folder and in a checkpoint, nor those of files."""
    escape = "\x1b[31m"
    root = tmp_path / f"voc{escape}"
    shutil.copytree(voc, root)
    names = (root / "classes.txt").read_text().splitlines()
    (root / "classes.txt").write_text("".join(f"{name}{escape}\tx\n" for name in names))
    run = tmp_path / f"run{escape}"
    status, out, err = call(train, "--data", root, *SMALL, "--steps", 2, "--out", run)
    assert status == 0 and "\x1b[31m" not in json.dumps(json.loads((run / "metrics.json").read_text())["iou"], ensure_ascii=False)
    tensors, description = read(run / "best.safetensors")
    write(run / "best.safetensors", tensors, replace(description, classes=tuple(f"{name}{escape}\tx" for name in names)))
    picture = photograph.rename(tmp_path / f"photo{escape}.jpg")
    for module, *arguments in (
        (evaluate, run),
        (predict, run, picture, "--out", tmp_path / f"out{escape}"),
        (predict, run, picture, "--out", tmp_path / f"out{escape}"),  # refused
        (convert, run, tmp_path / f"out{escape}.npz"),
    ):
        status, out, err = call(module, *arguments)
        assert " [31m" in out + err and escape not in out + err
        assert status == (2 if "there already" in err else 0), err


def test_a_terminal_that_cannot_show_a_name_does_not_end_a_command(run_folder, photograph, tmp_path):
    picture = photograph.rename(tmp_path / "Größe 中.jpg")
    out = tmp_path / "größer"
    tensors, about = read(run_folder / "best.safetensors")
    about = replace(about, classes=tuple(f"{name} 猫 γάτα" for name in about.classes))
    write(run_folder / "best.safetensors", tensors, about)
    env = os.environ | {"PYTHONPATH": str(Path(command.__file__).parents[1]), "PYTHONIOENCODING": "cp1252", "LC_ALL": "C"}
    arguments = [sys.executable, "-m", "tinyfcn.predict", run_folder, picture, tmp_path / "無.jpg", "--out", out]
    done = subprocess.run(arguments, env=env, capture_output=True)
    said, complained = (text.decode("cp1252") for text in (done.stdout, done.stderr))
    assert done.returncode == 1 and "größer: 1 label image(s)" in said and r" \u732b \u03b3" in said, complained
    assert r"\u7121.jpg; check the path" in complained and "Traceback" not in complained
    assert {path.name for path in out.iterdir()} == {"Größe 中.png", "Größe 中_overlay.png"}
    done = subprocess.run(arguments, env=env, capture_output=True)
    assert done.returncode == 2 and r"Größe \u4e2d.png is there already" in done.stderr.decode("cp1252")
