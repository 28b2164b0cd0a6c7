"""A script that uses the package as people do. `mypy` checks that it gets types that help it; here it runs."""

from pathlib import Path
from typing import assert_type

import numpy as np

import tinyfcn
from tinyfcn import ops


def test_a_script_gets_useful_types(tmp_path: Path) -> None:
    net = tinyfcn.FCN8s(num_classes=3, width=1 / 32, padding="same")
    x = np.zeros((1, 3, 32, 32), np.float32)
    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, np.zeros((1, 32, 32), np.uint8))
    net.backward(ops.softmax_cross_entropy_backward(1.0, cache))
    net.save(tmp_path / "net.safetensors", classes=["background", "cat", "dog"])
    trained = tinyfcn.load(tmp_path / "net.safetensors")
    assert_type(trained.classes, list[str])
    labels = trained.predict(np.zeros((20, 30, 3), np.uint8))
    assert_type(labels, np.ndarray)
    assert_type(tinyfcn.ConfusionMatrix(3).mean_iou, float)
    assert labels.shape == (20, 30) and loss > 0 and net.grads
