"""tinyfcn.convert.trunk: VGG16's convolutions in whatever wraps them; each file is compared with the parameters drawn for it."""

import json
import sys
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import pickled
import published
import pytest
from safetensors.numpy import load_file, save_file

from tinyfcn import convert
from tinyfcn.convert.identify import identify
from tinyfcn.convert.schemes import CORNER, FINGERPRINTS
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.models import VGG16, FCN8s, FCN32s

WIDTH = 1 / 32
CONVS = [conv.name for conv in VGG16.backbone.convs]
TRUNK = {f"{name}.{kind}" for name in CONVS for kind in ("weight", "bias")}


@pytest.fixture
def vgg():
    return published.draw(VGG16, 7, WIDTH)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "source"  # no suffix: recognised by content


def converted(path, params, expected=TRUNK, preprocessing="torchvision"):
    """Convert a file, and compare what came out with what was drawn; returns what was recognised."""
    out = path.with_name("out.safetensors")
    found = convert.convert(path, out, preprocessing)
    tensors = load_file(out)
    assert tensors.keys() == set(expected) and found.description.width == WIDTH
    assert all(
        tensor.tobytes() == params[name].tobytes() and tensor.shape == params[name].shape for name, tensor in tensors.items()
    )
    assert (found.description.hidden is not None) == ("fc7.bias" in expected)
    return found


def refused(path, message, preprocessing="caffe"):
    path.with_name("out.safetensors").unlink(missing_ok=True)
    with pytest.raises(InputError, match=message) as caught:
        convert.convert(path, path.with_name("out.safetensors"), preprocessing)
    assert str(caught.value).isprintable() and not path.with_name("out.safetensors").exists()


def trunk(params, names):
    """The convolutions alone, under other names."""
    return published.named({name: p for name, p in params.items() if name in TRUNK}, names)


WRITE = {
    "pth": pickled.tree,
    "safetensors": lambda path, tensors: save_file(tensors, path),
    "npz": lambda path, tensors: np.savez(path.open("wb"), **tensors),
}
WRAPPED = {
    "DataParallel": lambda name: f"module.{name}",
    "compiled": lambda name: f"_orig_mod.{name}",
    "a model around it": lambda name: f"model.backbone.encoder.{name}",
    "DataParallel within": lambda name: name.replace("features.", "features.module."),
}


# Prefixes and other names


@pytest.mark.parametrize("container", WRITE)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_state_dict_with_other_beginnings_is_the_same(path, vgg, container, wrapped):
    WRITE[container](path, {WRAPPED[wrapped](name): t for name, t in published.torchvision_vgg16(vgg).items()})
    found = converted(path, vgg, vgg)
    assert found.unused == () and "torchvision" in found.title and found.description.num_classes == 7


SLICES = [f"slice{1 + (k > 2) + (k > 7) + (k > 14) + (k > 21)}.{k}" for k in published.VGG_PLACES]
NAMES = {
    "numbers": [str(k) for k in published.VGG_PLACES],
    "numbers from 1": [f"vgg.conv{k}" for k in range(1, 14)],
    "pieces": SLICES,
    "blocks": [f"encoder.{1 + k // 3}.layers.{k}.conv" for k in range(13)],
}


@pytest.mark.parametrize("container", WRITE)
@pytest.mark.parametrize("names", NAMES)
def test_convolutions_are_found_by_their_shapes_whatever_they_are_called(path, vgg, container, names):
    WRITE[container](path, trunk(vgg, NAMES[names]))
    assert converted(path, vgg).title == "VGG16's 13 convolutions, found by their shapes and order"


@pytest.mark.parametrize("endings", [("_W", "_b"), ("/W", "/b"), ("/weights", "/biases"), ("_weight", "_bias")])
def test_weights_and_biases_may_be_called_otherwise(path, vgg, endings):
    tensors = {f"net/{name}".replace(".weight", endings[0]).replace(".bias", endings[1]): p for name, p in vgg.items()}
    WRITE["npz"](path, tensors)
    converted(path, vgg, vgg)


