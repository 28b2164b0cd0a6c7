"""Files that a user names. Only regular files are read, text only up to a limit, and none is overwritten unasked. A file that is
written is complete or as it was before: it is written beside its place, forced onto the disk, and moved there in one step. A
folder has one owner at a time."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tinyfcn.errors import InputError

try:
    import fcntl
except ImportError:  # Windows, where a folder has as many owners as there are
    fcntl = None  # type: ignore[assignment]

MEBIBYTES = 16  # of text: a hundred times as much as any list of ids or classes
MAX_PIXELS = 178_956_970  # of a picture: as in Pillow, which warns from half as many on
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
PARTIAL = ".tinyfcn."  # what a file's name begins with while it is being written
OWNER = ".owner"  # in a folder that is owned: by which process


def check_regular(path: Path | str) -> None:
    """Raise InputError where a path leads to no regular file: a pipe may keep its reader waiting, and a device never end.

    Raises OSError where it leads nowhere.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise InputError(f"{path} is {KINDS.get(kind, 'no regular file')}; give a file")


def read_text(path: Path | str) -> str:
    """What a text file says, such as a list or a JSON file, in UTF-8, or in UTF-16 that begins with its mark.

    Raises InputError where it is missing, or is none.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            data = file.read((MEBIBYTES << 20) + 1)
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as text ({error}); give a text file in UTF-8") from error
    if len(data) > MEBIBYTES << 20:
        raise InputError(f"{path} is larger than {MEBIBYTES} MiB: it is no list, table or configuration")
    return text


def read_json(path: Path | str) -> dict[str, Any]:
    """The object in a JSON file; raises InputError where the file is missing, or is none."""
    text = read_text(path)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a JSON object {{...}} but {type(value).__name__}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no number")


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise InputError where one of the files to write is there already, unless the user wants to `overwrite` it, and where
    it could not be written: after an hour of computing it is too late to find out."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: cannot be written: it is a folder")
        if os.path.lexists(path) and not overwrite:  # also a link that leads nowhere, which would be replaced
            raise InputError(f"{path} is there already; write to another place, or add --overwrite")
        try:
            with tempfile.TemporaryFile(dir=next(above for above in path.absolute().parents if os.path.lexists(above))):
                pass
        except OSError as error:
            raise unwritable(path, error) from None


@contextmanager
def making(folder: Path, exist_ok: bool = True) -> Iterator[None]:
    """A folder to write into, made with those above it; after an error, those that were made go again where they are empty.

    Raises InputError where it cannot be made, and FileExistsError where it is there already and must not be.
    """
    new = [above for above in (folder, *folder.parents) if not os.path.lexists(above)]
    try:
        folder.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise InputError(f"{folder}: cannot be made: {error.strerror or error}") from None
    try:
        yield
    except BaseException:
        with suppress(OSError):
            for made in new:
                made.rmdir()
        raise


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
        mask = os.umask(0)  # the only way to read it is to set it
        os.umask(mask)
        partial.chmod(0o666 & ~mask)  # mkstemp makes files that nobody else may read
        _force(partial)
        os.replace(partial, path)
        _force(path.parent)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> InputError:
    """The error for a file that the system does not let one write."""
    return InputError(f"{path}: cannot be written: {error.strerror or error}")


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


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, in which there are no NaNs: they are no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sweep(folder: Path) -> None:
    """Remove what killed writers left behind."""
    for partial in folder.glob(f"{PARTIAL}*"):
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder: no other process can own it at the same time. What dead owners left behind is swept away.

    Raises InputError, which names the owner's process, where there is one already.
    """
    owner = folder / OWNER
    with ExitStack() as held:
        if fcntl:
            handle = os.open(folder, os.O_RDONLY)
            held.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                process = read_text(owner) if owner.exists() else "unknown"
                raise InputError(f"{folder} is in use by process {process}: wait for it, or stop it") from None
        sweep(folder)
        held.callback(owner.unlink, missing_ok=True)
        try:
            owner.write_text(str(os.getpid()), encoding="ascii")
        except OSError as error:
            raise unwritable(owner, error) from None
        yield
