"""Fetching one file over HTTP: resumed, checked, and never half there under its final name.

item = Download(url="http://host/val2017.zip", name="val2017.zip", size=815585330, sha256="4f7e2ccb…")
path = fetch(item, Path("data/coco"))        # goes on where it stopped, by whatever cause
mismatch(item, path)                         # "" where size and checksum are right
"""

import errno
import hashlib
import re
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO, NoReturn
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from freeanchor.errors import DownloadError
from freeanchor.files import in_turn, settle

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
    return DownloadError(f"{path}: cannot be written ({error.strerror or error}); fix that, the same command goes on")


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
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    size, hidden = path.stat().st_size, quiet(progress)
    bar = tqdm(total=size, desc=f"verify {path.name}", unit="B", unit_scale=True, disable=hidden)
    with bar, path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for each in hashes.values():
                each.update(chunk)
            bar.update(len(chunk))
    return {name: each.hexdigest() for name, each in hashes.items()}


TIMEOUT = 60.0  # seconds without a byte after which a connection counts as broken
WAITS = (1.0, 2.0, 5.0, 15.0, 30.0)  # seconds before each new try; so many tries in a row may fail without one new byte
TRIED_AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that pass by themselves


class _Broken(Exception):
    """A connection that ended early; worth another try."""


def fetch(
    item: Download, directory: Path, *, progress: bool = True, waits: Sequence[float] = WAITS, timeout: float = TIMEOUT
) -> Path:
    """Download `item` into `directory` unless it is there already; its path.

    Bytes go to `NAME.partial`, which outlives a broken connection, a full disk and a kill, and is continued with HTTP
    ranges unless the server has none or its file has changed since. Only a file of the right size and checksum gets
    its final name; one that lies there already is verified anew, and replaced where it is wrong. Raises DownloadError
    where the server refuses, the disk cannot hold the file, as many tries as there are `waits` (in seconds) brought
    nothing new, or the content is not the expected one (then the partial file is removed).
    """
    final = directory / item.name
    if not _is_there(item, final, progress):
        with in_turn(final, quiet=True):  # two trainings that make starts side by side want the same weights
            if not _is_there(item, final, progress):  # another process may have fetched it meanwhile
                _bring(_Transfer(item, final.with_name(f"{item.name}.partial"), progress, timeout), final, waits)
    return final


def _is_there(item: Download, final: Path, progress: bool) -> bool:
    return final.is_file() and not mismatch(item, final, progress=progress)


def _bring(transfer: "_Transfer", final: Path, waits: Sequence[float]) -> None:
    _persist(transfer, waits)
    item = transfer.item
    if wrong := mismatch(item, transfer.partial, progress=transfer.progress):
        transfer.discard()
        raise DownloadError(f"{item.url}: {wrong}, so the download was removed; run the same command to fetch it anew")
    settle(transfer.partial, final)
    transfer.discard()


def _persist(transfer: "_Transfer", waits: Sequence[float]) -> None:
    """Try until the partial file is complete; give up when `waits` are used up without a byte gained."""
    failures, best = 0, transfer.size()
    while True:
        try:
            transfer.attempt()
            return
        except _Broken as broken:
            reached = transfer.size()
            failures = 1 if reached > best else failures + 1
            best = max(best, reached)
            if failures > len(waits):
                raise DownloadError(
                    f"{transfer.item.url}: {broken}, also after {len(waits)} more tries; {readable(reached)} are kept, "
                    "the same command goes on from there"
                ) from None
            wait = waits[failures - 1]
            if transfer.progress:
                tqdm.write(f"{transfer.item.name}: {broken}; again in {wait:g} s", file=sys.stderr)
            time.sleep(wait)


