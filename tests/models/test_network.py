"""tinyfcn.models.network: what every network starts from, and what its two passes ask for."""

import numpy as np
import pytest

from tinyfcn.models import FCN8s, FCN32s


def images(height, width):
    return np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)


def test_score_layers_start_at_zero_and_others_do_not():
    net = FCN8s(4, width=1 / 16)
    for name, p in net.params.items():
        assert (p == 0).all() == (name.endswith("bias") or name.startswith("score")), name
    assert (net.forward(images(20, 30)) == 0).all()


def test_the_seed_decides_the_initial_weights():
    a, b, c = (FCN32s(2, width=1 / 32, seed=s).params["conv3_2.weight"] for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_hidden_weights_have_he_s_scale():
    p = FCN32s(2, width=0.25).params["conv4_2.weight"]
    assert np.isclose(p.std(), (2 / (128 * 9)) ** 0.5, rtol=0.02)


def test_backward_needs_a_forward_pass_in_training():
    net = FCN32s(2, width=1 / 64, padding="same")
    with pytest.raises(RuntimeError, match="training=True"):
        net.backward(np.zeros((1, 2, 9, 9), np.float32))
    net.forward(images(9, 9))
    with pytest.raises(RuntimeError, match="training=True"):
        net.backward(np.zeros((1, 2, 9, 9), np.float32))
    net.forward(images(9, 9), training=True)
    net.backward(np.zeros((1, 2, 9, 9), np.float32))
    with pytest.raises(RuntimeError, match="only one of each"):
        net.backward(np.zeros((1, 2, 9, 9), np.float32))


@pytest.mark.parametrize(
    "x, error, message",
    [
        (np.zeros((1, 1, 9, 9), np.float32), ValueError, r"images \(N, 3, H, W\), got shape \(1, 1, 9, 9\)"),
        (np.zeros((3, 9, 9), np.float32), ValueError, "images"),
        (np.zeros((1, 3, 0, 9), np.float32), ValueError, "images"),
        (np.zeros((1, 3, 9, 9)), TypeError, "x is float64, the parameters are float32"),
    ],
)
def test_bad_images_are_named(x, error, message):
    with pytest.raises(error, match=message):
        FCN8s(2, width=1 / 64).forward(x)
