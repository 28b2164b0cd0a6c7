"""tinyfcn/data/labels.py: what loses nothing is read, and what has lost something is refused."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from tinyfcn.data import palette, read_label
from tinyfcn.data.labels import decode_label
from tinyfcn.errors import InputError

INDICES = np.array([[0, 1, 2, 2], [1, 0, 20, 255]], np.uint8)
MASK = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
MAP = {(0, 0, 0): 0, (51, 221, 255): 1, (250, 50, 83): 2, (255, 255, 255): 255}
PAINTED = np.array([[0, 1, 2], [255, 0, 1]], np.uint8)


def painted(indices: np.ndarray, colours: dict) -> np.ndarray:
    by_index = {index: colour for colour, index in colours.items()}
    return np.array([[by_index[int(k)] for k in row] for row in indices], np.uint8)


def reread(tmp_path, image: Image.Image, suffix: str = ".png", colours=None, **options) -> np.ndarray:
    image.save(tmp_path / f"label{suffix}", **options)
    label = read_label(tmp_path / f"label{suffix}", colours)
    assert label.dtype == np.uint8
    return label


def error_of(tmp_path, image: Image.Image, colours=None, **options) -> str:
    image.save(tmp_path / "label.png", **options)
    with pytest.raises(InputError, match="label.png") as error:
        read_label(tmp_path / "label.png", colours)
    return str(error.value)


@pytest.mark.parametrize("mode", ["L", "I;16", "LA", "RGB", "RGBA"])
def test_grey_values_are_the_indices_in_every_mode(tmp_path, mode):
    image = Image.fromarray(INDICES.astype(np.uint16)) if mode == "I;16" else Image.fromarray(INDICES).convert(mode)
    np.testing.assert_array_equal(reread(tmp_path, image), INDICES)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".gif"])
def test_a_mask_of_one_bit_is_0_and_1_in_every_kind_of_file(tmp_path, suffix):
    np.testing.assert_array_equal(reread(tmp_path, Image.fromarray(MASK.astype(bool)), suffix) > 0, MASK)
    if suffix != ".gif":  # which makes 0 and 255 of it
        np.testing.assert_array_equal(reread(tmp_path, Image.fromarray(MASK.astype(bool)), suffix), MASK)
        np.testing.assert_array_equal(reread(tmp_path, Image.fromarray(INDICES), suffix), INDICES)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_fewer_bits_keeps_its_values(tmp_path, bits):
    """Pillow spreads them over 0..255, so that index 1 would come out as 255, 85 or 17."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)  # one byte wide, grey
    rows = zlib.compress(bytes([0, {1: 0b01100001, 2: 0b00_01_10_11, 4: 0b0001_1111}[bits]]))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    (tmp_path / "label.png").write_bytes(png)
    expected = {1: [0, 1, 1, 0, 0, 0, 0, 1], 2: [0, 1, 2, 3], 4: [1, 15]}[bits]
    assert read_label(tmp_path / "label.png").tolist() == [expected]


def test_colours_of_a_label_map_become_its_indices(tmp_path):
    image = Image.fromarray(painted(PAINTED, MAP))
    for mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(reread(tmp_path, image.convert(mode), colours=MAP), PAINTED)
    np.testing.assert_array_equal(reread(tmp_path, Image.fromarray(PAINTED).convert("RGB"), colours=MAP), PAINTED)  # no colours


def test_a_label_map_counts_before_equal_parts(tmp_path):
    white = Image.fromarray(MASK * 255).convert("RGB")
    np.testing.assert_array_equal(reread(tmp_path, white), MASK * 255)
    np.testing.assert_array_equal(reread(tmp_path, white, colours={(0, 0, 0): 0, (255, 255, 255): 1}), MASK)


def test_vocs_colours_become_vocs_indices(tmp_path):
    np.testing.assert_array_equal(reread(tmp_path, Image.fromarray(palette()[INDICES])), INDICES)


def test_a_colour_without_a_meaning_is_named_with_its_place(tmp_path):
    picture = painted(PAINTED, MAP)
    picture[1, 2] = 51, 220, 255
    assert "the colour 51,220,255 at row 1, column 2, which is not in the label map" in error_of(
        tmp_path, Image.fromarray(picture), MAP
    )
    assert "none of VOC's" in error_of(tmp_path, Image.fromarray(picture))


@pytest.mark.parametrize("value", [256, 65535])
def test_more_than_8_bits_are_refused(tmp_path, value):
    message = error_of(tmp_path, Image.fromarray(np.array([[0, value]], np.uint16)))
    assert f"the value {value}; expected class indices from 0 to 255" in message


def test_transparency_in_part_is_refused(tmp_path):
    image = Image.fromarray(MASK).convert("RGBA")
    image.putpixel((0, 0), (0, 0, 0, 0))
    assert "transparent in part" in error_of(tmp_path, image)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "MPO", "TIFF"])
def test_what_is_compressed_with_losses_is_refused_whatever_it_is_called(tmp_path, kind):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow was built without WebP")
    options = {"TIFF": {"compression": "jpeg"}, "MPO": {"save_all": True, "append_images": [Image.new("L", (16, 16))]}}
    message = error_of(tmp_path, Image.new("L", (16, 16)), format=kind, **options.get(kind, {}))
    assert "changes the values of pixels" in message and "export the labels as PNG again" in message


def test_a_palette_tells_the_colours_of_the_indices_that_occur(tmp_path):
    image = Image.fromarray(np.array([[0, 2]], np.uint8))
    image.putpalette([9, 9, 9, 1, 1, 1, 0, 128, 0])
    image.save(tmp_path / "label.png")
    assert decode_label(tmp_path / "label.png").colours == {0: (9, 9, 9), 2: (0, 128, 0)}


def test_a_label_map_tells_the_indices_of_grey_values_and_of_palettes(tmp_path):
    grey = {(0, 0, 0): 0, (128, 128, 128): 1, (255, 255, 255): 2}
    for values, colours, indices in (
        ([0, 128, 255], grey, [0, 1, 2]),
        ([0, 1, 255], MAP, [0, 1, 255]),
        ([0, 255], {(0, 0, 0): 3}, [3, 255]),
    ):
        assert reread(tmp_path, Image.fromarray(np.array([values], np.uint8)), colours=colours).tolist() == [indices]
    image = Image.fromarray(painted(PAINTED, MAP)).quantize(8)  # whose indices are in another order
    assert not np.array_equal(np.asarray(image), PAINTED)
    np.testing.assert_array_equal(reread(tmp_path, image, colours=MAP), PAINTED)


def test_colours_of_smooth_edges_are_told_from_a_map_that_is_not_there(tmp_path):
    assert "a line name:red,green,blue:: each (here 0,0,9; 9,0,0)" in error_of(
        tmp_path, Image.fromarray(np.array([[[9, 0, 0], [0, 0, 9]]], np.uint8))
    )
    smooth = np.stack([np.arange(100), np.zeros(100), np.zeros(100)], 1)[None].astype(np.uint8)
    assert "100 colours are those of smooth edges" in error_of(tmp_path, Image.fromarray(smooth))
