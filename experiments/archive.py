"""Unpacking a zip so that its folder is there as a whole or not at all.

num_files = unpack(Path("data/coco/val2017.zip"), "val2017", Path("data/coco"))
"""

import shutil
import stat
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from tqdm import tqdm

from experiments.remote_file import CHUNK, disk_error, quiet, readable
from freeanchor.errors import DownloadError

SUFFIX = ".unpacking"  # of the hidden folder that files are written to
BLOCK = 4096  # bytes: what the last piece of a file takes on a common file system
DAMAGED = (BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # what zipfile raises, and on what


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
            members = _members(bundle, zip_path, folder, keep)
            _require_room(directory, zip_path, members)
            for member in tqdm(members, desc=f"unpack {zip_path.name}", unit="file", disable=quiet(progress)):
                _extract(bundle, member, hidden)
        (hidden / folder).rename(directory / folder)
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
    return len(members)


def remove_leftovers(directory: Path) -> None:
    """Remove the hidden folders of an unpacking that was killed."""
    for path in directory.glob(f".*{SUFFIX}"):
        _remove(path)


def _remove(hidden: Path) -> None:
    """Remove a hidden folder, if it is there."""
    shutil.rmtree(hidden, ignore_errors=True)


def _members(bundle: ZipFile, zip_path: Path, folder: str, keep: Sequence[str]) -> list[ZipInfo]:
    """The files of `folder` in a zip, none of which leads elsewhere."""
    files = [info for info in bundle.infolist() if not info.is_dir()]
    for info in files:
        if _is_unsafe(info):
            raise DownloadError(
                f"{zip_path}: holds {info.filename!r}, which leads out of its folder; do not use this archive"
            )
    inside = [info for info in files if PurePosixPath(info.filename).parts[0] == folder]
    members = [info for info in inside if not keep or PurePosixPath(info.filename).name in keep]
    missing = set(keep) - {PurePosixPath(info.filename).name for info in members}
    if missing or not members or len({info.filename for info in members}) < len(members):
        lacking = ", ".join(sorted(missing)) or f"a sound folder {folder}"
        raise DownloadError(f"{zip_path}: does not hold {lacking}; it is not the expected archive")
    return members


def _is_unsafe(info: ZipInfo) -> bool:
    """Whether a member would be written elsewhere than its name in a fresh folder says, or is a link."""
    path = PurePosixPath(info.filename)
    leaves = path.is_absolute() or ".." in path.parts or "\\" in info.filename or ":" in info.filename
    return leaves or not path.parts or stat.S_ISLNK(info.external_attr >> 16)


def _require_room(directory: Path, zip_path: Path, members: Sequence[ZipInfo]) -> None:
    """Raises DownloadError where the unpacked files do not fit on the disk."""
    needed = sum(-(-info.file_size // BLOCK) * BLOCK for info in members)
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise DownloadError(
            f"{directory}: {zip_path.name} takes {readable(needed)} unpacked, {readable(free)} are free; make room, "
            "the same command goes on"
        )


def _extract(bundle: ZipFile, member: ZipInfo, hidden: Path) -> None:
    """Write one file of a zip; zipfile compares its checksum at the end."""
    target = hidden / member.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    with bundle.open(member) as source, target.open("xb") as file:
        shutil.copyfileobj(source, file, CHUNK)
