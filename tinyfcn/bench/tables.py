"""What was measured, as rows of numbers and as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

from tinyfcn.bench.contenders import TINYFCN
from tinyfcn.bench.timing import Measurement
from tinyfcn.bench.works import SIDES, forward

Record = dict[str, Any]


def records(group: Sequence[Measurement], peak: float, bandwidth: float) -> list[Record]:
    """All numbers of the contenders for one piece of work, as --json writes them; `peak` is the machine's in operations per
    second, `bandwidth` its memory's in bytes per second."""
    medians = {m.contender: m.median for m in group}
    return [
        {
            "work": m.work.title,
            "task": m.work.task,
            "shape": m.work.shape,
            "contender": m.contender,
            "seconds": m.seconds,
            "median_seconds": m.median,
            "gflops": m.flops / 1e9,
            "of_peak": m.flops / peak,
            "gbytes_per_s": m.bandwidth / 1e9,
            "of_bandwidth": m.bandwidth / bandwidth,
            "peak_memory": m.memory,
            "idle_memory": m.idle,
            "time_ratio": {other: m.median / median for other, median in medians.items()},
        }
        for m in group
    ]


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f} ms"


def megabytes(amount: float | None) -> str:
    return f"{amount / 1e6:,.0f} MB" if amount else "-"


Column = tuple[str, str, Callable[[Record], str]]  # heading, format of a cell, text of a cell
WHO: list[Column] = [
    ("work", "<46", lambda r: r["work"] if r["contender"] == TINYFCN else ""),
    ("contender", "<21", lambda r: r["contender"]),
]
TIME: Column = ("time", ">11", lambda r: milliseconds(r["median_seconds"]))
OF_PEAK: Column = ("of peak", ">7", lambda r: percent(r["of_peak"]))
LAST: list[Column] = [
    ("memory", ">9", lambda r: megabytes(r["peak_memory"])),
    ("tinyfcn / it", ">12", lambda r: f"{1 / r['time_ratio'][TINYFCN]:.2f}"),
]
TABLE: list[Column] = [*WHO, TIME, ("GFLOP/s", ">7", lambda r: f"{r['gflops']:,.0f}"), OF_PEAK, *LAST]
GPU_TABLE: list[Column] = [
    *WHO,
    TIME,
    ("TFLOP/s", ">7", lambda r: f"{r['gflops'] / 1e3:,.2f}"),
    OF_PEAK,
    ("GB/s", ">7", lambda r: f"{r['gbytes_per_s']:,.0f}"),
    ("of copy", ">7", lambda r: percent(r["of_bandwidth"])),
    *LAST,
]
GROWTH: list[Column] = [
    *WHO,
    ("time per pixel", ">14", lambda r: f"{time_per_pixel(r):.2f} us"),
    ("memory per pixel", ">16", lambda r: f"{memory_per_pixel(r):.2f} kB"),
]


def line(columns: Sequence[Column], record: Record | None = None) -> str:
    """A row of a table, or its heading without a record."""
    return " ".join(f"{text(record) if record else heading:{how}}" for heading, how, text in columns).rstrip()


def time_per_pixel(record: Record) -> float:
    """Microseconds."""
    return float(record["median_seconds"] / prod(record["shape"][2:]) * 1e6)


def memory_per_pixel(record: Record) -> float:
    """Kilobytes beyond what the idle process, with its parameters, holds."""
    if record["peak_memory"] is None:
        return float("nan")
    return float((record["peak_memory"] - record["idle_memory"]) / prod(record["shape"][2:]) / 1e3)


def growth(found: Iterable[Record]) -> list[Record]:
    titles = [forward(side).title for side in SIDES]
    return sorted((r for r in found if r["work"] in titles), key=lambda r: titles.index(r["work"]))
