"""VOC style data become a folder of ours: every layout, every box, the same bytes each time."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.voc_folder import (
    CAT,
    DOG,
    SIZE,
    draw,
    numbered,
    small_official,
    voc_object,
    voc_xml,
    write_flat,
    write_images,
    write_lists,
    write_official,
)
from pycocotools.coco import COCO

from freeanchor.data.coco import InputConfig, load_sample, read_split
from freeanchor.data.folder_check import report_folder
from freeanchor.data.voc import VocSummary, clipped, convert_voc, to_xywh
from freeanchor.data.voc_xml import shifted

Split = dict[str, Any]


def silent(_: str) -> None:
    """Says nothing."""


def converted(source: Path, target: Path) -> tuple[VocSummary, Split, Split]:
    """The summary and both jsons; the folder that was made is one that can be trained on."""
    summary = convert_voc(source, target, say=silent)
    lines, is_fine = report_folder(target)
    assert is_fine, lines
    for split in ("train", "val"):
        assert len(read_split(target, split).images) == summary.splits[split].num_images
    train, val = (json.loads((target / f"{split}.json").read_bytes()) for split in ("train", "val"))
    assert train["categories"] == val["categories"]
    return summary, train, val


def names(content: Split) -> list[str]:
    """File names of a json's images."""
    return [image["file_name"] for image in content["images"]]


def boxes(content: Split) -> list[list[float]]:
    """Boxes of a json's annotations."""
    return [item["bbox"] for item in content["annotations"]]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def one_image(tmp_path: Path, *objects: str, size: tuple[object, object] | None = SIZE) -> tuple[VocSummary, Split]:
    """The summary and val.json of a data set whose only image to test on holds these objects."""
    source = write_official(tmp_path / "voc", {"a": [voc_object()], "c": []}, {"train": ["a"], "val": ["c"]})
    (source / "Annotations" / "c.xml").write_text(voc_xml(objects, filename="c.jpg", size=size))
    summary, _, val = converted(source, tmp_path / "out")
    return summary, val


def test_the_official_layout(tmp_path: Path) -> None:
    """Lists say what trains; images keep their names, categories are in order, one list for both splits."""
    summary, train, val = converted(small_official(tmp_path / "VOC2012"), tmp_path / "out")
    assert (names(train), names(val)) == (["a.jpg", "b.jpg"], ["c.jpg"])
    assert train["categories"] == [{"id": 1, "name": CAT}, {"id": 2, "name": DOG}]
    assert boxes(train) == [[0, 0, 40, 30], [10, 5, 10, 20], [0, 0, 40, 30]]
    assert [item["category_id"] for item in train["annotations"]] == [2, 1, 2]
    assert [item["image_id"] for item in train["annotations"]] == [1, 1, 2]
    assert [item["area"] for item in train["annotations"]] == [1200, 200, 1200]
    assert train["images"][0] == {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}
    assert summary.lines() == [
        "train: 2 images and 3 objects from ImageSets/Main/train.txt",
        "val: 1 images and 2 objects from ImageSets/Main/val.txt",
        "2 categories: cat, dog",
    ]


def test_the_summary_is_said(tmp_path: Path) -> None:
    """What is returned is what is said, one line each."""
    said: list[str] = []
    summary = convert_voc(small_official(tmp_path / "voc"), tmp_path / "out", say=said.append)
    assert said == summary.lines()


def test_the_result_loads(tmp_path: Path) -> None:
    """Images and boxes come out of our own reader and out of pycocotools."""
    convert_voc(small_official(tmp_path / "voc"), tmp_path / "out", say=silent)
    split = read_split(tmp_path / "out", "val")
    sample = load_sample(split.images[0], InputConfig(short_side=60, max_long_side=80))
    assert sample.boxes.tolist() == [[0, 0, 80, 60], [20, 10, 40, 50]]
    assert split.category_names == (CAT, DOG)
    assert len(COCO(str(tmp_path / "out" / "val.json")).getAnnIds()) == 2


@pytest.mark.parametrize("above", ["VOC2007", "VOCdevkit/VOC2012"])
def test_the_data_set_may_lie_below(tmp_path: Path, above: str) -> None:
    """One or two folders above the data set will do, whatever else is there."""
    small_official(tmp_path / "voc" / above)
    (tmp_path / "voc" / "notes").mkdir()
    assert converted(tmp_path / "voc", tmp_path / "out")[0].splits["train"].num_objects == 3


def test_without_val_the_test_list_validates(tmp_path: Path) -> None:
    """Of trainval and test the first trains and the second tests, which is said; what no list names is left alone."""
    source = write_official(tmp_path / "voc", numbered(4), {"trainval": ["p02", "p01"], "test": ["p03"]})
    summary, train, val = converted(source, tmp_path / "out")
    assert (names(train), names(val)) == (["p02.jpg", "p01.jpg"], ["p03.jpg"])
    assert "trainval.txt trains and test.txt validates" in summary.notes[0]
    assert summary.notes[1] == "1 xml files are in neither list and left alone"


