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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PureWindowsPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError
from xml.parsers.expat import ErrorString

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring
from tqdm import tqdm

from freeanchor.data.voc_files import ImageFolder, Layout, SplitFiles, find_layout, folded, last_part, stored_size
from freeanchor.errors import DataError, brief, is_line, printable
from freeanchor.files import hidden_beside, settle

Box = tuple[float, float, float, float]
SIDES = ("xmin", "ymin", "xmax", "ymax")
YES = ("1", "true", "yes")  # the development kit writes 1, some tools a word
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One object: `box` is (x1, y1, x2, y2) in continuous pixels from 0."""

    name: str
    box: Box
    is_difficult: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """One xml with its image, whose own `size` (width, height) counts; `said_size` is what the xml has.

    `objects` keep an area inside the image. `num_clipped` counts boxes cut at its edge, `num_outside` objects left
    out as they lie outside of it.
    """

    xml: Path
    image: Path
    size: tuple[int, int]
    said_size: tuple[int, int] | None
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
        return [*splits, f"{len(self.categories)} categories: {', '.join(self.categories)}", *self.notes]


def convert_voc(source: Path, target: Path, *, say: Callable[[str], None] = print) -> VocSummary:
    """Convert the data set in `source` (layouts: `find_layout`) to a data folder at `target`; `say` takes the summary.

    All is read and checked first, then written into a hidden folder beside `target` that is renamed at the very end:
    whatever happens, `target` is whole or not there. Images are hard links where the disk can have them, else copies
    (an edit of a link in its place shows in both folders). They keep their names; of different ones of one name, the
    later gets its split's name before it. Categories are those of both splits by name, with ids from 1. The same input
    gives the same bytes.

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
        notes=tuple(printable(note) for note in (*layout.notes, *_notes(records, names))),
    )
    documents = {f"{split}.json": _as_coco(found, names, categories) for split, found in records.items()}
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
        record = _record(path, folder)
        if owner := owners.get(record.image):
            what = f"is about {record.image.name}, as {owner.name} is"
            raise DataError.at(path, what, "correct the <filename> of one, or take it away")
        owners[record.image] = path
        records.append(record)
    return records


def _record(path: Path, folder: ImageFolder) -> Record:
    root = _parse(path)
    filename, said_size = _text(root, "filename"), _said_size(root.find("size"))
    # only the annotation's own children: a <part> of an object is none
    objects = [_object(item, f"{path}: object {i}") for i, item in enumerate(root.findall("object"), start=1)]
    image = folder.find(filename, path.stem)
    if image is None:
        names = " or ".join(repr(name) for name in (last_part(filename), f"{path.stem}.jpg") if name)
        what = f"there is no image {names} in {folder.path}"
        raise DataError.at(path, what, "put its image there, or take the xml away")
    size = stored_size(image, said_size)
    kept = [(item, box) for item in objects if (box := clipped(item.box, size))]
    return Record(
        xml=path,
        image=image,
        size=size,
        said_size=said_size,
        objects=tuple(replace(item, box=box) for item, box in kept),
        num_clipped=sum(item.box != box for item, box in kept),
        num_outside=len(objects) - len(kept),
    )


def _parse(path: Path) -> Element:
    """The <annotation> of an xml file.

    Files come from strangers, so a DOCTYPE is refused before anything in it is read: without one there are no entities,
    neither nested ones that grow to gigabytes nor external ones that fetch files. VOC's own files have none.
    """
    try:
        root: Element = fromstring(path.read_bytes(), forbid_dtd=True)
    except DTDForbidden:
        raise DataError.at(path, "has a DOCTYPE, which VOC files have not", "remove that part of it") from None
    except ParseError as error:
        what = f"line {error.position[0]}: is broken xml ({ErrorString(error.code)})"
        raise DataError.at(path, what, "fix it, or export it again") from None
    except (LookupError, ValueError) as error:  # encodings that Python does not know, or not byte by byte
        raise DataError.at(path, f"cannot be decoded ({error})", "save it as UTF-8") from None
    if root.tag != "annotation":
        remedy = "take it out of the folder, or export the data as Pascal VOC"
        raise DataError.at(path, f"is a <{root.tag}> and no VOC <annotation>", remedy)
    return root


def _text(parent: Element, tag: str) -> str:
    """The text of a child as one line, "" where there is none."""
    return " ".join(parent.findtext(tag, "").split())


def _number(text: str) -> float:
    """NaN for what is not a finite number."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _said_size(size: Element | None) -> tuple[int, int] | None:
    """(width, height) where both are said and positive: some tools write 0 for "not known"."""
    if size is None:
        return None
    width, height = (_number(_text(size, side)) for side in ("width", "height"))
    return (int(width), int(height)) if width >= 1 and height >= 1 else None


def _object(item: Element, where: str) -> VocObject:
    name = _text(item, "name")
    if not is_line(name):
        raise DataError(printable(f"{where} has no name; name its class, or remove the object"))
    box = _box(item, f"{where} ({brief(name)})")
    return VocObject(name=name, box=shifted(box), is_difficult=_text(item, "difficult").lower() in YES)


def _box(item: Element, where: str) -> Box:
    """The `<bndbox>` of an object: four numbers, the right way round."""
    box = item.find("bndbox")
    if box is None:
        raise DataError(printable(f"{where} has no bndbox; draw its box, or remove the object"))
    texts = [_text(box, side) for side in SIDES]
    xmin, ymin, xmax, ymax = map(_number, texts)
    for side, text in zip(SIDES, texts, strict=True):
        if math.isnan(_number(text)):
            what = f"{side} {brief(text)}, which is not a number" if text else f"no {side}"
            raise DataError(printable(f"{where} has {what}; give its bndbox four numbers in pixels"))
    if xmax < xmin or ymax < ymin:
        what = f"from ({texts[0]}, {texts[1]}) to ({texts[2]}, {texts[3]})"
        raise DataError(printable(f"{where} has a box {what}; its right and lower edge come last: fix it"))
    return xmin, ymin, xmax, ymax


def shifted(box: Box) -> Box:
    """Corners in continuous pixels, from 0, of VOC's: counted from 1, the last pixel of a side inside the box.

    Source: VOC2007 development kit, whose VOCevaldet.m takes xmax - xmin + 1 for a width.
    """
    xmin, ymin, xmax, ymax = box
    return xmin - 1, ymin - 1, xmax, ymax


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
    if unsaid := [record for record in every if record.said_size is None]:
        yield f"xml without the size of its image, which was looked up: {len(unsaid):,}, {unsaid[0].xml.name} for one"
    if other := [record for record in every if record.said_size not in (None, record.size)]:
        sizes = [f"{width}x{height}" for width, height in (other[0].said_size or (0, 0), other[0].size)]
        example = f"{other[0].xml.name} says {sizes[0]} of one of {sizes[1]}"
        remedy = "the image's size counts; see that the boxes lie on the objects"
        yield f"xml with another size than its image has: {len(other):,}, {example}; {remedy}"
    if renamed := [path for path, name in names.items() if path.name != name]:
        example = f"{renamed[0].name} is now {names[renamed[0]]}"
        yield f"images that had the name of another, or an odd one: {len(renamed):,}, {example}"
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
        for image in (record.image for record in found if record.image not in names):
            name = _portable(image.name)
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


def _as_coco(records: Sequence[Record], names: Mapping[Path, str], categories: Sequence[str]) -> dict[str, Any]:
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
    try:
        os.link(image, path)
    except OSError:  # another disk, one without links, or somebody else's file
        shutil.copyfile(image, path)
