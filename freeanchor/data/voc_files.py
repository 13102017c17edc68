"""Where the xml files and images of a VOC style data set lie, and which of them train.

Understood are VOC's own layout (`Annotations/`, `JPEGImages/`, `ImageSets/Main/`), one folder per split (`train/`,
`valid/` or `val/`), and xml in one folder without any split. Upper and lower case do not matter in names of folders.
Images are looked up by name among the files of one folder, so that nothing an xml says leads out of it.

    layout = find_layout(Path("VOCdevkit"))
    layout.splits["train"].xml_paths, layout.notes
    path = ImageFolder(layout.splits["train"].images).find("2007_000027.jpg", "2007_000027")
"""

import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from freeanchor.data.images import TURNED, opened, orientation, size_difference
from freeanchor.errors import DataError, FileError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # the first wins where one image is there in several kinds
IMAGE_FOLDERS = ("jpegimages", "images")
SPLIT_NAMES = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"))  # which lists train and validate, best first
MAX_DEPTH = 2  # folders between the given one and the data set's own
EVERY = 5  # without any split, the images with this position and its multiples validate


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The xml files of one split in order, the folder of their images, and what says that they belong to it.

    `num_missing` counts images that a list names and no xml describes.
    """

    said_by: str
    xml_paths: tuple[Path, ...]
    images: Path
    num_missing: int = 0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Both splits of a data set, "train" and "val", and what its reader should know of how they were found.

    `is_listed` says that files of ids decided: images that no list names are then no business of ours.
    """

    splits: Mapping[str, SplitFiles]
    is_listed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A folder with xml files, and the one of their images."""

    annotations: Path
    images: Path


def find_layout(source: Path) -> Layout:
    """The splits of the data set in `source`, or in the only folder up to two levels below it that holds one.

    Lists of `ImageSets` decide where there are any: train and val, else trainval and test. Then folders: train, and
    valid or val, else test. Otherwise every fifth xml by name validates. Raises DataError in one line where there is
    no such folder, no xml, more than one data set, or no telling what should train.
    """
    if not source.is_dir():
        raise DataError.at(source, "no such folder", "give the one that holds Annotations/, or train/")
    root = source if _is_data_set(source) else _only_one_below(source)
    if place := _annotations_place(root):
        return _from_lists(root, place)
    if folders := _split_places(root):
        return _from_folders(root, folders)
    return _every_fifth(_folder_split(_Place(annotations=root, images=root), root), str(root))


def _names(folder: Path, *, folders: bool) -> list[str]:
    """Sorted names of the files or folders in a folder, hidden ones left out (archives made on a Mac hold some)."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".")]
        return sorted(entry.name for entry in kept if (entry.is_dir() if folders else entry.is_file()))


def _xml_paths(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder, folders=False) if name.lower().endswith(".xml")]


def _is_data_set(folder: Path) -> bool:
    return bool(_annotations_place(folder) or _split_places(folder) or _xml_paths(folder))


def _annotations_place(folder: Path) -> _Place | None:
    """The xml folder of VOC's own layout, if there is one, with its images: JPEGImages, or beside the xml."""
    children = {name.casefold(): folder / name for name in _names(folder, folders=True)}
    annotations = children.get("annotations")
    if annotations is None or not _xml_paths(annotations):
        return None
    images = next((children[name] for name in IMAGE_FOLDERS if name in children), annotations)
    return _Place(annotations=annotations, images=images)


def _split_places(folder: Path) -> dict[str, _Place]:
    """One folder per split that holds xml, by the name of the split; empty without one that trains."""
    places: dict[str, _Place] = {}
    for name in _names(folder, folders=True):
        split, child = SPLIT_NAMES.get(name.casefold()), folder / name
        if split is None:
            continue
        place = _annotations_place(child) or _Place(annotations=child, images=child)
        if not _xml_paths(place.annotations):
            continue
        if split in places:
            raise DataError.at(folder, f"two folders are a {split} split, {name} for one", "leave only one")
        places[split] = place
    return places if "train" in places else {}


