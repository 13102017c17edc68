"""Average precision and average recall, read off a match table.

What it is: COCO's AP (101 recall levels) and AR, by class and overall, under weights of the images; equal to the AP
of record (`analysis.coco`). What it is not: matching (`analysis.matching`) or intervals (`analysis.statistics`).

    curves = precision_curves(match_detections(ground_truth, detections))
    average_precision(curves)                       # ap
    average_precision(curves, iou=0.5)              # ap_50
    average_precision(curves, weights)              # weights [R, N]: R resamplings of the N images at once -> [R]

An image of weight w counts as w copies of it. That is evaluating the repeated images, exactly so where no two scores
of one image and category are equal; copies of tied detections follow each other row by row. Ranking and matching
happen once, so an evaluation under new weights costs sums only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import STATISTICS
from analysis.evaluation.curves import (
    ClassCurve,
    boil_down,
    final_recalls,
    interpolated_precisions,
    precisions_at_levels,
)
from analysis.evaluation.matching import MatchTable, Subset, find_overlaps, match

AREA_RANGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # both ends included
DETECTION_LIMITS = (1, 10, 100)  # of an image and category, for AR
_VALUES_AT_ONCE = 4_000_000  # of a class's objects times resamplings: 32 MB an array


@dataclass(frozen=True, kw_only=True)
class PrecisionCurves:
    """A match table boiled down to what AP and AR take; sort once, evaluate under many weights."""

    iou_thresholds: Float[np.ndarray, " T"]
    num_images: int
    classes: tuple[ClassCurve, ...]  # in the order of the ground truth's category ids


def precision_curves(
    table: MatchTable, *, max_detections: int = 100, images: Bool[np.ndarray, " N"] | None = None
) -> PrecisionCurves:
    """Boils a match table down; of each image and category only the first `max_detections` detections count.

    Only the objects and detections of `images` are kept where given: as if the other images had weight 0, but
    faster. Weights are still a number for each of all N images.
    """
    within = np.ones(table.num_images, bool) if images is None else images
    counts = (table.rank < max_detections) & ~table.ignored.all(axis=0) & within[table.image_index]
    right = (table.matched >= 0) & ~table.ignored
    num_classes = len(table.category_ids)
    bounds = np.searchsorted(table.category_index, np.arange(num_classes + 1))
    is_object = ~table.object_ignored & within[table.object_image]
    return PrecisionCurves(
        iou_thresholds=table.iou_thresholds,
        num_images=table.num_images,
        classes=tuple(
            boil_down(
                images=table.image_index[rows],
                right=right[:, rows],
                ignored=table.ignored[:, rows],
                object_images=table.object_image[is_object & (table.object_category == k)],
            )
            for k, rows in enumerate(start + np.flatnonzero(counts[start:end]) for start, end in pairwise(bounds))
        ),
    )


def class_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """AP of every class at every IoU threshold; nan for a class without objects (of any weight).

    `weights` are a number an image (ones when None), with an axis in front for many resamplings at once. COCO's AP: at
    101 levels of recall the best precision reached at that recall or beyond, averaged (pycocotools' `accumulate`).
    """
    return _by_class(curves, weights, interpolated_precisions)


def class_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """Final recall of every class at every IoU threshold; nan for a class without objects (of any weight)."""
    return _by_class(curves, weights, final_recalls)


def average_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AP, the mean over the classes that have objects and over IoU 0.50 to 0.95, or at the threshold `iou` alone.

    A 0-d array without a resampling axis; nan where no class has an object.
    """
    return mean_over_classes(class_precision(_at(curves, iou), weights))


def average_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AR, the mean of final recall over the classes that have objects and over IoU 0.50 to 0.95, or at `iou` alone."""
    return mean_over_classes(class_recall(_at(curves, iou), weights))


def mean_over_classes(values: Float[np.ndarray, "*R T K"]) -> Float[np.ndarray, "*R"]:
    """Mean over thresholds and classes, leaving out nan; nan where nothing is left. AP and AR are such means."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=(-2, -1))
    count = defined.sum(axis=(-2, -1))
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def threshold_position(curves: PrecisionCurves, iou: float) -> int:
    """Where the threshold `iou` stands among those matched at; raises `ValueError` for another."""
    found = np.flatnonzero(np.isclose(curves.iou_thresholds, iou))
    if not len(found):
        raise ValueError(
            f"iou must be one of {curves.iou_thresholds.round(2).tolist()}, got {iou}; matching knows no other"
        )
    return int(found[0])


def detection_statistics(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """The twelve statistics of `analysis.coco.coco_statistics`, with our own matcher: equal to the bit, and faster.

    But for objects of an `area` beyond 1e10, which pycocotools ignores in "all" too and we count.
    """
    overlaps = find_overlaps(ground_truth, detections)
    table = match(overlaps)
    return twelve_statistics(
        overall=precision_curves(table),
        limited={limit: precision_curves(table, max_detections=limit) for limit in DETECTION_LIMITS},
        sized={
            name: precision_curves(match(overlaps, area_subset(ground_truth, detections, name))) for name in AREA_RANGES
        },
    )


def twelve_statistics(
    *, overall: PrecisionCurves, limited: dict[int, PrecisionCurves], sized: dict[str, PrecisionCurves]
) -> dict[str, float]:
    """COCO's twelve statistics, by name, from curves of all objects, of few detections per image, and of each size.

    Values are averaged in pycocotools' order (`COCOeval.summarize`), so that the last bit agrees; nan where undefined.
    """
    precision = _record_precision(overall)
    values = [_mean(precision), *(_mean(precision[threshold_position(overall, iou)]) for iou in (0.5, 0.75))]
    values += [_mean(_record_precision(sized[name])) for name in AREA_RANGES]
    parts = [*(limited[limit] for limit in DETECTION_LIMITS), *(sized[name] for name in AREA_RANGES)]
    recalls = [class_recall(curves) for curves in parts]
    values += [_mean(recall[~np.isnan(recall)]) for recall in recalls]
    return dict(zip(STATISTICS, values, strict=True))


def _record_precision(curves: PrecisionCurves) -> np.ndarray:
    """pycocotools' `eval["precision"]`, [T, 101, classes that have objects]."""
    classes = [curve for curve in curves.classes if len(curve.object_images)]
    if not classes:
        return np.empty((len(curves.iou_thresholds), 101, 0))
    return np.stack([precisions_at_levels(curve, curves.num_images) for curve in classes], axis=2)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values.ravel())) if values.size else float("nan")


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
    """The curves at one threshold alone."""
    if iou is None:
        return curves
    t = threshold_position(curves, iou)
    classes = tuple(replace(curve, right=(curve.right[t],), ignored=(curve.ignored[t],)) for curve in curves.classes)
    return replace(curves, iou_thresholds=curves.iou_thresholds[t : t + 1], classes=classes)


