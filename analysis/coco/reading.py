"""COCO files, or their content as dicts and lists, turned into checked columns.

    ground_truth = read_ground_truth("instances_val2017.json.gz")
    detections = read_detections("detections.json", ground_truth)       # .json.gz, .parquet, or a list of dicts

Every `DataError` is one line that names the file, the item and the remedy; what is repaired instead of refused is said
in a `DataNote`, a warning of one line. Where pycocotools alone has traps:

- it takes a match with annotation id 0 for no match: ids are renumbered in `analysis.coco.record`;
- it stops at an empty list of detections: here they score 0 everywhere;
- it needs `area` and `iscrowd`: a missing area is the box's, a missing flag 0;
- it stops at detections of images that the ground truth lacks: here they are left out, as those of unknown categories
  and annotations of unknown images and categories are in both;
- its `summarize` says AP -1 where `maxDets` is without 100: here the cap is an argument (`analysis.evaluation`), and
  the statistics of record are always taken at 1, 10 and 100;
- objects are small, medium or large by their `area` (the mask's, in COCO's own files) but detections by their box:
  `read_ground_truth(path, area="box")` takes the box for both.
"""

import contextlib
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, compress
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth, bbox_of, corners, positions
from analysis.coco.match_parts import is_parts, read_parts
from analysis.coco.pieces import NotInPieces, read_results
from analysis.coco.suspicions import detection_suspicions, ground_truth_suspicions
from freeanchor.errors import NO_TEXT, DataError, brief, is_number
from freeanchor.files import check_file, collector_paused, read_json

Area = Literal["annotation", "box"]
GroundTruthSource = Path | str | dict[str, Any]  # a file, or a COCO instances file's content
DetectionSource = Path | str | list[dict[str, Any]]  # a file, or a COCO results file's content


class DataNote(UserWarning):
    """Something in a file that was repaired, or that pycocotools alone would take otherwise; one line."""


@collector_paused()
def read_ground_truth(source: GroundTruthSource, *, area: Area = "annotation") -> GroundTruth:
    """The ground truth in a COCO instances file (`.json` or `.json.gz`), or in such a file's content.

    `area` says what decides small, medium and large: the file's own `area`, as COCO does, or the box's. A missing
    `area` is the box's, a missing `iscrowd` is 0, annotations of images and categories that are not listed are left
    out, each with a `DataNote`, and so is what the boxes are suspected of. Annotation id 0 is read like any other.
    Raises `DataError` for anything that cannot be evaluated, files without objects (COCO's test sets) included.
    """
    name, content = _content(source, "ground truth")
    with _named(name):
        if not isinstance(content, dict):
            raise DataError(f"holds a {_json_name(content)}, not an object; give a COCO instances file")
        images = _list_of(content, "images", "list every image with its id")
        categories = _list_of(content, "categories", "list every category with its id and name")
        if not content.get("annotations"):
            raise DataError(
                "has no annotations, so nothing can be measured (AP would be -1); test sets keep theirs on COCO's "
                "server: evaluate on val2017, or submit the detections there"
            )
        annotations = _list_of(content, "annotations", "list every object")
        bbox = _boxes(annotations, "annotation")
        image_ids, category_ids = _integers(images, "id", "image"), _integers(categories, "id", "category")
        names, repeated = _category_names(categories, category_ids.tolist())
        columns = {
            "image_id": _integers(annotations, "image_id", "annotation"),
            "annotation_id": _integers(annotations, "id", "annotation"),
            "category_id": _integers(annotations, "category_id", "annotation"),
            "boxes": corners(bbox),
            "area": _areas(annotations, bbox) if area == "annotation" else _box_areas(bbox),
            "iscrowd": _crowd_flags(annotations),
            "sizes": bbox[:, 2:],
        }
        known, notes = _known(columns, image_ids, category_ids, "annotations")
        ground_truth = GroundTruth(
            image_ids=image_ids,
            category_ids=category_ids,
            category_names=names,
            image_sizes=_image_sizes(images),
            **{key: column[known] for key, column in columns.items()},
        )
    annotations = list(compress(annotations, known.tolist()))
    _say(
        name,
        [*notes, *repeated, *_repairs(annotations, area), *ground_truth_suspicions(ground_truth, annotations, area)],
    )
    return ground_truth


