"""tinyfcn.inference: a trained network labels pictures as its file says that it was trained to."""

import tracemalloc

import numpy as np
import pytest
from PIL import Image

import tinyfcn
from tinyfcn import inference
from tinyfcn.data import normalise, zoomed
from tinyfcn.errors import InputError
from tinyfcn.models import FCN8s, FCN32s

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


class Pairs(list):
    """Images and labels as a dataset."""

    ids = "abc"


@pytest.fixture
def saved(tmp_path):
    """A net, and a function that saves it with more of a description and loads it as a user does."""
    net, rng = FCN8s(3, 1 / 32, "same"), np.random.default_rng(1)
    for layer in net.score_layers:
        net.params[f"{layer}.weight"] += rng.standard_normal(net.params[f"{layer}.weight"].shape).astype(np.float32)
    scores = net.forward(normalise(PICTURE[None], net.preprocessing))
    net.params["score_pool3.bias"] -= scores.mean((0, 2, 3))  # so that it finds each class somewhere

    def load(**extra):
        net.save(tmp_path / "net.safetensors", classes=["background", "cat", "dog"], **extra)
        return tinyfcn.load(str(tmp_path / "net.safetensors"), "cpu")

    return net, load


def test_a_file_and_an_array_get_the_labels_that_the_net_gives(saved, tmp_path):
    net, load = saved
    trained = load()
    expected = net.predict(normalise(PICTURE[None], net.preprocessing))[0]
    assert len(np.unique(expected)) == 3 and trained.classes == ["background", "cat", "dog"]
    Image.fromarray(PICTURE).save(tmp_path / "picture.png")
    for picture in PICTURE, tmp_path / "picture.png", str(tmp_path / "picture.png"):
        labels = trained.predict(picture)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_an_assessment_has_the_mean_loss_and_each_image_s_own_accuracy(saved, weighted, zoom):
    net, rng = saved[0], np.random.default_rng(3)
    labels = rng.choice(np.array([0, 1, 2, 255], np.uint8), (3, 40, 50))
    labels[1] = 255
    weights = np.array([1.0, 0.25, 3.0]) if weighted else np.ones(3)
    pairs = [(rng.integers(0, 256, (40, 50, 3), np.uint8), label) for label in labels]
    losses, pixels = [], []
    for pair in pairs:
        image, label = zoomed(*pair, zoom)
        scores = net.forward(normalise(image[None], net.preprocessing))[0].astype(np.float64)
        log_p = scores - np.log(np.exp(scores).sum(axis=0))
        for k in range(3):
            losses.append(-weights[k] * log_p[k][label == k].sum())
            pixels.append(weights[k] * (label == k).sum())
    found = inference.assess(net, Pairs(pairs), zoom, class_weight=weights if weighted else None)
    assert found.loss == pytest.approx(sum(losses) / sum(pixels), rel=1e-5)
    expected = [
        (inference.predict(net, image, zoom) == label)[label != 255].mean() if (label != 255).any() else np.nan
        for image, label in pairs
    ]
    np.testing.assert_allclose(found.accuracy, expected)
    assert found.matrix.counts.sum() == (labels != 255).sum()


@pytest.mark.parametrize(
    "extra, picture, seen",
    [
        ({}, (40, 50), (40, 50)),
        ({"zoom": 2.0}, (40, 50), (80, 100)),
        ({"zoom": 2.0, "max_side": 60}, (40, 50), (48, 60)),
        ({}, (4, 2048), (2, 1024)),  # in training sides had no limit, but pictures may be of any size
    ],
)
def test_the_net_sees_a_picture_as_large_as_in_training(saved, monkeypatch, extra, picture, seen):
    trained = saved[1](**extra)
    sizes = []
    monkeypatch.setattr(trained.net, "predict", lambda x: sizes.append(x.shape[2:]) or np.zeros((1, *x.shape[2:]), np.uint8))
    assert trained.predict(np.zeros((*picture, 3), np.uint8)).shape == picture
    assert sizes == [seen]


@pytest.mark.parametrize(
    "picture, words",
    [(PICTURE[..., 0], r"\(40, 50\) of uint8"), (PICTURE / 255, r"\(40, 50, 3\) of float64")],
    ids=["grey", "float"],
)
def test_an_array_that_is_no_picture_is_refused(saved, picture, words):
    with pytest.raises(ValueError, match=rf"a picture must be \(H, W, 3\) of uint8, got {words}"):
        saved[1]().predict(picture)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"best\.safetensors"):
        inference.load(tmp_path)


# Tiles


@pytest.mark.parametrize("length, tile", [(40, None), (128, 128), (129, 128), (1000, 500), (1025, 512), (5000, 1024)])
def test_tiles_label_each_pixel_once_far_from_their_borders(length, tile):
    found = inference.spans(length, tile)
    assert [k for span in found for k in range(length)[span.kept]] == list(range(length))
    for span in found:
        seen = range(length)[span.seen]
        assert len(seen) <= (tile or length) and seen[0] % 32 == 0
        assert list(seen[span.inner]) == list(range(length)[span.kept])
        for border, end, kept in (seen[0], 0, span.kept.start), (seen[-1] + 1, length, span.kept.stop):
            assert border == end or abs(kept - border) == min(224, (tile - tile % 32) // 64 * 16)


@pytest.mark.parametrize("model, padding, zoom", [(FCN8s, "same", 1.0), (FCN32s, "paper", 1.5)])
def test_tiles_give_what_the_whole_picture_does(model, padding, zoom):
    net, rng = model(3, 1 / 64, padding), np.random.default_rng(0)
    for layer in net.score_layers:
        net.params[f"{layer}.weight"] += rng.standard_normal(net.params[f"{layer}.weight"].shape).astype(np.float32)
    picture = rng.integers(0, 256, (90, 700, 3), np.uint8)
    trained = inference.Predictor(net, list("abc"), zoom, None, tile=2000)
    whole = trained.probabilities(picture)
    tiled, seen = np.full_like(whole, -1), []
    forward = net.forward
    net.forward = lambda x: seen.append(x.shape[3]) or forward(x)
    labels = inference.predict(net, picture, zoom, tile=490, margin=inference.MARGIN, probabilities=tiled)
    assert len(seen) > 2 and max(seen) == 480
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    assert (labels == trained.predict(picture)).mean() > 0.9999
    inference.predict(net, picture, zoom, tile=490, margin=32, probabilities=tiled)
    assert abs(tiled - whole).max() > 1e-4  # too small an overlap is seen


def test_probabilities_are_the_softmax_of_the_scores(saved):
    net, load = saved
    scores = net.forward(normalise(PICTURE[None], net.preprocessing))[0].astype(float)
    expected = np.exp(scores) / np.exp(scores).sum(axis=0)
    trained = load()
    found = trained.probabilities(PICTURE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_array_equal(found.argmax(axis=0), trained.predict(PICTURE))
    smaller = trained._replace(max_side=25).probabilities(PICTURE)
    np.testing.assert_array_equal(smaller.argmax(axis=0), trained._replace(max_side=25).predict(PICTURE))


def test_memory_for_tiles_does_not_grow_with_the_picture(saved, tmp_path):
    """Beside the picture itself and its labels, that is, and with the probabilities in a file."""
    trained = saved[1]()._replace(tile=960)
    peaks = []
    for width in 1500, 4500:
        picture = np.zeros((32, width, 3), np.uint8)
        probabilities = np.lib.format.open_memmap(tmp_path / "p.npy", "w+", np.float16, (3, 32, width))
        tracemalloc.start()
        trained.predict(picture, probabilities)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * picture.size)
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
