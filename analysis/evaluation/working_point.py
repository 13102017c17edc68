"""A working point: precision, recall and F1 by score threshold, of each class and of all classes pooled.

    curve = score_curves(table)[""]                     # all classes; then one per class name
    curve.values(weights)                               # precision, recall, F1 at every threshold
    part = working_points_part(context, "f1")           # the best threshold for F1, or for a precision: 0.9

Detections that score a threshold or more are taken. At IoU 0.5 each is right, wrong or ignored as for AP50. The best
threshold for F1 is the highest of equal ones; the best for a precision is the lowest that reaches it, which has the
most recall. The interval of a threshold is of choosing it again in every resample; those of precision, recall and F1
are at the threshold chosen here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis.evaluation.matching import MatchTable, match
from analysis.evaluation.metrics import JointMetrics, MetricGroup
from analysis.evaluation.parts import Context, Part
from analysis.evaluation.slices import too_few
from freeanchor.errors import UsageError

Goal = Literal["f1"] | float  # a precision that is wanted
ALL_CLASSES = "all classes"
MEASURES = ("threshold", "precision", "recall", "f1")
_VALUES_AT_ONCE = 4_000_000  # of detections times resamplings: 32 MB an array
_CURVE_POINTS = 200  # of a curve that is written or drawn


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """Detections of a class that count, best first, and where a threshold can be: after each different score."""

    images: Int[np.ndarray, " S"]
    is_right: Bool[np.ndarray, " S"]
    ends: Int[np.ndarray, " U"]  # the last row of each score
    thresholds: Float[np.ndarray, " U"]
    object_images: Int[np.ndarray, " G"]

    def counts(
        self, weights: Float[np.ndarray, "R N"]
    ) -> tuple[Float[np.ndarray, "R U"], Float[np.ndarray, "R U"], Float[np.ndarray, "R 1"]]:
        """Right detections and all of them at each threshold, and objects."""
        taken = weights[:, self.images]
        right = np.cumsum(np.where(self.is_right, taken, 0.0), axis=1)[:, self.ends]
        return right, np.cumsum(taken, axis=1)[:, self.ends], weights[:, self.object_images].sum(axis=1)[:, None]

    def values(
        self, weights: Float[np.ndarray, "R N"]
    ) -> tuple[Float[np.ndarray, "R U"], Float[np.ndarray, "R U"], Float[np.ndarray, "R U"]]:
        """Precision, recall and F1 at each threshold; nan where undefined."""
        right, taken, objects = self.counts(weights)
        return _quotient(right, taken), _quotient(right, objects), _quotient(2 * right, taken + objects)

    def at(self, place: Int[np.ndarray, " R"], weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R 4"]:
        """The four measures at one threshold, -1 for none: nothing is taken there."""
        if not len(self.thresholds):
            return np.full((len(weights), len(MEASURES)), np.nan)
        rows = np.arange(len(weights))
        values = [np.broadcast_to(self.thresholds, (len(weights), len(self.thresholds))), *self.values(weights)]
        return np.where(place[:, None] >= 0, np.stack([own[rows, place] for own in values], axis=1), np.nan)

    def best(self, goal: Goal, weights: Float[np.ndarray, "R N"]) -> Int[np.ndarray, " R"]:
        """Where the best threshold is under each weighting; -1 where there is none."""
        none = np.full(len(weights), -1)
        if not len(self.thresholds):
            return none
        precision, _, f1 = self.values(weights)
        if goal == "f1":
            return np.where(np.nan_to_num(f1).max(axis=1) > 0, np.argmax(np.nan_to_num(f1), axis=1), none)
        reached = np.nan_to_num(precision) >= goal
        last = reached.shape[1] - 1 - np.argmax(reached[:, ::-1], axis=1)
        return np.where(reached.any(axis=1), last, none)


def checked_goal(goal: Goal) -> Goal:
    """The goal; raises `UsageError` for what is none."""
    if goal != "f1" and not (isinstance(goal, int | float) and 0 < goal <= 1):
        raise UsageError(f'working_point must be "f1" or a precision in (0, 1], got {goal}; 0.9 for instance')
    return goal


def best_threshold(context: Context, goal: Goal = "f1") -> float:
    """The best threshold over all classes; infinite where nothing is right."""
    curve = score_curves(point_table(context))[0]
    place = curve.best(goal, np.ones((1, len(context.ground_truth.image_ids))))[0]
    return float(curve.thresholds[place]) if place >= 0 else float("inf")


def point_table(context: Context) -> MatchTable:
    """Matches at IoU 0.5 alone."""
    return match(context.error_overlaps, context.everything)


def score_curves(table: MatchTable) -> list[ScoreCurve]:
    """Of all classes pooled, then of each class."""
    is_object, counts = ~table.object_ignored, ~table.ignored[0]
    curves = [_curve(table, counts, is_object)]
    for k in range(len(table.category_ids)):
        curves.append(_curve(table, counts & (table.category_index == k), is_object & (table.object_category == k)))
    return curves


def _curve(table: MatchTable, rows: np.ndarray, objects: np.ndarray) -> ScoreCurve:
    places = np.flatnonzero(rows)
    places = places[np.argsort(-table.score[places], kind="stable")]
    score = table.score[places]
    ends = np.flatnonzero(np.diff(score, append=-np.inf) != 0)
    return ScoreCurve(
        images=table.image_index[places],
        is_right=table.matched[0, places] >= 0,
        ends=ends,
        thresholds=score[ends],
        object_images=table.object_image[objects],
    )


def working_points_part(context: Context, goal: Goal) -> Part:
    """The best threshold and what it gives: label, measure, num_objects, num_images, note."""
    truth = context.ground_truth
    rows: list[tuple] = []
    groups: list[MetricGroup] = []
    for name, curve in zip((ALL_CLASSES, *truth.category_names), score_curves(point_table(context)), strict=True):
        num_images = len(np.unique(curve.object_images))
        note = too_few(len(curve.object_images), num_images)
        rows += [(name, measure, len(curve.object_images), num_images, note) for measure in MEASURES]
        names = tuple(f"working_points/{len(groups)}/{measure}" for measure in MEASURES)
        groups.append(MetricGroup(names=names, values=_Point(curve, goal, len(truth.image_ids))))
    labels = pd.DataFrame(rows, columns=["label", "measure", "num_objects", "num_images", "note"])
    return Part(labels=labels, metrics=JointMetrics(groups=tuple(groups), differences={}))


class _Point:
    """Weights to the threshold that is best under them, and what the one that is best as things are gives then."""

    def __init__(self, curve: ScoreCurve, goal: Goal, num_images: int) -> None:
        self.curve, self.goal = curve, goal
        self.place = curve.best(goal, np.ones((1, num_images)))[0]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        if self.place < 0:
            return np.full((len(weights), len(MEASURES)), np.nan)
        return np.concatenate([self._block(weights[rows]) for rows in self._blocks(len(weights))])

    def _block(self, weights: np.ndarray) -> np.ndarray:
        curve, place = self.curve, self.curve.best(self.goal, weights)
        values = curve.at(np.full(len(weights), self.place), weights)
        values[:, 0] = np.where(place >= 0, curve.thresholds[place], np.nan)
        return values

    def _blocks(self, num_resamples: int) -> Iterator[slice]:
        size = max(1, _VALUES_AT_ONCE // max(1, len(self.curve.images)))
        return (slice(start, start + size) for start in range(0, num_resamples, size))


def curves_frame(context: Context) -> pd.DataFrame:
    """label, threshold, precision, recall, f1 of all classes pooled and of each class, at up to 200 thresholds each."""
    truth = context.ground_truth
    ones, parts = np.ones((1, len(truth.image_ids))), []
    for name, curve in zip((ALL_CLASSES, *truth.category_names), score_curves(point_table(context)), strict=True):
        num = len(curve.thresholds)
        if num and len(curve.object_images):
            kept = np.unique(np.linspace(0, num - 1, min(num, _CURVE_POINTS)).round().astype(int))
            columns = dict(zip(MEASURES[1:], (values[0, kept] for values in curve.values(ones)), strict=True))
            parts.append(pd.DataFrame({"label": name, "threshold": curve.thresholds[kept], **columns}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["label", *MEASURES])


def _quotient(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator > 0)
