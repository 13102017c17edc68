"""COCO's archives as a data folder: whatever goes wrong, no folder is half there, and the same command goes on."""

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from oracles.coco_archives import coco_files, zipped
from oracles.file_server import FileServer, Served

from experiments.fetch import coco as archive
from experiments.fetch import coco as coco_data
from experiments.fetch.coco import COCO_2017, STAMP, Archive, fetch_coco, needed_room
from experiments.fetch.download import Download
from freeanchor.data.coco import read_split
from freeanchor.data.folder_check import check_folder
from freeanchor.errors import BusyError, DownloadError
from freeanchor.files import alone_at

ROOT = Path(__file__).parents[3]
FOLDERS = ("annotations", "val2017", "train2017")
FILES = {"annotations": 2, "val2017": 4, "train2017": 6}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of the three archives, reached without any proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with FileServer() as running:
        for folder, files in coco_files().items():
            running.files[f"{folder}.zip"] = Served(content=zipped(files))
        yield running


def _archives(server: FileServer) -> tuple[Archive, ...]:
    """COCO's manifest with the addresses, sizes and checksums of the small archives."""
    manifest = []
    for real in COCO_2017:
        name = f"{real.folder}.zip"
        content = server.files[name].content
        item = Download(url=server.url(name), name=name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
        manifest.append(replace(real, download=item, unpacked=10_000))
    return tuple(manifest)


def _fetch(server: FileServer, directory: Path, **options: Any) -> list[str]:
    """Fetch everything; what was said."""
    lines: list[str] = []
    archives = options.pop("archives", None) or _archives(server)
    fetch_coco(directory, archives, say=lines.append, progress=False, waits=(0.0,), **options)
    return lines


def _refused(server: FileServer, directory: Path, *words: str, **options: Any) -> None:
    """Fetching fails with one line that holds the words."""
    with pytest.raises(DownloadError) as error:
        _fetch(server, directory, **options)
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)
    for word in words:
        assert word in str(error.value)


