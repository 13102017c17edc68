"""Downloads: what is fetched is right and whole under its final name, or one line says why not, and the next try goes on."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from oracles.file_server import FileServer, Served

from experiments.fetch import download
from experiments.fetch.download import Download, disk_error, fetch, mismatch, readable
from freeanchor.errors import DownloadError

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()
OTHER = CONTENT[::-1]
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).parents[3]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server with one file, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer() as running:
        running.files["a.zip"] = Served(content=CONTENT)
        yield running


def _item(server: FileServer, **changes: Any) -> Download:
    return Download(**{"url": server.url("a.zip"), "name": "a.zip", "size": len(CONTENT), "sha256": SHA256} | changes)


def _fetch(item: Download, directory: Path, waits: tuple[float, ...] = (0.0, 0.0)) -> Path:
    return fetch(item, directory, progress=False, waits=waits, timeout=1.0)


def _refused(item: Download, directory: Path, *words: str) -> None:
    """The download fails with one line that holds the words, and leaves nothing under the final name."""
    with pytest.raises(DownloadError) as error:
        _fetch(item, directory)
    message = str(error.value)
    assert "\n" not in message
    assert ";" in message
    for word in words:
        assert word in message
    assert not (directory / item.name).exists()


def _whole(path: Path) -> None:
    """The file is the right one, and alone."""
    assert path.read_bytes() == CONTENT
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_a_file_is_fetched_once(server: FileServer, tmp_path: Path) -> None:
    """It comes into a folder made for it, nothing is left beside it, and the second call asks the server nothing."""
    path = _fetch(_item(server), tmp_path / "new" / "folder")
    _whole(path)
    assert _fetch(_item(server), tmp_path / "new" / "folder") == path
    assert len(server.requests) == 1


@pytest.mark.parametrize("known", [{"sha256": SHA256[:8]}, {"md5": hashlib.md5(CONTENT).hexdigest()}, {"sha256": ""}])
def test_what_is_known_of_a_file_may_be_less(server: FileServer, tmp_path: Path, known: dict[str, str]) -> None:
    """The first digits of a checksum, another checksum, or none."""
    _whole(_fetch(_item(server, **{"sha256": "", "size": None} | known), tmp_path))


def test_a_broken_connection_is_taken_up_where_it_broke(server: FileServer, tmp_path: Path) -> None:
    """Each of two breaks costs one more request, for the missing bytes alone."""
    server.files["a.zip"].drops = [1_000_000, 500_000]
    _whole(_fetch(_item(server), tmp_path))
    assert server.ranges() == ["", "bytes=1000000-", "bytes=1500000-"]


def test_breaks_that_bring_something_are_not_counted(server: FileServer, tmp_path: Path) -> None:
    """A line that breaks more often than tries are allowed is good enough while it gains bytes."""
    server.files["a.zip"].drops = [300_000] * 9
    _whole(_fetch(_item(server), tmp_path, waits=(0.0,)))


@pytest.mark.parametrize("length", [True, False])
def test_without_ranges_a_download_starts_anew(server: FileServer, tmp_path: Path, length: bool) -> None:
    """What came before the break is not put before the whole; without a told length, the known size shows the break."""
    server.files["a.zip"] = Served(content=CONTENT, ranges=False, drops=[1_000_000], length=length)
    _whole(_fetch(_item(server), tmp_path))
    assert len(server.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_breaks_for_ever(server: FileServer, tmp_path: Path, ranges: bool) -> None:
    """One line after the last try; what came is kept, and the same command goes on when the line is mended."""
    drops = [1_000_000, *[0] * 9] if ranges else [1_000_000] * 9
    server.files["a.zip"] = Served(content=CONTENT, ranges=ranges, drops=drops)
    _refused(_item(server), tmp_path, "a.zip", "broke", "2 more tries", "1 MB are kept")
    assert len(server.requests) <= 4
    server.files["a.zip"].drops = []
    _whole(_fetch(_item(server), tmp_path))
    assert server.ranges()[-1] == "bytes=1000000-"


def test_a_silent_server_is_a_broken_connection(server: FileServer, tmp_path: Path) -> None:
    """A connection that stays open without a byte is given up after the timeout."""
    server.files["a.zip"] = Served(content=CONTENT, drops=[1_000_000], stalls=True)
    fetch(_item(server), tmp_path, progress=False, waits=(0.0,), timeout=0.3)
    _whole(tmp_path / "a.zip")


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody listens, the address is named."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer() as gone:
        item = _item(gone)
    _refused(item, tmp_path, item.url, "failed", "2 more tries")


def test_an_overloaded_server_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    """Answers that pass by themselves are waited out."""
    server.files["a.zip"].statuses = [503, 429]
    _whole(_fetch(_item(server), tmp_path))


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server: FileServer, tmp_path: Path, status: int) -> None:
    """Answers that do not pass are told after one request."""
    server.files["a.zip"].statuses = [status]
    _refused(_item(server), tmp_path, str(status), server.url("a.zip"))
    assert len(server.requests) == 1


def test_redirects_are_followed(server: FileServer, tmp_path: Path) -> None:
    """The part that is missing is asked for behind a redirect too; a circle of redirects is one line."""
    server.files["b.zip"] = Served(content=CONTENT, drops=[1_000_000])
    server.files["a.zip"] = Served(redirect="b.zip")
    _whole(_fetch(_item(server), tmp_path))
    assert server.requests[-1] == ("b.zip", "bytes=1000000-")
    server.files["a.zip"] = Served(redirect="a.zip")
    _refused(_item(server), tmp_path / "circle", "302")


@pytest.mark.parametrize("bad", [{"sha256": "0" * 64}, {"sha256": "0" * 8}, {"md5": "0" * 32}])
def test_a_wrong_checksum(server: FileServer, tmp_path: Path, bad: dict[str, str]) -> None:
    """Nothing is left of the download, so that the next try starts anew."""
    _refused(_item(server, **bad), tmp_path, "a.zip", next(iter(bad)), "0" * 8, "removed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"<html>log in first</html>"])
def test_a_file_of_another_size_is_not_fetched(server: FileServer, tmp_path: Path, content: bytes) -> None:
    """A server that offers another number of bytes offers another file, and is told so before the download."""
    server.files["a.zip"] = Served(content=content)
    _refused(_item(server), tmp_path, f"{len(content):,}", "3,000,000")


def test_more_than_the_file_is_not_taken(server: FileServer, tmp_path: Path) -> None:
    """Without a told length, what goes past the known size ends the download."""
    server.files["a.zip"] = Served(content=CONTENT * 3, length=False)
    _refused(_item(server), tmp_path, "more than")


@pytest.mark.parametrize(
    ("etag", "heeds"), [("strong", True), ("strong", False), ("date", True), ("weak", True), ("weak", False)]
)
def test_a_changed_file_is_not_spliced(server: FileServer, tmp_path: Path, etag: str, heeds: bool) -> None:
    """What came before a change of the file on the server is dropped, though nothing else would show it."""
    server.files["a.zip"] = Served(content=OTHER, drops=[1_000_000, 0, 0, 0], etag=etag)
    item = _item(server, sha256="", size=None)
    _refused(item, tmp_path, "broke")
    assert (tmp_path / "a.zip.partial").read_bytes() == OTHER[:1_000_000]
    server.files["a.zip"] = Served(content=CONTENT, etag=etag, heeds_if_range=heeds)
    _whole(_fetch(item, tmp_path))


def test_a_splice_that_no_server_shows_is_found_by_the_checksum(server: FileServer, tmp_path: Path) -> None:
    """A server that names no versions can only be found out at the end, and the next try is whole."""
    (tmp_path / "a.zip.partial").write_bytes(OTHER[:1_000_000])
    server.files["a.zip"].etag = ""
    _refused(_item(server), tmp_path, "sha256")
    _whole(_fetch(_item(server), tmp_path))


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_kill_before_the_rename(server: FileServer, tmp_path: Path, size: int | None) -> None:
    """All bytes are there: they are verified and renamed, nothing is fetched again."""
    (tmp_path / "a.zip.partial").write_bytes(CONTENT)
    _whole(_fetch(_item(server, size=size), tmp_path))
    assert len(server.requests) == (0 if size else 1)


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_partial_file_that_is_too_long(server: FileServer, tmp_path: Path, size: int | None) -> None:
    """It cannot be a part of this file, and is dropped."""
    (tmp_path / "a.zip.partial").write_bytes(CONTENT + b"more")
    _whole(_fetch(_item(server, size=size), tmp_path))


@pytest.mark.parametrize("damaged", [CONTENT[:-1], OTHER])
def test_a_damaged_file_is_fetched_anew(server: FileServer, tmp_path: Path, damaged: bytes) -> None:
    """A file under the final name is verified, and replaced once the right one is there."""
    (tmp_path / "a.zip").write_bytes(damaged)
    _whole(_fetch(_item(server), tmp_path))


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_too_small_a_disk_is_told_before_the_download(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None
) -> None:
    """The missing room is named, less what is there already; the size may be the server's."""
    (tmp_path / "a.zip.partial").write_bytes(CONTENT[:1_000_000])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_999_999))
    _refused(_item(server, size=size), tmp_path, "needs 2 MB more", "make room")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=2_000_000))
    _whole(_fetch(_item(server, size=size), tmp_path))


