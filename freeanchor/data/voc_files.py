"""Where the xml files of a VOC style data set lie, beside which images, and which of them train.

What it is: a look at folder and file names, and at the lists of `ImageSets`. What it is not: a look into any xml
(`voc_xml.py`) or image (`voc_images.py`).

Understood are VOC's own layout (`Annotations/`, `JPEGImages/`, `ImageSets/Main/`), folders of a split each (`train/`,
`valid/` or `val/`), and xml in one folder without any split. Upper and lower case do not matter in names of folders.

    layout = find_layout(Path("VOCdevkit"))
    layout.splits["train"].xml_paths, layout.notes

One Pascal VOC xml file: which image it is about, how large that is said to be, its objects.

What it is: the border to xml. What it is not: a look at the image, or a decision about what an object becomes
(`voc.py`).

Files come from strangers, so a DOCTYPE is refused before anything in it is read: without one there are no entities,
neither nested ones that grow to gigabytes nor external ones that fetch files. VOC's own files have none.

    file = read_voc_file(Path("VOC2012/Annotations/2007_000027.xml"))
    file.filename, file.size, file.objects[0].name, file.objects[0].box

The image that a VOC xml file is about: found by name, its size read from its header.

What it is: names looked up among the files of one folder, so that nothing an xml says leads out of it. What it is not:
reading of pixels; a file that is cut short shows in `freeanchor data check`.

    folder = ImageFolder(Path("VOC2012/JPEGImages"))
    path = folder.find(file.filename, "2007_000027")
    width, height = stored_size(path, file.size)
"""

import math
import os
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from freeanchor.data.images import TURNED, opened, orientation, size_difference
from freeanchor.errors import DataError, FileError, brief, is_line, printable

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # the first wins where one image is there in several kinds


def last_part(name: str) -> str:
    """What stands behind the last slash of a path, Windows' slashes too."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def bare_name(name: str) -> str:
    """A file's name without folders, and without its extension if that is an image's."""
    path = PurePosixPath(last_part(name))
    return path.stem if path.suffix.lower() in EXTENSIONS else path.name


def folded(name: str) -> str:
    """One spelling for names that some file systems take for the same: case, and how accents are composed."""
    return unicodedata.normalize("NFC", name).casefold()


class ImageFolder:
    """The files of a folder, asked for images by what an xml calls them; hidden files and xml do not count."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files, those of an image's extension first and in the order of `EXTENSIONS`, then by name."""
        rank = {extension: place for place, extension in enumerate(EXTENSIONS)}
        with os.scandir(self.path) as entries:
            files = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
        kept = [name for name in files if not name.lower().endswith(".xml")]
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
            found.setdefault(bare_name(name), name)
        for key, name in tuple(found.items()):
            found.setdefault(folded(key), name)
        return found

    def find(self, filename: str, stem: str) -> Path | None:
        """The image that an xml calls `filename` (it may hold folders, lack its extension, or have a wrong one).

        Where there is none of that name, or it is "", the one called as the xml itself, `stem`. None if neither is
        there. Upper and lower case count only where both are there.
        """
        for key in (last_part(filename), bare_name(filename), stem):
            found = self._by_key.get(key) or self._by_key.get(folded(key))
            if found:
                return self.path / found
        return None


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
            raise DataError(printable(f"{path}: {error}")) from None
    if flag in TURNED and said is not None:
        _, remedy = size_difference(size, said, flag)
        what = f"is stored {size[0]}x{size[1]}, its boxes were drawn as viewers turn it (EXIF orientation {flag})"
        raise DataError(printable(f"{path}: {what}; {remedy}"))
    return size


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
        raise DataError(printable(f"{source}: no such folder; give the one that holds Annotations/, or train/"))
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
    """The xml files of a folder by name."""
    return [folder / name for name in _names(folder, folders=False) if name.lower().endswith(".xml")]


def _annotations_place(folder: Path) -> _Place | None:
    """The xml folder of VOC's own layout, if there is one, with its images: JPEGImages, or beside the xml."""
    children = {name.casefold(): folder / name for name in _names(folder, folders=True)}
    annotations = children.get("annotations")
    if annotations is None or not _xml_paths(annotations):
        return None
    images = next((children[name] for name in IMAGE_FOLDERS if name in children), annotations)
    return _Place(annotations=annotations, images=images)


def _split_places(folder: Path) -> dict[str, _Place]:
    """Folders of a split each that hold xml, by the name of the split; none without one that trains."""
    places: dict[str, _Place] = {}
    for name in _names(folder, folders=True):
        split, child = SPLIT_NAMES.get(name.casefold()), folder / name
        if split is None:
            continue
        place = _annotations_place(child) or _Place(annotations=child, images=child)
        if not _xml_paths(place.annotations):
            continue
        if split in places:
            raise DataError(printable(f"{folder}: two folders are a {split} split, {name} for one; leave only one"))
        places[split] = place
    return places if "train" in places else {}


