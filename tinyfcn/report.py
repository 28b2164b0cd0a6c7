"""What a run says of itself: its device, its log, and its scores in words and files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import choose_device, describe_device, why_no_gpu
from tinyfcn.errors import InputError
from tinyfcn.metrics import SCORES, ConfusionMatrix


def open_device(device: str) -> ModuleType:
    """`choose_device` for what a user asked for."""
    try:
        return choose_device(device)
    except RuntimeError as error:
        raise InputError(str(error)) from None


def device_line(xp: ModuleType, asked: str) -> str:
    """What computes, and, where "auto" did not find a GPU, why."""
    return describe_device(xp) + (f" (no GPU: {why_no_gpu()})" if asked == "auto" and xp is np else "")


class Log:
    """log.csv: a row a report. Rows after the step at which a run is taken up again are dropped."""

    FIELDS = ("step", "lr", "loss", "images_per_s", *SCORES)

    def __init__(self, path: Path, step: int) -> None:
        self.path, rows = path, []
        if step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self.file = path.open("w", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, self.FIELDS)
        self.writer.writeheader()
        self.writer.writerows(rows)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, row: dict[str, Any]) -> None:
        self.writer.writerow(row)
        self.file.flush()


def describe(scores: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())


def write_metrics(path: Path, matrix: ConfusionMatrix, classes: tuple[str, ...], **extra: Any) -> dict[str, Any]:
    """Write metrics.json, and return what it says: the four scores, IU a class (null where no label has the class), and
    the baseline's scores."""
    iou = {name: None if math.isnan(value) else float(value) for name, value in zip(classes, matrix.iou, strict=True)}
    content = matrix.scores() | {"iou": iou, "constant_baseline": matrix.constant_baseline().scores()} | extra
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content


def report(metrics: dict[str, Any]) -> str:
    """The scores of a metrics.json as a table for the terminal."""
    lines = [f"{'':24}{'this net':>10}{'one class':>11}    (one class: the most frequent one everywhere)"]
    for name in SCORES:
        lines.append(f"{name.replace('_', ' '):24}{metrics[name]:10.3f}{metrics['constant_baseline'][name]:11.3f}")
    lines += ["", f"{'IU per class':24}"]
    for name, value in metrics["iou"].items():
        lines.append(f"  {name:22}" + ("  not in the labels" if value is None else f"{value:10.3f}"))
    return "\n".join(lines)
