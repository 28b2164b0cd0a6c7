"""Published files, written by the libraries that their publishers use, beside those libraries' own answers."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.torch_fcn import TorchFCN  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import nn  # noqa: E402

from tinyfcn.convert import convert  # noqa: E402
from tinyfcn.convert.onnx import write_onnx  # noqa: E402
from tinyfcn.data import normalise, read_image  # noqa: E402
from tinyfcn.inference import load_network  # noqa: E402
from tinyfcn.models import FCNS, VGG16, AlexNet, FCN8s, FCN32s  # noqa: E402

WIDTH = 1 / 16
FCN_MODELS = ("fcn32s", "fcn16s", "fcn8s", "fcn8s-atonce")
PLAN = {  # torchvision's: channels of 3x3 convolutions, "pool" for a pooling
    "vgg16": (64, 64, "pool", 128, 128, "pool", *(256,) * 3, "pool", *(512,) * 3, "pool", *(512,) * 3, "pool")
}


def torchvision_vgg16(classes, width):
    """torchvision's modules in their order, which gives them their names, from random numbers that keep activations alive."""
    torch.manual_seed(0)
    features, channels = [], 3
    for item in PLAN["vgg16"]:
        if item == "pool":
            features.append(nn.MaxPool2d(2, 2))
            continue
        features += [nn.Conv2d(channels, round(item * width), 3, padding=1), nn.ReLU()]
        channels = round(item * width)
    hidden = round(4096 * width)
    head = [nn.Linear(49 * channels, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout()]
    return lively(Classifier(nn.Sequential(*features), 7, nn.Sequential(*head, nn.Linear(hidden, classes))))


def torchvision_alexnet(classes, width):
    torch.manual_seed(0)
    c1, c2, c3, c4, hidden = (round(c * width) for c in (64, 192, 384, 256, 4096))
    features = [nn.Conv2d(3, c1, 11, 4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(c1, c2, 5, padding=2), nn.ReLU()]
    features += [nn.MaxPool2d(3, 2), nn.Conv2d(c2, c3, 3, padding=1), nn.ReLU(), nn.Conv2d(c3, c4, 3, padding=1), nn.ReLU()]
    features += [nn.Conv2d(c4, c4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)]
    head = [nn.Dropout(), nn.Linear(36 * c4, hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU()]
    return lively(Classifier(nn.Sequential(*features), 6, nn.Sequential(*head, nn.Linear(hidden, classes))))


class Classifier(nn.Module):
    def __init__(self, features, size, classifier):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(size), classifier

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def lively(module):
    for p in module.parameters():
        p.data = torch.randn_like(p) * ((2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1)
    return module.eval()


def images(n, *size):
    return np.random.default_rng(0).standard_normal((n, 3, *size)).astype(np.float32)


def answer(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x)).numpy()


def close(found, expected, tolerance=1e-4):
    assert found.shape == expected.shape
    assert abs(found - expected).max() <= tolerance * abs(expected).max() > 0


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", [VGG16, AlexNet])
def test_torchvision_s_classifier_answers_the_same(tmp_path, kind, zipped):
    twin = (torchvision_vgg16 if kind is VGG16 else torchvision_alexnet)(9, WIDTH)
    torch.save(twin.state_dict(), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", "torchvision")
    net = kind(9, WIDTH)
    net.load(tmp_path / "b.safetensors")
    x = images(2, 224, 224)
    close(net.forward(x), answer(twin, x))
    close(net.score_map(x)[:, :, 0, 0], answer(twin, x))


def test_the_classifier_of_full_width_is_a_convolution_too(tmp_path):
    """138 million parameters, in the file that torch writes: the same logits, and the same weights in an FCN."""
    twin = torchvision_vgg16(1000, 1)
    torch.save(twin.state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", "torchvision")
    os.remove(tmp_path / "a.pth")
    net = VGG16()
    net.load(tmp_path / "b.safetensors")
    x = images(1, 224, 224)
    close(net.score_map(x)[:, :, 0, 0], answer(twin, x))
    fcn = FCN32s(21)
    report = fcn.load(tmp_path / "b.safetensors", partial=True)
    assert set(report.unexpected) == {"fc8.weight", "fc8.bias"} and fcn.params["fc6.weight"].shape == (4096, 512, 7, 7)
    assert np.array_equal(fcn.params["fc6.weight"].ravel(), net.params["fc6.weight"].ravel())


@pytest.mark.parametrize("model", FCN_MODELS)
def test_a_finished_fcn_scores_photographs_as_in_pytorch(tmp_path, model):
    """The structure of the files that are published for PyTorch, at small width: names, shapes, bilinear upsampling."""
    twin = published_fcn(model)
    torch.save(twin.state_dict(), tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.safetensors", at_once=model == "fcn8s-atonce")
    net, _ = load_network(tmp_path / "b.safetensors")
    assert type(net) is FCNS[model]
    for x in photographs(net.preprocessing):
        close(net.forward(x), answer(twin, x))


@pytest.mark.parametrize("model", FCN_MODELS)
def test_what_is_trained_here_opens_in_pytorch(tmp_path, model):
    net = FCNS[model](21, WIDTH)
    rng = np.random.default_rng(0)
    for p in net.params.values():
        p += (0.05 * rng.standard_normal(p.shape)).astype(p.dtype)
    net.save(tmp_path / "net.safetensors")
    twin = published_fcn(model)
    state = load_file(tmp_path / "net.safetensors")
    assert state.keys() == twin.state_dict().keys()
    twin.load_state_dict(state)  # strict
    x = images(1, 61, 83)
    close(net.forward(x), answer(twin, x))


def published_fcn(model):
    torch.manual_seed(0)
    twin = TorchFCN(model, 21, WIDTH).eval()
    with torch.no_grad():
        for name, p in twin.named_parameters():
            if not name.startswith("upscore"):
                p.copy_(torch.randn_like(p) * ((2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1))
    return twin


def photographs(preprocessing):
    """Three sizes: real photographs where TINYFCN_DATA names them, else noise."""
    folder = os.environ.get("TINYFCN_DATA")
    paths = sorted(Path(folder, "voc_mini", "JPEGImages").glob("*.jpg")) if folder else []
    if not paths:
        return [images(1, *size) * 50 for size in ((64, 90), (33, 47), (128, 75))]
    found = {}
    for path in paths:
        image = read_image(path)
        found.setdefault(image.shape, image)
    assert len(found) >= 3
    return [normalise(image[None], preprocessing) for image in list(found.values())[:3]]


# Keras


@pytest.fixture
def keras(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    return pytest.importorskip("keras")


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_keras_s_classifier_answers_the_same(tmp_path, keras, suffix):
    channels = (4, 8, 16, 32, 32)
    layers = [keras.Input((224, 224, 3))]
    for block, (c, convolutions) in enumerate(zip(channels, (2, 2, 3, 3, 3), strict=True), 1):
        for k in range(1, convolutions + 1):
            name = f"block{block}_conv{k}"
            layers.append(keras.layers.Conv2D(c, 3, padding="same", activation="relu", name=name, bias_initializer="normal"))
        layers.append(keras.layers.MaxPooling2D(2, 2, name=f"block{block}_pool"))
    layers.append(keras.layers.Flatten(name="flatten"))
    layers += [keras.layers.Dense(256, activation="relu", name=name, bias_initializer="normal") for name in ("fc1", "fc2")]
    model = keras.Sequential([*layers, keras.layers.Dense(9, name="predictions")])
    (model.save_weights if suffix == ".weights.h5" else model.save)(tmp_path / f"a{suffix}")
    found = convert(tmp_path / f"a{suffix}", tmp_path / "b.safetensors")
    assert found.description.preprocessing == "vgg"
    net = VGG16(9, WIDTH)
    net.load(tmp_path / "b.safetensors")
    x = images(2, 224, 224)
    close(net.forward(x), np.asarray(model(x.transpose(0, 2, 3, 1)).detach().cpu()))


# ONNX


@pytest.mark.parametrize("learn_upsampling", ["none", "all"])
@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("model", FCNS)
def test_onnx_runtime_gives_the_same_scores_at_any_size(tmp_path, model, padding, learn_upsampling):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net = FCNS[model](3, WIDTH, padding, learn_upsampling=learn_upsampling)
    rng = np.random.default_rng(0)
    for p in net.params.values():
        p += (0.05 * rng.standard_normal(p.shape)).astype(p.dtype)
    write_onnx(net, tmp_path / "net.onnx", replace(net.description(), classes=("a", "b", "c")))
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["classes"] == '["a", "b", "c"]'
    for size in ((39, 60), (64, 64), (101, 75)) + (((1, 1),) if padding == "paper" else ()):
        x = images(2, *size)
        close(session.run(None, {"image": x})[0], net.forward(x))


def test_a_run_becomes_an_onnx_model(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    net = FCN8s(3, WIDTH, hidden=10, skip_scales={"score_pool4": 0.5, "score_pool3": 2.0})
    for skip in ("score_fr", "score_pool4", "score_pool3"):
        net.params[f"{skip}.weight"] += 1
    (tmp_path / "run").mkdir()
    net.save(tmp_path / "run" / "best.safetensors", zoom=1.5)
    convert(tmp_path / "run", tmp_path / "net.onnx")
    x = images(1, 50, 70)
    session = runtime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    close(session.run(None, {"image": x})[0], net.forward(x))
    assert session.get_modelmeta().custom_metadata_map["zoom"] == "1.5"
