"""One xml of a VOC style data set: its image's name and size, its objects, and what else in it looks like a box.

    content = read_xml(Path("VOC2012/Annotations/2007_000027.xml"))
    content.objects[0].name, content.objects[0].box

Case and namespaces of tags do not matter. Every `<bndbox>` of an `<object>` is an object, also of an object within
another; boxes of a `<part>`, and boxes that belong to no object, are counted and left out.
"""

import codecs
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError
from xml.parsers.expat import ErrorString

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring

from freeanchor.errors import DataError, brief, is_line

Box = tuple[float, float, float, float]
SIDES = ("xmin", "ymin", "xmax", "ymax")
YES = ("1", "true", "yes")  # the development kit writes 1, some tools a word
ASCII = b"\\n\\u0041+AGE-" + bytes(set(range(32, 127)) - {92})  # text that tells an encoding which reads escapes
DECLARATION = re.compile(rb"""\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*["']([^"'>]{0,80})["']""")


@dataclass(frozen=True, kw_only=True)
class VocObject:
    """One object: `box` is (x1, y1, x2, y2) in continuous pixels from 0."""

    name: str
    box: Box
    is_difficult: bool


@dataclass(frozen=True, kw_only=True)
class VocXml:
    """What an xml says; `filename` and `folder` are "" and `said_size`, (width, height), None where it does not.

    `num_further` counts boxes behind an object's first one, `num_nested` objects below another element than the
    annotation: both are among the `objects`. `num_parts` and `num_strays`, boxes that belong to no object, are not.
    """

    filename: str
    folder: str
    said_size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    num_further: int
    num_nested: int
    num_parts: int
    num_strays: int


def read_xml(path: Path) -> VocXml:
    """The content of an xml file; raises DataError in one line where any of it cannot be used."""
    root = _parse(path)
    places = list(_places(root))
    objects, num_further = list[VocObject](), 0
    for number, (item, _) in enumerate((p for p in places if p[0].tag == "object" and p[1] != "part"), start=1):
        found = _objects(item, path, number)
        objects += found
        num_further += len(found) - 1
    boxes = [place for item, place in places if item.tag == "bndbox" or item.find("xmin") is not None]
    return VocXml(
        filename=_text(root, "filename"),
        folder=_text(root, "folder"),
        said_size=_said_size(root.find("size")),
        objects=tuple(objects),
        num_further=num_further,
        num_nested=sum(item.tag == "object" and place not in ("annotation", "part") for item, place in places),
        num_parts=boxes.count("part"),
        num_strays=len(boxes) - boxes.count("part") - len(objects),
    )


def _places(root: Element) -> Iterator[tuple[Element, str]]:
    """Every element below the root in its order, with its parent's tag, or "part" anywhere inside a part."""
    waiting = [(item, root.tag) for item in reversed(root)]
    while waiting:
        item, place = waiting.pop()
        yield item, place
        inner = "part" if "part" in (place, item.tag) else item.tag
        waiting += [(child, inner) for child in reversed(item)]


def _parse(path: Path) -> Element:
    """The <annotation> of an xml file, all tags in lower case.

    Files come from strangers, so a DOCTYPE is refused before anything in it is read: without one there are no entities,
    neither nested ones that grow to gigabytes nor external ones that fetch files. VOC's own files have none.
    """
    text = _decoded(path)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DTDForbidden:
        raise DataError.at(path, "has a DOCTYPE, which VOC files have not", "remove that part of it") from None
    except ParseError as error:
        what = f"line {error.position[0]}: is broken xml ({ErrorString(error.code)})"
        raise DataError.at(path, what, "fix it, or export it again") from None
    for item in root.iter():
        item.tag = item.tag.rpartition("}")[2].lower()
    if root.tag != "annotation":
        remedy = "take it out of the folder, or export the data as Pascal VOC"
        raise DataError.at(path, f"is a <{root.tag}> and no VOC <annotation>", remedy)
    return root


