"""`python -m tinyfcn.data.sbd SBD OUT`: the Semantic Boundaries Dataset (Hariharan et al., 2011) into VOC's layout.

SBD labels 11,355 photographs of VOC 2011 with VOC's classes. It keeps a label as a MATLAB file, and has lists of its own:

    SBD/dataset/img/ID.jpg    SBD/dataset/cls/ID.mat    SBD/dataset/train.txt, val.txt

The label is GTcls.Segmentation in a file of MATLAB 5, which is 128 bytes and then elements: type and size, two u32, and so many
bytes, padded to eight; one of at most four bytes has its size in the upper half of its type, and its bytes behind that. Type 15
is another element, compressed. A matrix is elements again: flags, the lowest byte of which is its class, sizes, name, and then
for class 9 the values, u8, column by column; for class 2, a struct, the length of its fields' names, these, a matrix for each.
"""

from __future__ import annotations

import shutil
import struct
import sys
import zlib
from pathlib import Path

import numpy as np

from tinyfcn import command
from tinyfcn.data.lists import IMAGES, LABELS, LISTS, read_ids
from tinyfcn.data.names import IGNORE, VOC_CLASSES
from tinyfcn.data.pictures import write_label
from tinyfcn.errors import InputError
from tinyfcn.files import check_regular, owned, replacing, sweep, write_text
from tinyfcn.progress import bar

LARGEST = 1 << 22  # bytes of a label's file, and of what is in it: photographs have 500x500 pixels
U8, COMPRESSED = 2, 15  # types
STRUCT, U8_ARRAY = 2, 9  # classes of a matrix


def parser() -> command.Parser:
    parse = command.Parser(
        prog="python -m tinyfcn.data.sbd",
        description="Turn the Semantic Boundaries Dataset into a folder in VOC's layout, with its lists train and val. "
        "What is there already stays; after an interruption the same command goes on where it was.",
    )
    parse.add_argument("sbd", type=Path, metavar="SBD", help="its folder as published, benchmark_RELEASE")
    parse.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    return parse


def main() -> None:
    options = parser().parse_args()
    counts = convert_sbd(options.sbd, options.out, progress=True)
    found = " and ".join(f"{count:,} photographs in the list {name}" for name, count in counts.items())
    command.say(f"{options.out}: {found}; train on them with python -m tinyfcn.train --data {options.out}")


def convert_sbd(sbd: Path | str, out: Path | str, progress: bool = False) -> dict[str, int]:
    """Write the photographs and labels that SBD's lists name in VOC's layout; returns the length of each list.

    Files that are there already are left alone. Raises InputError where SBD lacks or has damaged ones, and where OUT has other
    lists or classes.
    """
    sbd, out = Path(sbd), Path(out)
    home = next((home for home in (sbd, sbd / "dataset", sbd / "benchmark_RELEASE" / "dataset") if (home / "cls").is_dir()), None)
    if home is None:
        raise InputError(f"{sbd} is not SBD: it has no dataset/cls; give the folder benchmark_RELEASE")
    lists = {name: read_ids(home / f"{name}.txt") for name in ("train", "val") if (home / f"{name}.txt").exists()}
    if not lists:
        raise InputError(f"{home} has no list train.txt or val.txt")
    texts = {out / LISTS / f"{name}.txt": "".join(f"{id_}\n" for id_ in ids) for name, ids in lists.items()}
    for path, text in texts.items():
        if path.exists() and path.read_bytes() != text.encode():
            raise InputError(f"{path} is there already, and another list; give another OUT")
    if (out / "classes.txt").exists():
        raise InputError(f"{out} has classes of its own, SBD's are VOC's; give another OUT")
    for folder in (IMAGES, LABELS, LISTS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with owned(out):
        for folder in (IMAGES, LABELS, LISTS):
            sweep(out / folder)
        ids = [id_ for ids in lists.values() for id_ in ids]
        for id_ in bar(ids, "converting", len(ids), " photographs", progress):
            image, label = out / IMAGES / f"{id_}.jpg", out / LABELS / f"{id_}.png"
            if not image.exists():
                _copy(home / "img" / f"{id_}.jpg", image)
            if not label.exists():
                values = read_label(home / "cls" / f"{id_}.mat")
                with replacing(label) as part:
                    write_label(part, values)
        for path, text in texts.items():  # last, so that they never name a picture that is not there
            write_text(path, text)
    return {name: len(ids) for name, ids in lists.items()}


def _copy(source: Path, target: Path) -> None:
    try:
        check_regular(source)
        with replacing(target) as part:
            shutil.copyfile(source, part)
    except FileNotFoundError:
        raise InputError(f"no {source}, which SBD's list names") from None


def read_label(path: Path) -> np.ndarray:
    """The label in a .mat file of SBD, (H, W) uint8; raises InputError where it is missing, or no label with VOC's classes."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            data = file.read(LARGEST)
        if data[126:128] != b"IM":
            raise ValueError("no MATLAB 5 file")
        label = _segmentation(data[128:])
    except FileNotFoundError:
        raise InputError(f"no {path}, which SBD's list names") from None
    except (OSError, ValueError, LookupError, OverflowError, struct.error, zlib.error) as error:
        raise InputError(f"cannot read {path} as a label of SBD ({error}); replace the file") from error
    wrong = label[(label >= len(VOC_CLASSES)) & (label != IGNORE)]
    if wrong.size:
        raise InputError(f"{path} has the label value {wrong[0]}, but VOC has {len(VOC_CLASSES)} classes; replace the file")
    return label


def _segmentation(data: bytes) -> np.ndarray:
    """GTcls.Segmentation among the elements behind a file's header."""
    for kind, body in _elements(data):
        if kind == COMPRESSED:
            _, body = _elements(zlib.decompressobj().decompress(body, LARGEST))[0]
        (_, flags), _, (_, name), *parts = _elements(body)
        if flags[0] == STRUCT and name == b"GTcls":
            (_, length), (_, text), *fields = parts
            step = int.from_bytes(length, "little")
            names = [text[place : place + step].rstrip(b"\0") for place in range(0, len(text), step)]
            (_, flags), (_, axes), _, (kind, values) = _elements(fields[names.index(b"Segmentation")][1])
            height, width = np.frombuffer(axes, "<i4").tolist()
            if flags[0] != U8_ARRAY or kind != U8 or min(height, width) < 1 or height * width != len(values):
                raise ValueError("its Segmentation is no matrix of uint8")
            return np.frombuffer(values, np.uint8).reshape(width, height).T
    raise ValueError("it has no GTcls")


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """The (type, bytes) of the elements that these bytes are."""
    found = []
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from("<2I", data, place)
        start = place + 8
        if kind >> 16:
            kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if start + size > len(data):
            raise ValueError("it is cut off")
        found.append((kind, data[start : start + size]))
        place = start + size
        if kind != COMPRESSED:
            place += -place % 8
    return found


if __name__ == "__main__":
    sys.exit(command.run(main))
