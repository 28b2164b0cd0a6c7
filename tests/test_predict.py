"""tinyfcn.predict, as a user calls it: pictures of any kind, what it writes, and what it never writes over."""

import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from small import SMALL, files

from tinyfcn import predict, train
from tinyfcn.data import palette, read_image
from tinyfcn.data.lists import named_images
from tinyfcn.inference import load
from tinyfcn.weights import read, read_description, write

pytestmark = pytest.mark.usefixtures("quick_pictures")


def test_predict_photographs_of_any_mode_and_size(run_folder, call, tmp_path):
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))
    rgb.save(tmp_path / "rgb.jpg")
    rgb.convert("L").save(tmp_path / "grey.png")
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("RGBA").save(tmp_path / "rgba.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    rgb.save(tmp_path / "rotated.jpg", exif=exif)
    rgb.resize((1, 1)).save(tmp_path / "dot.png")
    rgb.resize((300, 41)).save(tmp_path / "wide.png")
    photographs = sorted(path for path in tmp_path.iterdir() if path.is_file())
    status, out, err = call(predict, run_folder, *photographs, "--max-side", 128, "--out", tmp_path / "out")
    assert status == 0, err
    sizes = {"rotated": (50, 70), "dot": (1, 1), "wide": (300, 41)}
    for path in photographs:
        label = Image.open(tmp_path / "out" / f"{path.stem}.png")
        assert label.mode == "P" and label.size == sizes.get(path.stem, (70, 50)), path
        assert np.asarray(label).max() < 7
        assert np.array_equal(np.asarray(label.convert("RGB")), palette()[np.asarray(label)])
        overlay = read_image(tmp_path / "out" / f"{path.stem}_overlay.png")
        background = np.asarray(label) == 0
        overlay = overlay[: label.height, : label.width]  # the legend is beside it
        assert np.array_equal(overlay[background], read_image(path)[background])
    assert "background" in out and "%" in out


@pytest.mark.parametrize("there", ["photo.png", "photo_overlay.png"])
def test_predict_overwrites_nothing_unasked(run_folder, photograph, call, tmp_path, there):
    out = tmp_path / "out"
    out.mkdir()
    (out / there).write_text("mine")
    for run in (run_folder, tmp_path / "no run"):  # the files are looked for before the network is
        status, _, err = call(predict, run, photograph, "--out", out)
        assert status == 2 and err.splitlines() == [err.strip()] and str(out / there) in err and "--overwrite" in err
    assert files(out) == {there: b"mine"}
    status, _, err = call(predict, run_folder, photograph, "--out", out, "--overwrite")
    assert status == 0, err
    assert files(out).keys() == {"photo.png", "photo_overlay.png"} and b"mine" not in files(out).values()


@pytest.mark.parametrize("other", ["photo.png", "other/photo.jpg", "photo_overlay.jpg", "photo.jpg"])
def test_predictions_of_one_name_are_refused_in_any_case(run_folder, photograph, call, tmp_path, other):
    other = tmp_path / other
    other.parent.mkdir(exist_ok=True)
    Image.open(photograph).save(other)
    target = "photo_overlay.png" if "overlay" in other.name else "photo.png"
    for options in [], ["--overwrite"]:
        status, _, err = call(predict, run_folder, photograph, other, "--out", tmp_path / "out", *options)
        assert status == 2 and f"2 predictions would be written to {tmp_path / 'out' / target}" in err
    assert not (tmp_path / "out").exists()


def test_predict_carries_on_past_what_it_cannot_read_and_lists_it(run_folder, photograph, call, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    wrong = [tmp_path / "text.jpg", tmp_path / "none[1].jpg", tmp_path / "*.webp"]
    status, out, err = call(predict, run_folder, *wrong[:2], photograph, wrong[2], "--out", tmp_path / "out")
    said = [line for line in err.splitlines() if "error: " in line]
    assert status == 1 and "1 label image(s), 1 overlay(s)" in out and len(said) == 4
    assert "not JPEG" in said[0] and all("no such image" in line for line in said[1:3])
    assert err.splitlines()[-4:] == [
        "error: 3 of 4 pictures cannot be read, and are not labelled:",
        *(f"  {path}" for path in wrong),
    ]
    assert files(tmp_path / "out").keys() == {"photo.png", "photo_overlay.png"}
    status, out, err = call(predict, run_folder, *wrong, "--out", tmp_path / "none")
    assert (
        status == 2
        and out == ""
        and err.splitlines()[-1] == "error: none of the 3 pictures can be read"
        and not (tmp_path / "none").exists()
    )


def test_predict_takes_files_folders_and_patterns(run_folder, photograph, call, tmp_path, monkeypatch):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name in "b.jpg", "a.PNG", "a[1].jpg", "a1.jpg", "._b.jpg", "below/c.jpg", "note.txt":
        shutil.copy(photograph, folder / name)
    monkeypatch.chdir(folder)
    for given, names in {
        (".",): ["a", "a1", "a[1]", "b"],
        ("*.jpg",): ["a1", "a[1]", "b"],
        ("a[1].jpg",): ["a[1]"],  # which as a pattern would be a1.jpg
        ("[b-z].jpg", "below"): ["b", "c"],
        ("**/?.jpg",): ["b", "c"],
    }.items():
        assert [path.stem for path in named_images(given)] == sorted(names)
    status, out, err = call(predict, run_folder, "*.jpg", "below", "--only-labels", "--out", tmp_path / "out")
    assert status == 0 and "4 label image(s); share" in out, err
    assert files(tmp_path / "out").keys() == {"a1.png", "a[1].png", "b.png", "c.png"}
    status, _, err = call(predict, run_folder, ".", "below/c.jpg", "--only-overlay", "--out", tmp_path / "overlays")
    assert status == 0 and files(tmp_path / "overlays").keys() == {f"{x}_overlay.png" for x in ("a", "a1", "a[1]", "b", "c")}
    (tmp_path / "empty").mkdir()
    status, _, err = call(predict, run_folder, photograph, tmp_path / "empty", "--out", tmp_path / "nothing")
    assert status == 2 and "empty has no pictures (.jpg," in err and err.count("\n") == 1 and not (tmp_path / "nothing").exists()


def test_probabilities_are_those_of_the_labels(run_folder, photograph, call, tmp_path):
    trained = load(run_folder, "cpu")
    for options in [], ["--max-side", 32]:
        out = tmp_path / f"out{len(options)}"
        status, told, err = call(predict, run_folder, photograph, "--probabilities", *options, "--out", out)
        assert status == 0 and "1 file(s) of probabilities" in told, err
        with np.load(out / "photo_probabilities.npz") as file:
            found, names = file["probabilities"], file["classes"].tolist()
        label = np.asarray(Image.open(out / "photo.png"))
        assert found.shape == (7, 40, 60) and found.dtype == np.float16 and names == trained.classes
        np.testing.assert_allclose(found.astype(float).sum(axis=0), 1, atol=2e-3)
        chosen = np.take_along_axis(found, label[None].astype(int), 0)[0]
        assert (chosen >= found.max(axis=0) - np.float16(1e-3)).all()
        np.testing.assert_allclose(found, trained._replace(max_side=32 if options else None).probabilities(photograph), atol=1e-3)


def test_labels_and_overlays_have_the_colours_of_the_label_map(voc, photograph, call, tmp_path):
    root = shutil.copytree(voc, tmp_path / "mine")
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").unlink()
    own = [(0, 0, 0), *((10 * k, 200 - k, 99) for k in range(1, len(names)))]
    lines = [f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in zip(names, own, strict=True)]
    (root / "labelmap.txt").write_text("".join(lines))
    status, _, err = call(train, "--data", root, *SMALL, "--steps", 2, "--out", tmp_path / "run")
    assert status == 0 and read_description(tmp_path / "run/best.safetensors").colours == tuple(map(list, own)), err
    tensors, about = read(tmp_path / "run/best.safetensors")
    tensors["score_fr.bias"] += np.eye(7, dtype=np.float32)[3] * 1e6  # so that all is class 3
    write(tmp_path / "threes.safetensors", tensors, about)
    assert call(predict, tmp_path / "threes.safetensors", photograph, "--out", tmp_path / "out")[0] == 0
    assert (np.asarray(Image.open(tmp_path / "out/photo.png").convert("RGB")) == own[3]).all()
    overlay, picture = read_image(tmp_path / "out/photo_overlay.png"), read_image(photograph)
    np.testing.assert_allclose(overlay[:40, :60], picture + 0.55 * (np.array(own[3]) - picture), atol=0.51)
    legend = overlay[:, 60:]
    assert (legend == own[3]).all(axis=-1).sum() > 50 and not (legend == own[2]).all(axis=-1).any()


def test_a_large_photograph_takes_few_bytes_a_pixel(run_folder, call, tmp_path):
    """Of what NumPy allocates, that is; 42 a pixel where an overlay was made in one go."""
    Image.new("RGB", (3000, 2000), (200, 100, 50)).save(tmp_path / "photo.jpg")
    trained = load(run_folder, "cpu")._replace(max_side=64)
    targets = {"labels": tmp_path / "photo.png", "overlay": tmp_path / "photo_overlay.png"}
    tracemalloc.start()
    try:
        assert predict._label(trained, tmp_path / "photo.jpg", targets).sum() == 6_000_000
        assert tracemalloc.get_traced_memory()[1] < 10 * 6_000_000
    finally:
        tracemalloc.stop()
