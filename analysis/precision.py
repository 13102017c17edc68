"""Average precision and average recall, read off a match table.

What it is: COCO's AP (101 recall levels) and AR, by class and overall, under weights of the pictures; equal to the AP
of record (`analysis.coco`). What it is not: matching (`analysis.matching`) or intervals (`analysis.statistics`).

    curves = precision_curves(match_detections(ground_truth, detections))
    average_precision(curves)                       # ap
    average_precision(curves, iou=0.5)              # ap_50
    average_precision(curves, weights)              # weights [R, N]: R resamplings of the N pictures at once -> [R]

A picture of weight w counts as w copies of it. That is evaluating the repeated pictures, exactly so where no two scores
of one picture and category are equal; copies of tied detections follow each other row by row. Ranking and matching
happen once, so an evaluation under new weights costs sums only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from analysis.coco import STATISTICS
from analysis.columns import Detections, GroundTruth
from analysis.matching import MatchTable, Subset, find_overlaps, match

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # pycocotools' floats
AREA_RANGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # both ends included
_VALUES_AT_ONCE = 4_000_000  # rows times resamplings held at once: 32 MB an array


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """One category's ranked detections, as far as precision needs them; S rows, a tuple entry an IoU threshold."""

    images: Int[np.ndarray, " S"]  # picture of every row that counts at some threshold, best first
    right: tuple[Int[np.ndarray, " _"], ...]  # rows that are right
    ignored: tuple[Int[np.ndarray, " _"], ...]  # rows that do not count at this threshold, though at others
    object_images: Int[np.ndarray, " _"]  # picture of every object that counts


@dataclass(frozen=True, kw_only=True)
class PrecisionCurves:
    """A match table boiled down to what AP and AR take; sort once, evaluate under many weights."""

    iou_thresholds: Float[np.ndarray, " T"]
    num_images: int
    classes: tuple[ClassCurve, ...]  # in the order of the ground truth's category ids


def precision_curves(table: MatchTable, *, max_detections: int = 100) -> PrecisionCurves:
    """Boils a match table down; of each picture and category only the first `max_detections` detections count."""
    counts = (table.rank < max_detections) & ~table.ignored.all(axis=0)
    right = (table.matched >= 0) & ~table.ignored
    num_classes = len(table.category_ids)
    bounds = np.searchsorted(table.category_index, np.arange(num_classes + 1))
    object_images = [
        table.object_image[(table.object_category == k) & ~table.object_ignored] for k in range(num_classes)
    ]
    return PrecisionCurves(
        iou_thresholds=table.iou_thresholds,
        num_images=table.num_images,
        classes=tuple(
            _class_curve(table, right, start + np.flatnonzero(counts[start:end]), images)
            for start, end, images in zip(bounds[:-1], bounds[1:], object_images, strict=True)
        ),
    )


def _class_curve(table: MatchTable, right: np.ndarray, rows: np.ndarray, object_images: np.ndarray) -> ClassCurve:
    last = np.flatnonzero(right[:, rows].any(axis=0))[-1:]
    rows = rows[: int(last[0]) + 1] if len(last) else rows[:0]  # what follows the last right one changes nothing
    return ClassCurve(
        images=table.image_index[rows],
        right=tuple(np.flatnonzero(flags) for flags in right[:, rows]),
        ignored=tuple(np.flatnonzero(flags) for flags in table.ignored[:, rows]),
        object_images=object_images,
    )


def class_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """AP of every class at every IoU threshold; nan for a class without objects (of any weight).

    `weights` are a number a picture (ones when None), with an axis in front for many resamplings at once. COCO's AP: at
    101 levels of recall the best precision reached at that recall or beyond, averaged (pycocotools' `accumulate`).
    """
    return _by_class(curves, weights, _average_precisions)


def class_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """Final recall of every class at every IoU threshold; nan for a class without objects (of any weight)."""
    return _by_class(curves, weights, _recalls)


def average_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AP, the mean over the classes that have objects and over IoU 0.50 to 0.95, or at the threshold `iou` alone.

    A 0-d array without a resampling axis; nan where no class has an object.
    """
    return _mean(class_precision(_at(curves, iou), weights))


def average_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AR, the mean of final recall over the classes that have objects and over IoU 0.50 to 0.95, or at `iou` alone."""
    return _mean(class_recall(_at(curves, iou), weights))


