import json
import struct
import tarfile
from zipfile import ZIP_DEFLATED, ZIP_LZMA, ZipFile

import numpy as np
import pytest
from hostile import read_all, refused, survives
from safetensors.numpy import save_file

from tinyfcn import weights
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights

ARRAYS = {
    "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "half": np.array([1.5, -2.0], np.float16),
    "double": np.array(0.1),
    "many": np.arange(5),
    "none": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
}


def safetensors(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def npy(shape, descr="<f4", data=b""):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def archive(path, entries, method=0):
    with ZipFile(path, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)


def write(path, kind, arrays):
    if kind == "safetensors":
        save_file(arrays, path)
    else:
        {"npz": np.savez, "compressed": np.savez_compressed}[kind](path.open("wb"), **arrays)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "compressed"])
def test_arrays_come_back_whatever_the_file_is_called(tmp_path, kind):
    path = tmp_path / "file.of_weights"
    write(path, kind, ARRAYS)
    content = open_weights(str(path))
    assert content.container == ("safetensors" if kind == "safetensors" else "npz") and content.metadata == {}
    assert set(content.tensors) == set(ARRAYS)
    for name, expected in ARRAYS.items():
        tensor = content.tensors[name]
        assert (tensor.shape, tensor.dtype) == (expected.shape, expected.dtype)
        assert np.array_equal(tensor.read(), expected) and tensor.read().dtype == expected.dtype


def test_arrays_in_fortran_order_come_back(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(ARRAYS["a.weight"]))
    assert np.array_equal(read_all(tmp_path / "x.npz")["x"], ARRAYS["a.weight"])


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_the_description_is_in_the_metadata(tmp_path, suffix):
    path = tmp_path / f"net.{suffix}"
    weights.write(path, {"x": np.zeros(3, np.float32)}, Description("FCN32s", 3, 0.5))
    content = open_weights(path)
    assert content.metadata == {"description": {"model": "FCN32s", "num_classes": 3, "width": 0.5}}
    assert list(content.tensors) == ["x"]


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_types_that_numpy_lacks_are_named(tmp_path, dtype):
    size = 4 if dtype == "BF16" else 2
    safetensors(tmp_path / "x", {"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, size]}}, bytes(size))
    refused(tmp_path / "x", f"w is {dtype}, which NumPy does not have")


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 1 << 40]}},
        {"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
        {
            "v": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        },
        {"__metadata__": {"tinyfcn": "[1, 2]"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": {"tinyfcn": "{"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"__metadata__": {"tinyfcn": "[" * 100_000}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        b"{not json",
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path, header):
    safetensors(tmp_path / "x", header, bytes(8))
    refused(tmp_path / "x", "damaged|description")


@pytest.mark.parametrize(
    "entry",
    [
        npy((1 << 40,), data=bytes(8)),
        npy((3,), data=bytes(8)),
        npy((1,), data=bytes(8)),
        npy((-2, -1), data=bytes(8)),
        npy((1 << 40,), "<U0"),
        npy((2,), "|O", bytes(16)),
        npy((2,), "<c8", bytes(16)),
        npy("2", data=bytes(8)),
        npy("(" * 500 + ")" * 500, data=bytes(8)),
        b"\x93NUMPY\x03\x00" + npy((2,), data=bytes(8))[8:],
        npy((2,), data=bytes(8))[:20],
        b"",
    ],
)
def test_an_npz_entry_that_lies_is_refused(tmp_path, entry):
    archive(tmp_path / "x", {"w.npy": entry})
    refused(tmp_path / "x", "w|damaged|version")


def test_an_npz_cannot_promise_more_than_its_bytes_give(tmp_path):
    archive(tmp_path / "x", {"w.npy": npy((2,), data=bytes(8))}, ZIP_DEFLATED)
    honest = (tmp_path / "x").read_bytes()
    size = struct.pack("<L", len(npy((2,), data=bytes(8))))
    (tmp_path / "x").write_bytes(honest.replace(size, struct.pack("<L", 1 << 25)))  # in both of the zip's lists
    refused(tmp_path / "x", "w.npy has 33554432 bytes, its header says")
    (tmp_path / "x").write_bytes(honest.replace(size, struct.pack("<L", 1 << 30)))
    refused(tmp_path / "x", r"would have 1,073,741,824 bytes, [\d,]+ times its own \d+: more than 32 times is refused")
    np.savez_compressed(tmp_path / "x.npz", **{f"{k}": np.zeros((1 << 22) + 1, np.float32) for k in range(4)})
    refused(tmp_path / "x.npz", r"1,0\d\d times its own .*: more than 32 times is refused; save it without compression")
    np.savez_compressed(tmp_path / "x.npz", w=np.zeros(1 << 22, np.float32))
    assert read_all(tmp_path / "x.npz")["w"].shape == (1 << 22,)
    archive(tmp_path / "x", {"w.npy": npy((2,), data=bytes(8))}, ZIP_LZMA)
    refused(tmp_path / "x", "w.npy is compressed as NumPy does not do it")


def test_lists_without_end_are_not_read(tmp_path):
    save_file({f"{k}": np.zeros(0, np.float32) for k in range(10_001)}, tmp_path / "x")
    refused(tmp_path / "x", "has 10,001 arrays, more than 10,000: refused")
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 5) + bytes(16) + b"w.npy"
    entries = 30_000 * entry
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 30_000, 30_000, len(entries), 30, 0)
    (tmp_path / "x").write_bytes(b"PK\3\4" + bytes(26) + entries + end)
    refused(tmp_path / "x", "lists its entries in 1,530,000 bytes, more than 1,048,576: refused")
    safetensors(tmp_path / "x", b"{" + bytes(1 << 24))
    refused(tmp_path / "x", "its header has 16,777,217 bytes, more than 16,777,216: refused")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path):
    with ZipFile(tmp_path / "x", "w") as file:
        for value in (b"\0", b"\1"):
            file.writestr("w.npy", npy((4,), data=4 * (value + bytes(3))))
    refused(tmp_path / "x", "w is there twice")


@pytest.mark.parametrize("kind", ["safetensors", "npz", "compressed"])
def test_damage_is_survived(tmp_path, kind):
    write(tmp_path / "x", kind, ARRAYS)
    assert survives(tmp_path / "x") > 50


def test_a_file_that_shrinks_between_listing_and_reading_is_refused(tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "x")
    tensor = open_weights(tmp_path / "x").tensors["w"]
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1])
    with pytest.raises(InputError, match="x: w: not a readable file of weights, damaged"):
        tensor.read()


