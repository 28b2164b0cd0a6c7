"""What cannot be used is refused: the table says what, and which words the user reads.

Each row is a command line, changes to the small world that it finds (conftest.py; the files to make, by their paths), and words
of the one line that it writes to stderr. Every row ends with exit status 2, without a traceback, in little time and memory, and
leaves every file and folder as it was.
"""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from tinyfcn import __main__ as tinyfcn
from tinyfcn.data import pictures
from tinyfcn.files import MAX_PIXELS

SECONDS, BYTES = 10, 2 << 30  # that a row may take

# Changes to a file of the world: text, bytes, or a function of its path.

FIFO, FOLDER, GONE = os.mkfifo, os.mkdir, None


def link(target):
    return lambda path: os.symlink(target, path)


def cut(part):
    """The first `part` of a file."""
    return lambda path: os.truncate(path, int(os.path.getsize(path) * part))


def zeros(path):
    Path(path).write_bytes(bytes(os.path.getsize(path)))


def forbidden(path):
    if not os.path.exists(path):
        Path(path).touch()
    os.chmod(path, 0)


def sparse(size):
    """A file of zeros that takes no room."""
    return lambda path: os.truncate(os.open(path, os.O_CREAT | os.O_RDWR), size)


def picture(mode="RGB", kind="PNG", size=(40, 32), colour=0):
    return lambda path: Image.new(mode, size, colour).save(path, kind)


def fields(**changed):
    """A JSON object with other values."""

    def change(path):
        values = json.loads(Path(path).read_text()) | changed
        Path(path).write_text(json.dumps(values))

    return change


def about(**changed):
    """A checkpoint with another description."""

    def change(path):
        tensors, description = read(path)
        write(path, tensors, description | changed)

    return change


def parameter(name, value):
    """A checkpoint with another array; a number is put into the first place of the one that is there."""

    def change(path):
        tensors, description = read(path)
        if value is GONE:
            del tensors[name]
        elif isinstance(value, float):
            tensors[name].flat[0] = value
        else:
            tensors[name] = value
        write(path, tensors, description)

    return change


