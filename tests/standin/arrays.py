"""`ndarray`: a class of its own around a private NumPy array, with CuPy's rules on what it meets, and where results lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from standin import listing, memory, rules
from standin.ledger import note

FORBIDDEN = "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
KEEP_ORDER = {"astype", "copy", "view", "array", "asarray", "asanyarray", "asfortranarray"} | {
    f"{name}_like" for name in ("empty", "zeros", "ones", "full")
}
WAITS = {"nonzero", "flatnonzero", "argwhere", "unique", "bincount", "compress", "extract", "delete", "histogram", "digitize"} | {
    "isin",
    "in1d",
    "intersect1d",
    "setdiff1d",
    "union1d",
    "trim_zeros",
    "percentile",
    "quantile",
    "median",
    "choose",
}  # functions whose result's shape, or a check, needs values on the host


class _Silence:
    """A GPU divides by zero, and overflows, without a warning. (Reusable, as `np.errstate` is not.)"""

    def __enter__(self) -> None:
        self._before.append(np.seterr(all="ignore"))

    def __exit__(self, *_: Any) -> None:
        np.seterr(**self._before.pop())

    def __init__(self) -> None:
        self._before: list[dict[str, Any]] = []


SILENCE = _Silence()


class Flags:
    """`ndarray.flags`: what CuPy has of NumPy's."""

    __slots__ = ("c_contiguous", "f_contiguous", "owndata")

    def __init__(self, raw: np.ndarray) -> None:
        self.c_contiguous, self.f_contiguous = raw.flags.c_contiguous, raw.flags.f_contiguous
        self.owndata = raw.base is None

    @property
    def forc(self) -> bool:
        return self.f_contiguous or self.c_contiguous

    @property
    def fnc(self) -> bool:
        return self.f_contiguous and not self.c_contiguous

    def __getitem__(self, name: str) -> bool:
        return getattr(self, name.lower())


