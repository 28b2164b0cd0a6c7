"""Contenders in processes of their own, timed in turn.

A process for each, so that its peak memory is its own. They take turns, one run each and a pause after it, so that whatever else
the machine does meets all of them alike, and threads that spin on for a while slow down no other contender. What counts is the
median.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from tinyfcn.bench.contenders import COLUMNS, JOBS, SPAWN, WAYS, Work
from tinyfcn.errors import InputError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

WARM_UPS = 2  # rounds that do not count
PAUSE = 0.1  # seconds between runs
CALL_SECONDS = 0.3  # shorter calls follow one another for so long, as the steps of a training do

Answer = tuple[Any, ...]
Ask = Callable[[], Answer]


class Measurement(NamedTuple):
    """What a contender took for a piece of work."""

    work: Work
    contender: str
    seconds: tuple[float, ...]  # of each run
    arithmetic: int  # floating-point operations of a run
    traffic: int  # bytes that a run reads and writes at least
    memory: int | None  # bytes, the peak of the process
    idle: int | None  # bytes before the first run

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def flops(self) -> float:
        """Floating-point operations per second."""
        return self.arithmetic / self.median

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.traffic / self.median


class Clock(NamedTuple):
    """How a contender is measured on its device."""

    seconds: Callable[[Callable[[], Any], int], float]  # that so many calls take
    memory: Callable[[], int | None]  # bytes, the most so far


def measure(work: Work, repeats: int, tick: Callable[[], Any] = lambda: None) -> list[Measurement]:
    """Time all contenders; `tick` is called after each answer, of which a contender gives `answers(repeats)`.

    One that fails is left out, with a line on stderr. Raises InputError where the first one fails, tinyfcn.
    """
    with contextlib.ExitStack() as stack:
        asks = {name: stack.enter_context(contender(name, work)) for name in work.contenders}
        given: dict[str, list[Answer]] = {name: [] for name in asks}
        for _ in range(answers(repeats)):
            for name in list(asks):
                try:
                    given[name].append(asks[name]())
                    time.sleep(PAUSE)
                except InputError as error:
                    if name == work.contenders[0]:
                        raise
                    tqdm.write(f"left out: {error}", file=sys.stderr)
                    del asks[name], given[name]
                tick()
    arithmetic, traffic, _ = given[work.contenders[0]][0]
    return [
        Measurement(work, name, tuple(seconds for seconds, _ in runs[WARM_UPS:]), arithmetic, traffic, runs[-1][1], idle)
        for name, ((*_, idle), *runs) in given.items()
    ]


def answers(repeats: int) -> int:
    """How often a contender is asked: once whether it is ready, then for a run."""
    return 1 + WARM_UPS + repeats


@contextlib.contextmanager
def contender(name: str, work: Work) -> Iterator[Ask]:
    """Start a contender's process; gives a function that asks it for its next answer, see `serve`."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(there, name, work))
    process.start()
    there.close()  # so that `here` ends where the process does

    def ask() -> Answer:
        try:
            with contextlib.suppress(OSError):  # a process that has ended may have left word why
                here.send(None)
            answer = here.recv()
        except (EOFError, OSError):
            process.join()
            raise InputError(f"{name}, {work.title}: its process {_ending(process.exitcode or 0)}") from None
        if isinstance(answer, str):
            raise InputError(f"{name}, {work.title}: {answer}")
        return tuple(answer)

    try:
        yield ask
    finally:
        here.close()  # which ends the process, unless it is at work
        process.join(1)
        process.terminate()
        process.join(10)
        process.kill()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    likely = ", most likely for want of memory" if -status == signal.SIGKILL else ""
    return f"was killed by signal {-status}{likely}"


def serve(connection: Any, name: str, work: Work) -> None:
    """Get ready, then answer each request: first with (arithmetic, traffic, memory), then with (seconds, memory) of a run.

    Memory is the peak of this process in bytes, on Linux without what getting ready took, or what it has taken of a GPU's. A
    fault is answered by its text.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt reaches the parent too, which ends this process,
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # in this way, which removes temporary files
    os.environ["TINYFCN_CONV"] = "columns" if name == COLUMNS else "fast"
    if work.threads:
        os.environ["TINYFCN_THREADS"] = str(work.threads)
    try:
        clock = clock_of(name, work.device)
        job = JOBS[name][work.task](work)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
        connection.recv()
        connection.send((job.arithmetic, job.traffic, clock.memory()))
        while True:
            connection.recv()
            connection.send((seconds_of(job.run, clock), clock.memory()))
    except (EOFError, ConnectionError):  # the parent has gone
        return
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Python may be at work for a while to end, with nothing left to remove


def seconds_of(run: Callable[[], Any], clock: Clock) -> float:
    """How long a call takes; where that is short, the mean of several."""
    one = clock.seconds(run, 1)
    calls = math.ceil(CALL_SECONDS / one)
    return clock.seconds(run, calls) / calls if calls > 1 else one


def clock_of(name: str, device: str) -> Clock:
    if device == "cpu":
        return Clock(host_seconds, peak_memory)
    if name in WAYS:
        torch = import_module("torch")
        return Clock(lambda run, calls: device_seconds(torch, run, calls), torch.cuda.max_memory_reserved)
    cupy = import_module("cupy")
    return Clock(lambda run, calls: device_seconds(cupy, run, calls), cupy.get_default_memory_pool().total_bytes)


def host_seconds(run: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - started


def device_seconds(library: Any, run: Callable[[], Any], calls: int) -> float:
    """Between two events on the device, which the host does not wait for between calls; of CuPy or PyTorch."""
    if library.__name__ == "cupy":
        first, last = library.cuda.Event(), library.cuda.Event()
    else:
        first, last = (library.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(calls):
        run()
    last.record()
    last.synchronize()
    elapsed = library.cuda.get_elapsed_time(first, last) if library.__name__ == "cupy" else first.elapsed_time(last)
    return float(elapsed) / 1e3  # both count milliseconds


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None on Windows, which does not say.

    On Linux, a process inherits the peak of the one that started it, which therefore must stay small.
    """
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
