"""What the notebooks share: a look, a package function's source, a time, and the check of an exercise."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import Code, display

# Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000"]
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW, BLACK = COLOURS

plt.rcParams.update(
    {
        "axes.prop_cycle": plt.cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "figure.figsize": (8, 3.2),
        "image.cmap": "viridis",
        "image.interpolation": "nearest",
    }
)


def show_source(*things: Any) -> None:
    """Display the source of functions of the package, as it is."""
    for thing in things:
        display(Code(inspect.getsource(thing), language="python"))


def seconds(call: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return sorted(times)[repeats // 2]


@contextmanager
def attempt() -> Iterator[None]:
    """Around the check of an exercise: says how it went, and goes on."""
    attempt.passed = False
    try:
        yield
    except NotImplementedError:
        print("Not solved yet.")
    except Exception as error:
        print(f"Not right yet: {type(error).__name__}: {error}")
    else:
        attempt.passed = True
        print("Right!")
