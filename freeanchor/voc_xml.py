"""One Pascal VOC xml file: which picture it is about, how large that is said to be, its objects.

What it is: the border to xml. What it is not: a look at the picture, or a decision about what an object becomes
(`voc.py`).

Files come from strangers, so a DOCTYPE is refused before anything in it is read: without one there are no entities,
neither nested ones that grow to gigabytes nor external ones that fetch files. VOC's own files have none.

    file = read_voc_file(Path("VOC2012/Annotations/2007_000027.xml"))
    file.filename, file.size, file.objects[0].name, file.objects[0].box
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from freeanchor.data import DataError
from freeanchor.errors import brief, is_line, printable

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
