"""Slices: any subset of the objects or images, named by a column of somebody's own file.

    slices = read_slices("slices.csv", ground_truth, bins=4)    # image_id or annotation_id, then a column per slice
    [one.name for one in slices]                                # "weather=rain", "distance=[10, 25)", …

A slice of images is an evaluation of these images alone. A slice of objects follows COCO's ignore rules, as its small,
medium and large do: finding another object is neither right nor wrong. But a detection that finds nothing has no value
in the file, so it is wrong in every slice of objects. So AP of two slices of objects is not comparable with each other
as AR is; two detectors in one slice are.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from analysis.coco.columns import GroundTruth
from freeanchor.errors import DataError, UsageError, brief
from freeanchor.files import check_file, read_json

SliceSource = Path | str | Sequence[Mapping[str, Any]]
Bins = int | Mapping[str, Sequence[float]]
KEYS = ("image_id", "annotation_id")
FEW_OBJECTS, FEW_IMAGES = 30, 10  # below either no interval is given: a bootstrap over so few says too little
_MANY_VALUES = 50  # of a column; more are no slices
DEFAULT_BINS = 4


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One value of one column: the objects that have it, and, where it is of whole images, these; crowds are none."""

    column: str
    value: str
    kind: Literal["image", "object"]
    objects: Bool[np.ndarray, " G"]
    images: Bool[np.ndarray, " N"]

    @property
    def name(self) -> str:
        """`column=value`."""
        return f"{self.column}={self.value}"

    @property
    def num_objects(self) -> int:
        """How many objects it is about."""
        return int(self.objects.sum())

    @property
    def num_images(self) -> int:
        """How many images it looks at; for a slice of objects: that hold one."""
        return int(self.images.sum())

    @property
    def note(self) -> str:
        """What makes its numbers worth little; empty where nothing does."""
        return too_few(self.num_objects, self.num_images)


def too_few(num_objects: int, num_images: int) -> str:
    """What is said of numbers that rest on so little; empty where there is enough."""
    if not num_objects:
        return "no objects"
    if num_objects >= FEW_OBJECTS and num_images >= FEW_IMAGES:
        return ""
    return f"too few for an interval: {num_objects} objects in {num_images} images"


def read_slices(source: SliceSource, ground_truth: GroundTruth, *, bins: Bins = DEFAULT_BINS) -> list[Slice]:
    """The slices of a csv or json file, or of a list of dicts: one per column and value, in the columns' order.

    An id column names the rows: `annotation_id`, or without it `image_id`. Numbers of more than `bins` different values
    are binned, into `bins` groups of equal size or, for a column with edges of its own, between these (the last one
    included). Objects and images without a value are in no slice of that column. Raises `DataError` where the file
    cannot be used, `UsageError` for bins that mean nothing.
    """
    _check_bins(bins)
    name = str(source) if isinstance(source, Path | str) else "slices"
    rows = _rows(source)
    try:
        return _slices(rows, ground_truth, bins)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _rows(source: SliceSource) -> list[Mapping[str, Any]]:
    if not isinstance(source, Path | str):
        return list(source)
    path = Path(source)
    content: Any = _csv_rows(path) if path.suffix in (".csv", ".tsv") else read_json(path)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise DataError(f'{path}: must hold a list of rows; give [{{"image_id": 1, "weather": "rain"}}, …]')
    rows: list[Mapping[str, Any]] = content
    return rows


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        check_file(path, "csv")
        text = path.read_text(encoding="utf-8-sig")
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save the csv as UTF-8") from None
    return list(csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ","))


def _slices(rows: list[Mapping[str, Any]], ground_truth: GroundTruth, bins: Bins) -> list[Slice]:
    columns = list(dict.fromkeys(str(name) for row in rows for name in row if name is not None))
    keys = [key for key in KEYS if key in columns]
    names = [name for name in columns if name not in KEYS]
    if not keys or not names:
        raise DataError("needs a column image_id or annotation_id, and one more per slice; add it")
    key = keys[-1]  # an annotation's image may stand beside it
    known = ground_truth.image_ids if key == "image_id" else ground_truth.annotation_id
    place = _places([row.get(key) for row in rows], known, key)
    unknown = [name for name in (bins if isinstance(bins, Mapping) else ()) if name not in names]
    if unknown:
        raise UsageError(f"bins names the column {unknown[0]!r}, which the slices lack; they have {', '.join(names)}")
    found = []
    for name in names:
        for value, members in _groups(name, [row.get(name) for row in rows], bins).items():
            flags = np.zeros(len(known), dtype=bool)
            own = place[members]
            flags[own[own >= 0]] = True
            found.append(_slice(name, value, key, flags, ground_truth))
    return found


