"""VOC style data with something wrong: one line each, and nothing half-written; images under odd names."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from oracles.voc_folder import (
    DOG,
    draw,
    entities,
    numbered,
    small_official,
    voc_object,
    voc_xml,
    write_flat,
    write_images,
    write_official,
)

from freeanchor.data import voc
from freeanchor.data.coco import read_split
from freeanchor.data.folder_check import report_folder
from freeanchor.data.voc import VocSummary, convert_voc
from freeanchor.errors import DataError


def silent(_: str) -> None:
    """Says nothing."""


def refused(source: Path, target: Path, *words: str) -> None:
    """The conversion ends in one line with these words and a remedy, and leaves nothing beside what was there."""
    before = sorted(target.parent.rglob("*"))
    with pytest.raises(DataError) as caught:
        convert_voc(source, target, say=silent)
    line = str(caught.value)
    assert line.isprintable() and ";" in line and all(word in line for word in words), line
    assert sorted(target.parent.rglob("*")) == before


def test_no_such_folder(tmp_path: Path) -> None:
    """A folder that is not there, and a file."""
    refused(tmp_path / "none", tmp_path / "out", "none", "no such folder")
    (tmp_path / "file").write_text("a")
    refused(tmp_path / "file", tmp_path / "out", "file", "no such folder")


def test_no_xml(tmp_path: Path) -> None:
    """Folders without xml, too deep, or with nothing but what a Mac leaves."""
    source = small_official(tmp_path / "a" / "b" / "c" / "voc")
    refused(tmp_path / "a", tmp_path / "out", "holds no xml")
    shutil.rmtree(source / "Annotations")
    (source / "._a.xml").write_bytes(b"\0\5\x16\7")
    refused(source, tmp_path / "out", "holds no xml", "Annotations/")


def test_several_data_sets(tmp_path: Path) -> None:
    """Two years side by side: both are named."""
    for year in ("VOC2007", "VOC2012"):
        small_official(tmp_path / "VOCdevkit" / year)
    refused(tmp_path / "VOCdevkit", tmp_path / "out", "2 data sets (VOC2007, VOC2012)", "give one of them")


@pytest.mark.parametrize("kind", ["folder", "file", "source"])
def test_an_occupied_target(tmp_path: Path, kind: str) -> None:
    """A folder with anything in it, a file, and the source itself are refused and kept."""
    source = small_official(tmp_path / "voc")
    target = source if kind == "source" else tmp_path / "out"
    if kind == "folder":
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    elif kind == "file":
        target.write_text("mine")
    refused(source, target, "not empty", target.name)


def test_an_empty_target_is_used(tmp_path: Path) -> None:
    """An empty folder, one below folders that are not there, and one inside the source."""
    source = small_official(tmp_path / "voc")
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "x" / "y", source / "coco"):
        convert_voc(source, target, say=silent)
        assert report_folder(target)[1]


GOOD = voc_object()
XML: dict[str, tuple[str, tuple[str, ...]]] = {
    "cut short": ("<annotation>\n<object>\n<name>dog</na", ("c.xml: line 3", "broken xml")),
    "empty": ("", ("c.xml: line 1", "no element found")),
    "no xml": ("\n\nhello", ("c.xml: line 3", "syntax error")),
    "two roots": ("<annotation/>\n<annotation/>", ("c.xml: line 2", "broken xml")),
    "an unknown entity": (voc_xml([voc_object("NAME")]).replace("NAME", "&dog;"), ("c.xml: line", "undefined entity")),
    "an unknown encoding": ('<?xml version="1.0" encoding="klingon"?><annotation/>', ("c.xml", "klingon")),
    "a nested expansion": (entities("laughs"), ("c.xml", "DOCTYPE")),
    "an external entity": (entities("external"), ("c.xml", "DOCTYPE")),
    "another format": ("<project/>", ("c.xml", "<project>", "VOC")),
    "no name": (voc_xml([GOOD, voc_object("  ")]), ("c.xml: object 2", "no name")),
    "a name of no text": (voc_xml([voc_object("a\x85\x9fb")]), ("c.xml: object 1", "no name")),
    "no box": (voc_xml([GOOD, GOOD, "<object><name>dog</name></object>"]), ("c.xml: object 3 ('dog')", "no bndbox")),
    "no xmax": (voc_xml([GOOD.replace("xmax>", "right>")]), ("c.xml: object 1 ('dog')", "no xmax")),
    "a box of letters": (voc_xml([voc_object(box=(1, "abc", 3, 4))]), ("object 1 ('dog')", "ymin 'abc'")),
    "a box of nan": (voc_xml([voc_object(box=("nan", 2, 3, 4))]), ("object 1 ('dog')", "xmin 'nan'")),
    "a box of infinity": (voc_xml([voc_object(box=(1, 2, "inf", 4))]), ("object 1 ('dog')", "xmax 'inf'")),
    "left and right swapped": (voc_xml([voc_object(box=(9, 2, 3, 4))]), ("object 1 ('dog')", "(9, 2) to (3, 4)")),
    "top and bottom swapped": (voc_xml([voc_object(box=(1, 9, 3, 4))]), ("object 1 ('dog')", "(1, 9) to (3, 4)")),
}


@pytest.mark.parametrize("fault", XML)
def test_bad_xml(tmp_path: Path, fault: str) -> None:
    """Each fault of a file is told with its name, and its line or object."""
    text, words = XML[fault]
    source = small_official(tmp_path / "voc")
    (source / "Annotations" / "secret.txt").write_text("dog")
    (source / "Annotations" / "c.xml").write_text(text, encoding="utf-8")
    refused(source, tmp_path / "out", *words)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    """Files say how they are written, and no way of writing hides a DOCTYPE."""
    source = small_official(tmp_path / "voc")
    head = '<?xml version="1.0" encoding="latin-1"?>\n' if encoding == "latin-1" else ""
    path = source / "Annotations" / "c.xml"
    path.write_bytes((head + voc_xml([voc_object("Käfer")])).encode(encoding))
    assert "Käfer" in convert_voc(source, tmp_path / "out", say=silent).categories
    path.write_bytes((head + entities("laughs").split("\n", 1)[1]).encode(encoding))
    refused(source, tmp_path / "out2", "c.xml", "DOCTYPE")


def test_splits_without_objects(tmp_path: Path) -> None:
    """Nothing to learn or to measure by: no object, or difficult ones alone."""
    for number, objects in enumerate(([], [voc_object(difficult=1)], [voc_object(box=(50, 5, 60, 9))])):
        source = tmp_path / f"voc{number}"
        write_official(source, {"a": [GOOD], "b": objects}, {"train": ["a"], "val": ["b"]})
        words = "no objects but difficult ones" if number == 1 else "no objects"
        refused(source, tmp_path / "out", "val (from ImageSets/Main/val.txt)", words)


def test_lists_and_folders_that_decide_nothing(tmp_path: Path) -> None:
    """A val list alone, two folders that validate, and too few images to divide."""
    refused(write_official(tmp_path / "a", numbered(5), {"val": ["p01"]}), tmp_path / "out", "val.txt", "no train.txt")
    flat = write_flat(tmp_path / "b", {"train": numbered(1), "val": numbered(1), "valid": numbered(1)})
    refused(flat, tmp_path / "out", "two folders", "valid")
    write_images(tmp_path / "c", tmp_path / "c", numbered(4))
    refused(tmp_path / "c", tmp_path / "out", "4 xml files", "too few")


def changed(tmp_path: Path, change: Callable[[Path, Path], object]) -> Path:
    """The small data set, the xml and the image of its val split given to a change."""
    source = small_official(tmp_path / "voc")
    change(source / "Annotations" / "c.xml", source / "JPEGImages" / "c.jpg")
    return source


def test_an_xml_without_image(tmp_path: Path) -> None:
    """No image of either name: both names and the folder are told."""
    source = changed(tmp_path, lambda xml, image: (image.unlink(), xml.write_text(voc_xml([GOOD], filename="x.png"))))
    refused(source, tmp_path / "out", "c.xml", "'x.png' or 'c.jpg'", "JPEGImages")


@pytest.mark.parametrize("given", ["../secret.jpg", "{}/secret.jpg", "..\\secret.jpg"])
def test_no_path_leaves_the_folder(tmp_path: Path, given: str) -> None:
    """A name with folders is looked up in the data set's own, never elsewhere."""
    source = changed(tmp_path, lambda _, image: image.unlink())
    draw(source / "secret.jpg")
    (source / "Annotations" / "c.xml").write_text(voc_xml([GOOD], filename=given.format(source)))
    refused(source, tmp_path / "out", "c.xml", "'secret.jpg' or 'c.jpg'")


