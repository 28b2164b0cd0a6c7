"""The download, against a server on this machine that does what servers do: break off, lie, and be silent."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from tinyfcn import command, download, files
from tinyfcn.data import VOCSegmentation

IDS = ("2007_000032", "2007_000039", "2007_000063")
HOME = "VOCdevkit/VOC2012"


def voc_files():
    """What the archive holds: three pairs, a list, and what segmentation does not need."""
    files = {f"{HOME}/ImageSets/Segmentation/trainval.txt": "".join(f"{id_}\n" for id_ in IDS).encode()}
    for id_ in IDS:
        files[f"{HOME}/JPEGImages/{id_}.jpg"] = os.urandom(30_000)
        files[f"{HOME}/SegmentationClass/{id_}.png"] = os.urandom(500)
        files[f"{HOME}/SegmentationObject/{id_}.png"] = files[f"{HOME}/Annotations/{id_}.xml"] = b"not needed"
    return files | {f"{HOME}/ImageSets/Main/trainval.txt": b"not needed"}


def pack(files, *members):
    """A tar archive of files and of further members, as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return buffer.getvalue()


def special(name, kind=tarfile.REGTYPE, target="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


class Handler(BaseHTTPRequestHandler):
    """Answers as `server.answers` say, one after the other, and in the end rightly, with ranges."""

    def do_GET(self):
        server, content = self.server, self.server.content
        server.ranges.append(self.headers["Range"])
        answer = server.answers.pop(0) if server.answers else {}
        if answer.get("status", 200) >= 400:
            self.send_error(answer["status"])
            return
        if "silent" in answer:
            server.released.wait(10)
            return
        content = answer.get("content", content)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(asked[1]) if asked and answer.get("ranges", True) else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", answer.get("range") or f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Type", answer.get("type", "application/x-tar"))
        if length := answer.get("length", len(content) - start):
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content[start : answer.get("until", len(content))])
        self.wfile.flush()
        if "stall" in answer:
            server.released.wait(10)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server of a right archive; `answers` are what it does wrong, `ranges` what it was asked for."""
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.ranges, server.released = [], [], threading.Event()
    server.content = pack(voc_files())
    server.handle_error = lambda *_: None  # a client that has heard enough
    server.url = f"http://127.0.0.1:{server.server_port}/voc.tar"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def entry(content, url="http://127.0.0.1:9/none.tar"):
    """The table's entry for an archive."""
    digest = hashlib.sha256(content).hexdigest()
    return download.DATASETS["voc2012"]._replace(name="voc.tar", url=url, size=len(content), sha256=digest, pairs=len(IDS))


