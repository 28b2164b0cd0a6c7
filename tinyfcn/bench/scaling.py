"""How cost grows with the image, the batch, the width and the threads, beside the model: `python -m tinyfcn.bench --scaling`.

One axis at a time, around one point: on two quiet cores the whole takes six to eight minutes, and 3 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from tinyfcn.backend import thread_count
from tinyfcn.bench import cost
from tinyfcn.bench.contenders import CLASSES, OPTIMISERS, TINYFCN, Work
from tinyfcn.bench.cost import Machine
from tinyfcn.bench.tables import Column, Record, line, megabytes, milliseconds
from tinyfcn.bench.timing import Measurement, answers, measure
from tinyfcn.models import FCN8s
from tinyfcn.models.network import layer_of
from tinyfcn.ops.tiles import BLOCK_BYTES

SIDE, WIDTH = 256, 0.25  # the point around which
SIDES = (64, 256, 1024, 2000)  # pixels
BATCHES = (1, 4, 32)  # images
WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0)
NOTHING = (1, 3, 1, 1), 1 / 512  # batch and width with which there is next to nothing to compute
TASKS = ("forward", "step")
SIZES = {"product": 4096, "transform": 1 << 11, "block copy": BLOCK_BYTES // 4, "copy": 1 << 26}  # of what measures the machine
APART = 1.5

TABLE: list[Column] = [
    ("work", "<48", lambda r: r["work"]),
    ("time", ">11", lambda r: milliseconds(r["median_seconds"])),
    ("model", ">11", lambda r: milliseconds(r["model_seconds"])),
    ("/ model", ">7", lambda r: f"{r['median_seconds'] / r['model_seconds']:.2f}"),
    ("memory", ">9", lambda r: megabytes(r["peak_memory"])),
    ("model", ">9", lambda r: megabytes(r["model_memory"])),
    ("/ model", ">7", lambda r: f"{r['peak_memory'] / r['model_memory']:.2f}" if r["peak_memory"] else "-"),
]


class Fixed(NamedTuple):
    """What a call takes with nothing to compute."""

    seconds: float
    memory: int  # bytes of the bare process


def point(task: str, side: int = SIDE, images: int = 1, width: float = WIDTH, threads: int = 0) -> Work:
    threads = threads or thread_count()
    title = f"{task}, {images}x3x{side}x{side}, width {width:g}, {threads} thread{'s' * (threads > 1)}"
    return Work(title, task, (TINYFCN,), (images, 3, side, side), width, "same", threads=threads)


def axes() -> dict[str, list[Work]]:
    """The points along each axis; those of the axis "side" once for each number of threads, one and all."""
    return {
        "side": [point(t, side=s, threads=k) for k in sorted({1, thread_count()}) for t in TASKS for s in SIDES],
        "images": [point(t, images=n) for t in TASKS for n in BATCHES],
        "width": [point(t, width=w) for t in TASKS for w in WIDTHS],
    }


def points() -> list[Work]:
    """All of them, each once."""
    return list(dict.fromkeys(work for works in axes().values() for work in works))


def constants(threads: int, time: Callable[[Work], Measurement]) -> tuple[Machine, dict[str, Fixed]]:
    """What the machine does with so many threads, and the fixed cost of each task."""
    works = [Work(task, task, (TINYFCN,), (size,), threads=threads) for task, size in SIZES.items()]
    done = list(map(time, works))
    machine = Machine(*((m.traffic if m.work.task.endswith("copy") else m.arithmetic) / min(m.seconds) for m in done))
    fixed = {}
    for task in TASKS:
        shape, width = NOTHING
        found = time(point(task, width=width, threads=threads)._replace(shape=shape))
        fixed[task] = Fixed(min(found.seconds), found.memory or 0)
    return machine, fixed


def predict(work: Work, machine: Machine, fixed: Fixed) -> tuple[float, int]:
    """Seconds, and the peak of memory in bytes."""
    shapes = FCN8s.shapes(CLASSES, work.width)
    weights = {name: shape for name, shape in shapes.items() if layer_of(name) not in FCN8s.upsamplings}
    moments = len(OPTIMISERS[work.task](1.0).suffixes) if work.task in OPTIMISERS else None
    seconds = fixed.seconds + machine.seconds(cost.network(weights, work.shape, work.threads, moments))
    return seconds, fixed.memory + cost.memory(weights, work.shape, work.threads, moments)


def record(found: Measurement, machine: Machine, fixed: Fixed) -> Record:
    seconds, memory = predict(found.work, machine, fixed)
    return {
        "work": found.work.title,
        "task": found.work.task,
        "shape": found.work.shape,
        "width": found.work.width,
        "threads": found.work.threads,
        "contender": TINYFCN,
        "seconds": found.seconds,
        "median_seconds": found.median,
        "model_seconds": seconds,
        "peak_memory": found.memory,
        "model_memory": memory,
    }


def run(every: Sequence[Work], repeats: int, say: Callable[[str], Any]) -> tuple[dict[str, Any], list[Record]]:
    """Measure what the machine does, by numbers of threads, and all points; `say` gets a line of the table for each."""
    counts = sorted({work.threads for work in every})
    runs = (len(every) + len(counts) * (len(SIZES) + len(TASKS))) * answers(repeats)
    with tqdm(total=runs, unit="run", leave=False) as bar:

        def time(work: Work) -> Measurement:
            bar.set_description(work.title)
            (found,) = measure(work, repeats, bar.update)
            return found

        known = {threads: constants(threads, time) for threads in counts}
        say(line(TABLE))
        found = []
        for work in every:
            machine, fixed = known[work.threads]
            found.append(record(time(work), machine, fixed[work.task]))
            say(line(TABLE, found[-1]))
    machines = {
        str(threads): machine._asdict() | {"fixed": {task: f._asdict() for task, f in fixed.items()}}
        for threads, (machine, fixed) in known.items()
    }
    return machines, found


def apart(found: Iterable[Record]) -> list[Record]:
    """The points of which time or memory is more than APART times off the model, either way."""

    def far(measured: float | None, model: float) -> bool:
        return measured is not None and not 1 / APART <= measured / model <= APART

    return [r for r in found if far(r["median_seconds"], r["model_seconds"]) or far(r["peak_memory"], r["model_memory"])]
