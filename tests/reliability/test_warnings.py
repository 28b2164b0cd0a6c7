"""Commands that go well say nothing on the side: no warning of Python, NumPy, Pillow or Matplotlib."""

import subprocess
import sys
from pathlib import Path

import tinyfcn

ALL = """\
import sys
from tinyfcn.__main__ import main

for line in [
    "train --data voc --width 0.015625 --size 32 --steps 2 --evaluations 1 --device cpu --out new",
    "train --resume new --steps 3",
    "evaluate new",
    "predict new photo.jpg --out labels",
    "convert new new.npz",
    "convert new new.onnx",
    "convert vgg.npz vgg.safetensors --preprocessing caffe",
]:
    sys.argv = ["tinyfcn", *line.split()]
    if main():
        sys.exit(line)
"""


def test_warnings_are_errors(world):
    environment = {"PYTHONPATH": str(Path(tinyfcn.__file__).parents[1]), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", ALL], cwd=world, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
