"""Arrays with a shape and no numbers: running the package on them lists what a GPU would be asked to do, and computes nothing.

    with ghosts.trace() as trace:
        x = trace.xp.empty((1, 64, 698, 698), np.float32)
        ops.relu_forward(x)
    trace.kernels    # [Kernel(what='maximum', read=124724736, written=124724736, flops=31181184, ...)]

Inside `trace`, a module of that kind takes CuPy's place. Each call is turned into the kernels that CuPy would launch:

- an operation entry by entry is one kernel. It reads each input once (what is broadcast counts once) and writes its output; an
  entry counts as one floating-point operation, whatever it is;
- a sum, a maximum over an axis, a copy, and filling an array are one kernel each;
- a matrix product reads both matrices once and writes the result: as if its blocks met in the cache whenever they should. CuPy
  hands cuBLAS what is contiguous or the transpose of it; of more than two axes, only what is contiguous. Anything else it copies
  first, or afterwards (`cupy._core._routines_linalg.matmul`): these copies are marked `hidden`. Where a matrix is broadcast
  over the others, tables of pointers are made first, by one small kernel for each of the axes before the matrix;
- indexing with arrays is one kernel for each index array, and one for the entries;
- views launch nothing, and neither does anything of size 0. In `a[k] += b`, what is put back is there already.

Who launched a kernel is read from the call stack. Nothing of this has been compared with a GPU.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np


class Kernel(NamedTuple):
    what: str  # the function that launched it, such as "maximum" or "matmul"
    read: int  # bytes
    written: int  # bytes
    flops: int
    product: bool  # whether it is a matrix product
    batch: int  # matrices in it
    hidden: bool  # whether CuPy does it of itself, to suit cuBLAS
    layer: str  # "conv1_1", "loss", ...
    phase: str  # "forward", "input gradient", "weight gradient", "backward" or "update"
    function: str  # the innermost function of tinyfcn.ops, such as "im2col"

    @property
    def bytes(self) -> int:
        return self.read + self.written


class Trace:
    """The kernels so far, and the memory that arrays take."""

    def __init__(self) -> None:
        self.kernels: list[Kernel] = []
        self.xp = _module()
        self.live = self.peak = 0  # bytes
        self.peak_at = ""  # layer and phase
        self._owners: dict[int, weakref.ref] = {}

    def launch(self, what: str, reads: list, writes: list, flops: int = 0, *, batch: int = 0, hidden: bool = False) -> None:
        if all(array.size for array in writes):
            amounts = (sum(map(_unique_bytes, arrays)) for arrays in (reads, writes))
            self.kernels.append(Kernel(what, *amounts, flops, batch > 0, batch, hidden, *_who()))

    def hold(self, raw: np.ndarray) -> ghost:
        """Count an array's memory for as long as it lives."""
        key, size = id(raw), raw.nbytes
        self.live += size

        def release(_: Any) -> None:
            self.live -= size
            del self._owners[key]

        self._owners[key] = weakref.ref(raw, release)
        if self.live > self.peak:
            self.peak, self.peak_at = self.live, " ".join(_who()[:2]).strip()
        return ghost(raw)


_open: list[Trace] = []


@contextmanager
def trace() -> Iterator[Trace]:
    """A trace of what happens within, where `import cupy` gives ghosts."""
    new, before = Trace(), sys.modules.get("cupy")
    sys.modules["cupy"] = new.xp
    _open.append(new)
    try:
        yield new
    finally:
        _open.remove(new)
        del sys.modules["cupy"]
        if before is not None:
            sys.modules["cupy"] = before


