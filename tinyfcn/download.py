"""`python -m tinyfcn.download voc2012 --root DIR`: a published dataset, from its publisher to a folder in VOC layout.

The archive grows as DIR/NAME.part, over as many connections as it takes, and is unpacked only when its size and SHA-256 are
the published ones. So a broken transfer costs no more than the time it was broken, and it does not matter who carried the bytes.
No other module uses a network.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from tinyfcn import __version__, command
from tinyfcn.data.lists import IMAGES, LABELS, LISTS
from tinyfcn.errors import InputError, one_line
from tinyfcn.files import PARTIAL, check_regular, owned, read_text

BLOCK = 1 << 20  # bytes that are asked for at a time
TIMEOUT = 30  # seconds of silence after which a connection counts as broken
PAUSES = (2, 10, 30)  # seconds before another try, and the next ones where that brings nothing
WORTH_ANOTHER_TRY = (408, 429, 500, 502, 503, 504)  # answers that are about the server's state, not about the file


class Archive(NamedTuple):
    """A dataset as its publisher packed it."""

    name: str  # the archive's file name
    url: str
    size: int  # in bytes
    sha256: str
    home: str  # the folder in it that is in VOC layout
    folders: tuple[str, ...]  # those of `home` that are unpacked
    pairs: int  # photographs with labels, which its list trainval names


DATASETS = {
    "voc2012": Archive(
        name="VOCtrainval_11-May-2012.tar",
        url="https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        size=1_999_639_040,
        # As torchvision and TensorFlow Datasets have it. The MD5 that others quote is 6cd6e144f989b92b3379bac3b3de84fd.
        sha256="e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
        home="VOCdevkit/VOC2012",
        folders=(IMAGES, LABELS, LISTS),
        pairs=2_913,
    ),
}


class Broken(Exception):
    """A transfer that broke off, and may well succeed when it is tried again."""


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.download",
        description="Download a dataset from its publisher, check it, and unpack what is needed for segmentation. "
        "After an interruption the same command goes on where it was; where all is there already, it does nothing.",
    )
    parse.add_argument("dataset", choices=DATASETS, metavar="DATASET", help=f"one of: {', '.join(DATASETS)}")
    parse.add_argument(
        "--root", type=Path, required=True, metavar="DIR", help="where to put it: voc2012 becomes DIR/VOCdevkit/VOC2012"
    )
    parse.add_argument(
        "--url", type=address, metavar="URL", help="another address of the same archive (default: its publisher's)"
    )
    parse.add_argument("--keep", action="store_true", help="keep the archive once it is unpacked")
    return parse


def main() -> None:
    options = parser().parse_args()
    archive, root = DATASETS[options.dataset], options.root
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"to unpack an archive safely takes Python 3.11.4 or newer; this is {sys.version.split()[0]}")
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; give a folder as --root")
    home, part = root / archive.home, root / f"{archive.name}.part"
    if count_pairs(home) == archive.pairs:
        print(f"{home}: all {archive.pairs:,} labelled photographs are there, nothing to download")
        return
    _check_space(root, 0 if (root / archive.name).is_file() else archive.size - min(_size(part), archive.size), archive.size)
    work = root / f"{PARTIAL}{options.dataset}"  # whose owner is the one that downloads
    work.mkdir(parents=True, exist_ok=True)
    try:
        with owned(work):
            bring(archive, options.url or archive.url, root, work, options.keep)
    except KeyboardInterrupt:
        if part.is_file():
            print(f"{part} holds {_gigabytes(_size(part))}; the same command goes on from there")
        raise
    finally:
        with suppress(OSError):  # it is another one's
            work.rmdir()
    print(f"{home}: {archive.pairs:,} labelled photographs; train on them with python -m tinyfcn.train --data {home}")


def bring(archive: Archive, url: str, root: Path, work: Path, keep: bool) -> None:
    """Bring the archive, where it is not there yet, and what is in it."""
    home, whole, part = root / archive.home, root / archive.name, root / f"{archive.name}.part"
    if home.exists():
        found = f"{count_pairs(home):,} of {archive.pairs:,} labelled photographs"
        raise InputError(f"{home} has {found}; move it away or give another --root")
    for path in whole, part:
        if path.exists():
            check_regular(path)
    if whole.is_file():  # left by --keep, or brought by the user: used, and never deleted
        if wrong := mismatch(whole, archive):
            raise InputError(f"{whole} is another file: {wrong}; move it away, and it will be downloaded")
        unpack(whole, archive, root, work)
        return
    fetch(archive, url, part)
    unpack(part, archive, root, work)
    if keep:
        part.replace(whole)
    else:
        part.unlink()


def count_pairs(home: Path) -> int:
    """How many ids of the list trainval have a photograph and a label in a folder in VOC layout."""
    list_path = home / LISTS / "trainval.txt"
    ids = read_text(list_path).split() if list_path.is_file() else []
    return sum((home / IMAGES / f"{id_}.jpg").is_file() and (home / LABELS / f"{id_}.png").is_file() for id_ in ids)


# From the publisher to a file


def fetch(archive: Archive, url: str, part: Path) -> None:
    """Bring `part` to be the archive: its size, then its checksum.

    Raises `InputError` where the address does not lead to it. What cannot become right is then removed, and what a later
    call can go on from is left.
    """
    before = _size(part)
    _complete(url, part, archive.size)
    if wrong := mismatch(part, archive):
        part.unlink()
        if not before:
            raise InputError(f"{url} is another file: {wrong}; the download was removed, give the archive's address with --url")
        print(f"{part} began as another file: starting over", file=sys.stderr)
        fetch(archive, url, part)


def mismatch(path: Path, archive: Archive) -> str:
    """How a file differs from the archive, "" where it is the one."""
    if (size := _size(path)) != archive.size:
        return f"{size} bytes, expected {archive.size}"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return "" if digest == archive.sha256 else f"SHA-256 {digest}, expected {archive.sha256}"


def _complete(url: str, part: Path, size: int) -> None:
    """Bring a part file to its full size. Only tries in a row that bring nothing are counted."""
    failures = 0
    while (have := _size(part)) < size:
        try:
            _append(url, part, size)
        except Broken as broken:
            failures = 1 if _size(part) > have else failures + 1
            if failures > len(PAUSES):
                come = f"{_size(part)} of {size} bytes have come"
                raise InputError(f"{url}: {broken}; {come}; try again later, or give another address with --url") from None
            print(one_line(f"{url}: {broken}; trying again in {PAUSES[failures - 1]} s"), file=sys.stderr)
            time.sleep(PAUSES[failures - 1])


def _append(url: str, part: Path, size: int) -> None:
    """Append to a part file what one connection brings."""
    have = _size(part)
    blocks = _receive(url, have, size)
    next(blocks)  # the answer; where it is an error, no file and no bar are begun
    with part.open("ab") as file, tqdm(total=size, initial=have, unit="B", unit_scale=True, desc=part.stem) as bar:
        for position, block in blocks:
            have += file.write(block[max(have - position, 0) : size - position])
            bar.update(position + len(block) - bar.n)
            if have == size:  # should more follow, the checksum will tell
                return


def _receive(url: str, start: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of a file from byte `start` on, each with its position; from 0 where the server does not know ranges.

    The first is empty and means that the answer is there, and about a file of the right size.
    """
    headers = {"User-Agent": f"tinyfcn/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
            position = _first_byte(response, url, start, size)
            yield position, b""
            while block := response.read1(BLOCK):
                yield position, block
                position += len(block)
    except InputError:
        raise
    except HTTPError as error:
        error.close()
        answer = f"the server answers {error.code} {error.reason}"
        if error.code in WORTH_ANOTHER_TRY:
            raise Broken(answer) from None
        raise InputError(f"{url}: {answer}; give the archive's address with --url") from None
    except (HTTPException, OSError, ValueError) as error:  # ValueError: the name of a host that cannot be one
        raise Broken(str(getattr(error, "reason", error)) or type(error).__name__) from None
    if position < size:
        raise Broken(f"the connection ended at byte {position}")


def _first_byte(response: HTTPResponse, url: str, start: int, size: int) -> int:
    """Where in the file an answer begins, after a look at whether it can be that file."""
    position, length = 0, response.headers.get("Content-Length", "")
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) > start:
            raise Broken("the server answers with another range than the one that was asked for")
        position, length = int(match[1]), match[2]
    if response.headers.get_content_type() == "text/html":  # a network that wants you to log in, say
        raise InputError(f"{url} is a web page, expected an archive of {size} bytes; open the address in a browser to see why")
    if length.isdecimal() and int(length) != size:
        raise InputError(f"{url} is another file: {length} bytes, expected {size}; give the archive's address with --url")
    return position