def read(path):
    """The tensors of a checkpoint, and its description."""
    with safe_open(path, "np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["tinyfcn"])  # noqa: SIM118


def write(path, tensors, description):
    description = {name: value for name, value in description.items() if value is not GONE}
    save_file(tensors, path, {"tinyfcn": json.dumps(description)})


# The commands, as they work in the world. What a row adds to a line wins over what the line says.

SMALL = "--width 0.015625 --size 32 --batch-size 2 --steps 2 --evaluations 1"
TRAIN = f"train --data voc {SMALL} --out new"
RESUME = "train --resume run --steps 6"
STAGE = "train --from run --out new"
EVALUATE = "evaluate run --out new"
PREDICT = "predict run photo.jpg --out new"
CONVERT = "convert run new.npz"
BENCH = "bench --width 0.015625 --size 32 --repeats 1"
DOWNLOAD = "download voc2012 --root new --url http://127.0.0.1:9/"

DIGITS = "9" * 401


def numbers(line, option, *more):
    """What no numerical option takes, and some more that this one does not."""
    return [(f"{line} {option} {value}", {}, option) for value in ("x", "-1", "nan", "inf", *more)]


OPTIONS = [
    # Numbers that nothing can be made of
    *((f"{TRAIN} {option} {value}", {}, option)
      for option, values in {
          "--subset": ("1000000000000",), "--batch-size": ("1000000000000", DIGITS), "--hidden": ("1000000000000", DIGITS),
          "--steps": ("1000000000000", DIGITS), "--evaluations": ("1000000000000",), "--max-side": ("1000000000000",),
          "--max-pixels": (DIGITS,), "--seed": (DIGITS, "-1"), "--size": ("1000000000000", f"32x{DIGITS}"), "--width": ("1e300",),
          "--lr": ("1e300",), "--zoom": ("1e300",), "--epochs": ("1e300",), "--trunk-rate": ("1e300",),
          "--weight-decay": ("1e300",), "--checkpoint-minutes": ("1e300",), "--scale": ("1e9 1e9", "1 1e300"),
      }.items() for value in values),
    *((f"{line} {option} {value}", {}, option) for line, option, value in [
        (EVALUATE, "--subset", "1000000000000"), (EVALUATE, "--zoom", "1e300"), (PREDICT, "--zoom", "1e300"),
        (PREDICT, "--max-side", "1000000000000"), (BENCH, "--width", "1e300"), (BENCH, "--size", "1000000000000"),
        (BENCH, "--repeats", "1000000000000"),
    ]),
    # Whole numbers
    *numbers(TRAIN, "--subset", "0", "1.5", "1e12"),
    (f"{TRAIN} --subset 5", {}, "a subset of 5 is not possible: voc/ImageSets/Segmentation/train.txt has 4 ids; give 1 to 4"),
    *numbers(TRAIN, "--batch-size", "0", "1.5", "''", "-inf", "1e400", "0x10", "'1 2'", "1,000"),
    *numbers(TRAIN, "--hidden", "0", "1.5"),
    *numbers(TRAIN, "--steps", "0", "1.5", "1e12"),
    *numbers(TRAIN, "--evaluations", "0"),
    *numbers(TRAIN, "--max-side", "0"),
    *numbers(TRAIN, "--max-pixels", "0"),
    *numbers(TRAIN, "--seed", "1.5"),
    *numbers(f"{TRAIN} --subset 2", "--subset-seed", "1.5"),
    *numbers(TRAIN, "--size", "0", "1x", "x1", "3x4x5", "32x-1", "Full"),
    *numbers(EVALUATE, "--subset", "0"),
    *numbers(EVALUATE, "--max-pixels", "0"),
    *numbers(PREDICT, "--max-side", "0"),
    *numbers(PREDICT, "--max-pixels", "0"),
    *numbers(BENCH, "--size", "0"),
    *numbers(BENCH, "--repeats", "0"),
    # Numbers
    *numbers(TRAIN, "--lr", "0", DIGITS, "''", "-inf", "1e400", "0x10", "'1 2'", "1,5"),
    *numbers(TRAIN, "--width", "0"),
    *numbers(TRAIN, "--zoom", "0"),
    *numbers(TRAIN, "--epochs", "0"),
    *numbers(TRAIN, "--trunk-rate"),
    *numbers(TRAIN, "--weight-decay"),
    *numbers(TRAIN, "--checkpoint-minutes", "0"),
    *numbers(TRAIN, "--momentum", "1", "2"),
    *numbers(TRAIN, "--dropout", "1", "1.5"),
    *numbers(EVALUATE, "--zoom", "0"),
    *numbers(PREDICT, "--zoom", "0"),
    *numbers(BENCH, "--width", "0"),
    (f"{TRAIN} --scale 1", {}, "--scale: expected 2 arguments"),
    (f"{TRAIN} --scale 0.5 x", {}, "--scale: must be a number, more than 0 and at most 16, got x"),
    (f"{TRAIN} --scale 0 1", {}, "--scale: must be a number, more than 0"),
    (f"{TRAIN} --scale 2 1", {}, "give the smaller factor first"),
    (f"{TRAIN} --scale 0.5 1 --size full", {}, "with --size full there is no crop"),
    # Words
    *((f"{TRAIN} {option} nonsense", {}, f"{option}: invalid choice: 'nonsense'") for option in [
        "--model", "--padding", "--learn-upsampling", "--skip-scales", "--preprocessing", "--optimiser", "--recipe",
        "--schedule", "--loss", "--device", "--keep",
    ]),
    *((f"{line} --device cuda", {}, "--device: invalid choice: 'cuda'") for line in (TRAIN, RESUME, EVALUATE, PREDICT, BENCH)),
    *((f"{line} --device ''", {}, "an argument is empty, after --device") for line in (TRAIN, RESUME, EVALUATE, PREDICT, BENCH)),
    (f"{TRAIN} --device=", {}, "an argument is empty, after --device="),
    *((f"{line} --device gpu", {}, "no GPU") for line in (TRAIN, RESUME, EVALUATE, PREDICT, BENCH)),
    (f"{CONVERT} --preprocessing nonsense", {}, "--preprocessing/--preprocess: invalid choice"),
    (f"{TRAIN} --class-weights nonsense", {}, "--class-weights nonsense: no such file; give median-frequency"),
    (f"{BENCH} --only '['", {}, "--only: [: no regular expression"),
    (f"{BENCH} --only nonsense", {}, "--only nonsense: no piece of work has such a title"),
    (f"{BENCH} --against '['", {}, "--against: [: no regular expression"),
    # Options that do not go together, that are not there, or that lack a value
    (f"{TRAIN} --epochs 2", {}, "--epochs: not allowed with argument --steps"),
    (f"{TRAIN} --resume run", {}, "--resume: not allowed with argument --out"),
    (f"{TRAIN} --init vgg.npz --from run", {}, "--init and --from both name initial weights"),
    (f"{TRAIN} --subset-seed 1", {}, "--subset-seed chooses the images of a --subset"),
    (f"{TRAIN} --data shapes --subset 3 --subset-seed 1", {}, "--subset-seed chooses the images of a --subset"),
    (f"{TRAIN} --trunk-rate 0.1", {}, "--trunk-rate is for layers that come trained from a file"),
    (f"{TRAIN} --freeze-trunk", {}, "--freeze-trunk: "),
    (f"{TRAIN} --recipe paper --model fcn32s-alexnet", {}, "recipe paper has no learning rate for fcn32s-alexnet"),
    (f"{TRAIN} --model fcn32s-alexnet --size 32", {}, "at least 35x35 pixels, got 32x32"),
    (f"{TRAIN} --unknown", {}, "unrecognized arguments: --unknown"),
    (f"{TRAIN} more", {}, "unrecognized arguments: more"),
    (f"{TRAIN} --lr", {}, "--lr: expected one argument"),
    (f"{TRAIN} --lr 1 2", {}, "unrecognized arguments: 2"),
    (f"{TRAIN} --s 1", {}, "ambiguous option: --s could match"),
    *((f"{RESUME} {option}", {}, f"{option.split()[0]} cannot change in a run that is resumed") for option in [
        "--lr 1", "--data voc", "--from run", "--init vgg.npz", "--batch-size 1", "--seed 1", "--recipe paper",
    ]),
    ("train --resume run", {}, "run has done its 4 steps; give a larger --steps"),
    ("train --resume run --steps 1", {}, "4 steps are done already; give no fewer as --steps, here 1"),
    ("evaluate", {}, "the following arguments are required: RUN"),
    ("evaluate run other", {}, "unrecognized arguments: other"),
    ("evaluate run/best.safetensors", {}, "a file does not know its data: add --data"),
    ("predict", {}, "the following arguments are required: RUN, IMAGE, --out"),
    ("predict run photo.jpg", {}, "the following arguments are required: --out"),
    ("predict run --out new", {}, "the following arguments are required: IMAGE"),
    ("convert run", {}, "the following arguments are required: OUT"),
    *((f"{BENCH} {what}", {}, "--width and --size are for the quick run") for what in ("--full", "--scaling")),
    ("bench --profile --layers --only nonsense", {}, "no piece of work"),
    ("bench --profile --layers", {}, "no training step is among the pieces of work"),
    ("download", {}, "the following arguments are required: DATASET, --root"),
    ("download voc2012", {}, "the following arguments are required: --root"),
    ("download voc2007 --root new", {}, "invalid choice: 'voc2007'"),
    *((f"download voc2012 --root new --url {url}", {}, "--url: must begin with https:// or http://") for url in (
        "ftp://example.org/a.tar", "file:///etc/passwd", "/etc/passwd", "'http//x'")),
    (f"{DOWNLOAD} --keep 3", {}, "unrecognized arguments: 3"),
    ("nonsense", {}, "'nonsense' is none of the commands train, evaluate"),
    ("''", {}, "an argument is empty, after tinyfcn"),
    ("--nonsense", {}, "'--nonsense' is none of the commands"),
    ("trainn --help", {}, "'trainn' is none of the commands"),
    ("'\x1b[31mtrain'", {}, "is none of the commands"),
    # The environment, which is looked at before anything is written
    *((f"TINYFCN_THREADS={value} {line}", {}, "TINYFCN_THREADS must be a number of threads from 1 up")
      for value in ("0", "-1", "x", "''", "1.5", "²", "nan") for line in (TRAIN, PREDICT)),
    *((f"TINYFCN_THREADS=0 {line}", {}, "TINYFCN_THREADS must be") for line in (RESUME, EVALUATE, BENCH)),
    *((f"TINYFCN_CONV={value} {line}", {}, "TINYFCN_CONV must be fast, columns or plain")
      for value in ("slow", "''", "FAST") for line in (TRAIN, RESUME, EVALUATE, PREDICT, BENCH)),
]  # fmt: skip

LISTS = "voc/ImageSets/Segmentation"
A, A_LABEL = "voc/JPEGImages/a.png", "voc/SegmentationClass/a.png"

DATA = [
    # Folders
    *((f"{line} --data {place}", {}, words) for line in (TRAIN, EVALUATE) for place, words in [
        ("nowhere", "no such folder: nowhere"),
        ("''", "an argument is empty, after --data"),
        ("note.txt", "no such folder: note.txt"),
        ("run", "run is not in VOC layout: it has no JPEGImages and no SegmentationClass"),
        ("/dev/zero", "no such folder: /dev/zero"),
        ("voc/JPEGImages", "is not in VOC layout"),
        (".", "give voc, which has JPEGImages"),
        ("new/../voc", "no such folder"),
        ("'no\nwhere\x1b[31m'", "no such folder: no where [31m"),
        ("x" * 300, "File name too long"),
    ]),
    (TRAIN, {"voc/JPEGImages": GONE}, "voc is not in VOC layout: it has no JPEGImages; give the folder that has"),
    (TRAIN, {"voc/SegmentationClass": GONE}, "it has no SegmentationClass"),
    (TRAIN, {"voc/JPEGImages": "a file"}, "it has no JPEGImages"),
    (TRAIN, {"voc": link("voc2"), "voc2": link("voc")}, "no such folder: voc"),
    (TRAIN, {"voc": link("nowhere")}, "no such folder: voc"),
    (TRAIN, {"voc/JPEGImages": forbidden}, "voc/JPEGImages"),
    (TRAIN, {"voc": forbidden}, "voc"),
    # Lists
    (f"{TRAIN} --split nonsense", {}, "no such list: voc/ImageSets/Segmentation/nonsense.txt; give a text file of ids or one of"),
    (f"{TRAIN} --split ''", {}, "an argument is empty, after --split"),
    (f"{TRAIN} --split ..", {}, "no such list"),
    (f"{TRAIN} --split ../x", {}, "no such list: ../x"),
    (f"{TRAIN} --split /dev/zero", {}, "/dev/zero"),
    (f"{TRAIN} --val-split nonsense", {}, "no such list: voc/ImageSets/Segmentation/nonsense.txt"),
    (f"{TRAIN} --split photo.jpg", {}, "photo.jpg"),
    (f"{TRAIN} --split ./note.txt", {}, "no image voc/JPEGImages/no picture, and no weights.jpg"),
    (f"{TRAIN} --data shapes --split test", {}, "Shapes has no split 'test'"),
    (f"{TRAIN} --data shapes --val-split test", {}, "Shapes has no split 'test'"),
    (f"{EVALUATE} --split nonsense", {}, "no such list"),
    (f"{EVALUATE} --data shapes --split nonsense", {}, "Shapes has no split 'nonsense'"),
    (TRAIN, {"voc/ImageSets": GONE}, "no such list: voc/ImageSets/Segmentation/train.txt; give a text file"),
    (TRAIN, {"voc/ImageSets": "a file"}, "no such list"),
    *((TRAIN, {f"{LISTS}/train.txt": what}, words) for what, words in [
        ("", "train.txt is empty"),
        ("\n \n\t\n", "train.txt is empty"),
        ("\ufeff\n", "train.txt is empty"),
        (FOLDER, "train.txt"),
        (FIFO, "train.txt"),
        (link("train.txt"), "train.txt"),
        (link("nowhere"), "train.txt"),
        (link("/dev/zero"), "train.txt"),
        (forbidden, "train.txt"),
        (sparse(17 << 20), "train.txt is larger than 16 MiB"),
        ("a\nb\na\n", "train.txt has the id a 2 times; list each id once"),
        ("a\n../b\n", "train.txt has '../b', which is a path"),
        ("/etc/passwd\n", "no image voc/JPEGImages/etc/passwd.jpg"),
        ("..", "'..', which is a path"),
        ("x" * 300, "xxx"),
        ("a\\b", "no image voc/JPEGImages/a/b.jpg"),
        ("a\\..\\..\\b", "which is a path out of the folder"),
        ("a\nx\n", "no image voc/JPEGImages/x.jpg (nor .jpeg nor .png nor .webp nor "),
        ("x y\n", "no image voc/JPEGImages/x y.jpg"),
        ("a\0b", "train.txt"),
        ("\x1b[31ma\x07", "no image voc/JPEGImages/ [31ma"),
        (b"\xff\xfea", "cannot read voc/ImageSets/Segmentation/train.txt as"),
        (b"\xe4\n", "cannot read voc/ImageSets/Segmentation/train.txt as"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "cannot read voc/ImageSets/Segmentation/train.txt as"),
    ]),
    # Classes
    *((TRAIN, {"voc/classes.txt": what}, words) for what, words in [
        ("", "classes.txt names 0 classes; give 1 to 255 names"),
        ("# nothing\n", "classes.txt names 0 classes"),
        ("\n".join(map(str, range(300))), "classes.txt names 300 classes"),
        (b"\x00\x01\x02\xff", "cannot read voc/classes.txt as"),
        (b"\xff\xfea", "cannot read voc/classes.txt as"),
        (FOLDER, "classes.txt is a folder"),
        (FIFO, "classes.txt is a named pipe"),
        (link("/dev/zero"), "classes.txt is a device"),
        (sparse(1 << 40), "classes.txt is larger than 16 MiB"),
        (forbidden, "classes.txt"),
    ]),
    (TRAIN, {"voc/classes.txt": link("classes.txt")}, "cannot read voc/classes.txt as"),
    (TRAIN, {"voc/classes.txt": link("nowhere")}, "cannot read voc/classes.txt as"),
    (EVALUATE, {"voc/classes.txt": "background\ndog\ncat\n"}, "voc has the classes background, dog, cat, but run was trained on"),
    (EVALUATE, {"voc/classes.txt": GONE}, "but run was trained on background, cat, dog"),
    (f"{EVALUATE} --data shapes", {}, "but run was trained on background, cat, dog"),
    # Photographs and labels, as far as their names and beginnings show
    (TRAIN, {A: GONE}, "no image voc/JPEGImages/a.jpg (nor .jpeg nor .png nor .webp nor "),
    (TRAIN, {A_LABEL: GONE}, "no label voc/SegmentationClass/a.png, and so for 1 of the 4 ids"),
    (TRAIN, {A: FOLDER}, "no image voc/JPEGImages/a.jpg"),
    (TRAIN, {A: FIFO}, "no image voc/JPEGImages/a.jpg"),
    (TRAIN, {A: link("a.png")}, "no image voc/JPEGImages/a.jpg"),
    (TRAIN, {A: link("/dev/zero")}, "no image voc/JPEGImages/a.jpg"),
    (TRAIN, {A_LABEL: link("nowhere")}, "no label voc/SegmentationClass/a.png"),
    (TRAIN, {"voc/JPEGImages/e.png": GONE}, "no image voc/JPEGImages/e.jpg"),
    (f"{PREDICT} --max-pixels 1279", {}, "photo.jpg has 40x32 pixels, 1,280 in all"),
    # Class weights
    *((f"{TRAIN} --class-weights {place}", {}, words) for place, words in [
        ("''", "--class-weights"),
        (".", "is a folder"),
        ("/dev/zero", "/dev/zero is a device"),
        ("photo.jpg", "photo.jpg"),
        ("note.txt", "note.txt: not a JSON file"),
    ]),
    *((f"{TRAIN} --class-weights w.json", {"w.json": what}, words) for what, words in [
        ("", "w.json: not a JSON file"),
        ("[1, 1, 1]", "not a JSON object {...} but list"),
        ('{"background": 1, "cat": 1}', "must give one weight to each"),
        ('{"background": 1, "cat": 1, "dog": 1, "cow": 1}', "must give one weight to each"),
        ('{"background": 1, "cat": -1, "dog": 1}', "the weight of cat must be a number, at least 0 and at most 1e+06, got -1"),
        ('{"background": 1, "cat": NaN, "dog": 1}', "NaN is no number"),
        ('{"background": 1, "cat": 1e999, "dog": 1}', "got inf"),
        (f'{{"background": 1, "cat": {DIGITS}, "dog": 1}}', "the weight of cat must be a number"),
        ('{"background": 1, "cat": "2", "dog": 1}', "the weight of cat must be a number, at least 0 and at most 1e+06, got '2'"),
        ('{"background": 1, "cat": true, "dog": 1}', "got True"),
        ('{"background": 1, "cat": null, "dog": 1}', "got None"),
        ('{"background": 0, "cat": 0, "dog": 0}', "all weights are 0"),
        ("[" * 100_000, "not a JSON file"),
        ("9" * 5000, "not a JSON file"),
        (link("w.json"), "w.json"),
        (FIFO, "w.json is a named pipe"),
        (forbidden, "w.json"),
    ]),
]  # fmt: skip

# The pictures themselves, which are looked at before anything is written

PICTURES = [
    (TRAIN, {"voc/classes.txt": "background\ncat\n"}, "has the label value 2, but there are 2 classes"),
    *((line, {f"voc/JPEGImages/{id_}.png": what}, words)
      for line, id_ in ((TRAIN, "a"), (TRAIN, "d"), (TRAIN, "f"), (RESUME, "a"), (EVALUATE, "f")) for what, words in [
        ("", f"cannot read voc/JPEGImages/{id_}.png as a picture"),
        ("a text", f"cannot read voc/JPEGImages/{id_}.png as a picture"),
        (picture(size=(1, 1)), f"{id_}.png is 40x32 pixels but voc/JPEGImages/{id_}.png is 1x1"),
    ]),
    *((TRAIN, {A: what}, words) for what, words in [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "its content is not JPEG or PNG"),
        (picture(kind="PPM"), "its content is not JPEG or PNG"),
        (cut(0.02), "cannot read voc/JPEGImages/a.png as a picture"),
        (zeros, "cannot read voc/JPEGImages/a.png"),
        (forbidden, "a.png"),
    ]),
    *((line, {f"voc/SegmentationClass/{id_}.png": what}, words)
      for line, id_ in ((TRAIN, "a"), (EVALUATE, "f")) for what, words in [
        ("", f"cannot read voc/SegmentationClass/{id_}.png as a picture"),
        (picture("L", "JPEG"), f"voc/SegmentationClass/{id_}.png"),
        (picture("RGB", colour=(1, 2, 3)), f"voc/SegmentationClass/{id_}.png"),
        (picture("RGBA", colour=(1, 2, 3, 4)), f"voc/SegmentationClass/{id_}.png"),
        (picture("I;16", colour=999), f"voc/SegmentationClass/{id_}.png is a label of"),
        (picture("L", colour=9), "has the label value 9, but there are 3 classes"),
        (picture("L", size=(32, 40)), "is 32x40 pixels but"),
        (picture("L", size=(1, 1)), "is 1x1 pixels but"),
        (zeros, f"{id_}.png"),
        (cut(0.02), f"{id_}.png"),
    ]),
    (f"{TRAIN} --max-pixels 1279", {}, ".png has 40x32 pixels, 1,280 in all, and 1,279 are read at most"),
    (f"{EVALUATE} --max-pixels 1279", {}, "--max-pixels 1280"),
    (f"{RESUME} --max-pixels 1279", {}, "--max-pixels 1280"),
]  # fmt: skip

