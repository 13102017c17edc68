"""COCO files: reading ground truth and detections, and pycocotools' twelve statistics, the AP of record.

What it is: the border between COCO's files (xywh, dicts) and the columns of `analysis.columns` (re-exported here). What
it is not: a matcher of our own (`analysis.matching`), or a loader of images.

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

COCO's json: reading it, and taking checked columns from its lists of items.

What it is: fields of dicts turned into arrays, each defect one line that names the item and the remedy. What it is not:
what the columns mean (`analysis.coco`).

    items = list_of(read_json(path), "images", path, "list every image with its id")
    integers(items, "id", "image")

Every function raises `DataError`; `named` puts the file's name before it.

Detections in a parquet table, for files too large to be json.

What it is: the columns `image_id`, `category_id`, `score` and either `bbox` (x, y, width, height) or `x`, `y`, `width`,
`height`, read with the checks of COCO's json. What it is not: a file of ground truth, which stays json.

    detections = read_parquet(Path("candidates.parquet"))
    # such a file: pandas.DataFrame(coco_results).to_parquet("candidates.parquet")

Needs pyarrow, which nothing else here does: the extra `parquet`.
"""

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from analysis.coco.columns import Detections, GroundTruth, corners, positions
from freeanchor.errors import NO_TEXT, DataError, brief
from freeanchor.files import check_file, collector_paused, read_json

_SIDES = ("x", "y", "width", "height")


def read_parquet(path: Path) -> Detections:
    """The detections or candidates in a parquet table; other columns are left alone, pixels as in the file.

    Raises `DataError` where pyarrow is not installed, the file is damaged, a column is missing or empty in places, ids
    are not whole numbers, boxes are not four finite numbers with sides of 0 or more, or scores are not finite.
    """
    with named(path):
        check_file(path, "parquet")
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError:
        raise DataError(
            f"{path}: reading parquet needs pyarrow; pip install pyarrow (the extra freeanchor[parquet]), or give json"
        ) from None
    except Exception as error:  # pyarrow's errors are of every kind that Python has
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a readable parquet file ({reason}); fetch or write it again") from None
    with named(path):
        return _detections(frame)


def _detections(frame: pd.DataFrame) -> Detections:
    bbox = _boxes(frame)
    return Detections(
        image_id=_ids(frame, "image_id"),
        category_id=_ids(frame, "category_id"),
        boxes=corners(bbox),
        scores=_numbers(frame, "score"),
        sizes=bbox[:, 2:],
    )


def _column(frame: pd.DataFrame, name: str) -> pd.Series:
    if name not in frame:
        raise DataError(f'has no column "{name}"; it has {", ".join(map(str, frame.columns)) or "none"}')
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise DataError(f'has several columns "{name}"; keep one of them')
    return column


def _ids(frame: pd.DataFrame, name: str) -> np.ndarray:
    column = _column(frame, name)
    if not len(column):
        return np.empty(0, dtype=np.int64)
    if not pd.api.types.is_integer_dtype(column.dtype) or column.isna().any() or column.max() >= 2**63:
        raise DataError(
            f'column "{name}" is of type {column.dtype}; ids must be whole numbers of 63 bits, none of them missing'
        )
    return column.to_numpy(dtype=np.int64)


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    column = _column(frame, name)
    if not len(column):
        return np.empty(0)
    kind = column.dtype
    if not pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_bool_dtype(kind):
        raise DataError(f'column "{name}" is of type {kind}; it must hold numbers')
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _boxes(frame: pd.DataFrame) -> Float[np.ndarray, "D 4"]:
    """The boxes as the file has them, xywh, from one column of lists or from four."""
    if "bbox" not in frame and set(_SIDES) & set(frame.columns):
        return np.stack([_numbers(frame, side) for side in _SIDES], axis=1)
    values = _column(frame, "bbox").tolist()
    for row, box in enumerate(values):
        if not hasattr(box, "__len__") or len(box) != 4:
            raise DataError(f"detection in row {row} has bbox {box!r}; it must be four numbers: x, y, width, height")
    try:
        return np.array(values, dtype=np.float64).reshape(-1, 4)
    except (TypeError, ValueError):
        raise DataError("a bbox holds something that is no number; it must be x, y, width, height") from None


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Puts the file's name before whatever is found wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def json_name(content: object) -> str:
    """What a json value is called in messages."""
    names: dict[type, str] = {dict: "json object", list: "list", str: "string"}
    return names.get(type(content), "bare value")