def test_lists_are_read_generously(tmp_path: Path) -> None:
    """Columns behind an id, extensions, folders, blanks in names, empty and repeated lines; class lists do not count."""
    source = write_official(tmp_path / "voc", numbered(3) | {"my dog": [voc_object()]}, {})
    lists = {"train": ["data/p01.jpg 1", "my dog", "", "p01"], "val": ["\ufeffp02 -1", "p09"]}
    write_lists(source, lists | {"trainval": ["p03"], "test": ["p03"], "dog_train": ["p03 1"], "dog_val": ["p03 1"]})
    summary, train, val = converted(source, tmp_path / "out")
    assert (names(train), names(val)) == (["p01.jpg", "my dog.jpg"], ["p02.jpg"])
    assert (summary.splits["train"].num_skipped, summary.splits["val"].num_skipped) == (0, 1)
    assert summary.lines()[1].endswith("val.txt; images left out, without xml: 1")
    assert summary.notes == ("test.txt is left alone", "1 xml files are in neither list and left alone")


@pytest.mark.parametrize("second", ["valid", "val", "Validation"])
def test_folders_of_a_split_each(tmp_path: Path, second: str) -> None:
    """Exports with xml beside images: train and a second folder count, test does not, images without xml neither."""
    source = write_flat(tmp_path / "set", {"train": numbered(2), second: numbered(3), "test": numbered(1)})
    draw(source / "train" / "unlabelled.png")
    summary, train, _ = converted(source, tmp_path / "out")
    assert names(train) == ["p01.jpg", "p02.jpg"]
    assert summary.notes[0] == "test/ is left alone"
    assert [split.num_skipped for split in summary.splits.values()] == [1, 0]
    assert summary.splits["val"].said_by == f"{second}/"


def test_folders_without_val(tmp_path: Path) -> None:
    """A test folder validates where no other does; train alone is divided."""
    source = write_flat(tmp_path / "both", {"train": numbered(2), "test": {"t": [voc_object()]}})
    summary, _, val = converted(source, tmp_path / "out")
    assert names(val) == ["t.jpg"] and "test/ validates" in summary.notes[0]
    source = write_flat(tmp_path / "alone", {"train": numbered(5)})
    assert names(converted(source, tmp_path / "out2")[2]) == ["p05.jpg"]


@pytest.mark.parametrize("layout", ["beside", "Annotations", "one list"])
def test_without_split_every_fifth_validates(tmp_path: Path, layout: str) -> None:
    """Twelve images and no word of a split: the fifth and the tenth by name validate, which is said."""
    source = tmp_path / "set"
    if layout == "beside":
        write_images(source, source, numbered(12))
    else:
        lists = {"trainval": ["p99", *sorted(numbered(12), reverse=True)]} if layout == "one list" else {}
        write_official(source, numbered(12), lists)
    draw((source if layout == "beside" else source / "JPEGImages") / "unlabelled.jpg")
    summary, train, val = converted(source, tmp_path / "out")
    assert names(val) == ["p05.jpg", "p10.jpg"]
    assert len(names(train)) == 10 and not set(names(train)) & set(names(val))
    assert "every fifth" in summary.notes[0]
    assert [split.num_skipped for split in summary.splits.values()] == [1, 0]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1, 1, 40, 30), [0, 0, 40, 30]),  # the whole image
        ((8, 12, 20, 15), [7, 11, 13, 4]),
        ((5, 6, 5, 6), [4, 5, 1, 1]),  # one pixel
        ((0, 0, 10, 10), [0, 0, 10, 10]),  # counted from 0: cut at the edge
        ((30, 20, 44, 33), [29, 19, 11, 11]),
        ((3.5, "4.25", 10.5, "1.2e1"), [2.5, 3.25, 8, 8.75]),
    ],
)
def test_boxes_by_hand(tmp_path: Path, box: tuple[object, ...], expected: list[float]) -> None:
    """Corners counted from 1, both inside, become x, y, width and height in the image; area is their product."""
    summary, val = one_image(tmp_path, voc_object(box=box))
    assert boxes(val) == [expected]
    assert val["annotations"][0]["area"] == expected[2] * expected[3]
    assert summary.splits["val"].num_clipped == (box[0] == 0 or box[2] == 44)


def test_objects_outside_are_left_out(tmp_path: Path) -> None:
    """A box without any pixel in its image is left out and counted, with its class."""
    outside = [voc_object("bird", (41, 5, 50, 9)), voc_object("bird", (-9, 5, 0, 9))]
    summary, val = one_image(tmp_path, voc_object(), *outside)
    assert len(val["annotations"]) == 1 and summary.categories == (DOG,)
    assert summary.splits["val"].num_outside == 2 and summary.splits["val"].num_clipped == 0


def test_difficult_objects_are_crowd_regions(tmp_path: Path) -> None:
    """They are in the json, for evaluation to ignore, and no targets of training; only a flag of 1 counts."""
    flags = ("1", "0", None, "", "Unspecified", " true ")
    summary, val = one_image(tmp_path, *(voc_object(box=(3, 4, 10 + i, 12), difficult=f) for i, f in enumerate(flags)))
    assert [item["iscrowd"] for item in val["annotations"]] == [1, 0, 0, 0, 0, 1]
    assert (summary.splits["val"].num_difficult, summary.splits["val"].num_objects) == (2, 4)
    assert read_split(tmp_path / "out", "val").images[0].boxes[:, 2].tolist() == [11, 12, 13, 14]


