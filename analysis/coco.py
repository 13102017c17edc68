"""COCO files: reading ground truth and detections, and pycocotools' twelve statistics, the AP of record.

What it is: the border between COCO's json (xywh, dicts) and the columns of `analysis.columns` (re-exported here). What
it is not: a matcher of our own (`analysis.matching`), or a loader of pictures.

    ground_truth = read_ground_truth(Path("instances_val2017.json.gz"))
    detections = read_detections(Path("detections.json"), ground_truth)
    coco_statistics(ground_truth, detections)["ap_50"]

Every `DataError` is one line that names the file, the item and the remedy.
"""

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.columns import DataError, Detections, GroundTruth, positions

__all__ = [
    "STATISTICS", "DataError", "Detections", "GroundTruth", "coco_statistics", "positions", "read_detections",
    "read_ground_truth",
]  # fmt: skip

# in the order of pycocotools' `COCOeval.stats`
STATISTICS = (
    "ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def read_ground_truth(path: Path) -> GroundTruth:
    """The ground truth in a COCO instances file, `.json` or `.json.gz`.

    A missing `area` is the box's area, a missing `iscrowd` is 0. Annotation id 0 is read like any other (pycocotools
    would take a match with it for no match; `coco_statistics` and `analysis.matching` do not). Raises `DataError` for
    anything that cannot be evaluated, files without objects (COCO's test sets) included.
    """
    content = _read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {_json_name(content)}, not an object; give a COCO instances file")
    images = _list_of(content, "images", path, "list every picture with its id")
    categories = _list_of(content, "categories", path, "list every category with its id and name")
    if not content.get("annotations"):
        raise DataError(
            f"{path}: has no annotations, so nothing can be measured (AP would be -1); test sets keep theirs on COCO's "
            "server: evaluate on val2017, or submit the detections there"
        )
    annotations = _list_of(content, "annotations", path, "list every object")
    with _named(path):
        return _ground_truth(images, categories, annotations)


def _ground_truth(images: list[dict], categories: list[dict], annotations: list[dict]) -> GroundTruth:
    bbox = _boxes(annotations, "annotation")
    category_ids = _integers(categories, "id", "category")
    names = tuple(str(item.get("name", i)) for item, i in zip(categories, category_ids.tolist(), strict=True))
    return GroundTruth(
        image_ids=_integers(images, "id", "picture"),
        category_ids=category_ids,
        category_names=names,
        image_id=_integers(annotations, "image_id", "annotation"),
        annotation_id=_integers(annotations, "id", "annotation"),
        category_id=_integers(annotations, "category_id", "annotation"),
        boxes=np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]]),
        area=_areas(annotations, bbox),
        iscrowd=np.array([bool(item.get("iscrowd", 0)) for item in annotations], dtype=bool),
        sizes=bbox[:, 2:],
    )


def read_detections(path: Path, ground_truth: GroundTruth) -> Detections:
    """The detections or candidates in a COCO results file (a list of image_id, category_id, bbox, score).

    `.json` or `.json.gz`; an empty list is no detections. Raises `DataError` for unknown picture or category ids, boxes
    that are not finite, negative widths and heights, and scores that are not finite.
    """
    content = _read_json(path)
    if not isinstance(content, list):
        raise DataError(
            f"{path}: holds a {_json_name(content)}, not a list; give COCO results: "
            '[{"image_id": …, "category_id": …, "bbox": [x, y, width, height], "score": …}, …]'
        )
    with _named(path):
        _refuse_non_objects(content, "detection")
        bbox = _boxes(content, "detection")
        detections = Detections(
            image_id=_integers(content, "image_id", "detection"),
            category_id=_integers(content, "category_id", "detection"),
            boxes=np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]]),
            scores=_numbers([_field(item, "score", "detection", row) for row, item in enumerate(content)], "score"),
            sizes=bbox[:, 2:],
        )
        check_ids(detections, ground_truth)
    return detections


def check_ids(detections: Detections, ground_truth: GroundTruth) -> None:
    """Raises `DataError` where a detection's picture or category is not one of the ground truth's."""
    positions(detections.image_id, ground_truth.image_ids, what="detections", kind="picture")
    positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Puts the file's name before whatever is found wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _read_json(path: Path) -> Any:
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give the json file in it")
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    try:
        content = path.read_bytes()
        return json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid json ({error}); it may be cut short: fetch or write it again") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged gzip ({error}); fetch or write it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _json_name(content: object) -> str:
    names: dict[type, str] = {dict: "json object", list: "list", str: "string"}
    return names.get(type(content), "bare value")


def _list_of(content: dict, key: str, path: Path, remedy: str) -> list[dict]:
    items = content.get(key)
    if not isinstance(items, list) or not items:
        state = "no" if key not in content else "an empty" if items == [] else "an unreadable"
        raise DataError(f'{path}: has {state} "{key}" list; {remedy}')
    with _named(path):
        _refuse_non_objects(items, key)
    return items


def _refuse_non_objects(items: list, what: str) -> None:
    for row, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataError(f"{what} item {row} is a {_json_name(item)}, not an object; mend or remove it")


def _field(item: dict, key: str, what: str, row: int) -> Any:
    if key not in item:
        name = f"{what} {item['id']}" if "id" in item else f"{what} in row {row}"
        raise DataError(f'{name} has no "{key}"; add it')
    return item[key]


def _integers(items: list[dict], key: str, what: str) -> np.ndarray:
    values = [_field(item, key, what, row) for row, item in enumerate(items)]
    for row, value in enumerate(values):
        if not isinstance(value, int):
            raise DataError(f'{what} in row {row} has "{key}" {value!r}; ids must be whole numbers, renumber them')
    return np.array(values, dtype=np.int64)


def _numbers(values: list, name: str) -> np.ndarray:
    for row, value in enumerate(values):
        if not isinstance(value, int | float):
            raise DataError(f"row {row} has {name} {value!r}; it must be a number")
    return np.array(values, dtype=np.float64)


def _boxes(items: list[dict], what: str) -> np.ndarray:
    """Boxes as the file has them, xywh."""
    boxes = [_field(item, "bbox", what, row) for row, item in enumerate(items)]
    for row, box in enumerate(boxes):
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{what} in row {row} has bbox {box!r}; it must be four numbers: x, y, width, height")
    return _numbers([value for box in boxes for value in box], "bbox value").reshape(-1, 4)


def _areas(annotations: list[dict], bbox: np.ndarray) -> np.ndarray:
    """The area that decides small, medium, large; the box's where the file has none."""
    own = [item.get("area") for item in annotations]
    areas = _numbers([0 if area is None else area for area in own], "area")
    missing = np.array([area is None for area in own], dtype=bool)
    areas = np.where(missing, bbox[:, 2] * bbox[:, 3], areas)
    bad = np.flatnonzero(~(np.isfinite(areas) & (areas >= 0)) & ~missing)
    if len(bad):
        raise DataError(f"annotation in row {bad[0]} has area {areas[bad[0]]}; mend it, or leave it out to use the box")
    return areas


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
