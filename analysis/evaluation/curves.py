"""A match table boiled down to what AP and AR take: sorted once, evaluated under many weights of the images.

    curves = precision_curves(match_detections(ground_truth, detections))
    curves.plain.ap, curves.plain.recall            # [T, K], every image counted once
    interpolated_precisions(curves.classes[0], by_image, num_objects)       # [T, R] under R weightings

`analysis.evaluation.precision` makes AP and AR of these.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from analysis.evaluation.matching import MatchTable

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # pycocotools' floats
_EPSILON = np.spacing(1)  # by which pycocotools guards against 0 / 0
_WIDE = 100  # resamplings from which steps over whole rows cost less than numpy's walk down each column
_CHUNK = 16  # rows that are accumulated side by side
# linspace's own arithmetic puts these levels above the fraction itself, so that a recall of exactly k / 100 misses them
_MISSED = np.flatnonzero(np.arange(101) / 100 < RECALL_LEVELS)
_NUDGE = 1 + 2.0**-48  # more than a product is rounded by, less than what parts two fractions of as many objects


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """Ranked detections of a class, as far as precision needs them; S rows, one entry per IoU threshold."""

    images: Int[np.ndarray, " S"]  # image of every row that counts at some threshold, best first
    landmarks: Int[np.ndarray, " U"]  # rows that are right at some threshold: precision peaks nowhere else
    right: Sequence[Int[np.ndarray, " _"]]  # positions among the landmarks that are right
    ignored: Sequence[Int[np.ndarray, " _"]]  # rows that do not count at this threshold, though at others
    object_images: Int[np.ndarray, " _"]  # image of every object that counts


@dataclass(frozen=True, kw_only=True)
class PlainValues:
    """What curves say where every image counts once; T thresholds, K classes."""

    ap: Float[np.ndarray, "T K"]  # 0 where undefined
    recall: Float[np.ndarray, "T K"]
    at_levels: Float[np.ndarray, "T 101 C"]  # best precision at each level or beyond, of classes that have objects


@dataclass(frozen=True, kw_only=True)
class PrecisionCurves:
    """The rows of all classes, one class after the other; those of a class without objects are left out."""

    iou_thresholds: Float[np.ndarray, " T"]
    num_images: int
    images: Int[np.ndarray, " S"]  # image of every row that counts at some threshold, best of its class first
    starts: Int[np.ndarray, " K+1"]  # where the rows of each class begin, and the last end
    right: tuple[Int[np.ndarray, " _"], ...]  # rows that are right, at each threshold
    ignored: tuple[Int[np.ndarray, " _"], ...]  # rows that do not count
    object_images: Int[np.ndarray, " G"]  # image of every object that counts, by class
    object_starts: Int[np.ndarray, " K+1"]

    @property
    def num_objects(self) -> Int[np.ndarray, " K"]:
        """Objects of each class, every image counted once."""
        return np.diff(self.object_starts)

    @cached_property
    def classes(self) -> tuple[ClassCurve, ...]:
        """The curves class by class, in the order of the ground truth's category ids."""
        landmarks = np.unique(np.concatenate(self.right))
        right = [np.searchsorted(landmarks, rows) for rows in self.right]
        first = np.searchsorted(landmarks, self.starts)
        cuts = [np.searchsorted(places, first).tolist() for places in right]
        skipped = [np.searchsorted(rows, self.starts).tolist() for rows in self.ignored]
        starts, marks, objects = self.starts.tolist(), first.tolist(), self.object_starts.tolist()
        return tuple(
            ClassCurve(
                images=self.images[starts[k] : starts[k + 1]],
                landmarks=landmarks[marks[k] : marks[k + 1]] - starts[k],
                right=[own[cut[k] : cut[k + 1]] - marks[k] for own, cut in zip(right, cuts, strict=True)],
                ignored=[own[cut[k] : cut[k + 1]] - starts[k] for own, cut in zip(self.ignored, skipped, strict=True)],
                object_images=self.object_images[objects[k] : objects[k + 1]],
            )
            for k in range(len(starts) - 1)
        )

    @cached_property
    def longest(self) -> int:
        """The most rows, or objects, of a class."""
        return int(max(np.diff(self.starts).max(initial=0), self.num_objects.max(initial=0)))

    @cached_property
    def plain(self) -> PlainValues:
        """AP, final recall and precision at levels with every image counted once: all classes in one pass."""
        shape = len(self.iou_thresholds), len(self.num_objects)
        ap, recall = np.zeros(shape), np.zeros(shape)
        at_levels = np.zeros((shape[0], shape[1], len(RECALL_LEVELS)))
        for t in range(shape[0]):
            self._plain_at(t, ap[t], recall[t], at_levels[t])
        has_objects = self.num_objects > 0
        return PlainValues(
            ap=ap, recall=recall, at_levels=np.ascontiguousarray(at_levels[:, has_objects].transpose(0, 2, 1))
        )

    def _plain_at(self, t: int, ap: np.ndarray, recall: np.ndarray, at_levels: np.ndarray) -> None:
        """Fills in the values of one threshold."""
        rows, ignored = self.right[t], self.ignored[t]
        bounds = np.searchsorted(rows, self.starts)
        num_right = np.diff(bounds)
        of = np.repeat(np.arange(len(num_right)), num_right)  # each right row's class
        counted = rows - self.starts[of] + 1.0
        if len(ignored):
            counted -= np.searchsorted(ignored, rows) - np.searchsorted(ignored, self.starts)[of]
        rank = np.arange(len(rows)) - bounds[of] + 1.0
        precision = rank / (counted + _EPSILON)
        levels = levels_reached(rank / self.num_objects[of])
        gains = np.diff(levels, prepend=0.0)  # levels reached here first
        gains[bounds[:-1][num_right > 0]] = levels[bounds[:-1][num_right > 0]]
        edges = bounds.tolist()
        for k in np.flatnonzero(num_right).tolist():
            peaks = precision[edges[k] : edges[k + 1]]
            np.maximum.accumulate(peaks[::-1], out=peaks[::-1])
            ap[k] = (peaks * gains[edges[k] : edges[k + 1]]).sum() / len(RECALL_LEVELS)
            own = np.repeat(peaks, gains[edges[k] : edges[k + 1]].astype(np.int64))
            at_levels[k, : len(own)] = own
        np.divide(num_right, self.num_objects, out=recall, where=self.num_objects > 0)


