"""Which array module an array belongs to, and the only two doors between host and device.

The mathematics in `tinyfcn.ops`, `tinyfcn.models` and `tinyfcn.optim` is written once, with functions that NumPy and
CuPy share; each function asks `array_module` which of the two its arguments are made of. Arrays cross between host
and device in `to_host` and `to_device` and nowhere else.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from tinyfcn.errors import InputError, is_out_of_memory, one_line

CGROUPS = Path("/sys/fs/cgroup")  # where Linux says what a container may use

Array = Any  # numpy.ndarray or cupy.ndarray; the two have no common type


def array_module(*arrays: Array) -> ModuleType:
    """Return `numpy` or `cupy`, whichever made the arrays.

    Raises TypeError where an argument is no array, or where arrays of both modules are mixed.
    """
    kinds = set(map(type, arrays))  # asked for thousands of times a second, mostly of arrays of one kind
    if kinds == {np.ndarray}:
        return np
    cupy = sys.modules.get("cupy")  # an array of CuPy's can only exist once CuPy has been imported
    if cupy is not None and kinds == {cupy.ndarray}:
        return cupy
    modules = set()
    for array in arrays:
        if isinstance(array, np.ndarray):
            modules.add(np)
        elif cupy is not None and isinstance(array, cupy.ndarray):
            modules.add(cupy)
        else:
            raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}")
    if len(modules) != 1:
        raise TypeError("expected arrays of one module, got NumPy and CuPy arrays together; see to_device and to_host")
    return modules.pop()


def empty_hwnc(xp: ModuleType, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array of shape (N, C, H, W) that lies in memory pixel by pixel, as (H, W, N, C).

    What convolutions return: the values of all images and channels at a pixel are neighbours. So a band of rows is one piece of
    memory, its pixels are the rows of a matrix, and stepping over pixels, as pooling does, still reads whole pieces.
    """
    n, c, h, w = shape
    return hwnc(xp.empty((h, w, n, c), dtype))


def zeros_hwnc(xp: ModuleType, shape: tuple[int, ...], dtype: Any) -> Array:
    """`empty_hwnc`, filled with zeros."""
    n, c, h, w = shape
    return hwnc(xp.zeros((h, w, n, c), dtype))


def hwnc(array: Array) -> Array:
    """See (N, C, H, W) as (H, W, N, C), and the other way round."""
    return array.transpose(2, 3, 0, 1)


def by_pixels(array: Array) -> Array:
    """The array (N, C, H, W) as it is, or a copy that lies in memory pixel by pixel, see `empty_hwnc`."""
    return hwnc(array_module(array).ascontiguousarray(hwnc(array)))


def match_layout(like: Array, array: Array) -> Array:
    """The array with its axes in memory in the order of those of `like`, an array of its shape: itself, or a copy."""
    if array.strides == like.strides:
        return array
    copy = array_module(like, array).empty_like(like, dtype=array.dtype)
    copy[...] = array
    return copy


def to_host(array: Array) -> np.ndarray:
    """Return the array as a NumPy array: itself on a CPU, a copy where it lives on a GPU."""
    host: np.ndarray = array.get() if array_module(array) is not np else array
    return host


def to_device(array: np.ndarray, xp: ModuleType) -> Array:
    """Return the array as one of module `xp`: itself for NumPy, a copy on the current GPU for CuPy."""
    return array if xp is np else xp.asarray(array)


def random_generator(xp: ModuleType, seed: Any) -> Any:
    """A generator of random numbers of module `xp`, from an integer or several.

    On a GPU it is a Philox generator, whose numbers follow from seed and place alone. For XORWOW, CuPy's default, each of 256,000
    threads must first be brought to its own place in the sequence, which takes longer than a training step.
    """
    return np.random.default_rng(seed) if xp is np else xp.random.Generator(xp.random.Philox4x3210(seed))