class ndarray:
    """Stands for `cupy.ndarray`."""

    __slots__ = ("__weakref__", "_raw")
    __module__ = "cupy"
    __array_priority__ = 100
    __array_ufunc__ = None  # NumPy's functions refuse these arrays, and its arrays' operators leave the work to ours
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, shape: Any, dtype: Any = float, memptr: Any = None, strides: Any = None, order: str = "C") -> None:
        if memptr is not None or strides is not None:
            raise NotImplementedError("the stand-in has no pointers to memory")
        self._raw = claimed(np.empty(shape, dtype, order))

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(FORBIDDEN)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} of an array of CuPy's: use CuPy's own function. {FORBIDDEN}")

    def __getattr__(self, name: str) -> Any:
        lacking = f"every cupy.ndarray has {name}, but the stand-in does not"
        try:
            listing.kind(f"cupy.ndarray.{name}")
        except AttributeError as error:
            lacking = str(error)
        raise AttributeError(lacking)

    # Attributes

    @property
    def shape(self) -> tuple[int, ...]:
        return self._raw.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        view = self._raw.reshape(shape)
        if view.size and not np.may_share_memory(view, self._raw):
            raise AttributeError("incompatible shape for a non-contiguous array")
        self._raw = view

    @property
    def flags(self) -> Flags:
        return Flags(self._raw)

    @property
    def T(self) -> ndarray:
        return wrap(self._raw.T)

    @property
    def real(self) -> ndarray:
        return wrap(self._raw.real)

    @property
    def imag(self) -> ndarray:
        return wrap(self._raw.imag)

    # To the host

    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True) -> np.ndarray:
        return self._host("get", order, out)

    def _host(self, name: str, order: str = "C", out: np.ndarray | None = None) -> np.ndarray:
        note("to_host", f"ndarray.{name}", self._raw)
        if out is None:
            return np.array(self._raw, order=order)
        if out.dtype != self.dtype or out.shape != self.shape:
            raise TypeError(f"{out.dtype} {out.shape} cannot be obtained from {self.dtype} {self.shape}")
        out[...] = self._raw
        return out

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self._host("item").item()

    def tolist(self) -> Any:
        return self._host("tolist").tolist()

    def tobytes(self, order: str = "C") -> bytes:
        return self._host("tobytes").tobytes(order)

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError("The truth value of an array whose size is not 1 is ambiguous. Use a.any() or a.all()")
        return bool(self._host("__bool__"))

    def _number(self, convert: Callable[[Any], Any]) -> Any:
        if self.ndim:
            raise TypeError(f"only arrays without axes can become a Python {convert.__name__}, got shape {self.shape}")
        return convert(self._host(f"__{convert.__name__}__"))

    def __int__(self) -> int:
        return self._number(int)

    def __float__(self) -> float:
        return self._number(float)

    def __complex__(self) -> complex:
        return self._number(complex)

    def __repr__(self) -> str:
        return repr(self._host("__repr__"))

    def __str__(self) -> str:
        return str(self._host("__str__"))

    def __format__(self, spec: str) -> str:
        return format(self._host("__format__"), spec)

    def __reduce__(self) -> tuple:
        return _unpickle, (self._host("__reduce__"),)

    # To the device

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self._raw.flags.c_contiguous or self._raw.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        note("to_device", "ndarray.set", arr)
        self._raw[...] = arr

    def fill(self, value: Any) -> None:
        if isinstance(value, ndarray) and value.ndim:
            raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
        self[...] = value

    # Containers

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        return len(self._raw)

    def __iter__(self) -> Iterator[ndarray]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[k] for k in range(len(self._raw)))

    def __getitem__(self, key: Any) -> ndarray:
        items, advanced = index(key, "getitem")
        value = self._raw[items]
        if not isinstance(value, np.ndarray):
            value = self._raw[(*items, Ellipsis)]
        return wrap(np.ascontiguousarray(value) if advanced and value.ndim else value)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, ndarray):
            value = value._raw
        elif not rules.scalar(value):
            raise TypeError(f"a[...] = {type(value).__name__}: only numbers and CuPy's arrays can be assigned in every case")
        items, advanced = index(key, "setitem")
        rules.castable(value, self.dtype)
        if advanced:
            rules.target(self._raw)
            if np.size(value) > 1:
                rules.distinct(self._raw, items)
            self._raw[items] = value
        else:
            view = self._raw[items] if any(item is Ellipsis for item in items) else self._raw[(*items, Ellipsis)]
            rules.target(view)
            rules.assignment(view, value)
            view[...] = value

    # Methods that are not NumPy's

    def astype(self, dtype: Any, order: str = "K", casting: None = None, subok: None = None, copy: bool = True) -> ndarray:
        if casting is not None or subok is not None:
            raise TypeError("casting and subok are not supported yet")
        dtype = np.dtype(dtype)
        rules.castable(self._raw, dtype)
        value = self._raw.astype(dtype, order=order, copy=copy)
        return self if value is self._raw else wrap(value)

    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        return wrap(self._raw.reshape(*shape, order=order))

    def view(self, dtype: Any = None) -> ndarray:
        return wrap(self._raw.view() if dtype is None else self._raw.view(dtype))

    def __copy__(self) -> ndarray:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> ndarray:
        return self.copy()

    def __matmul__(self, other: Any) -> ndarray:
        return apply(np.matmul, (self, other))

    def __rmatmul__(self, other: Any) -> ndarray:
        return apply(np.matmul, (other, self))


def claimed(raw: np.ndarray) -> np.ndarray:
    rules.supported(raw.dtype)
    return memory.claim(raw)


def wrap(raw: np.ndarray) -> ndarray:
    """The array of the device around a NumPy array, which becomes its memory."""
    new = ndarray.__new__(ndarray)
    new._raw = claimed(raw)
    return new


def _unpickle(host: np.ndarray) -> ndarray:
    note("to_device", "unpickle", host)
    return wrap(host)


