"""Average precision and average recall, read off a match table.

    curves = precision_curves(match_detections(ground_truth, detections))
    average_precision(curves)                       # ap
    average_precision(curves, iou=0.5)              # ap_50
    average_precision(curves, weights)              # weights [R, N]: R resamplings of the N images at once -> [R]

These are COCO's AP (101 recall levels) and AR, by class and overall, under weights of the images; with weights of 1
they equal the AP of record (`analysis.coco.record`). An image of weight w counts as w copies of it. That is evaluating
the repeated images, exactly so where no two scores of one image and category are equal; copies of tied detections
follow each other row by row. Ranking and matching happen once, so an evaluation under new weights costs sums only.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from analysis.coco.columns import COUNTED_AREA, Detections, GroundTruth
from analysis.coco.record import STATISTICS
from analysis.evaluation.matching import MatchTable, Subset

ALL_AREAS = (0.0, COUNTED_AREA)
# Both ends included.
AREA_RANGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, COUNTED_AREA)}
DETECTION_LIMITS = (1, 10, 100)  # of an image and category, for AR
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # pycocotools' floats
_VALUES_AT_ONCE = 4_000_000  # of a class's objects times resamplings: 32 MB an array
_WIDE = 100  # resamplings from which a Python step per row costs less than numpy's walk down each column
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """Ranked detections of a class, as far as precision needs them; S rows, one tuple entry per IoU threshold."""

    images: Int[np.ndarray, " S"]  # image of every row that counts at some threshold, best first
    landmarks: Int[np.ndarray, " U"]  # rows that are right at some threshold: precision peaks nowhere else
    right: tuple[Int[np.ndarray, " _"], ...]  # positions among the landmarks that are right
    ignored: tuple[Int[np.ndarray, " _"], ...]  # rows that do not count at this threshold, though at others
    object_images: Int[np.ndarray, " _"]  # image of every object that counts


@dataclass(frozen=True, kw_only=True)
class PrecisionCurves:
    """A match table boiled down to what AP and AR take; sort once, evaluate under many weights."""

    iou_thresholds: Float[np.ndarray, " T"]
    num_images: int
    classes: tuple[ClassCurve, ...]  # in the order of the ground truth's category ids

    @cached_property
    def longest(self) -> int:
        """The most rows, or objects, of a class."""
        return max((max(len(curve.images), len(curve.object_images)) for curve in self.classes), default=0)


def precision_curves(
    table: MatchTable, *, max_detections: int | None = None, images: Bool[np.ndarray, " N"] | None = None
) -> PrecisionCurves:
    """Boils a match table down; of each image and category the first `max_detections` detections count (None: all).

    Only the objects and detections of `images` are kept where given: as if the other images had weight 0, but
    faster. Weights are still one number for each of all N images.
    """
    within = np.ones(table.num_images, bool) if images is None else images
    limit = max_detections or len(table.rank)
    counts = (table.rank < limit) & ~table.ignored.all(axis=0) & within[table.image_index]
    right = (table.matched >= 0) & ~table.ignored
    num_classes = len(table.category_ids)
    bounds = np.searchsorted(table.category_index, np.arange(num_classes + 1))
    is_object = ~table.object_ignored & within[table.object_image]
    return PrecisionCurves(
        iou_thresholds=table.iou_thresholds,
        num_images=table.num_images,
        classes=tuple(
            _boil_down(
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

    `weights` are one number per image (ones when None), with an axis in front for many resamplings at once. COCO's AP
    is the best precision reached at a recall or beyond, averaged over 101 levels of recall (pycocotools' `accumulate`).
    """
    values, defined = _by_class(curves, weights, _interpolated_precisions)
    return np.where(defined, values, np.nan)


def class_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """Final recall of every class at every IoU threshold; nan for a class without objects (of any weight)."""
    values, defined = _by_class(curves, weights, _final_recalls)
    return np.where(defined, values, np.nan)


def average_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AP, the mean over the classes that have objects and over IoU 0.50 to 0.95, or at the threshold `iou` alone.

    A 0-d array without a resampling axis; nan where no class has an object.
    """
    return _mean_of(*_by_class(_at(curves, iou), weights, _interpolated_precisions))


def average_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AR, the mean of final recall over the classes that have objects and over IoU 0.50 to 0.95, or at `iou` alone."""
    return _mean_of(*_by_class(_at(curves, iou), weights, _final_recalls))


def mean_over_classes(values: Float[np.ndarray, "*R T K"]) -> Float[np.ndarray, "*R"]:
    """Mean over thresholds and classes, leaving out nan; nan where nothing is left. AP and AR are such means."""
    defined = ~np.isnan(values)
    return _mean_of(np.where(defined, values, 0.0), defined)