def test_parts_are_no_objects(tmp_path: Path) -> None:
    """The head of a person, a part with a box of its own before the person's, is not an object, and not its box."""
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    summary, val = one_image(tmp_path, voc_object("person", (3, 4, 10, 12), more=part))
    assert boxes(val) == [[2, 3, 8, 9]] and summary.categories == (DOG, "person")


def test_names_of_classes(tmp_path: Path) -> None:
    """Blanks around a name do not count, line breaks within it are blanks; marks and accents stay."""
    summary, _ = one_image(tmp_path, *(voc_object(name) for name in ("\n traffic\n  light ", "R&D <1>", "Käfer")))
    assert summary.categories == ("Käfer", "R&D <1>", DOG, "traffic light")


@pytest.mark.parametrize("said", [None, (0, 0), (80, 60), ("", "?")])
def test_the_image_says_its_size(tmp_path: Path, said: tuple[object, object] | None) -> None:
    """A size that is missing, 0 or another one than the image's is not believed, and told."""
    summary, val = one_image(tmp_path, voc_object(), size=said)
    assert [val["images"][0][side] for side in ("width", "height")] == [40, 30]
    expected = "c.xml says 80x60 of one of 40x30" if said == (80, 60) else "without the size"
    assert len(summary.notes) == 1 and expected in summary.notes[0]


corners = st.tuples(*[st.lists(st.integers(1, side), min_size=2, max_size=2).map(sorted) for side in SIZE])


@settings(max_examples=20)
@given(objects=st.lists(st.tuples(corners, st.sampled_from([DOG, CAT]), st.booleans()), max_size=12))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, objects: list[tuple[Any, ...]]) -> None:
    """Boxes inside their image come back pixel by pixel, in order, with class and difficulty."""
    folder = tmp_path_factory.mktemp("voc")
    written = [(name, (x[0], y[0], x[1], y[1]), int(is_difficult)) for (x, y), name, is_difficult in objects]
    items = [voc_object(name, box, difficult=flag) for name, box, flag in written]
    source = write_official(folder / "voc", {"a": [voc_object(), *items]}, {"train": ["a"], "val": ["a"]})
    convert_voc(source, folder / "out", say=silent)
    content = json.loads((folder / "out" / "val.json").read_bytes())
    labels = {category["id"]: category["name"] for category in content["categories"]}
    found = []
    for item in content["annotations"][1:]:
        x, y, width, height = item["bbox"]
        found.append((labels[item["category_id"]], (x + 1, y + 1, x + width, y + height), item["iscrowd"]))
    assert found == written


@given(box=st.tuples(*[st.floats(-1e6, 1e6)] * 4), size=st.tuples(st.integers(1, 500), st.integers(1, 500)))
def test_clipping_stays_inside(box: tuple[float, ...], size: tuple[int, int]) -> None:
    """Any corners end inside the image with an area, or are none; clipping twice changes nothing."""
    corners = clipped(shifted(box), size)
    if corners is None:
        assert box[2] <= max(box[0] - 1, 0) or box[3] <= max(box[1] - 1, 0) or box[0] > size[0] or box[1] > size[1]
        return
    x, y, width, height = to_xywh(corners)
    assert min(x, y) >= 0 and min(width, height) > 0
    assert x + width <= size[0] * (1 + 1e-12) and y + height <= size[1] * (1 + 1e-12)
    assert clipped(corners, size) == corners


def test_the_same_bytes(tmp_path: Path) -> None:
    """Two conversions, also of a copy of the data that lies elsewhere, give the same files."""
    for folder in ("one", "two"):
        write_flat(tmp_path / folder, {"train": numbered(3), "valid": numbered(2, CAT)})
    for source, target in (("one", "a"), ("one", "b"), ("two", "c")):
        convert_voc(tmp_path / source, tmp_path / target, say=silent)
    found = files_of(tmp_path / "a")
    assert len(found) == 7 and files_of(tmp_path / "b") == found == files_of(tmp_path / "c")


def test_images_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images take no room where links can be had, are copied where not, and stay where they were."""
    source = small_official(tmp_path / "voc")
    (source / "JPEGImages/c.jpg").rename(tmp_path / "c.jpg")
    (source / "JPEGImages/c.jpg").symlink_to("../../c.jpg")
    before = files_of(source)
    convert_voc(source, tmp_path / "linked", say=silent)
    assert not (tmp_path / "linked/images/c.jpg").is_symlink()
    assert (tmp_path / "linked/images/a.jpg").samefile(source / "JPEGImages/a.jpg")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    convert_voc(source, tmp_path / "copied", say=silent)
    assert not (tmp_path / "copied/images/a.jpg").samefile(source / "JPEGImages/a.jpg")
    assert files_of(tmp_path / "copied") == files_of(tmp_path / "linked") and files_of(source) == before
