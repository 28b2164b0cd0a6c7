"""The devices that tests run on; operations, optimisers and scores as a test wants them: NumPy arrays in and out, the work on the
device of the moment.

`cpu` is NumPy. `gpu` is CuPy, where a GPU answers; with TINYFCN_GPU=emulated in the environment it is the one of tests/emulated.
"""

import os
from contextlib import contextmanager

import emulated
import numpy as np
import pytest

from tinyfcn import metrics, optim
from tinyfcn import ops as tinyfcn_ops
from tinyfcn.backend import array_module, choose_device, to_device, to_host, why_no_gpu
from tinyfcn.ops import winograd

GPU = pytest.param("gpu", marks=pytest.mark.gpu)
EMULATED = os.environ.get("TINYFCN_GPU") == "emulated"
WHY_NOT = emulated.why_not() if EMULATED else None
if EMULATED and not WHY_NOT:
    emulated.start()
WHY_NOT = WHY_NOT or why_no_gpu()
PARAMS = ["cpu"] + [GPU] * (EMULATED or not WHY_NOT)
ON_CPU = pytest.mark.parametrize("device", ["cpu"], indirect=True)  # for what NumPy's threads and memory do
_module = np  # that of the device of the moment


@contextmanager
def device(name):
    """Make the device `name` that of `ops` below; gives its array module."""
    global _module
    if name == "gpu" and WHY_NOT:
        pytest.skip(f"{WHY_NOT}; see tests/emulated/README.md")
    before, _module = _module, choose_device(name)
    for dtype in np.float32, np.float64:
        winograd.matrices(_module, np.dtype(dtype))  # they cross to the device once
    try:
        yield _module
    finally:
        _module = before


@contextmanager
def nothing_crosses():
    """Within, nothing may move between host and device, and the host may not wait; on a real GPU nobody counts."""
    if not emulated.started():
        yield
        return
    with emulated.counting() as counts:
        yield
    assert not counts.crossed, counts.crossed


def put(value):
    """NumPy arrays, each of a tuple too, and generators as the device of the moment has them; anything else as it is."""
    if _module is np:
        return value
    if isinstance(value, tuple):
        return getattr(value, "_make", tuple)(map(put, value))  # an operation's cache has names
    if isinstance(value, np.ndarray):
        return _in_memory_order(value, lambda array: to_device(array, _module))
    if isinstance(value, np.random.Generator):
        return _module.random.default_rng(int(value.integers(1 << 30)))
    return value


def get(value):
    """An array, or each of a tuple, as a NumPy array with the same order in memory; anything else as it is."""
    if isinstance(value, tuple):
        return tuple(get(v) if not isinstance(v, tuple) else v for v in value)  # an operation's cache stays where it is
    try:
        if array_module(value) is np:
            return value
    except TypeError:
        return value
    return _in_memory_order(value, to_host)


def _in_memory_order(array, move):
    """Move an array with its axes in the order of its memory: CuPy knows but C's and Fortran's order when it copies."""
    order = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    return move(array.transpose(order)).transpose(*map(order.index, range(array.ndim)))


class _Ops:
    """The functions of `tinyfcn.ops`, none of which may move anything between host and device, or wait for the device."""

    def __getattr__(self, name):
        function = getattr(tinyfcn_ops, name)
        if name.startswith("bilinear"):  # they make NumPy arrays
            return function

        def call(*arguments, **options):
            arguments, options = [put(a) for a in arguments], {key: put(a) for key, a in options.items()}
            with nothing_crosses():
                result = function(*arguments, **options)
            return get(result)

        return call


ops = _Ops()


class _Optimiser:
    """An optimiser of `tinyfcn.optim` for parameters and gradients on the host, which works on the device of the moment."""

    def __init__(self, real):
        self._real = real

    @property
    def state(self):
        return {name: get(moment) for name, moment in self._real.state.items()}

    def step(self, params, grads, lr_factor=1.0):
        update = self.begin({name: params[name] for name in grads}, lr_factor)
        for name, gradient in grads.items():
            update(name, gradient)

    def begin(self, params, lr_factor=1.0):
        there = {name: put(p) for name, p in params.items()}
        update = self._real.begin(there, lr_factor)

        def update_and_copy(name, gradient):
            update(name, put(gradient))
            params[name][...] = get(there[name])

        return update_and_copy


def SGD(*arguments, **options):
    return _Optimiser(optim.SGD(*arguments, **options))


def Adam(*arguments, **options):
    return _Optimiser(optim.Adam(*arguments, **options))


class ConfusionMatrix(metrics.ConfusionMatrix):
    """Counts on the device of the moment."""

    def update(self, labels, predictions):
        super().update(put(labels), put(predictions))
