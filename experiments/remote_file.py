"""A file on a server, and what is known of it: where it lies, its size, its checksums.

What it is: the description of a download, the check of what arrived, and the error that every step of it raises. What
it is not: the download itself (`download.py`).

    item = Download(url="http://host/val2017.zip", name="val2017.zip", size=815585330, sha256="4f7e2ccb…")
    mismatch(item, Path("val2017.zip"))          # "" where size and checksum are right
"""

import errno
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from freeanchor.errors import DownloadError

CHUNK = 1 << 20  # bytes
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file to fetch: where from, the `name` it gets, and what is known of it.

    `size` is in bytes, `sha256` and `md5` in hex digits; what is given is verified. A checksum may be shortened to its
    first digits, as torchvision's and mmdetection's file names carry it. Raises DownloadError where an address is
    not HTTP, a name leaves its folder, or a checksum is no hex number.
    """

    url: str
    name: str
    size: int | None = None
    sha256: str = ""
    md5: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise DownloadError(f"{self.url}: not an address to download from; give one of http:// or https://")
        if self.name in {"", ".", ".."} or "/" in self.name or "\\" in self.name:
            raise DownloadError(f"{self.url}: {self.name!r} is no file name; give one without folders")
        for checksum, length in ((self.sha256, 64), (self.md5, 32)):
            if not re.fullmatch(rf"[0-9a-fA-F]{{0,{length}}}", checksum):
                raise DownloadError(f"{self.url}: {checksum!r} is no checksum; give at most {length} hex digits")


def readable(num_bytes: float) -> str:
    """A number of bytes as people read it, in powers of 1000: 816 MB."""
    for unit in ("B", "kB", "MB"):
        if abs(num_bytes) < 999.5:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def quiet(progress: bool) -> bool | None:
    """What tqdm is to be told: None shows a bar on a terminal alone."""
    return None if progress else True


def disk_error(path: Path, error: OSError) -> DownloadError:
    """The one line for a file that cannot be written; a full disk is named as such."""
    if error.errno in DISK_FULL:
        free = readable(shutil.disk_usage(path.parent).free) if path.parent.is_dir() else "nothing"
        return DownloadError(f"{path}: the disk is full ({free} free); make room, the same command goes on")
    return DownloadError(f"{path}: cannot be written ({error.strerror or error}); mend that, the same command goes on")


def mismatch(item: Download, path: Path, *, progress: bool = False) -> str:
    """What is wrong with a fetched file; "" where size and checksums are as expected."""
    size = path.stat().st_size
    if item.size is not None and size != item.size:
        return f"{path.name} has {size:,} bytes in place of {item.size:,}"
    expected = {name: digits.lower() for name, digits in (("sha256", item.sha256), ("md5", item.md5)) if digits}
    found = _digests(path, list(expected), progress) if expected else {}
    for name, digits in expected.items():
        if not found[name].startswith(digits):
            return f"{path.name} has the {name} {found[name][: len(digits)]} in place of {digits}"
    return ""


def _digests(path: Path, names: Sequence[str], progress: bool) -> dict[str, str]:
    """Checksums of a file by name, from one reading."""
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    bar = tqdm(
        total=path.stat().st_size, desc=f"verify {path.name}", unit="B", unit_scale=True, disable=quiet(progress)
    )
    with bar, path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for each in hashes.values():
                each.update(chunk)
            bar.update(len(chunk))
    return {name: each.hexdigest() for name, each in hashes.items()}
