"""The picture that a VOC xml file is about: found by name, its size read from its header.

What it is: names looked up among the files of one folder, so that nothing an xml says leads out of it. What it is not:
reading of pixels; a file that is cut short shows in `freeanchor data check`.

    folder = PictureFolder(Path("VOC2012/JPEGImages"))
    path = folder.find(file.filename, "2007_000027")
    width, height = stored_size(path, file.size)
"""

import os
import unicodedata
import warnings
from functools import cached_property
from pathlib import Path, PurePosixPath

from freeanchor.data import DataError
from freeanchor.errors import printable
from freeanchor.picture_files import TURNED, PictureFileError, opened, orientation, size_difference

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # the first wins where one picture is there in several kinds


def last_part(name: str) -> str:
    """What stands behind the last slash of a path, Windows' slashes too."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def bare_name(name: str) -> str:
    """A file's name without folders, and without its extension if that is a picture's."""
    path = PurePosixPath(last_part(name))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def folded(name: str) -> str:
    """One spelling for names that some file systems take for the same: case, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


class PictureFolder:
    """The files of a folder, asked for pictures by what an xml calls them; hidden files and xml do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files, those of a picture's extension first and in the order of `EXTENSIONS`, then by name."""
        rank = {extension: place for place, extension in enumerate(EXTENSIONS)}
        with os.scandir(self.path) as entries:
            files = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        kept = [name for name in files if not name.lower().endswith(".xml")]
        return tuple(sorted(kept, key=lambda name: (rank.get(PurePosixPath(name).suffix.lower(), len(rank)), name)))

    @property
    def pictures(self) -> tuple[Path, ...]:
        """The files with a picture's extension."""
        return tuple(self.path / name for name in self.names if PurePosixPath(name).suffix.lower() in EXTENSIONS)

    @cached_property
    def _by_key(self) -> dict[str, str]:
        """Files by everything they may be called; what is closer to their name takes precedence."""
        found = {name: name for name in self.names}
        for name in self.names:
            found.setdefault(bare_name(name), name)
        for key, name in tuple(found.items()):
            found.setdefault(folded(key), name)
        return found

    def find(self, filename: str, stem: str) -> Path | None:
        """The picture that an xml calls `filename` (it may hold folders, lack its extension, or have a wrong one).

        Where there is none of that name, or it is "", the one called as the xml itself, `stem`. None if neither is
        there. Upper and lower case count only where both are there.
        """
        for key in (last_part(filename), bare_name(filename), stem):
            found = self._by_key.get(key) or self._by_key.get(folded(key))
            if found:
                return self.path / found
        return None


def stored_size(path: Path, said: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) in the header of a picture, which is not decoded; `said` is what its xml has.

    Raises DataError in one line where it is no picture, or where `said` is its size as viewers turn it by an EXIF
    flag: the boxes then lie on the turned picture, while pixels are read here as they are stored.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large or odd files, which are read all the same
        try:
            with opened(path) as image:
                size = image.size
                flag = orientation(image) if said == size[::-1] and said != size else None
        except PictureFileError as error:
            raise DataError(printable(f"{path}: {error}")) from None
    if flag in TURNED and said is not None:
        _, remedy = size_difference(size, said, flag)
        what = f"is stored {size[0]}x{size[1]}, its boxes were drawn as viewers turn it (EXIF orientation {flag})"
        raise DataError(printable(f"{path}: {what}; {remedy}"))
    return size