def _only_one_below(source: Path) -> Path:
    found = list(_below(source, MAX_DEPTH))
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError.at(source, "holds no xml files", "give the folder with Annotations/, or with train/")
    names = ", ".join(path.relative_to(source).as_posix() for path in found[:5]) + (", …" if len(found) > 5 else "")
    raise DataError.at(source, f"holds {len(found)} data sets ({names})", "give one of them")


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Data sets in the folders below, not looking for others inside one."""
    for name in _names(folder, folders=True):
        if _is_data_set(folder / name):
            yield folder / name
        elif depth > 1:
            yield from _below(folder / name, depth - 1)


def _from_lists(root: Path, place: _Place) -> Layout:
    """VOC's own layout; without lists, every fifth xml validates."""
    paths, lists = _xml_paths(place.annotations), _lists(root)
    if not lists:
        return _every_fifth(_folder_split(place, root), str(place.annotations))
    pair = next((pair for pair in PAIRS if set(pair) <= lists.keys()), None)
    if pair is None:
        name = next((name for name in ("trainval", "train") if name in lists), None)
        if name is None:
            remedy = "write the names of the images to train on into train.txt there, one per line"
            raise DataError.at(next(iter(lists.values())), "there is no train.txt beside it", remedy)
        listed = _listed(lists[name], root, paths, place)
        return _every_fifth(listed, listed.said_by, is_listed=True)
    train, val = (_listed(lists[name], root, paths, place) for name in pair)
    notes = tuple(_list_notes(lists, pair, paths, (train, val)))
    return Layout(splits={"train": train, "val": val}, is_listed=True, notes=notes)


