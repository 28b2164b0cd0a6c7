"""Files that a user names: only regular ones are read, text in limited amounts, and none is written over unasked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from tinyfcn.errors import InputError

MEBIBYTES = 16  # of text: a hundred times as much as any list of ids or classes
MAX_PIXELS = 178_956_970  # of a picture: as in Pillow, which warns from half as many on
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_regular(path: Path | str) -> None:
    """Raise InputError where a path leads to no regular file: a pipe may keep its reader waiting, and a device never end.

    Raises OSError where it leads nowhere.
    """
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise InputError(f"{path} is {KINDS.get(kind, 'no regular file')}; give a file")


def read_text(path: Path | str) -> str:
    """What a text file in UTF-8 says, such as a list or a JSON file; raises InputError where it is missing, or is none."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            data = file.read((MEBIBYTES << 20) + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as UTF-8 text ({error}); give a text file") from error
    if len(data) > MEBIBYTES << 20:
        raise InputError(f"{path} is larger than {MEBIBYTES} MiB: it is no list, and no table of weights by class")
    return text


def check_free(paths: Iterable[Path], overwrite: bool) -> None:
    """Raise InputError where one of the files to write is there already, unless the user wants to `overwrite` it."""
    for path in paths:
        if path.is_dir():
            raise InputError(f"{path}: cannot be written: it is a folder")
        if path.exists() and not overwrite:
            raise InputError(f"{path} is there already; write to another place, or add --overwrite")
