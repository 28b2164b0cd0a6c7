"""tinyfcn.convert and tinyfcn.convert.identify: everybody's files of one small network become the same file."""

import json

import numpy as np
import published
import pytest
from networks import describe, spread
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small import files

from tinyfcn import command, convert, evaluate, predict, train, weights
from tinyfcn.convert.identify import identify
from tinyfcn.convert.schemes import FINGERPRINTS
from tinyfcn.data import VOC_CLASSES
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.inference import load_network
from tinyfcn.models import FCN_CLASSES, VGG16, AlexNet, CaffeNet, FCN8s, FCN8sAtOnce, FCN16s, FCN32s, FCN32sCaffeNet
from tinyfcn.ops import bilinear_weight
from tinyfcn.weights import read

WIDTH = 1 / 32


@pytest.fixture
def vgg():
    return published.draw(VGG16, 7, WIDTH)


def fcn(kind, classes=21):
    """A finished FCN as published: score layers that are not zero, upsampling that is bilinear."""
    params = published.draw(kind, classes, WIDTH)
    for name, p in params.items():
        if name.startswith("upscore"):
            p[...] = bilinear_weight(classes, p.shape[2])
    return params


def h5(path, keras_layers, *, layout):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        if layout == "weights.h5":
            for k, (name, *arrays) in enumerate(keras_layers):
                kind, number = ("conv2d", k) if name.startswith("block") else ("dense", k - 13)
                group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
                for i, array in enumerate(arrays):
                    group[str(i)] = array
            return
        file.attrs["layer_names"] = [name.encode() for name, *_ in keras_layers]
        for name, kernel, bias in keras_layers:
            names = (f"{name}_W_1:0", f"{name}_b_1:0") if layout == "2016" else (f"{name}/kernel:0", f"{name}/bias:0")
            group = file.create_group(name)
            group.attrs["weight_names"] = [n.encode() for n in names]
            group[names[0]], group[names[1]] = kernel, bias


def write_vgg(path, params, how):
    match how:
        case "torchvision":
            save_file(published.torchvision_vgg16(params), path)
        case "timm":
            save_file(published.timm_vgg16(params), path)
        case "prototxt":
            np.savez(path.open("wb"), **published.named(params, [name for name, *_ in published.layers(params)]))
        case "Keras, npz":
            tensors = {
                f"{name}/{kind}": a
                for name, *pair in published.keras_vgg16(params)
                for kind, a in zip(("kernel", "bias"), pair, strict=True)
            }
            np.savez_compressed(path.open("wb"), **tensors)
        case "caffemodel":
            path.write_bytes(published.caffemodel(params, "VGG_ILSVRC_16_layer"))
        case "caffemodel of 2014":
            path.write_bytes(published.caffemodel(params, "VGG_ILSVRC_16_layer", legacy=True))
        case _:
            h5(path, published.keras_vgg16(params), layout=how)


HOW = {
    "torchvision": None,
    "timm": "torchvision",
    "prototxt": "caffe",
    "Keras, npz": "vgg",
    "caffemodel": "caffe",
    "caffemodel of 2014": "caffe",
    "2016": "vgg",
    "2.15": "vgg",
    "weights.h5": "vgg",
}


@pytest.mark.parametrize("how", HOW)
def test_every_publisher_s_vgg16_becomes_the_same_file(tmp_path, vgg, how):
    path, out = tmp_path / "source", tmp_path / "out.safetensors"  # no suffix: recognised by content
    write_vgg(path, vgg, how)
    found = convert.convert(path, out, None if HOW[how] else "caffe")
    assert found.model == "VGG16" and "VGG16" in found.title
    assert load_file(out).keys() == vgg.keys()
    assert all(np.array_equal(tensor, vgg[name]) for name, tensor in load_file(out).items())
    assert weights.read_description(out) == Description("VGG16", 7, WIDTH, 128, HOW[how] or "caffe")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "source"]


def test_a_converted_classifier_is_loaded_by_classifier_and_fcn(tmp_path, vgg):
    save_file(published.timm_vgg16(vgg), tmp_path / "a")
    convert.convert(tmp_path / "a", tmp_path / "vgg.safetensors")
    classifier = VGG16(7, WIDTH)
    classifier.load(tmp_path / "vgg.safetensors")
    assert np.array_equal(classifier.params["fc6.weight"], vgg["fc6.weight"].reshape(128, -1))
    net = FCN8s(3, WIDTH)
    report = net.load(tmp_path / "vgg.safetensors", partial=True)
    assert np.array_equal(net.params["fc6.weight"], vgg["fc6.weight"])
    assert set(report.unexpected) == {"fc8.weight", "fc8.bias"}
    assert set(report.kept) == {name for name in net.params if name.startswith("score")}