def _is_data_set(folder: Path) -> bool:
    """Whether a folder itself holds xml in a layout that is understood."""
    return bool(_annotations_place(folder) or _split_places(folder) or _xml_paths(folder))


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Data sets in the folders below, not looking for others inside one."""
    for name in _names(folder, folders=True):
        if _is_data_set(folder / name):
            yield folder / name
        elif depth > 1:
            yield from _below(folder / name, depth - 1)


def _only_one_below(source: Path) -> Path:
    """The one data set below `source`."""
    found = list(_below(source, MAX_DEPTH))
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(printable(f"{source}: holds no xml files; give the folder with Annotations/, or with train/"))
    names = ", ".join(path.relative_to(source).as_posix() for path in found[:5]) + (", …" if len(found) > 5 else "")
    raise DataError(printable(f"{source}: holds {len(found)} data sets ({names}); give one of them"))


def _lists(root: Path) -> dict[str, Path]:
    """The lists of ids by the name of their split; the lists of single classes are none."""
    for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
        found = {name: folder / f"{name}.txt" for name in ("train", "val", "trainval", "test")}
        if found := {name: path for name, path in found.items() if path.is_file()}:
            return found
    return {}


def _from_lists(root: Path, place: _Place) -> Layout:
    """VOC's own layout; without lists, every fifth xml validates."""
    paths, lists = _xml_paths(place.annotations), _lists(root)
    if not lists:
        return _every_fifth(_folder_split(place, root), str(place.annotations))
    pair = next((pair for pair in PAIRS if set(pair) <= lists.keys()), None)
    if pair is None:
        name = next((name for name in ("trainval", "train") if name in lists), None)
        if name is None:
            remedy = "write the names of the images to train on into train.txt there, one a line"
            raise DataError(printable(f"{next(iter(lists.values()))}: there is no train.txt beside it; {remedy}"))
        listed = _listed(lists[name], root, paths, place)
        return _every_fifth(listed, listed.said_by, is_listed=True)
    train, val = (_listed(lists[name], root, paths, place) for name in pair)
    return Layout(
        splits={"train": train, "val": val}, is_listed=True, notes=tuple(_list_notes(lists, pair, paths, (train, val)))
    )


def _listed(path: Path, root: Path, xml_paths: Sequence[Path], place: _Place) -> SplitFiles:
    """The split that a list of ids names; ids without xml are counted and left out."""
    by_stem = {xml.stem: xml for xml in xml_paths}
    # an id may hold blanks, and a list may have columns behind the id; "surrogateescape" is how names of files read
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    ids = [line.strip() if line.strip() in by_stem else line.split()[0] for line in lines if line.strip()]
    found = [by_stem.get(name) or by_stem.get(bare_name(name)) for name in ids]  # "images/1.jpg" is meant for 1
    return SplitFiles(
        said_by=path.relative_to(root).as_posix(),
        xml_paths=tuple(dict.fromkeys(xml for xml in found if xml is not None)),
        images=place.images,
        num_missing=found.count(None),
    )


def _list_notes(
    lists: Mapping[str, Path], pair: tuple[str, str], xml_paths: Sequence[Path], splits: Sequence[SplitFiles]
) -> Iterator[str]:
    """What lists say of the choice that was made."""
    if pair[1] == "test":
        yield f"{pair[0]}.txt trains and test.txt validates, as there are not both train.txt and val.txt"
    elif "test" in lists:
        yield "test.txt is left alone"
    used = {path for split in splits for path in split.xml_paths}
    if num_unused := len(xml_paths) - len(used):
        yield f"{num_unused:,} xml files are in neither list and left alone"


def _from_folders(root: Path, places: Mapping[str, _Place]) -> Layout:
    """Folders of a split each: without one that validates, test does, or else every fifth xml of train."""
    second = next((name for name in ("val", "test") if name in places), None)
    if second is None:
        return _every_fifth(_folder_split(places["train"], root), str(places["train"].annotations))
    train, val = (_folder_split(places[name], root) for name in ("train", second))
    notes = ("test/ is left alone",) if second == "val" and "test" in places else ()
    notes = ("test/ validates, as there is neither valid/ nor val/",) if second == "test" else notes
    return Layout(splits={"train": train, "val": val}, is_listed=False, notes=notes)