@pytest.fixture
def call(server, monkeypatch, capsys, tmp_path):
    """Call the command with the server's archive in the table; returns (exit status, stdout, stderr)."""
    monkeypatch.setattr(download, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(download, "TIMEOUT", 0.3)

    def run(*arguments, root=tmp_path, archive=None):
        monkeypatch.setitem(download.DATASETS, "voc2012", archive or entry(server.content, server.url))
        monkeypatch.setattr(sys, "argv", ["download", "voc2012", "--root", str(root), *map(str, arguments)])
        status = command.run(download.main)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out, captured.err

    return run


def errors(err):
    return [line for line in err.replace("\r", "\n").splitlines() if line.startswith("error: ")]


def is_whole(root):
    home = root / HOME
    return (
        VOCSegmentation(home, "trainval").ids == IDS
        and {path.name for path in home.iterdir()} == {"JPEGImages", "SegmentationClass", "ImageSets"}
        and {path.name for path in (home / "ImageSets").iterdir()} == {"Segmentation"}
    )


def test_the_table_is_of_the_published_archive():
    archive = download.DATASETS["voc2012"]
    assert archive.url == "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
    assert archive.url.endswith(archive.name) and archive.size == 1_999_639_040 and len(archive.sha256) == 64
    lists = Path(__file__).parents[1] / "data" / "voc2012"
    assert archive.pairs == sum(len((lists / f"{name}.txt").read_text().split()) for name in ("train", "val"))


def test_download_and_once_more(call, server, tmp_path):
    status, out, err = call()
    assert status == 0 and is_whole(tmp_path) and "3 labelled photographs" in out and "voc.tar: 100%" in err
    assert [path.name for path in tmp_path.iterdir()] == ["VOCdevkit"]  # neither archive nor part nor scratch
    assert (tmp_path / HOME / "JPEGImages" / f"{IDS[0]}.jpg").stat().st_size == 30_000
    assert server.ranges == [None]
    status, out, err = call()
    assert status == 0 and "all 3 labelled photographs are there, nothing to download" in out and not err
    assert server.ranges == [None]


def test_keep_keeps_an_archive_that_is_then_used(call, server, tmp_path):
    assert call("--keep")[0] == 0
    assert (tmp_path / "voc.tar").read_bytes() == server.content and not (tmp_path / "voc.tar.part").exists()
    shutil.rmtree(tmp_path / "VOCdevkit")
    assert call()[0] == 0 and is_whole(tmp_path) and (tmp_path / "voc.tar").exists()
    assert len(server.ranges) == 1
    shutil.rmtree(tmp_path / "VOCdevkit")
    (tmp_path / "voc.tar").write_bytes(b"x" * len(server.content))
    status, _, err = call()
    assert status == 2 and len(errors(err)) == 1 and "voc.tar is another file: SHA-256" in err
    assert (tmp_path / "voc.tar").exists() and len(server.ranges) == 1  # it may be somebody's


def test_another_address(call, server, tmp_path):
    assert call("--url", server.url, archive=entry(server.content))[0] == 0 and is_whole(tmp_path)


def test_what_breaks_off_is_resumed(call, server, tmp_path):
    server.answers = [{"until": 50_000}, {"until": 50_000}, {"status": 503}, {"until": 70_000}]
    status, _, err = call()
    assert status == 0 and is_whole(tmp_path)
    assert server.ranges == [None, "bytes=50000-", "bytes=50000-", "bytes=50000-", "bytes=70000-"]
    assert "the connection ended at byte 50000; trying again" in err and "503" in err


def test_a_later_call_resumes(call, server, tmp_path):
    server.answers = [{"until": 50_000}] * 9
    status, _, err = call()
    assert status == 2 and len(server.ranges) == 4  # the first brought something, three more did not
    assert errors(err)[0].startswith(f"error: {server.url}: the connection ended at byte 50000; 50000 of {len(server.content)} ")
    assert (tmp_path / "voc.tar.part").read_bytes() == server.content[:50_000]
    server.answers = []
    assert call()[0] == 0 and is_whole(tmp_path) and server.ranges[-1] == "bytes=50000-"


def test_a_part_that_is_whole_needs_no_network(call, server, tmp_path):
    (tmp_path / "voc.tar.part").write_bytes(server.content)
    assert call()[0] == 0 and is_whole(tmp_path) and server.ranges == []


def test_a_server_without_ranges(call, server, tmp_path):
    server.answers = [{"until": 50_000}, {"ranges": False, "until": 80_000}, {"ranges": False}]
    assert call()[0] == 0 and is_whole(tmp_path)
    assert server.ranges == [None, "bytes=50000-", "bytes=80000-"]


def test_a_server_that_does_not_say_how_long(call, server, tmp_path):
    server.answers = [{"length": None}]
    assert call()[0] == 0 and is_whole(tmp_path)


@pytest.mark.parametrize("more", [0, 5000], ids=["as long", "longer"])
def test_a_part_of_another_file_is_started_over(call, server, tmp_path, more):
    (tmp_path / "voc.tar.part").write_bytes(b"x" * (len(server.content) + more if more else 50_000))
    status, _, err = call()
    assert status == 0 and is_whole(tmp_path) and server.ranges[-1] is None
    assert "began as another file: starting over" in err


def test_another_file_of_the_same_size(call, server, tmp_path):
    other = b"x" * len(server.content)
    server.answers = [{"content": other}]
    status, _, err = call()
    expected = f"SHA-256 {hashlib.sha256(other).hexdigest()}, expected {hashlib.sha256(server.content).hexdigest()}"
    assert status == 2 and len(errors(err)) == 1 and expected in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"content": b"x" * 777}, "is another file: 777 bytes, expected"),
        ({"length": 10**9}, "is another file: 1000000000 bytes, expected"),
        ({"content": b"<html>", "type": "text/html; charset=utf-8"}, "is a web page, expected an archive of"),
        ({"status": 404}, "the server answers 404 Not Found"),
        ({"status": 403}, "the server answers 403 Forbidden"),
    ],
    ids=["small", "a wrong length", "web page", "404", "403"],
)
def test_what_is_not_the_archive_is_one_line(call, server, tmp_path, answer, words):
    server.answers = [answer]
    status, out, err = call(root=tmp_path / "new")
    assert status == 2 and not out and err.count("\n") == 1 and words in errors(err)[0]
    assert list((tmp_path / "new").iterdir()) == [] and len(server.ranges) == 1
    (tmp_path / "voc.tar.part").write_bytes(server.content[:50_000])
    server.answers = [answer | {"ranges": False}]
    assert call()[0] == 2 and (tmp_path / "voc.tar.part").stat().st_size == 50_000  # no fault of what had come
    assert call()[0] == 0 and is_whole(tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": 500}, "the server answers 500 Internal Server Error"),
        ({"silent": True}, "timed out"),
        ({"stall": True, "until": 0}, "timed out"),
        ({"range": "bytes 90000-90001/*"}, "another range"),
        ({"range": "nonsense"}, "another range"),
    ],
    ids=["500", "silent", "silent after its headers", "wrong range", "nonsense"],
)
def test_what_may_pass_is_tried_a_few_times(call, server, tmp_path, answer, words):
    (tmp_path / "voc.tar.part").write_bytes(server.content[:50_000])
    server.answers = [answer] * 2
    status, _, err = call()
    assert status == 0 and is_whole(tmp_path) and len(server.ranges) == 3 and err.count(words) == 2