def _lists(root: Path) -> dict[str, Path]:
    """The lists of ids by the name of their split; the lists of single classes are left out."""
    for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
        paths = {name: folder / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
        if found := {name: path for name, path in paths.items() if path.is_file()}:
            return found
    return {}


def _listed(path: Path, root: Path, xml_paths: Sequence[Path], place: _Place) -> SplitFiles:
    """The split that a list of ids names; ids without xml are counted and left out."""
    by_stem = {xml.stem: xml for xml in xml_paths}
    # an id may hold blanks, and a list may have columns behind the id; "surrogateescape" is how names of files read
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    ids = [line.strip() if line.strip() in by_stem else line.split()[0] for line in lines if line.strip()]
    found = [by_stem.get(name) or by_stem.get(_bare(name)) for name in ids]  # "images/1.jpg" is meant for 1
    return SplitFiles(
        said_by=path.relative_to(root).as_posix(),
        xml_paths=tuple(dict.fromkeys(xml for xml in found if xml is not None)),
        images=place.images,
        num_missing=found.count(None),
    )


def _list_notes(
    lists: Mapping[str, Path], pair: tuple[str, str], xml_paths: Sequence[Path], splits: Sequence[SplitFiles]
) -> Iterator[str]:
    if pair[1] == "test":
        yield f"{pair[0]}.txt trains and test.txt validates, as there are not both train.txt and val.txt"
    elif "test" in lists:
        yield "test.txt is left alone"
    used = {path for split in splits for path in split.xml_paths}
    if num_unused := len(xml_paths) - len(used):
        yield f"{num_unused:,} xml files are in neither list and left alone"


def _from_folders(root: Path, places: Mapping[str, _Place]) -> Layout:
    """One folder per split: without one that validates, test does, or else every fifth xml of train."""
    second = next((name for name in ("val", "test") if name in places), None)
    if second is None:
        return _every_fifth(_folder_split(places["train"], root), str(places["train"].annotations))
    train, val = (_folder_split(places[name], root) for name in ("train", second))
    notes = ("test/ is left alone",) if second == "val" and "test" in places else ()
    notes = ("test/ validates, as there is neither valid/ nor val/",) if second == "test" else notes
    return Layout(splits={"train": train, "val": val}, is_listed=False, notes=notes)


def _folder_split(place: _Place, root: Path) -> SplitFiles:
    said_by = f"{place.annotations.relative_to(root).as_posix()}/"
    return SplitFiles(said_by=said_by, xml_paths=tuple(_xml_paths(place.annotations)), images=place.images)


def _every_fifth(files: SplitFiles, where: str, *, is_listed: bool = False) -> Layout:
    """Every fifth xml by name validates, the others train: the same ones whenever the same files are there."""
    ordered = sorted(files.xml_paths, key=lambda path: path.name)
    if len(ordered) < EVERY:
        what = f"{len(ordered)} xml files without a val split are too few"
        raise DataError.at(where, what, f"give {EVERY} or more, or folders train/ and val/")
    train = tuple(path for position, path in enumerate(ordered, start=1) if position % EVERY)
    val = tuple(ordered[EVERY - 1 :: EVERY])
    return Layout(
        splits={
            "train": replace(files, said_by="four of five by name", xml_paths=train),
            "val": replace(files, said_by="every fifth by name", xml_paths=val, num_missing=0),
        },
        is_listed=is_listed,
        notes=(f"{where} says of no image that it validates: every fifth by name does",),
    )


class ImageFolder:
    """The files of a folder, asked for images by what an xml calls them; hidden files and xml do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files, those of an image's extension first and in the order of `EXTENSIONS`, then by name."""
        rank = {extension: place for place, extension in enumerate(EXTENSIONS)}
        kept = [name for name in _names(self.path, folders=False) if not name.lower().endswith(".xml")]
        return tuple(sorted(kept, key=lambda name: (rank.get(PurePosixPath(name).suffix.lower(), len(rank)), name)))

    @property
    def images(self) -> tuple[Path, ...]:
        """The files with an image's extension."""
        return tuple(self.path / name for name in self.names if PurePosixPath(name).suffix.lower() in EXTENSIONS)

    @cached_property
    def _by_key(self) -> dict[str, str]:
        """Files by everything they may be called; what is closer to their name takes precedence."""
        found = {name: name for name in self.names}
        for name in self.names:
            found.setdefault(_bare(name), name)
        for key, name in tuple(found.items()):
            found.setdefault(folded(key), name)
        return found

    def find(self, filename: str, stem: str) -> Path | None:
        """The image that an xml calls `filename` (it may hold folders, lack its extension, or have a wrong one).

        Where there is none of that name, or it is "", the one called as the xml itself, `stem`. None if neither is
        there. Upper and lower case count only where both are there.
        """
        for key in (last_part(filename), _bare(filename), stem):
            found = self._by_key.get(key) or self._by_key.get(folded(key))
            if found:
                return self.path / found
        return None


def last_part(name: str) -> str:
    """What stands behind the last slash of a path, Windows' slashes too."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def _bare(name: str) -> str:
    """A file's name without folders, and without its extension if that is an image's."""
    path = PurePosixPath(last_part(name))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def folded(name: str) -> str:
    """One spelling for names that some file systems take for the same: case, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


def stored_size(path: Path, said: tuple[int, int] | None) -> tuple[int, int]:
    """(width, height) in the header of an image, which is not decoded; `said` is what its xml has.

    Raises DataError in one line where it is no image, or where `said` is its size as viewers turn it by an EXIF
    flag: the boxes then lie on the turned image, while pixels are read here as they are stored.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on large or odd files, which are read all the same
        try:
            with opened(path) as image:
                size = image.size
                flag = orientation(image) if said == size[::-1] and said != size else None
        except FileError as error:
            raise DataError.at(path, error.what, error.remedy) from None
    if flag in TURNED and said is not None:
        what = f"is stored {size[0]}x{size[1]}, its boxes were drawn as viewers turn it (EXIF orientation {flag})"
        raise DataError.at(path, what, size_difference(size, said, flag)[1])
    return size