def test_what_is_listed_is_what_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.zeros(3))
    tensor = open_weights(tmp_path / "x.npz").tensors["w"]
    np.savez(tmp_path / "x.npz", w=np.zeros(4))
    with pytest.raises(InputError, match="x.npz: w: "):
        tensor.read()


def test_what_is_no_file_of_weights_says_what_to_do(tmp_path):
    path = tmp_path / "x.npz"
    refused(path, "no such file of weights")
    for data in (b"", b"x", b"PK", b"<!DOCTYPE html>" + bytes(600), b"version https://git-lfs", bytes(600), b"\xff" * 600):
        path.write_bytes(data)
        refused(path, "not a readable file of weights: known are .safetensors and .npz")
    archive(path, {"config.json": "{}", "model.weights.h5": "x"}, ZIP_DEFLATED)
    refused(path, r"\.keras archive that is compressed: unzip it")
    archive(path, {"readme.txt": ""})
    refused(path, "not a readable file of weights")
    with tarfile.open(path, "w") as file:
        file.add(__file__)
    refused(path, "tar archive")
    path.unlink()
    path.mkdir()
    refused(path, "no such file of weights")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [r"(2,) if '\:' else 0", "(1if 1else 2,)"])
def test_nothing_in_a_header_makes_python_warn(tmp_path, shape):
    archive(tmp_path / "x", {"w.npy": npy(shape, data=bytes(8))})
    refused(tmp_path / "x", "damaged: an array's header")
