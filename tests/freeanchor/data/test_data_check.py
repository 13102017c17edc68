"""The check of a data folder: every fault is found, named and given a remedy, and none is invented."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oracles.coco_folder import annotation, small_content, write_folder
from oracles.mutations import json_bytes, mutate_json
from PIL import Image

from freeanchor.data.coco import InputConfig, load_sample, read_categories, read_split
from freeanchor.data.folder_check import check_folder, report_folder
from freeanchor.errors import DataError, Problem

Content = dict[str, Any]
Change = Callable[[Content], object]


def good_content(split: str = "val", num_images: int = 3) -> Content:
    """A split without fault: every field, every category, names of its own."""
    content = copy.deepcopy(small_content(num_images, num_objects=4, seed=len(split)))
    for image in content["images"]:
        image["file_name"] = f"{split}-{image['file_name']}"
    for item in content["annotations"]:
        item["iscrowd"] = 0
    for item, category in zip(content["annotations"], content["categories"], strict=False):
        item["category_id"] = category["id"]
    return content


def good_folder(directory: Path, layout: str = "flat") -> Path:
    """Both splits, without fault."""
    for split in ("train", "val"):
        write_folder(directory, split, good_content(split), layout=layout)
    return directory


def problems_of(directory: Path, change: Change) -> list[Problem]:
    """What the check finds once the json of `val` has been changed."""
    content = good_content()
    change(content)
    (directory / "val.json").write_text(json.dumps(content))
    return check_folder(directory)


def set_in(key: str, **changes: Any) -> Change:
    """A change of fields of the first item of a list."""
    return lambda content: content[key][0].update(changes)


def drop_in(key: str, field: str) -> Change:
    """A field taken out of the first item of a list."""
    return lambda content: content[key][0].pop(field)


def add_to(key: str, item: Any) -> Change:
    """An item more at the end of a list."""
    return lambda content: content[key].append(item)


def drop_objects(content: Content) -> None:
    """All annotations taken out."""
    content["annotations"] = []


BOX = "annotations"
NAN = float("nan")
# change of a good val.json -> severity, kind, a word of its line; each fault is found once, and nothing else with it
FAULTS: dict[str, tuple[Change, str, str, str]] = {
    "no id of an image": (drop_in("images", "id"), "error", "bad ids of images", "no id"),
    "an image id of letters": (set_in("images", id="a"), "error", "bad ids of images", "'a'"),
    "an image id with a fraction": (set_in("images", id=1.5), "error", "bad ids of images", "1.5"),
    "no width": (drop_in("images", "width"), "error", "bad sizes", "None x 64"),
    "a width of letters": (set_in("images", width="64"), "error", "bad sizes", "'64'"),
    "a height of nothing": (set_in("images", height=0), "error", "bad sizes", "64 x 0"),
    "no file name": (drop_in("images", "file_name"), "error", "bad file names", "None"),
    "an empty file name": (set_in("images", file_name=""), "error", "bad file names", "''"),
    "an absolute file name": (set_in("images", file_name="/etc/a.png"), "error", "file names that leave the folder", "/etc"),
    "a file name that leaves": (set_in("images", file_name="../a.png"), "error", "file names that leave the folder", "../a"),
    "a file name of windows": (set_in("images", file_name="C:\\a.png"), "error", "file names that leave the folder", "C:"),
    "an image of letters": (add_to("images", "a.png"), "error", "items that are no objects", "images"),
    "an annotation in a list": (add_to("annotations", [1]), "error", "items that are no objects", "annotations"),
    "a category of letters": (add_to("categories", "dot"), "error", "items that are no objects", "categories"),
    "two images with one id": (
        add_to("images", {"id": 10, "file_name": "train-p0.png", "width": 64, "height": 64}),
        "error", "repeated ids of images", "share the id 10",
    ),
    "two annotations with one id": (add_to(BOX, annotation(1, 10, 2, [1, 1, 5, 5], iscrowd=0)), "error", "repeated ids of annotations", "annotation 1"),
    "two categories with one id": (add_to("categories", {"id": 2, "name": "x"}), "error", "repeated ids of categories", "share the id 2"),
    "two categories with one name": (set_in("categories", name="dot"), "warning", "repeated names of categories", "'dot'"),
    "a category without a name": (drop_in("categories", "name"), "error", "bad names of categories", "None"),
    "a category id of letters": (add_to("categories", {"id": "x", "name": "x"}), "error", "bad ids of categories", "'x'"),
    "an unknown image": (set_in(BOX, image_id=999), "warning", "annotations of unknown images", "999"),
    "an image of null": (set_in(BOX, image_id=None), "error", "annotations of no images", "None"),
    "an unknown category": (add_to(BOX, annotation(99, 10, 77, [1, 1, 5, 5], iscrowd=0)), "warning", "annotations of unknown categories", "77"),
    "no box": (drop_in(BOX, "bbox"), "error", "boxes that are none", "no bbox"),
    "a box of three": (set_in(BOX, bbox=[1, 2, 3]), "error", "boxes that are none", "[1, 2, 3]"),
    "a box of letters": (set_in(BOX, bbox=["1", 2, 3, 4]), "error", "boxes that are none", "'1'"),
    "a box of nan": (set_in(BOX, bbox=[1, NAN, 3, 4]), "error", "boxes that are none", "nan"),
    "a box of infinity": (set_in(BOX, bbox=[1, 2, float("inf"), 4]), "error", "boxes that are none", "inf"),
    "a negative width": (set_in(BOX, bbox=[10, 10, -3, 4]), "error", "boxes that are none", "-3"),
    "a box without area": (set_in(BOX, bbox=[10, 10, 0, 4]), "warning", "boxes without area", "[10, 10, 0, 4]"),
    "a box outside": (set_in(BOX, bbox=[70, 10, 5, 5]), "warning", "boxes outside their image", "64x64"),
    "a box that leaves": (set_in(BOX, bbox=[60, 10, 6, 5]), "warning", "boxes that leave their image", "64x64"),
    "an annotation id of 0": (set_in(BOX, id=0), "warning", "annotations with the id 0", "pycocotools"),
    "no annotation id": (drop_in(BOX, "id"), "error", "bad ids of annotations", "annotation [0]"),
    "no area": (drop_in(BOX, "area"), "warning", "annotations without area", "1 of 12"),
    "a negative area": (set_in(BOX, area=-1), "error", "bad areas", "-1"),
    "an area of nan": (set_in(BOX, area=NAN), "error", "bad areas", "nan"),
    "no crowd flag": (drop_in(BOX, "iscrowd"), "warning", "annotations without iscrowd", "1 of 12"),
    "a crowd flag of letters": (set_in(BOX, iscrowd="0"), "error", "bad crowd flags", "'0'"),
    "a category without objects": (add_to("categories", {"id": 1, "name": "x"}), "warning", "categories without objects", "1 'x'"),
    "an image without objects": (
        lambda c: c.update(annotations=[item for item in c["annotations"] if item["image_id"] != 20]),
        "warning", "images without objects", "1 of 3",
    ),
    "no objects": (drop_objects, "error", "splits without objects", "no object"),
    "nothing but crowds": (lambda c: [item.update(iscrowd=1) for item in c["annotations"]], "error", "splits without objects", "no object"),
    "no image of an annotation": (drop_in(BOX, "image_id"), "error", "annotations of no images", "None"),
    "no category of an annotation": (drop_in(BOX, "category_id"), "error", "annotations of no categories", "None"),
    "no id of a category": (drop_in("categories", "id"), "error", "bad ids of categories", "no id"),
    "images that are names": (lambda c: c.update(images=["a.png"]), "error", "items that are no objects", "item 0 of images"),
    "no images": (lambda c: c.pop("images"), "error", "missing lists", "'images'"),
    "no annotations": (lambda c: c.pop("annotations"), "error", "missing lists", "'annotations'"),
    "no categories": (lambda c: c.pop("categories"), "error", "missing lists", "'categories'"),
    "images in an object": (lambda c: c.update(images={"1": "a.png"}), "error", "missing lists", "'images'"),
    "an empty list of images": (lambda c: c.update(images=[]), "error", "empty lists", "lists no images"),
    "an empty list of categories": (lambda c: c.update(categories=[]), "error", "empty lists", "lists no categories"),
    "annotations of null": (lambda c: c.update(annotations=None), "error", "missing lists", "'annotations'"),
    "categories in an object": (lambda c: c.update(categories={"1": "a"}), "error", "missing lists", "'categories'"),
}  # fmt: skip
FOLLOWS = {  # what else a fault brings with it: images and objects that are not there any more
    "annotations of unknown images", "annotations of unknown categories", "missing images", "categories that differ",
    "images in two splits", "files that are not listed", "categories without objects", "splits without objects",
    "empty lists", "annotations of no images", "annotations of no categories",
}  # fmt: skip


@pytest.mark.parametrize("layout", ["flat", "coco"])
def test_nothing_is_wrong_with_a_good_folder(tmp_path: Path, layout: str) -> None:
    """Either layout: no problem, and a line of numbers for each split."""
    good_folder(tmp_path, layout)
    assert check_folder(tmp_path) == []
    lines = [f"{split}: 3 images, 12 objects, 3 categories: fine" for split in ("train", "val")]
    assert report_folder(tmp_path) == (lines, True)


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(tmp_path: Path, name: str) -> None:
    """With its severity, in its file, in one line with a remedy; all else that is told follows from it.

    Where an error is found, the report says that the folder cannot be used, and reading it stops with an error's line.
    """
    change, severity, kind, word = FAULTS[name]
    problems = problems_of(good_folder(tmp_path), change)
    found = [problem for problem in problems if problem.kind == kind]
    assert {problem.severity for problem in found} == {severity}
    assert any(word in str(problem) for problem in found)
    assert all(problem.where.startswith("val.json") for problem in found)
    assert {problem.kind for problem in problems} <= {kind} | FOLLOWS
    for problem in problems:
        assert "\n" not in str(problem)
        assert ";" in str(problem)
    lines, is_usable = report_folder(tmp_path)
    assert is_usable == all(problem.severity == "warning" for problem in problems)
    assert str(problems[0]) in lines
    assert ("fine" in lines[-1]) == all(p.severity == "warning" for p in problems if p.where.startswith("val.json"))
    if severity == "warning" or kind == "splits without objects":
        read_split(tmp_path, "val")
        return
    for read in (read_split, read_categories) if "categor" in kind and "annotation" not in kind else (read_split,):
        with pytest.raises(DataError, match=r"val\.json[^\n]*; [^\n]*$") as error:
            read(tmp_path, "val")
        assert "\n" not in str(error.value)


def test_everything_is_listed_at_once(tmp_path: Path) -> None:
    """Twelve bad boxes, a missing image and a strange file are all told, where reading stops at the first."""
    good_folder(tmp_path)
    (tmp_path / "images" / "val-p1.png").unlink()
    (tmp_path / "images" / "stray.png").write_bytes(b"")

    def spoil(content: Content) -> None:
        for item in content["annotations"]:
            item["bbox"] = [0, 0, -1, 1]

    kinds = [problem.kind for problem in problems_of(tmp_path, spoil)]
    assert kinds.count("boxes that are none") == 12
    assert kinds.count("missing images") == 1
    assert kinds.count("files that are not listed") == 1
    lines, is_usable = report_folder(tmp_path)
    assert not is_usable
    assert sum("val.json: annotation" in line for line in lines) == 5
    assert "error: … and 7 more of this kind: boxes that are none" in lines
    assert lines[-1].endswith("3 categories: 14 errors")
    assert [line.split(":")[0] for line in lines[:-2]] == sorted(line.split(":")[0] for line in lines[:-2])


@pytest.mark.parametrize("seed", range(150))
def test_whatever_the_json_holds(tmp_path: Path, seed: int) -> None:
    """Junk in any place is never an exception; a folder without an error can be read, and its images loaded."""
    write_folder(tmp_path, "val", good_content())
    (tmp_path / "val.json").write_bytes(json_bytes(mutate_json(good_content(), random.Random(seed))))
    problems = check_folder(tmp_path, splits=("val",))
    assert all(str(problem).isprintable() for problem in problems)
    try:
        for image in read_split(tmp_path, "val").images:
            load_sample(image, InputConfig(short_side=8))
    except (DataError, OSError, ValueError, TypeError, RuntimeError, OverflowError):
        assert any(problem.severity == "error" for problem in problems)


def test_one_split_alone(tmp_path: Path) -> None:
    """A folder without the other split is whole if only this one is asked for, and lacks a file otherwise."""
    write_folder(tmp_path, "val", good_content())
    assert check_folder(tmp_path, splits=("val",)) == []
    (problem,) = check_folder(tmp_path)
    assert str(problem).startswith(f"error: {tmp_path}: holds no train.json;")


def test_what_is_no_folder(tmp_path: Path) -> None:
    """A missing folder, and a file in its place, are one error."""
    (tmp_path / "file").write_text("{}")
    for name in ("nowhere", "file"):
        lines, is_usable = report_folder(tmp_path / name)
        assert len(lines) == 1
        assert name in lines[0]
        assert not is_usable


def test_an_image_of_another_split_s_name(tmp_path: Path) -> None:
    """An image that is learned from and tested on is warned of."""
    good_folder(tmp_path)
    Image.new("RGB", (64, 64)).save(tmp_path / "images" / "train-p0.png")
    problems = problems_of(tmp_path, set_in("images", file_name="./train-p0.png"))
    assert {(p.severity, p.kind) for p in problems} == {
        ("warning", "images in two splits"),
        ("warning", "files that are not listed"),
    }
