"""Whole networks beside PyTorch's: the same scores, loss, gradient of every parameter, and path in training."""

import os
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity.torch_fcn import TorchAlexNet, TorchFCN, TorchVGG, Trainer, loss_of, optimiser_of, with_params  # noqa: E402

from tinyfcn import ops  # noqa: E402
from tinyfcn.data import Shapes, VOCSegmentation, normalise  # noqa: E402
from tinyfcn.data.loader import make_batch  # noqa: E402
from tinyfcn.models import FCNS, VGG16, AlexNet, CaffeNet  # noqa: E402
from tinyfcn.optim import SCHEDULES  # noqa: E402
from tinyfcn.run import Config  # noqa: E402
from tinyfcn.step import build_optimiser, train_step  # noqa: E402

CLASSES, WIDTH = 4, 1 / 32
ALEXNETS = {"fcn32s-alexnet": "alexnet", "fcn32s-caffenet": "caffenet"}


def randomised(net):
    """Give every parameter, also biases, scores and upsampling layers, random values."""
    rng = np.random.default_rng(1)
    for p in net.params.values():
        p += (0.1 * rng.standard_normal(p.shape)).astype(p.dtype)
    return net


def close(found, expected, tolerance, name):
    expected = expected.detach().numpy()
    assert found.shape == expected.shape and found.dtype == expected.dtype, name
    scale = abs(expected).max()
    assert scale > 0, f"{name} is zero everywhere, which shows nothing"
    np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=tolerance, err_msg=name)


def agree(net, twin, x, labels, tolerance, reduction="mean"):
    """Compare scores, loss, and the gradient of each parameter and of the image."""
    with_params(twin, net.params)
    image = torch.tensor(x, requires_grad=True)
    expected = twin(image)
    expected_loss = loss_of(expected, labels, reduction)
    expected_loss.backward()

    scores = net.forward(x, training=True)
    loss, cache = ops.softmax_cross_entropy_forward(scores, labels, reduction=reduction)
    dx = net.backward(ops.softmax_cross_entropy_backward(1.0, cache), need_dx=True)
    close(scores, expected, tolerance, "scores")
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=tolerance)
    close(dx, image.grad, tolerance, "image")
    assert net.grads.keys() == net.params.keys()
    theirs = dict(twin.named_parameters())
    for name, gradient in net.grads.items():
        close(gradient, theirs[name].grad, tolerance, name)


def batch(height, width, dtype=np.float64):
    """Two images, and labels of which a fifth are 255."""
    rng = np.random.default_rng([height, width])
    labels = rng.integers(0, CLASSES, (2, height, width))
    labels[rng.random(labels.shape) < 0.2] = 255
    return rng.standard_normal((2, 3, height, width)).astype(dtype), labels


def build(model, padding, learn_upsampling="none", dtype=np.float64, classes=CLASSES, width=WIDTH):
    options = {"padding": padding, "learn_upsampling": learn_upsampling}
    net = FCNS[model](classes, width, dropout=0.0, dtype=dtype, **options)
    if model in ALEXNETS:
        return net, TorchAlexNet(ALEXNETS[model], classes, width, padding)
    return net, TorchFCN(model, classes, width, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("padding, size", [("paper", (37, 53)), ("same", (75, 101))])
@pytest.mark.parametrize("model", FCNS)
def test_gradient_of_every_parameter(model, padding, size, reduction):
    net, twin = build(model, padding)
    agree(randomised(net), twin, *batch(*size), tolerance=1e-10, reduction=reduction)


@pytest.mark.parametrize("learn_upsampling", ["skip", "all"])
@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("model", ["fcn32s", "fcn16s", "fcn8s"])
def test_gradient_of_learned_upsampling(model, padding, learn_upsampling):
    net, twin = build(model, padding, learn_upsampling)
    assert any(name.startswith("upscore") for name in net.params) or (model, learn_upsampling) == ("fcn32s", "skip")
    agree(randomised(net), twin, *batch(33, 47), tolerance=1e-10)


@pytest.mark.parametrize("padding", ["paper", "same"])
def test_gradient_of_every_parameter_in_float32(padding):
    net, twin = build("fcn8s", padding, dtype=np.float32)
    agree(randomised(net), twin, *batch(75, 101, np.float32), tolerance=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (32, 31), (97, 1)])
