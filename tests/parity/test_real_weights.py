"""VGG16's real convolutions on a real photograph: this package beside PyTorch and Keras, and a step of fine-tuning."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
h5py = pytest.importorskip("h5py")

from parity.torch_fcn import TorchFCN, Trainer, optimiser_of, with_params  # noqa: E402

from tinyfcn.convert import convert  # noqa: E402
from tinyfcn.convert.identify import identify  # noqa: E402
from tinyfcn.data import VOCSegmentation, normalise  # noqa: E402
from tinyfcn.data.balance import class_weights  # noqa: E402
from tinyfcn.initial import initialise  # noqa: E402
from tinyfcn.models import FCN8s  # noqa: E402
from tinyfcn.optim import Adam  # noqa: E402
from tinyfcn.step import train_step  # noqa: E402
from tinyfcn.weights import read  # noqa: E402

DATA = os.environ.get("TINYFCN_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="TINYFCN_DATA is not the folder that holds vgg16_imagenet and camvid")

BLOCKS = {1: 2, 2: 2, 3: 3, 4: 3, 5: 3}  # convolutions of each block


@pytest.fixture(scope="module")
def file():
    return Path(DATA) / "vgg16_imagenet" / "vgg16_notop.h5"


@pytest.fixture(scope="module")
def camvid():
    return VOCSegmentation(Path(DATA) / "camvid", "train")


def kernels(file):
    """(our name, kernel (k, k, C_in, C_out), bias) of each convolution, straight from the file."""
    with h5py.File(file) as content:
        for block, convolutions in BLOCKS.items():
            for k in range(1, convolutions + 1):
                layer = f"block{block}_conv{k}"
                yield f"conv{block}_{k}", *(content[layer][f"{layer}_{kind}_1:0"][()] for kind in "Wb")


def fine_tuned(file, camvid, **options):
    net = FCN8s(camvid.num_classes, 1.0, "same", hidden=64, dropout=0, **options)
    trained, _ = initialise(net, file, identify(file))
    return net, trained


def test_the_converted_file_equals_its_source_bit_for_bit(file, tmp_path):
    convert(file, tmp_path / "vgg16.safetensors")
    tensors, description = read(tmp_path / "vgg16.safetensors")
    assert description.preprocessing == "vgg" and len(tensors) == 26
    for name, kernel, bias in kernels(file):
        assert tensors[f"{name}.weight"].tobytes() == np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).tobytes(), name
        assert tensors[f"{name}.bias"].tobytes() == bias.tobytes(), name


def close(found, expected, tolerance):
    scale = abs(expected).max()
    assert found.shape == expected.shape and scale > 0
    assert abs(found - expected).max() < tolerance * scale


def test_activations_on_a_photograph_equal_those_of_pytorch_and_keras(file, camvid):
    image, _ = camvid[0]
    bgr = image[None, :352, :480, ::-1].astype(np.float32) - np.array([103.939, 116.779, 123.68], np.float32)  # (1, H, W, 3)
    net, _ = fine_tuned(file, camvid)
    x = normalise(image[None, :352, :480], net.preprocessing)
    net.start(x, training=False)
    pools = net.backbone.forward(net, x, net.first_padding)

    h = torch.from_numpy(np.ascontiguousarray(bgr.transpose(0, 3, 1, 2)))
    layers = iter(kernels(file))
    for block, convolutions in BLOCKS.items():
        for _ in range(convolutions):
            _, kernel, bias = next(layers)
            weight = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
            h = torch.relu(torch.nn.functional.conv2d(h, weight, torch.from_numpy(bias), padding=1))
        h = torch.nn.functional.max_pool2d(h, 2)
        close(pools[block - 1], h.numpy(), 1e-4)

    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    model = keras.applications.VGG16(include_top=False, weights=None, input_shape=(352, 480, 3))
    model.load_weights(file)
    close(pools[-1], np.asarray(model.predict(bgr, verbose=0)).transpose(0, 3, 1, 2), 1e-4)


def test_a_step_of_fine_tuning_equals_pytorch_s(file, camvid):
    """Two steps, since the scores start at zero and the layers below them do not move before the second."""
    weights = np.array(list(class_weights("sqrt-median-frequency", VOCSegmentation(camvid.root, "val", 12)).values()))
    net, trained = fine_tuned(file, camvid, dtype=np.float64)
    rate, trunk_rate = 1e-4, 0.1
    names = [name for name in net.params if name.partition(".")[0] in trained]
    assert len(names) == 26
    optimiser = Adam(rate, rates=dict.fromkeys(names, trunk_rate))
    before = {name: p.copy() for name, p in net.params.items()}
    module = with_params(TorchFCN("fcn8s", camvid.num_classes, 1.0, "same", hidden=64), net.params)
    twin = Trainer(module, optimiser_of(module, "adam", rate, 0.9, 0.0, trunk_rate))
    for step in range(2):
        image, label = (array[None, 90:186, 100:228] for array in camvid[step])
        x = normalise(image, net.preprocessing).astype(np.float64)
        mine = train_step(net, optimiser, x, label, class_weight=weights)
        theirs = twin.step(x, label, class_weight=weights)
        assert float(mine) == pytest.approx(theirs, rel=1e-10)
    for name, p in module.named_parameters():
        if p.requires_grad:
            moved = abs(p.detach().numpy() - before[name]).max()
            assert 0 < moved < 2.2 * rate * 2 * (trunk_rate if name in names else 1), name
            assert abs(net.params[name] - p.detach().numpy()).max() < 1e-3 * moved, name
