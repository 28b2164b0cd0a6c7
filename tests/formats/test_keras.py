import os
import subprocess
import sys
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np
import pytest
from hostile import read_all, read_here, refused

from tinyfcn.formats import apart, keras, open_weights
from tinyfcn.formats.apart import read_apart

h5py = pytest.importorskip("h5py")
KERNEL = np.arange(3 * 3 * 2 * 4, dtype=np.float32).reshape(3, 3, 2, 4)
BIAS = np.array([1, 2, 3, 4], np.float32)
LAYERS = {"input_1": [], "block1_conv1": [KERNEL, BIAS], "block1_pool": [], "block1_conv2": [KERNEL + 1, BIAS + 1]}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(keras, "read_apart", read_here)  # quicker; see the last test
    return tmp_path / "vgg"


def legacy(group, layers, names=("{0}_W_1:0", "{0}_b_1:0"), chunks=1):
    """Write as keras/legacy/saving/legacy_h5_format.py does."""

    def attribute(group, name, values):
        parts = np.array_split(np.array([value.encode() for value in values], "S" if values else "S1"), chunks)
        for i, part in enumerate(parts):
            group.attrs[name if chunks == 1 else f"{name}{i}"] = part

    attribute(group, "layer_names", list(layers))
    for layer, arrays in layers.items():
        part = group.create_group(layer)
        found = [name.format(layer) for name, _ in zip(names, arrays, strict=False)]
        attribute(part, "weight_names", found)
        for name, array in zip(found, arrays, strict=True):
            part[name] = array


def check(path, expected):
    content = open_weights(path)
    assert content.container == "h5" and list(content.tensors) == list(expected)
    for name, array in expected.items():
        tensor = content.tensors[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype) and np.array_equal(tensor.read(), array)


EXPECTED = {
    "block1_conv1/0": KERNEL,
    "block1_conv1/1": BIAS,
    "block1_conv2/0": KERNEL + 1,
    "block1_conv2/1": BIAS + 1,
}


