"""What is known of a file on a server, and the check of what arrived."""

import errno
import hashlib
from pathlib import Path

import pytest

from experiments.fetch.download import Download, disk_error, mismatch, readable
from freeanchor.errors import DownloadError


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
