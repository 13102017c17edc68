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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import pairwise
from types import ModuleType

import numpy as np
from jaxtyping import Float, Int, Real

from analysis.coco.columns import COUNTED_AREA, Detections, GroundTruth, box_areas
from analysis.coco.record import STATISTICS
from analysis.evaluation.curves import PrecisionCurves, final_recalls, interpolated_precisions
from analysis.evaluation.curves import precision_curves as precision_curves
from analysis.evaluation.matching import Subset

ALL_AREAS = (0.0, COUNTED_AREA)
# Both ends included.
AREA_RANGES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, COUNTED_AREA)}
DETECTION_LIMITS = (1, 10, 100)  # of an image and category, for AR
_COMPILED_FROM = 20_000  # right detections, over all thresholds: below, numpy is done before numba is loaded
_VALUES_AT_ONCE = 4_000_000  # of a class's rows times resamplings: 16 MB an array of int32


def class_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """AP of every class at every IoU threshold; nan for a class without objects (of any weight).

    `weights` are one number per image (ones when None), with an axis in front for many resamplings at once. COCO's AP
    is the best precision reached at a recall or beyond, averaged over 101 levels of recall (pycocotools' `accumulate`).
    """
    values, defined = _by_class(curves, weights, interpolated_precisions)
    return np.where(defined, values, np.nan)


def class_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None
) -> Float[np.ndarray, "*R T K"]:
    """Final recall of every class at every IoU threshold; nan for a class without objects (of any weight)."""
    values, defined = _by_class(curves, weights, final_recalls)
    return np.where(defined, values, np.nan)


