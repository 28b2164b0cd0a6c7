"""What crosses between host and device, what makes the host wait for the device, and what CuPy copies on its own account."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np


class Entry(NamedTuple):
    """One transfer or wait."""

    name: str  # of the function, such as "asarray" or "ndarray.get"
    shape: tuple[int, ...]
    nbytes: int


@dataclass
class Ledger:
    """The lists of entries. Whatever goes to the host makes it wait too, and is in `to_host` alone.

    `copies` cost time and memory on the device only: operands that overlap an `out` without being it, and operands and outputs
    of a matrix product that do not lie as cuBLAS wants them.
    """

    to_device: list[Entry] = field(default_factory=list)
    to_host: list[Entry] = field(default_factory=list)
    synchronisations: list[Entry] = field(default_factory=list)
    copies: list[Entry] = field(default_factory=list)

    def clear(self) -> None:
        for entries in (self.to_device, self.to_host, self.synchronisations, self.copies):
            entries.clear()

    def __bool__(self) -> bool:
        """Whether anything crossed or waited."""
        return bool(self.to_device or self.to_host or self.synchronisations)


transfers = Ledger()  # since the start, or the last clear()
_open: list[Ledger] = [transfers]


def note(kind: str, name: str, raw: np.ndarray | None = None) -> None:
    """Enter into every open ledger; `kind` is the name of one of its lists."""
    entry = Entry(name, () if raw is None else raw.shape, 0 if raw is None else raw.nbytes)
    for ledger in _open:
        getattr(ledger, kind).append(entry)


@contextmanager
def counting() -> Iterator[Ledger]:
    """A ledger of its own for what happens within."""
    ledger = Ledger()
    _open.append(ledger)
    try:
        yield ledger
    finally:
        _open[:] = [other for other in _open if other is not ledger]
