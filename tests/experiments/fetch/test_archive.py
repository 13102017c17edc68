"""Unpacking: all of a folder or nothing of it, and nothing outside of it."""

import errno
import io
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from oracles.coco_archives import coco_files, zipped

from experiments.fetch import coco as archive
from experiments.fetch.coco import remove_leftovers, unpack
from freeanchor.errors import DownloadError

ROOT = Path(__file__).parents[3]
FILES = coco_files()["val2017"]


@pytest.fixture
def zip_path(tmp_path: Path) -> Path:
    """The zip of four images, in a folder of its own."""
    (tmp_path / "coco").mkdir()
    path = tmp_path / "coco" / "val2017.zip"
    path.write_bytes(zipped(FILES))
    return path


def _unpack(zip_path: Path, folder: str = "val2017", keep: tuple[str, ...] = ()) -> int:
    return unpack(zip_path, folder, zip_path.parent, keep=keep, progress=False)


def _refused(zip_path: Path, *words: str, folder: str = "val2017", keep: tuple[str, ...] = ()) -> None:
    """One line that holds the words, and nothing beside the zip, hidden or not."""
    with pytest.raises(DownloadError) as error:
        _unpack(zip_path, folder, keep)
    assert "\n" not in str(error.value)
    assert ";" in str(error.value)
    for word in words:
        assert word in str(error.value)
    assert {path.name for path in zip_path.parent.iterdir()} <= {zip_path.name}


def _whole(directory: Path) -> None:
    """The four images are there, and nothing hidden."""
    assert {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.png")} == FILES
    assert not list(directory.glob(".*"))


def test_a_folder_is_unpacked(zip_path: Path) -> None:
    """Every file with its content; the zip stays."""
    assert _unpack(zip_path) == 4
    _whole(zip_path.parent)
    assert zip_path.exists()


def test_some_files_alone_can_be_kept(zip_path: Path) -> None:
    """The others are not written; one that the archive lacks is named."""
    zip_path.write_bytes(zipped(coco_files()["annotations"]))
    assert _unpack(zip_path, "annotations", ("instances_val2017.json",)) == 1
    assert [path.name for path in (zip_path.parent / "annotations").iterdir()] == ["instances_val2017.json"]
    (zip_path.parent / "annotations").rename(zip_path.parent.parent / "elsewhere")
    _refused(zip_path, "does not hold panoptic.json", folder="annotations", keep=("panoptic.json",))


def test_leftovers_are_removed(zip_path: Path) -> None:
    """What a kill left is gone before and after, by the next unpacking or by itself."""
    for clear in (_unpack, lambda path: remove_leftovers(path.parent)):
        hidden = zip_path.parent / f".val2017{archive.SUFFIX}" / "val2017"
        hidden.mkdir(parents=True)
        (hidden / "old.png").write_bytes(b"half")
        clear(zip_path)
        _whole(zip_path.parent)


def test_no_room_for_what_an_archive_really_holds(zip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files' own sizes, in blocks of the disk, are added up before the first is written."""
    needed = sum(-(-len(content) // archive.BLOCK) * archive.BLOCK for content in FILES.values())
    with monkeypatch.context() as small:
        small.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
        small.setattr(archive, "_extract", lambda *_: pytest.fail("wrote a file"))
        _refused(zip_path, "unpacked", "make room")
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert _unpack(zip_path) == 4


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fills_up(zip_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """After a few bytes of the last file the disk is full: one line, nothing of the folder is left, the zip is."""

    def copy(source: io.BufferedIOBase, file: io.BufferedIOBase, length: int) -> None:
        file.write(source.read(100))
        if len(list(zip_path.parent.rglob("*.png"))) == 4:
            raise OSError(code, os.strerror(code))
        file.write(source.read())

    with monkeypatch.context() as full:
        full.setattr(archive.shutil, "copyfileobj", copy)
        _refused(zip_path, "val2017", "cannot be written" if code == errno.EIO else "disk is full")
    assert zip_path.exists()
    _unpack(zip_path)
    _whole(zip_path.parent)


LIMITED = """
import resource, sys
from pathlib import Path
from experiments.fetch.coco import unpack
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
path = Path(sys.argv[1])
try:
    unpack(path, "val2017", path.parent)
except ValueError as error:
    print(error)
"""


def test_the_system_refuses_to_write(zip_path: Path) -> None:
    """A real limit on what may be written ends the same way, in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(zip_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert "the disk is full" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    assert [path.name for path in zip_path.parent.iterdir()] == ["val2017.zip"]


def test_an_interruption_leaves_nothing(zip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C clears up before it ends."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_extract", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _unpack(zip_path)
    assert [path.name for path in zip_path.parent.iterdir()] == ["val2017.zip"]


def _link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def _plus(member: zipfile.ZipInfo | str) -> Callable[[bytes], bytes]:
    """An archive with one member more."""

    def change(content: bytes) -> bytes:
        buffer = io.BytesIO(content)
        with zipfile.ZipFile(buffer, "a") as bundle:
            bundle.writestr(member, b"/etc/passwd")
        return buffer.getvalue()

    return change


BAD_ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a parent folder": (_plus("val2017/../../out.png"), "leads out"),
    "an absolute name": (_plus("/tmp/freeanchor-out.png"), "leads out"),
    "a backslash": (_plus("val2017\\..\\out.png"), "leads out"),
    "a drive": (_plus("C:out.png"), "leads out"),
    "a link": (_plus(_link("val2017/out.png")), "leads out"),
    "a file twice": (_plus("val2017/val0010.png"), "does not hold"),
    "a name of two lines": (_plus("val2017/a\nb.png"), "leads out"),
    "a name that moves the cursor": (_plus("val2017/\x1b[2J.png"), r"'val2017/\x1b[2J.png'"),
    "a member that swells": (
        lambda _: zipped({"val2017/a.json": bytes(20_000_001)}),
        "more than 20,000,000, the limit",
    ),
    "members that swell": (
        lambda _: zipped({f"val2017/{number}.json": bytes(2**20) for number in range(20)}),
        "unpack or rewrite it",
    ),
    "another folder": (lambda _: zipped({"test2017/a.png": b"a"}), "does not hold"),
    "no zip": (lambda _: b"<html>" * 99, "is damaged"),
    "cut short": (lambda content: content[: len(content) // 2], "is damaged"),
    "a flipped byte": (lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:], "is damaged"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive(zip_path: Path, name: str) -> None:
    """Damaged or leading out of its folder, it leaves nothing behind; what is damaged would be used again: it goes."""
    change, word = BAD_ARCHIVES[name]
    zip_path.write_bytes(change(zip_path.read_bytes()))
    _refused(zip_path, "val2017.zip", word)
    assert zip_path.exists() == (word != "is damaged")
    assert not list(zip_path.parents[2].rglob("out.png"))
    assert not Path("/tmp/freeanchor-out.png").exists()
