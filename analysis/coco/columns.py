"""Ground truth and detections as columns: numpy arrays with one row per object.

    ground_truth = GroundTruth(
        image_ids=np.array([1, 2]), category_ids=np.array([7]), category_names=("door",),
        image_id=np.array([1]), annotation_id=np.array([5]), category_id=np.array([7]),
        boxes=np.array([[0.0, 0.0, 10.0, 30.0]]), area=np.array([300.0]), iscrowd=np.array([False]),
    )
    Detections(image_id=np.array([1]), category_id=np.array([7]), boxes=ground_truth.boxes, scores=np.array([0.9]))

Boxes are xyxy in continuous pixels. `sizes` keeps width and height as the file gave them, because `(x + w) - x` is not
`w` in floating point, and an IoU exactly at a threshold would fall on the other side than it does in pycocotools.
"""

from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from freeanchor.errors import DataError

LARGEST = 2.0**63  # of a coordinate in pixels; areas and their sums stay far from what floats can hold
COUNTED_AREA = 1e10  # square pixels; beyond it pycocotools counts neither objects nor false positives
_DTYPES = {
    "image_ids": np.int64, "category_ids": np.int64, "image_id": np.int64, "annotation_id": np.int64,
    "category_id": np.int64, "boxes": np.float64, "area": np.float64, "iscrowd": np.bool_, "scores": np.float64,
    "sizes": np.float64,
}  # fmt: skip
_PER_DATA_SET = ("image_ids", "image_sizes", "category_ids", "category_names")


def _no_sizes() -> np.ndarray:
    return np.empty((0, 2))


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """All images, categories and objects of a data set: N images, K categories, G objects.

    Images and categories are sorted by id, as pycocotools walks them; objects keep the order of the file. Images
    without objects are images too. Raises `DataError` where an id occurs twice, an object points to an unknown image or
    category, or a box is not finite or has a negative side. Boxes without extent are allowed (COCO's rounding makes
    some): they count as objects that nothing can find.
    """

    image_ids: Int[np.ndarray, " N"]
    category_ids: Int[np.ndarray, " K"]
    category_names: tuple[str, ...]
    image_id: Int[np.ndarray, " G"]
    annotation_id: Int[np.ndarray, " G"]
    category_id: Int[np.ndarray, " G"]
    boxes: Float[np.ndarray, "G 4"]  # xyxy, continuous pixels
    area: Float[np.ndarray, " G"]  # the mask's where the file has one; decides small, medium, large
    iscrowd: Bool[np.ndarray, " G"]
    sizes: Float[np.ndarray, "G 2"] = field(default_factory=_no_sizes)  # width, height; from the boxes if left out
    image_sizes: Float[np.ndarray, "N 2"] = field(default_factory=_no_sizes)  # width, height; nan where unknown

    def __post_init__(self) -> None:
        if not len(self.image_sizes):
            object.__setattr__(self, "image_sizes", np.full((len(self.image_ids), 2), np.nan))
        if len(self.category_names) != len(self.category_ids):
            raise DataError(
                f"ground truth: {len(self.category_ids)} category ids but {len(self.category_names)} names; name each"
            )
        _settle(self)
        order = np.argsort(self.category_ids, kind="stable")
        object.__setattr__(self, "category_names", tuple(self.category_names[i] for i in order))
        object.__setattr__(self, "category_ids", self.category_ids[order])
        if len(self.image_sizes) != len(self.image_ids):
            raise DataError(f"ground truth: {len(self.image_ids)} images but {len(self.image_sizes)} sizes; size each")
        order = np.argsort(self.image_ids, kind="stable")
        object.__setattr__(self, "image_ids", self.image_ids[order])
        object.__setattr__(self, "image_sizes", np.asarray(self.image_sizes, dtype=np.float64)[order])
        _refuse_duplicates("image", self.image_ids)
        _refuse_duplicates("category", self.category_ids)
        _refuse_duplicates("annotation", self.annotation_id)
        _refuse_bad_boxes("annotation", self.annotation_id, self.boxes, self.sizes)
        _ = self.image_index, self.category_index  # refuses unknown ids

    @cached_property
    def image_index(self) -> Int[np.ndarray, " G"]:
        """Each object's image as a position in `image_ids`."""
        return positions(self.image_id, self.image_ids, what="annotations", kind="image")

    @cached_property
    def category_index(self) -> Int[np.ndarray, " G"]:
        """Each object's category as a position in `category_ids`."""
        return positions(self.category_id, self.category_ids, what="annotations", kind="category")


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Scored boxes of a detector, before or after NMS: D rows in the detector's own order, which breaks ties of score.

    Boxes without extent are allowed: they overlap nothing. Raises `DataError` for boxes that are not finite or have a
    negative side, and for scores that are not finite.
    """

    image_id: Int[np.ndarray, " D"]
    category_id: Int[np.ndarray, " D"]
    boxes: Float[np.ndarray, "D 4"]  # xyxy, continuous pixels
    scores: Float[np.ndarray, " D"]
    sizes: Float[np.ndarray, "D 2"] = field(default_factory=_no_sizes)  # width, height; from the boxes if left out

    def __post_init__(self) -> None:
        _settle(self)
        _refuse_bad_boxes("detection", np.arange(len(self.boxes)), self.boxes, self.sizes)
        bad = np.flatnonzero(~np.isfinite(self.scores))
        if len(bad):
            raise DataError(
                f"detection {bad[0]} has score {self.scores[bad[0]]}; scores must be finite numbers, fix or remove it"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: np.ndarray) -> "Detections":
        """The detections of these rows, a mask or places, in their order."""
        return Detections(**{one.name: getattr(self, one.name)[rows] for one in fields(Detections)})


def corners(bbox: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "M 4"]:
    """Boxes xyxy from COCO's xywh; sums beyond what floats hold are left for the columns' own check to refuse."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]])