class _Transfer:
    """A file on its way: its first bytes in `partial`, and beside it the server's name for their version."""

    def __init__(self, item: Download, partial: Path, progress: bool, timeout: float) -> None:
        self.item, self.partial, self.progress, self.timeout = item, partial, progress, timeout
        self.version_path = partial.with_name(f"{partial.name}.version")  # holds an ETag or a date

    def size(self) -> int:
        """Bytes that are here."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def version(self) -> str:
        """What the server calls the version that they are of; "" where it said nothing."""
        return self.version_path.read_text(encoding="utf-8").strip() if self.version_path.exists() else ""

    def discard(self) -> None:
        """Forget what is here."""
        self.partial.unlink(missing_ok=True)
        self.version_path.unlink(missing_ok=True)

    def attempt(self) -> None:
        """One connection: returns with the file complete, or raises _Broken with what came so far kept."""
        have, size = self.size(), self.item.size
        if size is not None and have >= size:
            if have == size:
                return  # stopped between the last byte and the rename
            self.discard()
            have = 0
        if response := self._open(have):
            with response:
                start, total = self._placed(response, have)
                self._require_room(total, start)
                self._receive(response, start, total)

    def _open(self, have: int) -> HTTPResponse | None:
        """The server's answer to a request for what is missing; None where it says that nothing is."""
        headers = {"User-Agent": "freeanchor"}
        if have:
            headers["Range"] = f"bytes={have}-"
            version = self.version()
            if version and not version.startswith("W/"):  # weak names may not be used so (RFC 9110, 13.1.5)
                headers["If-Range"] = version
        url = self.item.url
        try:
            return urlopen(Request(url, headers=headers), timeout=self.timeout)  # noqa: S310 - Download allows HTTP alone
        except HTTPError as error:
            with error:
                if error.code == 416 and have:
                    if error.headers.get("Content-Range", "") != f"bytes */{have}":
                        self._changed()
                    return None  # nothing comes after our last byte: all of it is here
                reason = " ".join(f"{error.code} {error.reason}".split())
            if error.code in TRIED_AGAIN:
                raise _Broken(f"the server answers {reason}") from None
            raise DownloadError(f"{url}: the server answers {reason}; check the address, or try again later") from None
        except (OSError, HTTPException) as error:
            raise _Broken(_reason(error)) from None

    def _changed(self) -> NoReturn:
        self.discard()
        raise _Broken("the file has changed on the server")

    def _placed(self, response: HTTPResponse, have: int) -> tuple[int, int | None]:
        """Where in the file the answer starts, and the file's size if known; what cannot be continued is discarded."""
        version = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
        start, total = 0, self.item.size
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            offered = int(match[2]) if match and match[2] != "*" else None
            start = int(match[1]) if match else -1
            if start != have or version != (self.version() or version):
                self._changed()
        else:
            length = response.headers.get("Content-Length", "")
            offered = int(length) if length.isdigit() else None
            self.discard()
            if version:
                self.version_path.write_text(version, encoding="utf-8")
        if offered is not None and total is not None and offered != total:
            told = f"holds {offered:,} bytes in place of {total:,}"
            raise DownloadError(f"{self.item.url}: {told}; it is not the expected file")
        return start, offered if total is None else total

    def _require_room(self, total: int | None, have: int) -> None:
        folder = self.partial.parent
        free = shutil.disk_usage(folder).free
        if total is not None and free < total - have:
            needed = f"{self.item.name} needs {readable(total - have)} more"
            raise DownloadError(f"{folder}: {needed}, {readable(free)} are free; make room")

    def _receive(self, response: HTTPResponse, size: int, total: int | None) -> None:
        """Append what the server sends to the first `size` bytes; raises _Broken where that ends before `total`."""
        name, hidden = self.item.name, quiet(self.progress)
        bar = tqdm(total=total, initial=size, desc=name, unit="B", unit_scale=True, disable=hidden)
        with bar, _opened(self.partial, "ab" if size else "wb") as file:
            while chunk := _read(response):
                size += len(chunk)
                if total is not None and size > total:
                    told = f"sends more than its {total:,} bytes"
                    raise DownloadError(f"{self.item.url}: {told}; it is not the expected file")
                try:
                    _append(file, chunk)
                except OSError as error:
                    raise disk_error(self.partial, error) from None
                bar.update(len(chunk))
        if total is not None and size < total:
            raise _Broken("the connection broke")


def _opened(path: Path, mode: str) -> BinaryIO:
    """A file opened unbuffered, so that a kill loses nothing that was written."""
    try:
        return path.open(mode, buffering=0)  # type: ignore[return-value]
    except OSError as error:
        raise disk_error(path, error) from None


def _append(file: BinaryIO, chunk: bytes) -> None:
    """Write all of a chunk: an unbuffered file may take only a part at a time."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException) as error:
        raise _Broken(_reason(error)) from None


def _reason(error: Exception) -> str:
    reason = str(getattr(error, "reason", error)) or type(error).__name__
    return f"the connection failed ({' '.join(reason.split())})"
