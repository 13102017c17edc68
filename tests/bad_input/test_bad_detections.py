"""Detections and candidates: each malformed file through evaluation, comparison, NMS recall and NMS."""

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.bad_annotations import TEXTS
from oracles.coco_folder import small_content

from bad_input.outcome import handled, refused

CONTENT = small_content(4)
FOUND = [
    {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for item in CONTENT["annotations"]
]
NAN, INFINITE = float("nan"), float("inf")
Rows = list[Any]


def _first(**values: Any) -> Callable[[Rows], Any]:
    """Fields of the first row set."""
    return lambda rows: [{**rows[0], **values}, *rows[1:]]


def _without(key: str) -> Callable[[Rows], Any]:
    """A field of the first row taken out."""
    return lambda rows: [{name: value for name, value in rows[0].items() if name != key}, *rows[1:]]


def _every(**change: Callable[[Any], Any]) -> Callable[[Rows], Any]:
    """Fields of every row made anew."""
    return lambda rows: [{**row, **{key: make(row[key]) for key, make in change.items()}} for row in rows]


JSON = "fetch or write it again"
IMAGE, CATEGORY = "use the ground truth's own image ids", "use the ground truth's own category ids"
BOX = "fix or remove it"
# content of the file -> item and remedy
REFUSED: dict[str, tuple[Callable[[Rows], Any], str, str]] = {
    "an object in place of the list": (lambda rows: {"annotations": rows}, "json object", "give COCO results"),
    "a ground truth": (lambda rows: CONTENT, "holds a ground truth", "give COCO results"),
    "null": (lambda rows: None, "bare value", "give COCO results"),
    "a row that is a list": (lambda rows: [[1, 2, 3], *rows], "item 0", BOX),
    "no score": (_without("score"), 'row 0 has no "score"', "add it"),
    "no image": (_without("image_id"), 'row 0 has no "image_id"', "add it"),
    "no box": (_without("bbox"), 'row 0 has no "bbox"', "add it"),
    "a score of nan": (_first(score=NAN), "detection 0 has score nan", "fix or remove it"),
    "a score of infinity": (_first(score=INFINITE), "detection 0 has score inf", "fix or remove it"),
    "a score of letters": (_first(score="0.9"), "row 0 has score '0.9'", "it must be a number"),
    "a score of null": (_first(score=None), "row 0 has score None", "it must be a number"),
    "a score that is true": (_first(score=True), "row 0 has score True", "it must be a number"),
    "the images of another split": (_every(image_id=lambda i: i + 500), "image id 510 (row 0)", IMAGE),
    "no category that is known": (_every(category_id=lambda i: i + 90), "(row 0) is not a category", CATEGORY),
    "nothing of both a known image and category": (
        lambda rows: [{**row, ("image_id", "category_id")[i % 2]: 999} for i, row in enumerate(rows)],
        "image id 999 (row 0)",
        IMAGE,
    ),
    "image ids of letters": (_every(image_id=str), "'10'", "renumber them"),
    "image ids with fractions": (_every(image_id=lambda i: i + 0.5), "10.5", "renumber them"),
    "an id of infinity": (_first(image_id=INFINITE), "row 0", "renumber them"),
    "an id beyond 64 bits": (_first(image_id=2**70), "row 0", "to 2^63 - 1"),
    "a hash of 64 bits without a sign": (_first(category_id=14010892460211825993), "row 0", "to 2^63 - 1"),
    "a whole number written beyond 64 bits": (_first(image_id=1e19), "row 0", "to 2^63 - 1"),
    "a negative width": (_first(bbox=[10, 10, -5, 5]), "detection 0", BOX),
    "a box of nan": (_first(bbox=[10, NAN, 5, 5]), "detection 0", BOX),
    "a box of infinity": (_first(bbox=[-INFINITE, 0, INFINITE, 5]), "detection 0", BOX),
    "a box beyond all numbers": (_first(bbox=[0, 0, 1e308, 1e308]), "detection 0", BOX),
    "a box of three": (_first(bbox=[1, 2, 3]), "row 0", "it must be four numbers"),
    "a box in an object": (_first(bbox={"x": 1}), "row 0", "it must be four numbers"),
    "a box of letters": (_first(bbox=["1", 2, 3, 4]), "'1'", "it must be a number"),
}
# content -> notes of one detector's evaluation
HANDLED: dict[str, tuple[Callable[[Rows], Any], tuple[str, ...]]] = {
    "no detections": (lambda rows: [], ("holds no detections",)),
    "one detection": (lambda rows: rows[:1], ()),
    "scores that are logits": (_every(score=lambda _: -7.5), ("scores reach from -7.5 to -7.5",)),
    "scores in per cent": (_every(score=lambda score: 100 * score), ("scores reach from 90 to 90",)),
    "every detection twice": (lambda rows: rows + rows, ()),
    "boxes without area": (_every(bbox=lambda box: [*box[:2], 0, 0]), ()),
    "boxes outside their images": (_every(bbox=lambda box: [-500.0, -500.0, *box[2:]]), ("boxes leave their image",)),
    "more fields than needed": (_every(score=lambda score: score, image_id=lambda i: i), ()),
    "tied scores": (_every(score=lambda _: 0.5), ()),
    "an unknown image": (
        _first(image_id=999),
        ("detections are of images that the ground truth does not list, image id 999 for one",),
    ),
    "an unknown category": (
        _first(category_id=999),
        ("detections are of categories that the ground truth does not list, category id 999",),
    ),
    "categories counted from 0": (
        lambda rows: [{**row, "category_id": (0, 2)[i % 2]} for i, row in enumerate(rows)],
        ("category id 0 for one: left out, are they counted from 0?",),
    ),
    "ids written as 1.0": (_every(image_id=float, category_id=float), ()),
    "boxes in fractions": (
        _every(bbox=lambda box: [round(side / 1000, 4) for side in box]),
        ("are they fractions? COCO's are in pixels",),
    ),
    "huge boxes": (
        _every(bbox=lambda box: [*box[:2], 2e5, 2e5]),
        ("boxes leave their image", "larger than 1e+10 square pixels"),
    ),
}


@pytest.fixture
def ground_truth(tmp_path: Path) -> Path:
    """A good ground truth of four images."""
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(CONTENT))
    return path