def index(key: Any, name: str) -> tuple[tuple, bool]:
    """The key as NumPy takes it, and whether it holds arrays, so that the result is a copy."""
    items, advanced, masks = [], False, 0
    for item in key if isinstance(key, tuple) else (key,):
        if item is None or item is Ellipsis or isinstance(item, slice):
            items.append(item)
            continue
        if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
            items.append(item)
            continue
        if not isinstance(item, ndarray):  # lists and NumPy's arrays
            item = transfer(item, f"ndarray.{name}")
            item = item if item.size else wrap(item._raw.astype(np.int32))
        if item.dtype.kind not in "biu":
            raise IndexError(f"arrays used as indices must be of integer or boolean type (actual: {item.dtype})")
        advanced = True
        if item.dtype.kind == "b":
            masks += 1
            note("synchronisations", f"ndarray.{name}", item._raw)
        items.append(item._raw)
    if masks > 1:
        raise rules.NotPortableError("an index of several boolean arrays is not supported")
    return tuple(items), advanced


def transfer(values: Any, name: str, dtype: Any = None, order: Any = None, ndmin: int = 0) -> ndarray:
    """A copy on the device of what lies on the host; CuPy gives it C order, where it is not asked for another."""
    host = np.asarray(values)
    if dtype is not None:
        rules.castable(host, np.dtype(dtype))
    fortran = order in ("F", "f") or (order in ("A", "K") and host.flags.fnc)
    raw = np.array(host, dtype=dtype, order="F" if fortran else "C", ndmin=ndmin)
    rules.supported(raw.dtype)
    if raw.ndim:
        note("to_device", name, raw)  # a number alone goes along with the kernel that fills the array
    return wrap(raw)


# Calls


def apply(ufunc: np.ufunc, operands: tuple, out: Any = None, **options: Any) -> Any:
    """Call a ufunc; what it returns lies in C order, whatever the operands do, unless there is an `out`."""
    name = ufunc.__name__
    raw = []
    for operand in operands:
        if isinstance(operand, ndarray):
            raw.append(operand._raw)
        elif rules.scalar(operand):
            raw.append(operand)
        else:
            raise TypeError(f"{name}: Unsupported type {type(operand)}")
    rules.agree(name, raw)
    _note_copies(ufunc, operands, out)
    if out is None:
        with SILENCE:
            return _wrapped(ufunc(*raw, order="C", **options), (), name)
    outs = out if isinstance(out, tuple) else (out,)
    for target in outs:
        if not isinstance(target, ndarray):
            raise TypeError(f"{name}: Output arguments type must be cupy.ndarray, got {type(target)}")
        rules.target(target._raw)
        if ufunc.signature is None and target.shape != np.broadcast_shapes(*(np.shape(operand) for operand in raw)):
            raise ValueError(f"{name}: Out shape is mismatched")
    with SILENCE:
        ufunc(*raw, out=tuple(target._raw for target in outs), **options)
    return out


def _note_copies(ufunc: np.ufunc, operands: tuple, out: Any) -> None:
    """Note what CuPy copies before it computes, or afterwards."""
    arrays = [operand for operand in operands if isinstance(operand, ndarray)]
    if ufunc is np.matmul:
        batched = any(array.ndim > 2 for array in arrays)
        for array in arrays if out is None else [*arrays, out]:
            flags = array._raw.flags
            if not (flags.c_contiguous or (flags.f_contiguous and not batched and array is not out)):
                note("copies", "matmul", array._raw)
    elif isinstance(out, ndarray):
        for array in arrays:
            if array is not out and np.may_share_memory(array._raw, out._raw):
                note("copies", ufunc.__name__, array._raw)


