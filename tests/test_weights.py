import json
import struct

import numpy as np
import pytest

from tinyfcn import weights
from tinyfcn.description import Description
from tinyfcn.errors import InputError
from tinyfcn.models import VGG16, FCN8s, FCN32s


@pytest.fixture
def net():
    return FCN32s(3, width=1 / 64)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_saved_network_comes_back(net, tmp_path, suffix):
    path = tmp_path / f"net.{suffix}"
    net.save(path, classes=("a", "b", "c"))
    other = FCN32s(3, width=1 / 64, seed=1)
    other.load(path)
    assert all(np.array_equal(p, other.params[name]) for name, p in net.params.items())
    description = weights.read_description(path)
    assert description.model == "FCN32s" and description.width == 1 / 64
    assert description.preprocessing == "torchvision" and description.classes == ("a", "b", "c")
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_what_safetensors_expects(net, tmp_path):
    net.save(tmp_path / "net.safetensors")
    data = (tmp_path / "net.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert header["conv1_1.weight"]["shape"] == [1, 3, 3, 3] and header["conv1_1.weight"]["dtype"] == "F32"


def test_preprocessing_travels_with_the_weights(net, tmp_path):
    net.preprocessing = "caffe"
    net.save(tmp_path / "net.npz")
    other = FCN32s(3, width=1 / 64)
    other.load(tmp_path / "net.npz")
    assert other.preprocessing == "caffe"


def test_a_classifier_s_weights_become_convolutions(tmp_path):
    vgg = VGG16(9, width=1 / 64)
    vgg.save(tmp_path / "vgg.safetensors")
    net = FCN8s(3, width=1 / 64)
    report = net.load(tmp_path / "vgg.safetensors", partial=True)
    assert net.params["fc6.weight"].shape == (64, 8, 7, 7)
    assert np.array_equal(net.params["fc6.weight"][5, 3, 2, 6], vgg.params["fc6.weight"][5, 3 * 49 + 2 * 7 + 6])
    assert set(report.kept) == {f"{s}.{k}" for s in ("score_fr", "score_pool4", "score_pool3") for k in ("weight", "bias")}
    assert set(report.unexpected) == {"fc8.weight", "fc8.bias"}


def test_another_number_of_classes_starts_with_new_scores(net, tmp_path):
    net.params["score_fr.weight"] += 1
    net.save(tmp_path / "net.npz")
    other = FCN32s(5, width=1 / 64, seed=1)
    report = other.load(tmp_path / "net.npz", partial=True)
    assert report.kept == ["score_fr.weight", "score_fr.bias"]
    assert (other.params["score_fr.weight"] == 0).all()
    assert np.array_equal(other.params["conv1_1.weight"], net.params["conv1_1.weight"])


def test_what_does_not_fit_is_named(net, tmp_path):
    net.save(tmp_path / "net.npz")
    with pytest.raises(InputError, match=r"net.npz: score_fr.weight has shape \(3, 64, 1, 1\), the network's is \(5, 64, 1, 1\)"):
        FCN32s(5, width=1 / 64).load(tmp_path / "net.npz")
    with pytest.raises(InputError, match=r"conv1_1.weight has shape \(1, 3, 3, 3\), the network's is \(2, 3, 3, 3\)"):
        FCN32s(3, width=1 / 32).load(tmp_path / "net.npz", partial=True)
    with pytest.raises(InputError, match="has no score_pool4.weight"):
        FCN8s(3, width=1 / 64).load(tmp_path / "net.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="none of the network's parameters, such as conv1_1.weight"):
        net.load(tmp_path / "other.npz", partial=True)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_file_is_one_clear_error(net, tmp_path, suffix, damage):
    path = tmp_path / f"net.{suffix}"
    net.save(path)
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": b"\xff" * 500}[damage])
    with pytest.raises(InputError, match=f"net.{suffix}: not a readable file of weights") as caught:
        net.load(path)
    assert "\n" not in str(caught.value)


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"not a readable file of weights: x.npy is .* object"):
        weights.read(tmp_path / "evil.npz")


def test_missing_files_and_unknown_kinds(tmp_path):
    with pytest.raises(InputError, match="no such file of weights"):
        weights.read(tmp_path / "none.npz")
    (tmp_path / "net.txt").write_text("x")
    with pytest.raises(InputError, match=r"known are \.safetensors and \.npz"):
        weights.read(tmp_path / "net.txt")
    with pytest.raises(InputError, match=r"\.safetensors or \.npz"):
        weights.write(tmp_path / "net.pkl", {}, Description("FCN32s", 3, 1))
    with pytest.raises(InputError, match="cannot be written"):
        weights.write(tmp_path / "missing" / "net.npz", {}, Description("FCN32s", 3, 1))
