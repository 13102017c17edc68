"""Folders inside those of a VOC style data set, and names in its lists: each xml meets its own image."""

import json
import os
from pathlib import Path

import pytest
from oracles.voc_folder import CAT, DOG, draw, numbered, voc_object, voc_xml, write_flat, write_images, write_lists

from freeanchor.data.folder_check import report_folder
from freeanchor.data.voc import VocSummary, convert_voc
from freeanchor.errors import DataError

Names = tuple[list[str], list[str]]


def converted(source: Path, target: Path) -> tuple[VocSummary, Names]:
    """The summary, and what the images of train and val are called; what was made can be trained on."""
    summary = convert_voc(source, target, say=lambda _: None)
    lines, is_fine = report_folder(target)
    assert is_fine, lines
    train, val = (json.loads((target / f"{split}.json").read_bytes())["images"] for split in ("train", "val"))
    return summary, ([image["file_name"] for image in train], [image["file_name"] for image in val])


def cameras(root: Path, lists: dict[str, list[str]]) -> Path:
    """Images of the same names by two cameras, grey 10 and 200, in folders of their own."""
    for camera, grey in (("cam_a", 10), ("cam_b", 200)):
        write_images(root / "Annotations" / camera, root / "JPEGImages" / camera, numbered(3, camera), grey=grey)
    if lists:
        write_lists(root, lists)
    return root


def test_folders_inside(tmp_path: Path) -> None:
    """Each xml gets the image of its own camera, and the names keep their folder."""
    summary, (train, val) = converted(cameras(tmp_path / "voc", {}), tmp_path / "out")
    assert val == ["cam_a/p03.jpg"]
    assert train == ["cam_a/p01.jpg", "cam_b/p01.jpg", "cam_a/p02.jpg", "cam_b/p02.jpg", "cam_b/p03.jpg"]
    assert summary.splits["train"].num_skipped == summary.splits["val"].num_skipped == 0
    made, own = (tmp_path / folder / "cam_b/p01.jpg" for folder in ("out/images", "voc/JPEGImages"))
    assert made.read_bytes() == own.read_bytes() != (tmp_path / "out/images/cam_a/p01.jpg").read_bytes()


def test_lists_of_names_with_folders(tmp_path: Path) -> None:
    """With more folders before them, quoted, or with backslashes; a folder that is not there names nothing."""
    lists = {
        "Train": ["JPEGImages/cam_a/p01.jpg", '"cam_b/p01" 1', "# a remark"],
        "Validation": ["cam_b\\p03.jpg", "./cam_a/p03", "cam_c/p02"],
    }
    summary, (train, val) = converted(cameras(tmp_path / "voc", lists), tmp_path / "out")
    assert (train, val) == (["cam_a/p01.jpg", "cam_b/p01.jpg"], ["cam_b/p03.jpg", "cam_a/p03.jpg"])
    assert [split.num_skipped for split in summary.splits.values()] == [0, 1]


def test_a_name_of_two_folders_is_refused(tmp_path: Path) -> None:
    """A list that does not say which camera, and an xml that does not."""
    with pytest.raises(DataError, match=r"val.txt: names 'p02', of which there are 2; write its folder before it"):
        converted(cameras(tmp_path / "voc", {"train": ["cam_a/p01"], "val": ["p02"]}), tmp_path / "out")
    source = tmp_path / "flat"
    write_images(source / "Annotations", source / "JPEGImages/x", numbered(5))
    draw(source / "JPEGImages/y/p04.jpg")
    with pytest.raises(DataError, match=r"p04.xml: is about p04.jpg, of which there are 2 \(x/p04.jpg and y/p04.jpg\)"):
        converted(source, tmp_path / "out")


@pytest.mark.parametrize(("filename", "folder"), [("y/p04.jpg", ""), ("C:\\set\\y\\p04.jpg", ""), ("p04.jpg", "y")])
def test_an_xml_says_the_folder_of_its_image(tmp_path: Path, filename: str, folder: str) -> None:
    """In its `<filename>`, or in its `<folder>`."""
    write_images(tmp_path / "voc/Annotations", tmp_path / "voc/JPEGImages/x", numbered(5))
    draw(tmp_path / "voc/JPEGImages/y/p04.jpg", grey=200)
    text = voc_xml([voc_object()], filename=filename).replace("<filename>", f"<folder>{folder}</folder><filename>")
    (tmp_path / "voc/Annotations/p04.xml").write_text(text)
    assert "y/p04.jpg" in converted(tmp_path / "voc", tmp_path / "out")[1][0]


