"""What is wrong with the picture files of a split: missing, damaged, of another size, turned by a flag, not listed.

for problem in picture_problems(content.entries, Path("data/shapes/images"), decode=True):
    print(problem)
"""

import os
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from freeanchor.data_problems import Problem
from freeanchor.json_check import PictureEntry

ORIENTATION = 0x0112  # the EXIF tag that says how a camera was held
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
        size, orientation = _open(folder / entry.file_name, decode)
    except FileNotFoundError:
        return [_error(where, ("missing pictures", "no such picture", "put it there or take it out of the json"))]
    except UnidentifiedImageError:
        return [_error(where, ("unreadable pictures", "not a picture that can be read", "replace the file"))]
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        return [_error(where, ("unreadable pictures", f"cannot be read ({reason})", "copy the picture again"))]
    return [*_size_problems(entry, size, where), *_turn_problems(orientation, where)]


def _open(path: Path, decode: bool) -> tuple[tuple[int, int], int | None]:
    """(width, height) and EXIF orientation of a picture file, which is read to its end if `decode`."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with Image.open(path) as image:
        orientation = image.getexif().get(ORIENTATION)
        size = image.size
        if decode:
            image.convert("RGB")
    return size, orientation


def _error(where: str, finding: Finding) -> Problem:
    """A problem that keeps a picture from being used."""
    kind, what, remedy = finding
    return Problem(severity="error", kind=kind, where=where, what=what, remedy=remedy)


def _size_problems(entry: PictureEntry, size: tuple[int, int], where: str) -> Iterator[Problem]:
    """A picture that is not as large as the json says: boxes would lie in the wrong places."""
    if entry.size is not None and size != entry.size:
        what = f"is {size[0]}x{size[1]} pixels, the json says {entry.size[0]}x{entry.size[1]}"
        yield _error(where, ("pictures of another size", what, "correct whichever is wrong"))


def _turn_problems(orientation: int | None, where: str) -> Iterator[Problem]:
    """A picture that viewers show turned: it is read here as it is stored."""
    if orientation not in UPRIGHT:
        yield Problem(
            severity="warning",
            kind="pictures turned by a flag",
            where=where,
            what=f"viewers turn it (EXIF orientation {orientation}), here it is read as stored",
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
