"""Pascal VOC style xml as a data folder of ours: `train.json`, `val.json` in COCO's format, and `images/`.

    summary = convert_voc(Path("VOCdevkit/VOC2012"), Path("data/voc2012"))
    summary.splits["train"].num_objects, summary.categories

Boxes: VOC counts pixels from 1 and a side's last pixel is inside the box, so (xmin, ymin, xmax, ymax) becomes
[xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1]; source: VOC2007 development kit, VOCevaldet.m. Tools that count
from 0 are thereby off by up to a pixel; what leaves the image is clipped.

Difficult objects become crowd regions (`iscrowd` 1), the one flag of COCO's format that both training and evaluation
obey: they are no targets, and a detection of one counts neither as right nor as wrong, as in VOCevaldet.m. One
difference stays: COCO takes the share of a detection that lies inside a crowd region for its IoU, so small detections
within a large difficult object are ignored too.
"""

import errno
import filecmp
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PureWindowsPath
from typing import Any

from tqdm import tqdm

from freeanchor.data.image_names import folded
from freeanchor.data.images import TURNED, opened, orientation, size_difference
from freeanchor.data.voc_files import Layout, SplitFiles, find_layout
from freeanchor.data.voc_names import ImageFolder, last_part
from freeanchor.data.voc_xml import Box, VocObject, VocXml, read_xml
from freeanchor.errors import LINE, DataError, FileError, listed, shown
from freeanchor.files import hidden_beside, settle

MOST = 100  # categories whose names are said
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One xml with its image, whose own `size` (width, height) counts; `name` is the image's path in its folder.

    `objects` keep an area inside the image. `num_clipped` counts boxes cut at its edge, `num_outside` objects left
    out as they lie outside of it.
    """

    xml: Path
    content: VocXml
    image: Path
    name: str
    size: tuple[int, int]
    objects: tuple[VocObject, ...]
    num_clipped: int
    num_outside: int


Records = Mapping[str, Sequence[Record]]  # of each split


@dataclass(frozen=True, kw_only=True)
class VocSplit:
    """How much a split holds, what says so, and what was done to it.

    `num_objects` counts objects that are not difficult, `num_clipped` boxes cut at the edge of their image,
    `num_outside` objects left out as they lie outside it, `num_skipped` images left out as no xml describes them
    (those of a folder that both splits share count with train).
    """

    said_by: str
    num_images: int
    num_objects: int
    num_difficult: int
    num_clipped: int
    num_outside: int
    num_skipped: int


@dataclass(frozen=True, kw_only=True)
class VocSummary:
    """What a conversion made: "train" and "val", and the `notes` that its reader should know of, one line each."""

    splits: Mapping[str, VocSplit]
    categories: tuple[str, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """The summary to print: a line for each split, the categories, the notes."""
        splits = [f"{name}: {_in_words(split)}" for name, split in self.splits.items()]
        names = f"{len(self.categories)} categories: {listed(self.categories, MOST)}"
        return [shown(line, LINE) for line in (*splits, names, *self.notes)]


def convert_voc(source: Path, target: Path, *, say: Callable[[str], None] = print) -> VocSummary:
    """Convert the data set in `source` (layouts: `find_layout`) to a data folder at `target`; `say` takes the summary.

    All is read and checked first, then written into a hidden folder beside `target` that is renamed at the very end:
    whatever happens, `target` is whole or not there. Images are hard links where the disk can have them, else copies
    (an edit of a link in its place shows in both folders). They keep their names, and the folders that they lie in
    within that of all images; of different ones of one name, the later gets its split's name before it. Categories are
    those of both splits by name, with ids from 1. The same input gives the same bytes.

    Raises DataError in one line where `target` is not empty, where `source` holds no data set, where any xml or image
    cannot be used, and where a split ends up without objects.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError.at(target, "is there and not empty", "remove it, or name another folder")
    layout = find_layout(source)
    records = {name: read_records(name, files) for name, files in layout.splits.items()}
    categories = sorted({item.name for found in records.values() for record in found for item in record.objects})
    names = _file_names(records)
    summary = VocSummary(
        splits=_counts(layout, records),
        categories=tuple(categories),
        notes=(*layout.notes, *_notes(records, names)),
    )
    documents = {f"{split}.json": as_coco(found, names, categories) for split, found in records.items()}
    _write(target.resolve(), documents, names)
    for line in summary.lines():
        say(line)
    return summary


