"""Boxes in another unit or order, areas of other boxes, fields that are passed over: told, and nothing else is."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.coco_folder import small_content, write_folder

from freeanchor.data.coco import read_split
from freeanchor.data.folder_check import check_folder, report_folder
from freeanchor.data.json_check import content_problems
from freeanchor.data.suspicions import KINDS, PASSED_OVER, Boxes, suspicions
from freeanchor.errors import DataError

Item = dict[str, Any]
FRACTIONS, UNITS, CORNERS, CENTRES, SWAPPED, AREAS = KINDS
SIZE = (640, 480)


def corners(item: Item) -> None:
    """Two corners in place of corner and sides; the area stays."""
    x, y, width, height = item["bbox"]
    item["bbox"] = [x, y, x + width, y + height]


def centre(item: Item) -> None:
    """The centre in place of the corner."""
    x, y, width, height = item["bbox"]
    item["bbox"] = [x + width / 2, y + height / 2, width, height]


def turned(item: Item) -> None:
    """y before x, and height before width."""
    x, y, width, height = item["bbox"]
    item["bbox"] = [y, x, height, width]


def scaled(factor: float) -> Callable[[Item], None]:
    """Coordinates in parts of the image's sides, `factor` for the whole of it."""

    def change(item: Item) -> None:
        item["bbox"] = [round(factor * v / SIZE[i % 2], 4) for i, v in enumerate(item["bbox"])]
        item["area"] = item["bbox"][2] * item["bbox"][3]

    return change


def area(value: Callable[[float], float], **more: Any) -> Callable[[Item], None]:
    """Another area, of the box's."""
    return lambda item: item.update(area=value(item["bbox"][2] * item["bbox"][3]), **more)


CHANGES: dict[str, tuple[Callable[[Item], object], set[str]]] = {
    "nothing": (lambda _: None, set()),
    "fractions": (scaled(1), {FRACTIONS}),
    "percent": (scaled(100), {UNITS}),
    "thousandths": (scaled(1000), set()),  # of 480 px: they leave their image, which is told one by one
    "centres": (centre, {CENTRES}),
    "y before x": (turned, {SWAPPED}),
    "corners": (corners, {CORNERS}),
    "fractional corners": (lambda item: (scaled(1)(item), corners(item)), {FRACTIONS}),
    "all areas 1": (area(lambda _: 1.0), {AREAS}),
    "all areas 0": (area(lambda _: 0), {AREAS}),
    "all areas 50,000": (area(lambda _: 50_000), {AREAS}),
    "areas of the image scaled by four": (area(lambda value: 16 * value), {AREAS}),
    "areas in fractions": (area(lambda value: value / (640 * 480)), {AREAS}),
    "areas of masks": (area(lambda value: 0.3 * value, segmentation=[[0, 0, 1, 0, 1, 1]]), set()),
    "areas of thin masks": (area(lambda value: 0.01 * value, segmentation=[[0, 0, 1, 0, 1, 1]]), set()),
    "no areas": (lambda item: item.pop("area"), set()),
}


def content(change: Callable[[Item], object] = lambda _: None) -> dict[str, Any]:
    """120 boxes all over images of 640 x 480, changed."""
    generator, made = np.random.default_rng(0), small_content(6, size=SIZE, num_objects=20)
    for item in made["annotations"]:
        x1, x2 = sorted(generator.choice(640, 2, replace=False).tolist())
        y1, y2 = sorted(generator.choice(480, 2, replace=False).tolist())
        item.update(bbox=[x1, y1, x2 - x1, y2 - y1], area=(x2 - x1) * (y2 - y1))
        change(item)
    return made


def kinds(made: dict[str, Any]) -> set[str]:
    """Of the suspicions of a json."""
    return {problem.kind for problem in content_problems(made, "val.json")} & set(KINDS)


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_suspected(name: str) -> None:
    """By its kind, and right boxes and masks of none."""
    change, expected = CHANGES[name]
    assert kinds(content(change)) == expected


def test_swapped_sides() -> None:
    """Boxes of landscape images whose json says portrait."""
    made = content()
    for image in made["images"]:
        image.update(width=480, height=640)
    assert kinds(made) == {SWAPPED}


def test_oddities_here_and_there_are_no_suspicion() -> None:
    """One box of another order, or one area in twenty, is no habit; nor is a single box at the edge."""
    made = content()
    corners(made["annotations"][3])
    made["annotations"][7]["area"] = 1
    assert kinds(made) == set()