@pytest.mark.parametrize("kind", [AlexNet, CaffeNet])
def test_alexnets(tmp_path, kind):
    params = published.draw(kind, 5, WIDTH)
    if kind is AlexNet:
        save_file(published.torchvision_alexnet(params), tmp_path / "a")
    else:
        (tmp_path / "a").write_bytes(published.caffemodel(params, "CaffeNet", legacy=True))
    found = convert.convert(tmp_path / "a", tmp_path / "out.npz")
    assert (found.model, found.description.preprocessing) == {
        AlexNet: ("AlexNet", "torchvision"),
        CaffeNet: ("CaffeNet", "caffe"),
    }[kind]
    net = kind(5, WIDTH)
    net.load(tmp_path / "out.npz")
    assert all(np.array_equal(p.ravel(), params[name].ravel()) for name, p in net.params.items())


def test_caffe_s_alexnet_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(published.caffemodel(published.draw(CaffeNet, 5, WIDTH), "AlexNet"))
    with pytest.raises(InputError, match="normalises before it pools"):
        identify(tmp_path / "a")


@pytest.mark.parametrize("kind", [FCN32s, FCN16s, FCN8s, FCN8sAtOnce, FCN32sCaffeNet])
@pytest.mark.parametrize("container", ["safetensors", "caffemodel"])
def test_a_finished_fcn_predicts_at_once(tmp_path, kind, container):
    params = fcn(kind)
    if container == "safetensors":
        save_file(params, tmp_path / "a")
    else:
        channels = {skip: kind.backbone.pool_channels(pool, WIDTH) for skip, pool in kind.skips.items()}
        scales = {skip: np.full(channels[skip], scale, np.float32) for skip, scale in kind.published_scales.items()}
        more = b"".join(
            published.layer(s.replace("score", "scale"), "Scale", published.blob(scale)) for s, scale in scales.items()
        )
        (tmp_path / "a").write_bytes(published.caffemodel(params, "fcn", flattened=(), more=more))
    found = convert.convert(
        tmp_path / "a", tmp_path / "out.safetensors", at_once=kind is FCN8sAtOnce and container == "safetensors"
    )
    assert found.description.model == kind.__name__ and found.description.classes == VOC_CLASSES
    net, _ = load_network(tmp_path / "out.safetensors")
    assert type(net) is kind and net.padding == "paper" and net.preprocessing == "caffe" and net.learn_upsampling == "none"
    assert all(np.array_equal(p, params[name]) for name, p in net.params.items())
    net.save(tmp_path / "again.safetensors")
    assert load_file(tmp_path / "again.safetensors").keys() == params.keys()


def test_upsampling_that_was_learned_stays_so(tmp_path):
    params = fcn(FCN16s, 3)
    params["upscore2.weight"][0, 1] += 0.25
    save_file(params, tmp_path / "a")
    convert.convert(tmp_path / "a", tmp_path / "skip.safetensors")
    net, _ = load_network(tmp_path / "skip.safetensors")
    assert net.learn_upsampling == "skip" and np.array_equal(net.params["upscore2.weight"], params["upscore2.weight"])
    params["upscore16.weight"][0, 1] += 0.25
    save_file(params, tmp_path / "a")
    assert identify(tmp_path / "a").description.learn_upsampling == "all"


def test_a_network_whose_upsampling_is_fixed_refuses_learned_weights(tmp_path):
    net = FCN16s(3, WIDTH, learn_upsampling="skip")
    net.params["upscore2.weight"][0, 1] += 0.25
    net.save(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"upscore2\.weight is not bilinear"):
        FCN16s(3, WIDTH).load(tmp_path / "a.npz")
    report = FCN16s(3, WIDTH).load(tmp_path / "a.npz", partial=True)
    assert report.unexpected == ["upscore2.weight"]


# Preprocessing


