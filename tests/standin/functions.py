"""CuPy's functions, looked up by name: NumPy's of the same name, if every version of CuPy has it, with the arguments it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from standin import listing, rules
from standin.arrays import apply, checked_places, index, ndarray, run, transfer, wrap
from standin.ledger import note

TO_DEVICE = {"array", "asarray", "asanyarray", "ascontiguousarray", "asfortranarray"}
ANSWERS = {"allclose", "array_equal", "array_equiv"}  # a bool in NumPy, an array without axes in CuPy
ATOMIC = {"add": "iILQefd", "subtract": "iI", "maximum": "iILQfd", "minimum": "iILQfd"}  # types that `at` takes in every version


def find(owner: str, name: str) -> Any:
    """What the module `owner` has under a name. Raises AttributeError for what a version of CuPy lacks."""
    full = f"{owner}.{name}"
    kind = listing.kind(full)
    if full in OWN:
        return OWN[full]
    home = np
    for part in owner.split(".")[1:]:
        home = getattr(home, part)
    if kind not in ("function", "ufunc", "numpy") or not hasattr(home, name):
        raise AttributeError(f"CuPy has {full}, but the stand-in does not")
    theirs = getattr(home, name)
    if kind == "numpy":
        return theirs
    if kind == "ufunc" and isinstance(theirs, np.ufunc):
        return Ufunc(full, theirs)
    return _function(full, name, theirs)


class Ufunc:
    """A universal function, with the keywords and methods that CuPy's has."""

    def __init__(self, full: str, theirs: np.ufunc) -> None:
        self.__name__, self._theirs = theirs.__name__, theirs
        self._accepts, self._methods = listing.accepts(full), listing.methods(full)
        self.nin, self.nout, self.nargs = theirs.nin, theirs.nout, theirs.nargs

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if kwargs:
            self._accepts.check((), kwargs)
        if len(args) > self.nin:
            if out is not None:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            args, out = args[: self.nin], args[self.nin :]
        return apply(self._theirs, args, out, **kwargs)

    def __repr__(self) -> str:
        return f"<ufunc 'cupy_{self.__name__}'>"

    def _require(self, method: str) -> None:
        if method not in self._methods:
            raise NotImplementedError(f"`{self.__name__}.{method}` is not supported yet")

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        self._require("at")
        if a.dtype.char not in ATOMIC.get(self.__name__, "iIlLqQ"):
            raise TypeError(f"{self.__name__}.at does not support {a.dtype} in every version")
        if not (isinstance(b, ndarray) or rules.scalar(b)):
            raise TypeError(f"{self.__name__}.at: Unsupported type {type(b)}")
        places, _ = index(indices, f"{self.__name__}.at")
        rules.target(a._raw)
        self._theirs.at(a._raw, places, b._raw if isinstance(b, ndarray) else b)

    def reduce(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        self._require("reduce")
        return {"add": array.sum, "multiply": array.prod}[self.__name__](axis, dtype, out=out, keepdims=keepdims)

    def accumulate(self, array: ndarray, axis: int = 0, dtype: Any = None, out: Any = None) -> Any:
        self._require("accumulate")
        return {"add": array.cumsum, "multiply": array.cumprod}[self.__name__](axis, dtype, out=out)


def _function(full: str, name: str, theirs: Callable[..., Any]) -> Callable[..., Any]:
    accepts = listing.accepts(full)

    def call(*args: Any, **kwargs: Any) -> Any:
        accepts.check(args, kwargs)
        if name in ("take", "repeat"):
            args = (*args[:1], *checked_places(name, args[1:]))
        result = run(theirs, name, args, kwargs)
        return wrap(np.asarray(result)) if name in ANSWERS else result

    call.__name__ = name
    return call


def _to_device(name: str) -> Callable[..., Any]:
    """`array` and its kin: of an array on the device NumPy's function, of anything else a transfer."""
    accepts = listing.accepts(f"cupy.{name}")

    def call(values: Any, *args: Any, **kwargs: Any) -> Any:
        accepts.check((values, *args), kwargs)
        options = dict(zip(ORDER_OF_ARGUMENTS[name], args, strict=False)) | kwargs
        dtype, order, ndmin = options.get("dtype"), options.get("order"), options.get("ndmin", 0)
        order = {"ascontiguousarray": "C", "asfortranarray": "F"}.get(name, order)
        if _on_device(values):
            if isinstance(values, ndarray) and dtype is not None:
                rules.castable(values._raw, np.dtype(dtype))
            return run(getattr(np, name), name, (values, *args), kwargs)
        return transfer(values, name, dtype, order, ndmin)

    call.__name__ = name
    return call


ORDER_OF_ARGUMENTS = {
    "array": ("dtype", "copy", "order", "subok", "ndmin"),
    "asarray": ("dtype", "order"),
    "asanyarray": ("dtype", "order"),
    "ascontiguousarray": ("dtype",),
    "asfortranarray": ("dtype",),
}


def _on_device(values: Any) -> bool:
    if isinstance(values, (list, tuple)):
        return any(_on_device(value) for value in values)
    return isinstance(values, ndarray)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return a.get(stream, order, out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def where(condition: ndarray, x: Any = None, y: Any = None) -> Any:
    if not isinstance(condition, ndarray):
        raise TypeError(f"where: the condition must be a cupy.ndarray, got {type(condition)}")
    if (x is None) != (y is None):
        raise ValueError("Must provide both 'x' and 'y' or neither.")
    if x is None:
        note("synchronisations", "where", condition._raw)
        return run(np.nonzero, "where", (condition,), {})
    for value in (x, y):
        if not (isinstance(value, ndarray) or rules.scalar(value)):
            raise TypeError(f"where: Unsupported type {type(value)}")
    rules.agree("where", [value._raw if isinstance(value, ndarray) else value for value in (x, y)])
    return run(np.where, "where", (condition, x, y), {})


def matmul(a: Any, b: Any, *, out: Any = None) -> Any:
    return apply(np.matmul, (a, b), out)


def split(ary: ndarray, indices_or_sections: Any, axis: int = 0) -> list[ndarray]:
    if not -ary.ndim <= axis < ary.ndim:
        raise IndexError("Axis exceeds ndim")
    return run(np.split, "split", (ary, indices_or_sections, axis), {})


def as_strided(x: ndarray, shape: Any = None, strides: Any = None) -> ndarray:
    return wrap(np.lib.stride_tricks.as_strided(x._raw, shape, strides))


def get_array_module(*args: Any) -> Any:
    import sys

    return sys.modules["cupy"] if any(isinstance(a, ndarray) for a in args) else np


OWN: dict[str, Any] = {f"cupy.{name}": _to_device(name) for name in TO_DEVICE} | {
    "cupy.ndarray": ndarray,
    "cupy.asnumpy": asnumpy,
    "cupy.where": where,
    "cupy.matmul": matmul,
    "cupy.split": split,
    "cupy.lib.stride_tricks.as_strided": as_strided,
    "cupy.get_array_module": get_array_module,
}