class ghost(np.lib.mixins.NDArrayOperatorsMixin):
    """Shape, strides and type are those of a NumPy array, whose memory is reserved but neither read nor written."""

    def __init__(self, raw: np.ndarray) -> None:
        self.raw = raw

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "strides", "dtype", "ndim", "size", "nbytes", "itemsize", "flags"):
            return getattr(self.raw, name)
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(self.raw)

    def __iter__(self) -> Iterator[ghost]:
        return (self[k] for k in range(len(self)))

    # Views

    @property
    def T(self) -> ghost:
        return ghost(self.raw.T)

    def transpose(self, *axes: int) -> ghost:
        return ghost(self.raw.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ghost:
        return ghost(self.raw.swapaxes(a, b))

    def reshape(self, *shape: Any) -> ghost:
        view = self.raw.reshape(*shape)
        if np.may_share_memory(view, self.raw) or not self.size:
            return ghost(view)
        return _copy(self).reshape(*shape)

    def __getitem__(self, key: Any) -> ghost:
        arrays = _index_arrays(key)
        if not arrays:
            return ghost(np.asarray(self.raw[key]))
        taken = _empty(np.broadcast_shapes(*(a.shape for a in arrays)), self.dtype)
        for index in arrays:
            _open[-1].launch("index", [index], [index])
        _open[-1].launch("take", [*arrays, taken], [taken])
        return taken

    def __setitem__(self, key: Any, value: Any) -> None:
        arrays = _index_arrays(key)
        target = value if arrays else self[key]
        if isinstance(value, ghost) and _place(value) == _place(target) and not arrays:
            return  # as CuPy: in a[k] += b the sum is there already
        for index in arrays:
            _open[-1].launch("index", [index], [index])
        _open[-1].launch("copy" if isinstance(value, ghost) else "fill", [*arrays, value], [target])

    # Kernels

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple = (None,), **_: Any) -> ghost:
        assert method == "__call__", f"{ufunc.__name__}.{method}"
        if ufunc is np.matmul:
            return _matmul(*inputs, out[0])
        result = out[0]
        if result is None:
            kinds = [x.dtype if hasattr(x, "dtype") else type(x) for x in inputs]
            dtype = ufunc.resolve_dtypes((*kinds, None))[-1]
            arrays = [x for x in inputs if isinstance(x, ghost)]
            shape = np.broadcast_shapes(*(a.shape for a in arrays))
            columns = all(a.flags.f_contiguous and not a.flags.c_contiguous for a in arrays)
            result = _hold(np.empty(shape, dtype, "F" if columns else "C"))  # CuPy keeps no other order
        _open[-1].launch(ufunc.__name__, list(inputs), [result], result.size)
        return result

    def astype(self, dtype: Any, copy: bool = True) -> ghost:
        return _copy(self, dtype) if copy or self.dtype != dtype else self

    def sum(self, axis: Any = None, keepdims: bool = False) -> ghost:
        return _reduce("sum", self, axis, keepdims)

    def max(self, axis: Any = None, keepdims: bool = False) -> ghost:
        return _reduce("max", self, axis, keepdims)


