"""Damaged files of every kind that the package reads: each must be read or refused, in little time and memory.

    python tests/reliability/fuzz.py                          # all readers, for five seconds
    python tests/reliability/fuzz.py --seconds 7200           # for hours
    python tests/reliability/fuzz.py --only pth --seed 7      # one reader, other damage

A small whole file is cut, flipped, spliced, given huge lengths, deep nesting and wrong types; of archives and other files with
checksums also the parts, so that the checksums fit. What a reader raises other than InputError, warnings included, what takes
longer than two seconds and what takes more than 400 MB is a finding: the file is kept as FOUND/KIND-HASH, and the exit status is
1. A file that hangs or crashes this process is FOUND/KIND.
"""

import argparse
import faulthandler
import hashlib
import io
import json
import re
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from pathlib import Path
from random import Random
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import numpy as np  # noqa: E402
import pickled  # noqa: E402
import published  # noqa: E402
from PIL import Image, features  # noqa: E402
from safetensors.numpy import save  # noqa: E402

from tinyfcn import weights  # noqa: E402
from tinyfcn.convert.identify import identify  # noqa: E402
from tinyfcn.data import Shapes, VOCSegmentation, pictures, read_label, sbd, write_voc  # noqa: E402
from tinyfcn.data.balance import read_class_weights  # noqa: E402
from tinyfcn.description import Description  # noqa: E402
from tinyfcn.errors import InputError  # noqa: E402
from tinyfcn.formats import apart, open_weights  # noqa: E402
from tinyfcn.metrics import SCORES  # noqa: E402
from tinyfcn.models import VGG16, FCN8s, FCN32s  # noqa: E402
from tinyfcn.report import COLUMNS, Metrics, read_log  # noqa: E402
from tinyfcn.run import Config, read_config  # noqa: E402
from tinyfcn.values import read_record  # noqa: E402

try:
    import resource
except ImportError:  # Windows
    resource = None

SECONDS, MEGABYTES, HANGS = 2, 400, 60

# Readers, from a path


def read_network(path):
    """What `convert` does with a file of weights, and `--init`."""
    for tensor in open_weights(path).tensors.values():
        tensor.read()
    for tensor in identify(path).tensors.values():
        tensor.read()


def read_own(path):
    weights.read_description(path)
    read_network(path)


def read_run(path):
    read_config(path.parent)


def read_scores(path):
    read_record(Metrics, path)


def read_weights_of_classes(path):
    read_class_weights(path, ("one", "two"))


def read_set(path):
    """A list or class names, in a folder that has the rest."""
    dataset = VOCSegmentation(path.parent / "voc", str(path)) if path.suffix == ".txt" else None
    if dataset is None:
        (path.parent / "voc" / "classes.txt").write_bytes(path.read_bytes())
        dataset = VOCSegmentation(path.parent / "voc", "whole")
    dataset[0]


# Whole files, in parts, and what makes a file of the parts


def whole(parts):
    return b"".join(parts)


def with_length(parts):
    """safetensors: the length of the header, the header, the values."""
    return len(parts[0]).to_bytes(8, "little") + b"".join(parts)


def zipped(names, method=ZIP_STORED):
    def join(parts):
        file = io.BytesIO()
        with ZipFile(file, "w", method) as archive:
            for name, part in zip(names, parts, strict=True):
                archive.writestr(name, part)
        return file.getvalue()

    return join


def png(parts):
    """Of a PNG, its chunks without lengths and checksums."""
    chunks = [struct.pack(">I", max(len(part) - 4, 0)) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def png_parts(data):
    parts, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : at + 8 + length])
        at += 12 + length
    return parts