def test_layers_in_the_order_of_the_file_where_the_names_order_is_another(path, vgg):
    counted = ["one", "two", "three"]
    names = [f"{counted[int(conv[4]) % 3]}.{counted[int(conv[6]) - 1]}.{conv[4]}" for conv in CONVS]
    assert sorted(names) != names
    WRITE["pth"](path, trunk(vgg, names))
    converted(path, vgg)


def test_other_convolutions_around_are_not_used(path, vgg):
    """As in a U-Net: three convolutions of 3x3 before, a decoder behind."""
    stem = {f"a_stem.{k}.weight": np.ones((3, 3, 3, 3), np.float32) for k in range(3)}
    decoder = {f"z_decoder.{k}.weight": np.ones((16, 16, 3, 3), np.float32) for k in range(4)}
    tensors = {**stem, **trunk(vgg, [f"encoder.{k}" for k in published.VGG_PLACES]), **decoder}
    for write in WRITE.values():
        write(path, tensors)
        assert set(converted(path, vgg).unused) == {*stem, *decoder}


def test_a_trunk_that_is_there_twice_is_taken_when_it_is_the_same(path, vgg):
    """As where a model registers VGG16, and its pieces once more."""
    tensors = trunk(vgg, NAMES["numbers"]) | trunk(vgg, SLICES)
    WRITE["npz"](path, tensors)
    assert len(converted(path, vgg).unused) == 26
    tensors["slice5.28.weight"] = tensors["slice5.28.weight"] + 1
    WRITE["npz"](path, tensors)
    refused(path, r"has several VGG16s, which begin with 0.weight and slice1.0.weight: save the one that you want alone")


def test_an_fcn_with_other_beginnings_is_the_same(path):
    params = published.draw(FCN8s, 21, WIDTH)
    save_file({f"module.{name}": p for name, p in params.items()}, path)
    out = path.with_name("out.safetensors")
    assert convert.convert(path, out).model == "FCN8s"
    assert all(np.array_equal(t, params[name]) for name, t in load_file(out).items())


# Heads


def with_head(params, **head):
    return trunk(params, [f"features.{k}" for k in published.VGG_PLACES]) | {
        name.replace("__", "."): np.full(shape, 0.5, np.float32) for name, shape in head.items()
    }


FOREIGN = {
    "one layer": {"classifier__weight": (5, 16 * 49), "classifier__bias": (5,)},
    "of other names": {"head__0__weight": (32, 784), "head__0__bias": (32,), "head__2__weight": (2, 32), "head__2__bias": (2,)},
    "other shapes under the names": {
        "classifier__0__weight": (32, 16),
        "classifier__0__bias": (32,),
        "classifier__3__weight": (8, 32),
        "classifier__3__bias": (8,),
    },
    "half of VGG16's": {"classifier__0__weight": (32, 784), "classifier__0__bias": (32,)},
    "normalised": {"fc__0__weight": (9, 784), "fc__0__bias": (9,), "fc__1__weight": (9,), "fc__1__bias": (9,)},
    "convolutions": {"loc__0__weight": (16, 16, 3, 3), "loc__0__bias": (16,), "l2norm__weight": (16,)},
}


@pytest.mark.parametrize("container", WRITE)
@pytest.mark.parametrize("head", FOREIGN)
def test_a_foreign_head_is_left_out_and_listed(path, vgg, head, container):
    tensors = with_head(vgg, **FOREIGN[head])
    WRITE[container](path, tensors)
    found = converted(path, vgg)
    assert set(found.unused) == {name.replace("__", ".") for name in FOREIGN[head]}
    assert FCN32s(3, WIDTH).load(path.with_name("out.safetensors"), partial=True).unexpected == []


@pytest.mark.parametrize("wrapped", ["", "module."])
def test_fc6_and_fc7_may_have_any_number_of_channels(path, wrapped):
    params = {name: p for name, p in published.draw(VGG16, 3, WIDTH).items() if name in TRUNK}
    rng = np.random.default_rng(1)
    for name, shape in VGG16.shapes(3, WIDTH, hidden=20).items():
        if name not in TRUNK:
            params[name] = rng.standard_normal(shape).astype(np.float32)
    save_file({wrapped + name: t for name, t in published.torchvision_vgg16(params).items()}, path)
    found = converted(path, params, params)
    assert found.description == Description("VGG16", 3, WIDTH, hidden=20, preprocessing="torchvision")
    net = VGG16(3, WIDTH, hidden=20)
    net.load(path.with_name("out.safetensors"))
    assert np.array_equal(net.params["fc7.weight"], params["fc7.weight"].reshape(20, 20))