def test_a_disk_that_fills_up(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; what was written is kept, and the same command goes on when there is room."""
    written = []

    def append(file: Any, chunk: bytes) -> None:
        if sum(written) + len(chunk) > 1_000_000:
            file.write(chunk[: 1_000_000 - sum(written)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written.append(file.write(chunk))

    with monkeypatch.context() as full:
        full.setattr(download, "_append", append)
        _refused(_item(server), tmp_path, "disk is full", "a.zip.partial")
    assert (tmp_path / "a.zip.partial").read_bytes() == CONTENT[:1_000_000]
    _whole(_fetch(_item(server), tmp_path))
    assert server.ranges() == ["", "bytes=1000000-"]


SCRIPT = """
import resource, sys
from pathlib import Path
from experiments.fetch.download import Download, DownloadError, fetch
url, size, sha256, directory, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    fetch(Download(url=url, name="a.zip", size=int(size), sha256=sha256), Path(directory), waits=(0.0,))
except DownloadError as error:
    print(error)
except KeyboardInterrupt:
    print("interrupted")
"""


def _start(server: FileServer, directory: Path, limit: int = 0) -> subprocess.Popen[str]:
    """A process of its own that fetches the file; it may not write past `limit` bytes."""
    arguments = [server.url("a.zip"), str(len(CONTENT)), SHA256, str(directory), str(limit)]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores Ctrl-C
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=heed
    )


def test_the_system_refuses_to_write(server: FileServer, tmp_path: Path) -> None:
    """A real limit on what may be written ends in one line and a partial file up to the limit, silently otherwise."""
    output, errors = _start(server, tmp_path, limit=1_234_567).communicate(timeout=60)
    assert "the disk is full" in output
    assert len(output.splitlines()) == 1
    assert errors == ""
    assert (tmp_path / "a.zip.partial").stat().st_size == 1_234_567
    _whole(_fetch(_item(server), tmp_path))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_download_goes_on(server: FileServer, tmp_path: Path, by: signal.Signals) -> None:
    """Interrupted or killed in the middle, nothing is there under the final name, and the rest alone is fetched."""
    server.files["a.zip"] = Served(content=CONTENT, drops=[1_000_000], stalls=True)
    process, partial, deadline = _start(server, tmp_path), tmp_path / "a.zip.partial", time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size == 1_000_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(by)
    output, _ = process.communicate(timeout=60)
    assert ("interrupted" in output) == (by == signal.SIGINT)
    assert not (tmp_path / "a.zip").exists()
    _whole(_fetch(_item(server), tmp_path))
    assert server.ranges()[-1] == "bytes=1000000-"


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "file:///etc/passwd"},
        {"url": "ftp://host/a"},
        {"name": "../a"},
        {"name": ""},
        {"name": ".."},
        {"sha256": "xyz"},
        {"md5": "0" * 33},
    ],
)
def test_what_cannot_be_a_download(bad: dict[str, str]) -> None:
    """Other addresses than HTTP's, names that leave the folder and checksums that are none are refused in one line."""
    with pytest.raises(DownloadError, match=";"):
        Download(**{"url": "http://host/a", "name": "a"} | bad)


def test_sizes_are_readable() -> None:
    """Numbers of bytes are given as people read them."""
    assert [readable(n) for n in (0, 999, 1000, 815_585_330, 999_900_000, 19_336_861_798)] == [
        "0 B", "999 B", "1 kB", "816 MB", "1.0 GB", "19.3 GB",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("known", "word"),
    [
        ({}, ""),
        ({"size": 3}, ""),
        ({"size": 4}, "3 bytes in place of 4"),
        ({"sha256": hashlib.sha256(b"abc").hexdigest().upper()}, ""),
        ({"sha256": hashlib.sha256(b"abc").hexdigest()[:8], "md5": hashlib.md5(b"abc").hexdigest()}, ""),
        ({"sha256": hashlib.sha256(b"abd").hexdigest()[:8]}, "sha256 ba7816bf in place of a52d159f"),
        ({"sha256": hashlib.sha256(b"abc").hexdigest(), "md5": "0" * 32}, "md5"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, known: dict, word: str) -> None:
    """Size first, then every checksum that is given, by its first digits, in either case; "" where all is right."""
    (tmp_path / "a").write_bytes(b"abc")
    found = mismatch(Download(url="http://host/a", name="a", **known), tmp_path / "a")
    assert (found == "") == (word == "")
    assert word in found


def test_a_disk_error_names_the_cause(tmp_path: Path) -> None:
    """A full disk is told apart from other causes; the folder may be gone by then."""
    assert "the disk is full" in str(disk_error(tmp_path / "a", OSError(errno.ENOSPC, "No space left on device")))
    assert "nothing free" in str(disk_error(tmp_path / "gone" / "a", OSError(errno.EDQUOT, "Quota")))
    assert "Read-only" in str(disk_error(tmp_path / "a", OSError(errno.EROFS, "Read-only file system")))


def test_two_that_want_the_same_file_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    """Trainings that make starts side by side share a download: no checksum would tell their bytes apart."""
    server.files["a.zip"] = Served(content=CONTENT, drops=[1_000_000], stalls=True)
    item, found = _item(server, size=None, sha256=""), []

    def bring() -> None:
        found.append(_fetch(item, tmp_path, waits=(0.01,) * 3))

    both = [threading.Thread(target=bring) for _ in range(2)]
    both[0].start()
    deadline = time.monotonic() + 10
    while not (tmp_path / "a.zip.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    both[1].start()
    for thread in both:
        thread.join()
    assert [path.read_bytes() == CONTENT for path in found] == [True, True]
    assert server.ranges() == ["", "bytes=1000000-"]