def _mean_of(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Means of the `defined` values [*R, T or 1, K], the others being 0; nan where there are none."""
    total = values.sum(axis=(-2, -1))
    count = defined.sum(axis=(-2, -1)) * (values.shape[-2] // defined.shape[-2])
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def threshold_position(curves: PrecisionCurves, iou: float) -> int:
    """Where the threshold `iou` stands among those matched at; raises `ValueError` for another."""
    found = np.flatnonzero(np.isclose(curves.iou_thresholds, iou))
    if not len(found):
        raise ValueError(
            f"iou must be one of {curves.iou_thresholds.round(2).tolist()}, got {iou}; matching knows no other"
        )
    return int(found[0])


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
    """COCO's small, medium, large or all: objects by their `area`, the mask's if there is one, detections by their box.

    Both ends of a range belong to it, so an object of exactly 32 x 32 is small and medium.
    """
    low, high = ALL_AREAS if size == "all" else AREA_RANGES[size]
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


def _by_class(
    curves: PrecisionCurves, weights: np.ndarray | None, measure: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`measure(curve, by_image [N, R], num_objects [R]) -> [T, R]` of every class, and where it is defined.

    Values are [*R, T, K], 0 where undefined: where a class has no object (of any weight). Blocks of resamplings at a
    time.
    """
    weights = np.ones(curves.num_images) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape[-1] != curves.num_images:
        raise ValueError(f"weights must have a number for each of {curves.num_images} images, got {weights.shape[-1]}")
    num_resamplings = math.prod(weights.shape[:-1])
    by_image = weights.reshape(num_resamplings, curves.num_images).T
    by_image = np.ascontiguousarray(by_image, dtype=_narrowest(weights, curves))  # sums run over whole rows
    values = np.zeros((num_resamplings, len(curves.iou_thresholds), len(curves.classes)))
    defined = np.zeros((num_resamplings, 1, len(curves.classes)), dtype=bool)
    for k, curve in enumerate(curves.classes):
        if len(curve.object_images):
            for block in _blocks(num_resamplings, len(curve.object_images)):
                part = np.ascontiguousarray(by_image[:, block])
                num_objects = part[curve.object_images].sum(axis=0, dtype=np.float64)
                has_objects = num_objects > 0
                own = measure(curve, part, np.where(has_objects, num_objects, 1.0))
                values[block, :, k] = np.where(has_objects, own, 0.0).T
                defined[block, 0, k] = has_objects
    shape = weights.shape[:-1]
    return values.reshape(*shape, *values.shape[1:]), defined.reshape(*shape, *defined.shape[1:])


def _blocks(num_resamplings: int, num_objects: int) -> list[slice]:
    """Nearly equal blocks of resamplings, none of a single one: numpy would add that up in another order."""
    wanted = -(-num_resamplings * num_objects // _VALUES_AT_ONCE)
    if wanted < 2:
        return [slice(0, num_resamplings)]
    edges = np.linspace(0, num_resamplings, max(1, min(wanted, num_resamplings // 2)) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(edges)]


def _narrowest(weights: np.ndarray, curves: PrecisionCurves) -> type[np.number]:
    """int32 for whole numbers whose sums fit it: exact, and summed several times as fast; float64 else."""
    is_exact = np.abs(weights).max(initial=0.0) * curves.longest < 2**31 and not (weights % 1).any()
    return np.int32 if is_exact else np.float64


def _boil_down(
    *,
    images: Int[np.ndarray, " D"],
    right: Bool[np.ndarray, "T D"],
    ignored: Bool[np.ndarray, "T D"],
    object_images: Int[np.ndarray, " G"],
) -> ClassCurve:
    """The curve of ranked rows: their images, and at which thresholds each is right, or does not count."""
    if not len(object_images):  # AP is undefined, whatever was found
        none = (_NOTHING,) * len(right)
        return ClassCurve(images=_NOTHING, landmarks=_NOTHING, right=none, ignored=none, object_images=object_images)
    landmarks = np.flatnonzero(right.any(axis=0))
    end = int(landmarks[-1]) + 1 if len(landmarks) else 0  # what follows the last right one changes nothing
    return ClassCurve(
        images=images[:end],
        landmarks=landmarks,
        right=_by_threshold(right[:, landmarks]),
        ignored=_by_threshold(ignored[:, :end]),
        object_images=object_images,
    )


# Below, weights lie one image per row, so that a step from one detection to the next is one vector operation over all
# resamplings: this is where a bootstrap spends its time.


def _final_recalls(
    curve: ClassCurve, by_image: Real[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    images = curve.images[curve.landmarks]
    sums = [by_image.take(images[right], axis=0).sum(axis=0, dtype=by_image.dtype) for right in curve.right]
    return np.stack(sums) / num_objects


def _interpolated_precisions(
    curve: ClassCurve, by_image: Real[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """AP at each threshold (pycocotools' `accumulate`); `num_objects` must be positive.

    Weights may be int32 where sums fit: they are added faster then, and exactly; quotients are taken in float64.
    """
    num_seen = _totals_at(curve.landmarks, by_image, curve.images)
    values = np.zeros((len(curve.right), by_image.shape[1]))
    for value, right, ignored in zip(values, curve.right, curve.ignored, strict=True):
        if len(right):
            precision, levels = _peaks(_counts(curve, right, ignored, by_image, num_seen), num_objects)
            precision[0] *= levels[0]
            precision[1:] *= levels[1:] - levels[:-1]  # times the levels reached here first
            value[:] = precision.sum(axis=0) / len(RECALL_LEVELS)
    return values


def precisions_at_levels(curve: ClassCurve, num_images: int) -> Float[np.ndarray, "T 101"]:
    """The best precision at each of the 101 levels of recall or beyond, every image counted once.

    pycocotools' `eval["precision"]` of a class, to the bit. The class must have objects.
    """
    ones = np.ones((num_images, 1), dtype=np.int32)
    num_seen = _totals_at(curve.landmarks, ones, curve.images)
    values = np.zeros((len(curve.right), len(RECALL_LEVELS)))
    for row, right, ignored in zip(values, curve.right, curve.ignored, strict=True):
        if len(right):
            counts = _counts(curve, right, ignored, ones, num_seen)
            precision, levels = _peaks(counts, np.array([float(len(curve.object_images))]))
            reached = levels[:, 0].astype(np.int64)
            row[: reached[-1]] = precision[np.searchsorted(reached, np.arange(reached[-1]), side="right"), 0]
    return values


def levels_reached(recall: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """How many of the 101 levels are at most `recall`, a whole number; exact, and faster than a search."""
    nearest = recall * 100
    np.rint(nearest, out=nearest)  # all levels below it are reached, and none above
    nearest += nearest * RECALL_LEVELS[1] <= recall  # linspace's own arithmetic
    return nearest


def _by_threshold(flags: np.ndarray) -> tuple[np.ndarray, ...]:
    """Where the flags of each threshold, [T, n], are set."""
    thresholds, places = np.nonzero(flags)
    bounds = np.searchsorted(thresholds, np.arange(len(flags) + 1)).tolist()
    return tuple(places[start:end] for start, end in pairwise(bounds))


def _counts(
    curve: ClassCurve, right: np.ndarray, ignored: np.ndarray, by_image: np.ndarray, num_seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """At one threshold, up to each right row: weights of the right rows, and of all that count, [n, R] float64."""
    rows = curve.landmarks[right]
    num_right = by_image.take(curve.images[rows], axis=0)
    _accumulate(np.add, num_right)
    num_counted = num_seen.take(right, axis=0)
    if len(ignored):
        num_counted -= _totals_before(rows, by_image, curve.images, ignored[ignored < rows[-1]])
    return num_right.astype(np.float64), num_counted.astype(np.float64)


def _peaks(counts: tuple[np.ndarray, np.ndarray], num_objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At each right row the best precision from there on, and how many levels of recall it reaches; counts are used up.

    Precision peaks only where a detection is right.
    """
    num_right, precision = counts
    precision += np.spacing(1)  # as pycocotools guards against 0 / 0
    np.divide(num_right, precision, out=precision)
    _accumulate(np.maximum, precision[::-1])
    num_right /= num_objects
    return precision, levels_reached(num_right)


def _accumulate(operation: np.ufunc, rows: np.ndarray) -> None:
    """`operation.accumulate` along the first axis, in place."""
    if rows.shape[1] < _WIDE:
        operation.accumulate(rows, axis=0, out=rows)
        return
    for before, row in pairwise(rows):
        operation(row, before, out=row)


def _totals_at(wanted: np.ndarray, by_image: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Sums of the weights of `images` up to each `wanted` row, that row included."""
    if by_image.shape[1] < _WIDE:
        totals = by_image.take(images, axis=0)
        np.add.accumulate(totals, axis=0, out=totals)
        return totals.take(wanted, axis=0)
    totals = np.empty((len(wanted), by_image.shape[1]), dtype=by_image.dtype)
    for total, (start, end) in zip(totals, pairwise([0, *(wanted + 1).tolist()]), strict=True):
        np.add.reduce(by_image.take(images[start:end], axis=0), axis=0, dtype=by_image.dtype, out=total)
    _accumulate(np.add, totals)
    return totals


def _totals_before(rows: np.ndarray, by_image: np.ndarray, images: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Sums of the weights of the `ignored` rows before each of `rows`."""
    skipped = np.zeros((len(ignored) + 1, by_image.shape[1]), dtype=by_image.dtype)
    np.take(by_image, images[ignored], axis=0, out=skipped[1:])
    _accumulate(np.add, skipped)
    return skipped.take(np.searchsorted(ignored, rows), axis=0)