def detection_statistics(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """The twelve statistics of `analysis.coco.coco_statistics`, with our own matcher: equal to them, and faster."""
    overlaps = find_overlaps(ground_truth, detections)
    table = match(overlaps)
    curves = precision_curves(table)
    sized = {
        name: precision_curves(match(overlaps, area_subset(ground_truth, detections, name))) for name in AREA_RANGES
    }
    values = [average_precision(curves), average_precision(curves, iou=0.5), average_precision(curves, iou=0.75)]
    values += [average_precision(sized[name]) for name in AREA_RANGES]
    values += [average_recall(precision_curves(table, max_detections=limit)) for limit in (1, 10, 100)]
    values += [average_recall(sized[name]) for name in AREA_RANGES]
    return {name: float(value) for name, value in zip(STATISTICS, values, strict=True)}


def area_subset(ground_truth: GroundTruth, detections: Detections, size: str) -> Subset:
    """COCO's small, medium or large: objects by their `area` (the mask's, where there is one), detections by their box.

    Both ends of a range belong to it, so an object of exactly 32 x 32 is small and medium.
    """
    low, high = AREA_RANGES[size]
    box_area = detections.sizes.prod(axis=1)
    return Subset(
        objects=(ground_truth.area >= low) & (ground_truth.area <= high),
        detections=(box_area >= low) & (box_area <= high),
    )


def _at(curves: PrecisionCurves, iou: float | None) -> PrecisionCurves:
    if iou is None:
        return curves
    found = np.flatnonzero(np.isclose(curves.iou_thresholds, iou))
    if not len(found):
        raise ValueError(
            f"iou must be one of {curves.iou_thresholds.round(2).tolist()}, got {iou}; matching knows no other"
        )
    t = int(found[0])
    classes = tuple(
        ClassCurve(images=c.images, right=(c.right[t],), ignored=(c.ignored[t],), object_images=c.object_images)
        for c in curves.classes
    )
    return PrecisionCurves(
        iou_thresholds=curves.iou_thresholds[t : t + 1], num_images=curves.num_images, classes=classes
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over thresholds and classes [..., T, K], leaving out nan; nan where nothing is left."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=(-2, -1))
    count = defined.sum(axis=(-2, -1))
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def _by_class(curves: PrecisionCurves, weights: np.ndarray | None, measure: Callable[..., np.ndarray]) -> np.ndarray:
    """`measure(curve, by_image [N, R], num_objects [R]) -> [T, R]` for every class, blocks of resamplings at a time."""
    weights = np.ones(curves.num_images) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape[-1] != curves.num_images:
        raise ValueError(
            f"weights must have a number for each of {curves.num_images} pictures, got {weights.shape[-1]}"
        )
    num_resamplings = math.prod(weights.shape[:-1])
    by_image = weights.reshape(num_resamplings, curves.num_images).T
    num_thresholds = len(curves.iou_thresholds)
    out = np.full((num_resamplings, num_thresholds, len(curves.classes)), np.nan)
    for k, curve in enumerate(curves.classes):
        block = max(1, _VALUES_AT_ONCE // max(1, len(curve.images)))
        for start in range(0, num_resamplings, block):
            part = np.ascontiguousarray(by_image[:, start : start + block])  # sums run over whole rows
            num_objects = part[curve.object_images].sum(axis=0)
            defined = num_objects > 0
            if defined.any():
                values = measure(curve, part[:, defined], num_objects[defined])
                out[start : start + block, :, k][defined] = values.T
    return out.reshape(*weights.shape[:-1], num_thresholds, len(curves.classes))


def _recalls(curve: ClassCurve, by_image: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    return np.stack([by_image[curve.images[right]].sum(axis=0) for right in curve.right]) / num_objects


def _average_precisions(curve: ClassCurve, by_image: np.ndarray, num_objects: np.ndarray) -> np.ndarray:
    weight = by_image[curve.images]
    num_seen = np.cumsum(weight, axis=0)
    return np.stack(
        [
            _average_precision(weight, num_seen, right, ignored, num_objects)
            for right, ignored in zip(curve.right, curve.ignored, strict=True)
        ]
    )


def _average_precision(
    weight: np.ndarray, num_seen: np.ndarray, right: np.ndarray, ignored: np.ndarray, num_objects: np.ndarray
) -> np.ndarray:
    """AP at one threshold, [R]. Precision peaks only where a detection is right, so only those rows are looked at."""
    if not len(right):
        return np.zeros(len(num_objects))
    num_right = np.cumsum(weight[right], axis=0)
    num_counted = num_seen[right]
    if len(ignored):
        skipped = np.cumsum(np.vstack([np.zeros_like(num_objects)[None], weight[ignored]]), axis=0)
        num_counted = num_counted - skipped[np.searchsorted(ignored, right)]
    precision = num_right / (num_counted + np.spacing(1))  # as pycocotools guards against 0 / 0
    best_from_here = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    levels = _levels_reached(num_right / num_objects)
    return (best_from_here * np.diff(levels, axis=0, prepend=0)).sum(axis=0) / len(RECALL_LEVELS)


def _levels_reached(recall: np.ndarray) -> np.ndarray:
    """How many of the 101 levels are at most `recall`; exact, and faster than a search."""
    level = (recall * 100).astype(np.int64)  # off by one at most, where a product rounds over a level
    level += RECALL_LEVELS[np.minimum(level + 1, 100)] <= recall
    level = np.minimum(level, 100)
    level -= RECALL_LEVELS[level] > recall
    return level + 1