def _decoded(path: Path) -> str:
    """The text of an xml file by its byte order mark, else by its declaration, else in UTF-8.

    All of Python's encodings that keep ASCII are understood; expat itself knows four, and no alias such as `utf8`.
    """
    content = path.read_bytes()
    encoding = _encoding(content, path)
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        declared = DECLARATION.match(content)
        says = f"as it declares ({_shown(declared[1])})" if declared else "as xml is that declares no encoding"
        remedy = "save it as UTF-8, or declare the encoding that it was written in"
        raise DataError.at(path, f"line {line}: cannot be decoded as {encoding}, {says}", remedy) from None


def _encoding(content: bytes, path: Path) -> str:
    if content.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content.startswith((b"<\0", b"\0<")):
        return "utf-16-le" if content[0] else "utf-16-be"
    declared = DECLARATION.match(content)
    if declared is None or content.startswith(codecs.BOM_UTF8):
        return "utf-8"
    name = _shown(declared[1]).strip()
    # A program that writes into a string declares UTF-16, and saves the string in UTF-8.
    if re.fullmatch(r"(utf|ucs)[-_ ]?(16|32|2|4)([-_ ]?[lb]e)?", name, re.IGNORECASE):
        return "utf-8"
    try:
        if ASCII.decode(name) == ASCII.decode("ascii"):  # what it declares was read as ASCII
            return name
    except (LookupError, ValueError):
        pass
    what = f"declares the encoding {brief(name)}, which is none that is known"
    raise DataError.at(path, what, "save it as UTF-8, and declare that")


def _shown(declared: bytes) -> str:
    return declared.decode("ascii", errors="backslashreplace")


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


def _objects(item: Element, path: Path, number: int) -> list[VocObject]:
    """An object of each box of an `<object>`, the `number`-th of its file."""
    where = f"{path}: object {number}"
    names = sorted({" ".join((name.text or "").split()) for name in item.findall("name")})
    if len(names) > 1:
        raise DataError.at(
            where, f"has {len(names)} names, {brief(names[0])} for one", "give each class its own object"
        )
    name = names[0] if names else ""
    if not is_line(name):
        raise DataError.at(where, "has no name", "name its class, or remove the object")
    is_difficult = _text(item, "difficult").lower() in YES
    boxes = [_box(box, f"{where} ({brief(name)})") for box in item.findall("bndbox")]
    if not boxes:
        raise DataError.at(f"{where} ({brief(name)})", "has no bndbox", "draw its box, or remove the object")
    return [VocObject(name=name, box=shifted(box), is_difficult=is_difficult) for box in boxes]


def _box(box: Element, where: str) -> Box:
    """The four numbers of a `<bndbox>`, the right way round."""
    texts = [_text(box, side) for side in SIDES]
    xmin, ymin, xmax, ymax = map(_number, texts)
    for side, text in zip(SIDES, texts, strict=True):
        if (count := len(box.findall(side))) > 1:
            raise DataError.at(where, f"has {count} {side} in one bndbox", "give each box a bndbox of its own")
        if math.isnan(_number(text)):
            what = f"{side} {brief(text)}, which is not a number" if text else f"no {side}"
            raise DataError.at(where, f"has {what}", "give its bndbox four numbers in pixels")
    if xmax < xmin or ymax < ymin:
        what = f"has a box from ({texts[0]}, {texts[1]}) to ({texts[2]}, {texts[3]})"
        raise DataError.at(where, what, "its right and lower edge come last: fix it")
    return xmin, ymin, xmax, ymax


def shifted(box: Box) -> Box:
    """Corners in continuous pixels, from 0, of VOC's: counted from 1, the last pixel of a side inside the box.

    Source: VOC2007 development kit, whose VOCevaldet.m takes xmax - xmin + 1 for a width.
    """
    xmin, ymin, xmax, ymax = box
    return xmin - 1, ymin - 1, xmax, ymax