def _matmul(a: ghost, b: ghost, out: ghost | None) -> ghost:
    """As `cupy._core._routines_linalg.matmul` and `dot` go about it."""
    here, few = _open[-1], max(a.ndim, b.ndim) <= 2

    def fit(x: ghost) -> ghost:
        return x if x.flags.c_contiguous or (few and x.flags.f_contiguous) else _copy(x, hidden=True)

    a, b = fit(a), fit(b)
    a2, b2 = a.shape if a.ndim > 1 else (1, *a.shape), b.shape if b.ndim > 1 else (*b.shape, 1)
    outer = np.broadcast_shapes(a2[:-2], b2[:-2])
    shape = (*outer, *a2[-2:-1] * (a.ndim > 1), *b2[-1:] * (b.ndim > 1))
    direct = out is not None and out.flags.c_contiguous
    result = out if direct else _empty(shape, a.dtype)
    if any(prod(x[:-2]) < prod(outer) for x in (a2, b2)):
        for axis in range(3 * len(outer)):  # of a, b and the result
            pointers = _empty((prod(outer[: axis // 3 + 1]),), np.int64)
            here.launch("pointers", [], [pointers], hidden=True)
    here.launch("matmul", [a, b], [result], 2 * result.size * a2[-1], batch=prod(outer))
    if out is not None and not direct:
        here.launch("copy", [result], [out], hidden=True)
    return result if out is None else out


def _reduce(what: str, x: ghost, axis: Any, keepdims: bool) -> ghost:
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in np.atleast_1d(axis)]
    shape = [1 if k in axes else n for k, n in enumerate(x.shape) if keepdims or k not in axes]
    result = _empty(tuple(shape), x.dtype)
    _open[-1].launch(what, [x], [result], x.size)
    return result


def _copy(x: ghost, dtype: Any = None, *, hidden: bool = False) -> ghost:
    new = _empty(x.shape, dtype or x.dtype)
    _open[-1].launch("copy", [x], [new], hidden=hidden)
    return new


def _empty(shape: Any, dtype: Any = np.float64) -> ghost:
    return _hold(np.empty(shape, dtype))


def _hold(raw: np.ndarray) -> ghost:
    return _open[-1].hold(raw)


def _filled(new: ghost) -> ghost:
    _open[-1].launch("fill", [], [new])
    return new


def _where(condition: ghost, a: Any, b: Any) -> ghost:
    arrays = [x for x in (a, b) if isinstance(x, ghost)]
    dtype = np.result_type(*(x.dtype for x in arrays)) if arrays else np.result_type(type(a), type(b))
    if any(isinstance(x, float) for x in (a, b)) and np.dtype(dtype).kind not in "f":
        dtype = np.dtype(np.float64)
    new = _empty(condition.shape, dtype)
    _open[-1].launch("where", [condition, a, b], [new], new.size)
    return new


def _concatenate(parts: Any, axis: int = 0) -> ghost:
    parts = list(parts)
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    new = _empty(tuple(shape), parts[0].dtype)
    for part in parts:
        _open[-1].launch("copy", [part], [part])
    return new


def _repeat(x: ghost, count: int, axis: int) -> ghost:
    shape = [n * count if k == axis else n for k, n in enumerate(x.shape)]
    new = _empty(tuple(shape), x.dtype)
    _open[-1].launch("repeat", [x], [new])
    return new


def _asarray(x: Any, dtype: Any = None) -> ghost:
    return x if isinstance(x, ghost) else _hold(np.asarray(x, dtype))


def _module() -> ModuleType:
    """CuPy, as far as the package asks for it. NumPy's own functions of one entry at a time ask `ghost` what to do."""
    module = ModuleType("cupy")
    as_strided = np.lib.stride_tricks.as_strided
    own: dict[str, Any] = {
        "ndarray": ghost,
        "empty": _empty,
        "zeros": lambda shape, dtype=np.float64: _filled(_empty(shape, dtype)),
        "ones": lambda shape, dtype=np.float64: _filled(_empty(shape, dtype)),
        "empty_like": lambda like, dtype=None: _hold(np.empty_like(like.raw, dtype)),
        "zeros_like": lambda like, dtype=None: _filled(_hold(np.empty_like(like.raw, dtype))),
        "arange": lambda n: _filled(_empty((n,), np.int64)),
        "asarray": _asarray,
        "ascontiguousarray": lambda x: x if x.flags.c_contiguous else _copy(x),
        "where": _where,
        "concatenate": _concatenate,
        "repeat": _repeat,
        "random": SimpleNamespace(default_rng=lambda seed: None),
        "lib": SimpleNamespace(stride_tricks=SimpleNamespace(as_strided=lambda x, *how: ghost(as_strided(x.raw, *how)))),
    }
    module.__dict__.update(own)
    module.__getattr__ = lambda name: getattr(np, name)  # type: ignore[method-assign]
    return module


def _index_arrays(key: Any) -> list[ghost]:
    return [part for part in (key if isinstance(key, tuple) else (key,)) if isinstance(part, ghost)]


def _place(x: ghost) -> tuple:
    return x.raw.__array_interface__["data"], x.shape, x.strides


def _unique_bytes(x: Any) -> int:
    """Bytes of an array, each address once."""
    if not isinstance(x, ghost):
        return 0
    spans = sorted((abs(step), n) for step, n in zip(x.strides, x.shape, strict=True) if step and n > 1)
    covered = x.itemsize  # bytes of the axes so far, in windows that may overlap
    for step, n in spans:
        covered = covered * n if step >= covered else (n - 1) * step + covered
    return covered if x.size else 0


def _who() -> tuple[str, str, str]:
    """Layer, phase and innermost function of tinyfcn.ops that are at work, from the call stack."""
    layer = phase = function = ""
    backward = border = False
    frame = sys._getframe(2)
    while frame is not None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.startswith("tinyfcn.ops") and not function and name not in ("work", "<lambda>", "<listcomp>"):
            function = name
        if not phase and module.startswith("tinyfcn.ops") and name in ("weight_gradient", "input_gradient"):
            phase = name.replace("_", " ")
        if module.startswith("tinyfcn") and name.endswith("backward"):
            backward = True
            if not phase and name == "conv2d_backward":
                phase = "input gradient"
        border = border or module == "tinyfcn.models.border"
        if module == "tinyfcn.optim" and name == "update":
            layer, phase = frame.f_locals["name"].split(".")[0], "update"
        elif module == "tinyfcn.ops.loss" and not layer:
            layer = "loss"
        elif module.startswith("tinyfcn.models") and not layer and isinstance(frame.f_locals.get("name"), str):
            layer = frame.f_locals["name"]
        elif module == "tinyfcn.models.backbone" and name == "backward" and not layer:
            layer = f"pool{frame.f_locals['number']}.stretch" if border else "skips"
        frame = frame.f_back
    return layer, phase or ("backward" if backward else "forward"), function
