"""`python -m tinyfcn.bench`: how fast tinyfcn is on this machine, beside PyTorch, ONNX Runtime and OpenVINO where installed."""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from tqdm import tqdm

from tinyfcn import __version__, command, values
from tinyfcn.backend import describe_device, processor_name, thread_count
from tinyfcn.bench import profiling, scaling, works
from tinyfcn.bench.contenders import (
    COLUMNS,
    NEEDS,
    ONNX,
    OPENVINO,
    OPTIMISERS,
    ROUNDING,
    SLOW_TO_START,
    TF32,
    TINYFCN,
    TORCH,
    Work,
    installed,
    obstacle,
)
from tinyfcn.bench.tables import GPU_TABLE, GROWTH, TABLE, Record, growth, line, records
from tinyfcn.bench.timing import answers, measure
from tinyfcn.bench.works import FORWARD, SIDE, SIDES
from tinyfcn.errors import InputError
from tinyfcn.files import check_free, write_json
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
ON_GPU = (TINYFCN, COLUMNS, TORCH, TF32)
LIBRARIES = (TORCH, ONNX, OPENVINO)  # whose versions are told


# What to time


def chosen(options: argparse.Namespace) -> list[Work]:
    quick = not (options.full or options.finetune or options.layers or options.growth or options.scaling)
    if not quick and (options.width or options.size):
        raise InputError(
            "--width and --size are for the quick run; --full, --finetune, --layers, --growth and --scaling have their own sizes"
        )
    found = [kind(options.size or SIDE, options.width or 0.25) for kind in (works.forward, works.step)] if quick else []
    if options.full:
        found += [works.forward(SIDE), works.step(SIDE), works.step(128, 0.25, images=8, padding="same"), works.fine_tuning()]
    if options.finetune:
        found.append(works.fine_tuning())
    if options.growth or options.full:
        found += [works.forward(side) for side in SIDES]
    if options.layers or options.full:
        found += works.layers()
    if options.scaling:
        found = scaling.points()
    if options.only:
        found = [work for work in found if options.only.search(work.title)]
        if not found:
            raise InputError(f"--only {options.only.pattern}: no piece of work has such a title")
    return list(dict.fromkeys(found))


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
        from tinyfcn.bench.pictures import draw_scaling

        draw_scaling(found, options.plot)


def main() -> None:
    options = parser().parse_args()
    todo = chosen(options)
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
        from tinyfcn.bench.pictures import draw

        draw(found, options.plot)


if __name__ == "__main__":
    sys.exit(command.run(main))
