"""Where the xml files and images of a VOC style data set lie, and which of them train.

Understood are VOC's own layout (`Annotations/`, `JPEGImages/`, `ImageSets/Main/`), one folder per split (`train/`,
`valid/` or `val/`, also inside `Annotations/`), and xml in one folder without any split; of the first two, with folders
inside. Upper and lower case do not matter in names of folders.

    layout = find_layout(Path("VOCdevkit"))
    layout.splits["train"].xml_paths, layout.notes
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from freeanchor.data.voc_names import ImageFolder, XmlNames, files_below, is_xml, list_lines
from freeanchor.errors import DataError, FileError

IMAGE_FOLDERS = ("jpegimages", "images")
SPLIT_NAMES = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}
LIST_NAMES = {**SPLIT_NAMES, "trainval": "trainval"}
PAIRS = (("train", "val"), ("trainval", "test"), ("train", "test"))  # which lists train and validate, best first
MAX_DEPTH = 2  # folders between the given one and the data set's own
EVERY = 5  # without any split, the images with this position and its multiples validate


@dataclass(frozen=True, kw_only=True)
class SplitFiles:
    """The xml files of one split in order, below `annotations`, the folder of their images, and what names them.

    `num_missing` counts images that a list names and no xml describes.
    """

    said_by: str
    annotations: Path
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
    place = _annotations_place(root)
    lists = _lists(root) if place else {}
    places = _split_places(place.annotations if place else root, place)
    if place and lists:
        layout, known = _from_lists(root, place, lists), [place.annotations]
    elif places:
        layout, known = _from_folders(root, places), [each.annotations for each in places.values()]
    elif place:
        layout, known = _every_fifth(_folder_split(place, root), str(place.annotations)), [place.annotations]
    else:
        files = SplitFiles(said_by="", annotations=root, xml_paths=tuple(_xml_beside(root)), images=root)
        layout, known = _every_fifth(files, str(root)), []
    read = {path for files in layout.splits.values() for path in files.xml_paths}
    read.update(path for folder in known for path in _xml_paths(folder))  # the layout has said what it leaves of them
    if unread := [path for path in _xml_paths(source) if path not in read]:
        example = unread[0].relative_to(source).as_posix()
        note = f"{len(unread):,} xml files in other folders are not read, {example} for one"
        layout = replace(layout, notes=(*layout.notes, note))
    return layout


def _names(folder: Path, *, folders: bool) -> list[str]:
    """Sorted names of the files or folders in a folder, hidden ones left out (archives made on a Mac hold some)."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".")]
        return sorted(entry.name for entry in kept if (entry.is_dir() if folders else entry.is_file()))


def _xml_paths(folder: Path) -> list[Path]:
    return [path for path in files_below(folder) if is_xml(path.name)]


def _xml_beside(folder: Path) -> list[Path]:
    return [folder / name for name in _names(folder, folders=False) if is_xml(name)]


def _is_data_set(folder: Path) -> bool:
    return bool(_annotations_place(folder) or _split_places(folder) or _xml_beside(folder))


def _annotations_place(folder: Path) -> _Place | None:
    """The xml folder of VOC's own layout, if there is one, with its images: JPEGImages, or beside the xml."""
    children = {name.casefold(): folder / name for name in _names(folder, folders=True)}
    annotations = children.get("annotations")
    if annotations is None or not _xml_paths(annotations):
        return None
    images = next((children[name] for name in IMAGE_FOLDERS if name in children), annotations)
    return _Place(annotations=annotations, images=images)


def _split_places(folder: Path, whole: _Place | None = None) -> dict[str, _Place]:
    """One folder per split that holds xml, by the name of the split; empty without one that trains.

    Inside the annotations of a `whole` data set, the images lie in a folder of the same name, or in its own.
    """
    places: dict[str, _Place] = {}
    for name in _names(folder, folders=True):
        split, child = SPLIT_NAMES.get(name.casefold()), folder / name
        if split is None:
            continue
        if whole:
            images = whole.images / name
            place = _Place(annotations=child, images=images if images.is_dir() else whole.images)
        else:
            place = _annotations_place(child) or _Place(annotations=child, images=_images_of(child))
        if not _xml_paths(place.annotations):
            continue
        if split in places:
            raise DataError.at(folder, f"two folders are a {split} split, {name} for one", "leave only one")
        places[split] = place
    return places if "train" in places else {}


def _images_of(folder: Path) -> Path:
    """Where the images lie of a folder whose xml lie in another one inside, or beside them."""
    children = {name.casefold(): folder / name for name in _names(folder, folders=True)}
    return folder if _xml_beside(folder) else next((children[n] for n in IMAGE_FOLDERS if n in children), folder)


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


def _from_lists(root: Path, place: _Place, lists: Mapping[str, Path]) -> Layout:
    """VOC's own layout with lists of names."""
    paths = _xml_paths(place.annotations)
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
    """The lists of names by their split; the lists of single classes are left out."""
    for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
        found: dict[str, Path] = {}
        for name in _names(folder, folders=False) if folder.is_dir() else ():
            stem, _, suffix = name.casefold().rpartition(".")
            split = LIST_NAMES.get(stem) if suffix == "txt" else None
            if split in found:
                raise DataError.at(folder, f"two lists are a {split} split, {name} for one", "leave only one")
            if split is not None:
                found[split] = folder / name
        if found:
            return found
    return {}


def _listed(path: Path, root: Path, xml_paths: Sequence[Path], place: _Place) -> SplitFiles:
    """The split that a list of names makes; names without xml are counted and left out."""
    index, images = XmlNames(place.annotations, xml_paths), ImageFolder(place.images)
    try:
        lines = dict.fromkeys(list_lines(path.read_bytes(), index))
        found = [xml for line in lines if (xml := index.find(line, images)) or not line.startswith("#")]
    except FileError as error:
        raise DataError.at(path, error.what, error.remedy) from None
    return SplitFiles(
        said_by=path.relative_to(root).as_posix(),
        annotations=place.annotations,
        xml_paths=tuple(dict.fromkeys(xml for xml in found if xml is not None)),
        images=place.images,
        num_missing=found.count(None),
    )


def _list_notes(
    lists: Mapping[str, Path], pair: tuple[str, str], xml_paths: Sequence[Path], splits: Sequence[SplitFiles]
) -> Iterator[str]:
    if pair[1] == "test":
        names = [lists[name].name for name in pair]
        yield f"{names[0]} trains and {names[1]} validates, as there are not both train.txt and val.txt"
    elif "test" in lists:
        yield f"{lists['test'].name} is left alone"
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
    paths = tuple(_xml_paths(place.annotations))
    return SplitFiles(said_by=said_by, annotations=place.annotations, xml_paths=paths, images=place.images)


def _every_fifth(files: SplitFiles, where: str, *, is_listed: bool = False) -> Layout:
    """Every fifth xml by name validates, the others train: the same ones whenever the same files are there."""
    ordered = sorted(files.xml_paths, key=lambda path: (path.name, path))
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