LAST, BEST = "run/last.safetensors", "run/best.safetensors"
CHECKPOINTS = ((RESUME, LAST), (STAGE, BEST), (EVALUATE, BEST), (PREDICT, BEST), (CONVERT, BEST))

RUNS = [
    # Folders of runs, and files of weights
    *((line, {}, words) for line, words in [
        ("train --resume nowhere", "nowhere is not the folder of a run: it has no config.json"),
        ("train --resume ''", "an argument is empty, after --resume"),
        ("train --resume voc", "voc is not the folder of a run"),
        ("train --resume photo.jpg", "photo.jpg"),
        ("train --resume run/best.safetensors", "run/best.safetensors"),
        ("train --resume 'no\nwhere\x1b[31m'", "no where [31m is not the folder of a run"),
        (f"train --resume {'x' * 300}", "x"),
        ("train --from nowhere --out new", "nowhere is not the folder of a run"),
        ("train --from voc --out new", "voc is not the folder of a run"),
        ("train --from photo.jpg --out new", "photo.jpg"),
        ("evaluate nowhere --out new", "nowhere"),
        ("evaluate nowhere --data voc --out new", "nowhere"),
        ("evaluate voc --out new", "voc is not the folder of a run"),
        ("evaluate photo.jpg --data voc --out new", "photo.jpg: not a readable file of weights"),
        ("evaluate /dev/zero --data voc --out new", "/dev/zero"),
        ("evaluate '' --out new", "an argument is empty"),
        ("predict nowhere photo.jpg --out new", "nowhere: no such file of weights"),
        ("predict voc photo.jpg --out new", "voc"),
        ("predict note.txt photo.jpg --out new", "note.txt: not a readable file of weights"),
        ("predict /dev/zero photo.jpg --out new", "/dev/zero"),
        ("predict vgg.npz photo.jpg --out new", "convert it first: python -m tinyfcn.convert"),
        ("predict '' photo.jpg --out new", "an argument is empty"),
        ("convert nowhere new.npz", "nowhere: no such file of weights"),
        ("convert voc new.npz", "voc"),
        ("convert note.txt new.npz", "note.txt: not a readable file of weights"),
        ("convert photo.jpg new.npz", "photo.jpg: not a readable file of weights"),
        ("convert /dev/zero new.npz", "/dev/zero"),
        ("convert '' new.npz", "an argument is empty"),
        ("convert vgg.npz new.npz", "add --preprocessing caffe or torchvision"),
        ("convert run new.npz --preprocessing caffe", "prepared as for torchvision"),
        ("convert run new.npz --at-once", "--at-once is for a published FCN-8s"),
        ("convert fcn32s.safetensors new.npz --at-once", "--at-once is for a published FCN-8s"),
        ("convert vgg.npz new.onnx --preprocessing caffe", "convert it to .safetensors first, and that to .onnx"),
        (f"{TRAIN} --init nowhere", "nowhere: no such file of weights"),
        (f"{TRAIN} --init ''", "--init"),
        (f"{TRAIN} --init voc", "best.safetensors: no such file of weights"),
        (f"{TRAIN} --init photo.jpg", "photo.jpg: not a readable file of weights"),
        (f"{TRAIN} --init vgg.npz", "add --preprocessing caffe or torchvision"),
        (f"{TRAIN} --init run --width 0.125", "its width is 0.015625, the network's is 0.125: add --width 0.015625"),
        (f"{TRAIN} --init run --hidden 3", "its hidden is 64, the network's is 3: add --hidden 64"),
        (f"{TRAIN} --init run --preprocessing caffe", "prepared as for torchvision"),
        (f"{TRAIN} --init vgg.npz --preprocessing caffe --freeze-trunk", "fc6 and fc7 would stay the random numbers"),
        ("train --from run --model fcn8s-atonce --out new", "skips have other scales"),
    ]),
    # What stands in them, as far as it is not the matter of CONTENTS
    *((line, {file: what}, words or file) for line, file in CHECKPOINTS for what, words in [
        (GONE, "last.safetensors is missing" if file == LAST else "best.safetensors"),
        ("", "not a readable file of weights"),
        (cut(0.5), ""),
        (zeros, ""),
        (FIFO, ""),
        (forbidden, ""),
        (parameter("fc6.weight", GONE), "fc6.weight"),
    ]),
    *((line, {file: what}, words or file) for line, file in ((RESUME, LAST), (PREDICT, BEST)) for what, words in [
        (cut(0.001), ""),
        (FOLDER, ""),
        (link("/dev/zero"), ""),
        (link("nowhere"), "last.safetensors is missing" if file == LAST else ""),
        (lambda path: shutil.copy("vgg.npz", path), ""),
        (lambda path: shutil.copy("photo.jpg", path), ""),
    ]),
    *((line, {file: parameter("fc6.weight", float(value))}, f"{file}: fc6.weight holds values that are infinite or NaN")
      for line, file in (*CHECKPOINTS, (f"{TRAIN} --init run", BEST)) for value in ("nan", "-inf")),
    (RESUME, {LAST: lambda path: shutil.copy("fcn32s.safetensors", path)}, LAST),
    (RESUME, {LAST: lambda path: shutil.copy("five.safetensors", path)}, LAST),
    (EVALUATE, {BEST: lambda path: shutil.copy("five.safetensors", path)}, "but run was trained on a, b, c, d, e"),
    *((RESUME, {"run/config.json": fields(class_weights="median-frequency"), "run/class_weights.json": what},
       "class_weights.json") for what in (GONE, "", "[]", '{"background": 1}', FOLDER, FIFO, "\0\0")),
    *((RESUME, {f"run/{name}": FOLDER}, f"run/{name}: cannot be written: it is a folder")
      for name in ("metrics.json", "curves.png", "predictions.png", "best.safetensors")),
    (RESUME, {"run/.owner": FOLDER}, ".owner"),
    (RESUME, {"voc": GONE}, "no such folder"),
    # Photographs to label
    *((f"predict run {image} --out new", changes, words) for image, changes, words in [
        ("nowhere.jpg", {}, "no such image: nowhere.jpg"),
        ("''", {}, "an argument is empty, after run"),
        ("voc", {}, "voc has no pictures (.jpg, "),
        ("/dev/zero", {}, "/dev/zero is a device"),
        ("note.txt", {}, "cannot read note.txt as a picture"),
        ("photo.jpg voc", {}, "voc has no pictures (.jpg, "),
        ("photo.jpg --tile 127", {}, "--tile: must be a whole number from 128 to 20,000, got 127"),
        ("photo.jpg --only-labels --only-overlay", {}, "--only-overlay: not allowed with argument --only-labels"),
        ("photo.jpg photo.jpg", {}, "2 predictions would be written to new/photo.png"),
        ("a/photo.jpg b/photo.png", {}, "2 predictions would be written to new/photo.png"),
        ("photo.jpg photo_overlay.jpg", {}, "2 predictions would be written to new/photo_overlay.png"),
        ("x.jpg", {"x.jpg": ""}, "cannot read x.jpg as a picture"),
        ("x.jpg", {"x.jpg": FIFO}, "x.jpg is a named pipe"),
        ("x.jpg", {"x.jpg": link("x.jpg")}, "x.jpg"),
        ("x.jpg", {"x.jpg": link("nowhere")}, "no such image: x.jpg"),
        ("x.jpg", {"x.jpg": picture("F", "TIFF")}, "floating-point pixels"),
        ("x.jpg", {"x.jpg": picture(kind="ICO", size=(32, 32))}, "its content is not JPEG or PNG"),
        ("photo.jpg", {"photo.jpg": forbidden}, "photo.jpg"),
        ("photo.jpg", {"photo.jpg": cut(0.5)}, "cannot read photo.jpg as a picture"),
        ("photo.jpg", {"photo.jpg": zeros}, "cannot read photo.jpg as a picture"),
        ("'x\ny\x1b[31m.jpg'", {}, "no such image: x y [31m.jpg"),
        ("'x\udce4.jpg'", {}, "no such image: x"),
        (f"{'x' * 300}.jpg", {}, "x"),
    ]),
]  # fmt: skip

