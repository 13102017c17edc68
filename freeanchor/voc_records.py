"""The pictures of a VOC style split with their objects as COCO has them: x, y, width, height in continuous pixels.

What it is: an xml, its picture and the arithmetic between them. What it is not: the choice of files (`voc_layout.py`),
or what is written of them (`voc.py`).

    records = read_records("train", layout.splits["train"])
    records[0].picture, records[0].objects[0].bbox
"""

from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from freeanchor.data import DataError
from freeanchor.errors import printable
from freeanchor.voc_layout import SplitFiles
from freeanchor.voc_pictures import PictureFolder, last_part, stored_size
from freeanchor.voc_xml import Box, read_voc_file


@dataclass(frozen=True, kw_only=True)
class RecordObject:
    """An object that keeps an area inside its picture; `bbox` is x, y, width, height."""

    name: str
    bbox: Box
    is_difficult: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """One xml with its picture, whose own `size` (width, height) counts; `said_size` is what the xml has.

    `num_clipped` counts boxes cut at the picture's edge, `num_outside` objects left out as they lie outside of it.
    """

    xml: Path
    picture: Path
    size: tuple[int, int]
    said_size: tuple[int, int] | None
    objects: tuple[RecordObject, ...]
    num_clipped: int
    num_outside: int


def read_records(split: str, files: SplitFiles) -> list[Record]:
    """All xml files of a split with their pictures, in order; progress goes to stderr, named after `split`.

    Raises DataError in one line for the first that cannot be used, or has no picture of its own.
    """
    folder, owners, records = PictureFolder(files.pictures), dict[Path, Path](), []
    for path in tqdm(files.xml_paths, desc=f"reading {split}", unit="file", disable=None):
        record = _record(path, folder)
        if owner := owners.get(record.picture):
            remedy = "correct the <filename> of one, or take it away"
            raise DataError(printable(f"{path}: is about {record.picture.name}, as {owner.name} is; {remedy}"))
        owners[record.picture] = path
        records.append(record)
    return records


def _record(path: Path, folder: PictureFolder) -> Record:
    """One xml with its picture."""
    file = read_voc_file(path)
    picture = folder.find(file.filename, path.stem)
    if picture is None:
        names = " or ".join(repr(name) for name in (last_part(file.filename), f"{path.stem}.jpg") if name)
        remedy = "put its picture there, or take the xml away"
        raise DataError(printable(f"{path}: there is no picture {names} in {folder.path}; {remedy}"))
    size = stored_size(picture, file.size)
    corners = [shifted(item.box) for item in file.objects]
    kept = [clipped(item, size) for item in corners]
    return Record(
        xml=path,
        picture=picture,
        size=size,
        said_size=file.size,
        objects=tuple(
            RecordObject(name=item.name, bbox=to_xywh(box), is_difficult=item.is_difficult)
            for item, box in zip(file.objects, kept, strict=True)
            if box is not None
        ),
        num_clipped=sum(box not in (None, before) for box, before in zip(kept, corners, strict=True)),
        num_outside=kept.count(None),
    )


def shifted(box: Box) -> Box:
    """Corners in continuous pixels, from 0, of VOC's: counted from 1, the last pixel of a side inside the box.

    Source: VOC2007 development kit, whose VOCevaldet.m takes xmax - xmin + 1 for a width.
    """
    xmin, ymin, xmax, ymax = box
    return xmin - 1, ymin - 1, xmax, ymax


def clipped(corners: Box, size: tuple[int, int]) -> Box | None:
    """Corners inside a picture of `size` (width, height), None where nothing is left of the box."""
    x1, y1, x2, y2 = (float(min(max(value, 0), size[i % 2])) for i, value in enumerate(corners))
    return (x1, y1, x2, y2) if x2 > x1 and y2 > y1 else None


def to_xywh(corners: Box) -> Box:
    """COCO's box of two corners."""
    x1, y1, x2, y2 = corners
    return x1, y1, x2 - x1, y2 - y1