def test_two_xml_of_one_image(tmp_path: Path) -> None:
    """Objects of an image in two files would count as background of each other."""
    source = write_official(tmp_path / "voc", numbered(3), {"train": ["p01", "p02"], "val": ["p03"]})
    (source / "Annotations" / "p02.xml").write_text(voc_xml([GOOD], filename="p01.jpg"))
    refused(source, tmp_path / "out", "p02.xml", "p01.jpg", "p01.xml")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    """What cannot be opened is named with its reason."""
    refused(changed(tmp_path, lambda _, image: image.write_text("<html>")), tmp_path / "out", "c.jpg", "not an image")


def test_images_turned_by_a_flag(tmp_path: Path) -> None:
    """Boxes drawn on the image as viewers turn it would lie elsewhere; drawn as stored, they are right."""
    source = changed(tmp_path, lambda _, image: draw(image, exif_orientation=6))
    convert_voc(source, tmp_path / "right", say=silent)
    (source / "Annotations" / "c.xml").write_text(voc_xml([GOOD], size=(30, 40)))
    refused(source, tmp_path / "out", "c.jpg", "EXIF orientation 6", "without the flag")


NAMES = {  # <filename>, files beside the xml called c.xml -> the image
    "no extension": ("c", ["c.jpg"], "c.jpg"),
    "no extension but a dot": ("v1.c", ["v1.c.png"], "v1.c.png"),
    "another extension": ("c.jpg", ["c.png"], "c.png"),
    "another case": ("x.jpg", ["X.JPG"], "X.JPG"),
    "another name": ("Untitled.jpg", ["c.jpeg"], "c.jpeg"),
    "a path": ("/home/me/photos/x.bmp", ["x.bmp"], "x.bmp"),
    "a path of windows": ("C:\\photos\\x.webp", ["x.webp"], "x.webp"),
    "no name": (None, ["c.jpg"], "c.jpg"),
    "an empty name": ("", ["c.jpg"], "c.jpg"),
    "two kinds": ("c", ["c.png", "c.jpg"], "c.jpg"),
    "the name before the xml's own": ("x.jpg", ["c.jpg", "x.jpg"], "x.jpg"),
    "an unusual kind": ("x.gif", ["x.gif"], "x.gif"),
    "accents composed otherwise": ("\u00e4.jpg", ["a\u0308.jpg"], "a\u0308.jpg"),
    "a drive on windows": ("x\\C:c.jpg", ["C:c.jpg"], "C_c.jpg"),
}