def _slice(column: str, value: str, key: str, flags: np.ndarray, truth: GroundTruth) -> Slice:
    if key == "image_id":
        objects = flags[truth.image_index] & ~truth.iscrowd
        return Slice(column=column, value=value, kind="image", objects=objects, images=flags)
    objects, images = flags & ~truth.iscrowd, np.zeros(len(truth.image_ids), dtype=bool)
    images[truth.image_index[objects]] = True
    return Slice(column=column, value=value, kind="object", objects=objects, images=images)


def _places(values: list[Any], known: np.ndarray, key: str) -> np.ndarray:
    """Where each row's id stands among the known ones, -1 for none; refused where none or one twice is known."""
    where = {identity: place for place, identity in enumerate(known.tolist())}
    places = np.full(len(values), -1)
    for row, value in enumerate(values):
        number = _number(value)
        if np.isnan(number) or number % 1:
            raise DataError(f"row {row} has {key} {brief(value)}; ids must be whole numbers")
        places[row] = where.get(
            int(value) if isinstance(value, int | str) and str(value).isdigit() else int(number), -1
        )
    listed = places[places >= 0]
    if not len(listed):
        raise DataError(f"no {key} of it is one of the ground truth's; use the ground truth's own ids")
    twice = np.flatnonzero(np.bincount(listed) > 1)
    if len(twice):
        raise DataError(f"{key} {known[twice[0]]} has more than one row; give each one row")
    return places


def _groups(name: str, values: list[Any], bins: Bins) -> dict[str, np.ndarray]:
    """Rows by the value of a column; numbers in bins, and values that are missing left out."""
    texts = ["" if value is None else str(value).strip() for value in values]
    numbers = np.array([_number(value) for value in values])
    has_value = np.array([text.lower() not in ("", "nan") for text in texts], dtype=bool)
    own_edges = bins.get(name) if isinstance(bins, Mapping) else None
    num_bins = bins if isinstance(bins, int) else DEFAULT_BINS
    are_numbers = not np.isnan(numbers[has_value]).any() and not any(isinstance(value, bool) for value in values)
    if own_edges is not None and not are_numbers:
        raise DataError(
            f"column {name} has bins but holds {brief(texts[int(np.flatnonzero(has_value)[0])])}, no number"
        )
    if own_edges is not None or (are_numbers and len(set(numbers[has_value].tolist())) > num_bins):
        edges = np.unique(np.quantile(numbers[has_value], np.linspace(0, 1, num_bins + 1)))
        return _binned(numbers, edges if own_edges is None else np.array(own_edges, dtype=np.float64))
    if are_numbers:  # 1 and 1.0 are one value
        texts = [repr(number).removesuffix(".0") for number in numbers.tolist()]
    distinct = sorted({text for text, kept in zip(texts, has_value, strict=True) if kept})
    if len(distinct) > _MANY_VALUES:
        raise DataError(f"column {name} has {len(distinct)} different values, more than {_MANY_VALUES}; group them")
    if are_numbers:
        distinct.sort(key=float)
    return {value: np.flatnonzero(np.array([text == value for text in texts])) for value in distinct}


def _binned(numbers: Float[np.ndarray, " M"], edges: Float[np.ndarray, " E"]) -> dict[str, np.ndarray]:
    groups = {}
    texts = _distinct(edges.tolist())
    for i, (low, high) in enumerate(pairwise(edges.tolist())):
        is_last = i == len(edges) - 2
        inside = (numbers >= low) & ((numbers <= high) if is_last else (numbers < high))
        groups[f"[{texts[i]}, {texts[i + 1]}{']' if is_last else ')'}"] = np.flatnonzero(inside)
    return groups


def _distinct(edges: list[float]) -> list[str]:
    """Edges in as few digits, six at least, as tell them from each other."""
    texts = ([f"{edge:.{digits}g}" for edge in edges] for digits in range(6, 18))
    return next(text for text in texts if len(set(text)) == len(set(edges)))


def _number(value: Any) -> float:
    try:
        return float("nan") if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return float("nan")


def _check_bins(bins: Bins) -> None:
    if isinstance(bins, int):
        if bins < 2:
            raise UsageError(f"bins must be at least 2, got {bins}; {DEFAULT_BINS} is usual")
        return
    for name, edges in bins.items():
        if len(edges) < 2 or list(edges) != sorted(set(edges)):
            given = ",".join(f"{edge:g}" for edge in edges)
            raise UsageError(f"bins must have two edges or more that rise, got {name}={given}; 0,10,25 for instance")