def average_precision(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AP, the mean over the classes that have objects and over IoU 0.50 to 0.95, or at the threshold `iou` alone.

    A 0-d array without a resampling axis; nan where no class has an object.
    """
    return _mean_of(*_by_class(_at(curves, iou), weights, interpolated_precisions))


def average_recall(
    curves: PrecisionCurves, weights: Float[np.ndarray, "*R N"] | None = None, *, iou: float | None = None
) -> Float[np.ndarray, "*R"]:
    """AR, the mean of final recall over the classes that have objects and over IoU 0.50 to 0.95, or at `iou` alone."""
    return _mean_of(*_by_class(_at(curves, iou), weights, final_recalls))


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
    values = list(headline_statistics(overall).values())
    values += [_mean(sized[name].precision_at_levels) for name in AREA_RANGES]
    parts = [*(limited[limit] for limit in DETECTION_LIMITS), *(sized[name] for name in AREA_RANGES)]
    recalls = [class_recall(curves) for curves in parts]
    values += [_mean(recall[~np.isnan(recall)]) for recall in recalls]
    return dict(zip(STATISTICS, values, strict=True))


def headline_statistics(curves: PrecisionCurves) -> dict[str, float]:
    """The first three of them, AP, AP50 and AP75, from curves of all objects."""
    precision = curves.precision_at_levels
    values = [_mean(precision), *(_mean(precision[threshold_position(curves, iou)]) for iou in (0.5, 0.75))]
    return dict(zip(STATISTICS, values, strict=False))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values.ravel())) if values.size else float("nan")


def area_subset(ground_truth: GroundTruth, detections: Detections, size: str) -> Subset:
    """COCO's small, medium, large or all: objects by their `area`, the mask's if there is one, detections by their box.

    Both ends of a range belong to it, so an object of exactly 32 x 32 is small and medium.
    """
    return subset_within(ground_truth, detections, *(ALL_AREAS if size == "all" else AREA_RANGES[size]))


def subset_within(ground_truth: GroundTruth, detections: Detections, low: float, high: float) -> Subset:
    """The same of any range of areas, in square pixels."""
    box_area = box_areas(detections.sizes)
    return Subset(
        objects=(ground_truth.area >= low) & (ground_truth.area <= high),
        detections=(box_area >= low) & (box_area <= high),
    )


def _at(curves: PrecisionCurves, iou: float | None) -> PrecisionCurves:
    """The curves at one threshold alone."""
    if iou is None:
        return curves
    t = threshold_position(curves, iou)
    return replace(
        curves,
        iou_thresholds=curves.iou_thresholds[t : t + 1],
        right=curves.right[t : t + 1],
        ignored=curves.ignored[t : t + 1],
    )


def _by_class(
    curves: PrecisionCurves, weights: np.ndarray | None, measure: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """`measure(curve, by_image [N, R], num_objects [R]) -> [T, R]` of every class, and where it is defined.

    Values are [*R, T, K], 0 where undefined: where a class has no object (of any weight). Blocks of resamplings at a
    time.
    """
    weights = np.ones(curves.num_images) if weights is None else np.asarray(weights)
    if weights.shape[-1] != curves.num_images:
        raise ValueError(f"weights must have a number for each of {curves.num_images} images, got {weights.shape[-1]}")
    shape = weights.shape[:-1]
    num_resamplings = math.prod(shape)
    if num_resamplings == 1 and (weights == 1).all():
        plain, defined = _PLAIN[measure](curves), curves.num_objects > 0
        return plain.reshape(*shape, *plain.shape), defined.reshape(*shape, 1, -1)
    by_image = _by_image(weights.reshape(num_resamplings, curves.num_images), curves.longest)
    values = np.zeros((num_resamplings, len(curves.iou_thresholds), len(curves.classes)))
    defined = np.zeros((num_resamplings, 1, len(curves.classes)), dtype=bool)
    compiled = _compiled(curves, by_image)
    add_up = compiled.sums if compiled else _sums
    if compiled:
        measure, by_image = getattr(compiled, measure.__name__), compiled.narrowed(by_image)
    for block, own_classes in _shares(curves, num_resamplings, compiled.LANES if compiled else 0):
        part = np.ascontiguousarray(by_image[:, block])
        for k in own_classes:
            num_objects = add_up(part, curves.classes[k].object_images)
            has_objects = num_objects > 0
            own = measure(curves.classes[k], part, np.where(has_objects, num_objects, 1.0))
            values[block, :, k] = np.where(has_objects, own, 0.0).T
            defined[block, 0, k] = has_objects
    return values.reshape(*shape, *values.shape[1:]), defined.reshape(*shape, *defined.shape[1:])


_PLAIN: dict[Callable[..., np.ndarray], Callable[[PrecisionCurves], np.ndarray]] = {
    interpolated_precisions: lambda curves: curves.plain_ap,
    final_recalls: lambda curves: curves.plain_recall,
}


def turned(weights: Real[np.ndarray, "R N"]) -> Real[np.ndarray, "R N"]:
    """The same weights, stored as sums want them: one image after the other, as int32 where they are whole.

    Metrics take any weights; many that take the same ones need them turned but once.
    """
    if weights.dtype == np.int32 and weights.T.flags.c_contiguous:
        return weights
    is_whole = np.abs(weights).max(initial=0.0) < 2**31 and not (weights % 1).any()
    return np.ascontiguousarray(weights.T, dtype=np.int32 if is_whole else np.float64).T


def _by_image(weights: Real[np.ndarray, "R N"], longest: int) -> Real[np.ndarray, "N R"]:
    """One image per row, so that sums run over whole rows: of int32 where they fit, exact and several times as fast."""
    by_image = turned(weights).T
    is_exact = by_image.dtype == np.int32 and int(np.abs(by_image).max(initial=0)) * longest < 2**31
    return by_image if is_exact else by_image.astype(np.float64)


def _sums(by_image: Real[np.ndarray, "N R"], images: Int[np.ndarray, " _"]) -> Float[np.ndarray, " R"]:
    """The weights of some images, added up."""
    total: np.ndarray = by_image[images].sum(axis=0, dtype=np.float64)
    return total


def _compiled(curves: PrecisionCurves, by_image: Real[np.ndarray, "N R"]) -> ModuleType | None:
    """`analysis.evaluation.compiled` where it serves: weights are whole, there is much to do, and numba is installed.

    The number of resamplings does not count, so that cutting them into blocks changes no result.
    """
    if by_image.dtype != np.int32 or sum(map(len, curves.right)) < _COMPILED_FROM:
        return None
    return _loops()


@cache
def _loops() -> ModuleType | None:
    """The module, or None where it cannot be loaded, which is tried but once."""
    try:
        return import_module("analysis.evaluation.compiled")
    except (ImportError, RuntimeError):  # not installed, too old for this numpy, or without a folder for its code
        return None


def _shares(curves: PrecisionCurves, num_resamplings: int, lanes: int) -> Iterator[tuple[slice, Iterable[int]]]:
    """Blocks of resamplings, and the classes with objects to evaluate in each: `lanes` for all, or as memory has it."""
    classes = [k for k, curve in enumerate(curves.classes) if len(curve.object_images)]
    if lanes:
        for start in range(0, num_resamplings, lanes):
            yield slice(start, start + lanes), classes
    else:
        for k in classes:
            for block in _blocks(num_resamplings, len(curves.classes[k].images)):
                yield block, [k]


def _blocks(num_resamplings: int, num_rows: int) -> list[slice]:
    """Nearly equal blocks of resamplings, none of a single one: numpy would add that up in another order."""
    wanted = -(-num_resamplings * num_rows // _VALUES_AT_ONCE)
    if wanted < 2:
        return [slice(0, num_resamplings)]
    edges = np.linspace(0, num_resamplings, max(1, min(wanted, num_resamplings // 2)) + 1).astype(int).tolist()
    return [slice(start, end) for start, end in pairwise(edges)]