def test_another_last_layer_is_left_out_alone(path, vgg):
    tensors = published.torchvision_vgg16(vgg)
    last = {"classifier.6.0.weight": np.ones((64, 128), np.float32), "classifier.6.0.bias": np.ones(64, np.float32)}
    tensors = {name: t for name, t in tensors.items() if not name.startswith("classifier.6")} | last
    save_file(tensors, path)
    expected = {name for name in vgg if not name.startswith("fc8")}
    assert set(converted(path, vgg, expected).unused) == set(last)


# Checkpoints


def test_a_checkpoint_s_only_dict_of_tensors_may_have_any_name(path, vgg):
    state = published.torchvision_vgg16(vgg)
    moments = {k: {"exp_avg": t, "step": np.array(3, np.float32)} for k, t in enumerate(state.values())}
    optimizer = {"state": moments, "lr": 1}
    pickled.tree(path, {"net": state, "epoch": 3, "best": 0.5, "seen": np.array(7, np.float32), "optimizer": optimizer})
    assert converted(path, vgg, vgg).unused == ()
    pickled.tree(path, {"checkpoint": {"weights": state, "note": "text"}})
    converted(path, vgg, vgg)


def test_of_several_dicts_of_tensors_the_known_name_comes_first(path, vgg):
    state = published.torchvision_vgg16(vgg)
    other = {name: -t for name, t in state.items()}
    for key in ("model_state_dict", "state_dict", "model"):
        pickled.tree(path, {"ema": other, key: state})
        converted(path, vgg, vgg)


def test_of_several_dicts_of_tensors_the_only_network_is_taken(path, vgg):
    state = published.torchvision_vgg16(vgg)
    scheduler = {"weights": np.ones(3, np.float32)}
    pickled.tree(path, {"teacher": {"conv.weight": np.ones((4, 3, 7, 7), np.float32)}, "student": state, "scheduler": scheduler})
    assert converted(path, vgg, vgg).unused == ("teacher.conv.weight", "scheduler.weights")
    pickled.tree(path, {"a": state, "b": {name: -t for name, t in state.items()}})
    refused(path, "has several dicts of tensors, a, b, of which 2 are networks that are known here: save the state dict of one")
    pickled.tree(path, {"a": scheduler, "b": scheduler})
    refused(path, "has several dicts of tensors, a, b, of which 0 are networks")


# Keras


def keras_layers(params):
    return {name: pair for name, *pair in published.keras_vgg16(params)}