@pytest.mark.parametrize("padding", ["paper", "same"])
@pytest.mark.parametrize("model", FCNS)
def test_scores_of_sizes_at_the_edge(model, padding, size):
    net, twin = build(model, padding)
    with_params(twin, randomised(net).params)
    x, _ = batch(*size)
    if model in ALEXNETS and padding == "same" and min(size) < 35:
        with pytest.raises(ValueError, match=r"images must have at least (35|39)x"):
            net.forward(x)
        x, _ = batch(*(max(side, 39) for side in size))
    close(net.forward(x), twin(torch.tensor(x)), 1e-10, "scores")


@pytest.mark.parametrize("kind, size", [(AlexNet, 224), (CaffeNet, 227)])
def test_alexnet(kind, size):
    net = randomised(kind(CLASSES, WIDTH, dropout=0.0, dtype=np.float64))
    x, _ = batch(size, size)
    agree(net, TorchAlexNet(kind.__name__.lower(), CLASSES, WIDTH), x, np.array([3, 1]), tolerance=1e-10)


def test_vgg16():
    net = randomised(VGG16(CLASSES, WIDTH, dropout=0.0, dtype=np.float64))
    x, _ = batch(224, 224)
    agree(net, TorchVGG(CLASSES, WIDTH), x, np.array([3, 1]), tolerance=1e-10)


# Training: 20 steps from He initialisation and scores of zero, on the same batches


def losses_of_both(dataset, config, learn_upsampling="none"):
    """Losses (steps, 2) of tinyfcn and of PyTorch, in float64."""
    net, module = build(config.model, config.padding, learn_upsampling, classes=dataset.num_classes, width=config.width)
    optimiser = build_optimiser(config)
    rng = np.random.default_rng(0)
    for name, p in net.params.items():
        if name.endswith(".bias"):  # with zeros, padding of zeros stays at the kink of every ReLU, where rounding decides
            p += 0.01 * rng.standard_normal(p.shape)
    with_params(module, net.params)
    rates = (config.lr, config.momentum, config.weight_decay)
    twin = Trainer(module, optimiser_of(module, config.optimiser, *rates))
    losses = []
    for step in range(config.steps):
        pixels, labels = make_batch(dataset, config, step)
        x = normalise(pixels, net.preprocessing).astype(np.float64)
        factor = SCHEDULES[config.schedule](step / config.steps)
        mine = train_step(net, optimiser, x, labels, config.loss, factor)
        losses.append((float(mine), twin.step(x, labels, config.loss, factor)))
    for name, p in module.named_parameters():
        if p.requires_grad:
            close(net.params[name], p, 1e-5, name)
    return np.array(losses)


def same_path(losses):
    mine, theirs = losses.T
    np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert theirs[-5:].mean() < 0.9 * theirs[0]  # it has learned something: the comparison is not of two nets at rest


SHAPES = {"width": 1 / 16, "size": (64, 64), "batch_size": 2, "steps": 20}
SGD_MEAN = {"optimiser": "sgd", "schedule": "constant", "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-4}
ADAM = {"optimiser": "adam", "schedule": "poly", "lr": 2e-3, "weight_decay": 1e-2}
PAPER = {"optimiser": "sgd", "schedule": "constant", "lr": 2e-7, "momentum": 0.99, "weight_decay": 5e-4, "loss": "sum"}


@pytest.mark.parametrize("optimiser", [SGD_MEAN, ADAM, PAPER], ids=["sgd", "adam", "sgd-summed"])
def test_twenty_steps(optimiser):
    same_path(losses_of_both(Shapes(), Config(model="fcn8s", padding="same", **SHAPES, **optimiser)))


@pytest.mark.parametrize("model, padding", [("fcn32s", "same"), ("fcn16s", "same"), ("fcn8s-atonce", "paper")])
def test_twenty_steps_of_the_other_networks(model, padding):
    same_path(losses_of_both(Shapes(), Config(model=model, padding=padding, **SHAPES, **ADAM), "all"))


@pytest.mark.skipif("TINYFCN_DATA" not in os.environ, reason="TINYFCN_DATA is not the folder that holds camvid")
def test_twenty_steps_on_photographs():
    dataset = VOCSegmentation(Path(os.environ["TINYFCN_DATA"]) / "camvid", "train")
    options = {"width": 1 / 8, "size": (112, 160), "batch_size": 2, "steps": 20}
    same_path(losses_of_both(dataset, Config(model="fcn8s", padding="same", **options, **ADAM | {"lr": 5e-4})))