def precision_curves(
    table: MatchTable, *, max_detections: int = 100, images: Bool[np.ndarray, " N"] | None = None
) -> PrecisionCurves:
    """Boils a match table down; of each image and category only the first `max_detections` detections count.

    Only the objects and detections of `images` are kept where given: as if the other images had weight 0, but
    faster. Weights are still one number for each of all N images.
    """
    within = np.ones(table.num_images, bool) if images is None else images
    num_classes = len(table.category_ids)
    objects = np.flatnonzero(~table.object_ignored & within[table.object_image])
    objects = objects[np.argsort(table.object_category[objects], kind="stable")]
    object_starts = np.searchsorted(table.object_category[objects], np.arange(num_classes + 1))
    counts = (table.rank < max_detections) & ~table.ignored.all(axis=0) & within[table.image_index]
    counts &= (np.diff(object_starts) > 0)[table.category_index]  # else AP is undefined, whatever was found
    rows = np.flatnonzero(counts)
    ignored = table.ignored[:, rows]
    right = (table.matched[:, rows] >= 0) & ~ignored
    landmarks = np.flatnonzero(right.any(axis=0))
    of = table.category_index[rows]
    last = np.full(num_classes, -1)
    last[of[landmarks]] = landmarks  # the last of a class stays
    kept = np.arange(len(rows)) <= last[of]  # what follows the last right one changes nothing
    return PrecisionCurves(
        iou_thresholds=table.iou_thresholds,
        num_images=table.num_images,
        images=table.image_index[rows[kept]],
        starts=np.searchsorted(of[kept], np.arange(num_classes + 1)),
        right=tuple(np.flatnonzero(flags) for flags in right[:, kept]),
        ignored=tuple(np.flatnonzero(flags) for flags in ignored[:, kept]),
        object_images=table.object_image[objects],
        object_starts=object_starts,
    )