def test_an_image_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    """Where a camera's folder lacks an image, that of the other camera does not stand in."""
    source = cameras(tmp_path / "voc", {})
    (source / "JPEGImages/cam_a/p02.jpg").unlink()
    with pytest.raises(DataError, match=r"p02.xml: there is no image 'p02.jpg' or 'p02.jpg' in .*JPEGImages/cam_a"):
        converted(source, tmp_path / "out")


@pytest.mark.parametrize("images", ["images/{}", "images", "JPEGImages/{}"])
def test_folders_of_splits_inside_the_annotations(tmp_path: Path, images: str) -> None:
    """`annotations/train/` and `annotations/val/` say what trains, whether or not images are divided as well."""
    for split, names in (("train", {"a": [voc_object(CAT)], "b": [voc_object()]}), ("val", {"c": [voc_object()]})):
        write_images(tmp_path / "set/annotations" / split, tmp_path / "set" / images.format(split), names)
    assert converted(tmp_path / "set", tmp_path / "out")[1] == (["a.jpg", "b.jpg"], ["c.jpg"])


def test_folders_inside_those_of_splits(tmp_path: Path) -> None:
    """Labels and images apart below `train/`, and folders of classes."""
    write_images(tmp_path / "a/train/labels", tmp_path / "a/train/images", numbered(2))
    write_images(tmp_path / "a/valid/labels", tmp_path / "a/valid/images", {"v": [voc_object()]})
    assert converted(tmp_path / "a", tmp_path / "out")[1] == (["p01.jpg", "p02.jpg"], ["v.jpg"])
    write_flat(
        tmp_path / "b", {f"{split}/{name}": numbered(1, name) for split in ("train", "val") for name in ("x", "y")}
    )
    assert converted(tmp_path / "b", tmp_path / "out2")[1][0] == ["x/p01.jpg", "y/p01.jpg"]


def test_a_link_that_leads_up_ends(tmp_path: Path) -> None:
    """A folder that holds a link to itself is read once; one that links elsewhere is read."""
    source = cameras(tmp_path / "voc", {})
    (source / "Annotations/cam_a/up").symlink_to("..", target_is_directory=True)
    (source / "JPEGImages/cam_b").rename(tmp_path / "elsewhere")
    (source / "JPEGImages/cam_b").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert len(converted(source, tmp_path / "out")[1][0]) == 5


