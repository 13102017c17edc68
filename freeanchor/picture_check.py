"""What is wrong with the picture files of a split: missing, damaged, of another size, turned by a flag, not listed.

for problem in picture_problems(content.entries, Path("data/shapes/images"), decode=True):
    print(problem)
"""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from freeanchor.errors import Problem
from freeanchor.json_check import PictureEntry
from freeanchor.picture_files import PictureFileError, opened, orientation, size_difference, to_rgb

UPRIGHT = (None, 0, 1)
MAX_THREADS = 8  # decoding lets go of Python's lock, so threads share the work

Finding = tuple[str, str, str]  # kind, what, remedy


def picture_problems(
    entries: Sequence[PictureEntry], folder: Path, *, decode: bool = True, desc: str = "pictures"
) -> list[Problem]:
    """Problems of the listed pictures, in their order; with `decode`, each is read to its end.

    Without, only headers are read: much faster, but blind to files that are cut short. Progress goes to stderr.
    """
    executor = ThreadPoolExecutor(max_workers=min(MAX_THREADS, os.cpu_count() or 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large or odd files, which are read all the same
        try:
            found = executor.map(lambda entry: _problems(entry, folder, decode), entries)
            bar = tqdm(found, total=len(entries), desc=f"check {desc}", unit="picture", disable=None)
            return [problem for problems in bar for problem in problems]
        finally:
            executor.shutdown(cancel_futures=True)  # an interruption does not wait for the rest


def _problems(entry: PictureEntry, folder: Path, decode: bool) -> list[Problem]:
    """Problems of one picture."""
    where = f"{folder.name}/{entry.file_name}"
    try:
        with opened(folder / entry.file_name) as image:
            size, flag = image.size, orientation(image)
            if decode:
                to_rgb(image)
    except PictureFileError as error:
        kind = "missing pictures" if error.is_missing else "unreadable pictures"
        return [_error(where, (kind, error.what, error.remedy))]
    return [*_size_problems(entry, size, flag, where), *_turn_problems(flag, where)]


def _error(where: str, finding: Finding) -> Problem:
    """A problem that keeps a picture from being used."""
    kind, what, remedy = finding
    return Problem(severity="error", kind=kind, where=where, what=what, remedy=remedy)


def _size_problems(entry: PictureEntry, size: tuple[int, int], flag: int | None, where: str) -> Iterator[Problem]:
    """A picture that is not as large as the json says: boxes would lie in the wrong places."""
    if entry.size is not None and size != entry.size:
        what, remedy = size_difference(size, entry.size, flag)
        yield _error(where, ("pictures of another size", what, remedy))


def _turn_problems(flag: int | None, where: str) -> Iterator[Problem]:
    """A picture that viewers show turned: it is read here as it is stored."""
    if flag not in UPRIGHT:
        yield Problem(
            severity="warning",
            kind="pictures turned by a flag",
            where=where,
            what=f"viewers turn it (EXIF orientation {flag}), here it is read as stored",
            remedy="see that its boxes were drawn on the stored pixels, or store it turned",
        )


def unlisted_problems(listed: Collection[str], folder: Path) -> Iterator[Problem]:
    """The files of a picture folder that no json lists, as one problem; hidden files do not count."""
    unlisted = [
        name
        for base, folders, names in os.walk(folder)
        for name in ((Path(base) / name).relative_to(folder).as_posix() for name in names)
        if name not in listed and not name.split("/")[-1].startswith(".")
    ]
    if unlisted:
        yield Problem(
            severity="warning",
            kind="files that are not listed",
            where=f"{folder.name}/",
            what=f"{len(unlisted):,} files are in no json, {min(unlisted)!r} for one",
            remedy="they are not used",
        )