def choose_device(device: str = "auto") -> ModuleType:
    """Return the array module for `device`: "cpu" is NumPy, "gpu" is CuPy, "auto" is CuPy where a GPU answers.

    Raises ValueError for any other name, RuntimeError where "gpu" is asked for and none answers, and InputError where a variable
    TINYFCN_* has a value that it cannot have.
    """
    thread_count(), convolution_setting()
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"device must be auto, cpu or gpu, got {device!r}")
    if device == "cpu":
        return np
    why_not = why_no_gpu()
    if why_not is None:
        return import_module("cupy")
    if device == "gpu":
        raise RuntimeError(f"no GPU: {why_not} (--device cpu runs without)")
    return np


def why_no_gpu() -> str | None:
    """Let CuPy do a first small computation; returns what is in the way, in one line, or None where a GPU answers."""
    try:
        cupy = import_module("cupy")
        if cupy.cuda.runtime.getDeviceCount() < 1:
            return "CUDA finds no device"
        x = cupy.asarray(np.ones((2, 2), np.float32))
        numbers = cupy.random.Generator(cupy.random.Philox4x3210(0, size=4))  # of states, 64 bytes each
        noise = numbers.random((2, 2), dtype=np.float32)
        (x @ x + noise).get()  # takes cuBLAS, cuRAND and the compiler, so that what is missing is known here
        return None
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            return "CuPy is not installed (cupy-cuda12x or cupy-cuda13x)"
        return f"CuPy does not start: {error}"
    except Exception as error:  # CUDA's runtime, compiler and libraries have errors of their own
        why = one_line(str(error)) or type(error).__name__
        if is_out_of_memory(error):
            return f"the device's memory is full: {why}"
        return f"no NVIDIA driver, or one that is too old ({why})" if "InsufficientDriver" in why else why


def describe_device(xp: ModuleType) -> str:
    """What computes with arrays of module `xp`: "NumPy 2.4.6, OpenBLAS 0.3.31 SkylakeX, 2 threads", "CuPy 14.0.1, H100"."""
    if xp is np:
        setting = convolution_setting()
        how = [f"TINYFCN_CONV={setting}"] if setting != "fast" else []
        libraries = [info for info in threadpool_info() if info["user_api"] == "blas"]
        names = {" ".join(filter(None, map(info.get, ("internal_api", "version", "architecture")))) for info in libraries}
        names = {name.replace("openblas", "OpenBLAS").replace("mkl", "MKL") for name in names}
        return ", ".join([f"NumPy {np.__version__}", *sorted(names), f"{thread_count()} threads", *how])
    properties = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)
    return f"CuPy {xp.__version__}, {properties['name'].decode()}"


def processor_name() -> str:
    """The processor's name, as the system gives it: "AMD EPYC 7B13", "Intel(R) Xeon(R) Processor @ 2.80GHz"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def thread_count() -> int:
    """Threads that bands run on: TINYFCN_THREADS, or one for each core that this process may use.

    A container's CPU quota counts: with 1.5 cores' worth of time on a machine of 64, that is 2. Raises InputError where
    TINYFCN_THREADS is no number from 1 up.
    """
    text = os.environ.get("TINYFCN_THREADS")
    if text is None:
        return _usable_cores()
    if not (text.isdecimal() and int(text) > 0):
        raise InputError(f"TINYFCN_THREADS must be a number of threads from 1 up, got {text!r}")
    return int(text)


def convolution_setting() -> str:
    """TINYFCN_CONV, which chooses how convolutions are computed: see `tinyfcn.ops.conv2d.choose`.

    Raises InputError for any value but fast, columns and plain.
    """
    setting = os.environ.get("TINYFCN_CONV", "fast")
    if setting not in ("fast", "columns", "plain"):
        raise InputError(f"TINYFCN_CONV must be fast, columns or plain, got {setting!r}")
    return setting


def _usable_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _cpu_quota(CGROUPS))))


@cache
def _cpu_quota(cgroups: Path) -> float:
    """How many cores' worth of time Linux grants this container: its quota over its period, infinite where there is none."""
    for files in ("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"):  # of cgroups in version 2, and in version 1
        try:
            quota, period = " ".join((cgroups / file).read_text(encoding="ascii") for file in files).split()
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return math.inf