def test_what_does_not_pass_is_given_up(call, server, tmp_path):
    server.answers = [{"status": 503}] * 9
    status, _, err = call()
    assert status == 2 and len(errors(err)) == 1 and len(server.ranges) == 4 and list(tmp_path.iterdir()) == []
    assert f"0 of {len(server.content)} bytes have come; try again later" in errors(err)[0]


def test_a_transfer_that_stalls_is_resumed(call, server, tmp_path):
    server.answers = [{"stall": True, "until": 60_000}]
    assert call()[0] == 0 and is_whole(tmp_path) and server.ranges == [None, "bytes=60000-"]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/x.tar", "http://a..b/x.tar", "http://[::1/x", "file:///etc/passwd", "x", "http:///"]
)
def test_an_address_that_leads_nowhere(call, tmp_path, url):
    status, _, err = call("--url", url)
    assert status == 2 and len(errors(err)) == 1 and list(tmp_path.iterdir()) == []


EVIL_PATH = Path(tempfile.gettempdir(), "evil")
EVIL = [
    special("../evil", size=5),
    special(f"{HOME}/JPEGImages/../../../../evil", size=5),
    special(EVIL_PATH.as_posix(), size=5),
    special(f"{HOME}/JPEGImages/link.jpg", tarfile.SYMTYPE, "../../../../evil"),
    special(f"{HOME}/JPEGImages/link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    special(f"{HOME}/JPEGImages/link.jpg", tarfile.LNKTYPE, "../evil"),
    special(f"{HOME}/JPEGImages/device.jpg", tarfile.CHRTYPE),
    special(f"{HOME}/JPEGImages/pipe.jpg", tarfile.FIFOTYPE),
    special(f"{HOME}/Annotations/pipe.xml", tarfile.FIFOTYPE),
]


@pytest.mark.parametrize("member", EVIL, ids=lambda member: f"{member.type.decode()} {member.name} {member.linkname}".strip())
def test_an_archive_that_reaches_outside(call, server, tmp_path, member):
    server.content = pack(voc_files(), member)
    root = tmp_path / "a" / "b"
    status, out, err = call(root=root)
    assert status == 2 and not out and len(errors(err)) == 1 and "voc.tar.part cannot be unpacked" in err
    assert [path.name for path in root.iterdir()] == ["voc.tar.part"]
    assert not list(tmp_path.rglob("*evil*")) and not EVIL_PATH.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pack(voc_files())[:45_000], "cannot be unpacked"),
        (b"no tar at all", "cannot be unpacked"),
        (pack({name: b"" for name in voc_files() if not name.endswith("39.png")}), "has 0 labelled photographs, expected 3"),
        (pack({name: data for name, data in voc_files().items() if not name.endswith("39.png")}), "has 2 labelled photographs"),
        (pack({}), "has 0 labelled photographs, expected 3"),
    ],
    ids=["cut", "no tar", "empty list", "a label is missing", "empty"],
)
def test_an_archive_that_is_not_what_it_should_be(call, server, tmp_path, content, words):
    server.content = content
    status, _, err = call()
    assert status == 2 and len(errors(err)) == 1 and words in err
    assert [path.name for path in tmp_path.iterdir()] == ["voc.tar.part"]


