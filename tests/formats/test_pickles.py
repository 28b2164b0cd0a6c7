import os
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict
from itertools import count
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from hostile import read_all, refused, survives
from pickled import (
    MATRIX,
    VALUES,
    call,
    dictionary,
    legacy_file,
    name,
    number,
    old_text,
    program,
    storage,
    tensor,
    text,
    tup,
    zip_file,
)

from tinyfcn.formats import open_weights, unpickle

FILES = [zip_file, legacy_file]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.weights"


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_comes_back(path, zipped):
    torch = pytest.importorskip("torch")
    grid = torch.arange(24.0).reshape(2, 3, 4)
    state = OrderedDict(
        grid=grid,
        transposed=grid.transpose(0, 2),
        part=grid[1, :, 1:3],
        parameter=torch.nn.Parameter(grid[0]),
        half=grid.half(),
        double=grid.double(),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        long=torch.arange(5),
        bool=torch.tensor([True, False]),
    )
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    content = open_weights(path)
    assert content.container == "pth" and list(content.tensors) == list(state)
    for key, found in content.tensors.items():
        expected = state[key].detach().numpy()
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.array_equal(found.read(), expected) and found.read().flags.c_contiguous


@pytest.mark.parametrize("zipped", [True, False])
def test_a_training_checkpoint_of_torch_gives_the_network_s_tensors(path, zipped):
    torch = pytest.importorskip("torch")
    net = torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)))
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net.module[0](torch.ones(1, 2, 3, 3)).sum().backward()
    optimiser.step()
    checkpoint = {"epoch": 3, "arch": "net", "best": np.float64(0.5), "optim_state_dict": optimiser.state_dict()}
    torch.save(checkpoint | {"model_state_dict": net.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    found = read_all(path)
    expected = net.state_dict()
    assert list(found) == list(expected)
    assert all(np.array_equal(found[key], value.numpy()) for key, value in expected.items())


def test_a_whole_model_of_torch_is_refused_by_its_class(path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), path)
    refused(path, "asks for torch.nn.modules.linear.Linear, which is no tensor: refused")
    torch.save({"w": torch.zeros(2, dtype=torch.bfloat16)}, path)
    refused(path, "bfloat16")
    torch.save(torch.zeros(2), path)
    refused(path, "no tensors by name")


@pytest.mark.parametrize("write", FILES)
def test_files_made_without_torch_come_back(path, write):
    state = {
        "w": tensor(),
        "t": tensor(size=(3, 2), stride=(1, 3)),
        "v": tensor(offset=4, size=(2,), stride=(1,)),
        "epoch": number(7),
    }
    for wrapped in (state, {"state_dict": dictionary(state), "epoch": number(1)}, {"model": dictionary(state)}):
        write(path, dictionary(wrapped))
        found = read_all(path)
        assert list(found) == ["w", "t", "v"]
        assert np.array_equal(found["w"], MATRIX) and np.array_equal(found["t"], MATRIX.T) and found["v"].tolist() == [4, 5]


@pytest.mark.parametrize("write", FILES)
def test_of_dicts_in_dicts_those_with_tensors_are_listed(path, write):
    score, state = tensor(size=(), stride=()), dictionary({"w": tensor()})
    cases = {
        ("w",): {"net": state, "best": score, "optimizer": dictionary({"state": b"}" + number(0) + state + b"s"})},
        ("a.w", "b.c.w"): {"a": state, "b": dictionary({"c": state, "d": dictionary({"x": score})})},
        ("x", "a.w"): {"x": tensor(), "a": state},
    }
    for names, found in cases.items():
        write(path, dictionary(found))
        content = open_weights(path)
        assert tuple(content.tensors) == names and len(content.metadata["dicts"]) == len(names)
        assert all(np.array_equal(array.read(), MATRIX) for array in content.tensors.values())
    write(path, dictionary({"a": state, "a.w": tensor()}))
    refused(path, "a.w is there twice")
    write(path, dictionary({"w": tensor(), **{str(n): b"}" for n in range(1000)}}))
    refused(path, "more than 1000 dicts")


def test_a_legacy_file_s_storage_may_be_a_part_of_another(path):
    views = [tup(text(str(n)), number(2 * n), number(2)) for n in range(3)]
    state = {f"v{n}": tensor(storage(view=view), size=(2,), stride=(1,), old=True) for n, view in enumerate(views)}
    legacy_file(path, dictionary(state | {"all": tensor(storage(view=b"N"))}))
    found = read_all(path)
    assert [found[f"v{n}"].tolist() for n in range(3)] == [[0, 1], [2, 3], [4, 5]] and np.array_equal(found["all"], MATRIX)


def test_storages_follow_each_other_in_the_order_of_the_keys(path):
    kinds = {"Half": np.float16, "Double": np.float64, "Long": np.int64, "Byte": np.uint8}
    state = {kind: tensor(storage(kind, 6, kind, module="torch.cuda")) for kind in kinds}
    values = {kind: np.arange(i, i + 6).astype(kinds[kind]) for i, kind in enumerate(reversed(kinds))}
    legacy_file(path, dictionary(state), values)
    for kind, found in read_all(path).items():
        assert found.dtype == kinds[kind] and np.array_equal(found.ravel(), values[kind])


@pytest.mark.parametrize("write", FILES)
def test_parameters_and_dictionaries_of_old_versions(path, write):
    hooks = call("collections", "OrderedDict")
    parameter = name("torch.nn.parameter", "Parameter")
    pieces = storage() + number(0) + tup(number(2), number(3)) + tup(number(3), number(1))
    state = {
        "now": call("torch._utils", "_rebuild_parameter", tensor(), b"\x88", hooks),
        "three": parameter + tup(tensor(old=True)) + b"R" + tup(b"\x88", b"\x89", hooks) + b"b",
        "five": parameter + b")\x81" + tup(tensor(old=True), b"N", hooks, b"\x88", b"\x89") + b"b",
        "four": parameter + b")R" + b"(" + pieces + b"tb",
        "size": call("torch", "Size", tup(number(2))),
    }
    items = b"](" + b"".join(b"](" + old_text(key) + value + b"e" for key, value in state.items()) + b"e"
    metadata = dictionary({"_metadata": call("collections", "OrderedDict")})
    for body in (call("collections", "OrderedDict", items) + metadata + b"b", dictionary(state, old_text)):  # Python 2, 3
        write(path, body)
        found = read_all(path)
        assert list(found) == ["now", "three", "five", "four"] and all(np.array_equal(w, MATRIX) for w in found.values())


HOSTILE = {
    "os.system": call("os", "system", text("touch {marker}")),
    "posix.system": call("posix", "system", text("touch {marker}")),
    "builtins.eval": call("builtins", "eval", text("open('{marker}', 'w')")),
    "__builtin__.eval": call("__builtin__", "eval", text("open('{marker}', 'w')")),
    "builtins.getattr": call("builtins", "getattr", name("collections", "OrderedDict"), text("__init__")),
    "collections.OrderedDict.__init__.__globals__": name("collections", "OrderedDict.__init__.__globals__"),
    "torch.storage._load_from_bytes": call("torch.storage", "_load_from_bytes", text("x")),
    "torch.hub.load": call("torch.hub", "load", text("x")),
    "torch.load": call("torch", "load", text("{marker}")),
    "torch._utils": name("torch", "_utils"),
    "collections.defaultdict": call("collections", "defaultdict", name("collections", "OrderedDict")),
    "subprocess.Popen": call("subprocess", "Popen", text("touch {marker}")),
    "webbrowser.open": call("webbrowser", "open", text("http://localhost/")),
}


@pytest.mark.parametrize("asked", HOSTILE)
@pytest.mark.parametrize("write", FILES)
def test_what_is_no_tensor_is_refused_by_name(path, write, asked):
    body = HOSTILE[asked].replace(b"{marker}", bytes(path.with_name("marker")))
    write(path, dictionary({"w": tensor(), "x": body}))
    assert refused(path, "refused").endswith(f"asks for {asked}, which is no tensor: refused")
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "body, message",
    [
        (b"\x93", "STACK_GLOBAL"),
        (b"(text(b)i", "damaged"),
        (b"(ios\nsystem\n.", "INST"),
        (b"(" + name("collections", "OrderedDict") + b"o", "OBJ"),
        (b"Ppersistent\n", "PERSID"),
        (b"\x82\x01", "EXT1"),
        (b"\x96" + struct.pack("<Q", 1 << 40), "damaged|BYTEARRAY8"),
        (text("x") + b")R", "calls what is no function"),
        (name("torch", "FloatStorage") + b")R", "calls what is no function"),
        (name("torch._utils", "_rebuild_tensor_v2") + dictionary({"a": b"N"}) + b"b", "gives a Name a state"),
        (name("collections", "OrderedDict") + dictionary({"update": b"N"}) + b"b", "gives a Name a state"),
        (tensor() + dictionary({"storage": b"N"}) + b"b", "gives a View a state"),
        (tup(text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(6)) + b"Q", "no storage"),
        (text("x") + b"Q", "damaged|no storage"),
        (b"h\x07", "damaged"),
        (b"0", "POP"),
        (b"t", "damaged"),
        (b"\x87", "damaged"),
        (b"I" + 5000 * b"1" + b"\n", "damaged|INT"),
        (dictionary({"a": b"N"}) + text("a") + b"N" + b"s" + b"}" + tup(text("a")) + b"Ns", "twice|tuple"),
    ],
    ids=count(),
)
def test_what_no_state_dict_needs_is_refused(path, body, message):
    zip_file(path, b"](" + body + b"e")
    refused(path, message)