def legacy(path, groups):
    """An .h5 file with a group for each layer, each of datasets by name."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in groups]
        for layer, arrays in groups.items():
            file.create_group(layer).attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                file[f"{layer}/{name}"] = array


@pytest.mark.parametrize("names", ["{0}/{1}:0", "{0}/{1}", "{0}_{2}_1:0"])
@pytest.mark.parametrize("frozen", [[], ["block1_conv1", "block3_conv2"], [f"block{k}_conv1" for k in range(1, 5)]])
def test_keras_s_model_as_a_layer_of_another(path, vgg, names, frozen):
    layers = {name: pair for name, pair in keras_layers(vgg).items() if name.startswith("block")}
    order = sorted(layers, key=lambda name: name in frozen)  # what is frozen comes behind what is trained
    kinds = [("kernel", "W"), ("bias", "b")]
    nested = {names.format(name, *kind): a for name in order for kind, a in zip(kinds, layers[name], strict=True)}
    head = {"dense/kernel:0": np.ones((784, 5), np.float32), "dense/bias:0": np.ones(5, np.float32)}
    legacy(path, {"input_2": {}, "vgg16": nested, "flatten": {}, "dense": head})
    found = converted(path, vgg, preprocessing=None)
    assert found.description.preprocessing == "vgg" and found.unused == ("dense/0", "dense/1")


def numbered(file, layers, root):
    """The layers of a .weights.h5 file, by class and number."""
    numbers = {}
    for kind, arrays in layers:
        k = numbers[kind] = numbers.get(kind, -1) + 1
        group = file.create_group(f"{root}layers/{kind}{f'_{k}' if k else ''}/vars")
        for i, array in enumerate(arrays):
            group[str(i)] = array


def weights_h5(file, params, nested):
    layers = list(keras_layers(params).values())
    numbered(file, [("conv2d", pair) for pair in layers[:13]], f"layers/{nested}/" if nested else "")
    numbered(file, [("dense", [np.ones((784, 5), np.float32), np.ones(5, np.float32)])], "")
    file["layers/dropout/seed_generator/vars/0"] = np.arange(2, dtype=np.uint32)
    file["optimizer/vars/0"] = np.arange(3)
    file["optimizer/vars/1"] = layers[0][0]


@pytest.mark.parametrize("nested", ["", "functional", "sequential_1"])
def test_keras_s_newer_files_with_another_head(path, vgg, nested):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        weights_h5(file, vgg, nested)
    found = converted(path, vgg, preprocessing=None)
    assert found.description.preprocessing == "vgg" and found.unused == ("dense/0", "dense/1")


@pytest.mark.parametrize("nested", ["", "functional"])
def test_keras_s_archive(path, vgg, nested):
    h5py = pytest.importorskip("h5py")
    inside = path.with_name("model.weights.h5")
    with h5py.File(inside, "w") as file:
        weights_h5(file, vgg, nested)
    with ZipFile(path, "w", ZIP_STORED) as archive:
        archive.writestr("metadata.json", "{}")
        archive.write(inside, inside.name)
        archive.writestr("config.json", json.dumps({"class_name": "Functional"}))
    converted(path, vgg, preprocessing=None)


def test_keras_s_fully_connected_layers_of_another_size(path):
    params = {name: p for name, p in published.draw(VGG16, 4, WIDTH).items() if name in TRUNK}
    rng = np.random.default_rng(2)
    shapes = VGG16.shapes(4, WIDTH, hidden=24)
    params |= {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items() if name not in TRUNK}
    legacy(path, {name: {f"{name}/kernel": k, f"{name}/bias": b} for name, (k, b) in keras_layers(params).items()})
    assert converted(path, params, params, preprocessing=None).description.hidden == 24


# Other copies of VGG's weights


def frossard(params):
    there = dict(zip([*CONVS, *published.FC], keras_layers(params).values(), strict=True))
    there["conv1_1"] = [there["conv1_1"][0][:, :, ::-1], there["conv1_1"][1]]  # takes RGB
    return {f"{name}_{kind}": a for name, pair in there.items() for kind, a in zip("Wb", pair, strict=True)}


def test_vgg16_weights_npz_takes_rgb_and_is_turned(path, vgg):
    np.savez(path.open("wb"), **frossard(vgg))
    found = converted(path, vgg, vgg, preprocessing=None)
    assert found.description.preprocessing == "vgg" and found.title.endswith("by Davi Frossard, conv1_1 turned from RGB to BGR")


@pytest.fixture
def caffe():
    """Parameters whose first values are those of VGG's own weights, which take BGR."""
    params = published.draw(VGG16, 7, 1 / 16)
    params["conv1_1.bias"][:3] = FINGERPRINTS["caffe"]
    params["conv1_1.weight"][0, :, 0, 0] = CORNER
    return params


@pytest.mark.parametrize("turned", [False, True])
def test_the_first_kernel_tells_whether_a_copy_takes_rgb(path, caffe, turned):
    for write, preprocessing in (
        (lambda params: np.savez(path.open("wb"), **frossard(params)), "vgg"),
        (lambda params: save_file(trunk(params, NAMES["pieces"]), path), "caffe"),
    ):
        params = dict(caffe)
        if turned == (preprocessing == "caffe"):  # the other file is turned already
            params["conv1_1.weight"] = np.ascontiguousarray(params["conv1_1.weight"][:, ::-1])
        write(params)
        found = identify(path)
        assert found.description.preprocessing == preprocessing and ("turned" in found.title) == turned
        assert np.array_equal(found.tensors["conv1_1.weight"].read(), caffe["conv1_1.weight"])


