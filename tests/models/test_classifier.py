"""tinyfcn.models.classifier: VGG16, AlexNet and CaffeNet, at one place and at many."""

from itertools import pairwise
from math import prod

import numpy as np
import pytest
from networks import gradient_functions, spread

from tinyfcn.gradcheck import check_gradient
from tinyfcn.models import VGG16, AlexNet, CaffeNet, FCN32s


def test_number_of_parameters_is_the_published_one():
    # Simonyan and Zisserman, table 2: 138 million. Counted here from the layers' names alone, without making them.
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    expected = sum(9 * a * b + b for a, b in pairwise(channels))
    expected += 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert expected == 138_357_544
    assert sum(map(prod, VGG16.shapes(1000, 1.0).values())) == expected
    sizes = {name: prod(shape) for name, shape in VGG16.shapes(7, 1 / 32).items()}
    assert {name: p.size for name, p in VGG16(7, width=1 / 32).params.items()} == sizes


def test_gradient_of_every_parameter_and_of_the_image():
    net = spread(VGG16(3, width=1 / 64, dropout=0, dtype=np.float64))
    forward, backward, names = gradient_functions(net)
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224))
    check_gradient(forward, backward, x, *net.params.values(), names=names, directions=2, step=1e-7)


def test_the_classifier_is_the_fcn_at_one_place():
    """Convolutionalisation (paper, figure 2): fc6 as a 7x7 convolution, on an image of 224x224, gives the classifier's scores."""
    vgg = spread(VGG16(5, width=1 / 32, dtype=np.float64))
    net = FCN32s(5, width=1 / 32, padding="same", dtype=np.float64)
    net.fc6_padding = 0
    for name in net.params:
        net.params[name] = vgg.params[name.replace("score_fr", "fc8")].reshape(net.params[name].shape)
    x = np.random.default_rng(1).standard_normal((2, 3, 224, 224))
    _, conv7 = net.trunk(x, training=False)
    scores = net.conv("score_fr", conv7)
    assert scores.shape == (2, 5, 1, 1)
    assert np.allclose(scores[:, :, 0, 0], vgg.forward(x), rtol=1e-12, atol=1e-12)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match="224x224"):
        VGG16(3, width=1 / 64).forward(np.zeros((1, 3, 150, 224), np.float32))


@pytest.mark.parametrize("kind, size", [(VGG16, 224), (AlexNet, 224), (CaffeNet, 227)])
def test_the_score_map_is_the_classifier_s_answer_where_there_is_one_place(kind, size):
    net = spread(kind(4, 1 / 32, dtype=np.float64))
    x = np.random.default_rng(2).standard_normal((2, 3, size, size))
    scores = net.score_map(x)
    assert scores.shape == (2, 4, 1, 1)
    assert np.allclose(scores[:, :, 0, 0], net.forward(x), rtol=1e-12, atol=1e-12)


def test_each_place_of_the_score_map_is_the_classifier_on_its_crop():
    """Kernels that see the middle pixel alone: then no padding reaches anything, and all places must agree."""
    net = spread(VGG16(4, 1 / 32, dtype=np.float64))
    for name, weight in net.params.items():
        if name.startswith("conv") and name.endswith("weight"):
            middle = np.abs(weight[:, :, 1, 1])
            weight[...] = 0
            weight[:, :, 1, 1] = middle  # positive, so that no ReLU is shut everywhere
    x = np.random.default_rng(3).uniform(size=(1, 3, 288, 320))
    scores = net.score_map(x)
    assert scores.shape == (1, 4, 3, 4)
    assert scores.std(axis=(2, 3)).min() > 0
    for r in range(3):
        for c in range(4):
            crop = x[:, :, 32 * r : 32 * r + 224, 32 * c : 32 * c + 224]
            assert np.allclose(scores[:, :, r, c], net.forward(crop), rtol=1e-10, atol=1e-12)