@pytest.mark.parametrize("write", FILES)
@pytest.mark.parametrize(
    "lie, message",
    [
        (tensor(size=(2, 4), stride=(3, 1)), r"w, \(2, 4\) with strides \(3, 1\) at 0, lies outside its storage of 6"),
        (tensor(offset=1), "lies outside"),
        (tensor(size=(6,), stride=(2,)), "lies outside"),
        (tensor(size=(1 << 40,), stride=(0,)), "lies outside"),
        (tensor(size=(1 << 40, 1 << 40), stride=(1, 1)), "lies outside"),
        (tensor(offset=7, size=(0,), stride=(1,)), "lies outside"),
        (tensor(offset=-1), "no number of elements"),
        (tensor(size=(-2, -3)), "no number of elements"),
        (tensor(stride=(-3, 1)), "no number of elements"),
        (tensor(offset=-(1 << 62)), "no number of elements"),
        (tensor(size=(1,) * 33, stride=(1,) * 33), "no number of elements"),
        (tensor(stride=(1,)), "as many strides"),
        (tensor(storage(numel=-6)), "no storage"),
        (tensor(storage(numel=1 << 61)), "6|inside"),
        (tensor(storage(numel=5)), "5"),
        (tensor(storage(key="1")), "no net/data/1|storage 0, which its pickle does not have"),
        (tensor(storage(kind="Double")), "0"),
        (tensor(storage(kind="BFloat16")), r"bfloat16 \(torch.BFloat16Storage\)"),
        (tensor(storage(view=tup(text("1"), number(4), number(3)))), "part of storage 0 lies outside its 6"),
        (tensor(storage(view=tup(text("1"), number(-1), number(3)))), "part of storage 0 lies outside its 6"),
        (tensor(storage(view=tup(text("1"), number(2), number(4)))), "lies outside its storage of 4"),
        (tup(tensor(), tensor(storage(kind="Int"))), "storage 0 is described twice"),
    ],
    ids=count(),
)
def test_tensors_that_lie_are_refused(path, write, lie, message):
    write(path, dictionary({"w": lie}))
    refused(path, message)