def _by_class(curves: PrecisionCurves, weights: np.ndarray | None, measure: Callable[..., np.ndarray]) -> np.ndarray:
    """`measure(curve, by_image [N, R], num_objects [R]) -> [T, R]` for every class, blocks of resamplings at a time."""
    weights = np.ones(curves.num_images) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape[-1] != curves.num_images:
        raise ValueError(f"weights must have a number for each of {curves.num_images} images, got {weights.shape[-1]}")
    num_resamplings = math.prod(weights.shape[:-1])
    by_image = weights.reshape(num_resamplings, curves.num_images).T
    by_image = np.ascontiguousarray(by_image, dtype=_narrowest(weights, curves))  # sums run over whole rows
    out = np.full((num_resamplings, len(curves.iou_thresholds), len(curves.classes)), np.nan)
    for k, curve in enumerate(curves.classes):
        if len(curve.object_images):
            for block in _blocks(num_resamplings, len(curve.object_images)):
                part = np.ascontiguousarray(by_image[:, block])
                num_objects = part[curve.object_images].sum(axis=0, dtype=np.float64)
                defined = num_objects > 0
                values = measure(curve, part, np.where(defined, num_objects, 1.0))
                out[block, :, k] = np.where(defined, values, np.nan).T
    return out.reshape(*weights.shape[:-1], *out.shape[1:])


def _blocks(num_resamplings: int, num_objects: int) -> list[slice]:
    """Nearly equal blocks of resamplings, none of a single one: numpy would add that up in another order."""
    wanted = -(-num_resamplings * num_objects // _VALUES_AT_ONCE)
    edges = np.linspace(0, num_resamplings, max(1, min(wanted, num_resamplings // 2)) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(edges)]


def _narrowest(weights: np.ndarray, curves: PrecisionCurves) -> type[np.number]:
    """int32 for whole numbers whose sums fit it: exact, and summed several times as fast; float64 else."""
    longest = max((max(len(curve.images), len(curve.object_images)) for curve in curves.classes), default=0)
    is_exact = np.abs(weights).max(initial=0.0) * longest < 2**31 and not (weights % 1).any()
    return np.int32 if is_exact else np.float64