def _folder_split(place: _Place, root: Path) -> SplitFiles:
    """The split that is all xml files of a folder."""
    said_by = f"{place.annotations.relative_to(root).as_posix()}/"
    return SplitFiles(said_by=said_by, xml_paths=tuple(_xml_paths(place.annotations)), images=place.images)


def _every_fifth(files: SplitFiles, where: str, *, is_listed: bool = False) -> Layout:
    """Every fifth xml by name validates, the others train: the same ones whenever the same files are there."""
    ordered = sorted(files.xml_paths, key=lambda path: path.name)
    if len(ordered) < EVERY:
        remedy = f"give {EVERY} or more, or folders train/ and val/"
        raise DataError(printable(f"{where}: {len(ordered)} xml files without a val split are too few; {remedy}"))
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


Box = tuple[float, float, float, float]
SIDES = ("xmin", "ymin", "xmax", "ymax")
YES = ("1", "true", "yes")  # the development kit writes 1, some tools a word


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One object as its file has it: `box` is (xmin, ymin, xmax, ymax), neither shifted nor clipped."""

    name: str
    box: Box
    is_difficult: bool


@dataclass(frozen=True, kw_only=True)
class VocFile:
    """What one xml file says; `filename` is "" and `size` (width, height) None where it does not say them."""

    path: Path
    filename: str
    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]


def read_voc_file(path: Path) -> VocFile:
    """The content of one xml file; sub-objects (`<part>`) are no objects.

    Raises DataError in one line where it cannot be parsed, has a DOCTYPE, is no annotation, or has an object without
    name or with a box that is none: coordinates missing, no numbers, or the wrong way round.
    """
    root = _parse(path)
    if root.tag != "annotation":
        remedy = "take it out of the folder, or export the data as Pascal VOC"
        raise DataError(printable(f"{path}: is a <{root.tag}> and no VOC <annotation>; {remedy}"))
    return VocFile(
        path=path,
        filename=_text(root, "filename"),
        size=_size(root.find("size")),
        objects=tuple(_object(item, f"{path}: object {i}") for i, item in enumerate(root.findall("object"), start=1)),
    )


def _parse(path: Path) -> Element:
    """The root of an xml file without DOCTYPE."""
    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> NoReturn:
        raise DataError(printable(f"{path}: has a DOCTYPE, which VOC files have not; remove that part of it"))

    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except DataError:
        raise
    except expat.ExpatError as error:
        what = f"line {error.lineno}: is broken xml ({expat.ErrorString(error.code)})"
        raise DataError(printable(f"{path}: {what}; mend it, or export it again")) from None
    except (LookupError, ValueError) as error:  # encodings that Python does not know, or not byte by byte
        raise DataError(printable(f"{path}: cannot be decoded ({error}); save it as UTF-8")) from None
    return builder.close()


def _text(parent: Element, tag: str) -> str:
    """The text of a child as one line, "" where there is none."""
    return " ".join(parent.findtext(tag, "").split())


def _number(text: str) -> float | None:
    """A finite number, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _size(size: Element | None) -> tuple[int, int] | None:
    """(width, height) where both are said and positive: some tools write 0 for "not known"."""
    sides = [None if size is None else _number(_text(size, side)) for side in ("width", "height")]
    return (int(sides[0]), int(sides[1])) if sides[0] and sides[1] and min(sides[0], sides[1]) >= 1 else None


def _object(item: Element, where: str) -> VocObject:
    """One `<object>`, checked."""
    name = _text(item, "name")
    if not is_line(name):
        raise DataError(printable(f"{where} has no name; name its class, or remove the object"))
    where = f"{where} ({brief(name)})"
    return VocObject(name=name, box=_box(item, where), is_difficult=_text(item, "difficult").lower() in YES)


def _box(item: Element, where: str) -> Box:
    """The `<bndbox>` of an object: four numbers, the right way round."""
    box = item.find("bndbox")
    if box is None:
        raise DataError(printable(f"{where} has no bndbox; draw its box, or remove the object"))
    texts = [_text(box, side) for side in SIDES]
    numbers = [_number(text) for text in texts]
    for side, text, number in zip(SIDES, texts, numbers, strict=True):
        if number is None:
            what = f"{side} {brief(text)}, which is no number" if text else f"no {side}"
            raise DataError(printable(f"{where} has {what}; give its bndbox four numbers in pixels"))
    xmin, ymin, xmax, ymax = (number for number in numbers if number is not None)
    if xmax < xmin or ymax < ymin:
        what = f"from ({texts[0]}, {texts[1]}) to ({texts[2]}, {texts[3]})"
        raise DataError(printable(f"{where} has a box {what}; its right and lower edge come last: mend it"))
    return xmin, ymin, xmax, ymax