# ONNX


@pytest.fixture
def onnx():
    return pytest.importorskip("onnx", reason="the onnx package is missing")


class Model:
    """An ONNX model in the making, its nodes in a row."""

    def __init__(self, onnx, constants="initializer"):
        self.onnx, self.constants = onnx, constants
        self.nodes, self.initializers, self.now = [], [], "image"

    def constant(self, array, name):
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        if self.constants == "node":
            self.nodes.append(self.onnx.helper.make_node("Constant", [], [name], value=tensor))
            return name
        self.initializers.append(tensor)
        if self.constants == "Identity":
            self.nodes.append(self.onnx.helper.make_node("Identity", [name], [f"{name} again"]))
            return f"{name} again"
        return name

    def node(self, kind, *inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, [self.now, *inputs], [name], **attributes))
        self.now = name

    def save(self, path, shape, **options):
        helper = self.onnx.helper
        ends = [helper.make_tensor_value_info(name, 1, s) for name, s in (("image", shape), (self.now, None))]
        graph = helper.make_graph(self.nodes, "net", ends[:1], ends[1:], self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        self.onnx.save_model(model, str(path), **options)


def convolutions(model, params, *, bias="input", names="w{0}", normalised=(), blocks=None, pools=None):
    """Put VGG's blocks into a model."""
    for number, block in enumerate(blocks or VGG16.backbone.blocks, 1):
        for conv in block.convs:
            weight = model.constant(params[f"{conv.name}.weight"], names.format(conv.name) + ".weight")
            shift = params[f"{conv.name}.bias"]
            if bias == "input":
                shift = model.constant(shift, names.format(conv.name) + ".bias")
                model.node("Conv", weight, shift, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            else:
                model.node("Conv", weight, auto_pad="SAME_UPPER", strides=[1, 1], dilations=[1, 1], group=1)
                model.node("Add", model.constant(shift[:, None, None], names.format(conv.name) + ".bias"))
            if conv.name in normalised:
                ones = [model.constant(np.ones_like(params[f"{conv.name}.bias"]), f"{conv.name} {k}") for k in range(4)]
                model.node("BatchNormalization", *ones)
            model.node("Relu")
        model.node("MaxPool", **(pools or {}).get(number, {"kernel_shape": [2, 2], "strides": [2, 2]}))


def pytorch_head(model, params):
    model.node("Flatten")
    for name in published.FC:
        weight = model.constant(published.flat(params[f"{name}.weight"]), f"{name}.weight")
        model.node("Gemm", weight, model.constant(params[f"{name}.bias"], f"{name}.bias"), transB=1)
        if name != "fc8":
            model.node("Relu")
            model.node("Dropout")


def keras_head(model, params):
    model.node("Transpose", perm=[0, 2, 3, 1])
    model.node("Reshape", model.constant(np.array([-1, params["fc6.weight"][0].size]), "shape"))
    for name, (kernel, bias) in list(keras_layers(params).items())[13:]:
        model.node("MatMul", model.constant(kernel, f"{name}/MatMul"))
        model.node("Add", model.constant(bias, f"{name}/BiasAdd"))
        if name != "predictions":
            model.node("Relu")


@pytest.mark.parametrize("head", [None, pytorch_head, keras_head])
@pytest.mark.parametrize("bias", ["input", "Add"])
@pytest.mark.parametrize("constants", ["initializer", "node", "Identity"])
def test_an_onnx_model_is_read_by_its_graph(path, vgg, onnx, constants, bias, head):
    model = Model(onnx, constants)
    convolutions(model, vgg, bias=bias, names="any name {0}")
    if head:
        head(model, vgg)
    model.save(path, [1, 3, 224, 224])
    found = converted(path, vgg, vgg if head else TRUNK)
    assert found.unused == () and found.title.endswith("found in its graph")


def test_an_onnx_model_with_images_n_h_w_c_and_a_foreign_head(path, vgg, onnx):
    model = Model(onnx)
    model.node("Transpose", perm=[0, 3, 1, 2])
    convolutions(model, vgg)
    model.node("GlobalAveragePool")
    model.node("Flatten")
    model.node("MatMul", model.constant(np.ones((16, 5), np.float32), "dense/MatMul"))
    model.node("Mul", model.constant(np.ones(5, np.float32), "batch_normalization/mul"))
    model.save(path, ["N", 224, 224, 3])
    assert converted(path, vgg).unused == ("dense/MatMul", "batch_normalization/mul")
    refused(path, "does not say how its images are prepared", preprocessing=None)


def test_an_onnx_model_in_which_other_heads_branch_off(path, vgg, onnx):
    """As in FCN and SSD: maps go to the next layer and elsewhere, and there is arithmetic before the first convolution."""
    model = Model(onnx)
    model.node("Sub", model.constant(np.float32([[[1]], [[2]], [[3]]]), "mean"))
    convolutions(model, vgg)
    lateral = model.constant(np.ones((5, 16, 1, 1), np.float32), "lateral")
    nodes = []
    for node in model.nodes:
        nodes.append(node)
        if node.op_type in ("Relu", "MaxPool"):  # beside, and before what goes on
            nodes.insert(-1, onnx.helper.make_node("Conv", [node.output[0], lateral], [f"beside {node.output[0]}"]))
            nodes.insert(-1, onnx.helper.make_node("Shape", [node.output[0]], [f"shape of {node.output[0]}"]))
    model.nodes = nodes
    model.save(path, [1, 3, 64, 64])
    assert converted(path, vgg).unused == ("mean", "lateral")


@pytest.mark.parametrize(
    ("publisher", "channels_last", "preprocessing"),
    [("caffe", True, "vgg"), ("caffe", False, None), ("torchvision", False, "torchvision"), ("torchvision", True, "torchvision")],
)
def test_an_onnx_model_s_biases_tell_whose_they_are(path, onnx, publisher, channels_last, preprocessing):
    params = published.draw(VGG16, 7, 1 / 16)
    params["conv1_1.bias"][:3] = FINGERPRINTS[publisher]
    model = Model(onnx)
    if channels_last:
        model.node("Transpose", perm=[0, 3, 1, 2])
    convolutions(model, params)
    model.save(path, None)
    assert identify(path).description.preprocessing == preprocessing


def test_half_precision_is_read(path, vgg, onnx):
    vgg = {name: p.astype(np.float16).astype(np.float32) for name, p in vgg.items()}
    model = Model(onnx)
    convolutions(model, {name: p.astype(np.float16) for name, p in vgg.items()})
    model.save(path, [1, 3, 64, 64])
    converted(path, vgg)


def deeper(convs):
    """VGG's blocks with other numbers of convolutions, and parameters for them."""
    blocks = [
        block._replace(convs=tuple(block.convs[0]._replace(name=f"conv{k}_{i}") for i in range(1, n + 1)))
        for k, (n, block) in enumerate(zip(convs, VGG16.backbone.blocks, strict=True), 1)
    ]
    rng = np.random.default_rng(3)
    params, channels_in = {}, 3
    for block in blocks:
        for conv in block.convs:
            channels = round(conv.channels * WIDTH)
            params[f"{conv.name}.weight"] = rng.standard_normal((channels, channels_in, 3, 3)).astype(np.float32)
            params[f"{conv.name}.bias"] = np.ones(channels, np.float32)
            channels_in = channels
    return blocks, params


VGG19 = (2, 2, 4, 4, 4)
POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}
DEPARTURES = {
    "VGG19": ({"blocks": VGG19}, "this is VGG19, of 16 convolutions; VGG16, of 13, can be used"),
    "batch normalisation": ({"normalised": CONVS}, "this is VGG16 with batch normalisation"),
    "one of them": ({"normalised": ["conv5_1"]}, "this is VGG16 with batch normalisation"),
    "no pool4": ({"pools": {4: {"kernel_shape": [2, 2], "strides": [1, 1]}}}, "its pool4 has another stride"),
    "wide pool1": ({"pools": {1: {"kernel_shape": [3, 3], "strides": [2, 2]}}}, "its pool1 has another stride, dilation, window"),
    "pools elsewhere": ({"blocks": (2, 2, 3, 2, 4)}, "as large as VGG16's|where that has conv4_3, it has MaxPool"),
    "another network": ({"blocks": (1, 3, 1, 1, 1)}, "an ONNX model, but not of VGG16: where that has conv1_2, it has MaxPool"),
}


@pytest.mark.parametrize("what", DEPARTURES)
def test_an_onnx_model_that_departs_from_vgg16_is_refused_by_name(path, vgg, onnx, what):
    options, message = DEPARTURES[what]
    params = vgg
    if "blocks" in options:
        blocks, params = deeper(options["blocks"])
        options = options | {"blocks": blocks}
    model = Model(onnx)
    convolutions(model, params, **options)
    model.save(path, [1, 3, 64, 64])
    refused(path, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda params: params.update({"conv1_1.weight": np.ones((2, 3, 5, 5), np.float32)}), r"its conv1_1 is \(2, 3, 5, 5\)"),
        (lambda params: params.update({"conv2_1.weight": np.ones((5, 2, 3, 3), np.float32)}), "its channels are other ones"),
        (lambda params: params["conv3_1.bias"].fill(np.nan), "wconv3_1.bias holds values that are no finite numbers"),
    ],
)
def test_an_onnx_model_with_other_kernels_is_refused(path, vgg, onnx, change, message):
    change(vgg)
    model = Model(onnx)
    convolutions(model, vgg)
    model.save(path, [1, 3, 64, 64])
    refused(path, message)


