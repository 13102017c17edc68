"""The files that the names of a json mean, where these differ in ways that systems and exports bring about.

Case, how accents are composed, `%20` for a blank, backslashes, and folders before a name or before its file do not
matter, as long as one file alone can be meant by one name alone. Only files that lie in the folder are ever found.

    matched(["images/My%20Photo.JPG"], Path("data/images"))      # {"images/My%20Photo.JPG": "my photo.jpg"}
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from freeanchor.errors import Problem, brief

Parts = tuple[str, ...]
KIND = "file names that differ"


def folded(name: str) -> str:
    """One spelling for names that some file systems take for the same: case, and how accents are composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def matched(names: Collection[str], folder: Path) -> dict[str, str]:
    """The file, relative to `folder`, that each name means which is not that of a file itself.

    Names that mean none, that several files could be meant by, or that share a file with another name are left out.
    """
    return ImageNames(folder).matched(names)


class ImageNames:
    """The files below an image folder by their names; looked up once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def _files(self) -> set[str]:
        return _files(self.folder)

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[Parts, str]]]:
        found = defaultdict(list)
        for file in sorted(self._files):
            parts = _parts(file)
            found[parts[-1]].append((parts, file))
            found[f"{_stem(parts[-1])}/"].append((parts, file))  # no name has a slash
        return dict(found)

    def matched(self, names: Collection[str]) -> dict[str, str]:
        """As `matched` has it."""
        missing = [n for n in names if n not in self._files and not os.path.exists(self.folder / n)]  # noqa: PTH110
        found = {name: _only(_parts(name), self._by_name) for name in missing}
        claims = Counter(found.values())
        return {name: file for name, file in found.items() if file and claims[file] == 1 and file not in names}

    def alike(self, name: str) -> list[str]:
        """Files of a missing image's name, in any folder and any spelling, else with another extension."""
        last = _parts(name)[-1]
        near = self._by_name.get(last) or self._by_name.get(f"{_stem(last)}/") or []
        return [file for _, file in near if file != name]  # itself, where it is a link that leads nowhere


def _files(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it; links are followed, each folder once."""
    found = set[str]()
    for base, _, names in each_folder(folder):
        inside = base.relative_to(folder).as_posix()
        found.update(names if inside == "." else (f"{inside}/{name}" for name in names))
    return found


def each_folder(
    folder: Path, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` that follows links and meets each folder once: a link that leads up would not end."""
    seen = set[tuple[int, int]]()
    for base, folders, names in os.walk(folder, followlinks=True, onerror=on_error):
        where = Path(base).stat()
        if (where.st_dev, where.st_ino) in seen:
            folders.clear()
            continue
        seen.add((where.st_dev, where.st_ino))
        yield Path(base), folders, names


def _parts(name: str) -> Parts:
    """Folders and name, in the one spelling; `..` stays, and is no file's."""
    plain = folded(unquote(name, errors="surrogateescape").replace("\\", "/"))
    return tuple(part.strip() for part in plain.split("/") if part.strip() not in ("", ".")) or ("",)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _only(parts: Parts, by_name: Mapping[str, list[tuple[Parts, str]]]) -> str | None:
    """The one file with these parts, or else the one whose parts end with them, or they with its."""
    near = by_name.get(parts[-1], [])
    same = [file for own, file in near if own == parts]
    alike = [file for own, file in near if parts[-len(own) :] == own or own[-len(parts) :] == parts]
    found = same or alike
    return found[0] if len(found) == 1 and ".." not in parts else None


def name_problem(found: Mapping[str, str], num_names: int, where: str) -> Problem:
    """The warning of what `matched` has found."""
    name, file = min(found.items())
    if unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", file):  # they look the same
        name, file = ascii(name)[1:-1], ascii(file)[1:-1]
    what = f"{len(found):,} of {num_names:,} file names are not as the files are called, {brief(name)} is {brief(file)}"
    return Problem.warning(KIND, where, what, "they are read all the same; other programs may not find them")
