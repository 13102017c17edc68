"""Downloads side by side: two processes that make starts want the same file."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles.file_server import FileServer, Served

from experiments.fetch.download import Download, fetch

CONTENT = bytes(range(256)) * 12_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer() as running:
        yield running


def test_two_that_want_the_same_file_fetch_it_once(server: FileServer, tmp_path: Path) -> None:
    """Trainings that make starts side by side share a download: no checksum would tell their bytes apart."""
    server.files["a.zip"] = Served(content=CONTENT, drops=[1_000_000], stalls=True)
    item, found = Download(url=server.url("a.zip"), name="a.zip"), []

    def bring() -> None:
        found.append(fetch(item, tmp_path, progress=False, waits=(0.01,) * 3, timeout=1.0))

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