def run(function: Callable[..., Any], name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Call any other function of NumPy's on what is inside the arrays, and wrap what it returns."""
    given: list[ndarray] = []
    raw = [_unwrapped(argument, name, given) for argument in args]
    options = {key: _unwrapped(value, name, given) for key, value in kwargs.items() if key != "blocking"}
    out = kwargs.get("out")
    if isinstance(out, ndarray):
        rules.target(out._raw)
    elif out is not None:
        raise TypeError(f"{name}: out must be a cupy.ndarray, got {type(out)}")
    if name in WAITS:
        note("synchronisations", name, given[0]._raw if given else None)
    with SILENCE:
        return _wrapped(function(*raw, **options), given, name)


def _unwrapped(value: Any, name: str, given: list[ndarray]) -> Any:
    if isinstance(value, ndarray):
        given.append(value)
        return value._raw
    if isinstance(value, np.ndarray):
        raise TypeError(f"{name}: Unsupported type {type(value)}")
    if type(value) in (list, tuple):
        return type(value)(_unwrapped(item, name, given) for item in value)
    return value


def _wrapped(value: Any, given: Any, name: str) -> Any:
    if isinstance(value, np.ndarray):
        for array in given:
            if array._raw is value:
                return array
        view = value.flags.c_contiguous or name in KEEP_ORDER or any(np.may_share_memory(value, a._raw) for a in given)
        return wrap(value if view else np.ascontiguousarray(value))
    if isinstance(value, np.generic):
        return wrap(np.asarray(value))
    if isinstance(value, (tuple, list)):
        items = [_wrapped(item, given, name) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


# The methods and operators that are NumPy's


def _method(name: str) -> Callable[..., Any]:
    function, accepts = getattr(np.ndarray, name), listing.accepts(f"cupy.ndarray.{name}")

    def call(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        accepts.check(args, kwargs)
        if name in ("take", "repeat"):
            args = checked_places(name, args)
        return run(function, name, (self, *args), kwargs)

    call.__name__ = name
    return call


def checked_places(name: str, args: tuple) -> tuple:
    """The indices of `take` may come from the host; the counts of `repeat` must."""
    if name == "repeat" and args and isinstance(args[0], ndarray):
        raise rules.NotPortableError("repeat: CuPy 13 takes counts from the host only")
    if name == "take" and args and not isinstance(args[0], (ndarray, int, np.integer)):
        return (transfer(args[0], "take"), *args[1:])
    return args


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self._raw, name))


def _operator(ufunc: np.ufunc, reflected: bool = False) -> Callable[..., Any]:
    if reflected:
        return lambda self, other: apply(ufunc, (other, self))
    return lambda self, other: apply(ufunc, (self, other))


def _in_place(ufunc: np.ufunc) -> Callable[..., Any]:
    return lambda self, other: apply(ufunc, (self, other), out=self)


def _complete() -> None:
    """Give `ndarray` what every version's has and NumPy's has too."""
    for name in ("dtype", "itemsize", "nbytes", "ndim", "size", "strides"):
        setattr(ndarray, name, _attribute(name))
    for name in listing.members("cupy.ndarray"):
        known = name in vars(ndarray) or not hasattr(np.ndarray, name)
        if not known and listing.kind(f"cupy.ndarray.{name}") == "function":
            setattr(ndarray, name, _method(name))
    binary = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "floordiv": np.floor_divide}
    binary |= {"mod": np.remainder, "pow": np.power, "lshift": np.left_shift, "rshift": np.right_shift}
    binary |= {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "divmod": np.divmod}
    for name, ufunc in binary.items():
        setattr(ndarray, f"__{name}__", _operator(ufunc))
        setattr(ndarray, f"__r{name}__", _operator(ufunc, reflected=True))
        if name != "divmod":
            setattr(ndarray, f"__i{name}__", _in_place(ufunc))
    names = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal", "eq": "equal", "ne": "not_equal"}
    for name, ufunc in names.items():
        setattr(ndarray, f"__{name}__", _operator(getattr(np, ufunc)))
    for name, ufunc in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
        setattr(ndarray, f"__{name}__", lambda self, ufunc=ufunc: apply(ufunc, (self,)))


_complete()