def test_too_little_space_is_said_first(call, server, tmp_path, monkeypatch):
    size = len(server.content)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size - 1))
    status, _, err = call(root=tmp_path / "a" / "b")
    assert status == 2 and err.count("\n") == 1 and "GB to download and" in err and "GB to unpack" in err
    assert server.ranges == [] and list(tmp_path.iterdir()) == []
    (tmp_path / "voc.tar.part").write_bytes(server.content[:1])  # what has come needs no space any more
    assert call()[0] == 0 and is_whole(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_disk_that_fills_up_is_no_broken_connection(call, server, tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        status, _, err = call()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 2 and len(errors(err)) == 1 and "File too large" in err and len(server.ranges) == 1
    assert call()[0] == 0 and is_whole(tmp_path)


def test_folders_that_cannot_be_used(call, server, tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        status, _, err = call(root=root)
        assert status == 2 and err.count("\n") == 1 and str(root) in err
    (tmp_path / HOME / "JPEGImages").mkdir(parents=True)
    (tmp_path / HOME / "JPEGImages" / "mine.jpg").write_text("mine")
    status, _, err = call()
    assert status == 2 and "VOC2012 has 0 of 3 labelled photographs; move it away" in err
    assert (tmp_path / HOME / "JPEGImages" / "mine.jpg").exists() and server.ranges == []


def test_an_old_python_is_told_before_anything_comes(call, server, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    status, _, err = call()
    assert status == 2 and "Python 3.11.4" in err and server.ranges == []


@pytest.mark.skipif(files.fcntl is None, reason="no locks")
def test_two_downloads_into_one_folder_have_one_owner(call, server, tmp_path):
    work = tmp_path / ".tinyfcn.voc2012"
    (work / ".tinyfcn.killed" / "VOCdevkit").mkdir(parents=True)
    with files.owned(work):
        status, _, err = call()
        assert status == 2 and errors(err) == [f"error: {work} is in use by process {os.getpid()}: wait for it, or stop it"]
        assert server.ranges == [] and not (tmp_path / "voc.tar.part").exists()
    (work / ".tinyfcn.killed" / "VOCdevkit").mkdir(parents=True)
    assert call()[0] == 0 and is_whole(tmp_path) and [path.name for path in tmp_path.iterdir()] == ["VOCdevkit"]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_the_command_line_itself(server, tmp_path):
    """In a process of its own: Ctrl-C leaves the part file and says how to go on, and the same command does."""
    table = json.dumps(entry(server.content, server.url)._asdict())
    code = (
        "import json, signal, sys; from tinyfcn import command, download\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background process has it ignored
        f"download.DATASETS['voc2012'] = download.Archive(**json.loads({table!r}))\n"
        "sys.exit(command.run(download.main))"
    )
    env = os.environ | {"PYTHONPATH": str(Path(download.__file__).parents[1])}
    start = [sys.executable, "-c", code, "voc2012", "--root", str(tmp_path)]
    server.answers = [{"stall": True, "until": 50_000}]
    process = subprocess.Popen(start, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part, deadline = tmp_path / "voc.tar.part", time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 40_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err and err.endswith("interrupted\n")
    assert out == f"{part} holds 0.00 GB; the same command goes on from there\n"
    come = part.stat().st_size
    assert come > 40_000 and part.read_bytes() == server.content[:come]
    done = subprocess.run(start, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and is_whole(tmp_path) and server.ranges == [None, f"bytes={come}-"]
