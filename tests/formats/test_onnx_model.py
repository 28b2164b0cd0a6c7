import numpy as np
import pytest
from hostile import read_all, refused, survives

from tinyfcn.formats import open_weights

onnx = pytest.importorskip("onnx", reason="the onnx package is missing")
KERNEL = np.arange(4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3)
BIAS = np.array([1, 2, 3, 4], np.float32)
DENSE = np.arange(20, dtype=np.float32).reshape(4, 5)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net"


def save(path, nodes, tensors, inputs=("image",)):
    """Write a model of nodes (type, inputs, output, attributes), and of tensors by name: arrays, or whole TensorProtos."""
    protos = [t if isinstance(t, onnx.TensorProto) else onnx.numpy_helper.from_array(t, name) for name, t in tensors.items()]
    made = [onnx.helper.make_node(kind, [*taken], [given], **attributes) for kind, taken, given, attributes in nodes]
    graph = onnx.helper.make_graph(
        made, "net", [onnx.helper.make_tensor_value_info(name, 1, None) for name in inputs], [], protos
    )
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())


NODES = [
    ("Conv", ("image", "k", "b"), "x", {}),
    ("Relu", ("x",), "y", {}),
    ("MaxPool", ("y",), "z", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("GlobalAveragePool", ("z",), "g", {}),
    ("Flatten", ("g",), "f", {}),
    ("MatMul", ("f", "d"), "m", {}),
    ("Softmax", ("m",), "scores", {}),
]
TENSORS = {"k": KERNEL, "b": BIAS, "d": DENSE, "shape": np.arange(3), "half": BIAS.astype(np.float16), "double": np.array(0.1)}


def kinds(path):
    return [(step.kind, step.weight, step.bias) for step in open_weights(path).metadata["steps"]]


def test_floating_point_tensors_come_back_and_the_graph_in_steps(path):
    save(path, NODES, TENSORS)
    content = open_weights(path)
    assert content.container == "onnx" and set(content.tensors) == set(TENSORS) - {"shape"}
    found = read_all(path)
    assert np.array_equal(found.pop("d"), DENSE.T)  # (C_out, C_in)
    assert all(np.array_equal(array, TENSORS[name]) and array.dtype == TENSORS[name].dtype for name, array in found.items())
    assert kinds(path) == [("Conv", "k", "b"), ("MaxPool", "", None), ("Gemm", "d", None), ("Softmax", "", None)]
    assert not content.metadata["channels_last"]


def test_values_may_be_typed_and_not_raw(path):
    typed = {"k": onnx.helper.make_tensor("k", 1, KERNEL.shape, KERNEL.ravel()), "b": onnx.helper.make_tensor("b", 11, [4], BIAS)}
    save(path, NODES[:1], typed)
    found = read_all(path)
    assert np.array_equal(found["k"], KERNEL) and found["b"].dtype == np.float64 and np.array_equal(found["b"], BIAS)
    half = BIAS.astype(np.float16)
    save(path, [], {"h": onnx.helper.make_tensor("h", 10, [2, 2], half), "none": onnx.helper.make_tensor("none", 1, [0, 3], [])})
    found = read_all(path)
    assert np.array_equal(found["h"], half.reshape(2, 2)) and found["h"].dtype == half.dtype and found["none"].shape == (0, 3)


def test_weights_may_go_through_nodes_before_they_are_used(path):
    nodes = [
        ("Transpose", ("hwio",), "oihw", {"perm": [3, 2, 0, 1]}),
        ("Cast", ("oihw",), "cast", {"to": 1}),
        ("Identity", ("b",), "same", {}),
        ("Conv", ("image", "cast"), "x", {}),
        ("Add", ("same", "x"), "y", {}),
        ("Flatten", ("y",), "f", {}),
        ("Gemm", ("f", "d"), "m", {"transB": 1}),
    ]
    tensors = {"hwio": KERNEL.transpose(2, 3, 1, 0), "b": BIAS[:, None, None], "d": DENSE}
    save(path, nodes, tensors, inputs=("hwio", "image", "b"))  # as old models list them
    assert kinds(path) == [("Conv", "hwio", "b"), ("Gemm", "d", None)]
    found = read_all(path)
    assert np.array_equal(found["hwio"], KERNEL) and np.array_equal(found["b"], BIAS) and np.array_equal(found["d"], DENSE)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([("Conv", ("image", "image"), "x", {})], "Conv with weights that are computed"),
        ([NODES[0], ("Conv", ("x", "k"), "y", {})], "Conv with another layer's weights"),
        ([NODES[0], ("LeakyRelu", ("x",), "y", {})], "LeakyRelu"),
        ([NODES[0], ("Add", ("x", "x"), "y", {})], "Add"),
    ],
)
def test_the_way_ends_where_a_node_is_none_of_vgg_s(path, nodes, expected):
    save(path, [*nodes, ("Conv", ("y", "k2"), "end", {})], TENSORS | {"k2": KERNEL})
    assert expected in [kind for kind, *_ in kinds(path)]


def test_a_circle_ends(path):
    save(path, [NODES[0], ("Relu", ("x",), "y", {}), ("Relu", ("y",), "x", {})], TENSORS)
    assert kinds(path) == [("Conv", "k", "b")]


def lie(**change):
    tensor = onnx.numpy_helper.from_array(KERNEL, "k")
    for name, value in change.items():
        getattr(tensor, name).extend(value) if isinstance(value, list) else setattr(tensor, name, value)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lie(dims=[1 << 40]), r"k has shape \(4, 3, 3, 3, 1099511627776\), but 108 values"),
        (lie(dims=[-1, -1]), "k has shape"),
        (lie(raw_data=b"12345"), "but 1.25 values"),
        (lie(data_type=16), "k is bfloat16, which NumPy does not have"),
        (lie(data_location=1), "k has its values in another file"),
        (lie(dims=[1] * 40), r"more than 32 numbers|k has shape \(4, 3, 3, 3, 1, "),
    ],
)
def test_tensors_that_lie_are_refused(path, tensor, message):
    save(path, NODES, TENSORS | {"k": tensor})
    refused(path, message)


def test_a_model_without_weights_is_refused(path):
    save(path, [("Relu", ("image",), "y", {})], {})
    refused(path, "as an ONNX model, it has no weights")
    path.write_bytes(b"\x08\x07 no model at all")
    refused(path, "damaged, or of another kind")


def test_damage_is_survived(path):
    save(path, NODES, TENSORS)
    assert survives(path) > 50