# From a file to a folder


def unpack(path: Path, archive: Archive, root: Path, work: Path) -> None:
    """Unpack the folders that are needed in the folder `work`, and put them into place when all pairs are there.

    Raises `InputError`, and leaves nothing behind, where a member would land elsewhere, is a device or links to the
    outside, and where pairs are missing.
    """
    wanted = [PurePosixPath(archive.home, folder) for folder in archive.folders]

    def choose(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
        if member.name.startswith("/"):  # the filter would make it relative
            raise tarfile.AbsolutePathError(member)
        safe = tarfile.data_filter(member, target)
        return safe if any(PurePosixPath(safe.name).is_relative_to(folder) for folder in wanted) else None

    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=work) as scratch:
        try:
            with tarfile.open(path, "r:") as tar, tqdm(tar, unit=" files", desc="unpacking") as members:
                tar.extractall(scratch, members, filter=choose)
        except (tarfile.TarError, KeyError, ValueError) as error:  # KeyError, ValueError: a link to nothing, a name with a NUL
            raise InputError(f"{path} cannot be unpacked: {error}") from None
        home = Path(scratch, archive.home)
        if (found := count_pairs(home)) != archive.pairs:
            raise InputError(f"{path} has {found:,} labelled photographs, expected {archive.pairs:,}")
        (root / archive.home).parent.mkdir(parents=True, exist_ok=True)
        home.replace(root / archive.home)


# Small things


def address(text: str) -> str:
    """An argument type: an address that begins with https:// or http://."""
    if urlsplit(text).scheme not in ("https", "http"):
        raise argparse.ArgumentTypeError(f"must begin with https:// or http://, got {text}")
    return text


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _check_space(root: Path, download: int, unpacked: int) -> None:
    """Refuse to begin what would fill the disk. What is unpacked takes about as much as the archive."""
    there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < download + unpacked:
        needed = f"{_gigabytes(download)} to download and {_gigabytes(unpacked)} to unpack"
        raise InputError(f"{root} has {_gigabytes(free)} of disk space left, and needs {needed}; give another --root")


if __name__ == "__main__":
    sys.exit(command.run(main))