def _category_names(categories: list[dict[str, Any]], ids: list[int]) -> tuple[tuple[str, ...], list[str]]:
    """Names that tell categories apart: of those that share one, each has its id behind it, and a note says so."""
    names = [_text(item.get("name", i)) for item, i in zip(categories, ids, strict=True)]
    twice = {name: count for name, count in Counter(names).items() if count > 1}
    own = tuple(f"{name} ({i})" if name in twice else name for name, i in zip(names, ids, strict=True))
    say = "categories are called {}; tables tell them by their ids"
    return own, [f"{count} {say.format(brief(name))}" for name, count in twice.items()]


def read_detections(
    source: DetectionSource, ground_truth: GroundTruth | None = None, *, name: str = "detections"
) -> Detections:
    """The detections or candidates in a COCO results file: a list of image_id, category_id, bbox, score.

    `.json`, `.json.gz`, `.jsonl` (one on each line), a `.parquet` table of these columns (`analysis.coco.parquet`), a
    folder of parts (`analysis.evaluation.parted`), or such a list itself, which messages call `name`. Detections of
    images and categories that `ground_truth` does not have (None: any will do) are left out. A `DataNote` tells of
    those, of an empty list, of scores outside 0 to 1 (COCO asks for their order alone, score thresholds for more), and
    of boxes that hardly are in pixels as COCO's. Raises `DataError` where all detections are left out, for boxes that
    are not finite, negative widths and heights, and scores that are not finite.
    """
    notes: list[str] = []
    if isinstance(source, Path | str) and Path(source).suffix == ".parquet":
        name = str(source)
        detections = _parquet_detections(Path(source))
    elif isinstance(source, Path | str) and is_parts(source):
        name, detections = str(source), read_parts(Path(source), ground_truth)
    else:
        name, detections = _results_in_pieces(source) or _json_detections(source, name)
    if not len(detections):
        notes = ["holds no detections: AP and AR are 0 (pycocotools alone stops at such a file)"]
    elif ground_truth is not None:
        with _named(name):
            known, notes = _known(vars(detections), ground_truth.image_ids, ground_truth.category_ids, "detections")
            if notes:
                detections = detections.take(known)
    _say(name, [*notes, *detection_suspicions(detections, ground_truth)])
    return detections


def _parquet_detections(path: Path) -> Detections:
    from analysis.coco.parquet import read_parquet  # brings pandas

    with _named(path):
        check_file(path, "parquet")
        return read_parquet(path)


def _results_in_pieces(source: DetectionSource) -> tuple[str, Detections] | None:
    """The fast way; None where only the reader of whole files can tell what there is."""
    if not isinstance(source, Path | str):
        return None
    try:
        return str(source), read_results(Path(source)).as_detections()
    except (NotInPieces, DataError):
        return None


@collector_paused()
def _json_detections(source: DetectionSource, name: str) -> tuple[str, Detections]:
    name, content = _content(source, name, lines=True)
    with _named(name):
        if not isinstance(content, list):
            what = "ground truth" if isinstance(content, dict) and "images" in content else _json_name(content)
            raise DataError(
                f"holds a {what}, not a list; give COCO results: "
                '[{"image_id": …, "category_id": …, "bbox": [x, y, width, height], "score": …}, …]'
            )
        _refuse_non_objects(content, "detection")
        bbox = _boxes(content, "detection")
        return name, Detections(
            image_id=_integers(content, "image_id", "detection"),
            category_id=_integers(content, "category_id", "detection"),
            boxes=corners(bbox),
            scores=_numbers(_fields(content, "score", "detection"), "score"),
            sizes=bbox[:, 2:],
        )


def check_ids(detections: Detections, ground_truth: GroundTruth) -> None:
    """Raises `DataError` where a detection's image or category is not one of the ground truth's."""
    positions(detections.image_id, ground_truth.image_ids, what="detections", kind="image")
    positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")