def archive_parts(data):
    with ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist(), [archive.read(name) for name in archive.namelist()]


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seeds(folder):
    """(name of the reader, name of the file, reader, parts, what joins them)"""
    rng = np.random.default_rng(0)
    tiny = {"conv1_1.weight": np.ones((1, 3, 3, 3), np.float32), "conv1_1.bias": np.ones(1, np.float16), "n": np.arange(3)}
    vgg = published.draw(VGG16, 3, 1 / 64)
    fcn = published.draw(FCN32s, 3, 1 / 64)
    path = folder / "seed"
    for kind, name, tensors in (("vgg", "FCN8s", published.draw(FCN8s, 3, 1 / 64)), ("tiny", "VGG16", tiny)):
        for suffix in "safetensors", "npz":
            more = {"padding": "same", "learn_upsampling": "none"} if name == "FCN8s" else {}
            about = Description(name, 3, 1 / 64, **more)
            own = path.with_suffix(f".{suffix}")
            weights.write(own, {k: v for k, v in tensors.items() if v.dtype.kind == "f"}, about)
            data = own.read_bytes()
            if suffix == "npz":
                names, parts = archive_parts(data)
                yield f"npz-{kind}", own.name, read_own, parts, zipped(names)
                yield f"npz-{kind}-deflated", own.name, read_own, parts, zipped(names, ZIP_DEFLATED)
            else:
                end = 8 + int.from_bytes(data[:8], "little")
                yield f"safetensors-{kind}", own.name, read_own, [data[8:end], data[end:]], with_length
    data = save(tiny)
    end = 8 + int.from_bytes(data[:8], "little")
    yield "safetensors", "x.safetensors", read_network, [data[8:end], data[end:]], with_length
    singles = {name: array.astype(np.float32) for name, array in tiny.items()}
    for kind, found in ("tiny", {"state_dict": singles, "epoch": 3}), ("vgg", published.torchvision_vgg16(vgg)):
        pickled.tree(path, found)
        names, parts = archive_parts(path.read_bytes())
        yield f"pth-{kind}", "x.pth", read_network, parts, zipped(names)
    pickled.legacy_file(path, pickled.dictionary({"a": pickled.tensor(), "b": pickled.tensor(size=(6,), stride=(1,))}))
    yield "pth-legacy", "x.pth", read_network, [path.read_bytes()], whole
    for legacy in False, True:
        data = published.caffemodel(fcn, "net", legacy=legacy)
        yield f"caffemodel-{legacy}", "x.caffemodel", read_network, [data], whole
    data = published.layer("a", "Convolution", published.blob(tiny["conv1_1.weight"]), published.blob(np.ones(2)))
    yield "caffemodel-tiny", "x.caffemodel", read_network, [data], whole
    yield from onnx_seeds(vgg)
    yield from hdf5_seeds(path, vgg)
    yield "config", "config.json", read_run, [json.dumps(Config().__dict__).encode()], whole
    rows = "".join(f"{step},0.1,{1 / step},3.5,0.1,0.2,0.3,0.4,0.7\r\n" for step in range(1, 9))
    yield "log", "log.csv", read_log, [(",".join(COLUMNS) + "\r\n" + rows).encode()], whole
    found = dict.fromkeys(SCORES, 0.5)
    metrics = found | {"iou": {"one": 0.5, "two": None}, "constant_baseline": found, "step": 3}
    yield "metrics", "metrics.json", read_scores, [json.dumps(metrics).encode()], whole
    yield "class-weights", "weights.json", read_weights_of_classes, [b'{"one": 1.5, "two": 2e1}'], whole
    dataset = Shapes("train", 2)
    write_voc(dataset, folder / "voc", "whole")
    yield "list", "list.txt", read_set, ["\n".join(dataset.ids).encode()], whole
    yield "classes", "classes", read_set, ["\n".join(dataset.classes).encode()], whole
    pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    exif.get_ifd(0x8769)[0x9000] = b"0230"
    for kind in pictures.PHOTOGRAPHS:
        if kind == "WEBP" and not features.check("webp"):
            continue
        data = saved(Image.fromarray(pixels), kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
        yield f"photo-{kind}", "photo", pictures.read_image, *((png_parts(data), png) if kind == "PNG" else ([data], whole))
    for mode in "RGBA", "P", "L", "1", "CMYK", "LA":
        image = Image.fromarray(pixels).convert(mode)
        data = saved(image, "TIFF", compression="tiff_lzw" if mode == "RGBA" else None, exif=exif)
        yield f"photo-TIFF-{mode}", "photo", pictures.read_image, [data], whole
    frames = [Image.fromarray(255 - pixels)]
    for kind in "GIF", "MPO", "PNG":
        data = saved(Image.fromarray(pixels), kind, save_all=True, append_images=frames)
        yield (
            f"photo-{kind}-frames",
            "photo",
            pictures.read_image,
            *((png_parts(data), png) if kind == "PNG" else ([data], whole)),
        )
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    for kind, join in ("sbd", whole), ("sbd-deflated", deflated):
        yield kind, "x.mat", sbd.read_label, [header, matlab_seed(pixels[..., 0] % 21)], join
    label = Image.fromarray(pixels[..., 0] % 21).convert("P")
    yield "label", "label.png", read_label, png_parts(saved(label, "PNG", transparency=0)), png


def matlab_seed(label):
    def element(kind, body):
        return struct.pack("<2I", kind, len(body)) + body + bytes(-len(body) % 8)

    def matrix(kind, shape, name, *parts):
        head = element(6, struct.pack("<2I", kind, 0)) + element(5, np.array(shape, "<i4").tobytes()) + element(1, name)
        return element(14, head + b"".join(parts))

    values = matrix(9, label.shape, b"", element(2, label.T.tobytes()))
    return matrix(2, (1, 1), b"GTcls", element(5, struct.pack("<i", 16)), element(1, b"Segmentation".ljust(16, b"\0")), values)


def deflated(parts):
    body = zlib.compress(parts[1])
    return parts[0] + struct.pack("<2I", 15, len(body)) + body


def onnx_seeds(vgg):
    try:
        import onnx
    except ImportError:
        return
    made, tensors, last = [], [], "image"
    for k, (name, weight, bias) in enumerate(published.layers(vgg)[:13]):
        tensors += [onnx.numpy_helper.from_array(array, f"{name}.{end}") for end, array in (("weight", weight), ("bias", bias))]
        made.append(onnx.helper.make_node("Conv", [last, f"{name}.weight", f"{name}.bias"], [f"x{k}"], pads=[1, 1, 1, 1]))
        last = f"x{k}"
        if k in (1, 3, 6, 9, 12):
            made.append(onnx.helper.make_node("MaxPool", [last], [f"p{k}"], kernel_shape=[2, 2], strides=[2, 2]))
            last = f"p{k}"
    half = onnx.helper.make_tensor("half", onnx.TensorProto.FLOAT16, [3], [1.5, 2, 3])
    made.append(onnx.helper.make_node("Constant", [], ["c"], value=half))
    images = [onnx.helper.make_tensor_value_info("image", 1, [1, 3, None, None])]
    for kind, nodes, found in ("vgg", made, tensors), ("tiny", [*made[:3], made[-1]], tensors[:6]):
        model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "net", images, [], found))
        yield f"onnx-{kind}", "x.onnx", read_network, [model.SerializeToString()], whole