# What stands in runs and checkpoints

CONTENTS = [
    *((line, {"run/config.json": what}, "config.json") for line in (RESUME, STAGE, EVALUATE) for what in [
        GONE, "", "[]", cut(0.5), zeros, b"\xff\xfe{\0}\0", FOLDER, FIFO, link("/dev/zero"), fields(nonsense=1), fields(lr="x"),
    ]),
    *((RESUME, {"run/config.json": what}, "config.json") for what in [
        "{}{}", "null", "[" * 100_000, link("config.json"), sparse(1 << 40), forbidden,
    ]),
    *((RESUME, {"run/config.json": fields(**{name: value})}, name) for name, values in {
        "data": (3, ["voc"]), "split": (1,), "val_split": ({},), "subset": ("two", -1, 1.5), "subset_seed": ("x",),
        "model": ("fcn9s", 8, ["fcn8s"]), "width": ("wide", 0, -1, 1e308, [1], None), "hidden": ("many", -3, 1.5),
        "padding": ("none", 1), "dropout": (1, "x", -0.5), "learn_upsampling": ("some", True), "skip_scales": ("x",),
        "freeze_trunk": ("yes",), "size": (32, "32", [32], [0, 0], [32, 32, 32], [1.5, 2], ["a", "b"]), "zoom": (0, "x", [1]),
        "max_side": (0, "x"), "scale": (1, [1], [2, 1], ["a", "b"], [0, 1]), "mirror": ("yes",),
        "batch_size": (0, "x", 2.5, 10**12), "evaluations": (0, "x"), "optimiser": ("adamw",), "schedule": ("cosine", 1),
        "lr": (0, -1), "trunk_rate": ("x", -1), "momentum": (1, "x"), "weight_decay": (-1, "x"), "loss": ("max",),
        "class_weights": (3,), "recipe": ("none", 3), "init": (3,), "from_run": (3,), "preprocessing": ("x", ["x"]),
        "seed": (-1, "x", 1.5), "device": ("tpu", 0), "checkpoint_minutes": (0, "x"), "keep": ("all",), "command": (3,),
    }.items() for value in values),
    *(("train --resume run", {"run/config.json": fields(steps=value)}, "steps") for value in ("x", 2.5, -2, 10**400)),
    (EVALUATE, {"run/config.json": fields(data="nowhere")}, "no such folder: nowhere"),
    *((line, {file: what}, file) for line, file in CHECKPOINTS for what in [
        parameter("score_fr.weight", np.zeros((3, 2, 1, 1), np.float32)), about(width=1e308), about(model="FCN9s"),
    ]),
    *((line, {file: about(**{name: value})}, file) for line, file in ((RESUME, LAST), (PREDICT, BEST)) for name, values in {
        "model": ("VGG16", ["FCN8s"]), "num_classes": ("three", 300, 0), "width": ("wide", -1, 1e308), "padding": ("none",),
        "learn_upsampling": (1,), "hidden": ("many", 1.5), "preprocessing": ("x", ["x"]),
        "scales": (3, {"score_pool4": "x"}, {"score_pool4": float("nan")}), "zoom": ("x", 0), "max_side": ("x", -1),
        "classes": ("cats", ["a"], ["a", "a", "a"], [1, 2, 3]), "trained": (3,),
    }.items() for value in values),
    *((RESUME, {LAST: about(**{name: value})}, LAST) for name, values in {
        "step": (GONE, "x", -1, 1.5, 10**12), "best": (GONE, "x", float("nan"), 7), "seconds": ("x", -1),
        "losses": (3, [1], ["x", 1], [float("nan"), 1], [1, -1]), "trained": ("conv1_1",),
    }.items() for value in values),
    (RESUME, {LAST: parameter("optimiser.fc6.weight.m", np.zeros(3, np.float32))}, LAST),
    (RESUME, {LAST: lambda path: shutil.copy(BEST, path)}, LAST),
    *((RESUME, {"run/log.csv": what}, "log.csv") for what in (FOLDER, FIFO, link("/dev/zero"), sparse(1 << 40))),
]  # fmt: skip

