"""COCO 2017 as a data folder: three archives fetched, verified and unpacked, a folder whole or not there.

fetch_coco(Path("data/coco"), splits=("val",))
num_files = unpack(Path("data/coco/val2017.zip"), "val2017", Path("data/coco"))
"""

import shutil
import stat
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from shutil import disk_usage
from typing import Any
from zipfile import BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from experiments.fetch.download import CHUNK, WAITS, Download, disk_error, fetch, quiet, readable
from freeanchor.errors import DownloadError, FileError, brief, is_line
from freeanchor.files import alone_at, check_unpacked, read_json, settle, write_json

SUFFIX = ".unpacking"  # of the hidden folder that files are written to
BLOCK = 4096  # bytes: what the last piece of a file takes on a common file system
DAMAGED = (BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, RuntimeError)  # zipfile's, and its codecs'


def unpack(
    zip_path: Path,
    folder: str,
    directory: Path,
    *,
    keep: Sequence[str] = (),
    is_fetched: bool = True,
    progress: bool = True,
) -> int:
    """Unpack `folder` of a zip into `directory`, all of it or the files named in `keep`; the number of files.

    Files are written to a hidden folder, their checksums verified, and the whole renamed at the end; whatever goes
    wrong, nothing is left of it. Other folders in the zip are left out. Raises DownloadError where the zip is damaged
    (one that `is_fetched` is removed then), holds names that lead out of its folder, or the disk is full.
    """
    hidden = directory / f".{folder}{SUFFIX}"
    _remove(hidden)
    try:
        with ZipFile(zip_path) as bundle:
            wanted = _wanted(bundle, zip_path, folder, keep)
            _require_room(directory, zip_path, wanted)
            for member in tqdm(wanted, desc=f"unpack {zip_path.name}", unit="file", disable=quiet(progress)):
                _extract(bundle, member, hidden)
        settle(hidden / folder, directory / folder)
    except DAMAGED as error:
        if not is_fetched:
            raise DownloadError(f"{zip_path}: is damaged ({error}); take it again from where it came from") from None
        zip_path.unlink(missing_ok=True)
        raise DownloadError(
            f"{zip_path}: is damaged ({error}) and was removed; run the same command to fetch it anew"
        ) from None
    except OSError as error:
        raise disk_error(directory / folder, error) from None
    finally:
        _remove(hidden)
    return len(wanted)


def remove_leftovers(directory: Path) -> None:
    """Remove the hidden folders of an unpacking that was killed."""
    for path in directory.glob(f".*{SUFFIX}"):
        _remove(path)


def _remove(hidden: Path) -> None:
    shutil.rmtree(hidden, ignore_errors=True)


def members(bundle: ZipFile, zip_path: Path) -> list[ZipInfo]:
    """The files of a zip, by its list alone: nothing is read or unpacked.

    Raises DownloadError where one leads out of its folder, or where they swell beyond `unpacked_limit`.
    """
    files = [info for info in bundle.infolist() if not info.is_dir()]
    for info in files:
        if _is_unsafe(info):
            raise DownloadError(
                f"{zip_path}: holds {brief(info.filename)}, which leads out of its folder; do not use this archive"
            )
    try:
        check_unpacked(sum(info.file_size for info in files), zip_path.stat().st_size)
    except FileError as error:
        raise DownloadError(f"{zip_path}: {error}") from None
    return files


def _wanted(bundle: ZipFile, zip_path: Path, folder: str, keep: Sequence[str]) -> list[ZipInfo]:
    files = members(bundle, zip_path)
    inside = [info for info in files if PurePosixPath(info.filename).parts[0] == folder]
    wanted = [info for info in inside if not keep or PurePosixPath(info.filename).name in keep]
    missing = set(keep) - {PurePosixPath(info.filename).name for info in wanted}
    if missing or not wanted or len({info.filename for info in wanted}) < len(wanted):
        lacking = ", ".join(sorted(missing)) or f"a sound folder {folder}"
        raise DownloadError(f"{zip_path}: does not hold {lacking}; it is not the expected archive")
    return wanted


def _is_unsafe(info: ZipInfo) -> bool:
    """Whether a member would be written elsewhere than its name in a fresh folder says, or is a link, or no name."""
    path = PurePosixPath(info.filename)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    return leaves or not path.parts or not is_line(info.filename) or stat.S_ISLNK(info.external_attr >> 16)


def _require_room(directory: Path, zip_path: Path, members: Sequence[ZipInfo]) -> None:
    needed = sum(-(-info.file_size // BLOCK) * BLOCK for info in members)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DownloadError(
            f"{directory}: {zip_path.name} takes {readable(needed)} unpacked, {readable(free)} are free; make room, "
            "the same command goes on"
        )


def _extract(bundle: ZipFile, member: ZipInfo, hidden: Path) -> None:
    target = hidden / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with bundle.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)


