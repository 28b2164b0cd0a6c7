"""Where a training step's time goes: `python -m tinyfcn.bench --profile`.

On a CPU, by the operations of `tinyfcn.ops` and the optimiser's update. On a GPU, by kernel, with the launches and copies; there
PyTorch's profiler does the counting, since CUDA's own interface for it (CUPTI) has no other package that is well kept.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import tempfile
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tinyfcn import ops, optim
from tinyfcn.bench.contenders import JOBS, TINYFCN, TORCH, Work, installed
from tinyfcn.errors import InputError

WARM_UPS, STEPS = 2, 3
ON_GPU = {"kernel", "gpu_memcpy", "gpu_memset"}  # categories of a trace's events


class Row(NamedTuple):
    """What one operation or kernel takes in a step."""

    name: str
    seconds: float
    calls: float
    bytes: float = 0.0  # copied or set, where it is a copy or a memset of a GPU's


class Profile(NamedTuple):
    """A step: all of its seconds, and the rows that they go to, the longest first."""

    work: Work
    seconds: float
    rows: list[Row]


def profile(work: Work) -> Profile:
    """Profile tinyfcn's step. Raises InputError on a GPU where PyTorch does not see it."""
    by = by_operation if work.device == "cpu" else by_kernel
    run = JOBS[TINYFCN][work.task](work).run
    for _ in range(WARM_UPS):
        run()
    seconds, rows = by(run)
    return Profile(work, seconds, sorted(rows, key=lambda row: -row.seconds))


def by_operation(run: Callable[[], Any]) -> tuple[float, list[Row]]:
    """The time of each function that networks call, with all that it calls in turn."""
    profiler = cProfile.Profile()
    with profiler:
        for _ in range(STEPS):
            run()
    wanted = {_place(getattr(ops, name)): name for name in ops.__all__ if callable(getattr(ops, name))}
    taken = pstats.Stats(profiler)
    seconds = taken.total_tt / STEPS  # type: ignore[attr-defined]
    rows = []
    for (file, line, function), (calls, _, _, cumulative, _) in taken.stats.items():  # type: ignore[attr-defined]
        name = wanted.get((file, line))
        if file == optim.__file__ and function == "update":
            name = "update of parameters"
        if name:
            rows.append(Row(name, cumulative / STEPS, calls / STEPS))
    rest = seconds - sum(row.seconds for row in rows)
    return seconds, [*rows, Row("all else", rest, 1)]


def _place(function: Any) -> tuple[str, int]:
    return function.__code__.co_filename, function.__code__.co_firstlineno


def by_kernel(run: Callable[[], Any]) -> tuple[float, list[Row]]:
    """The time of each kernel, copy and memset on the device, and the time from the first one's start to the last one's end."""
    torch = import_module("torch") if installed(TORCH) else None
    if torch is None or not torch.cuda.is_available():
        raise InputError("--profile on a GPU needs PyTorch with CUDA, whose profiler counts the kernels")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(STEPS):
            run()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        return rows_of(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])


def rows_of(events: Iterable[dict[str, Any]]) -> tuple[float, list[Row]]:
    """Rows of a trace in Chrome's format, in which times are microseconds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        if event.get("cat") in ON_GPU:
            found.setdefault(event["name"], []).append(event)
    if not found:
        raise InputError("the profiler saw no kernel")
    every = [event for some in found.values() for event in some]
    seconds = (max(e["ts"] + e["dur"] for e in every) - min(e["ts"] for e in every)) / 1e6 / STEPS
    return seconds, [
        Row(
            name,
            sum(e["dur"] for e in some) / 1e6 / STEPS,
            len(some) / STEPS,
            sum(e.get("args", {}).get("bytes", 0) for e in some) / STEPS,
        )
        for name, some in found.items()
    ]


def text(found: Profile, most: int = 20) -> str:
    """The profile in lines to print: a heading, and the `most` longest rows."""
    gpu = found.work.device == "gpu"
    busy, calls, moved = (sum(getattr(row, field) for row in found.rows) for field in ("seconds", "calls", "bytes"))
    heading = f"{found.work.title}: {found.seconds * 1e3:,.1f} ms"
    if gpu:
        heading += f", in which the GPU is busy for {busy * 1e3:,.1f}; {calls:,.0f} launches and copies, {moved / 1e6:,.1f} MB"
    lines = [f"{row.seconds * 1e3:10,.3f} ms {row.seconds / busy:6.1%} {row.calls:7,.0f} x {row.name[:90]}" for row in found.rows]
    rest = found.rows[most:]
    if rest:
        lines[most:] = [f"{sum(row.seconds for row in rest) * 1e3:10,.3f} ms {'':6} {'':7}   {len(rest)} more"]
    return "\n".join([heading, *lines])