def bbox_of(columns: GroundTruth | Detections) -> Float[np.ndarray, "M 4"]:
    """Boxes as COCO's xywh, with the sides that the file gave."""
    return np.hstack([columns.boxes[:, :2], columns.sizes])


def box_areas(sizes: Float[np.ndarray, "M 2"]) -> Float[np.ndarray, " M"]:
    """Width times height of each box; numpy's `prod` of two columns is slow."""
    return sizes[:, 0] * sizes[:, 1]


def positions(ids: np.ndarray, known: np.ndarray, *, what: str, kind: str) -> Int[np.ndarray, " M"]:
    """Where each id stands in the sorted `known` ids; `DataError` naming the first id that is not among them."""
    place = np.searchsorted(known, ids)
    clipped = np.minimum(place, max(len(known) - 1, 0))
    unknown = np.flatnonzero(known[clipped] != ids) if len(known) else np.arange(len(ids))
    if len(unknown):
        article = "an" if kind[0] in "aeiou" else "a"
        raise DataError(
            f"{what}: {kind} id {ids[unknown[0]]} (row {unknown[0]}) is not {article} {kind} of the ground truth; "
            f"use the ground truth's own {kind} ids, or the ground truth that these {what} belong to"
        )
    return place.astype(np.int64)


def _settle(columns: GroundTruth | Detections) -> None:
    """Give the columns their types, take `sizes` from the boxes where it was left out, and compare the lengths."""
    for name, dtype in _DTYPES.items():
        if hasattr(columns, name):
            object.__setattr__(columns, name, np.asarray(getattr(columns, name), dtype=dtype))
    object.__setattr__(columns, "boxes", columns.boxes.reshape(-1, 4))
    if not len(columns.sizes):
        object.__setattr__(columns, "sizes", columns.boxes[:, 2:] - columns.boxes[:, :2])
    lengths = {name: len(value) for name, value in vars(columns).items() if name not in _PER_DATA_SET}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{type(columns).__name__}: columns differ in length, {lengths}; give one row per object")


def _refuse_duplicates(what: str, ids: np.ndarray) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if len(values) < len(ids):
        raise DataError(f"{what} id {values[counts > 1][0]} occurs more than once; give every {what} an id of its own")


def _refuse_bad_boxes(what: str, ids: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> None:
    far = np.abs(boxes).max(initial=0)  # nan where one is
    if not (far < LARGEST and sizes.min(initial=0) >= 0):
        row = np.flatnonzero(~((np.abs(boxes) < LARGEST).all(axis=1) & (sizes >= 0).all(axis=1)))[0]
        numbers = [round(float(value), 6) for value in (*boxes[row, :2], *sizes[row])]
        raise DataError(
            f"{what} {ids[row]} has bbox {numbers} (x, y, width, height); it must be finite, below 2^63, and its width "
            "and height not negative: fix or remove it"
        )
    # the margin covers rounding of x + w; a larger gap means that boxes were replaced and sizes were not
    gap = np.abs(boxes[:, 2:] - boxes[:, :2] - sizes)
    if gap.max(initial=0) > 1e-9 and np.any(gap > 1e-9 * (1 + np.abs(boxes).max(axis=1, keepdims=True, initial=0))):
        raise DataError(f"{what}s: `sizes` contradicts `boxes`; leave `sizes` out and it is taken from the boxes")