def test_an_onnx_model_in_two_files_says_how_to_make_it_one(path, vgg, onnx):
    model = Model(onnx)
    convolutions(model, vgg)
    model.save(path, [1, 3, 64, 64], save_as_external_data=True, location="net.data", size_threshold=0)
    refused(path, r"wconv1_1.weight has its values in net.data: .*onnx.save\(onnx.load\('source'\), 'one.onnx'\)")


def test_the_onnx_package_is_not_needed_to_read(path, vgg, onnx, monkeypatch):
    model = Model(onnx)
    convolutions(model, vgg)
    model.save(path, [1, 3, 64, 64])
    monkeypatch.setitem(sys.modules, "onnx", None)
    converted(path, vgg)


# Other networks, by name


@pytest.mark.parametrize("container", WRITE)
@pytest.mark.parametrize("beginning", ["", "module.encoder."])
@pytest.mark.parametrize(
    ("name", "convs"), [("VGG19", VGG19), ("VGG13", (2, 2, 2, 2, 2)), ("VGG11", (1, 1, 2, 2, 2))], ids=["VGG19", "VGG13", "VGG11"]
)
def test_other_vggs_are_refused_by_name(path, container, beginning, name, convs):
    _, params = deeper(convs)
    WRITE[container](path, {beginning + name: p for name, p in params.items()})
    refused(path, f"this is {name}, of {sum(convs)} convolutions; VGG16, of 13, can be used")