def levels_reached(recall: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """How many of the 101 levels are at most `recall`, a whole number; exact, and faster than a search."""
    nearest = recall * 100
    np.rint(nearest, out=nearest)  # all levels below it are reached, and none above
    nearest += nearest * RECALL_LEVELS[1] <= recall  # linspace's own arithmetic
    return nearest


# Below, weights lie one image per row, so that a step from one detection to the next is one vector operation over all
# resamplings: this is where a bootstrap spends its time.


def final_recalls(
    curve: ClassCurve, by_image: Real[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """Final recall at each threshold; `num_objects` must be positive."""
    images = curve.images[curve.landmarks]
    sums = [by_image.take(images[right], axis=0).sum(axis=0, dtype=by_image.dtype) for right in curve.right]
    return np.stack(sums) / num_objects


def interpolated_precisions(
    curve: ClassCurve, by_image: Real[np.ndarray, "N R"], num_objects: Float[np.ndarray, " R"]
) -> Float[np.ndarray, "T R"]:
    """AP at each threshold (pycocotools' `accumulate`); `num_objects` must be positive.

    Weights may be int32 where sums fit: they are added faster then, and exactly; quotients are taken in float64.
    """
    num_seen = _totals_at(curve.landmarks, by_image, curve.images).astype(np.float64)
    values = np.zeros((len(curve.right), by_image.shape[1]))
    for value, right, ignored in zip(values, curve.right, curve.ignored, strict=True):
        if len(right):
            rows = curve.landmarks[right]
            num_right = by_image.take(curve.images[rows], axis=0)
            accumulate(np.add, num_right)
            precision = num_seen.take(right, axis=0)  # of these, the rows that count
            if len(ignored):
                precision -= _totals_before(rows, by_image, curve.images, ignored[ignored < rows[-1]])
            precision += _EPSILON
            np.divide(num_right, precision, out=precision)
            accumulate(np.maximum, precision[::-1])
            levels = _levels(num_right, num_objects)
            precision[0] *= levels[0]
            precision[1:] *= levels[1:] - levels[:-1]  # times the levels reached here first
            value[:] = precision.sum(axis=0) / len(RECALL_LEVELS)
    return values


def _levels(num_right: Real[np.ndarray, "n R"], num_objects: Float[np.ndarray, " R"]) -> Float[np.ndarray, "n R"]:
    """`levels_reached` of their quotients."""
    if num_right.dtype != np.int32:
        return levels_reached(num_right / num_objects)
    # Of whole numbers, a quotient that is no level lies far from one: no division is needed to tell.
    levels = num_right * (100 * _NUDGE / num_objects)
    np.floor(levels, out=levels)
    levels += 1
    if len(doubtful := np.flatnonzero((num_objects[:, None] * _MISSED % 100 == 0).any(axis=1))):
        levels[:, doubtful] = levels_reached(num_right[:, doubtful] / num_objects[doubtful])
    return levels


def accumulate(operation: np.ufunc, rows: np.ndarray) -> None:
    """`operation.accumulate` along the first axis, in place; regrouped where that changes no bit."""
    if rows.shape[1] < _WIDE:
        operation.accumulate(rows, axis=0, out=rows)
        return
    is_exact = operation is np.maximum or rows.dtype.kind == "i"
    num_chunks = len(rows) // _CHUNK if is_exact else 0
    whole = num_chunks * _CHUNK
    if num_chunks > 1:
        chunks = rows[:whole].reshape(num_chunks, _CHUNK, -1)
        for place in range(1, _CHUNK):
            operation(chunks[:, place], chunks[:, place - 1], out=chunks[:, place])
        for before, chunk in pairwise(chunks):
            operation(chunk, before[-1], out=chunk)
        rows = rows[whole - 1 :]
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
    accumulate(np.add, totals)
    return totals


def _totals_before(rows: np.ndarray, by_image: np.ndarray, images: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Sums of the weights of the `ignored` rows before each of `rows`."""
    skipped = np.zeros((len(ignored) + 1, by_image.shape[1]), dtype=by_image.dtype)
    np.take(by_image, images[ignored], axis=0, out=skipped[1:])
    accumulate(np.add, skipped)
    return skipped.take(np.searchsorted(ignored, rows), axis=0)
