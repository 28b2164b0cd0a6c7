"""How a run is asked to stop: by Ctrl-C, or by the system."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferred_signals() -> Iterator[Callable[[], list[int]]]:
    """Hold back Ctrl-C, and the system's requests to stop, so that a step can be completed; the function that is yielded returns
    the signals that came. A second one acts at once. Signals that are ignored stay ignored: a run under nohup goes on without its
    terminal. Other threads hold nothing back, since Python delivers signals to the main thread alone."""
    came: list[int] = []

    def hold(number: int, _frame: Any) -> None:
        if came:
            raise KeyboardInterrupt(number)
        came.append(number)
        tqdm.write("stopping after this step")

    stopping = STOPPING if threading.current_thread() is threading.main_thread() else []
    heard = [number for number in stopping if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, hold) for number in heard}
    try:
        yield lambda: came
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
