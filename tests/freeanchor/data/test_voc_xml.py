"""One xml: every box is an object or counted, and every encoding is read or named."""

from pathlib import Path

import pytest
from oracles.voc_folder import CAT, DOG, draw, small_official, voc_object, voc_xml, write_official

from freeanchor.data.voc import convert_voc
from freeanchor.data.voc_xml import VocXml, read_xml
from freeanchor.errors import DataError


def content(tmp_path: Path, text: str | bytes) -> VocXml:
    """What an xml says."""
    path = tmp_path / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_xml(path)


def bndbox(x: int, inner: str = "") -> str:
    """A box at `x`."""
    return f"<bndbox><xmin>{x}</xmin><ymin>2</ymin><xmax>{x + 3}</xmax><ymax>9</ymax>{inner}</bndbox>"


def part(inner: str) -> str:
    """A part of an object."""
    return f"<part><name>head</name>{inner}</part>"


FIRST = voc_object(DOG, (1, 1, 4, 9))
# xml behind the first object -> further objects; further boxes, nested objects, boxes of parts, stray boxes
PLACES: dict[str, tuple[str, list[str], tuple[int, int, int, int]]] = {
    "several boxes of an object": (voc_object(CAT, more=bndbox(2) + bndbox(5)), [CAT, CAT, CAT], (2, 0, 0, 0)),
    "an object in an object": (voc_object(CAT, more=voc_object("bird")), [CAT, "bird"], (0, 1, 0, 0)),
    "three deep": (voc_object(CAT, more=voc_object("bird", more=voc_object("ox"))), [CAT, "bird", "ox"], (0, 2, 0, 0)),
    "a list of objects": (f"<objects>{voc_object(CAT) * 2}</objects>", [CAT, CAT], (0, 2, 0, 0)),
    "a part": (voc_object(CAT, more=part(bndbox(2))), [CAT], (0, 0, 1, 0)),
    "an object in a part": (voc_object(CAT, more=part(voc_object("eye"))), [CAT], (0, 0, 1, 0)),
    "a part of the image": (part(bndbox(2)), [], (0, 0, 1, 0)),
    "a box of no object": (bndbox(3), [], (0, 0, 0, 1)),
    "a second kind of box": (
        voc_object(CAT, more="<visible><xmin>1</xmin></visible>"), [CAT], (0, 0, 0, 1)
    ),
    "an item": (voc_object(CAT).replace("object", "item"), [], (0, 0, 0, 1)),
    "a box in a box": (voc_object(CAT).replace("</bndbox>", bndbox(2) + "</bndbox>"), [CAT], (0, 0, 0, 1)),
    "tags in other case": (voc_object(CAT).replace("object", "Object").replace("bndbox", "BndBox"), [CAT], (0, 0, 0, 0)),
    "tags of a namespace": (
        voc_object(CAT).replace("<object", '<v:object xmlns:v="u"').replace("/object", "/v:object"), [CAT], (0, 0, 0, 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_every_box_is_an_object_or_counted(tmp_path: Path, case: str) -> None:
    """Whatever element a box stands in; the objects that are there come in their order."""
    more, names, counts = PLACES[case]
    found = content(tmp_path, voc_xml([FIRST, more]))
    assert [item.name for item in found.objects] == [DOG, *names]
    assert (found.num_further, found.num_nested, found.num_parts, found.num_strays) == counts
    assert found.objects[0].box == (0, 0, 4, 9)


def test_what_is_not_as_usual_is_said(tmp_path: Path) -> None:
    """The summary has a line for each of them, with a file; a split that is empty without them says so."""
    source = small_official(tmp_path / "voc")
    odd = [voc_object(more=bndbox(2) + voc_object() + part(bndbox(4))), bndbox(7)]
    (source / "Annotations" / "c.xml").write_text(voc_xml(odd, filename="c.jpg"))
    notes = convert_voc(source, tmp_path / "out", say=lambda _: None).notes
    assert [note.split(":")[1] for note in notes] == [" 1, in c.xml for one"] * 4
    (source / "Annotations" / "c.xml").write_text(voc_xml([bndbox(7)], filename="c.jpg"))
    with pytest.raises(DataError, match="holds no objects, and 1 boxes that are no <bndbox>"):
        convert_voc(source, tmp_path / "out2", say=lambda _: None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (voc_object(more="<name>cat</name>"), "object 1: has 2 names"),
        (voc_object().replace("<xmax>", "<xmin>7</xmin><xmax>"), "2 xmin in one bndbox"),
        (voc_object().replace("bndbox", "robndbox"), "no bndbox"),
    ],
)
def test_objects_that_say_two_things(tmp_path: Path, text: str, words: str) -> None:
    """Nothing is chosen among two names, or two boxes in one element."""
    with pytest.raises(DataError, match=words):
        content(tmp_path, voc_xml([text]))


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [
        ("utf8", "utf-8"), ("UTF_8", "utf-8"), ("utf-8", "utf-8-sig"), ("latin1", "utf-8-sig"), ("latin1", "latin-1"),
        ("ISO8859-15", "iso8859-15"), ("cp1252", "cp1252"), ("windows-1252", "cp1252"), ("windows-1251", "cp1251"),
        ("cp1251", "cp1251"), ("koi8-r", "koi8-r"), ("gbk", "gbk"), ("Shift_JIS", "cp932"), ("utf-16", "utf-16"),
        ("utf-16", "utf-8"), ("UTF-16LE", "utf-16-le"), ("utf8", "utf-16-be"), ("utf-32", "utf-32"), (None, "utf-16"),
        (None, "utf-8"),
    ],
)  # fmt: skip
def test_encodings_are_read(tmp_path: Path, declared: str | None, encoding: str) -> None:
    """By a mark, else as declared, whatever alias it has, also where a program declared what it did not write."""
    name = {"cp1251": "жук", "koi8-r": "жук", "gbk": "卡车", "cp932": "車"}.get(encoding.lower(), "Käfer")
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared else ""
    text = head + voc_xml([voc_object(name)], filename=f"{name}.jpg")
    found = content(tmp_path, text.encode(encoding))
    assert (found.filename, found.objects[0].name) == (f"{name}.jpg", name)


@pytest.mark.parametrize(
    ("declared", "encoding", "words"),
    [
        ("ansi-x", "utf-8", "declares the encoding 'ansi-x'"),
        ("base64", "utf-8", "declares the encoding 'base64'"),
        ("unicode_escape", "utf-8", "declares the encoding 'unicode_escape'"),
        ("utf-7", "utf-8", "declares the encoding 'utf-7'"),
        ("", "utf-8", "declares the encoding ''"),
        ("a\\x1b[2J", "utf-8", "declares the encoding"),
        ("utf8", "cp1252", r"line 5: cannot be decoded as utf8, as it declares \(utf8\)"),
        ("us-ascii", "utf-8", r"as it declares \(us-ascii\)"),
        (None, "cp1252", "line 4: cannot be decoded as utf-8, as xml is that declares no encoding"),
    ],
)
def test_encodings_are_named(tmp_path: Path, declared: str | None, encoding: str, words: str) -> None:
    """What is unknown, is no encoding of text, or does not fit, in one line with the declaration."""
    head = f"<?xml version='1.0' encoding='{declared}'?>\n" if declared is not None else ""
    with pytest.raises(DataError, match=words) as caught:
        content(tmp_path, (head + voc_xml([voc_object("Käfer")])).encode(encoding))
    assert str(caught.value).isprintable() and "save it as UTF-8" in str(caught.value)


def test_a_deep_xml(tmp_path: Path) -> None:
    """A hundred thousand elements, one inside the other, are read as any."""
    deep = "<a>" * 100_000 + bndbox(1) + "</a>" * 100_000
    assert content(tmp_path, voc_xml([FIRST, deep])).num_strays == 1


def test_images_of_all_kinds_that_are_decoded(tmp_path: Path) -> None:
    """Without extension in the xml, each kind is found."""
    for suffix in (".gif", ".tif", ".tiff", ".bmp", ".webp"):
        source = write_official(tmp_path / suffix, {"a": [FIRST], "b": [FIRST]}, {"train": ["a"], "val": ["b"]})
        (source / "JPEGImages" / "b.jpg").unlink()
        draw(source / "JPEGImages" / f"b{suffix}")
        assert convert_voc(source, tmp_path / f"out{suffix}", say=lambda _: None).splits["val"].num_images == 1