@pytest.mark.parametrize("case", NAMES)
def test_images_are_found(tmp_path: Path, case: str) -> None:
    """By the name that is given, as generously as it takes, else by the xml's own."""
    given, files, expected = NAMES[case]
    source = changed(tmp_path, lambda xml, image: (image.unlink(), xml.write_text(voc_xml([GOOD], filename=given))))
    for name in files:
        draw(source / "JPEGImages" / name)
    convert_voc(source, tmp_path / "out", say=silent)
    assert [image.path.name for image in read_split(tmp_path / "out", "val").images] == [expected]


def val_names(tmp_path: Path) -> tuple[VocSummary, list[str]]:
    """The summary, and what the val images are called."""
    summary = convert_voc(tmp_path / "set", tmp_path / "out", say=silent)
    assert report_folder(tmp_path / "out")[1]
    return summary, [image.path.name for image in read_split(tmp_path / "out", "val").images]


def test_different_images_of_one_name(tmp_path: Path) -> None:
    """The later is told apart by its split, in any case of letters, and stays itself."""
    write_flat(
        tmp_path / "set", {"train": {"a": [GOOD], "b": [GOOD]}, "val": {"A": [GOOD], "c": [GOOD], "val_A": [GOOD]}}
    )
    summary, found = val_names(tmp_path)
    assert found == ["val_A.jpg", "c.jpg", "val_val_A.jpg"]
    assert "2, A.jpg is now val_A.jpg" in summary.notes[0]
    assert (tmp_path / "out/images/val_A.jpg").read_bytes() == (tmp_path / "set/val/A.jpg").read_bytes()
    assert (tmp_path / "out/images/a.jpg").read_bytes() == (tmp_path / "set/train/a.jpg").read_bytes()


def test_the_same_image_in_both_splits(tmp_path: Path) -> None:
    """It is one file, and told, as its result means nothing."""
    write_flat(tmp_path / "set", {"train": {"a": [GOOD]}, "val": {"a": [GOOD], "b": [GOOD]}})
    shutil.copyfile(tmp_path / "set/train/a.jpg", tmp_path / "set/val/a.jpg")
    summary, found = val_names(tmp_path)
    assert found == ["a.jpg", "b.jpg"] and "in both splits: 1, a.jpg" in summary.notes[0]


def listed(folder: Path) -> list[str]:
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full", "somewhere")])
def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException) -> None:
    """Stopped at the second image there is nothing beside the source, and a full disk is told of the target."""
    source, calls = small_official(tmp_path / "voc"), []

    def stop_at_the_second(*paths: object) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise fault

    monkeypatch.setattr(voc, "_place", stop_at_the_second)
    with pytest.raises(type(fault)) as caught:
        convert_voc(source, tmp_path / "out", say=silent)
    assert listed(tmp_path) == ["voc"]
    assert getattr(caught.value, "filename", None) in (None, str(tmp_path / "out"))


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    """Its hidden folder does not get into the next result, and goes."""
    draw(tmp_path / ".out.partial" / "images" / "stale.jpg")
    convert_voc(small_official(tmp_path / "voc"), tmp_path / "out", say=silent)
    assert listed(tmp_path) == ["out", "voc"]
    assert listed(tmp_path / "out/images") == ["a.jpg", "b.jpg", "c.jpg"]


def test_quiet_without_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress is for terminals; the summary is printed unless told otherwise."""
    summary = convert_voc(small_official(tmp_path / "voc"), tmp_path / "out")
    printed = capsys.readouterr()
    assert printed.err == "" and printed.out.splitlines() == summary.lines() and DOG in printed.out
