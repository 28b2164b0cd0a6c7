"""`python -m tinyfcn.bench`: how fast tinyfcn is on this machine, beside PyTorch, ONNX Runtime and OpenVINO where installed."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from tinyfcn import __version__, command, values
from tinyfcn.backend import describe_device, processor_name, thread_count
from tinyfcn.bench import profiling, scaling
from tinyfcn.bench.contenders import (
    CHANNELS_LAST,
    COLUMNS,
    COMPILED,
    LAYER_TASKS,
    NEEDS,
    ONNX,
    OPENVINO,
    OPENVINO_BF16,
    OPTIMISERS,
    ROUNDING,
    SLOW_TO_START,
    TF32,
    TINYFCN,
    TORCH,
    TORCH_BF16,
    Work,
    installed,
    obstacle,
)
from tinyfcn.bench.cost import map_sizes
from tinyfcn.bench.timing import Measurement, answers, measure
from tinyfcn.errors import InputError
from tinyfcn.files import check_free, write_json
from tinyfcn.models.parts import BORDER
from tinyfcn.models.vgg import VGG
from tinyfcn.report import device_line, open_device

DESCRIPTION = """\
Time FCN-8s on this machine: tinyfcn, and PyTorch, ONNX Runtime and OpenVINO where installed, each in a process of its own.
With --device gpu on a GPU, between events of the device: CuPy, and PyTorch where it has CUDA.
Without arguments: a net of a quarter of the width, well under a minute on two cores.

  python -m tinyfcn.bench --full --plot bench.png      all of it, at full width: some ten minutes and 10 GB of memory
  python -m tinyfcn.bench --layers --json layers.json
  python -m tinyfcn.bench --against .                  every contender, also PyTorch compiled, and those that round to bf16
  python -m tinyfcn.bench --scaling --plot scaling.png how time and memory grow, beside what they should be
  python -m tinyfcn.bench --profile                    where the time of a training step goes
