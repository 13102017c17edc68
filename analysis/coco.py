"""COCO files: reading ground truth and detections, and pycocotools' twelve statistics, the AP of record.

What it is: the border between COCO's files (xywh, dicts) and the columns of `analysis.columns` (re-exported here). What
it is not: a matcher of our own (`analysis.matching`), or a loader of pictures.

    ground_truth = read_ground_truth(Path("instances_val2017.json.gz"))
    detections = read_detections(Path("detections.json"), ground_truth)
    coco_statistics(ground_truth, detections)["ap_50"]

Every `DataError` is one line that names the file, the item and the remedy; what is mended instead of refused is said in
a `DataNote`, a warning of one line. Where pycocotools has traps:

- it takes a match with annotation id 0 for no match: ids are renumbered here;
- it stops at an empty list of detections: none is 0 everywhere here;
- it needs `area` and `iscrowd`: a missing one is the box's area, and 0;
- its `summarize` says AP -1 where `maxDets` is without 100: the cap is an argument of ours (`analysis.precision`), and
  the statistics of record are always taken at 1, 10 and 100;
- objects are small, medium or large by their `area` (the mask's, in COCO's own files) but detections by their box:
  `read_ground_truth(path, area="box")` takes the box for both.
"""

import contextlib
import io
import unicodedata
import warnings
from pathlib import Path
from reprlib import repr as brief
from typing import Literal

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.coco_json import (
    boxes,
    collector_paused,
    fields,
    integers,
    json_name,
    list_of,
    named,
    numbers,
    read_json,
    refuse_non_objects,
)
from analysis.columns import Detections, GroundTruth, corners, positions
from analysis.parquet import read_parquet
from freeanchor.errors import DataError

Area = Literal["annotation", "box"]
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")  # Unicode's classes of control characters, surrogates and breaks


class DataNote(UserWarning):
    """Something in a file that was mended, or that pycocotools alone would take otherwise; one line."""


# in the order of pycocotools' `COCOeval.stats`
STATISTICS = (
    "ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


@collector_paused()
def read_ground_truth(path: Path, *, area: Area = "annotation") -> GroundTruth:
    """The ground truth in a COCO instances file, `.json` or `.json.gz`.

    `area` says what decides small, medium and large: the file's own `area`, as COCO does, or the box's. A missing
    `area` is the box's, a missing `iscrowd` is 0, with a `DataNote`. Annotation id 0 is read like any other. Raises
    `DataError` for anything that cannot be evaluated, files without objects (COCO's test sets) included.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {json_name(content)}, not an object; give a COCO instances file")
    images = list_of(content, "images", path, "list every picture with its id")
    categories = list_of(content, "categories", path, "list every category with its id and name")
    if not content.get("annotations"):
        raise DataError(
            f"{path}: has no annotations, so nothing can be measured (AP would be -1); test sets keep theirs on COCO's "
            "server: evaluate on val2017, or submit the detections there"
        )
    annotations = list_of(content, "annotations", path, "list every object")
    with named(path):
        ground_truth = _ground_truth(images, categories, annotations, area)
    _note_what_was_mended(path, annotations, area)
    return ground_truth


def _ground_truth(images: list[dict], categories: list[dict], annotations: list[dict], area: Area) -> GroundTruth:
    bbox = boxes(annotations, "annotation")
    category_ids = integers(categories, "id", "category")
    names = tuple(_text(item.get("name", i)) for item, i in zip(categories, category_ids.tolist(), strict=True))
    return GroundTruth(
        image_ids=integers(images, "id", "picture"),
        category_ids=category_ids,
        category_names=names,
        image_id=integers(annotations, "image_id", "annotation"),
        annotation_id=integers(annotations, "id", "annotation"),
        category_id=integers(annotations, "category_id", "annotation"),
        boxes=corners(bbox),
        area=_areas(annotations, bbox) if area == "annotation" else _box_areas(bbox),
        iscrowd=_crowd_flags(annotations),
        sizes=bbox[:, 2:],
    )


def _text(name: object) -> str:
    """A category's name as one line that can be printed and stored, whatever the file has in its place."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in _NO_TEXT else c for c in str(name))


def _crowd_flags(annotations: list[dict]) -> np.ndarray:
    """Whether each is a crowd region: `iscrowd` is 0 or 1, or missing."""
    flags = [item.get("iscrowd") for item in annotations]
    for row, flag in enumerate(flags):
        if flag not in (None, 0, 1):
            raise DataError(f"annotation in row {row} has iscrowd {brief(flag)}; give 0, or 1 for a crowd region")
    return np.array([bool(flag) for flag in flags], dtype=bool)


def _box_areas(bbox: np.ndarray) -> np.ndarray:
    """Width times height; of boxes that are refused afterwards it may be no number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bbox[:, 2] * bbox[:, 3]


def _areas(annotations: list[dict], bbox: np.ndarray) -> np.ndarray:
    """The area that decides small, medium, large; the box's where the file has none."""
    own = [item.get("area") for item in annotations]
    areas = numbers([0 if area is None else area for area in own], "area")
    missing = np.array([area is None for area in own], dtype=bool)
    areas = np.where(missing, _box_areas(bbox), areas)
    bad = np.flatnonzero(~(np.isfinite(areas) & (areas >= 0)) & ~missing)
    if len(bad):
        raise DataError(f"annotation in row {bad[0]} has area {areas[bad[0]]}; mend it, or leave it out to use the box")
    return areas


def _note_what_was_mended(path: Path, annotations: list[dict], area: Area) -> None:
    """A note a kind, with the number of annotations."""
    remedies = {"area": "the box's area is taken", "iscrowd": "0 is taken"}
    if area == "box":
        del remedies["area"]
    for key, remedy in remedies.items():
        missing = sum(item.get(key) is None for item in annotations)
        if missing:
            _note(f'{path}: {missing} of {len(annotations)} annotations have no "{key}"; {remedy}')
    if all(item.get("iscrowd") for item in annotations):
        _note(f"{path}: all annotations are crowd regions, which no detection can find: AP and AR are not defined")
    if any(item["id"] == 0 for item in annotations):
        _note(f"{path}: has annotation id 0, which pycocotools alone counts as missed even when found; here it is not")


def _note(text: str) -> None:
    warnings.warn(text, DataNote, stacklevel=3)


def read_detections(path: Path, ground_truth: GroundTruth | None = None) -> Detections:
    """The detections or candidates in a COCO results file (a list of image_id, category_id, bbox, score).

    `.json`, `.json.gz`, or a `.parquet` table of these columns (`analysis.parquet`). An empty list is no detections,
    with a `DataNote`. Raises `DataError` for picture or category ids that `ground_truth` does not have (None: any will
    do), boxes that are not finite, negative widths and heights, and scores that are not finite. Scores outside 0 to 1
    are taken as they are, with a `DataNote`: COCO asks for their order alone, thresholds of scores for more.
    """
    detections = read_parquet(path) if path.suffix == ".parquet" else _json_detections(path)
    if ground_truth is not None:
        with named(path):
            check_ids(detections, ground_truth)
    if not len(detections):
        _note(f"{path}: holds no detections: AP and AR are 0 (pycocotools alone stops at such a file)")
    elif min(scores := (detections.scores.min(), detections.scores.max())) < 0 or max(scores) > 1:
        _note(f"{path}: scores reach from {scores[0]:g} to {scores[1]:g}, not from 0 to 1; AP takes their order alone")
    return detections


@collector_paused()
def _json_detections(path: Path) -> Detections:
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: holds a {json_name(content)}, not a list; give COCO results: "
            '[{"image_id": …, "category_id": …, "bbox": [x, y, width, height], "score": …}, …]'
        )
    with named(path):
        refuse_non_objects(content, "detection")
        bbox = boxes(content, "detection")
        return Detections(
            image_id=integers(content, "image_id", "detection"),
            category_id=integers(content, "category_id", "detection"),
            boxes=corners(bbox),
            scores=numbers(fields(content, "score", "detection"), "score"),
            sizes=bbox[:, 2:],
        )