# Places to write to

PLACES = [
    *((f"{line} --out {place}", {"file": "mine"} | changes, words)
      for line in (TRAIN, EVALUATE, PREDICT) for place, changes, words in [
        ("file", {}, "file"),
        ("file/new", {}, "file"),
        ("/dev/null", {}, "/dev/null"),
        ("/dev/null/new", {}, "/dev/null"),
        ("/proc/new", {}, "/proc/new"),
        ("loop", {"loop": link("loop")}, "loop"),
        ("loop/new", {"loop": link("loop")}, "loop"),
        ("dangling", {"dangling": link("nowhere")}, "dangling"),
        ("x" * 300, {}, "xxx"),
        ("fifo", {"fifo": FIFO}, "fifo"),
        ("closed/new", {"closed": FOLDER, "closed/": forbidden}, "closed"),
    ]),
    (f"{TRAIN} --out ''", {}, "--out"),
    (f"{TRAIN} --out run", {}, "run is there already; give another --out, or --resume run"),
    (f"{TRAIN} --out voc", {}, "voc is there already"),
    (f"{TRAIN} --out .", {}, "is there already"),
    (f"{EVALUATE} --out run", {}, "run/metrics.json is there already"),
    (f"{EVALUATE} --out old", {"old": FOLDER, "old/predictions.png": "mine"}, "old/predictions.png is there already"),
    (f"{EVALUATE} --out old --overwrite", {"old": FOLDER, "old/metrics.json": FOLDER}, "old/metrics.json: cannot be written"),
    ("evaluate run --split train", {"run/evaluation-train": "mine"}, "run/evaluation-train"),
    (f"{PREDICT} --out old", {"old": FOLDER, "old/photo.png": "mine"}, "old/photo.png is there already"),
    (f"{PREDICT} --out old", {"old": FOLDER, "old/photo_overlay.png": link("nowhere")}, "photo_overlay.png is there already"),
    (f"{PREDICT} --out old --overwrite", {"old": FOLDER, "old/photo_overlay.png": FOLDER}, "it is a folder"),
    ("predict run voc/JPEGImages/a.png --out voc/JPEGImages --overwrite", {}, "would be overwritten; give another --out"),
    *((f"convert run {place}", {"file": "mine"} | changes, words) for place, changes, words in [
        ("new.pth", {}, "OUT must end in .safetensors, .npz or .onnx"),
        ("new", {}, "OUT must end in"),
        ("''", {}, "an argument is empty, after run"),
        ("nowhere/new.npz", {}, "nowhere/new.npz: cannot be written"),
        ("nowhere/new.onnx", {}, "nowhere/new.onnx: cannot be written"),
        ("file/new.npz", {}, "file/new.npz: cannot be written"),
        ("old.npz", {"old.npz": "mine"}, "old.npz is there already"),
        ("old.npz", {"old.npz": FIFO}, "old.npz is there already"),
        ("old.npz", {"old.npz": link("nowhere")}, "old.npz is there already"),
        ("old.npz --overwrite", {"old.npz": FOLDER}, "old.npz: cannot be written: it is a folder"),
        ("old.onnx --overwrite", {"old.onnx": FOLDER}, "old.onnx: cannot be written: it is a folder"),
        ("loop/new.npz", {"loop": link("loop")}, "loop"),
        ("/proc/new.npz", {}, "/proc/new.npz: cannot be written"),
        (BEST, {}, f"{BEST} is the source itself"),
        (f"{BEST} --overwrite", {}, f"{BEST} is the source itself"),
        ("link.safetensors --overwrite", {"link.safetensors": link(BEST)}, "link.safetensors is the source itself"),
        (f"{'x' * 300}.npz", {}, "xxx"),
        ("closed/new.npz", {"closed": FOLDER, "closed/": forbidden}, "closed/new.npz: "),
    ]),
    *((f"{BENCH} {option} {place}", changes, words) for option in ("--json", "--plot") for place, changes, words in [
        ("nowhere/new", {}, "nowhere/new: must be in a folder that is there"),
        ("note.txt/new", {}, "note.txt/new: must be in a folder that is there"),
        (".", {}, ".: cannot be written: it is a folder"),
        ("''", {}, "an argument is empty"),
        ("/proc/new", {}, "/proc/new: cannot be written"),
        ("note.txt", {}, "note.txt is there already; write to another place, or add --overwrite"),
        ("loop", {"loop": link("loop")}, "loop is there already"),
        ("fifo", {"fifo": FIFO}, "fifo is there already"),
        ("closed/new", {"closed": FOLDER, "closed/": forbidden}, "closed/new: "),
    ]),
    *((f"{DOWNLOAD} --root {place}", {"file": "mine"} | changes, words) for place, changes, words in [
        ("file", {}, "file is a file; give a folder as --root"),
        ("file/new", {}, "file"),
        ("/dev/null", {}, "/dev/null"),
        ("/proc/new", {}, "/proc"),
        ("loop", {"loop": link("loop")}, "loop"),
        ("dangling", {"dangling": link("nowhere")}, "dangling"),
        ("x" * 300, {}, "xxx"),
        ("old", {"old": FOLDER, "old/VOCdevkit": FOLDER, "old/VOCdevkit/VOC2012": FOLDER}, "has 0 of 2,913 labelled photographs"),
        ("old", {"old": FOLDER, "old/VOCdevkit": FOLDER, "old/VOCdevkit/VOC2012": "mine"}, "VOC2012"),
        ("old", {"old": FOLDER, "old/VOCtrainval_11-May-2012.tar": "mine"}, "is another file: 4 bytes, expected 1999639040"),
        ("old", {"old": FOLDER, "old/VOCtrainval_11-May-2012.tar.part": FOLDER}, "VOCtrainval_11-May-2012.tar.part"),
        ("old", {"old": FOLDER, "old/VOCtrainval_11-May-2012.tar.part": FIFO}, "VOCtrainval_11-May-2012.tar.part"),
        ("closed/new", {"closed": FOLDER, "closed/": forbidden}, "closed"),
    ]),
]  # fmt: skip