def normalised(params, names, norm="{0}_bn", kinds=("weight", "bias", "running_mean", "running_var")):
    found = {}
    for name, weight, bias in published.layers({name: p for name, p in params.items() if name in TRUNK}):
        found |= {f"{names[name]}.weight": weight, f"{names[name]}.bias": bias}
        found |= {f"{norm.format(names[name])}.{kind}": np.ones_like(bias) for kind in kinds}
    return found


@pytest.mark.parametrize("container", WRITE)
@pytest.mark.parametrize("beginning", ["", "net.module."])
@pytest.mark.parametrize("norm", ["{0}_bn", "bn_of_{0}"])
def test_batch_normalisation_is_refused_by_name(path, vgg, container, beginning, norm):
    tensors = normalised(vgg, dict(zip(CONVS, CONVS, strict=True)), norm)
    WRITE[container](path, {beginning + name: t for name, t in tensors.items()})
    refused(path, "this is VGG16 with batch normalisation")


def test_batch_normalisation_in_keras_s_files_is_refused_by_name(path, vgg):
    h5py = pytest.importorskip("h5py")
    layers = list(keras_layers(vgg).values())[:13]
    norms = [4 * [np.ones_like(bias)] for _, bias in layers]
    with h5py.File(path, "w") as file:
        numbered(
            file, [pair for k, n in zip(layers, norms, strict=True) for pair in (("conv2d", k), ("batch_normalization", n))], ""
        )
    refused(path, r"this is VGG16 with batch normalisation \(batch_normalization/0\)")