def hdf5_seeds(path, vgg):
    try:
        import h5py
    except ImportError:
        return
    found = published.keras_vgg16(vgg)
    for kind in "legacy", "numbered":
        with h5py.File(path, "w") as file:
            if kind == "legacy":
                file.attrs["layer_names"] = [name.encode() for name, *_ in found[:2]]
            for k, (name, *arrays) in enumerate(found[:2]):
                group = file.create_group(name if kind == "legacy" else f"layers/conv2d_{k}/vars")
                if kind == "legacy":
                    group.attrs["weight_names"] = [b"a", b"b"]
                for place, array in zip(("a", "b") if kind == "legacy" else ("0", "1"), arrays, strict=True):
                    group.create_dataset(place, data=array, **({"compression": "gzip"} if k else {}))
        data = path.read_bytes()
        yield f"h5-{kind}", "x.h5", read_network, [data], whole
    yield "keras", "x.keras", read_network, [b"{}", data], zipped(["metadata.json", "model.weights.h5"])


# Damage

NUMBERS = [0, 1, 2, 7, 127, 128, 255, 256, 32767, 65535, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1]
WORDS = [
    *(b"null", b"true", b"{}", b"[]", b'""', b'"x"', b"[1]", b"[[]]", b"NaN", b"Infinity", b"-1", b"0", b"1e999", b"1" * 5000),
    *(
        b"1.5",
        b'{"a": 1}',
        b"[" * 3000,
        b'{"a":' * 3000,
        b"-",
        b"9" * 20,
        b"\0",
        b"\xff\xfe",
        b"../x",
        b"\x1b[31m",
        b"\r\n",
        b",",
    ),
]


def cut(rng, data):
    return data[: rng.randrange(len(data) + 1)]


def flip(rng, data):
    place = rng.randrange(max(len(data), 1))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :] if data else data


def noise(rng, data):
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place + rng.randrange(9) :]


def number(rng, data):
    size, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    value = (rng.choice(NUMBERS) + rng.choice((0, 0, -1, 1))) % (1 << 8 * size)
    place = rng.randrange(max(len(data) - size, 0) + 1)
    return data[:place] + value.to_bytes(size, order) + data[place + size :]