def test_entries_of_a_zip_that_lie_are_refused(path):
    good = dictionary({"w": tensor()})
    zip_file(path, good, method=ZIP_DEFLATED)
    refused(path, "compressed or encrypted")
    zip_file(path, good, storages={})
    refused(path, "has no net/data/0")
    zip_file(path, good, storages={"0": bytes(23)})
    refused(path, "net/data/0 has 23 bytes, expected 6 elements of float32")
    zip_file(path, good, byteorder="big")
    refused(path, "byte order")
    zip_file(path, good, byteorder="little")
    assert np.array_equal(read_all(path)["w"], MATRIX)
    with ZipFile(path, "a") as file:
        file.writestr("other/data.pkl", program(good))
    refused(path, "has 2 pickles")
    zip_file(path, good)
    with ZipFile(path, "a") as file, pytest.warns(UserWarning):
        file.writestr("net/data/0", bytes(24))
    refused(path, "net/data/0 is there twice")


@pytest.mark.parametrize("offset", [0, 20, 1 << 20])
def test_entries_of_a_zip_may_not_overlap_or_lie_outside(path, offset):
    zip_file(path, dictionary({"w": tensor(), "v": tensor(storage("1"))}), {"0": VALUES.tobytes(), "1": bytes(24)})
    data = path.read_bytes()
    with ZipFile(path) as file:
        honest = struct.pack("<L", file.getinfo("net/data/1").header_offset)
    at = data.rindex(honest + b"net/data/1")
    path.write_bytes(data[:at] + struct.pack("<L", offset) + data[at + 4 :])
    refused(path, "over another entry or outside the file|damaged")