def test_nothing_is_passed_over_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that leads nowhere, and a folder that cannot be listed, end the conversion."""
    source = cameras(tmp_path / "voc", {})
    (source / "Annotations/cam_a/p09.xml").symlink_to(tmp_path / "gone.xml")
    with pytest.raises(FileNotFoundError, match="p09.xml"):
        converted(source, tmp_path / "out")
    (source / "Annotations/cam_a/p09.xml").unlink()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("cam_b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="cam_b"):
        converted(source, tmp_path / "out")


def test_a_result_inside_the_source_is_not_read(tmp_path: Path) -> None:
    """A second conversion finds the same images, and none without xml."""
    write_images(tmp_path / "set", tmp_path / "set", numbered(5))
    first = converted(tmp_path / "set", tmp_path / "set/coco")
    assert converted(tmp_path / "set", tmp_path / "out") == first


def test_xml_that_are_not_read_are_told(tmp_path: Path) -> None:
    """Beside folders of splits, in folders of other names, and above those of xml without a split."""
    write_flat(tmp_path / "a", {"train": numbered(2), "val": numbered(1), "more": numbered(3), "test": numbered(1)})
    notes = converted(tmp_path / "a", tmp_path / "out")[0].notes
    assert "3 xml files in other folders are not read, more/p01.xml for one" in notes
    write_images(tmp_path / "b", tmp_path / "b", numbered(5))
    write_images(tmp_path / "b/old", tmp_path / "b/old", numbered(2))
    summary, names = converted(tmp_path / "b", tmp_path / "out2")
    assert names == (["p01.jpg", "p02.jpg", "p03.jpg", "p04.jpg"], ["p05.jpg"])
    assert "2 xml files in other folders are not read, old/p01.xml for one" in summary.notes


# line of a list -> the xml that it names, of "hall 1", "hall", "hall 1.5", "Ä b"; None where its xml is missing
LINES = {
    "hall 1": "hall 1", "hall": "hall", "JPEGImages/hall 1.png": "hall 1", "hall 1.jpg  -1": "hall 1",
    "hall 1 0": "hall 1", "hall 1.5": "hall 1.5", "hall 1.5.JPG": "hall 1.5", "hall\t-1": "hall", '"hall 1"': "hall 1",
    "hall 1.xml": "hall 1", "HALL 1": "hall 1", "ä b": "Ä b", "a\u0308 b.png": "Ä b", "C:\\set\\hall 1.bmp": "hall 1",
    "hall 2.jpg": None, "hall 2": None, "hall dog 1": "hall",
}  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_a_line_of_a_list(tmp_path: Path, line: str) -> None:
    """Blanks, extensions, folders, flags and quotes: the name that is meant, and none that only starts alike."""
    stems = ("hall 1", "hall", "hall 1.5", "Ä b")
    write_images(
        tmp_path / "v/Annotations", tmp_path / "v/JPEGImages", {stem: [voc_object()] for stem in ("t", *stems)}
    )
    draw(tmp_path / "v/JPEGImages/hall 2.jpg")
    write_lists(tmp_path / "v", {"train": ["t"], "val": [line] if LINES[line] else ["hall", line]})
    summary, (_, val) = converted(tmp_path / "v", tmp_path / "out")
    assert val == [f"{LINES[line] or 'hall'}.jpg"]
    assert summary.splits["val"].num_skipped == (LINES[line] is None)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1252", "Tür 1"), ("cp1251", "дверь 1"), ("utf-16", "Tür 1"), ("utf-16-le", "дверь"), ("utf-8-sig", "Tür"),
     ("gb18030", "卡车 1"), ("cp932", "トラック")],
)  # fmt: skip
def test_lists_of_windows(tmp_path: Path, encoding: str, name: str) -> None:
    """Names are read in the encoding in which they are names of xml files; lines may end as Windows has them."""
    write_images(tmp_path / "v/Annotations", tmp_path / "v/JPEGImages", {"a": [voc_object(DOG)], name: [voc_object()]})
    write_lists(tmp_path / "v", {"train": ["a"], "val": []})
    (tmp_path / "v/ImageSets/Main/val.txt").write_bytes(f"{name}.jpg\r\n".encode(encoding))
    assert converted(tmp_path / "v", tmp_path / "out")[1] == (["a.jpg"], [f"{name}.jpg"])


def test_names_are_shown_as_they_may_be(tmp_path: Path) -> None:
    """Files and classes are called what they like; lines stay lines, say all of a name but its middle, and no more."""
    odd = {"a\x1b[2Jb": "$x_1$", "c\u202egnp": "\u202ekcirt", "d" * 200: "e" * 300, "f\ng": "h", "i": "j"}
    write_images(tmp_path / "v", tmp_path / "v", {name: [voc_object(label)] for name, label in odd.items()})
    for name in odd:
        (tmp_path / f"v/{name}.xml").write_text(voc_xml([voc_object(odd[name])], size=None))
    summary, (train, val) = converted(tmp_path / "v", tmp_path / "out")
    assert {f"{name}.jpg" for name in odd} == {*train, *val}
    assert all(line.isprintable() and len(line) < 700 for line in summary.lines())
    assert (
        "$x_1$" in summary.lines()[2] and "\\u202ekcirt" in summary.lines()[2] and "e" * 121 not in summary.lines()[2]
    )
    for name in odd:
        (tmp_path / f"v/{name}.jpg").unlink()
        with pytest.raises(DataError) as caught:
            converted(tmp_path / "v", tmp_path / "out2")
        assert str(caught.value).isprintable()


def test_names_in_no_encoding(tmp_path: Path) -> None:
    """A file whose name is bytes of some old system is found by a list with the same bytes."""
    raw = os.fsdecode(b"T\xfcr\x81")
    write_images(tmp_path / "v/Annotations", tmp_path / "v/JPEGImages", {"a": [voc_object()], "b": [voc_object()]})
    (tmp_path / "v/Annotations/b.xml").rename(tmp_path / f"v/Annotations/{raw}.xml")
    write_lists(tmp_path / "v", {"train": ["a"], "val": []})
    (tmp_path / "v/ImageSets/Main/val.txt").write_bytes(b"T\xfcr\x81\n")
    assert converted(tmp_path / "v", tmp_path / "out")[1] == (["a.jpg"], ["b.jpg"])