def test_a_file_that_cannot_tell_its_preprocessing_asks(tmp_path, vgg):
    save_file(published.torchvision_vgg16(vgg), tmp_path / "a")
    with pytest.raises(InputError, match="add --preprocessing caffe or torchvision or vgg"):
        convert.convert(tmp_path / "a", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("publisher", FINGERPRINTS)
def test_the_published_biases_tell_whose_weights_they_are(tmp_path, publisher):
    params = published.draw(VGG16, 7, 1 / 16)
    params["conv1_1.bias"][:3] = FINGERPRINTS[publisher]
    save_file(published.torchvision_vgg16(params), tmp_path / "a")
    assert identify(tmp_path / "a").description.preprocessing == publisher


def test_own_files_keep_their_preprocessing(tmp_path):
    FCN32s(3, WIDTH).save(tmp_path / "a.npz")
    with pytest.raises(InputError, match="--preprocessing caffe does not fit"):
        convert.convert(tmp_path / "a.npz", tmp_path / "b.safetensors", "caffe")
    convert.convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    assert weights.read_description(tmp_path / "b.safetensors") == weights.read_description(tmp_path / "a.npz")


# What is no network of ours


def other(change):
    def make(vgg):
        tensors = published.torchvision_vgg16(vgg)
        change(tensors)
        return tensors

    return make


def zeros(*shape):
    return np.zeros(shape, np.float32)


REFUSED = {
    "batch normalisation": (
        other(lambda t: t.update({"features.1.running_mean": zeros(2)})),
        r"this is VGG16 with batch normalisation \(features.1.running_mean\)",
    ),
    "a layer is missing": (other(lambda t: t.pop("features.17.weight")), "not a network that is known here"),
    "a bias is missing": (other(lambda t: t.pop("features.17.bias")), "features.17.weight has no bias"),
    "another width": (
        other(lambda t: t.update({"features.2.weight": zeros(3, 2, 3, 3)})),
        r"features.2.weight has shape \(3, 2, 3, 3\).*\(2, 2, 3, 3\)",
    ),
    "whole numbers": (
        other(lambda t: t.update({"features.2.weight": t["features.2.weight"].astype(np.int32)})),
        "features.2.weight has the type int32",
    ),
    "nothing": (lambda vgg: {}, "begin with none"),
    "a ResNet": (lambda vgg: {"conv1.weight": zeros(64, 3, 7, 7), "bn1.bias": zeros(64)}, "begin with"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_networks_are_refused(tmp_path, vgg, what):
    make, message = REFUSED[what]
    save_file(make(vgg), tmp_path / "a")
    with pytest.raises(InputError, match=message) as caught:
        convert.convert(tmp_path / "a", tmp_path / "out.safetensors", "caffe")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_values_that_are_no_numbers_are_refused_and_leave_no_file(tmp_path, vgg):
    vgg["fc6.weight"][...] = np.nan
    save_file(published.torchvision_vgg16(vgg), tmp_path / "a")
    with pytest.raises(InputError, match=r"classifier.0.weight holds values that are no finite.*IMAGENET1K_FEATURES"):
        convert.convert(tmp_path / "a", tmp_path / "out.safetensors", "caffe")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_damage_that_shows_late_leaves_no_file_either(tmp_path, vgg):
    np.savez((tmp_path / "a").open("wb"), **published.torchvision_vgg16(vgg))
    data = bytearray((tmp_path / "a").read_bytes())
    data[data.index(vgg["fc7.weight"].tobytes()) + 100] ^= 1
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(InputError, match=r"a: classifier\.3\.weight: not a readable file of weights, damaged") as caught:
        convert.convert(tmp_path / "a", tmp_path / "out.safetensors", "caffe")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_trunk_without_a_classifier_is_enough(tmp_path, vgg):
    tensors = {name: t for name, t in published.torchvision_vgg16(vgg).items() if name.startswith("features")}
    save_file(tensors, tmp_path / "a")
    convert.convert(tmp_path / "a", tmp_path / "out.safetensors", "torchvision")
    report = FCN32s(3, WIDTH).load(tmp_path / "out.safetensors", partial=True)
    assert len(report.loaded) == 26 and set(report.kept) == {
        f"{n}.{k}" for n in ("fc6", "fc7", "score_fr") for k in ("weight", "bias")
    }


# The command


def test_the_command_says_what_it_found(tmp_path, vgg, call_convert):
    save_file(published.timm_vgg16(vgg), tmp_path / "a")
    status, out, _ = call_convert(tmp_path / "a", tmp_path / "out.safetensors")
    assert status == 0
    assert "VGG16, layers named as by timm, 32 tensors, width 0.03125, 7 classes" in out
    assert "images are prepared as for torchvision" in out and "out.safetensors:" in out


def test_the_command_warns_that_at_once_looks_alike(tmp_path, call_convert):
    save_file(fcn(FCN8s), tmp_path / "a")
    status, out, _ = call_convert(tmp_path / "a", tmp_path / "out.safetensors")
    assert status == 0 and "add --at-once" in out


# Files


def test_published_names_in_what_is_saved(tmp_path):
    names = set(load_file_of(FCN32s(3, WIDTH), tmp_path))
    assert "upscore.weight" in names and "upscore32.weight" not in names
    names = set(load_file_of(FCN8s(3, WIDTH), tmp_path))
    assert {"upscore2.weight", "upscore_pool4.weight", "upscore8.weight", "score_pool3.bias"} <= names


def load_file_of(net, folder):
    net.save(folder / "net.safetensors")
    tensors = load_file(folder / "net.safetensors")
    for name, tensor in tensors.items():
        if name.startswith("upscore"):
            assert np.array_equal(tensor, bilinear_weight(net.num_classes, tensor.shape[2]))
    return tensors


@pytest.mark.parametrize("kind", FCN_CLASSES.values())
def test_learned_upsampling_comes_back(tmp_path, kind):
    net = spread(kind(3, WIDTH, learn_upsampling="all"))
    net.save(tmp_path / "net.safetensors")
    again, _ = load_network(tmp_path / "net.safetensors")
    assert all(np.array_equal(p, again.params[name]) for name, p in net.params.items())


def test_tensors_are_written_one_by_one_and_aligned(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "WRITE_BYTES", 64)
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.standard_normal((7, 5)),
        "b": rng.standard_normal((3, 4, 5)).astype(np.float32).T,
        "c": np.float32(3).reshape(()),
        "d": np.zeros((0, 3), np.float16),
    }
    weights.write(tmp_path / "t.safetensors", tensors, Description("ü", 3, 1))
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items())
    with safe_open(tmp_path / "t.safetensors", "np") as file:
        assert json.loads(file.metadata()["tinyfcn"]) == {"model": "ü", "num_classes": 3, "width": 1}
    data = (tmp_path / "t.safetensors").read_bytes()
    assert int.from_bytes(data[:8], "little") % 8 == 0


# What the network is fed

EXPECTED = {  # by hand: what an orange pixel, RGB (255, 128, 0), becomes
    "torchvision": ((255 / 255 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225),
    "caffe": (0 - 104.00699, 128 - 116.66877, 255 - 122.67892),
    "vgg": (0 - 103.939, 128 - 116.779, 255 - 123.68),
}


TRAIN = ("--model", "fcn32s", "--width", WIDTH, "--size", "full", "--batch-size", 1, "--steps", 1, "--evaluations", 1)


@pytest.mark.parametrize("preprocessing", EXPECTED)
@pytest.mark.parametrize("how", ["predict", "evaluate", "train"])
def test_every_command_feeds_the_network_what_its_weights_expect(tmp_path, monkeypatch, capsys, preprocessing, how):
    image = np.full((40, 50, 3), (255, 128, 0), np.uint8)
    photo = tmp_path / "voc" / "JPEGImages" / "a.png"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    Image.fromarray(image).save(photo)
    Image.fromarray(np.eye(40, 50, dtype=np.uint8)).save(tmp_path / "voc" / "SegmentationClass" / "a.png")
    for split in ("train", "val"):
        (tmp_path / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\n")
    net = FCN32s(21, WIDTH, "same")
    net.preprocessing = preprocessing
    weights_file = tmp_path / "net.safetensors"
    net.save(weights_file)
    seen = []
    forward = FCN32s.forward

    def spy(self, x, training=False):
        seen.append(x)
        return forward(self, x, training)

    monkeypatch.setattr(FCN32s, "forward", spy)
    arguments = {
        "predict": (predict, [weights_file, photo, "--out", tmp_path / "out"]),
        "evaluate": (evaluate, [weights_file, "--data", tmp_path / "voc", "--out", tmp_path / "out"]),
        "train": (train, ["--init", weights_file, "--data", tmp_path / "voc", *TRAIN, "--out", tmp_path / "out"]),
    }
    module, argv = arguments[how]
    monkeypatch.setattr("sys.argv", [how, *map(str, argv)])
    assert command.run(module.main) == 0, capsys.readouterr().err
    assert len(seen) >= 1
    for x in seen:
        assert x.shape == (1, 3, 40, 50)
        assert np.allclose(x, np.array(EXPECTED[preprocessing])[None, :, None, None], rtol=0, atol=1e-4 * abs(x).max())


def test_a_classifier_is_no_network_to_predict_with(tmp_path, vgg):
    save_file(published.timm_vgg16(vgg), tmp_path / "a")
    convert.convert(tmp_path / "a", tmp_path / "vgg.safetensors")
    with pytest.raises(InputError, match="holds VGG16, a classifier"):
        load_network(tmp_path / "vgg.safetensors")


@pytest.mark.parametrize(
    "description",
    [
        {"model": "FCN99s", "num_classes": 3, "width": WIDTH},
        {"model": ["FCN8s"], "num_classes": 3, "width": WIDTH},
        {"model": "FCN32s"},
        {"model": "FCN32s", "num_classes": "three", "width": WIDTH},
        {"model": "FCN32s", "num_classes": 3, "width": 1e999},
        {"model": "FCN32s", "num_classes": 4, "width": WIDTH, "preprocessing": "caffe"},
    ],
)
def test_a_description_that_lies_is_refused(tmp_path, description):
    describe(tmp_path / "a.safetensors", FCN32s(3, WIDTH).tensors(), description)
    with pytest.raises(InputError, match=r"a\.safetensors: .*(must be|is no network of this|has no num_classes|has no padding)"):
        convert.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_a_file_beside_out_is_left_alone(tmp_path):
    FCN32s(3, WIDTH).save(tmp_path / "v.partial.safetensors")
    before = (tmp_path / "v.partial.safetensors").read_bytes()
    convert.convert(tmp_path / "v.partial.safetensors", tmp_path / "v.safetensors")
    assert (tmp_path / "v.partial.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.partial.safetensors", "v.safetensors"]


def test_a_link_is_replaced_and_a_folder_stays(tmp_path):
    net = FCN32s(3, WIDTH)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match=r"folder.npz: cannot be written: it is a folder"):
        net.save(tmp_path / "folder.npz")
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    net.save(tmp_path / "link.npz")
    assert not (tmp_path / "link.npz").is_symlink() and not (tmp_path / "real.npz").exists()  # what it points to is safe


def test_a_file_without_preprocessing_is_not_used_silently(tmp_path, call_convert):
    net = FCN32s(3, WIDTH)
    net.save(tmp_path / "a.npz", preprocessing=None)
    with pytest.raises(InputError, match="does not say how its images are prepared"):
        load_network(tmp_path / "a.npz")
    with pytest.raises(InputError, match="add --preprocessing caffe or torchvision"):
        convert.convert(tmp_path / "a.npz", tmp_path / "b.npz")
    convert.convert(tmp_path / "a.npz", tmp_path / "b.npz", "caffe")
    assert load_network(tmp_path / "b.npz")[0].preprocessing == "caffe"


def test_files_that_are_not_converted_say_so_to_predict(tmp_path, vgg):
    save_file(published.timm_vgg16(vgg), tmp_path / "a")
    with pytest.raises(InputError, match=r"convert it first: python -m tinyfcn\.convert"):
        load_network(tmp_path / "a")


def test_numbers_too_large_for_float32_are_refused(tmp_path, vgg):
    tensors = {name: tensor.astype(np.float64) for name, tensor in published.timm_vgg16(vgg).items()}
    tensors["head.fc.bias"][0] = 1e300
    save_file(tensors, tmp_path / "a")
    with pytest.raises(InputError, match=r"head.fc.bias holds values that are no finite numbers"):
        convert.convert(tmp_path / "a", tmp_path / "b.npz")


def test_names_in_a_file_cannot_break_the_line(tmp_path, call_convert):
    save_file({"a\nb\x1b[31m": zeros(2), "c" * 2000: zeros(1)}, tmp_path / "a")
    status, _, err = call_convert(tmp_path / "a", tmp_path / "b.npz")
    assert status == 2 and len(err.splitlines()) == 1 and "\x1b" not in err and len(err) < 1200


def test_images_too_small_for_alexnet_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "--model", "fcn32s-alexnet", "--size", "32", "--out", str(tmp_path / "run")])
    assert command.run(train.main) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and "at least 35x35 pixels, got 32x32" in err and not (tmp_path / "run").exists()


def test_nothing_is_overwritten_unasked(run_folder, call_convert, tmp_path):
    out = tmp_path / "out.npz"
    out.write_text("mine")
    status, _, err = call_convert(run_folder, out)
    assert status == 2 and err.count("\n") == 1 and str(out) in err and "--overwrite" in err and out.read_text() == "mine"
    assert call_convert(run_folder, out, "--overwrite")[0] == 0
    assert read(out)[0].keys() == read(run_folder / "best.safetensors")[0].keys()
    before = files(run_folder)
    (tmp_path / "link.safetensors").symlink_to(run_folder / "best.safetensors")
    for same in run_folder / "best.safetensors", tmp_path / "link.safetensors":
        for options in [], ["--overwrite"]:
            status, _, err = call_convert(run_folder, same, *options)
            assert status == 2 and f"{same} is the source itself" in err
    assert files(run_folder) == before
