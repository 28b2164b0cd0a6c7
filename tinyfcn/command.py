"""What the commands share: what a user can mend ends in one line and exit status 2."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from io import TextIOWrapper
from itertools import pairwise
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from tinyfcn.errors import InputError, is_out_of_memory, one_line
from tinyfcn.files import MAX_PIXELS
from tinyfcn.values import HELD_OUT, PIXELS, VALUE, ZOOM, Kind

LONGEST = 1000  # characters of a line in the terminal


class Parser(argparse.ArgumentParser):
    """An argument parser that reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see --help)")


def run(main: Callable[[], int | None]) -> int:
    """Call a command's main function; returns its exit status.

    0, or what it returns: done. 2: the user gave something that cannot be used, said in one line on stderr. 130: interrupted, or
    128 and the signal that asked for the end.
    """
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show must not end a command
    try:
        _refuse_empty(sys.argv)
        return main() or 0
    except InputError as error:
        complain(str(error))
        return 2
    except OSError as error:  # a folder that cannot be made, a full disk
        text = f"{error.filename or 'input or output'}: {error.strerror or error}"
        complain(text)
        return 2
    except (MemoryError, RuntimeError) as error:  # CuPy's and CUDA's errors are one or the other
        if not is_out_of_memory(error):
            raise
        detail = one_line(str(error))
        print(f"error: out of memory: lower --batch-size, --size, --max-side, --tile or --width ({detail})", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def _refuse_empty(words: list[str]) -> None:
    """Refuse empty arguments, which a script's unset variable leaves: an empty path would mean the current folder."""
    for before, word in pairwise(words):
        if word == "" or (word.startswith("--") and word.endswith("=")):
            raise InputError(f"an argument is empty, after {word or before} (see --help)")


def say(text: str, file: TextIO | None = None) -> None:
    """Print lines that may contain names of files and classes, without their control characters."""
    print(*(one_line(line, LONGEST) for line in text.split("\n")), sep="\n", file=file)


def complain(text: str) -> None:
    """Say on stderr, in one line, what is wrong; above the progress bar, where there is one."""
    tqdm.write(f"error: {one_line(text, LONGEST)}", file=sys.stderr)


def add_device(parse: argparse._ActionsContainer, default: str | None = "auto") -> None:
    parse.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default=default, help="auto (default): a GPU where one answers, else the CPU"
    )


def add_reading(parse: argparse._ActionsContainer) -> None:
    """Options for how a folder of labelled pictures is read."""
    parse.add_argument("--images", metavar="DIR", help="folder of the images, in --data's or anywhere (default JPEGImages)")
    parse.add_argument("--labels", metavar="DIR", help="folder of the labels, likewise (default SegmentationClass)")
    parse.add_argument("--label-suffix", metavar="TEXT", help="what a label's name has after its image's, such as _mask")
    parse.add_argument("--ignore", type=option(VALUE), metavar="VALUE", help="a label value that counts for nothing, beside 255")
    parse.add_argument("--mask", action="store_true", help="labels are masks of 0 and 255: 255 is class 1")


def add_val_share(parse: argparse._ActionsContainer, default: float | str) -> None:
    parse.add_argument(
        "--val-share",
        type=option(HELD_OUT),
        default=default,
        metavar="SHARE",
        help="hold out this share of the images, by --seed, where there are no lists (say 0.2)",
    )


def add_zoom(parse: argparse._ActionsContainer) -> None:
    parse.add_argument(
        "--zoom",
        type=option(ZOOM),
        metavar="Z",
        help="let the network see images Z times as large (default: as in training)",
    )


def add_overwrite(parse: argparse._ActionsContainer) -> None:
    parse.add_argument("--overwrite", action="store_true", help="write over files that are there already")


def add_max_pixels(parse: argparse._ActionsContainer) -> None:
    parse.add_argument(
        "--max-pixels",
        action=_MaxPixels,
        type=option(PIXELS),
        default=argparse.SUPPRESS,
        metavar="N",
        help=f"refuse pictures of more than N pixels, before they fill the memory (default {MAX_PIXELS:,})",
    )


class _MaxPixels(argparse.Action):
    """Sets the limit of the process at once, so that it need not be handed on to where pictures are read."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None) -> None:
        from tinyfcn.data.pictures import set_max_pixels  # what only some commands need

        set_max_pixels(values)


def option(kind: Kind) -> Callable[[str], Any]:
    """An argument type: a value of this kind."""

    def parse(text: str) -> Any:
        try:
            return kind.parse(text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse
