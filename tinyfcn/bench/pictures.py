"""What was measured, as pictures. To be imported late: what Matplotlib takes counts as the memory of who is timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tinyfcn.bench import scaling
from tinyfcn.bench.contenders import LAYER_TASKS, NEEDS, TINYFCN, Work
from tinyfcn.bench.tables import Record, growth, memory_per_pixel, time_per_pixel
from tinyfcn.bench.works import FORWARD, SIDES
from tinyfcn.plot import save


def draw(found: Sequence[Record], path: Path) -> None:
    """Draw time and memory per pixel over the image's side, and ratios of times of whole nets, as far as they were measured."""
    grown = growth(found)
    nets = [r for r in found if r["task"] not in LAYER_TASKS]
    compared = [r for r in nets if r["contender"] == TINYFCN and len(r["time_ratio"]) > 1]
    others = [other for other in FORWARD if other in NEEDS and any(other in r["time_ratio"] for r in compared)]
    bar = 0.8 / max(len(others), 1)
    heights = [3.6] * bool(grown) + [1.6 + 0.15 * max(len(others), 2) * len(compared)] * bool(others)
    figure = Figure(figsize=(10, sum(heights)), layout="constrained")
    parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if grown:
        curves = ("time per pixel (µs)", time_per_pixel), ("memory per pixel (kB)", memory_per_pixel)
        for axis, (label, value) in zip(next(parts).subplots(1, 2), curves, strict=True):
            for name in dict.fromkeys(r["contender"] for r in grown):
                some = [r for r in grown if r["contender"] == name]
                axis.plot([r["shape"][2] for r in some], [value(r) for r in some], "o-", label=name, color=_colour(name))
            axis.set(xlabel="image side (pixels)", ylabel=label, xscale="log", ylim=(0, None))
            axis.set_xticks(SIDES, map(str, SIDES))
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.legend(frameon=False)
    if others:
        axis = next(parts).subplots()
        for k, other in enumerate(others):
            rows = [(row, r["time_ratio"][other]) for row, r in enumerate(compared) if other in r["time_ratio"]]
            places = [row - 0.4 + bar * (k + 0.5) for row, _ in rows]
            axis.barh(places, [ratio for _, ratio in rows], 0.95 * bar, label=f"tinyfcn / {other}", color=_colour(other))
        axis.axvline(1, color="0.4", linewidth=1)
        axis.set_yticks(range(len(compared)), [r["work"] for r in compared])
        axis.set(xlabel="ratio of times (below 1: tinyfcn is faster)", ylim=(len(compared) - 0.4, -0.6))
        axis.grid(alpha=0.3, axis="x")
        axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)
    save(figure, path, dpi=120)


def _colour(name: str) -> str:
    return f"C{FORWARD.index(name)}"


def draw_scaling(found: Iterable[Record], path: Path) -> None:
    """Draw time and memory over each axis, measured and by the model."""
    rows = {r["work"]: r for r in found}
    figure = Figure(figsize=(11, 6.5), layout="constrained")
    values: dict[str, Callable[[Work], Any]] = {
        "side": lambda w: w.shape[2],
        "images": lambda w: w.shape[0],
        "width": lambda w: w.width,
    }
    labels = {"side": "image side (pixels)", "images": "images", "width": "width"}
    panels = figure.subplots(2, 3, sharex="col", sharey="row")
    kinds = sorted({(r["task"], r["threads"]) for r in rows.values()})
    for column, (axis, works) in enumerate(scaling.axes().items()):
        some = [work for work in works if work.title in rows]
        for k, (task, threads) in enumerate(kinds):
            curve = [w for w in some if (w.task, w.threads) == (task, threads)]
            for panel, kind, unit in zip(panels[:, column], ("seconds", "memory"), (1, 1e-6), strict=True):
                x, key = [values[axis](w) for w in curve], "median_seconds" if kind == "seconds" else "peak_memory"
                measured, model = ([rows[w.title][name] * unit for w in curve] for name in (key, f"model_{kind}"))
                panel.plot(x, model, color=f"C{k}", linewidth=1)
                label = f"{'training step' if task == 'step' else task}, {threads} thread{'s' * (threads > 1)}"
                panel.plot(x, measured, "o", color=f"C{k}", label=label, markersize=4)
        panels[1, column].set(xlabel=labels[axis], xscale="log")
        ticks = sorted({values[axis](w) for w in works})
        panels[1, column].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panels[1, column].minorticks_off()
    panels[0, 0].set(ylabel="seconds", yscale="log")
    panels[0, 0].legend(frameon=False, fontsize=8)
    panels[1, 0].set(ylabel="memory (MB)", yscale="log")
    for panel in panels.flat:
        panel.grid(alpha=0.3)
    figure.suptitle("measured (dots) and by the model (lines)", fontsize=10)
    save(figure, path, dpi=120)