ROWS = [*OPTIONS, *DATA, *PICTURES, *RUNS, *CONTENTS, *PLACES]


# How a row is checked


class TooLong(BaseException):
    pass


@pytest.fixture
def limits():
    """An end to what takes too much time or memory."""

    def end(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, end)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def shared(template, tmp_path_factory):
    """A world that the rows share, since none may change it."""
    folder = tmp_path_factory.mktemp("shared") / "world"
    shutil.copytree(template, folder)
    return folder


@pytest.fixture
def changed(changes, shared, template, monkeypatch):
    """The world with the changes of a row, which are taken back in the end."""
    monkeypatch.chdir(shared)
    for path, what in changes.items():
        make(path, what)
    yield
    for path in map(Path, changes):
        remove(path)
        there = template / path
        if there.exists():
            (shutil.copytree if there.is_dir() else shutil.copy2)(there, path)
    if listing() != listing(template):  # a row was not refused
        monkeypatch.undo()
        shutil.rmtree(shared)
        shutil.copytree(template, shared)


def make(path, what):
    if path.endswith("/"):  # to change what the row has made
        return what(path)
    if isinstance(what, (str, bytes)):
        remove(Path(path))
        Path(path).write_bytes(what.encode() if isinstance(what, str) else what)
    elif what is GONE:
        remove(Path(path))
    else:
        if what in (FIFO, FOLDER) or what.__qualname__.startswith("link"):
            remove(Path(path))
        what(path)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        path.chmod(0o700)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def listing(root="."):
    """All that is there: what it is, and for a file how large and how old."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            about = os.lstat(os.path.join(folder, name))
            file = name in files and (about.st_size, about.st_mtime_ns)
            found[os.path.relpath(os.path.join(folder, name), root)] = about.st_mode, file
    return found


def called(line, monkeypatch, capfd):
    """Call a command line in this process; returns (exit status, stdout, stderr)."""
    words = shlex.split(line)
    while (setting := re.fullmatch(r"(TINYFCN_\w+)=(.*)", words[0])) is not None:
        monkeypatch.setenv(*setting.groups())
        words = words[1:]
    monkeypatch.setattr("sys.argv", ["tinyfcn", *words])
    monkeypatch.setattr(pictures, "_max_pixels", MAX_PIXELS)
    monkeypatch.setattr(tarfile, "data_filter", None, raising=False)  # which the download wants, and Python 3.11.0 has not
    capfd.readouterr()
    status = tinyfcn.main()
    return status, *capfd.readouterr()


@pytest.mark.parametrize("line, changes, words", ROWS, ids=[f"{n}: {row[0][:70]!r}" for n, row in enumerate(ROWS)])
def test_what_cannot_be_used_is_refused_in_one_line(line, changes, words, changed, monkeypatch, capfd, limits):
    if forbidden in changes.values() and os.geteuid() == 0:
        pytest.skip("root may read everything")
    before = listing()
    status, out, err = called(line, monkeypatch, capfd)
    assert status == 2, out + err
    line, end = "\n".join(line.rpartition("\r")[2] for line in err.split("\n")).split("\n")  # without bars that are gone
    assert line.startswith("error: ") and line.isprintable() and len(line) < 1200 and not end, err
    assert words in line.replace(f"{os.getcwd()}/", ""), err
    assert listing() == before
