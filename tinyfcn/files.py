"""Files that are whole or as they were: written beside, forced onto the disk, and put in place in one step; and folders with one
owner."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyfcn.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where a folder has as many owners as there are
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".tinyfcn."  # how the names of files begin that are being written
OWNER = ".owner"  # in a folder that is owned: by which process


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` in the end; after an error nothing is left of it, and `path` is as it was.

    A link is replaced, and what it points to stays. Raises InputError where the file cannot be written.
    """
    if path.is_dir():
        raise InputError(f"{path}: cannot be written: it is a folder")
    partial = None
    try:
        handle, name = tempfile.mkstemp(path.suffix, PARTIAL, path.parent)
        os.close(handle)
        partial = Path(name)
        yield partial
        os.umask(mask := os.umask(0))
        partial.chmod(0o666 & ~mask)  # mkstemp makes files that nobody else may read
        _force(partial)
        os.replace(partial, path)
        _force(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def _force(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file; one that says this already is left alone."""
    if path.is_file() and not path.is_symlink() and path.read_bytes() == text.encode():
        return
    with replacing(path) as partial:
        partial.write_bytes(text.encode())


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write a JSON file, in which there are no NaNs: they are no JSON."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what writers left behind that were killed."""
    for partial in folder.glob(f"{PARTIAL}*"):
        partial.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder: no other process does so at the same time. Leftovers of dead owners are swept away.

    Raises InputError, with the owner's process, where there is another one.
    """
    owner = folder / OWNER
    with contextlib.ExitStack() as held:
        if fcntl:
            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                process = owner.read_text(encoding="ascii") if owner.is_file() else "unknown"
                raise InputError(f"{folder} is in use by process {process}: wait for it, or stop it") from None
        sweep(folder)
        owner.write_text(str(os.getpid()), encoding="ascii")
        held.callback(owner.unlink, missing_ok=True)
        yield
