"""Kinds of error, and the AP that fixing each would give (Bolya et al., TIDE, ECCV 2020, arXiv 2008.08115).

    typed = type_errors(ground_truth, detections)                   # what every detection is
    metrics = error_metrics(typed)                                  # counts and dAP, under weights of the images

At IoU 0.5, a detection that is wrong is, in this order:

- *localisation*: IoU 0.1 to 0.5 with an object of its class;
- *classification*: IoU 0.5 or more with an object of another class;
- *duplicate*: IoU 0.5 or more with an object of its class that a better detection has taken;
- *background*: IoU 0.1 or less with every object;
- *both* (localisation and class): all others.

*Missed* is an object that nothing takes and that no localisation or classification error would find if it were fixed.
Fixing turns the best such error of a free object into a right detection, removes every other wrong detection, and for
missed takes the object out. dAP is AP50 after the fix minus AP50. Fixing *false positives* removes everything wrong;
fixing *false negatives* takes every object out that is not found.

There are two conventions. `coco` has pycocotools' matching and AP: 100 detections of an image and class count, crowd
regions are taken like objects, classes without objects do not count. `tide` does as tidecv 1.0.1: the best 100 of an
image count, a detection more than half inside a crowd region of its class is left out of AP though its error is
counted, a class that has detections alone has AP 0, a dAP below 0 is 0.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation import precision as ap
from analysis.evaluation.matching import MatchTable, Overlaps, Ranking, Subset, find_overlaps, match
from analysis.evaluation.metrics import JointMetrics, Metric, MetricGroup
from analysis.evaluation.nearby import Nearby, find_nearby, inside_crowds, rank_by_image

Convention = Literal["coco", "tide"]
WRONG = ("classification", "localisation", "both", "duplicate", "background")
MAIN = (*WRONG, "missed")
SPECIAL = ("false_positives", "false_negatives")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, RIGHT, IGNORED = range(7)
ERROR_IOU, BACKGROUND_IOU = 0.5, 0.1  # TIDE's, Sec. 2.2
_TIDE_LIMIT = 100  # tidecv's `max_dets`, of an image
_FIXES = (*WRONG, SPECIAL[0])  # those that change detections alone


@dataclass(frozen=True, kw_only=True)
class TypedErrors:
    """What each of E ranked detections is, and what becomes of it when its error is fixed; G objects, N images."""

    ground_truth: GroundTruth
    convention: Convention
    ranking: Ranking
    kind: Int[np.ndarray, " E"]  # a place in `WRONG`, RIGHT or IGNORED
    target: Int[np.ndarray, " E"]  # the object that a localisation, classification or duplicate error is at; -1: none
    taken: Int[np.ndarray, " E"]  # the object that a right or ignored detection takes; -1: none
    is_best: Bool[np.ndarray, " E"]  # the error whose fix finds its object, which nothing takes
    ignored: Bool[
        np.ndarray, " E"
    ]  # neither right nor wrong for AP; in the `tide` convention it has a kind all the same
    counts: Bool[np.ndarray, " G"]  # the objects that the analysis is about
    is_found: Bool[np.ndarray, " G"]
    is_missed: Bool[np.ndarray, " G"]

    @cached_property
    def num_by_image(self) -> Int[np.ndarray, "N 8"]:
        """Errors of each image, in the order of `MAIN` and `SPECIAL`.

        Of a kind, those at an object are counted only where it counts; false positives are everything wrong.
        """
        num_images, image = len(self.ground_truth.image_ids), self.ranking.image_index
        object_image = self.ground_truth.image_index
        is_wrong = (self.kind < RIGHT) & ~self.ignored
        is_about = (self.target < 0) | np.append(self.counts, True)[self.target]
        rows = [image[(self.kind == kind) & is_about] for kind in range(len(WRONG))]
        rows += [object_image[self.is_missed], image[is_wrong], object_image[self.counts & ~self.is_found]]
        return np.stack([np.bincount(row, minlength=num_images) for row in rows], axis=1)

    @cached_property
    def fixed(self) -> MatchTable:
        """A match table whose thresholds are fixes: none, each of `WRONG`, and false positives.

        A classification error that is fixed stands there once more, under the class of its object.
        """
        ranking, truth = self.ranking, self.ground_truth
        gains = self.is_best & np.append(self.counts, False)[self.target]
        moved = np.flatnonzero(gains & (self.kind == CLASSIFICATION))
        is_right = (self.taken >= 0) & ~self.ignored
        right, ignored = [is_right], [self.ignored]
        for kind in range(len(WRONG)):
            becomes_right = gains & (self.kind == kind) & (kind == LOCALISATION)
            right.append(is_right | becomes_right)
            ignored.append((self.ignored | (self.kind == kind)) & ~becomes_right)
        right.append(is_right)
        ignored.append(~is_right)
        is_moved = np.arange(len(right))[:, None] == 1 + CLASSIFICATION
        rows = np.append(np.arange(len(ranking.score)), moved)
        category = np.append(ranking.category_index, truth.category_index[self.target[moved]])
        score, image, row = ranking.score[rows], ranking.image_index[rows], ranking.detection_row[rows]
        order = np.lexsort((row, image, -score, category))
        everywhere = np.ones((1, len(moved)), dtype=bool)
        return MatchTable(
            iou_thresholds=np.arange(len(right), dtype=np.float64),
            image_ids=truth.image_ids,
            category_ids=truth.category_ids,
            matched=np.where(np.hstack([np.stack(right), is_moved & everywhere]), 0, -1)[:, order],
            ignored=np.hstack([np.stack(ignored), ~is_moved & everywhere])[:, order],
            object_image=truth.image_index,
            object_category=truth.category_index,
            object_ignored=~self.counts,
            detection_row=row[order],
            image_index=image[order],
            category_index=category[order],
            score=score[order],
            rank=np.zeros(len(rows), dtype=np.int64),
        )


def type_errors(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    convention: Convention = "coco",
    overlaps: Overlaps | None = None,
    subset: Subset | None = None,
    nearby: Nearby | None = None,
) -> TypedErrors:
    """Finds the kind of every detection, about the objects of `subset` (all when None) under COCO's ignore rules.

    Errors at objects outside the subset keep their kind and are not counted; their fix leaves them neither right nor
    wrong. `overlaps` and `nearby` are found where they are not given, which several subsets
    share. A subset needs the `coco` convention.
    """
    if convention == "tide":
        ranking = rank_by_image(ground_truth, detections, _TIDE_LIMIT)
        nearby = find_nearby(ground_truth, detections, ranking, BACKGROUND_IOU)
        taken = _taken_in_turn(nearby)
        ignored = (taken < 0) & inside_crowds(ground_truth, detections, ranking, ERROR_IOU)
        return _typed(ground_truth, convention, ranking, nearby, taken, ignored, ~ground_truth.iscrowd)
    overlaps = overlaps or find_overlaps(ground_truth, detections)
    table = match(at_error_iou(overlaps), subset)
    nearby = nearby or find_nearby(ground_truth, detections, table, BACKGROUND_IOU)
    return _typed(
        ground_truth, convention, table, nearby, table.matched[0].astype(np.int64), table.ignored[0],
        ~table.object_ignored,
    )  # fmt: skip


def at_error_iou(overlaps: Overlaps) -> Overlaps:
    """The same pairs, to be matched at IoU 0.5 alone; as they are where they are that already."""
    if overlaps.iou_thresholds.tolist() == [ERROR_IOU]:
        return overlaps
    return replace(overlaps, iou_thresholds=np.array([ERROR_IOU]))


def _typed(
    ground_truth: GroundTruth,
    convention: Convention,
    ranking: Ranking,
    nearby: Nearby,
    taken: np.ndarray,
    ignored: np.ndarray,
    counts: np.ndarray,
) -> TypedErrors:
    is_found = np.zeros(len(counts), dtype=bool)
    is_found[taken[taken >= 0]] = True
    kind, target = _kinds(nearby, is_found)
    has_kind = (taken < 0) & (~ignored | (convention == "tide"))
    kind = np.where(has_kind, kind, np.where(ignored, IGNORED, RIGHT))
    target = np.where(has_kind, target, -1)
    could_find = (kind <= LOCALISATION) & ~np.append(is_found, True)[target]
    can_be_found = np.zeros(len(counts), dtype=bool)
    can_be_found[target[could_find]] = True
    return TypedErrors(
        ground_truth=ground_truth,
        convention=convention,
        ranking=ranking,
        kind=kind,
        target=target,
        taken=taken,
        is_best=best_of_each(ranking, target, could_find),
        ignored=ignored,
        counts=counts,
        is_found=is_found,
        is_missed=counts & ~is_found & ~can_be_found,
    )


def _kinds(nearby: Nearby, is_found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The kind that each detection would be if it were wrong, and the object it is at; tidecv's order of tests."""
    own, own_object = nearby.best(nearby.same_class)
    other, other_object = nearby.best(~nearby.same_class)
    again, again_object = nearby.best(nearby.same_class & is_found[nearby.object])
    tests = [
        (own >= BACKGROUND_IOU) & (own <= ERROR_IOU),
        other >= ERROR_IOU,
        again >= ERROR_IOU,
        np.maximum(own, other) <= BACKGROUND_IOU,
    ]
    kind = np.select(tests, [LOCALISATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    return kind, np.select(tests[:3], [own_object, other_object, again_object], -1)


def best_of_each(
    ranking: Ranking, target: Int[np.ndarray, " E"], wanted: Bool[np.ndarray, " E"]
) -> Bool[np.ndarray, " E"]:
    """Of the wanted detections at one object the one that scores best, the first in the file of equal ones."""
    rows = np.flatnonzero(wanted)
    rows = rows[np.lexsort((ranking.detection_row[rows], -ranking.score[rows], target[rows]))]
    best = np.zeros(len(target), dtype=bool)
    best[rows[np.diff(target[rows], prepend=-1) != 0]] = True
    return best


def _taken_in_turn(nearby: Nearby) -> np.ndarray:
    """tidecv's matching: each detection in turn takes the free object of its class that it overlaps most, at 0.5."""
    taken = np.full(nearby.num_ranked, -1)
    gone: set[int] = set()
    near = nearby.same_class & (nearby.iou >= ERROR_IOU)
    for found, other in zip(nearby.detection[near].tolist(), nearby.object[near].tolist(), strict=True):
        if taken[found] < 0 and other not in gone:
            taken[found] = other
            gone.add(other)
    return taken


def error_metrics(typed: TypedErrors, images: Bool[np.ndarray, " N"] | None = None) -> JointMetrics:
    """Counts (`num_classification` …) and dAP (`dap_classification` …) of the six and the two, AP50 first.

    Counts under weights are weighted sums: the errors in the images drawn. Of `images` alone where given.
    """
    names = (*MAIN, *SPECIAL)
    counts = typed.num_by_image * (1.0 if images is None else images[:, None])
    groups = (
        MetricGroup(names=("ap_50", *(f"dap_{name}" for name in names)), values=_Fixed(typed, images)),
        MetricGroup(names=tuple(f"num_{name}" for name in names), values=lambda weights: weights @ counts),
    )
    return JointMetrics(groups=groups, differences={})


class _Fixed:
    """AP50 as it is, then what each fix adds: weights [R, N] to values [R, 9]."""

    def __init__(self, typed: TypedErrors, images: np.ndarray | None) -> None:
        table = typed.fixed
        first = replace(
            table, iou_thresholds=table.iou_thresholds[:1], matched=table.matched[:1], ignored=table.ignored[:1]
        )
        gone = ~typed.counts | typed.is_missed, ~typed.counts | ~typed.is_found
        tables = [table, *(replace(first, object_ignored=ignored) for ignored in gone)]
        self.curves = [ap.precision_curves(own, images=images) for own in tables]
        self.is_tide = typed.convention == "tide"
        self.presence = [_presence(own, images) for own in tables] if self.is_tide else []

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        parts = [ap.class_precision(curves, weights) for curves in self.curves]
        if self.is_tide:
            parts = [
                np.where(here, np.nan_to_num(own), np.nan)
                for own, here in zip(parts, (weights_by(weights) for weights_by in self.presence), strict=True)
            ]
        means = np.concatenate([_mean_of_classes(own) for own in parts], axis=1)
        base, false_positives = means[:, :1], means[:, len(_FIXES) : len(_FIXES) + 1]
        fixes = np.hstack([means[:, 1 : len(_FIXES)], means[:, -2:-1], false_positives, means[:, -1:]]) - base
        if self.is_tide:
            fixes[:, : len(MAIN)] = np.maximum(fixes[:, : len(MAIN)], 0.0)
        return np.hstack([base, fixes])


def _mean_of_classes(values: Float[np.ndarray, "R F K"]) -> Float[np.ndarray, "R F"]:
    defined = ~np.isnan(values)
    count = defined.sum(axis=2)
    total = np.where(defined, values, 0.0).sum(axis=2)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def _presence(table: MatchTable, images: np.ndarray | None) -> Metric:
    """Which classes tidecv would average over, under weights: those with objects, or with detections that count.

    [R, F, K]. Fixed false positives, the last of several fixes, count: tidecv puts them behind everything else.
    """
    num_images, num_classes = table.num_images, len(table.category_ids)
    counts = np.zeros((num_images, len(table.matched), num_classes))
    for f, ignored in enumerate([*table.ignored[:-1], table.ignored[0]]):
        np.add.at(counts[:, f], (table.image_index[~ignored], table.category_index[~ignored]), 1.0)
    own = ~table.object_ignored
    objects = np.zeros((num_images, num_classes))
    np.add.at(objects, (table.object_image[own], table.object_category[own]), 1.0)
    flat = (counts + objects[:, None]).reshape(num_images, -1) * (1.0 if images is None else images[:, None])
    return lambda weights: (weights @ flat > 0).reshape(len(weights), *counts.shape[1:])
