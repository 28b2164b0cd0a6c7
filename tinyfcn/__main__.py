"""`tinyfcn train`, and the other commands, under one name; `python -m tinyfcn train` is the same."""

from __future__ import annotations

import sys
from importlib import import_module

from tinyfcn import __version__, command
from tinyfcn.errors import InputError

COMMANDS = {
    "train": "train an FCN, on the generated set or on labelled photographs",
    "evaluate": "score a trained network on labelled images",
    "predict": "label every pixel of photographs",
    "convert": "turn a file of weights into one of this package, or an FCN into an ONNX model",
    "data": "bring labels from annotation tools, check them, and show them",
    "download": "get PASCAL VOC 2012 from its publisher",
    "bench": "time this machine, beside PyTorch, ONNX Runtime and OpenVINO",
}
PACKAGES = ("convert", "data", "bench")
USAGE = "\n".join(
    [
        "usage: tinyfcn COMMAND ...",
        "",
        *(f"  {name:10} {what}" for name, what in COMMANDS.items()),
        "",
        "tinyfcn COMMAND --help explains a command, tinyfcn --version says which version this is.",
    ]
)


def _dispatch() -> None:
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(USAGE)
    elif name == "--version":
        print(f"tinyfcn {__version__}")
    elif name in COMMANDS:
        sys.argv = [f"tinyfcn {name}", *arguments]
        import_module(f"tinyfcn.{name}.__main__" if name in PACKAGES else f"tinyfcn.{name}").main()
    else:
        raise InputError(f"{name!r} is none of the commands {', '.join(COMMANDS)} (see --help)")


def main() -> int:
    return command.run(_dispatch)


if __name__ == "__main__":
    sys.exit(main())