def _commands(tmp_path: Path, ground_truth: Path, found: Path) -> dict[str, list[str | Path]]:
    """Every command that reads detections or candidates."""
    good, few = tmp_path / "good.json", ["--resamples", "10"]
    good.write_text(json.dumps(FOUND))
    return {
        "evaluate": ["evaluate", "--gt", ground_truth, "--detections", found, *few, "--csv", tmp_path / "out.csv"],
        "compare": ["compare", "--gt", ground_truth, good, found, *few],
        "nms-recall": ["nms-recall", "--gt", ground_truth, "--candidates", found, *few],
        "nms": ["nms", "--gt", ground_truth, "--candidates", found, "--out", tmp_path / "out.json"],
    }


COMMANDS = pytest.mark.parametrize("command", ["evaluate", "compare", "nms-recall", "nms"])


@COMMANDS
@pytest.mark.parametrize("name", REFUSED)
def test_malformed_detections_are_refused(name: str, command: str, ground_truth: Path, tmp_path: Path) -> None:
    """File, row and remedy in one line, and nothing is written."""
    change, item, remedy = REFUSED[name]
    found = tmp_path / "found.json"
    found.write_text(json.dumps(change(copy.deepcopy(FOUND))))
    refused(tmp_path, _commands(tmp_path, ground_truth, found)[command], "found.json", item, remedy)


@COMMANDS
@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("a list of results", "null")])
def test_files_that_are_no_results_are_refused(name: str, command: str, ground_truth: Path, tmp_path: Path) -> None:
    """Empty, truncated, nested without end, or something else altogether; with the ending that the reader goes by."""
    content = TEXTS[name] if name != "a truncated file" else json.dumps(FOUND).encode()[:-30]
    found = tmp_path / "found.json"
    found.write_bytes(content)
    item = "damaged gzip" if "gzip" in name else "not valid json"
    refused(tmp_path, _commands(tmp_path, ground_truth, found)[command], "found.json", item, "write it again")


