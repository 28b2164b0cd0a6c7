"""The pieces of work that `python -m tinyfcn.bench` times, and who takes part in each."""

from __future__ import annotations

from typing import Any

from tinyfcn.bench.contenders import (
    CHANNELS_LAST,
    COLUMNS,
    COMPILED,
    LAYER_TASKS,
    ONNX,
    OPENVINO,
    OPENVINO_BF16,
    TF32,
    TINYFCN,
    TORCH,
    TORCH_BF16,
    Work,
)
from tinyfcn.bench.cost import map_sizes
from tinyfcn.models.parts import BORDER
from tinyfcn.models.vgg import VGG

SIDE = 500  # pixels, of the paper's images
SIDES = (125, 250, 500, 1000)  # of --growth
TRAINING = (TINYFCN, TORCH, CHANNELS_LAST, TF32, COMPILED, TORCH_BF16)
FORWARD = (*TRAINING, COLUMNS, ONNX, OPENVINO, OPENVINO_BF16)
FINE_TUNING = tuple(name for name in TRAINING if name != CHANNELS_LAST)  # as PyTorch has them there anyway
LAYER = (TINYFCN, TORCH, TF32)


def forward(side: int, width: float = 1.0) -> Work:
    return Work(f"FCN-8s forward, 1x3x{side}x{side}, width {width:g}", "forward", FORWARD, (1, 3, side, side), width)


def step(side: int, width: float = 1.0, images: int = 1, padding: str = "paper") -> Work:
    title = f"FCN-8s training, {images}x3x{side}x{side}, width {width:g}{', same' if padding == 'same' else ''}"
    return Work(title, "step", TRAINING, (images, 3, side, side), width, padding)


def fine_tuning() -> Work:
    """A step of the recipe "finetune" on two crops, from VGG16's convolutions alone."""
    title = "FCN-8s fine-tuning, 2x3x224x304, hidden 512"
    return Work(title, "fine-tune", FINE_TUNING, (2, 3, 224, 304), padding="same", hidden=512)


def layers() -> list[Work]:
    """The 3x3 convolutions of VGG16, and their gradients, as they are in FCN-8s; those of equal shape once."""
    found: dict[tuple[Any, ...], Work] = {}
    weights = VGG.shapes(1.0)
    sizes = map_sizes("paper", (SIDE, SIDE))
    for conv in VGG.convs:
        (h, w), weight, first = sizes[conv.name], weights[f"{conv.name}.weight"], conv is VGG.convs[0]
        size, edge = ((SIDE, SIDE), BORDER) if first else ((h, w), 1)
        for task in LAYER_TASKS:
            if first and task == "input gradient":  # which no network asks for
                continue
            title = f"{conv.name} {weight[1]}>{weight[0]} {h}x{w} {task.replace('layer', 'forward')}"
            work = Work(title, task, LAYER, (1, weight[1], *size), weight=weight, edge=edge)
            found.setdefault(work[1:], work)
    return list(found.values())
