from math import prod

import numpy as np
import pytest
from hostile import read_all, refused, survives
from published import blob, field, layer, v1_layer, varint

from tinyfcn.formats import open_weights

WEIGHT = np.arange(2 * 3 * 5 * 5, dtype=np.float32).reshape(2, 3, 5, 5)
BIAS = np.array([0.5, -1], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net"


def test_layers_of_today_come_back(path):
    path.write_bytes(
        field(1, "VGG")
        + layer("data", "Data")
        + layer("conv1", "Convolution", blob(WEIGHT), blob(BIAS, packed=False))
        + layer("fc/6", "InnerProduct", blob(WEIGHT.reshape(2, 75).astype(np.float64)))
    )
    content = open_weights(path)
    assert content.container == "caffemodel" and list(content.tensors) == ["conv1/0", "conv1/1", "fc/6/0"]
    assert content.metadata["name"] == "VGG" and content.metadata["order"] == ["data", "conv1", "fc/6"]
    assert content.metadata["types"] == {"data": "Data", "conv1": "Convolution", "fc/6": "InnerProduct"}
    found = read_all(path)
    assert np.array_equal(found["conv1/0"], WEIGHT) and np.array_equal(found["conv1/1"], BIAS)
    assert found["fc/6/0"].dtype == np.float64 and found["fc/6/0"].shape == (2, 75)
    assert np.array_equal(found["fc/6/0"].ravel(), WEIGHT.ravel())


def test_layers_of_2014_come_back(path):
    path.write_bytes(
        field(1, "CaffeNet")
        + v1_layer("conv1", 4, blob(WEIGHT, legacy=True), blob(BIAS, legacy=True))
        + v1_layer("norm1", 15)
        + v1_layer("odd", 33)
    )
    content = open_weights(path)
    assert content.metadata["types"] == {"conv1": "Convolution", "norm1": "LRN", "odd": "33"}
    assert content.tensors["conv1/1"].shape == (1, 1, 1, 2)
    assert np.array_equal(content.tensors["conv1/0"].read(), WEIGHT)
    assert np.array_equal(content.tensors["conv1/1"].read().ravel(), BIAS)


def test_double_values_count_where_both_are_there(path):
    path.write_bytes(layer("a", "Scale", blob(np.array([1.0, 2.0])) + field(5, BIAS.tobytes())))
    assert read_all(path)["a/0"].tolist() == [1, 2]


def test_gradients_and_unknown_fields_are_passed_over(path):
    extra = field(6, bytes(8)) + varint(50 << 3 | 1) + bytes(8) + varint(51 << 3 | 5) + bytes(4) + field(1000, 7)
    path.write_bytes(field(1, "net") + extra + layer("a", "Scale", extra + blob(BIAS) + extra))
    assert np.array_equal(read_all(path)["a/0"], BIAS)


def test_a_large_file_is_listed_without_reading_it(path):
    """A file of 3 GB, all of it a hole, of which one value is not zero."""
    shape = (16, 3 << 24)
    size = 4 * prod(shape)
    start = field(7, field(1, b"".join(map(varint, shape)))) + varint(5 << 3 | 2) + varint(size)
    inner = field(1, "fc6") + varint(7 << 3 | 2) + varint(len(start) + size) + start
    head = varint(100 << 3 | 2) + varint(len(inner) + size) + inner
    small = layer("fc7", "InnerProduct", blob(BIAS))
    with path.open("wb") as file:
        file.write(head)
        file.seek(size, 1)
        file.write(small)
    content = open_weights(path)
    assert content.tensors["fc6/0"].shape == shape and np.array_equal(content.tensors["fc7/0"].read(), BIAS)


@pytest.mark.parametrize(
    "damage, message",
    [
        (blob(WEIGHT)[:-1], "conv1/0 has shape|damaged"),
        (field(7, field(1, varint(1 << 40))) + field(5, bytes(8)), r"conv1/0 has shape \(1099511627776,\) but 8 bytes"),
        (field(7, field(1, varint(-2) + varint(-1))) + field(5, bytes(8)), "conv1/0 has shape"),
        (field(7, field(1, varint(1) * 40)) + field(5, bytes(4)), "more than 32 numbers"),
        (field(7, field(1, varint(2))) + 2 * field(5, bytes(4)), "conv1/0 has its values one by one or in pieces"),
        (field(7, field(1, varint(1))) + varint(5 << 3 | 5) + bytes(4), "conv1/0 has its values one by one or in pieces"),
        (field(7, field(1, varint(2))), "conv1/0 has no values"),
        (field(1, 1) + field(7, field(1, varint(2))) + field(5, bytes(8)), r"conv1/0 has shape \(1, 0, 0, 0\) but 8 bytes"),
        (b"\x0b", "of kind 3"),
        (b"\x02\x00", "a field 0 of kind 2"),
        (b"\xff" * 11, "longer than ten bytes"),
    ],
)
def test_a_blob_that_lies_is_refused(path, damage, message):
    path.write_bytes(field(1, "net") + layer("conv1", "Convolution", damage) + layer("conv2", "Convolution", blob(BIAS)))
    refused(path, message)


def test_layers_that_cannot_be_told_apart_or_are_too_old_are_refused(path):
    path.write_bytes(2 * layer("a", "Convolution", blob(BIAS)))
    refused(path, "two layers a with weights")
    path.write_bytes(2 * layer("data", "Data") + layer("a", "Convolution", blob(BIAS)))
    assert open_weights(path).metadata["order"] == ["data", "data", "a"]
    path.write_bytes(field(2, field(1, field(1, "conv1") + field(50, blob(BIAS)))))
    refused(path, "V0: run Caffe's upgrade_net_proto_binary")
    path.write_bytes(field(1, "net") + layer("relu", "ReLU"))
    refused(path, "no layer with weights")
    path.write_bytes(layer("x" * 5000, "ReLU"))
    refused(path, "a name of 5000 bytes")
    path.write_bytes(layer("a\n\x1b[31m", "Convolution", b""))
    refused(path, r"a  \[31m/0 has no values")


def test_damage_is_survived(path):
    path.write_bytes(
        field(1, "net") + v1_layer("a", 4, blob(BIAS, legacy=True)) + layer("b", "Convolution", blob(WEIGHT[:1, :1]))
    )
    assert survives(path, cuts=80) > 80


def test_fields_without_end_are_not_read(path, monkeypatch):
    monkeypatch.setattr("tinyfcn.formats.protobuf.STEPS", 1000)
    path.write_bytes(layer("a", "Scale", blob(BIAS)) + 1000 * field(99, 1))
    refused(path, "has more than 1,000 fields and numbers, which no file of weights needs: refused")