@pytest.mark.parametrize(
    ("place", "item", "remedy"),
    [("none.json", "no such file", "check the path"), ("folder.json", "is a folder", "give the json file in it")],
)
def test_a_place_without_a_file_is_refused(
    place: str, item: str, remedy: str, ground_truth: Path, tmp_path: Path
) -> None:
    """A missing file, and a folder."""
    (tmp_path / "folder.json").mkdir()
    refused(tmp_path, _commands(tmp_path, ground_truth, tmp_path / place)["evaluate"], place, item, remedy)


def test_a_parquet_that_is_none_is_refused(ground_truth: Path, tmp_path: Path) -> None:
    """With pyarrow it is not readable, without pyarrow that is to be installed: either way one line says so."""
    (tmp_path / "found.parquet").write_bytes(b"PAR1 and then nothing")
    refused(
        tmp_path, _commands(tmp_path, ground_truth, tmp_path / "found.parquet")["evaluate"], "found.parquet", "", ""
    )


@COMMANDS
@pytest.mark.parametrize("name", HANDLED)
def test_odd_detections_are_handled(name: str, command: str, ground_truth: Path, tmp_path: Path) -> None:
    """Every command answers without a nan; what is odd is said in a line."""
    change, notes = HANDLED[name]
    found = tmp_path / "found.json.gz"
    found.write_bytes(gzip.compress(json.dumps(change(copy.deepcopy(FOUND))).encode()))
    handled(_commands(tmp_path, ground_truth, found)[command], *notes)


@pytest.mark.parametrize(
    ("name", "ap"),
    [
        ("no detections", 0.0),
        ("scores that are logits", 1.0),
        ("scores in per cent", 1.0),
        ("boxes without area", 0.0),
        ("boxes outside their images", 0.0),
        ("tied scores", 1.0),
    ],
)
def test_odd_detections_have_their_ap(name: str, ap: float, ground_truth: Path, tmp_path: Path) -> None:
    """Only the order of scores counts; what overlaps nothing finds nothing."""
    found = tmp_path / "found.json"
    found.write_text(json.dumps(HANDLED[name][0](copy.deepcopy(FOUND))))
    command = _commands(tmp_path, ground_truth, found)["evaluate"]
    (row, *_) = json.loads(handled([*command, "--json"], *HANDLED[name][1]).out)
    assert (row["metric"], row["value"]) == ("ap", pytest.approx(ap))


@pytest.mark.parametrize("count", [200_000, pytest.param(2_000_000, marks=pytest.mark.slow)])
def test_very_many_rows_are_read(count: int, tmp_path: Path) -> None:
    """Hundreds of thousands of candidates (slow: two million, 150 MB) are thinned, and a bad row at the end is named."""
    generator = np.random.default_rng(0)
    found, command = (
        tmp_path / "found.json",
        ["nms", "--candidates", tmp_path / "found.json", "--score-threshold", "0.99"],
    )
    shifts, scores = generator.integers(0, 100, count).tolist(), generator.random(count).round(4).tolist()
    rows = [
        f'{{"image_id":{row % 2000},"category_id":1,"bbox":[{shift},8,40,40],"score":{score}}}'
        for row, (shift, score) in enumerate(zip(shifts, scores))
    ]
    found.write_text(f"[{','.join(rows)}]")
    handled([*command, "--out", tmp_path / "out.json"])
    kept = json.loads((tmp_path / "out.json").read_text())
    assert 0 < len(kept) <= sum(score > 0.99 for score in scores) and min(row["score"] for row in kept) > 0.99
    found.write_text(f'[{",".join(rows)},{{"image_id":7,"category_id":1,"bbox":[1,2,3,4],"score":NaN}}]')
    item = f"detection {count} has score nan"
    refused(tmp_path, [*command, "--out", tmp_path / "out.json"], "found.json", item, "fix or remove it")