"""
NOTES = """\
GFLOP/s: operations of the convolutions by their definition, over the median time. There are ways to do with fewer, such as
Winograd's, so that more than 100 % of the peak is possible. memory: the peak of the process, with all that it has loaded.
GB/s, on a GPU: each weight, input and output of the convolutions once, over the median time, and its share of a plain copy's.
tinyfcn / it: tinyfcn's time over the contender's; below 1, tinyfcn is faster.
PyTorch TF32, on a GPU: with factors rounded to 10 bits, on the tensor cores; bf16: rounded to 8. All others are in float32."""

PRODUCT = 4096  # side of the matrices whose product shows the machine's peak
COPY = 1 << 26  # float32 numbers whose copy shows the memory's
SIDE = 500  # pixels, of the paper's images
SIDES = (125, 250, 500, 1000)  # of --growth
TRAINING = (TINYFCN, TORCH, CHANNELS_LAST, TF32, COMPILED, TORCH_BF16)
FORWARD = (*TRAINING, COLUMNS, ONNX, OPENVINO, OPENVINO_BF16)
FINE_TUNING = tuple(name for name in TRAINING if name != CHANNELS_LAST)  # as PyTorch has them there anyway
LAYER = (TINYFCN, TORCH, TF32)
ON_GPU = (TINYFCN, COLUMNS, TORCH, TF32)
LIBRARIES = (TORCH, ONNX, OPENVINO)  # whose versions are told

Record = dict[str, Any]


# What to time


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
    for layer, (h, w) in map_sizes("paper", (SIDE, SIDE)).items():
        if not layer.startswith("conv"):
            continue
        weight, first = weights[f"{layer}.weight"], layer == "conv1_1"
        size, edge = ((SIDE, SIDE), BORDER) if first else ((h, w), 1)
        for task in LAYER_TASKS:
            if first and task == "input gradient":  # which no network asks for
                continue
            title = f"{layer} {weight[1]}>{weight[0]} {h}x{w} {task.replace('layer', 'forward')}"
            work = Work(title, task, LAYER, (1, weight[1], *size), weight=weight, edge=edge)
            found.setdefault(work[1:], work)
    return list(found.values())


def works(options: argparse.Namespace) -> list[Work]:
    quick = not (options.full or options.finetune or options.layers or options.growth or options.scaling)
    if not quick and (options.width or options.size):
        raise InputError(
            "--width and --size are for the quick run; --full, --finetune, --layers, --growth and --scaling have their own sizes"
        )
    chosen = [kind(options.size or SIDE, options.width or 0.25) for kind in (forward, step)] if quick else []
    if options.full:
        chosen += [forward(SIDE), step(SIDE), step(128, 0.25, images=8, padding="same"), fine_tuning()]
    if options.finetune:
        chosen.append(fine_tuning())
    if options.growth or options.full:
        chosen += [forward(side) for side in SIDES]
    if options.layers or options.full:
        chosen += layers()
    if options.scaling:
        chosen = scaling.points()
    if options.only:
        chosen = [work for work in chosen if options.only.search(work.title)]
        if not chosen:
            raise InputError(f"--only {options.only.pattern}: no piece of work has such a title")
    return list(dict.fromkeys(chosen))


def entered(todo: Sequence[Work], device: str, against: re.Pattern[str] | None) -> list[Work]:
    """The pieces of work with those of their contenders that take part: there on the device, and found by `against`, or,
    without that, float32 and quick to start. One that the machine has no use for is left out, with a line on stderr."""
    there = ON_GPU if device == "gpu" else [name for name in FORWARD if name != TF32]
    asked = [
        name
        for name in there
        if name != TINYFCN and installed(name) and (against.search(name) if against else name not in SLOW_TO_START + ROUNDING)
    ]
    hindered = {name: why for name in asked if (why := obstacle(name))}
    for name, why in hindered.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    who = [TINYFCN, *(name for name in asked if name not in hindered)]
    return [work._replace(device=device, contenders=tuple(name for name in who if name in work.contenders)) for work in todo]


# The machine


def machine(xp: ModuleType) -> dict[str, Any]:
    return {
        "device": describe_device(xp),
        "cpu": processor_name(),
        "threads": thread_count(),
        "python": platform.python_version(),
        "tinyfcn": __version__,
    } | {name: _version(NEEDS[name][0]) if installed(name) else None for name in LIBRARIES}


def _version(module: str) -> str:
    try:
        return metadata.version(module)
    except metadata.PackageNotFoundError:  # a variant under another name
        return "installed"


def describe(facts: dict[str, Any]) -> str:
    """What else there is to say of the machine than `describe_device` does."""
    contenders = [f"{name} {facts[name] or 'not installed'}" for name in LIBRARIES]
    return f"{facts['cpu']}, Python {facts['python']}; {', '.join(contenders)}"


# The table


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


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


Column = tuple[str, str, Callable[[Record], str]]  # heading, format of a cell, text of a cell
WHO: list[Column] = [
    ("work", "<46", lambda r: r["work"] if r["contender"] == TINYFCN else ""),
    ("contender", "<21", lambda r: r["contender"]),
]
TIME: Column = ("time", ">11", lambda r: f"{r['median_seconds'] * 1e3:,.1f} ms")
OF_PEAK: Column = ("of peak", ">7", lambda r: _percent(r["of_peak"]))
LAST: list[Column] = [
    ("memory", ">9", lambda r: f"{r['peak_memory'] / 1e6:,.0f} MB" if r["peak_memory"] else "-"),
    ("tinyfcn / it", ">12", lambda r: f"{1 / r['time_ratio'][TINYFCN]:.2f}"),
]
TABLE: list[Column] = [*WHO, TIME, ("GFLOP/s", ">7", lambda r: f"{r['gflops']:,.0f}"), OF_PEAK, *LAST]
GPU_TABLE: list[Column] = [
    *WHO,
    TIME,
    ("TFLOP/s", ">7", lambda r: f"{r['gflops'] / 1e3:,.2f}"),
    OF_PEAK,
    ("GB/s", ">7", lambda r: f"{r['gbytes_per_s']:,.0f}"),
    ("of copy", ">7", lambda r: _percent(r["of_bandwidth"])),
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


# The picture


def plot(found: Sequence[Record], path: Path) -> None:
    """Draw time and memory per pixel over the image's side, and ratios of times of whole nets, as far as they were measured."""
    from matplotlib.figure import Figure  # late: what this process holds counts as the children's memory

    from tinyfcn.plot import save

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