def results_json(detections: Detections) -> list[dict[str, float | list[float]]]:
    """Detections as COCO results, ready for json: what `read_detections` gives back to the bit."""
    columns = (detections.image_id, detections.category_id, bbox_of(detections), detections.scores)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [dict(zip(("image_id", "category_id", "bbox", "score"), row, strict=True)) for row in rows]


def _content(source: object, name: str, *, lines: bool = False) -> tuple[str, Any]:
    """What messages call a source, and its content."""
    return (str(source), read_json(Path(source), lines=lines)) if isinstance(source, Path | str) else (name, source)


def _known(
    columns: Mapping[str, np.ndarray], image_ids: np.ndarray, category_ids: np.ndarray, what: str
) -> tuple[Bool[np.ndarray, " M"], list[str]]:
    """Which rows are of images and categories that are listed, and what is to be said of the others.

    Raises `DataError` where no row is.
    """
    known, notes = np.ones(len(columns["image_id"]), dtype=bool), []
    for kind, listed in (("image", image_ids), ("category", category_ids)):
        ids = columns[f"{kind}_id"]
        is_listed = np.isin(ids, listed)
        if not is_listed.all():
            known &= is_listed
            kinds = "images" if kind == "image" else "categories"
            unlisted = ids[~is_listed]
            notes.append(
                f"{len(unlisted):,} of {len(ids):,} {what} are of {kinds} that the ground truth does not list, "
                f"{kind} id {unlisted[0]} for one: left out"
                + (", are they counted from 0?" if not unlisted.all() and ids.max() < len(listed) else "")
            )
    if len(known) and not known.any():
        for kind, listed in (("image", image_ids), ("category", category_ids)):
            positions(columns[f"{kind}_id"], np.sort(listed), what=what, kind=kind)
    return known, notes


@contextlib.contextmanager
def _named(name: object) -> Iterator[None]:
    """Put the file's name before whatever is found wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _say(name: str, notes: Iterable[str]) -> None:
    for note in notes:
        warnings.warn(f"{name}: {note}", DataNote, stacklevel=3)


def _repairs(annotations: list[dict], area: Area) -> Iterator[str]:
    remedies = {"area": "the box's area is taken"} if area == "annotation" else {}
    for key, remedy in (remedies | {"iscrowd": "0 is taken"}).items():
        missing = sum(item.get(key) is None for item in annotations)
        if missing:
            yield f'{missing} of {len(annotations)} annotations have no "{key}"; {remedy}'
    if all(item.get("iscrowd") for item in annotations):
        yield "all annotations are crowd regions, which no detection can find: AP and AR are not defined"
    if any(item["id"] == 0 for item in annotations):
        yield "has annotation id 0, which pycocotools alone counts as missed even when found; here it is not"


def _text(name: object) -> str:
    """A category's name as one line that can be printed and stored, whatever the file has in its place."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in NO_TEXT else c for c in str(name))


def _crowd_flags(annotations: list[dict]) -> np.ndarray:
    flags = [item.get("iscrowd") for item in annotations]
    for row, flag in enumerate(flags):
        if flag not in (None, 0, 1):
            raise DataError(f"annotation in row {row} has iscrowd {brief(flag)}; give 0, or 1 for a crowd region")
    return np.array([bool(flag) for flag in flags], dtype=bool)


def _box_areas(bbox: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):  # boxes that overflow are refused afterwards
        return bbox[:, 2] * bbox[:, 3]


def _areas(annotations: list[dict], bbox: np.ndarray) -> np.ndarray:
    """The area that decides small, medium, large; the box's where the file has none."""
    own = [item.get("area") for item in annotations]
    areas = _numbers([0 if area is None else area for area in own], "area")
    missing = np.array([area is None for area in own], dtype=bool)
    areas = np.where(missing, _box_areas(bbox), areas)
    bad = np.flatnonzero(~(np.isfinite(areas) & (areas >= 0)) & ~missing)
    if len(bad):
        raise DataError(f"annotation in row {bad[0]} has area {areas[bad[0]]}; fix it, or leave it out to use the box")
    return areas