def list_of(content: dict, key: str, path: Path, remedy: str) -> list[dict]:
    """The list of objects under `key`; refused where there is none, or nothing in it."""
    items = content.get(key)
    if not isinstance(items, list) or not items:
        state = "no" if key not in content else "an empty" if items == [] else "an unreadable"
        raise DataError(f'{path}: has {state} "{key}" list; {remedy}')
    with named(path):
        refuse_non_objects(items, key)
    return items


def refuse_non_objects(items: list, what: str) -> None:
    """Refuses items that are not json objects; `what` is what they should be (`detection`)."""
    for row, item in _those_of_other_types(items, {dict}):
        if not isinstance(item, dict):
            raise DataError(f"{what} item {row} is a {json_name(item)}, not an object; mend or remove it")


def field(item: dict, key: str, what: str, row: int) -> Any:
    """One field of one item; refused where it is missing."""
    if key not in item:
        name = f"{what} {brief(item['id'])}" if "id" in item else f"{what} in row {row}"
        raise DataError(f'{name} has no "{key}"; add it')
    return item[key]


def fields(items: list[dict], key: str, what: str) -> list:
    """One field of every item; refused where an item lacks it."""
    try:
        return [item[key] for item in items]
    except KeyError:
        return [field(item, key, what, row) for row, item in enumerate(items)]


def integers(items: list[dict], key: str, what: str) -> Int[np.ndarray, " M"]:
    """A column of ids; whole numbers that fit 64 bits."""
    values = fields(items, key, what)
    for row, value in _those_of_other_types(values, {int}):
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(f'{what} in row {row} has "{key}" {brief(value)}; ids must be whole numbers, renumber them')
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        row, value = next((row, value) for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
        raise DataError(
            f'{what} in row {row} has "{key}" {brief(value)}; ids must be whole numbers, renumber them'
        ) from None


def numbers(values: list, name: str) -> Float[np.ndarray, " M"]:
    """A column of numbers, nan and infinity included (whoever takes them decides)."""
    for row, value in _those_of_other_types(values, {int, float}):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DataError(f"row {row} has {name} {brief(value)}; it must be a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # json's whole numbers have no end
        raise DataError(f"a {name} is too large for a number; mend or remove it") from None


def boxes(items: list[dict], what: str) -> Float[np.ndarray, "M 4"]:
    """The column of boxes as the file has them: x, y, width, height."""
    values = fields(items, "bbox", what)
    is_suspect = _those_of_other_types(values, {list}) or set(map(len, values)) - {4}
    for row, box in enumerate(values) if is_suspect else ():
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{what} in row {row} has bbox {brief(box)}; it must be four numbers: x, y, width, height")
    return numbers(list(chain.from_iterable(values)), "bbox value").reshape(-1, 4)


def _those_of_other_types(values: list, usual: set[type]) -> list[tuple[int, Any]]:
    """Rows and values whose types are not the `usual` ones: none in most files, which one fast look tells."""
    if set(map(type, values)) <= usual:
        return []
    return [(row, value) for row, value in enumerate(values) if type(value) not in usual]


Area = Literal["annotation", "box"]


class DataNote(UserWarning):
    """Something in a file that was mended, or that pycocotools alone would take otherwise; one line."""


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
    images = list_of(content, "images", path, "list every image with its id")
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
        image_ids=integers(images, "id", "image"),
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
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in NO_TEXT else c for c in str(name))


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
    with a `DataNote`. Raises `DataError` for image or category ids that `ground_truth` does not have (None: any will
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
    """Raises `DataError` where a detection's image or category is not one of the ground truth's."""
    positions(detections.image_id, ground_truth.image_ids, what="detections", kind="image")
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
