"""tinyfcn/data/pictures.py: which kinds of pictures are read, how large they may be, and that pieces make the whole."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from tinyfcn.data import pictures, read_image, read_label
from tinyfcn.errors import InputError
from tinyfcn.files import MAX_PIXELS
from tinyfcn.parallel import PIECE

RED, BLUE = (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def limit(monkeypatch):
    monkeypatch.setattr(pictures, "_max_pixels", MAX_PIXELS)


@pytest.mark.parametrize("kind", pictures.PHOTOGRAPHS)
@pytest.mark.parametrize("name", ["photo.jpg", "photo"])
def test_kinds_are_recognised_by_their_content(tmp_path, kind, name):
    if kind == "WEBP" and not features.check("webp"):
        pytest.skip("Pillow was built without WebP")
    Image.new("RGB", (24, 16), RED).save(tmp_path / name, format=kind)
    image = read_image(tmp_path / name)
    assert image.shape == (16, 24, 3) and np.abs(image.astype(int) - RED).max() < 8


@pytest.mark.parametrize("kind", ["MPO", "GIF", "TIFF", "PNG"])
def test_of_several_pictures_the_first_is_read(tmp_path, kind):
    """As in what phones call a .jpg."""
    pages = [Image.new("RGB", (24, 16), BLUE)]
    Image.new("RGB", (24, 16), RED).save(tmp_path / "photo.jpg", format=kind, save_all=True, append_images=pages)
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.format == kind and image.n_frames == 2
    assert np.abs(read_image(tmp_path / "photo.jpg").astype(int) - RED).max() < 8


def test_postscript_starts_no_other_program(tmp_path, monkeypatch):
    def start(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", start)
    (tmp_path / "photo.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.format == "EPS"
    with pytest.raises(InputError, match=f"cannot read {tmp_path / 'photo.jpg'} .*not JPEG or PNG or WEBP.*replace the file"):
        read_image(tmp_path / "photo.jpg")


@pytest.mark.parametrize("kind", ["PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000"])
def test_other_kinds_are_refused(tmp_path, kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("Pillow was built without JPEG 2000")
    Image.new("RGB", (16, 16), RED).save(tmp_path / "photo.png", format=kind)
    for read in (read_image, read_label, pictures.image_size):
        with pytest.raises(InputError, match="photo.png as a picture"):
            read(tmp_path / "photo.png")


def png_of(path: Path, width: int, height: int) -> Path:
    """A PNG of black and white pixels that promises a size, and holds one row."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 + width // 8))) + chunk(b"IEND", b""))
    return path


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("read", [read_image, read_label, pictures.image_size])
def test_a_picture_that_is_too_large_is_not_read(tmp_path, read):
    path = png_of(tmp_path / "huge.png", 30_000, 20_000)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} has 30000x20000 pixels, 600,000,000 in all, and 178,956,970 are read at most")
    assert str(caught.value).endswith("--max-pixels 600000000")


@pytest.mark.filterwarnings("error")
def test_the_limit_is_the_user_s(tmp_path):
    """And only the user's: Pillow warns from 89 million pixels on, and refuses from 179 million on."""
    pictures.image_size(png_of(tmp_path / "large.png", 10_000, 10_000))
    pictures.set_max_pixels(600_000_000)
    pictures.image_size(png_of(tmp_path / "huge.png", 30_000, 20_000))
    pictures.set_max_pixels(12)
    for width, allowed in ((4, True), (5, False)):
        Image.new("RGB", (width, 3)).save(tmp_path / "small.png")
        if allowed:
            assert read_image(tmp_path / "small.png").shape == (3, 4, 3)
        else:
            with pytest.raises(InputError, match="5x3 pixels, 15 in all, and 12"):
                read_image(tmp_path / "small.png")


def whole(image: Image.Image) -> np.ndarray:
    """What `read_image` should make of a picture, in one go."""
    if image.mode.startswith("I"):  # I;16, or I in older versions of Pillow
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba)
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_pieces_make_the_whole_in_every_mode(tmp_path, mode):
    height, width = 301, 3 * PIECE // 301
    rng = np.random.default_rng(0)
    if mode == "I;16":
        image = Image.fromarray(rng.integers(0, 65536, (height, width), dtype=np.uint16))
    else:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))
        image = image.convert(mode) if mode.endswith("A") else image.convert("RGB").convert(mode)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    image.save(path)
    with Image.open(path) as again:
        assert again.mode in (mode, mode.removesuffix(";16"))
        assert np.array_equal(read_image(path), whole(again))


def test_a_transparent_palette_stays_transparent_in_every_piece(tmp_path):
    index = np.random.default_rng(0).integers(0, 2, (1000, 200), dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette([0, 0, 0, *RED])
    image.save(tmp_path / "photo.png", transparency=0)
    assert np.array_equal(read_image(tmp_path / "photo.png"), np.array([(255, 255, 255), RED])[index])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_damaged_metadata_are_passed_over_in_silence(tmp_path, capfd, kind):
    path = tmp_path / "photo"
    Image.new("RGB", (24, 16), RED).save(path, format=kind)
    data = path.read_bytes()
    if kind == "JPEG":
        exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\1\3\0"  # nine entries, of which half of the first is there
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(exif)) + exif + data[2:]
    else:
        start = int.from_bytes(data[4:8], "little")
        entries = 12 * int.from_bytes(data[start : start + 2], "little")
        lost = struct.pack("<2H2L", 0x9C9E, 1, 1 << 20, 8)  # an entry more, whose text would lie outside the file
        table = struct.pack("<H", entries // 12 + 1) + data[start + 2 : start + 2 + entries] + lost + bytes(4)
        data = data[:4] + struct.pack("<L", len(data)) + data[8:] + table
    path.write_bytes(data)
    assert np.abs(read_image(path).astype(int) - RED).max() < 8
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error")
def test_a_damaged_picture_is_one_line(tmp_path):
    """Bytes of every kind of picture are changed at random: each is read or refused."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for kind in pictures.PHOTOGRAPHS:
        noise.save(tmp_path / "whole", format=kind, **({} if kind in ("BMP", "GIF") else {"exif": exif}))
        data = (tmp_path / "whole").read_bytes()
        for _ in range(60):
            damaged = bytearray(data)
            for place in rng.integers(min(len(data), 400), size=3):
                damaged[place] = rng.integers(256)
            (tmp_path / "damaged").write_bytes(damaged)
            try:
                pictures.set_max_pixels(100_000)
                read_image(tmp_path / "damaged")
            except InputError as error:
                refused += 1
                assert str(tmp_path / "damaged") in str(error)
    assert refused > 100