def test_legacy_files_that_lie_are_refused(path):
    good = dictionary({"w": tensor()})
    legacy_file(path, good, little=b"\x89")
    refused(path, "byte order")
    legacy_file(path, good, version=1002)
    refused(path, "version is not 1001")
    legacy_file(path, good, {})
    refused(path, "has no storage 0")
    legacy_file(path, good, {"0": VALUES, "1": VALUES})
    refused(path, "a storage 1, which its pickle does not have")
    legacy_file(path, good, {"0": VALUES[:5]})
    refused(path, "storage 0 has 5 elements, expected 6")
    legacy_file(path, good)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "inside the file")


def nested(depth):
    """Tuples in each other, as deep as to end Python when it hashes them."""
    return b")" + depth * b"\x85"


def doubled(times):
    """With a list that holds a list twice, which holds a list twice: as text, larger than any memory."""
    return tup(b"]q\x00" + times * b"](h\x00h\x00eq\x00")


ONE_LIST = b"](" + b"".join(b"](" + number(n) + b"Ne" for n in range(1000)) + b"eq\x00"


@pytest.mark.parametrize("write", FILES)
@pytest.mark.parametrize(
    "bomb, message",
    [
        (b"Nr" + struct.pack("<L", (1 << 32) - 1), "no tensors"),
        (b"}" + nested(100_000) + b"Ns", "has a tuple for a key"),
        (nested(100_000), "no tensors"),
        (doubled(60), "no tensors"),
        (dictionary({"w": tensor(doubled(60))}), "w is not a tensor"),
        (dictionary({"w": tensor(text("0"))}), "w is not a tensor"),
        (call("collections", "OrderedDict", doubled(60)), "damaged|list for a key"),
        (dictionary({"w": tensor(tup(text("storage"), doubled(60), text("0"), b"N", number(6)) + b"Q")}), "no storage"),
        (ONE_LIST + 5000 * (name("collections", "OrderedDict") + b"h\x00\x85R"), "no tensors"),
        (b"\x8a\xff" + 255 * b"\x7f", "no tensors"),
        (b"X\xff\xff\xff\x7f", "damaged"),
        (b"T\xff\xff\xff\x7f", "damaged"),
        (b"\x8b\xff\xff\xff\x7f", "damaged|LONG4"),
        (20_000 * b"N", "more than 10000 instructions"),
        (text("x" * (1 << 24)), "damaged|more than 16777216: refused"),
    ],
    ids=count(),
)
def test_bombs_do_not_go_off(path, monkeypatch, write, bomb, message):
    if "instructions" in message:
        monkeypatch.setattr(unpickle, "STEPS", 10_000)
    write(path, bomb, {})
    tracemalloc.start()
    refused(path, message)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000 + 4 * path.stat().st_size


@pytest.mark.filterwarnings("ignore:.*invalid")
@pytest.mark.parametrize("write", FILES)
def test_damage_is_survived(path, write):
    views = {
        "w": tensor(),
        "t": tensor(size=(3, 2), stride=(1, 3)),
        "v": tensor(storage("1", view=b"N"), offset=4, size=(2,), stride=(1,)),
    }
    write(path, dictionary(views), {"0": VALUES, "1": VALUES} if write is legacy_file else {"0": bytes(24), "1": bytes(24)})
    assert survives(path, cuts=100, flips=400) > 200


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("write", FILES)
def test_nothing_in_a_name_makes_python_warn(path, write):
    write(path, name("torch", "\\:"))
    refused(path, "damaged: a name in its pickle has a backslash")


WATCHER = """
import sys
from tinyfcn.errors import InputError
from tinyfcn.formats import open_weights

seen = set()
for path in sys.argv[1:]:
    if path == "watch":
        sys.addaudithook(lambda event, values: seen.add(f"{event}:{values[0]}"))
        continue
    try:
        for tensor in open_weights(path).tensors.values():
            tensor.read()
    except InputError:
        seen.add("refused")
print(*seen, sep="\\n")
"""


def test_nothing_is_run_imported_or_connected_to(path):
    """Python reports every call, import, compilation and connection to whom it may concern: only the files are opened."""
    good = [path.with_name(f"good.{write.__name__}") for write in FILES]  # what Python imports for a zip is there after these
    bad = [path.with_name(f"{asked}.{write.__name__}") for asked in HOSTILE for write in FILES]
    for place, write in zip(good, FILES, strict=True):
        write(place, dictionary({"w": tensor()}))
    for place, body, write in zip(bad, [body for body in HOSTILE.values() for _ in FILES], len(HOSTILE) * FILES, strict=True):
        write(place, dictionary({"w": tensor(), "x": body}))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", WATCHER, *good, "watch", *good, *bad]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()) == {"refused", *(f"open:{place}" for place in [*good, *bad])}
