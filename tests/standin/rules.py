"""What the stand-in refuses: operations that CuPy accepts, but with another result than NumPy, or an undefined one.

DIFFERENCES.md says for each rule where CuPy documents it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NUMBERS = (bool, int, float, complex)
COMPARISONS = {"equal", "not_equal", "less", "less_equal", "greater", "greater_equal"}
CATEGORY = {"b": 0, "i": 1, "u": 1, "f": 2, "c": 2}  # kinds between which NumPy 1 looks at types, and not at values
DTYPES = "?bhilqBHILQefdFD"


class NotPortableError(AssertionError):
    """CuPy, or one of the versions of it or of NumPy that are supported, would do something else here, without an error."""


def supported(dtype: np.dtype) -> None:
    if dtype.char not in DTYPES:
        raise ValueError(f"Unsupported dtype {dtype}")


def scalar(value: Any) -> bool:
    """Whether CuPy takes a value as a number: Python's, and NumPy's scalars, but not NumPy's arrays without axes."""
    return type(value) in NUMBERS or (isinstance(value, np.generic) and value.dtype.char in DTYPES)


def agree(name: str, operands: Sequence[Any]) -> None:
    """Check that all versions compute in one dtype: NumPy 1 and CuPy 13 look at the values of scalars, NumPy 2 and CuPy 14 at
    their types (NEP 50)."""
    arrays = [a for a in operands if type(a) is np.ndarray]
    if not arrays or (len(arrays) == len(operands) and len({a.dtype for a in arrays}) == 1):
        return
    leading = [a for a in arrays if a.ndim] or arrays
    dtype = np.result_type(*(a.dtype for a in leading))
    for operand in operands:
        if type(operand) in (int, float):
            _in_range(name, operand, dtype)
        elif isinstance(operand, np.generic) or (type(operand) is np.ndarray and not operand.ndim):
            weaker = CATEGORY[operand.dtype.kind] <= CATEGORY[dtype.kind]
            if weaker and np.promote_types(dtype, operand.dtype) != dtype:
                raise NotPortableError(
                    f"{name}: {operand.dtype} without axes beside an array of {dtype}: NumPy 1 and CuPy 13 compute in {dtype}, "
                    f"NumPy 2 and CuPy 14 in {np.promote_types(dtype, operand.dtype)}"
                )


def _in_range(name: str, number: float, dtype: np.dtype) -> None:
    if type(number) is int and dtype.kind in "iu" and name not in COMPARISONS:
        limits = np.iinfo(dtype)
        fits = limits.min <= number <= limits.max
    elif dtype.kind in "fc" and np.isfinite(number):
        fits = abs(number) <= float(np.finfo(dtype).max)
    else:
        return
    if not fits:
        raise NotPortableError(
            f"{name}: {number} does not fit into {dtype}: some versions raise, others compute in a wider dtype"
        )


def castable(value: Any, dtype: np.dtype) -> None:
    """Check that no float outside an integer type's range is converted to it, where C++ does not define the result."""
    value = np.asarray(value)
    if value.dtype.kind in "fc" and dtype.kind in "iu" and value.size:
        limits = np.iinfo(dtype)
        whole = np.trunc(value.real)
        if not (np.isfinite(whole) & (whole >= float(limits.min)) & (whole <= float(limits.max))).all():
            raise NotPortableError(
                f"conversion of {value.dtype} to {dtype}: values outside its range, or NaN, are undefined on a GPU"
            )


def target(raw: np.ndarray) -> None:
    """Check that no two entries of an array that is to be written lie in one place of memory."""
    if raw.flags.c_contiguous or not raw.size:
        return
    reach = raw.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(raw.strides, raw.shape, strict=True) if n > 1):
        if stride < reach:
            raise NotPortableError(
                f"writing to an array of strides {raw.strides}, whose entries overlap: their order is undefined"
            )
        reach += stride * (length - 1)


def assignment(view: np.ndarray, value: Any) -> None:
    """Check a[...] = value, where CuPy copies memory as it is: a copy onto itself, moved, is undefined."""
    if not isinstance(value, np.ndarray) or value.dtype != view.dtype or value.shape != view.shape:
        return
    same_layout = value.strides == view.strides and view.flags.c_contiguous
    if same_layout and value.ctypes.data != view.ctypes.data and np.may_share_memory(value, view):
        raise NotPortableError("assigning a part of an array to an overlapping part: a copy of overlapping memory is undefined")


def distinct(raw: np.ndarray, key: Any) -> None:
    """Check that a[key] names no entry twice."""
    places = np.arange(raw.size).reshape(raw.shape)[key]
    if np.unique(places).size != places.size:
        raise NotPortableError("a[indices] = values with an index twice: which value stays is undefined on a GPU")
