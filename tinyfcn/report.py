"""What a run says of itself: its device, its log, and its scores in words and files."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import choose_device, describe_device, why_no_gpu
from tinyfcn.errors import InputError
from tinyfcn.files import write_json, write_text
from tinyfcn.metrics import SCORES


def open_device(device: str) -> ModuleType:
    """`choose_device` for what a user asked for."""
    try:
        return choose_device(device)
    except RuntimeError as error:
        raise InputError(str(error)) from None


def device_line(xp: ModuleType, asked: str) -> str:
    """What computes, and, where "auto" did not find a GPU, why."""
    return describe_device(xp) + (f" (no GPU: {why_no_gpu()})" if asked == "auto" and xp is np else "")


FIELDS = ("step", "lr", "loss", "images_per_s", *SCORES)  # of log.csv; the scores only where there was an evaluation


class Log:
    """log.csv: a row a report. Rows after the step at which a run is taken up again are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, FIELDS)
        writer.writeheader()
        writer.writerows(row for row in read_log(path) if int(row["step"]) <= step)
        write_text(path, text.getvalue())
        self.file = path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, FIELDS)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, row: dict[str, Any]) -> None:
        self.writer.writerow(row)
        self.file.flush()


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv, without those that were torn when the machine went down; none where there is no such file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    return [row for row in csv.DictReader(text.splitlines()) if _is_whole(row)]


def _is_whole(row: dict[str, str]) -> bool:
    if tuple(row) != FIELDS or None in row.values():
        return False
    try:
        return int(row["step"]) >= 0 and all(math.isfinite(float(row[name])) for name in FIELDS[1:] if row[name])
    except ValueError:
        return False


def describe(scores: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json: what `ConfusionMatrix.summary` says, and what else is known of the run."""
    write_json(path, metrics)


def report(metrics: dict[str, Any]) -> str:
    """The scores of a metrics.json as a table for the terminal."""
    lines = [f"{'':24}{'this net':>10}{'one class':>11}    (one class: the most frequent one everywhere)"]
    for name in SCORES:
        lines.append(f"{name.replace('_', ' '):24}{metrics[name]:10.3f}{metrics['constant_baseline'][name]:11.3f}")
    lines += ["", f"{'IU per class':24}"]
    for name, value in metrics["iou"].items():
        lines.append(f"  {name:22}" + ("  not in the labels" if value is None else f"{value:10.3f}"))
    return "\n".join(lines)
