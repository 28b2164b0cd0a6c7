"""`cupy.random`: generators whose methods and arguments are CuPy's, and whose numbers are NumPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from standin import listing, rules
from standin.arrays import ndarray, wrap


class Generator:
    """Stands for `cupy.random.Generator`."""

    __module__ = "cupy.random"

    def __init__(self, bit_generator: Any) -> None:
        self._theirs = np.random.default_rng(bit_generator)


def _method(name: str) -> Callable[..., Any]:
    accepts = listing.accepts(f"cupy.random.Generator.{name}")
    typed = name in ("random", "standard_normal", "standard_gamma", "standard_exponential", "integers")

    def call(self: Generator, *args: Any, out: ndarray | None = None, **kwargs: Any) -> ndarray:
        accepts.check(args, kwargs if out is None else kwargs | {"out": out})
        dtype = None if typed else kwargs.pop("dtype", None)
        theirs = getattr(self._theirs, name)
        if out is None:
            return wrap(np.asarray(theirs(*args, **kwargs), dtype))
        if not isinstance(out, ndarray) or not out._raw.flags.c_contiguous:
            raise ValueError("Supplied output array is not contiguous, writable or aligned.")
        rules.target(out._raw)
        theirs(*args, out=out._raw, **kwargs)
        return out

    call.__name__ = name
    return call


for _name in listing.members("cupy.random.Generator"):
    if listing.kind(f"cupy.random.Generator.{_name}") == "function" and hasattr(np.random.Generator, _name):
        setattr(Generator, _name, _method(_name))


def default_rng(seed: Any = None) -> Generator:
    if isinstance(seed, Generator):
        return seed
    return Generator(seed._raw if isinstance(seed, ndarray) else seed)


OWN = {"cupy.random.Generator": Generator, "cupy.random.default_rng": default_rng}