def read_records(split: str, files: SplitFiles) -> list[Record]:
    """All xml files of a split with their images, in order; progress goes to stderr, named after `split`.

    Raises DataError in one line for the first that cannot be used, or has no image of its own.
    """
    folder, owners, records = ImageFolder(files.images), dict[Path, Path](), []
    for path in tqdm(files.xml_paths, desc=f"reading {split}", unit="file", disable=None):
        record = _record(path, files, folder)
        if owner := owners.get(record.image):
            what = f"is about {record.image.name}, as {owner.name} is"
            raise DataError.at(path, what, "correct the <filename> of one, or take it away")
        owners[record.image] = path
        records.append(record)
    return records


def _record(path: Path, files: SplitFiles, folder: ImageFolder) -> Record:
    content = read_xml(path)
    try:
        image = folder.find(content.filename, path.stem, inside=_inside(path, files), said=content.folder)
    except FileError as error:
        raise DataError.at(path, error.what, error.remedy) from None
    if image is None:
        names = " or ".join(repr(name) for name in (last_part(content.filename), f"{path.stem}.jpg") if name)
        what = f"there is no image {names} in {folder.path / _inside(path, files)}"
        raise DataError.at(path, what, "put its image there, or take the xml away")
    size = stored_size(image, content.said_size)
    kept = [(item, box) for item in content.objects if (box := clipped(item.box, size))]
    return Record(
        xml=path,
        content=content,
        image=image,
        name=image.relative_to(folder.path).as_posix(),
        size=size,
        objects=tuple(replace(item, box=box) for item, box in kept),
        num_clipped=sum(item.box != box for item, box in kept),
        num_outside=len(content.objects) - len(kept),
    )


def _inside(path: Path, files: SplitFiles) -> str:
    """The folder of an xml below that of its split's, "" where there is none between."""
    inside = path.parent.relative_to(files.annotations).as_posix()
    return "" if inside == "." else inside


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


def clipped(corners: Box, size: tuple[int, int]) -> Box | None:
    """Corners inside an image of `size` (width, height), None where nothing is left of the box."""
    x1, y1, x2, y2 = (float(min(max(value, 0), size[i % 2])) for i, value in enumerate(corners))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def to_xywh(corners: Box) -> Box:
    """COCO's box of two corners."""
    x1, y1, x2, y2 = corners
    return x1, y1, x2 - x1, y2 - y1


def _in_words(split: VocSplit) -> str:
    others = {
        "difficult objects": split.num_difficult,
        "boxes clipped to their image": split.num_clipped,
        "objects left out, outside their image": split.num_outside,
        "images left out, without xml": split.num_skipped,
    }
    words = [f"{split.num_images:,} images and {split.num_objects:,} objects from {split.said_by}"]
    return "; ".join(words + [f"{what}: {number:,}" for what, number in others.items() if number])


def _counts(layout: Layout, records: Records) -> dict[str, VocSplit]:
    """The numbers of both splits; raises DataError where one has no object to learn or to measure by."""
    skipped, counts = _num_skipped(layout, records), {}
    for split, files in layout.splits.items():
        objects = [item for record in records[split] for item in record.objects]
        num_difficult = sum(item.is_difficult for item in objects)
        if len(objects) == num_difficult:
            what = "no objects but difficult ones" if objects else "no objects"
            if left := sum(record.content.num_parts + record.content.num_strays for record in records[split]):
                what += f", and {left:,} boxes that are no <bndbox> of an <object>"
            remedy = "nothing can be learned or measured without: choose other images for it"
            raise DataError.at(files.images, f"{split} (from {files.said_by}) holds {what}", remedy)
        counts[split] = VocSplit(
            said_by=files.said_by,
            num_images=len(records[split]),
            num_objects=len(objects) - num_difficult,
            num_difficult=num_difficult,
            num_clipped=sum(record.num_clipped for record in records[split]),
            num_outside=sum(record.num_outside for record in records[split]),
            num_skipped=skipped[split],
        )
    return counts


def _num_skipped(layout: Layout, records: Records) -> dict[str, int]:
    """Images without xml: those that a list names, or, without lists, those that lie in the folder."""
    if layout.is_listed:
        return {split: files.num_missing for split, files in layout.splits.items()}
    used = {record.image for found in records.values() for record in found}
    folders = {files.images: split for split, files in [*layout.splits.items()][::-1]}  # of a shared one, train
    left = {split: set(ImageFolder(folder).images) - used for folder, split in folders.items()}
    return {split: len(left.get(split, ())) for split in layout.splits}