@pytest.mark.parametrize("names", [("{0}_W_1:0", "{0}_b_1:0"), ("{0}/kernel:0", "{0}/bias:0"), ("{0}/z", "{0}/a")])
@pytest.mark.parametrize("root", ["/", "model_weights"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_legacy_file_is_read_in_the_order_of_its_names(path, names, root, chunks):
    with h5py.File(path, "w") as file:
        legacy(file.require_group(root), LAYERS, names, chunks)
    check(path, EXPECTED)


@pytest.mark.parametrize("top", ["layers/", "_layer_checkpoint_dependencies/", "_layer_checkpoint_dependencies\\"])
def test_a_numbered_file_is_read_in_the_order_of_its_numbers(path, top):
    numbers = [0, 1, 2, 9, 10, 11]
    names = ["conv2d" + (f"_{n}" if n else "") for n in numbers]
    with h5py.File(path, "w") as file:
        for n, name in sorted(zip(numbers, names, strict=True), key=lambda pair: pair[1]):
            group = file.create_group(f"{top}{name}").create_group("vars")
            group["1"], group["0"] = BIAS + n, KERNEL + n
        file.create_group(f"{top}max_pooling2d").create_group("vars")
        file.create_group(f"{top}flatten")
        file.create_group("vars")
    arrays = {f"{name}/{i}": array + n for n, name in zip(numbers, names, strict=True) for i, array in enumerate((KERNEL, BIAS))}
    check(path, arrays)


@pytest.mark.parametrize("where", ["layers/conv2d", "layers/conv2d/vars"])
def test_a_numbered_file_may_know_the_layers_own_names(path, where):
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL
        file[where].attrs["name"] = "block1_conv1"
    check(path, {"block1_conv1/0": KERNEL})


def numbered(path, dataset):
    """A file whose layer a is good and whose layer b has what `dataset` puts into its group."""
    with h5py.File(path, "w") as file:
        file["layers/a/vars/0"] = BIAS
        dataset(file.create_group("layers/b/vars"))


def test_nothing_outside_the_file_is_read(path):
    secret = path.with_name("secret")
    with h5py.File(secret, "w") as file:
        file["vars/0"] = BIAS
    raw = path.with_name("raw")
    raw.write_bytes(BIAS.tobytes())
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource(secret, "vars/0", (4,))
    for dataset in (
        lambda group: group.__setitem__("0", h5py.ExternalLink(secret, "vars/0")),
        lambda group: group.__setitem__("0", h5py.SoftLink("/layers/a/vars/0")),
        lambda group: group.create_dataset("0", (4,), "f4", external=[(raw, 0, 16)]),
        lambda group: group.create_virtual_dataset("0", layout),
        lambda group: group.create_group("0"),
    ):
        numbered(path, dataset)
        refused(path, r"b/0 \(layers/b/vars/0\) is not an array in this file|/layers/b/vars/0 is a link")
    for link in "layers", "layers/b", "layers/b/vars", "model_weights":
        for target in secret, path.with_name("missing"):  # a link that is followed would be missing, too
            with h5py.File(path, "w") as file:
                file[link] = h5py.ExternalLink(target, "/")
            refused(path, f"/{link} is a link, perhaps to another file: refused")
    with h5py.File(path, "w") as file:
        legacy(file, {"a": [BIAS]})
        file["a"].attrs["weight_names"] = [b"away/vars/0"]
        file["a/away"] = h5py.ExternalLink(secret, "/")
    refused(path, "/a/away is a link")


def test_arrays_that_lie_are_refused(path):
    cases = {
        r"has shape \(1099511627776,\), but 0 bytes": lambda group: group.create_dataset("0", (1 << 40,), "f4"),
        r"has shape \(1099511627776, 2\), but 0 bytes": lambda group: group.create_dataset(
            "0", (1 << 40, 2), "f4", chunks=(8, 2)
        ),
        "is object, expected floating": lambda group: group.create_dataset("0", data=["text"]),
        "has shape None": lambda group: group.create_dataset("0", data=h5py.Empty("f4")),
        "is bfloat16": lambda group: group.create_dataset("0", data=BIAS).attrs.__setitem__("dtype", "bfloat16"),
    }
    for message, dataset in cases.items():
        numbered(path, dataset)
        refused(path, message)
    numbered(
        path, lambda group: group.create_dataset("0", data=np.zeros((200, 300), "f4"), chunks=(200, 300), compression="gzip")
    )
    assert read_all(path)["b/0"].shape == (200, 300)


def test_what_is_missing_is_named(path):
    with h5py.File(path, "w") as file:
        legacy(file, {"a": [BIAS]})
        del file["a/a_W_1:0"]
    refused(path, "has no /a/a_W_1:0: a_W_1:0 is missing")
    with h5py.File(path, "w") as file:
        file["x"] = BIAS
    refused(path, "none of Keras")
    with h5py.File(path, "w") as file:
        for layer in "ab":
            file[f"layers/{layer}/vars/0"] = BIAS
            file[f"layers/{layer}"].attrs["name"] = "same"
    refused(path, "same/0 is there twice")


def test_without_h5py_the_remedy_is_named(path, monkeypatch):
    with h5py.File(path, "w") as file:
        legacy(file, LAYERS)
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(path, r'needs h5py: pip install "tinyfcn\[keras\]"')


@pytest.mark.parametrize("kind", ["legacy", "numbered", "archived"])
def test_damage_is_survived(path, kind):
    """In a process of its own: the HDF5 library is not made for damaged files."""
    if kind == "legacy":
        with h5py.File(path, "w") as file:
            legacy(file, LAYERS)
    else:
        numbered(path, lambda group: group.create_dataset("0", data=KERNEL))
    if kind == "archived":
        archived(path.rename(path.with_name("inside")).with_name("vgg"), path.with_name("inside"))
    command = (
        "import sys; from pathlib import Path; from hostile import read_here, survives; from tinyfcn.formats import keras;"
        "keras.read_apart = read_here; print(survives(Path(sys.argv[1])))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", command, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def archived(path, inside, method=ZIP_STORED):
    with ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", "{}")
        archive.write(inside, "model.weights.h5")
        archive.writestr("config.json", "{}")


def test_an_archive_is_read_where_it_lies(path):
    inside = path.with_name("inside")
    with h5py.File(inside, "w") as file:
        file["layers/conv2d/vars/0"] = KERNEL
        file["layers/conv2d/vars/1"] = BIAS
        file["layers/dropout/seed_generator/vars/0"] = np.arange(2)  # no floating-point numbers: nothing to read
        file["optimizer/vars/0"] = KERNEL
    archived(path, inside)
    check(path, {"conv2d/0": KERNEL, "conv2d/1": BIAS})
    archived(path, inside, ZIP_DEFLATED)
    refused(path, "archive that is compressed: unzip it and give its model.weights.h5")


def test_a_model_that_is_a_layer_is_listed_with_its_layers(path):
    with h5py.File(path, "w") as file:
        file["layers/functional/layers/conv2d/vars/0"] = KERNEL
        file["layers/functional/layers/sequential/layers/conv2d/vars/0"] = KERNEL + 1
        file["backbone/layers/conv2d/vars/0"] = KERNEL + 2
    check(
        path,
        {"backbone/conv2d/0": KERNEL + 2, "functional/conv2d/0": KERNEL, "functional/sequential/conv2d/0": KERNEL + 1},
    )
    arrays = {"a/kernel:0": KERNEL, "b/kernel:0": KERNEL + 1, "b/bias:0": BIAS + 1, "a/bias:0": BIAS}  # in some order
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"vgg"]
        file.create_group("vgg").attrs["weight_names"] = [name.encode() for name in arrays]
        for name, array in arrays.items():
            file[f"vgg/{name}"] = array
    check(path, {"vgg/a/0": KERNEL, "vgg/a/1": BIAS, "vgg/b/0": KERNEL + 1, "vgg/b/1": BIAS + 1})


@pytest.mark.parametrize("inside", [False, True])
def test_arrays_of_every_kind_come_back_from_another_process(path, inside, monkeypatch):
    monkeypatch.setattr(keras, "read_apart", read_apart)
    arrays = {"a": KERNEL, "b": BIAS.astype(">f8"), "c": np.zeros((0, 2), "f2"), "d": np.float32(3.5) * np.ones(())}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"layers/{name}/vars/0"] = array
        file["layers/e/vars"] = file["layers/a/vars"]
        file.create_dataset("layers/f/vars/0", data=KERNEL, chunks=(2, 2, 2, 3), compression="gzip", shuffle=True)
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        place = file.create_group("layers/g/vars").id
        h5py.h5d.create(place, b"0", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), compact).write(
            h5py.h5s.ALL, h5py.h5s.ALL, BIAS
        )
    if inside:
        archived(path.rename(path.with_name("inside")).with_name("vgg"), path.with_name("inside"))
    expected = arrays | {"e": KERNEL, "f": KERNEL, "g": BIAS}
    check(path, {f"{name}/0": array for name, array in expected.items()})


def test_a_byte_that_keeps_the_library_busy_for_ever_is_one_line(path, monkeypatch):
    monkeypatch.setattr(keras, "read_apart", read_apart)
    monkeypatch.setattr(apart, "SECONDS", 1)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["a"]
    data = bytearray(path.read_bytes())
    data[data.index(b"GCOL") + 48] = 1  # of the size of what is free in a heap
    path.write_bytes(data)
    refused(path, "damaged: given up after 1 s|cannot be read")  # the latter by a library that has mended it
