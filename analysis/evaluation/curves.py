"""A match table boiled down to what AP and AR take: sorted once, evaluated under many weights of the images.

    curves = precision_curves(match_detections(ground_truth, detections))
    curves.plain_ap, curves.plain_recall            # [T, K], every image counted once
    interpolated_precisions(curves.classes[0], by_image, num_objects)       # [T, R] under R weightings

`analysis.evaluation.precision` makes AP and AR of these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int, Real

from analysis.evaluation.matching import MatchTable

RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # pycocotools' floats
EPSILON = np.spacing(1)  # by which pycocotools guards against 0 / 0
# linspace's own arithmetic puts these levels above the fraction itself, so that a recall of exactly k / 100 misses them
_MISSED = np.flatnonzero(np.arange(101) / 100 < RECALL_LEVELS)
_IS_DOUBTFUL = (np.arange(100)[:, None] * _MISSED % 100 == 0).any(axis=1)  # by the last two digits of all objects
_NUDGE = 1 + 2.0**-48  # more than a product is rounded by, less than what parts two fractions of as many objects


@dataclass(frozen=True, kw_only=True)
class ClassCurve:
    """Ranked detections of a class, as far as precision needs them; S rows, one entry per IoU threshold."""

    images: Int[np.ndarray, " S"]  # image of every row that counts at some threshold, best first
    landmarks: Int[np.ndarray, " U"]  # rows that are right at some threshold: precision peaks nowhere else
    right: Sequence[Int[np.ndarray, " _"]]  # positions among the landmarks that are right
    ignored: Sequence[Int[np.ndarray, " _"]]  # rows that do not count at this threshold, though at others
    object_images: Int[np.ndarray, " _"]  # image of every object that counts

    @cached_property
    def end_to_end(self) -> tuple[np.ndarray, ...]:
        """`right` of all thresholds in one array and where each begins, and the end of the last; `ignored` likewise."""
        parts = (self.right, self.ignored)
        return tuple(
            array for part in parts for array in (np.concatenate(part), np.append(0, np.cumsum(list(map(len, part)))))
        )


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
    def plain_recall(self) -> Float[np.ndarray, "T K"]:
        """Final recall with every image counted once; 0 where undefined."""
        num_right = np.stack([np.diff(np.searchsorted(rows, self.starts)) for rows in self.right])
        return np.divide(num_right, self.num_objects, out=np.zeros(num_right.shape), where=self.num_objects > 0)

    @cached_property
    def plain_ap(self) -> Float[np.ndarray, "T K"]:
        """AP with every image counted once; 0 where undefined."""
        values = np.zeros((len(self.right), len(self.num_objects)))
        for t, value in enumerate(values):
            precision, gains, bounds = self._peaks(t)
            precision *= gains
            for k, (start, end) in enumerate(pairwise(bounds)):
                if start < end:
                    value[k] = np.add.reduce(precision[start:end]) / len(RECALL_LEVELS)
        return values

    @cached_property
    def precision_at_levels(self) -> Float[np.ndarray, "T 101 C"]:
        """The best precision at each level of recall or beyond, every image counted once, of classes with objects.

        pycocotools' `eval["precision"]`, to the bit.
        """
        values = np.zeros((len(self.right), len(self.num_objects), len(RECALL_LEVELS)))
        for t, value in enumerate(values):
            precision, gains, bounds = self._peaks(t)
            times = gains.astype(np.int64)
            filled = np.arange(times.sum()) + np.repeat(self._level_starts(times, bounds), times)
            value.ravel()[filled] = np.repeat(precision, times)
        return np.ascontiguousarray(values[:, self.num_objects > 0].transpose(0, 2, 1))

    @staticmethod
    def _level_starts(times: np.ndarray, bounds: list[int]) -> np.ndarray:
        """By how much each right row's levels lie further in the values of all classes than in a row without gaps."""
        filled = np.append(0, np.cumsum(times))[bounds[:-1]]
        gaps = np.arange(len(filled)) * len(RECALL_LEVELS) - filled
        return np.repeat(gaps, np.diff(bounds))

    def _peaks(self, t: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """At one threshold, of each right row: the best precision from there on, and the levels reached there first.

        And where the rows of each class begin. Every image counts once.
        """
        rows, ignored = self.right[t], self.ignored[t]
        bounds = np.searchsorted(rows, self.starts)
        num_right = np.diff(bounds)
        of = np.repeat(np.arange(len(num_right)), num_right)  # each right row's class
        counted = rows - self.starts[of] + 1.0
        if len(ignored):
            counted -= np.searchsorted(ignored, rows) - np.searchsorted(ignored, self.starts)[of]
        rank = np.arange(len(rows)) - bounds[of] + 1.0
        precision = rank / (counted + EPSILON)
        levels = levels_reached(rank / self.num_objects[of])
        gains = np.diff(levels, prepend=0.0)
        first = bounds[:-1][num_right > 0]
        gains[first] = levels[first]
        edges = bounds.tolist()
        for start, end in pairwise(edges):
            if start < end:
                peaks = precision[start:end][::-1]
                np.maximum.accumulate(peaks, out=peaks)
        return precision, gains, edges


def precision_curves(
    table: MatchTable, *, max_detections: int | None = None, images: Bool[np.ndarray, " N"] | None = None
) -> PrecisionCurves:
    """Boils a match table down; of each image and category the first `max_detections` detections count (None: all).

    Only the objects and detections of `images` are kept where given: as if the other images had weight 0, but
    faster. Weights are still one number for each of all N images.
    """
    within = np.ones(table.num_images, bool) if images is None else images
    num_classes = len(table.category_ids)
    objects = np.flatnonzero(~table.object_ignored & within[table.object_image])
    objects = objects[np.argsort(table.object_category[objects], kind="stable")]
    object_starts = np.searchsorted(table.object_category[objects], np.arange(num_classes + 1))
    counts = (table.rank < (max_detections or len(table.rank))) & ~table.always_ignored & within[table.image_index]
    counts &= (np.diff(object_starts) > 0)[table.category_index]  # else AP is undefined, whatever was found
    columns = table.told_apart[counts[table.told_apart]]
    ignored = table.ignored[:, columns]
    right = (table.matched[:, columns] >= 0) & ~ignored
    landmarks = columns[right.any(axis=0)]
    starts = np.searchsorted(table.category_index, np.arange(num_classes + 1))
    ends = starts[:-1].copy()
    ends[table.category_index[landmarks]] = landmarks + 1  # the last of a class stays
    for end, following in zip(ends, starts[1:], strict=True):
        counts[end:following] = False  # what follows the last right one changes nothing
    rows = np.flatnonzero(counts)
    place = np.cumsum(counts, dtype=np.int32)[columns] - 1
    kept = counts[columns]
    return PrecisionCurves(
        iou_thresholds=table.iou_thresholds,
        num_images=table.num_images,
        images=table.image_index[rows].astype(np.int32),  # 32 bits: a data set has a dozen curves, as long as itself
        starts=np.searchsorted(table.category_index[rows], np.arange(num_classes + 1)),
        right=tuple(place[flags & kept] for flags in right),
        ignored=tuple(place[flags & kept] for flags in ignored),
        object_images=table.object_image[objects],
        object_starts=object_starts,
    )


def levels_reached(recall: Float[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """How many of the 101 levels are at most `recall`, a whole number; exact, and faster than a search."""
    nearest = recall * 100
    np.rint(nearest, out=nearest)  # all levels below it are reached, and none above
    nearest += nearest * RECALL_LEVELS[1] <= recall  # linspace's own arithmetic
    return nearest


# Of whole numbers, a quotient that is no level lies far from one: no division is needed to tell which it has passed.


def level_factor(num_objects: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
    """Of whole weights: `levels_reached` is the floor of right ones times this, and 1, but where doubtful."""
    return 100 * _NUDGE / num_objects


def doubtful_levels(num_objects: Float[np.ndarray, " R"]) -> Int[np.ndarray, " _"]:
    """Resamplings in which some recall may equal a level that it misses."""
    return np.flatnonzero(_IS_DOUBTFUL[(num_objects % 100).astype(np.int64)])


# Here a bootstrap spends its time, where there is little to do or no numba (`compiled.py`). Weights lie one image per
# row: a row holds all resamplings. Rows of a class are laid out in a grid, row i at [i % K, i // K], so that each of
# some 2 sqrt(n) steps of a running sum or best is one vector operation over many rows at once.


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
    num_resamplings = by_image.shape[1]
    values = np.zeros((len(curve.right), num_resamplings))
    if not len(curve.landmarks):
        return values
    num_seen = _totals_at(curve.landmarks, by_image, curve.images).astype(np.float64)
    doubtful = doubtful_levels(num_objects)
    grids = [_grid(right) for right in curve.right]
    # One piece of memory for all thresholds: to have a new one from the system costs more than the arithmetic.
    room = max(marks.size for marks in grids), num_resamplings
    counts, precisions, levels = np.empty(room, by_image.dtype), np.empty(room), np.empty(room)
    for value, marks, right, ignored in zip(values, grids, curve.right, curve.ignored, strict=True):
        if len(right):
            shape = (*marks.shape, num_resamplings)
            num_right, precision, gained = (a[: marks.size].reshape(shape) for a in (counts, precisions, levels))
            rows = curve.landmarks[marks]
            _running_sums(by_image, curve.images[rows], len(right), out=num_right)
            num_seen.take(marks, axis=0, out=precision, mode="clip")  # of these, the rows that count
            if len(ignored := ignored[ignored < rows[-1, -1]]):
                precision -= _totals_before(rows, by_image, curve.images, ignored)
            precision += EPSILON
            np.divide(num_right, precision, out=precision)
            _keep_best_ahead(precision)
            _reach_levels(num_right, num_objects, doubtful, out=gained)
            _subtract_before(gained)
            precision *= gained
            value[:] = precision.reshape(-1, num_resamplings).sum(axis=0) / len(RECALL_LEVELS)
    return values


def _grid(items: Int[np.ndarray, " n"]) -> Int[np.ndarray, "K C"]:
    """Item i at [i % K, i // K], with K about the root of n; the last one fills up what is left."""
    if not len(items):
        return items.reshape(0, 0)
    height = math.isqrt(len(items) - 1) + 1
    width = -(-len(items) // height)
    filled = np.append(items, np.repeat(items[-1:], height * width - len(items)))
    return np.ascontiguousarray(filled.reshape(width, height).T)


def _running_sums(
    by_image: Real[np.ndarray, "N R"], images: Int[np.ndarray, "K C"], count: int, out: Real[np.ndarray, "K C R"]
) -> None:
    """Sums of the weights of a grid of images up to each one, of which the first `count` add something."""
    by_image.take(images, axis=0, out=out, mode="clip")
    if count < images.size:
        out[count - images.size :, -1] = 0
    for before, step in pairwise(out):
        step += before
    carried = out[-1].copy()
    for before, column in pairwise(carried):
        column += before
    out[:, 1:] += carried[:-1]


def _keep_best_ahead(values: Float[np.ndarray, "K C R"]) -> None:
    """Each value of a grid becomes the best from there on."""
    for after, step in pairwise(values[::-1]):
        np.maximum(step, after, out=step)
    carried = values[0].copy()
    for after, column in pairwise(carried[::-1]):
        np.maximum(column, after, out=column)
    np.maximum(values[:, :-1], carried[1:], out=values[:, :-1])


def _subtract_before(values: Float[np.ndarray, "K C R"]) -> None:
    """From each value of a grid but the first, take the one before."""
    last = values[-1].copy()
    for step, before in pairwise(values[::-1]):
        step -= before
    values[0, 1:] -= last[:-1]


def _reach_levels(
    num_right: Real[np.ndarray, "K C R"],
    num_objects: Float[np.ndarray, " R"],
    doubtful: Int[np.ndarray, " _"],
    out: Float[np.ndarray, "K C R"],
) -> None:
    """`levels_reached` of their quotients; `doubtful` as `doubtful_levels` has it."""
    if num_right.dtype != np.int32:
        out[:] = levels_reached(num_right / num_objects)
        return
    np.multiply(num_right, level_factor(num_objects), out=out)
    np.floor(out, out=out)
    out += 1
    if len(doubtful):
        out[..., doubtful] = levels_reached(num_right[..., doubtful] / num_objects[doubtful])


def _totals_at(wanted: np.ndarray, by_image: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Sums of the weights of `images` up to each `wanted` row, that row included."""
    grid = _grid(images)
    totals = np.empty((*grid.shape, by_image.shape[1]), by_image.dtype)
    _running_sums(by_image, grid, len(images), out=totals)
    return totals[wanted % len(totals), wanted // len(totals)]


def _totals_before(rows: np.ndarray, by_image: np.ndarray, images: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Sums of the weights of the `ignored` rows before each of `rows`."""
    totals = np.zeros((len(ignored) + 1, by_image.shape[1]), dtype=by_image.dtype)
    totals[1:] = _totals_at(np.arange(len(ignored)), by_image, images[ignored])
    return totals.take(np.searchsorted(ignored, rows), axis=0)