def _notes(records: Records, names: Mapping[Path, str]) -> Iterator[str]:
    """What was repaired, and what may be wrong: one line each, with the first that it is about."""
    every = [record for found in records.values() for record in found]
    if unsaid := [record for record in every if record.content.said_size is None]:
        yield f"xml without the size of its image, which was looked up: {len(unsaid):,}, {unsaid[0].xml.name} for one"
    if other := [record for record in every if record.content.said_size not in (None, record.size)]:
        sizes = [f"{width}x{height}" for width, height in (other[0].content.said_size or (0, 0), other[0].size)]
        example = f"{other[0].xml.name} says {sizes[0]} of one of {sizes[1]}"
        remedy = "the image's size counts; see that the boxes lie on the objects"
        yield f"xml with another size than its image has: {len(other):,}, {example}; {remedy}"
    for what, counts in (
        ("further boxes of one object, each taken as an object", [record.content.num_further for record in every]),
        ("objects within another element, taken as objects", [record.content.num_nested for record in every]),
        ("boxes of parts, left out", [record.content.num_parts for record in every]),
        ("boxes in no <bndbox> of an <object>, left out", [record.content.num_strays for record in every]),
    ):
        if any(counts):
            first = next(record for record, number in zip(every, counts, strict=True) if number)
            yield f"{what}: {sum(counts):,}, in {first.xml.name} for one"
    if renamed := [record for record in every if record.name != names[record.image]]:
        number = len({record.image for record in renamed})
        example = f"{renamed[0].name} is now {names[renamed[0].image]}"
        yield f"images that had the name of another, or an odd one: {number:,}, {example}"
    train, val = ({names[record.image] for record in records[split]} for split in ("train", "val"))
    if both := sorted(train & val):
        yield f"images in both splits: {len(both):,}, {both[0]} for one; what is measured there is what was learned"


def _file_names(records: Records) -> dict[Path, str]:
    """A name in `images/` for every image; different ones get different names, on any file system.

    One image in the folders of both splits is one file, if it has one name.
    """
    names: dict[Path, str] = {}
    taken: dict[str, tuple[str, Path]] = {}
    for split, found in records.items():
        for image, relative in ((record.image, record.name) for record in found if record.image not in names):
            name = "/".join(map(_portable, relative.split("/")))
            while (owner := taken.get(folded(name))) and not _is_same(owner, (split, image)):
                name = f"{split}_{name}"
            taken.setdefault(folded(name), (split, image))
            names[image] = names[owner[1]] if owner else name
    return names


def _is_same(one: tuple[str, Path], other: tuple[str, Path]) -> bool:
    """Whether the files of two splits hold the same; within a split each stays for itself."""
    return one[0] != other[0] and filecmp.cmp(one[1], other[1], shallow=False)


def _portable(name: str) -> str:
    """A name that leads nowhere else on Windows, where a backslash is a slash and `C:` a drive."""
    return name if PureWindowsPath(name).name == name else name.replace("\\", "_").replace(":", "_")


def as_coco(records: Sequence[Record], names: Mapping[Path, str], categories: Sequence[str]) -> dict[str, Any]:
    """The content of a COCO instances file: images called by `names`, categories with ids from 1."""
    ids, numbers = {name: number for number, name in enumerate(categories, start=1)}, count(1)
    return {
        "info": {"description": "converted from Pascal VOC xml by freeanchor"},
        "licenses": [],
        "images": [
            {"id": i, "file_name": names[record.image], "width": record.size[0], "height": record.size[1]}
            for i, record in enumerate(records, start=1)
        ],
        "annotations": [
            {
                "id": next(numbers),
                "image_id": i,
                "category_id": ids[item.name],
                "bbox": [_short(value) for value in to_xywh(item.box)],
                "area": _short(math.prod(to_xywh(item.box)[2:])),
                "iscrowd": int(item.is_difficult),
            }
            for i, record in enumerate(records, start=1)
            for item in record.objects
        ],
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
    }


def _short(value: float) -> float:
    """A number as json has it shortest: 3 and not 3.0."""
    return int(value) if value.is_integer() else value


def _write(target: Path, documents: Mapping[str, Any], names: Mapping[Path, str]) -> None:
    """All files under a hidden name beside `target`, renamed when whole and removed when anything comes between."""
    partial = hidden_beside(target, "partial")
    if partial.exists():  # of a run that was killed
        shutil.rmtree(partial)
    try:
        (partial / "images").mkdir(parents=True)
        for name, document in documents.items():
            (partial / name).write_text(json.dumps(document, sort_keys=True, separators=(",", ":")), encoding="utf-8")
        files = {name: path for path, name in names.items()}  # a name is shared by files that hold the same
        for name, path in tqdm(files.items(), desc="images", unit="file", disable=None):
            _place(path.resolve(), partial / "images" / name)
        settle(partial, target)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(target)) from None  # not the image that is copied
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _place(image: Path, path: Path) -> None:
    """An image under a second name: a hard link where the disk can have one, else a copy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(image, path)
    except OSError:  # another disk, one without links, or somebody else's file
        shutil.copyfile(image, path)
