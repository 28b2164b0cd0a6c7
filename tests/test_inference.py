"""tinyfcn.inference: a trained network labels pictures as its file says that it was trained to."""

import numpy as np
import pytest
from PIL import Image

import tinyfcn
from tinyfcn import inference
from tinyfcn.data import normalise
from tinyfcn.errors import InputError
from tinyfcn.models import FCN8s

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


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
