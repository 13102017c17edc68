"""The files of a VOC style data set by the names that xml and lists have for them.

Names may have folders before them, with slashes or backslashes, lack an extension or have another one, and differ in
case and in how accents are composed. All are looked up among the files below one folder: none leads out of it.

    path = ImageFolder(Path("VOC2012/JPEGImages")).find("2007_000027.jpg", "2007_000027")
"""

import codecs
import contextlib
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

from freeanchor.data.image_names import each_folder, folded
from freeanchor.data.images import EXTENSIONS
from freeanchor.errors import FileError, brief

OURS = {"train.json", "val.json"}  # a folder with both was made by a conversion
# How lists of names are written that are not UTF-8 and have no byte order mark: as the names that they hold say.
CODE_PAGES = ("cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "gb18030", "cp932", "cp949", "cp950")
FLAG = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # VOC's lists of single classes have one behind each name


def files_below(folder: Path) -> list[Path]:
    """The files below a folder by their path, without hidden ones and what a conversion made; links are followed.

    Raises OSError for a folder that cannot be listed. Links that lead nowhere are among the files: whoever reads one
    is told.
    """
    found = list[Path]()
    for base, folders, names in each_folder(folder, _raise):
        if set(names) >= OURS and base != folder:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [base / name for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if path.is_file() or (path.is_symlink() and not path.exists())]


def _raise(error: OSError) -> None:
    raise error


def is_xml(name: str) -> bool:
    """Whether a file is called as an xml is."""
    return name.lower().endswith(".xml")


class XmlNames:
    """The xml files below a folder, asked for one by a line of a list."""

    def __init__(self, folder: Path, paths: Sequence[Path]) -> None:
        self.by_path = {path.relative_to(folder).with_suffix("").as_posix(): path for path in paths}
        self.by_stem: dict[str, list[Path]] = defaultdict(list)
        for name, path in self.by_path.copy().items():
            self.by_path.setdefault(folded(name), path)
            self.by_stem[folded(path.stem)].append(path)

    def find(self, line: str, images: "ImageFolder | None" = None) -> Path | None:
        """The xml that a line names: whole, in quotes, with a flag or columns behind it; None where there is none.

        A line that is the name of an image in `images` has no columns.
        """
        if found := self._of_name(line):
            return found
        if images is not None and "/" not in line and images.has(line):
            return None
        flagged, quoted = FLAG.fullmatch(line), re.match(r'"([^"]+)"', line)
        first, _, columns = line.partition(" ")
        names = [match[1] for match in (quoted, flagged) if match]
        if not any(word.lower().endswith(EXTENSIONS) for word in columns.split()):
            names.append(first.split()[0])
        return next((found for name in names if (found := self._of_name(name))), None)

    def _of_name(self, name: str) -> Path | None:
        """The xml of a name, with or without extension and with more folders before it than it lies in, or with none.

        Raises FileError where a name without folders is that of several.
        """
        plain = _without_extension(name.replace("\\", "/"))
        parts = plain.split("/")
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        for key in (name, *tails, *map(folded, tails)):
            if key in self.by_path:
                return self.by_path[key]
        found = self.by_stem.get(folded(plain), []) if len(parts) == 1 else []
        if len(found) > 1:
            raise FileError(f"names {brief(name)}, of which there are {len(found)}", "write its folder before it")
        return found[0] if found else None


def list_lines(content: bytes, index: XmlNames) -> list[str]:
    """The lines of a list that are not empty, decoded by its mark, as UTF-8, or as most of its names are known."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings: tuple[str, ...] = ("utf-16",)
    elif b"\0" in content:
        encodings = ("utf-16-be" if content.startswith(b"\0") else "utf-16-le",)
    else:
        encodings = ("utf-8-sig",)
    texts = []
    with contextlib.suppress(UnicodeDecodeError):
        texts.append(content.decode(encodings[0]))
    if not texts:  # the last is how names of files read that are in no encoding
        for page in CODE_PAGES:
            with contextlib.suppress(UnicodeDecodeError):
                texts.append(content.decode(page))
        texts.append(content.decode("utf-8-sig", errors="surrogateescape"))
    every = [[line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()] for text in texts]
    return max(every, key=lambda lines: sum(index.find(line) is not None for line in lines)) if texts[1:] else every[0]


class ImageFolder:
    """The files below a folder, asked for images by what an xml calls them; hidden files and xml do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        """Names of the files by their folder: those of an image's extension first, in the order of `EXTENSIONS`.

        The first wins where one image is there in several kinds.
        """
        rank = {extension: place for place, extension in enumerate(EXTENSIONS)}
        found: dict[str, list[str]] = {"": []}
        for path in files_below(self.path):
            if not is_xml(path.name):
                folder = path.parent.relative_to(self.path).as_posix()
                found.setdefault("" if folder == "." else folder, []).append(path.name)
        for names in found.values():
            names.sort(key=lambda name: (rank.get(PurePosixPath(name).suffix.lower(), len(rank)), name))
        return found

    @property
    def images(self) -> tuple[Path, ...]:
        """The files with an image's extension."""
        every = (self.path / folder / name for folder, names in self._names.items() for name in names)
        return tuple(path for path in every if path.suffix.lower() in EXTENSIONS)

    @cached_property
    def _by_key(self) -> dict[str, dict[str, str]]:
        """Files of each folder by everything they may be called; what is closer to their name takes precedence."""
        return {folder: self._keys(names) for folder, names in self._names.items()}

    @staticmethod
    def _keys(names: Sequence[str]) -> dict[str, str]:
        found = {name: name for name in names}
        for name in names:
            found.setdefault(_bare(name), name)
        for key, name in tuple(found.items()):
            found.setdefault(folded(key), name)
        return found

    def _inside(self, folder: str, name: str) -> Path | None:
        keys = self._by_key.get(folder, {})
        found = keys.get(name) or keys.get(folded(name))
        return self.path / folder / found if found else None

    def has(self, name: str) -> bool:
        """Whether some folder holds an image of that name, with or without its extension."""
        return any(self._inside(folder, name) for folder in self._by_key)

    def find(self, filename: str, stem: str, *, inside: str = "", said: str = "") -> Path | None:
        """The image that an xml calls `filename` (it may hold folders, lack its extension, or have a wrong one).

        It is looked for in the folder that lies as the xml does, `inside`, then in the one that the name has, or that
        the xml has `said`; then anywhere, unless there is a folder for this xml. Where there is none of that name, or
        it is "", the one called as the xml itself, `stem`. None if neither is there. Upper and lower case count only
        where both are there. Raises FileError where several are.
        """
        parts = [part for part in filename.replace("\\", "/").split("/") if part not in ("", ".", "..")][:-1]
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        is_placed = inside != "" and inside in self._by_key
        several: list[Path] = []
        for key, folders in (
            (last_part(filename), [inside, *tails, said]),
            (_bare(filename), [inside, *tails, said]),
            (stem, [inside]),
        ):
            found = [path for folder in folders if (path := self._inside(folder, key))]
            if not found and not is_placed:
                found = [path for folder in self._by_key if (path := self._inside(folder, key))]
                if len(found) > 1:
                    several, found = several or found, []
            if found:
                return found[0]
        if several:
            names = " and ".join(path.relative_to(self.path).as_posix() for path in several[:2])
            what = f"is about {several[0].name}, of which there are {len(several)} ({names})"
            raise FileError(what, "write its folder before its <filename>")
        return None


def last_part(name: str) -> str:
    """What stands behind the last slash of a path, Windows' slashes too."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _bare(name: str) -> str:
    """A file's name without folders, and without its extension if that is an image's."""
    path = PurePosixPath(last_part(name))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def _without_extension(name: str) -> str:
    """A path without the extension of an image or an xml."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix.lower()}" in (*EXTENSIONS, ".xml") else name