def test_a_normalised_head_is_no_normalised_trunk(path, vgg):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        weights_h5(file, vgg, "functional")
        numbered(file, 2 * [("batch_normalization", 4 * [np.ones(5, np.float32)])], "")
    converted(path, vgg, preprocessing=None)


# What holds more than tensors, and what is damaged


def test_a_whole_model_and_a_torchscript_archive_say_what_to_save(path):
    layer = pickled.name("torch.nn.modules.conv", "Conv2d") + b")\x81"
    pickled.zip_file(path, pickled.name("torchvision.models.vgg", "VGG") + b")\x81" + layer + b"0")
    refused(path, r"asks for torchvision.models.vgg.VGG, .*it is a whole model.*torch.save\(model.state_dict\(\), 'state.pth'\)")
    pickled.zip_file(path, layer, **{"constants.pkl": b"", "code/net.py": b""})
    refused(path, r"a TorchScript archive.*torch.save\(torch.jit.load\(FILE\).state_dict\(\), 'state.pth'\)")


@pytest.mark.parametrize("container", WRITE)
def test_a_value_that_is_no_number_is_named(path, vgg, container):
    tensors = with_head(vgg, **FOREIGN["one layer"])
    tensors["classifier.bias"][...] = np.nan  # not used: no matter
    WRITE[container](path, tensors)
    converted(path, vgg)
    tensors["features.17.weight"][0, 0, 0, 0] = np.inf
    WRITE[container](path, tensors)
    refused(path, "features.17.weight holds values that are no finite numbers")


def test_a_convolution_without_a_bias_is_named(path, vgg):
    tensors = trunk(vgg, NAMES["pieces"])
    del tensors["slice3.10.bias"]
    save_file(tensors, path)
    refused(path, "slice3.10.weight has no bias beside it")


def test_deep_dicts_are_refused(path):
    found = {"w": np.ones(3, np.float32)}
    for _ in range(20):
        found = {"a": found}
    pickled.tree(path, found)
    refused(path, "dicts")


# The command


def test_the_command_says_what_was_found_and_what_was_not_used(path, vgg, call_convert):
    WRITE["pth"](path, with_head(vgg, **{f"head__{k}__weight": (2, 2) for k in range(10)}))
    out = path.with_name("out.safetensors")
    status, text, _ = call_convert(path, out, "--preprocessing", "torchvision")
    assert status == 0
    assert "VGG16's 13 convolutions, layers named as by torchvision, 26 tensors, width 0.03125, " in text
    assert "without fc6, fc7 and the classifier\n" in text
    listed = ", ".join(f"head.{k}.weight" for k in range(8))
    assert f"\nnot used: {listed} and 2 more\n" in text
    status, text, _ = call_convert(out, path.with_name("again.npz"))
    assert status == 0 and "VGG16 of this package, 26 tensors" in text and "without fc6, fc7 and the classifier" in text


def test_the_command_says_how_many_channels_fc6_has_where_they_are_others(path, vgg, call_convert):
    tensors = published.torchvision_vgg16(published.draw(VGG16, 3, WIDTH))
    for name, shape in (
        ("0.weight", (20, 784)),
        ("0.bias", (20,)),
        ("3.weight", (20, 20)),
        ("3.bias", (20,)),
        ("6.weight", (3, 20)),
    ):
        tensors[f"classifier.{name}"] = np.ones(shape, np.float32)
    save_file(tensors, path)
    status, text, _ = call_convert(path, path.with_name("out.npz"), "--preprocessing", "torchvision")
    assert status == 0 and "width 0.03125, fc6 and fc7 of 20 channels, 3 classes" in text and "not used" not in text
