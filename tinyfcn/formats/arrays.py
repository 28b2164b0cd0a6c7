"""Arrays under their own names: .safetensors and .npz.

safetensors  a u64, the header's length; the header, JSON, {name: {dtype, shape, data_offsets}}; the values. Read by the
             safetensors package, which checks that the tensors fill the file.
npz          a zip of NAME.npy; each begins with a short header, {descr, fortran_order, shape}: numpy/lib/format.py.

Both may carry the description that `tinyfcn.weights` writes: metadata["description"] where they do.
"""

from __future__ import annotations

import json
import math
import re
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from numpy.lib import format as npy
from safetensors import safe_open

from tinyfcn.errors import InputError
from tinyfcn.formats import DESCRIPTION, Content, Tensor, check_expansion, values_at

SIZES = {"f": (2, 4, 8), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8)}
DTYPES = {f"{kind.upper()}{8 * n}": f"<{kind}{n}" for kind, sizes in SIZES.items() for n in sizes} | {"BOOL": "?"}
HEADER = 1 << 24  # bytes of a .safetensors file's
LONGEST = 1 << 20  # bytes of a description, or of an array's header
NO_HEADER = re.compile(rb"\\|\d(?!L[,)])[A-Za-z_]")  # of what Python warns when it parses the header: '\:', 1or


def read_safetensors(path: Path) -> Content:
    """List a .safetensors file; raises InputError where a dtype is none of NumPy's, such as BF16."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > HEADER:
            raise InputError(f"its header has {length:,} bytes, more than {HEADER:,}: refused")
        text = stream.read(length)
    with safe_open(path, framework="np") as file:  # checks the header
        description = (file.metadata() or {}).get(DESCRIPTION)
    header = json.loads(text)
    tensors = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in DTYPES:
            raise InputError(f"{name} is {about['dtype']}, which NumPy does not have: save it as F32")
        shape, dtype = tuple(about["shape"]), np.dtype(DTYPES[about["dtype"]])
        # By hand, since the package maps the file into memory and copies from there, which takes twice the memory.
        tensors[name] = Tensor(shape, dtype, partial(values_at, path, shape, dtype, 8 + length + about["data_offsets"][0]))
    return Content("safetensors", tensors, _described(description))


def read_npz(path: Path) -> Content:
    """List an .npz file of numbers; raises InputError where an entry is anything else or promises more than it may hold."""
    tensors: dict[str, Tensor] = {}
    text = None
    with ZipFile(path) as archive:
        entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        check_expansion(path.stat().st_size, sum(info.file_size for info in entries))
        for info in entries:
            name = info.filename.removesuffix(".npy")
            shape, dtype = _header(archive, info)
            if name in tensors:
                raise InputError(f"{name} is there twice")
            if name == DESCRIPTION and dtype.kind == "U" and shape == () and dtype.itemsize <= LONGEST:
                text = str(_array(path, info))
            elif dtype.kind in "biuf":
                tensors[name] = Tensor(shape, dtype, partial(_array, path, info))
            else:
                raise InputError(f"{name} is {dtype}, not an array of numbers")
    return Content("npz", tensors, _described(text))


def _header(archive: ZipFile, info: ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Return (shape, dtype) of an entry that has as many bytes as these take."""
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):  # others may take memory before the first byte comes
        raise InputError(f"{info.filename} is compressed as NumPy does not do it: save it with numpy.savez")
    with archive.open(info) as file:
        shape, _, dtype = _parsed(file)
        if dtype.hasobject:
            raise InputError(f"not a readable file of weights: {info.filename} is an array of type object, which is a pickle")
        header = file.tell()
    promised = header + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised != info.file_size:
        raise InputError(f"{info.filename} has {info.file_size} bytes, its header says {promised}: shape {shape}, {dtype}")
    return shape, dtype


def _parsed(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f".npy version {version} is none that arrays of numbers need")
    length = file.read(2 if version == (1, 0) else 4)
    text = file.read(min(int.from_bytes(length, "little"), LONGEST))
    if NO_HEADER.search(text):
        raise InputError("damaged: an array's header has what no header of an array of numbers has")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(BytesIO(length + text))


def _array(path: Path, info: ZipInfo) -> np.ndarray:
    with ZipFile(path) as archive, archive.open(info) as file:
        return npy.read_array(file, allow_pickle=False)


def _described(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    description = json.loads(text)
    if not isinstance(description, dict):
        raise InputError(f"its description is {text[:50]}, not a JSON object")
    return {"description": description}
