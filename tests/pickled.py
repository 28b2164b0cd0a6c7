"""Files of torch.save, written by hand: no PyTorch is needed to make a file of PyTorch."""

import struct
from zipfile import ZipFile

import numpy as np

VALUES = np.arange(6, dtype=np.float32)
MATRIX = VALUES.reshape(2, 3)

# A pickle's instructions.


def text(s):
    return b"X" + struct.pack("<L", len(s)) + s.encode()


def old_text(s):
    return b"U" + bytes([len(s)]) + s.encode()


def number(n):
    return b"J" + struct.pack("<l", n) if abs(n) < 1 << 31 else b"\x8a\x08" + struct.pack("<q", n)


def tup(*parts):
    return b"(" + b"".join(parts) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(module, attribute, *arguments):
    return name(module, attribute) + tup(*arguments) + b"R"


def dictionary(items, string=text):
    return b"}(" + b"".join(string(key) + value for key, value in items.items()) + b"u"


def storage(key="0", numel=6, kind="Float", view=None, module="torch"):
    parts = [text("storage"), name(module, f"{kind}Storage"), text(key), text("cpu"), number(numel)]
    return tup(*parts, *([] if view is None else [view])) + b"Q"


def tensor(stored=None, offset=0, size=(2, 3), stride=(3, 1), old=False):
    arguments = [storage() if stored is None else stored, number(offset), tup(*map(number, size)), tup(*map(number, stride))]
    if old:
        return call("torch._utils", "_rebuild_tensor", *arguments)
    return call("torch._utils", "_rebuild_tensor_v2", *arguments, b"\x89", call("collections", "OrderedDict"))


def program(body):
    return b"\x80\x02" + body + b"."


def zip_file(path, body, storages=None, method=0, **more):
    storages = {"0": VALUES.tobytes()} if storages is None else storages
    with ZipFile(path, "w", method) as file:
        file.writestr("net/data.pkl", program(body))
        for key, data in storages.items():
            file.writestr(f"net/data/{key}", data)
        for entry, data in more.items():
            file.writestr(f"net/{entry}", data)


def legacy_file(path, body, storages=None, little=b"\x88", version=1001):
    storages = {"0": VALUES} if storages is None else storages
    magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
    keys = b"](" + b"".join(map(text, storages)) + b"e"
    parts = [magic, number(version), b"}" + text("little_endian") + little + b"s", body, keys]
    data = b"".join(struct.pack("<q", len(array)) + array.tobytes() for array in storages.values())
    path.write_bytes(b"".join(map(program, parts)) + data)


def tree(path, found):
    """A file of torch.save with dicts in dicts of arrays, and of numbers and text."""
    arrays = {}

    def body(value):
        if isinstance(value, dict):
            return b"}(" + b"".join((text(k) if isinstance(k, str) else number(k)) + body(v) for k, v in value.items()) + b"u"
        if isinstance(value, np.ndarray):
            key = str(len(arrays))
            arrays[key] = np.ascontiguousarray(value)
            strides = tuple(s // value.itemsize for s in arrays[key].strides)
            return tensor(storage(key, value.size), size=value.shape, stride=strides)
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        return number(value) if isinstance(value, int) else text(value)

    pickled = body(found)
    zip_file(path, pickled, {key: array.tobytes() for key, array in arrays.items()})