def _json_name(content: object) -> str:
    names: dict[type, str] = {dict: "json object", list: "list", str: "string"}
    return names.get(type(content), "bare value")


def _list_of(content: dict, key: str, remedy: str) -> list[dict]:
    """The list of objects under `key`; refused where there is none, or nothing in it."""
    items = content.get(key)
    if not isinstance(items, list) or not items:
        state = "no" if key not in content else "an empty" if items == [] else "an unreadable"
        raise DataError(f'has {state} "{key}" list; {remedy}')
    _refuse_non_objects(items, key)
    return items


def _refuse_non_objects(items: list, what: str) -> None:
    for row, item in _those_of_other_types(items, {dict}):
        if not isinstance(item, dict):
            raise DataError(f"{what} item {row} is a {_json_name(item)}, not an object; fix or remove it")


def _fields(items: list[dict], key: str, what: str) -> list:
    """One field of every item; refused where an item lacks it."""
    try:
        return [item[key] for item in items]
    except KeyError:
        row, item = next((row, item) for row, item in enumerate(items) if key not in item)
        name = f"{what} {brief(item['id'])}" if "id" in item else f"{what} in row {row}"
        raise DataError(f'{name} has no "{key}"; add it') from None


def _integers(items: list[dict], key: str, what: str) -> Int[np.ndarray, " M"]:
    """A column of ids: whole numbers that fit 64 bits, also where they are written 1.0."""
    values = _fields(items, key, what)
    others = _those_of_other_types(values, {int})
    for row, value in others:
        if not _is_whole(value):
            remedy = "ids must be whole numbers, renumber them"
            raise DataError(f'{what} in row {row} has "{key}" {brief(value)}; {remedy}')
    if others:
        values = [int(value) for value in values]
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        row = next(row for row, value in enumerate(values) if not -(2**63) <= value < 2**63)
        remedy = "ids must be whole numbers from -2^63 to 2^63 - 1 (64 bits with a sign), renumber them"
        raise DataError(f'{what} in row {row} has "{key}" {brief(values[row])}; {remedy}') from None


def _is_whole(value: object) -> bool:
    if isinstance(value, Integral):
        return not isinstance(value, bool)
    return isinstance(value, float | np.floating) and float(value).is_integer()


def _image_sizes(images: list[dict]) -> Float[np.ndarray, "N 2"]:
    """Width and height of each image; nan where they are not given as such, for nothing rests on them."""
    sides = [(image.get("width"), image.get("height")) for image in images]
    return np.array([[side if is_number(side) and side > 0 else np.nan for side in pair] for pair in sides])


def _numbers(values: list, name: str) -> Float[np.ndarray, " M"]:
    """A column of numbers, nan and infinity included (whoever takes them decides)."""
    for row, value in _those_of_other_types(values, {int, float}):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise DataError(f"row {row} has {name} {brief(value)}; it must be a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:  # json's whole numbers have no end
        raise DataError(f"a {name} is too large for a number; fix or remove it") from None


def _boxes(items: list[dict], what: str) -> Float[np.ndarray, "M 4"]:
    """The column of boxes as the file has them: x, y, width, height."""
    values = _fields(items, "bbox", what)
    is_suspect = _those_of_other_types(values, {list}) or set(map(len, values)) - {4}
    for row, box in enumerate(values) if is_suspect else ():
        if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4:
            raise DataError(f"{what} in row {row} has bbox {brief(box)}; it must be four numbers: x, y, width, height")
    return _numbers(list(chain.from_iterable(values)), "bbox value").reshape(-1, 4)


def _those_of_other_types(values: list, usual: set[type]) -> list[tuple[int, Any]]:
    """Rows and values whose types are not the `usual` ones: none in most files, which one fast look tells."""
    if set(map(type, values)) <= usual:
        return []
    return [(row, value) for row, value in enumerate(values) if type(value) not in usual]
