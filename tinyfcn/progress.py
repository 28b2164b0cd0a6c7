"""How far a command has come: a bar in a terminal. Elsewhere, as in a batch job's file, a bar would be one endless line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

LINES = 100  # of a training run's progress, at most


def bar(items: Iterable[Item], what: str, total: int, unit: str, shown: bool = True) -> Iterable[Item]:
    """The items, with a bar above them while they are taken, where there is a terminal."""
    return tqdm(items, what, total, unit=unit, leave=False) if shown and sys.stderr.isatty() else items


class Progress:
    """Of training: a bar in a terminal, else a line every hundredth of the way."""

    def __init__(self, done: int, total: int, shown: bool) -> None:
        terminal = sys.stderr.isatty()
        self.shown, self.lines = shown, shown and not terminal
        hidden = {} if shown and terminal else {"disable": True}  # not disable=False, so that TQDM_DISABLE still counts
        self.bar = tqdm(total=total, initial=done, unit="step", **hidden)
        self.total, self.first, self.told = total, done, done
        self.begun = time.perf_counter()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def step(self) -> None:
        self.bar.update()

    def report(self, step: int, loss: float, speed: float) -> None:
        numbers = {"loss": f"{loss:.4g}", "images_per_s": f"{speed:.1f}"}
        self.bar.set_postfix(numbers)
        if self.lines and (step - self.told) * LINES >= self.total:
            self.told = step
            left = (time.perf_counter() - self.begun) / (step - self.first) * (self.total - step)
            told = ", ".join(f"{name}={value}" for name, value in numbers.items())
            print(f"step {step} of {self.total}: {told}, {tqdm.format_interval(left)} left", file=sys.stderr)

    def say(self, text: str) -> None:
        if self.shown:
            self.bar.write(text)