def varint(rng, data):
    place = rng.randrange(len(data) + 1)
    return data[:place] + published.varint(rng.choice(NUMBERS)) + data[place + rng.randrange(5) :]


def splice(rng, data):
    start, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    place = rng.randrange(len(data) + 1)
    block = data[start : min(end, start + 2000)] * rng.choice((1, 1, 2, 30))
    return data[:place] + block + data[place + rng.choice((0, len(block))) :]


def drop(rng, data):
    place = rng.randrange(len(data) + 1)
    return data[:place] + data[place + rng.choice((1, 2, 4, 8, 100)) :]


def word(rng, data):
    """Of text: a number, a name or a string is replaced by another."""
    places = list(re.finditer(rb'"[^"]*"|[\w.+-]+', data[:20_000]))
    if not places:
        return data + rng.choice(WORDS)
    found = rng.choice(places)
    return data[: found.start()] + rng.choice([*WORDS, rng.choice(places)[0]]) + data[found.end() :]


DAMAGES = [cut, flip, noise, number, varint, splice, drop, word, word]


def damage(rng, data):
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(DAMAGES)(rng, data)
    return data


def damaged(rng, parts, join):
    """A file with damage in one of its parts, where the join allows that, or in the whole."""
    if rng.random() < 0.3:
        return damage(rng, join(parts))
    k = rng.randrange(len(parts))
    return join([*parts[:k], damage(rng, parts[k]), *parts[k + 1 :]])


# The search


def peak():
    """The most memory that this process had, in MB."""
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def check(reader, path):
    """What is wrong with how a reader takes a file; None where nothing is."""
    before, start = peak(), time.process_time()
    try:
        reader(path)
    except InputError as error:
        if path.name not in str(error) and path.parent.name not in str(error):
            return f"the file is not named: {error}"
    except BaseException:
        return traceback.format_exc()
    if (seconds := time.process_time() - start) > SECONDS:
        return f"took {seconds:.1f} s"
    if (more := peak() - before) > MEGABYTES:
        return f"took {more:.0f} MB"
    return None


def search(seconds, seed, only, found):
    """Damage and read, the readers in turn so that each has as much time; returns the number of findings."""
    apart.SECONDS = 5
    warnings.simplefilter("error")
    pictures.set_max_pixels(1_000_000)
    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        kinds = [kind for kind in seeds(Path(folder)) if only in kind[0]]
        spent, count = [0.0] * len(kinds), [0] * len(kinds)
        for _, name, reader, parts, join in kinds:
            file = Path(folder, name)
            file.write_bytes(join(parts))
            check(reader, file)  # what is imported now costs none of them time or memory
        end = time.monotonic() + seconds
        while (start := time.monotonic()) < end:
            k = min(range(len(kinds)), key=spent.__getitem__)
            kind, name, reader, parts, join = kinds[k]
            data = damaged(Random(f"{seed} {kind} {count[k]}"), parts, join)
            file, last = Path(folder, name), found / kind
            file.write_bytes(data)
            last.write_bytes(data)
            faulthandler.dump_traceback_later(HANGS, exit=True)
            wrong = check(reader, file)
            faulthandler.cancel_dump_traceback_later()
            if wrong:
                findings += 1
                kept = found / f"{kind}-{hashlib.sha256(data).hexdigest()[:8]}"
                kept.write_bytes(data)
                print(f"{kept}: {wrong}", flush=True)
            last.unlink()
            spent[k] += time.monotonic() - start
            count[k] += 1
    print(f"{sum(count):,} files, {findings} findings; fewest {min(count)}, of {kinds[count.index(min(count))][0]}")
    return findings


def main():
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--seconds", type=float, default=5)
    parse.add_argument("--seed", type=int, default=0)
    parse.add_argument("--only", default="", metavar="TEXT", help="only kinds of files whose name has TEXT in it")
    parse.add_argument("--found", type=Path, help="where findings are kept (default: a new folder)")
    options = parse.parse_args()
    found = options.found or Path(tempfile.mkdtemp(prefix="tinyfcn-fuzz-"))
    found.mkdir(parents=True, exist_ok=True)
    return int(search(options.seconds, options.seed, options.only, found) > 0)


if __name__ == "__main__":
    sys.exit(main())