def test_boxes_that_happen_to_fit() -> None:
    """Boxes in the left upper quarter of their image, larger than their corner is far, leave nothing: no suspicion."""
    boxes = np.tile([10.0, 20.0, 200.0, 100.0], (30, 1)) + np.arange(30)[:, None]
    found = Boxes(
        boxes=boxes,
        sizes=np.tile([640.0, 480.0], (30, 1)),
        areas=boxes[:, 2] * boxes[:, 3],
        has_mask=np.zeros(30, dtype=bool),
    )
    assert list(suspicions(found, "x")) == []
    (problem,) = suspicions(
        Boxes(boxes=boxes / 1000, sizes=found.sizes, areas=found.areas * 1e-6, has_mask=found.has_mask), "x"
    )
    assert problem.what.startswith("30 of 30 boxes have no number above 1")


def folder(directory: Path, made: dict[str, Any]) -> Path:
    """A val split with this json."""
    write_folder(directory, "val", small_content(1))
    (directory / "val.json").write_text(json.dumps(made))
    return directory


@pytest.mark.parametrize("flag", [1, True, "1"])
def test_ignore_is_told(tmp_path: Path, flag: object) -> None:
    """The object is no crowd, as in pycocotools, which is said; with iscrowd it is one, and needs no word."""
    made = content()
    for item in made["annotations"][:5]:
        item["ignore"] = flag
    made["annotations"][0]["iscrowd"] = 1
    (note,) = read_split(folder(tmp_path, made), "val").notes
    assert "annotations with ignore: 4 of 119" in note and "iscrowd 1" in note
    made = content(lambda item: item.update(ignore=0))
    assert read_split(folder(tmp_path, made), "val").notes == ()


OTHER_FIELDS: dict[str, tuple[str, dict[str, Any], bool]] = {  # list, fields, whether they are told
    "difficult": ("annotations", {"difficult": 1}, True),
    "not difficult": ("annotations", {"difficult": "0"}, False),
    "a crowd, misspelt": ("annotations", {"isCrowd": True}, True),
    "fake": ("annotations", {"isfake": "true"}, True),
    "turned": ("annotations", {"rotation": 30.5}, True),
    "turned in CVAT's words": ("annotations", {"attributes": {"occluded": False, "rotation": 12.0}}, True),
    "upright in CVAT's words": ("annotations", {"attributes": {"occluded": False, "rotation": 0.0}}, False),
    "corners by detectron2": ("annotations", {"bbox_mode": 0}, True),
    "corners by name": ("annotations", {"bbox_format": "xyxy"}, True),
    "COCO's order": ("annotations", {"bbox_format": "XYWH", "bbox_mode": 1}, False),
    "relative corners": ("annotations", {"bbox_mode": 2}, True),
    "LVIS": ("images", {"neg_category_ids": [3], "not_exhaustive_category_ids": []}, True),
    "LVIS without": ("images", {"neg_category_ids": [], "not_exhaustive_category_ids": []}, False),
    "fields of no weight": (
        "annotations",
        {"segmentation": [], "score": 1, "keypoints": [1], "attributes": [1]},
        False,
    ),
}


@pytest.mark.parametrize("name", OTHER_FIELDS)
def test_fields_that_mean_something_elsewhere(name: str) -> None:
    """They are told with their number where they are set, and only there."""
    key, fields, is_told = OTHER_FIELDS[name]
    made = content()
    for item in made[key][:5]:
        item.update(fields)
    found = [problem.what for problem in content_problems(made, "val.json") if problem.kind == PASSED_OVER]
    assert len(found) == is_told
    assert all(f"{key} with " in what and ": 5 of " in what for what in found)


def test_whoever_trains_is_told(tmp_path: Path) -> None:
    """The reader has the lines of the check, one each."""
    made = content(scaled(1))
    path = folder(tmp_path, made)
    (told,) = read_split(path, "val").notes
    checked = [str(problem) for problem in check_folder(path, splits=("val",)) if problem.kind in KINDS]
    assert [told.replace(f"{path}/", "")] == checked
    assert "120 of 120 boxes have no number above 1; are they fractions of its sides?" in told


