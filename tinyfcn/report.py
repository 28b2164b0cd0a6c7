"""What a run reports: its device, its log, and its scores, in words and in files."""

from __future__ import annotations

import csv
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from tinyfcn.backend import choose_device, describe_device, why_no_gpu
from tinyfcn.errors import InputError
from tinyfcn.files import read_text, unwritable, write_json, write_text
from tinyfcn.metrics import SCORES
from tinyfcn.values import SECONDS, SHARE, STEP, SUBSET, TEXT, ZOOM, Kind, check, field, number, optional, shorten, table, to_json


def open_device(device: str) -> ModuleType:
    """`choose_device` for what a user asked for."""
    try:
        return choose_device(device)
    except RuntimeError as error:
        raise InputError(str(error)) from None


def device_line(xp: ModuleType, asked: str) -> str:
    """What computes, and why, where "auto" found no GPU."""
    return describe_device(xp) + (f" (no GPU: {why_no_gpu()})" if asked == "auto" and xp is np else "")


# The columns of log.csv; scores only where there was an evaluation.
COLUMNS = {"step": STEP, "lr": number(0, 1e6), "loss": number(0, 1e300), "images_per_s": number(0, 1e9)}
COLUMNS |= dict.fromkeys(SCORES, optional(SHARE)) | {"validation_loss": optional(number(0, 1e300))}
Row = dict[str, Any]  # numbers by column; None where there was no evaluation


class Log:
    """log.csv: one row per report. Rows after the step at which a run is resumed are dropped."""

    def __init__(self, path: Path, step: int) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(row for row in read_log(path) if row["step"] <= step)
        write_text(path, text.getvalue())
        self.path, self.file = path, path.open("a", newline="", encoding="utf-8")
        self.writer = csv.DictWriter(self.file, COLUMNS)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # `write` has raised for it already
            self.file.close()

    def write(self, row: Row) -> None:
        try:
            self.writer.writerow(row)
            self.file.flush()
        except OSError as error:
            raise unwritable(self.path, error) from None


def read_log(path: Path) -> list[Row]:
    """The rows of a log.csv, without those that were torn when the machine went down; none where there is no such file.

    A torn line has zero bytes in it, or is the last one and has no end. Raises InputError where any other line is wrong.
    """
    if not path.exists():
        return []
    lines = enumerate(read_text(path).split("\n")[:-1], 1)
    whole = [(n, line.strip()) for n, line in lines if line.strip() and "\0" not in line]
    if whole and whole[0][1] != ",".join(COLUMNS):
        raise InputError(f"{path}: the columns must be {','.join(COLUMNS)}, got {shorten(whole[0][1])}")
    rows: list[Row] = []
    for n, line in whole[1:]:
        try:
            rows.append(_row(line.split(","), rows[-1]["step"] if rows else -1))
        except InputError as error:
            raise InputError(f"{path}, line {n}: {error}; mend or remove this line") from None
    return rows


def _row(cells: list[str], before: int) -> Row:
    if len(cells) != len(COLUMNS):
        raise InputError(f"must have {len(COLUMNS)} values, got {len(cells)}")
    row: Row = {}
    for (name, kind), cell in zip(COLUMNS.items(), cells, strict=True):
        try:
            row[name] = None if kind.optional and not cell else kind.parse(cell)
        except InputError as error:
            raise InputError(f"{name} {error}") from None
    if row["step"] <= before:
        raise InputError(f"step must be more than {before}, as in the line before, got {row['step']}")
    return row


def describe(row: Row) -> str:
    """The losses and scores of a row of the log in words."""
    return ", ".join(f"{name.replace('_', ' ')} {row[name]:.3f}" for name in ("loss", "validation_loss", *SCORES))


@dataclass(frozen=True)
class Metrics:
    """What metrics.json says: the scores that `ConfusionMatrix.summary` gives, and where they come from."""

    pixel_accuracy: float = field(SHARE)
    mean_accuracy: float = field(SHARE)
    mean_iou: float = field(SHARE)
    frequency_weighted_iou: float = field(SHARE)
    iou: dict[str, float | None] = field(table(optional(SHARE)))  # of each class; None where no label has it
    constant_baseline: dict[str, float] = field(table(SHARE, SCORES))

    # Of a run's best checkpoint
    step: int | None = field(optional(STEP), None)
    seconds: float | None = field(optional(SECONDS), None)
    machine: str | None = field(optional(TEXT), None)

    # Of an evaluation
    images: int | None = field(optional(SUBSET), None)
    zoom: float | None = field(optional(ZOOM), None)
    evaluated: dict[str, Any] | None = field(optional(Kind("a table", lambda value: type(value) is dict)), None)

    def __post_init__(self) -> None:
        check(self)

    def write(self, path: Path) -> None:
        write_json(path, to_json(self))


def report(metrics: Metrics) -> str:
    """The scores of a metrics.json as a table for the terminal."""
    lines = [f"{'':24}{'this net':>10}{'one class':>11}    (one class: the most frequent one everywhere)"]
    for name in SCORES:
        lines.append(f"{name.replace('_', ' '):24}{getattr(metrics, name):10.3f}{metrics.constant_baseline[name]:11.3f}")
    lines += ["", f"{'IU per class':24}"]
    for name, value in metrics.iou.items():
        lines.append(f"  {name:22}" + ("  not in the labels" if value is None else f"{value:10.3f}"))
    return "\n".join(lines)
