"""Files of weights as other programs write them. Each reader lists a file's tensors and reads one only when it is asked for.

safetensors, npz    `arrays`
pth                 `pickles`: torch.save, without PyTorch
h5                  `keras`: Keras, with h5py, `apart`; also in a .keras archive
caffemodel          `caffe`
onnx                `onnx_model`

A reader is a function from a path to a `Content`. What it raises need not name the file: `open_weights` puts the path before it.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile, ZipFile

import numpy as np
from safetensors import SafetensorError

from tinyfcn.errors import InputError, one_line

DESCRIPTION = "tinyfcn"  # under this name files of this package say, in JSON, which network they hold
KNOWN = ".safetensors and .npz, PyTorch's .pth, Keras's .h5 and .keras, Caffe's .caffemodel, and .onnx"
RATIO, SMALL = 32, 1 << 26  # compressed arrays may be so many times as large as their file, or so many bytes in all
TENSORS = 10_000  # VGG's have 32
ENTRIES = 1 << 20  # bytes of a zip archive's list of entries, of some hundred bytes each
LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")  # torch.serialization.MAGIC_NUMBER, pickled
IR_VERSION = b"\x08"  # tag of an ONNX model's first field
NET_PARAMETER = (b"\x0a", b"\x12", b"\x1a", b"\xa2\x06")  # tags of name, layers, input, layer: one begins a .caffemodel
DAMAGE = (  # what Python, NumPy, safetensors and h5py raise when a file is not what its first bytes promise
    *(ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, EOFError, SyntaxError),
    *(struct.error, zlib.error, BadZipFile, TokenError, SafetensorError),
)
FAULTS = (OSError, MemoryError, *DAMAGE)


class Tensor(NamedTuple):
    """An array in a file: its shape and dtype are known, its values are read when asked for."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Content(NamedTuple):
    """What a file holds."""

    container: str  # "safetensors", "npz", "pth", "h5", "caffemodel", "onnx"
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]


def values_at(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int) -> np.ndarray:
    """An array whose values lie one after the other in a file, from byte `offset` on."""
    return np.fromfile(path, dtype, math.prod(shape), offset=offset).reshape(shape)


def open_weights(path: Path | str) -> Content:
    """List the tensors of a file, whose kind is recognised by its content, never by its name.

    No file stays open: a tensor's `read` opens it again. Raises InputError, here and in `read`, where the file is missing,
    unknown, damaged or asks for something that no file of weights needs. Nothing in a file is ever executed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    with _naming(path):
        content = _reader(path)(path)
        if len(content.tensors) > TENSORS:
            raise InputError(f"has {len(content.tensors):,} arrays, more than {TENSORS:,}: refused")
    return content._replace(tensors={name: _guarded(path, name, tensor) for name, tensor in content.tensors.items()})


def _reader(path: Path) -> Callable[[Path], Content]:
    from tinyfcn.formats import arrays, caffe, keras, onnx_model, pickles

    with open(path, "rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\3\4"):
        with _Archive(path) as zipped, ZipFile(zipped) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise InputError(
                "a TorchScript archive, which is code: with PyTorch, torch.save(torch.jit.load(FILE).state_dict(), 'state.pth')"
            )
        if any(name.endswith("/data.pkl") for name in names):
            return pickles.read_zip
        if "model.weights.h5" in names:
            return keras.read_archive
        if any(name.endswith(".npy") for name in names):
            return arrays.read_npz
    elif start.startswith(LEGACY):
        return pickles.read_legacy
    elif start.startswith(b"\x89HDF\r\n\x1a\n"):
        return keras.read
    elif len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= path.stat().st_size - 8:
        return arrays.read_safetensors
    elif start[257:262] == b"ustar":
        raise InputError("a tar archive, as PyTorch wrote before 2017: load it with PyTorch and torch.save its state dict again")
    elif start.startswith(NET_PARAMETER):
        return caffe.read
    elif start.startswith(IR_VERSION):
        return onnx_model.read
    raise InputError(f"not a readable file of weights: known are {KNOWN}")


class _Archive(io.FileIO):
    """A zip archive whose list of entries, which ZipFile reads in one piece, is not too long."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > ENTRIES:
            raise InputError(f"lists its entries in {size:,} bytes, more than {ENTRIES:,}: refused")
        return super().read(size)


def _guarded(path: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor with a `read` that names file and tensor in what it raises, and gives what the list promised or nothing."""

    def read() -> np.ndarray:
        with _naming(path, f"{name}: "):
            array = tensor.read()
            if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
                raise InputError(f"{array.dtype} {array.shape} was read where {tensor.dtype} {tensor.shape} is listed")
            return array

    return tensor._replace(read=read)


@contextmanager
def _naming(path: Path, name: str = "") -> Iterator[None]:
    """Turn what a reader raises into one printable line that begins with the path."""
    try:
        yield
    except FAULTS as error:
        raise InputError(f"{path}: {one_line(name + what_is_wrong(error))}") from None


def what_is_wrong(error: BaseException) -> str:
    """One of the `FAULTS` in words."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory to read it"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror or error}"
    return f"not a readable file of weights, damaged: {type(error).__name__}: {error}"


def check_expansion(size: int, promised: int) -> None:
    """Raise InputError where a file of this size promises more bytes of arrays than weights that were compressed have."""
    if promised > largest(size):
        raise InputError(
            f"its arrays would have {promised:,} bytes, {promised / size:,.0f} times its own {size:,}: "
            f"more than {RATIO} times is refused; save it without compression"
        )


def largest(size: int) -> int:
    """How many bytes of arrays a file of this size may hold, compressed."""
    return max(SMALL, RATIO * size)
