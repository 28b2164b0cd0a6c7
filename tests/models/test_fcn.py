"""tinyfcn.models.fcn: scores, gradients, stages, what is learned and what is frozen."""

import numpy as np
import pytest
from networks import gradient_functions, spread

from tinyfcn import gradcheck, ops
from tinyfcn.gradcheck import check_gradient
from tinyfcn.models import FCN8s, FCN8sAtOnce, FCN16s, FCN32s

NETS = (FCN32s, FCN16s, FCN8s, FCN8sAtOnce)
PADDINGS = ("paper", "same")


def images(height, width, batch=1, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(dtype)


def test_the_paper_s_network_has_134_3_million_parameters():
    net = FCN32s(21)
    count = sum(p.size for p in net.params.values())
    assert count == 134_346_581  # VGG16's 134,260,544 up to fc7, and 4096 x 21 + 21 for the scores
    assert round(count / 1e6, 1) == 134.3


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", NETS)
def test_scores_have_the_image_s_size(kind, padding):
    net = kind(2, width=1 / 64, padding=padding)
    sizes = [(s, 71 - s) for s in range(1, 71)] + [(s, s) for s in (1, 2, 31, 32, 33)]
    sizes += [(97, 224), (255, 256), (331, 500), (500, 375), (700, 513)]
    for height, width in sizes:
        assert net.forward(np.zeros((1, 3, height, width), np.float32)).shape == (1, 2, height, width)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kind", NETS)
def test_gradient_of_every_parameter_and_of_the_image(kind, padding):
    net = spread(kind(3, width=1 / 32, padding=padding, dropout=0, learn_upsampling="all", dtype=np.float64))
    forward, backward, names = gradient_functions(net)
    params = list(net.params.values())
    check_gradient(forward, backward, images(17, 38), *params, names=names, directions=2, step=1e-7)


def test_gradient_through_dropout_and_with_fixed_upsampling():
    net = spread(FCN8s(3, width=1 / 32, padding="same", dropout=0.5, dtype=np.float64))
    forward, backward, names = gradient_functions(net)

    def seeded(*arguments):
        net.rng = np.random.default_rng(3)
        return forward(*arguments)

    check_gradient(seeded, backward, images(40, 33, batch=2), *net.params.values(), names=names, directions=2, step=1e-7)


@pytest.mark.parametrize("kind", NETS)
def test_a_wrong_backward_pass_is_caught(kind, monkeypatch):
    net = spread(kind(3, width=1 / 32, padding="same", dropout=0, dtype=np.float64))
    forward, backward, names = gradient_functions(net)
    true_pool_backward = ops.max_pool2d_backward
    monkeypatch.setattr(gradcheck, "ENTRIES", 3)  # the search for the worst entry is not what is tested here
    monkeypatch.setattr(ops, "max_pool2d_backward", lambda dy, cache: 1.001 * true_pool_backward(dy, cache))
    with pytest.raises(AssertionError, match="disagrees"):
        check_gradient(forward, backward, images(40, 33), *net.params.values(), names=names, directions=2, step=1e-7)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("young, old, skip", [(FCN16s, FCN32s, "score_pool4"), (FCN8s, FCN16s, "score_pool3")])
def test_a_stage_begins_as_the_last_one_ended(tmp_path, young, old, skip, padding):
    """At step zero the new skip adds nothing: the scores are the old net's coarse ones, upsampled in one more step."""
    parent = spread(old(3, width=1 / 32, padding=padding, dtype=np.float64))
    parent.save(tmp_path / "parent.safetensors")
    child = young(3, width=1 / 32, padding=padding, dtype=np.float64)
    report = child.load(tmp_path / "parent.safetensors", partial=True)
    assert report.kept == [f"{skip}.weight", f"{skip}.bias"] and report.unexpected == []

    x = images(61, 90)
    seen = {}
    for net in (parent, child):
        apply = net.apply

        def recording(name, forward, *arguments, _net=net, _apply=apply, **options):
            y = _apply(name, forward, *arguments, **options)
            seen[type(_net).__name__, name] = y
            return y

        net.apply = recording
        net.forward(x)
    last = list(old.upsamplings)[-1]  # the parent's upsampling to the image
    coarse = next(y for (net, name), y in reversed(seen.items()) if net == old.__name__ and y.shape[2] < 61 and "up" not in name)
    fine = seen[young.__name__, list(young.upsamplings)[-2]]
    stride = old.upsamplings[last] // young.upsamplings[list(young.upsamplings)[-1]]
    expected, _ = ops.conv_transpose2d_forward(coarse, ops.bilinear_weight(3, 2 * stride, np.float64), stride=stride)
    assert np.allclose(fine, expected, rtol=0, atol=1e-12)
    fused = seen[young.__name__, f"{skip}.add"]
    crop = max(-child.offsets[skip], 0)
    window = (..., slice(crop, crop + fused.shape[2]), slice(crop, crop + fused.shape[3]))
    assert (fused == fine[window]).all()


def test_learned_upsampling_starts_bilinear():
    fixed = spread(FCN8s(3, width=1 / 32))
    learned = FCN8s(3, width=1 / 32, learn_upsampling="all")
    learned.params |= fixed.params
    x = images(33, 47, dtype=np.float32)
    assert np.allclose(fixed.forward(x), learned.forward(x), atol=1e-5)


@pytest.mark.parametrize(
    "choice, learned",
    [("none", set()), ("skip", {"upscore2", "upscore_pool4"}), ("all", {"upscore2", "upscore_pool4", "upscore8"})],
)
def test_which_upsampling_is_learned(choice, learned):
    net = FCN8s(2, width=1 / 64, padding="same", learn_upsampling=choice)
    net.forward(images(20, 20, dtype=np.float32), training=True)
    net.backward(np.ones((1, 2, 20, 20), np.float32))
    assert {name.removesuffix(".weight") for name in net.grads if name.startswith("up")} == learned
    assert net.grads.keys() == net.params.keys()


@pytest.mark.parametrize("kind", NETS)
def test_a_frozen_trunk_gets_no_gradient_and_the_scores_the_same_one(kind):
    free = spread(kind(3, width=1 / 32, padding="same", dropout=0))
    frozen = kind(3, width=1 / 32, padding="same", dropout=0, freeze_trunk=True)
    frozen.params = free.params
    x, dscores = images(40, 50, dtype=np.float32), images(40, 50, dtype=np.float32, seed=1)
    for net in (free, frozen):
        net.forward(x, training=True)
        net.backward(dscores)
    assert set(frozen.grads) == {name for name in free.params if name.startswith("score")}
    for name, gradient in frozen.grads.items():
        assert np.allclose(gradient, free.grads[name], rtol=1e-5)


@pytest.mark.parametrize("kind", NETS)
def test_frozen_convolutions_get_no_gradient_and_the_rest_the_same_one(kind):
    options = {"width": 1 / 32, "padding": "same", "dropout": 0, "dtype": np.float64}
    free, frozen = spread(kind(3, **options)), kind(3, freeze_convs=True, **options)
    frozen.params = free.params
    x, dscores = images(40, 50), images(40, 50, seed=1)
    for net in (free, frozen):
        net.forward(x, training=True)
        dx = net.backward(dscores, need_dx=net is free)
    assert dx is None and frozen.grads.keys() == frozen.trainable().keys()
    assert frozen.grads.keys() == {name for name in free.params if not name.startswith("conv")}
    for name, gradient in frozen.grads.items():
        assert np.allclose(gradient, free.grads[name], rtol=1e-12, atol=0), name


@pytest.mark.parametrize("kind", NETS)
def test_hidden_sets_the_channels_of_fc6_and_fc7_alone(kind):
    usual, other = kind(3, width=1 / 32, padding="same"), kind(3, width=1 / 32, padding="same", hidden=5)
    assert usual.hidden == 128 and usual.description().hidden == 128 and other.description().hidden == 5
    assert other.params["fc6.weight"].shape[0] == 5 and other.params["fc7.weight"].shape == (5, 5, 1, 1)
    assert other.params["score_fr.weight"].shape == (3, 5, 1, 1)
    differ = {name for name, p in usual.params.items() if p.shape != other.params[name].shape}
    assert differ == {"fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias", "score_fr.weight"}
    assert other.forward(images(40, 50, dtype=np.float32)).shape == (1, 3, 40, 50)
    with pytest.raises(ValueError, match="hidden must be a whole number from 1 to 16,384, or null, got 0"):
        kind(3, hidden=0)


@pytest.mark.parametrize(
    "options", [{}, {"learn_upsampling": "all"}, {"freeze_trunk": True}, {"freeze_convs": True}, {"hidden": 5}], ids=str
)
@pytest.mark.parametrize("kind", NETS)
def test_an_update_function_gets_each_gradient_once_and_nothing_is_kept(kind, options):
    net = spread(kind(3, width=1 / 32, padding="same", dropout=0, dtype=np.float64, **options))
    x, dscores = images(40, 50, batch=2), images(40, 50, batch=2, seed=1)
    net.forward(x, training=True)
    dx = net.backward(dscores, need_dx=not net.freeze_convs)
    expected = net.grads
    assert expected.keys() == net.trainable().keys()

    calls = []
    net.forward(x, training=True)
    same_dx = net.backward(dscores, need_dx=not net.freeze_convs, update=lambda *call: calls.append(call))
    assert net.grads == {} and np.array_equal(dx, same_dx)
    assert sorted(name for name, _ in calls) == sorted(expected)
    for name, gradient in calls:
        assert abs(gradient).max() > 0 and np.array_equal(gradient, expected[name]), name


@pytest.mark.parametrize("kind", NETS)
def test_parameters_may_be_updated_within_the_backward_pass(kind):
    """A parameter is handed over when nothing of the pass needs it any more: to spoil it changes no other gradient."""
    net = spread(kind(3, width=1 / 32, padding="same", dropout=0, learn_upsampling="all", dtype=np.float64))
    x, dscores = images(40, 50), images(40, 50, seed=1)
    net.forward(x, training=True)
    dx = net.backward(dscores, need_dx=True)
    expected, calls = net.grads, {}

    def spoil(name, gradient):
        calls[name] = gradient.copy()
        net.params[name] *= np.nan
        gradient *= np.nan

    net.forward(x, training=True)
    assert np.array_equal(net.backward(dscores, need_dx=True, update=spoil), dx)
    assert calls.keys() == expected.keys()
    assert all(np.array_equal(gradient, expected[name]) for name, gradient in calls.items())


def test_at_once_scales_its_skips():
    plain, scaled = spread(FCN8s(3, width=1 / 32)), FCN8sAtOnce(3, width=1 / 32)
    for name, p in plain.params.items():
        factor = {"score_pool4.weight": 100, "score_pool3.weight": 10000}.get(name, 1)
        scaled.params[name] = p * np.float32(factor)
    x = images(30, 40, dtype=np.float32)
    assert np.allclose(plain.forward(x), scaled.forward(x), atol=1e-4)


def test_dropout_only_while_training():
    net = spread(FCN32s(3, width=1 / 32, padding="same"))
    x = images(40, 40, dtype=np.float32)
    assert (net.forward(x) == net.forward(x)).all()
    assert (net.forward(x, training=True) != net.forward(x)).any()


def test_a_frozen_trunk_keeps_its_dropout_while_training():
    net = spread(FCN32s(3, width=1 / 32, padding="same", freeze_trunk=True))
    x = images(40, 40, dtype=np.float32)
    assert (net.forward(x, training=True) != net.forward(x)).any()


def test_batch_items_do_not_touch_each_other():
    net = spread(FCN8s(3, width=1 / 32))
    x = images(45, 33, batch=3, dtype=np.float32)
    together = net.forward(x)
    apart = np.concatenate([net.forward(x[n : n + 1]) for n in range(3)])
    assert np.allclose(together, apart, rtol=0, atol=2e-5 * abs(apart).max())


def test_predict_gives_the_class_with_the_largest_score():
    net = spread(FCN8s(3, width=1 / 32))
    x = images(20, 31, dtype=np.float32)
    labels = net.predict(x)
    assert labels.dtype == np.uint8 and (labels == net.forward(x).argmax(axis=1)).all()


@pytest.mark.parametrize("height, width", [(1, 1), (250, 141), (64, 2000)])
def test_bands_make_all_labels(height, width):
    net = spread(FCN8s(21, width=1 / 64, padding="same"))
    x = 30 * images(height, width, batch=2, dtype=np.float32)
    labels = net.predict(x)
    assert labels.dtype == np.uint8 and np.array_equal(labels, net.forward(x).argmax(axis=1))
    assert height == 1 or len(np.unique(labels)) > 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 0}, "num_classes must be a whole number from 1 to 100,000, got 0"),
        ({"width": 0}, "width must be a number, more than 0 and at most 4, got 0"),
        ({"padding": "valid"}, "padding must be one of paper, same, or null, got 'valid'"),
        ({"learn_upsampling": "yes"}, "learn_upsampling must be one of none, skip, all, or null, got 'yes'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        FCN8s(**{"num_classes": 2, "width": 1 / 64} | options)