STAMP = ".coco2017.json"  # what was unpacked here, from which archive


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A zip, the one `folder` in it that is wanted, and which split needs it ("" is every one).

    `unpacked` is what the folder takes on the disk, in bytes, about; `keep` names the only files wanted, () is all.
    """

    download: Download
    folder: str
    unpacked: int
    split: str = ""
    keep: tuple[str, ...] = ()


def _archive(path: str, folder: str, size: int, sha256: str, unpacked: int, **more: Any) -> Archive:
    host = "http://images.cocodataset.org"  # its certificate is not for that name, so no https
    item = Download(url=f"{host}/{path}", name=path.rpartition("/")[2], size=size, sha256=sha256)
    return Archive(download=item, folder=folder, unpacked=unpacked, **more)


# In the order of fetching. COCO publishes no checksums: the sizes are those that its server announces, the SHA-256
# those that torchvision's prototype data sets pin, and public mirrors record the same. Unpacked sizes: of the
# annotations, the two files that are kept; images do not compress, so the zip's size and half a disk block per file.
COCO_2017 = (
    _archive("annotations/annotations_trainval2017.zip", "annotations", 252_907_541,
             "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268", 490_000_000,
             keep=("instances_train2017.json", "instances_val2017.json")),
    _archive("zips/val2017.zip", "val2017", 815_585_330,
             "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05", 826_000_000, split="val"),
    _archive("zips/train2017.zip", "train2017", 19_336_861_798,
             "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929", 19_600_000_000, split="train"),
)  # fmt: skip


def fetch_coco(
    directory: Path,
    archives: Sequence[Archive] = COCO_2017,
    splits: Sequence[str] = ("train", "val"),
    *,
    say: Callable[[str], None] = print,
    progress: bool = True,
    waits: Sequence[float] = WAITS,
) -> None:
    """Fetch, verify and unpack what is missing of `splits` in `directory`; says first what it needs.

    Each archive is fetched beside its folder, unpacked under a hidden name, renamed, and removed, so that a folder
    under its final name is whole, whatever happened. A folder that is there and complete is left alone: as many
    files as were unpacked, or, where it is of other origin, every image that the json lists. A zip that lies in
    `directory` already is used. Raises DownloadError in one line where the disk is too small, a folder is there but
    not whole, or as `fetch` does, BusyError where another process is at work here; the same command goes on where it
    stopped.
    """
    if unknown := ", ".join(sorted(set(splits) - {archive.split for archive in archives})):
        raise DownloadError(f"{directory}: no split {unknown} is handed out; give train, val or both")
    wanted = [archive for archive in archives if archive.split in ("", *splits)]
    directory.mkdir(parents=True, exist_ok=True)
    with alone_at(directory / STAMP):
        remove_leftovers(directory)
        present = [archive for archive in wanted if (directory / archive.folder).exists()]
        missing = [archive for archive in wanted if archive not in present]
        if missing:
            _announce(directory, missing, say)
        # The json first, by which images are counted; then what is there, before anything large is fetched.
        for archive in sorted(wanted, key=lambda archive: (archive.split != "", archive in missing)):
            if archive in present:
                num_files = _confirmed(directory, archive)
                if (directory / archive.download.name).exists():
                    say(f"{directory / archive.download.name}: not needed any more; remove it to make room")
            else:
                zip_path = fetch(archive.download, directory, progress=progress, waits=waits)
                num_files = unpack(zip_path, archive.folder, directory, keep=archive.keep, progress=progress)
                _stamp(directory, archive, num_files, archive.download.sha256)
                zip_path.unlink()
            say(f"{directory / archive.folder}: {num_files:,} files, complete")


def _announce(directory: Path, missing: Sequence[Archive], say: Callable[[str], None]) -> None:
    free, needed = disk_usage(directory).free, needed_room(directory, missing)
    fetched = sum((archive.download.size or 0) - _here(directory, archive) for archive in missing)
    unpacked = sum(archive.unpacked for archive in missing)
    names = ", ".join(f"{archive.folder} {readable(archive.download.size or 0)}" for archive in missing)
    say(f"{directory}: to fetch {readable(fetched)} ({names}), unpacked about {readable(unpacked)}")
    say(
        f"{directory}: needs about {readable(needed)} of disk at the most, as each zip is removed once it is unpacked; "
        f"{readable(free)} are free"
    )
    if free < needed:
        raise DownloadError(
            f"{directory}: {readable(needed)} are needed, {readable(free)} are free; make room or give another folder"
        )


def needed_room(directory: Path, missing: Sequence[Archive]) -> int:
    """Free bytes that fetching and unpacking `missing`, one after the other, takes at its peak.

    What is downloaded already counts as there; a zip is removed once it is unpacked.
    """
    used = peak = 0
    for archive in missing:
        fetched = used + (archive.download.size or 0) - _here(directory, archive)
        peak = max(peak, fetched + archive.unpacked)
        used += archive.unpacked - _here(directory, archive)
    return peak


def _here(directory: Path, archive: Archive) -> int:
    """Bytes of an archive that are downloaded already, at most its size."""
    paths = [directory / f"{archive.download.name}{suffix}" for suffix in ("", ".partial")]
    return min(archive.download.size or 0, max(path.stat().st_size if path.is_file() else 0 for path in paths))


def _stamp(directory: Path, archive: Archive, num_files: int, sha256: str) -> None:
    path = directory / STAMP
    entry = {"archive": archive.download.url, "sha256": sha256, "num_files": num_files}
    write_json(path, _stamps(directory) | {archive.folder: entry})


def _stamps(directory: Path) -> dict[str, Any]:
    try:
        content = read_json(directory / STAMP)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _confirmed(directory: Path, archive: Archive) -> int:
    folder = directory / archive.folder
    if not folder.is_dir():
        raise DownloadError(f"{folder}: is no folder; move it away, and run the same command")
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    expected = _stamps(directory).get(archive.folder, {}).get("num_files")
    is_ours = isinstance(expected, int)
    wanted = set() if is_ours else set(archive.keep) or _listed(directory, archive)
    num_missing = max(0, expected - len(there)) if is_ours else len(wanted - there)
    if num_missing:
        raise DownloadError(
            f"{folder}: {num_missing:,} of its files are missing; move the folder away, and run the same command"
        )
    if not is_ours:
        _stamp(directory, archive, len(there), "")
    return len(there)


def _listed(directory: Path, archive: Archive) -> set[str]:
    path = directory / "annotations" / f"instances_{archive.split}2017.json"
    try:
        return {str(image["file_name"]) for image in read_json(path)["images"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{path}: cannot be read ({error}); move {path.parent} away, and run the same command"
        ) from None
