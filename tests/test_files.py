"""tinyfcn/files.py: what is read is a file of reasonable size, and what is there stays."""

import os
import socket
import sys

import pytest

from tinyfcn.data import VOCSegmentation, read_image, read_label
from tinyfcn.data.balance import read_class_weights
from tinyfcn.errors import InputError
from tinyfcn.files import MEBIBYTES, check_free, check_regular, read_text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these devices nor links for everybody")


@pytest.fixture
def special(tmp_path, monkeypatch):
    """Paths that are no regular files, by what they are called."""
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    os.mkfifo("fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        yield {"a named pipe": "fifo", "a socket": "socket", "a folder": "folder", "a device": "/dev/zero"}


@pytest.mark.parametrize("read", [check_regular, read_text, read_image, read_label])
def test_only_regular_files_are_opened(special, read):
    for what, path in special.items():
        with pytest.raises(InputError, match=f"^{path} is {what}; give a file$"):
            read(path)


def test_links_to_files_are_followed(tmp_path):
    (tmp_path / "text").write_text("täxt", encoding="utf-8-sig")
    (tmp_path / "link").symlink_to(tmp_path / "text")
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert read_text(tmp_path / "link") == "täxt"
    with pytest.raises(InputError, match="zero is a device"):
        read_text(tmp_path / "zero")


def test_text_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "long.txt"
    path.touch()
    os.truncate(path, MEBIBYTES << 20)
    assert len(read_text(path)) == MEBIBYTES << 20
    os.truncate(path, (MEBIBYTES << 20) + 1)
    with pytest.raises(InputError, match="long.txt is larger than 16 MiB"):
        read_text(path)


@pytest.mark.parametrize("data, words", [(None, "No such file"), (b"\xff\xfe\x00", "as text")])
def test_text_that_cannot_be_read(tmp_path, data, words):
    if data is not None:
        (tmp_path / "text").write_bytes(data)
    with pytest.raises(InputError, match=f"cannot read {tmp_path / 'text'} .*{words}"):
        read_text(tmp_path / "text")


def test_lists_classes_and_weights_are_read_so(tmp_path):
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    (tmp_path / "list.txt").write_text("a\n")
    for name in ("classes.txt", "weights.json"):
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InputError, match="classes.txt is a device"):
        VOCSegmentation(tmp_path, str(tmp_path / "list.txt"))
    with pytest.raises(InputError, match="weights.json is a device"):
        read_class_weights(tmp_path / "weights.json", ("a",))
    os.truncate(tmp_path / "list.txt", 17 << 20)
    with pytest.raises(InputError, match="list.txt is larger"):
        VOCSegmentation(tmp_path, str(tmp_path / "list.txt"))


def test_json_that_is_nested_without_end(tmp_path):
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="deep.json: not a JSON file"):
        read_class_weights(tmp_path / "deep.json", ("a",))


def test_what_is_there_is_named(tmp_path):
    new, old, folder = tmp_path / "new", tmp_path / "old", tmp_path / "folder"
    old.touch()
    folder.mkdir()
    check_free([new], overwrite=False)
    check_free([new, old], overwrite=True)
    (tmp_path / "link").symlink_to(new)
    for there in old, tmp_path / "link":
        with pytest.raises(InputError, match=f"^{there} is there already.*--overwrite"):
            check_free([new, there], overwrite=False)
    with pytest.raises(InputError, match=f"^{folder}: cannot be written: it is a folder"):
        check_free([folder], overwrite=True)
