"""One category's ranked detections, and its precision and recall under many weights of the images at once.

What it is: the arithmetic behind `analysis.precision`, which is what to call. What it is not: choosing rows, classes or
means. This is where a bootstrap spends its time.

    curve = boil_down(images=..., right=..., ignored=..., object_images=...)
    interpolated_precisions(curve, by_image, num_objects)       # [T, R], weights by_image [N, R]
    precisions_at_levels(curve, num_images)                     # [T, 101], every image once

Weights lie an image a row: a step from one detection to the next is then one vector operation over all resamplings.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, Real

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # pycocotools' floats
_WIDE = 100  # resamplings from which on a Python step a row costs less than numpy's walk down each column


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """Ranked detections of a class, as far as precision needs them; S rows, a tuple entry an IoU threshold."""

    images: Int[np.ndarray, " S"]  # image of every row that counts at some threshold, best first
    landmarks: Int[np.ndarray, " U"]  # rows that are right at some threshold: precision peaks nowhere else
    right: tuple[Int[np.ndarray, " _"], ...]  # positions among the landmarks that are right
    ignored: tuple[Int[np.ndarray, " _"], ...]  # rows that do not count at this threshold, though at others
    object_images: Int[np.ndarray, " _"]  # image of every object that counts


def boil_down(
    *,
    images: Int[np.ndarray, " D"],
    right: Bool[np.ndarray, "T D"],
    ignored: Bool[np.ndarray, "T D"],
    object_images: Int[np.ndarray, " G"],
) -> ClassCurve:
    """The curve of ranked rows: their images, and at which thresholds each is right, or does not count."""
    landmarks = np.flatnonzero(right.any(axis=0))
    end = int(landmarks[-1]) + 1 if len(landmarks) else 0  # what follows the last right one changes nothing
    return ClassCurve(
        images=images[:end],
        landmarks=landmarks,
        right=_by_threshold(right[:, landmarks]),
        ignored=_by_threshold(ignored[:, :end]),
        object_images=object_images,
    )


def final_recalls(
    curve: ClassCurve, by_image: Real[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """Share of the objects that some detection found, at each threshold; `num_objects` must be positive."""
    images = curve.images[curve.landmarks]
    sums = [by_image.take(images[right], axis=0).sum(axis=0, dtype=by_image.dtype) for right in curve.right]
    return np.stack(sums) / num_objects


def interpolated_precisions(
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