def test_a_json_of_some_images_and_categories(tmp_path: Path) -> None:
    """Annotations of those that are not listed are left out, in one line for each; the others are as before."""
    made = content()
    right = read_split(folder(tmp_path / "whole", made), "val")
    gone = made["categories"][0]["id"]
    made["images"] = made["images"][:4]
    made["categories"] = made["categories"][1:]
    found = read_split(folder(tmp_path / "part", made), "val")
    assert len(found.images) == 4 and gone not in found.category_ids
    for one, other in zip(found.images, right.images, strict=False):
        kept = torch.tensor([right.category_ids[label] != gone for label in other.labels.tolist()])
        assert one.boxes.equal(other.boxes[kept]) and one.annotation_ids.equal(other.annotation_ids[kept])
    assert [note.split(": ")[2] for note in found.notes] == [
        "annotations of images that are not listed", "annotations of categories that are not listed"
    ]  # fmt: skip
    assert "40 of 120, image_id 50 for one; they are left out" in found.notes[0]
    lines, _ = report_folder(tmp_path / "part", splits=("val",), decode=False)
    assert f"val: 4 images, {sum(len(image.boxes) for image in found.images)} objects, 2 categories" in lines[-1]


def test_a_json_of_other_images(tmp_path: Path) -> None:
    """Where no annotation is of a listed image, nothing can be learned, and both are said."""
    made = content()
    for image in made["images"]:
        image["id"] += 1000
    problems = check_folder(folder(tmp_path, made), splits=("val",))
    assert {"annotations of unknown images", "splits without objects"} <= {problem.kind for problem in problems}


def test_ids_with_a_point_are_whole(tmp_path: Path) -> None:
    """1.0 is 1, in every list; what is read is the same as without the points."""
    plain = content()
    pointed = copy.deepcopy(plain)
    for item in (*pointed["images"], *pointed["annotations"], *pointed["categories"]):
        item.update({key: float(item[key]) for key in ("id", "image_id", "category_id") if key in item})
    right = read_split(folder(tmp_path / "plain", plain), "val")
    found = read_split(folder(tmp_path / "points", pointed), "val")
    assert found.category_ids == right.category_ids and all(type(i) is int for i in found.category_ids)
    for one, other in zip(found.images, right.images, strict=True):
        assert one.image_id == other.image_id and one.annotation_ids.equal(other.annotation_ids)
        assert one.boxes.equal(other.boxes) and one.labels.equal(other.labels)
    (problem,) = (p for p in check_folder(tmp_path / "points", splits=("val",)) if p.kind == "ids with a point")
    assert problem.what == f"ids written with a point, as 1.0: {6 + 3 * 120 + 3}"


@pytest.mark.parametrize("identity", [2**63, 14010892460211825993, -(2**63), 10**30])
def test_ids_beyond_64_bits_are_one_error(tmp_path: Path, identity: int) -> None:
    """With their number, the first of them and the limit; nothing else is held against the json for them."""
    made = content()
    made["images"][0]["id"] = identity
    for item in made["annotations"]:
        item["image_id"] = identity if item["image_id"] == 10 else item["image_id"]
    errors = [
        p for p in check_folder(folder(tmp_path, made), splits=("val",)) if p.kind.startswith(("ids", "anno", "bad"))
    ]
    assert [problem.kind for problem in errors] == ["ids beyond 64 bits"]
    assert "64 bits: 21," in str(errors[0]) and str(2**63 - 1) in str(errors[0])
    with pytest.raises(DataError, match="ids that do not fit 64 bits"):
        read_split(tmp_path, "val")


@pytest.mark.parametrize("identity", [1.5, 1e300, float("nan"), "10", 2.0**60])
def test_ids_that_are_not_whole(tmp_path: Path, identity: object) -> None:
    """Fractions, text, and floats too large to tell whole numbers apart are refused, not rounded."""
    made = content()
    made["images"][0]["id"] = identity
    with pytest.raises(DataError, match="give it a whole number of its own"):
        read_split(folder(tmp_path, made), "val")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_one_reader_of_every_encoding(tmp_path: Path, encoding: str) -> None:
    """What the check calls fine is read."""
    path = folder(tmp_path, content())
    (path / "val.json").write_bytes(json.dumps(content(), ensure_ascii=False).encode(encoding))
    assert not [problem for problem in check_folder(path, splits=("val",)) if problem.kind == "files that are not read"]
    assert len(read_split(path, "val").images) == 6