# The command


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.bench", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parse.add_argument("--full", action="store_true", help="forward and training at full width, the layers and the growth")
    parse.add_argument("--finetune", action="store_true", help="a step of fine-tuning VGG16's convolutions")
    parse.add_argument("--layers", action="store_true", help="VGG16's 3x3 convolutions and their gradients, each shape once")
    parse.add_argument("--growth", action="store_true", help=f"images of {', '.join(map(str, SIDES))} pixels a side")
    parse.add_argument("--only", type=_pattern, metavar="PATTERN", help="of these, what has titles that this pattern finds")
    parse.add_argument(
        "--against",
        type=_pattern,
        metavar="PATTERN",
        help="contenders whose names this pattern finds (default: all in float32, but PyTorch compiled)",
    )
    parse.add_argument("--profile", action="store_true", help="where the time of the training steps goes, in place of comparing")
    parse.add_argument(
        "--scaling",
        action="store_true",
        help="how time and memory grow with image, batch, width and threads, beside a model, in place of comparing; on a CPU",
    )
    command.add_device(parse)
    parse.add_argument("--width", type=command.option(values.WIDTH), help="of the net in the quick run (default 0.25)")
    parse.add_argument("--size", type=command.option(values.SIDE), metavar="N", help=f"... and of its image (default {SIDE})")
    parse.add_argument(
        "--repeats", type=command.option(values.whole(1, 10_000)), metavar="N", default=5, help="runs of each (default 5)"
    )
    parse.add_argument("--json", type=_new_file, metavar="FILE", help="write all numbers")
    parse.add_argument("--plot", type=_new_file, metavar="FILE", help="draw growth and ratios, as a PNG")
    command.add_overwrite(parse)
    return parse


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text}: no regular expression: {error}") from error


def _new_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: must be in a folder that is there")
    return path


def profile_steps(todo: Sequence[Work], facts: dict[str, Any], path: Path | None) -> None:
    """Print where the time of each training step among `todo` goes, and write it to `path`."""
    found = []
    for work in todo:
        if work.task in OPTIMISERS:
            found.append(profiling.profile(work))
            print(f"\n{profiling.text(found[-1])}")
    if not found:
        raise InputError("--profile: no training step is among the pieces of work")
    if path:
        steps = [{"work": p.work.title, "seconds": p.seconds, "rows": [row._asdict() for row in p.rows]} for p in found]
        write_json(path, {"machine": facts, "profiles": steps})


def scale(todo: Sequence[Work], facts: dict[str, Any], options: argparse.Namespace) -> None:
    """Measure how cost grows, and write it where `options` say."""
    machines, found = scaling.run(todo, options.repeats, tqdm.write)
    apart = scaling.apart(found)
    print(f"\n{len(apart)} of {len(found)} are more than {scaling.APART:g} times off the model")
    if options.json:
        write_json(options.json, {"machine": facts | {"by_threads": machines}, "results": found})
    if options.plot:
        scaling.plot(found, options.plot)


def main() -> None:
    options = parser().parse_args()
    todo = works(options)
    check_free(filter(None, (options.json, options.plot)), options.overwrite)
    xp = open_device(options.device)
    device, table = ("cpu", TABLE) if xp is np else ("gpu", GPU_TABLE)
    todo, facts = entered(todo, device, options.against), machine(xp)
    if options.scaling and device == "gpu":
        raise InputError("--scaling: the model is of a CPU; add --device cpu")
    if options.plot and not (
        options.scaling or options.full or options.growth or any(name in NEEDS for work in todo for name in work.contenders)
    ):
        raise InputError("--plot: nothing to draw without --growth, as no other library takes part")
    print(device_line(xp, options.device))
    print(describe(facts))
    if options.scaling:
        return scale(todo, facts, options)
    if options.profile:
        return profile_steps(todo, facts, options.json)
    product = Work(f"matrix product, {PRODUCT}^3", "product", (TINYFCN,), (PRODUCT,), device=device)
    copy = Work(f"copy of {4 * COPY >> 20} MiB", "copy", (TINYFCN,), (COPY,), device=device)
    runs = sum(len(work.contenders) for work in [product, copy, *todo])
    found: list[Record] = []
    with tqdm(desc=product.title, total=runs * answers(options.repeats), unit="run", leave=False) as bar:
        (measured,) = measure(product, options.repeats, bar.update)
        peak = measured.arithmetic / min(measured.seconds)
        (measured,) = measure(copy, options.repeats, bar.update)
        bandwidth = measured.traffic / min(measured.seconds)
        facts |= {"peak_gflops": peak / 1e9, "bandwidth_gbytes_per_s": bandwidth / 1e9}
        bar.write(f"peak: {peak / 1e9:,.0f} GFLOP/s, {product.title} in float32; {bandwidth / 1e9:,.0f} GB/s, {copy.title}")
        bar.write(f"\n{line(table)}")
        for work in todo:
            bar.set_description(work.title)
            new = records(measure(work, options.repeats, bar.update), peak, bandwidth)
            found += new
            bar.write("\n".join(line(table, record) for record in new))
    print(f"\n{NOTES}")
    if options.growth or options.full:
        print("\n".join(["", line(GROWTH), *(line(GROWTH, record) for record in growth(found))]))
    if options.json:
        write_json(options.json, {"machine": facts, "results": found})
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    sys.exit(command.run(main))