def check_ids(detections: Detections, ground_truth: GroundTruth) -> None:
    """Raises `DataError` where a detection's picture or category is not one of the ground truth's."""
    positions(detections.image_id, ground_truth.image_ids, what="detections", kind="picture")
    positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")


def results_json(detections: Detections) -> list[dict[str, float | list[float]]]:
    """Detections as COCO results, ready for json: what `read_detections` gives back to the bit."""
    columns = zip(
        detections.image_id.tolist(),
        detections.category_id.tolist(),
        np.hstack([detections.boxes[:, :2], detections.sizes]).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in columns]


def coco_statistics(ground_truth: GroundTruth | Path, detections: Detections) -> dict[str, float]:
    """pycocotools' twelve box statistics, the AP of record, as fractions under the names in `STATISTICS`.

    Not defined (pycocotools' -1: no object of that size) is nan; no detections at all give 0. Annotation ids are
    renumbered from 1 on the way in, since pycocotools takes a match with annotation 0 for no match. Prints nothing.
    """
    if isinstance(ground_truth, Path):
        ground_truth = read_ground_truth(ground_truth)
    check_ids(detections, ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco_objects(ground_truth), _coco_detections(ground_truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value > -1 else float("nan") for value in evaluation.stats]
    return dict(zip(STATISTICS, values, strict=True))


def _coco_objects(ground_truth: GroundTruth) -> COCO:
    columns = zip(
        ground_truth.image_id.tolist(),
        ground_truth.category_id.tolist(),
        np.hstack([ground_truth.boxes[:, :2], ground_truth.sizes]).tolist(),
        ground_truth.area.tolist(),
        ground_truth.iscrowd.astype(int).tolist(),
        strict=True,
    )
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return _coco(ground_truth, [dict(zip(names, row, strict=True), id=i) for i, row in enumerate(columns, start=1)])


def _coco_detections(ground_truth: GroundTruth, detections: Detections) -> COCO:
    columns = zip(
        detections.image_id.tolist(),
        detections.category_id.tolist(),
        np.hstack([detections.boxes[:, :2], detections.sizes]).tolist(),
        detections.sizes.prod(axis=1).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    names = ("image_id", "category_id", "bbox", "area", "score")
    return _coco(ground_truth, [dict(zip(names, row, strict=True), id=i) for i, row in enumerate(columns, start=1)])


def _coco(ground_truth: GroundTruth, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in ground_truth.image_ids.tolist()],
        "categories": [{"id": i} for i in ground_truth.category_ids.tolist()],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