def _visible(directory: Path) -> dict[str, int]:
    """The folders that anybody sees, with their numbers of files; every other file is hidden or a download."""
    others = {path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert all(name.removesuffix(".version").endswith((".zip", ".partial")) for name in others)
    folders = (path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {path.name: len(list(path.iterdir())) for path in folders}


def _nothing_half(directory: Path) -> None:
    """No folder under its final name lacks a file, and no hidden one is left."""
    assert all(FILES[name] == count for name, count in _visible(directory).items())
    assert not list(directory.glob(f".*{archive.SUFFIX}"))


def _whole(directory: Path) -> None:
    """The data set is there, and nothing beside it but what was recorded."""
    assert _visible(directory) == FILES
    assert not list(directory.glob("*.zip*"))
    assert check_folder(directory) == []
    for folder, files in coco_files().items():
        for name, content in files.items():
            assert "captions" in name or (directory / name).read_bytes() == content, folder


def test_everything_is_fetched_and_unpacked(server: FileServer, tmp_path: Path) -> None:
    """The folder can be read, its needs are told first, and the record holds the checksums of what it came from."""
    lines = _fetch(server, tmp_path / "coco")
    _whole(tmp_path / "coco")
    assert [len(read_split(tmp_path / "coco", split).images) for split in ("train", "val")] == [6, 4]
    assert "to fetch" in lines[0]
    assert "are free" in lines[1]
    assert "removed" in lines[1]
    stamps = json.loads((tmp_path / "coco" / STAMP).read_text())
    assert {name: entry["sha256"] for name, entry in stamps.items()} == {
        item.folder: item.download.sha256 for item in _archives(server)
    }


def test_what_is_there_is_left_alone(server: FileServer, tmp_path: Path) -> None:
    """A second call asks the server nothing, announces nothing, and touches no image."""
    _fetch(server, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    asked = len(server.requests)
    lines = _fetch(server, tmp_path)
    assert len(server.requests) == asked
    assert len(lines) == 3
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def test_one_split_can_be_fetched_and_the_other_later(server: FileServer, tmp_path: Path) -> None:
    """Published checkpoints need val2017 alone: the large archive is not asked for until it is."""
    _fetch(server, tmp_path, splits=("val",))
    assert _visible(tmp_path) == {"annotations": 2, "val2017": 4}
    assert check_folder(tmp_path, splits=("val",)) == []
    _refused(server, tmp_path, "no split test", splits=("test",))
    assert "train2017.zip" not in {name for name, _ in server.requests}
    _fetch(server, tmp_path)
    _whole(tmp_path)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_broken_connection(server: FileServer, tmp_path: Path, folder: str) -> None:
    """Whichever download breaks for good, what is visible is whole, and the next call asks for the rest alone."""
    archives = _archives(server)
    server.files[f"{folder}.zip"].drops = [200, 0, 0, 0]
    _refused(server, tmp_path, f"{folder}.zip", "broke", archives=archives)
    _nothing_half(tmp_path)
    assert (tmp_path / f"{folder}.zip.partial").stat().st_size == 200
    server.files[f"{folder}.zip"].drops = []
    _fetch(server, tmp_path)
    _whole(tmp_path)
    assert (f"{folder}.zip", "bytes=200-") in server.requests


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_wrong_checksum(server: FileServer, tmp_path: Path, folder: str) -> None:
    """An archive that was altered is not unpacked, and not kept."""
    archives, served = _archives(server), server.files[f"{folder}.zip"]
    good = served.content
    served.content = good[:300] + bytes([good[300] ^ 1]) + good[301:]
    _refused(server, tmp_path, f"{folder}.zip", "sha256", "removed", archives=archives)
    _nothing_half(tmp_path)
    assert not list(tmp_path.glob(f"{folder}*"))
    served.content = good
    _fetch(server, tmp_path)
    _whole(tmp_path)


@pytest.mark.parametrize("free", [0, 50_000])
def test_too_small_a_disk_is_told_first(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Nothing is fetched where the archives and what is in them cannot fit."""
    monkeypatch.setattr(coco_data, "disk_usage", lambda _: SimpleNamespace(free=free))
    _refused(server, tmp_path, "are needed", "are free", "make room")
    assert server.requests == []
    assert _visible(tmp_path) == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_disk_that_fills_up_while_unpacking(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """After a few bytes of the second file the disk is full: one line, nothing of the folder is left, the zip is."""

    def extract(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, hidden: Path) -> None:
        if member is bundle.infolist()[-1] and member.filename.startswith(folder):
            (hidden / member.filename).write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(bundle, member, hidden)

    real = archive._extract
    with monkeypatch.context() as full:
        full.setattr(archive, "_extract", extract)
        _refused(server, tmp_path, folder, "disk is full")
    _nothing_half(tmp_path)
    assert (tmp_path / f"{folder}.zip").exists()
    asked = server.requests.count((f"{folder}.zip", ""))
    _fetch(server, tmp_path)
    assert server.requests.count((f"{folder}.zip", "")) == asked
    _whole(tmp_path)


SCRIPT = """
import sys, time
from pathlib import Path
from experiments.fetch import coco as archive
real = archive._extract
def slow(bundle, member, hidden):
    real(bundle, member, hidden)
    if member.filename.startswith("val2017"):
        time.sleep(0.5)
archive._extract = slow
from experiments.fetch.coco import unpack
unpack(Path(sys.argv[1]) / "val2017.zip", "val2017", Path(sys.argv[1]), progress=False)
"""


def test_a_kill_while_unpacking(server: FileServer, tmp_path: Path) -> None:
    """Killed between two files, nothing is visible; the next call clears up, uses the zip again and ends whole."""
    (tmp_path / "val2017.zip").write_bytes(server.files["val2017.zip"].content)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT)
    hidden, deadline = tmp_path / f".val2017{archive.SUFFIX}", time.monotonic() + 60
    while len(list(hidden.rglob("*.png"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert 2 <= len(list(hidden.rglob("*.png"))) < 4
    assert _visible(tmp_path) == {}
    _fetch(server, tmp_path)
    _whole(tmp_path)
    assert "val2017.zip" not in {name for name, _ in server.requests}
    assert not hidden.exists()


@pytest.mark.parametrize("after", ["the rename", "the record"])
def test_a_kill_after_unpacking(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """Ended before its record is written or its zip removed, a folder is counted by the json and left alone."""
    stamp, unlink = coco_data._stamp, Path.unlink

    def stop_stamp(directory: Path, item: Archive, *rest: Any) -> None:
        if item.folder == "val2017":
            raise KeyboardInterrupt
        stamp(directory, item, *rest)

    def stop_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "val2017.zip":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    with monkeypatch.context() as ended:
        if after == "the rename":
            ended.setattr(coco_data, "_stamp", stop_stamp)
        else:
            ended.setattr(Path, "unlink", stop_unlink)
        with pytest.raises(KeyboardInterrupt):
            _fetch(server, tmp_path)
    assert _visible(tmp_path) == {"annotations": 2, "val2017": 4}
    lines = _fetch(server, tmp_path)
    assert [line for line in lines if "val2017.zip" in line and "not needed" in line]
    (tmp_path / "val2017.zip").unlink()
    _whole(tmp_path)
    assert server.requests.count(("val2017.zip", "")) == 1


@pytest.mark.parametrize("is_recorded", [True, False])
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_that_lacks_files(server: FileServer, tmp_path: Path, folder: str, is_recorded: bool) -> None:
    """Ours or the user's own, it is not touched: one line says what is missing, before anything large is fetched."""
    _fetch(server, tmp_path, splits=("val",) if folder == "annotations" else ("train", "val"))
    if not is_recorded:
        (tmp_path / STAMP).unlink()
    min((tmp_path / folder).iterdir()).unlink()
    asked = len(server.requests)
    _refused(server, tmp_path, str(tmp_path / folder), "1 of its files are missing", "move the folder away")
    assert len(server.requests) == asked
    assert len(list((tmp_path / folder).iterdir())) == FILES[folder] - 1


def test_a_folder_of_the_user_is_used(server: FileServer, tmp_path: Path) -> None:
    """Images that lie there already are counted by the json, and recorded, so that it is read once."""
    for name, content in coco_files()["train2017"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    _fetch(server, tmp_path)
    _whole(tmp_path)
    assert json.loads((tmp_path / STAMP).read_text())["train2017"]["num_files"] == 6
    assert "train2017.zip" not in {name for name, _ in server.requests}


def test_two_processes_do_not_meet(server: FileServer, tmp_path: Path) -> None:
    """A second one in the same folder is told to wait, and the lock goes with its holder."""
    with alone_at(tmp_path / STAMP), pytest.raises(BusyError, match="another process is at work on it; wait"):
        _fetch(server, tmp_path)
    _fetch(server, tmp_path)
    _whole(tmp_path)


def test_a_file_in_place_of_a_folder(server: FileServer, tmp_path: Path) -> None:
    """It is named, and not overwritten."""
    (tmp_path / "train2017").write_text("mine")
    _refused(server, tmp_path, "train2017", "no folder")
    assert (tmp_path / "train2017").read_text() == "mine"


def test_the_manifest_is_coco_s() -> None:
    """Three archives of COCO's own server with full checksums, annotations first."""
    assert [item.folder for item in COCO_2017] == ["annotations", "val2017", "train2017"]
    assert [item.split for item in COCO_2017] == ["", "val", "train"]
    for item in COCO_2017:
        assert item.download.url.startswith("http://images.cocodataset.org/")
        assert item.download.url.endswith(f"/{item.download.name}")
        assert len(item.download.sha256) == 64
        assert (item.download.size or 0) > 250_000_000


def test_the_room_that_is_needed(tmp_path: Path) -> None:
    """A zip is removed before the next comes: the peak is the last one's; what is downloaded already is there."""
    annotations, val, train = COCO_2017
    zips = [item.download.size or 0 for item in COCO_2017]
    peak = annotations.unpacked + val.unpacked + zips[2] + train.unpacked
    assert needed_room(tmp_path, COCO_2017) == peak
    assert 40e9 < peak < 41e9
    assert needed_room(tmp_path, (val,)) == zips[1] + val.unpacked
    (tmp_path / "val2017.zip.partial").write_bytes(bytes(1_000_000))
    assert needed_room(tmp_path, (val,)) == zips[1] + val.unpacked - 1_000_000
    assert needed_room(tmp_path, COCO_2017) == peak - 1_000_000
    assert needed_room(tmp_path, ()) == 0
