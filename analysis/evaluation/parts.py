"""Parts of an evaluation beside its main table: error types, and slices of the data, as metrics with their labels.

    part = errors_part(context, "coco")
    part.labels         # one row per metric: error, measure
    part.metrics        # the same, as functions of image weights

All parts and the main table are resampled together, so that every difference of two detectors is paired.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.match_parts import check_whole
from analysis.evaluation import precision as ap
from analysis.evaluation.errors import (
    BACKGROUND_IOU,
    MAIN,
    SPECIAL,
    Convention,
    TypedErrors,
    at_error_iou,
    error_metrics,
    type_errors,
)
from analysis.evaluation.matching import MatchTable, Overlaps, Ranking, Subset, match
from analysis.evaluation.metrics import JointMetrics, MetricGroup, overlaps_under
from analysis.evaluation.nearby import Nearby, find_nearby
from analysis.evaluation.nms_recall import ObjectRecall, found_by_image, nms_recall_values
from analysis.evaluation.protocol import COCO_PROTOCOL, Protocol
from analysis.evaluation.slices import Slice

_FOUND_IOU = 0.5  # the lowest tau of NMS recall


@dataclass(frozen=True, kw_only=True)
class Context:
    """A detector on a data set under a protocol, and what several parts share of it, found once."""

    ground_truth: GroundTruth
    detections: Detections
    protocol: Protocol = COCO_PROTOCOL
    candidates: Detections | None = None  # before NMS, for NMS recall

    @cached_property
    def overlaps(self) -> Overlaps:
        """Pairs that can match."""
        return overlaps_under(self.protocol, self.ground_truth, self.detections)

    @cached_property
    def error_overlaps(self) -> Overlaps:
        """The same at IoU 0.5 alone, where errors and working points are told."""
        return at_error_iou(self.overlaps)

    @cached_property
    def table(self) -> MatchTable:
        """Matches of all objects."""
        return match(self.overlaps, self.everything)

    @cached_property
    def everything(self) -> Subset:
        """All objects that COCO counts."""
        return self.protocol.all_objects(self.ground_truth, self.detections)

    @cached_property
    def nearby(self) -> Nearby:
        """Pairs of any class, for the kinds of error."""
        return find_nearby(self.ground_truth, self.detections, self.overlaps, BACKGROUND_IOU)

    def above(self, score: float) -> "Context":
        """The same without the detections that score less."""
        return replace(self, detections=self.detections.take(self.detections.scores >= score))

    @cached_property
    def typed(self) -> TypedErrors:
        """The kind of every detection."""
        return self.typed_in(self.everything)

    def typed_in(self, subset: Subset) -> TypedErrors:
        """The same, about a subset of the objects."""
        return type_errors(
            self.ground_truth, self.detections, overlaps=self.error_overlaps, nearby=self.nearby, subset=subset
        )

    @cached_property
    def recall(self) -> ObjectRecall | None:
        """Each object's best IoU with the candidates and with the detections, whatever their class."""
        if self.candidates is None:
            return None
        for own in (self.candidates, self.detections):
            check_whole(own, "NMS recall")
        before, after = (_best_ious(self.ground_truth, own) for own in (self.candidates, self.detections))
        return ObjectRecall(
            image_id=self.ground_truth.image_id,
            annotation_id=self.ground_truth.annotation_id,
            iou_before=before,
            iou_after=after,
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """Metrics under unique names, and one row of labels for each of them, in their order."""

    labels: pd.DataFrame
    metrics: JointMetrics


def errors_part(context: Context, convention: Convention) -> Part:
    """Counts and dAP of every error type: columns error, measure (`dap` or `num`)."""
    is_tide = convention == "tide"
    typed = type_errors(context.ground_truth, context.detections, convention="tide") if is_tide else context.typed
    metrics = error_metrics(typed)
    labels = [("", "ap_50"), *((name, measure) for measure in ("dap", "num") for name in (*MAIN, *SPECIAL))]
    return Part(labels=pd.DataFrame(labels, columns=["error", "measure"]), metrics=_under("errors", metrics))


def slices_part(context: Context, slices: Sequence[Slice]) -> Part:
    """AP, AR, NR where there are candidates, and error types of each slice: slice, metric, num_objects, num_images."""
    rows: list[tuple] = []
    groups: list[MetricGroup] = []
    for one in slices:
        metrics = _slice_metrics(context, one)
        groups += _under(f"slices/{one.name}", metrics).groups
        rows += [
            (one.name, one.column, one.value, metric, one.num_objects, one.num_images, one.note)
            for metric in metrics.names
        ]
    columns = ["slice", "column", "bin", "metric", "num_objects", "num_images", "note"]
    return Part(labels=pd.DataFrame(rows, columns=columns), metrics=JointMetrics(groups=tuple(groups), differences={}))


def _slice_metrics(context: Context, one: Slice) -> JointMetrics:
    everything, images = context.everything, None
    if one.kind == "image":
        images, table, typed = one.images, context.table, context.typed
    else:
        subset = Subset(objects=everything.objects & one.objects, detections=everything.detections)
        table, typed = match(context.overlaps, subset), context.typed_in(subset)
    curves = ap.precision_curves(table, images=images)
    limit = context.protocol.max_detections
    groups = [
        MetricGroup(names=("ap", f"ar_{limit}"), values=lambda weights: _ap_and_ar(curves, weights)),
        *_nms_recall(context, one),
    ]
    errors = error_metrics(typed, images)
    return JointMetrics(groups=(*groups, *errors.groups), differences={})


def _ap_and_ar(curves: ap.PrecisionCurves, weights: np.ndarray) -> np.ndarray:
    return np.column_stack([ap.average_precision(curves, weights), ap.average_recall(curves, weights)])


def _nms_recall(context: Context, one: Slice) -> list[MetricGroup]:
    """NR of a slice's objects, mean over tau, by the authors' definition."""
    recall = context.recall
    if recall is None:
        return []
    own = one.objects
    found = found_by_image(
        ObjectRecall(
            image_id=recall.image_id[own],
            annotation_id=recall.annotation_id[own],
            iou_before=recall.iou_before[own],
            iou_after=recall.iou_after[own],
        ),
        context.ground_truth.image_ids,
    )
    return [MetricGroup(names=("nr",), values=lambda weights: nms_recall_values(found, weights)[:, -1:])]


def _best_ious(ground_truth: GroundTruth, found: Detections) -> np.ndarray:
    """Each object's highest IoU with a box of its image, 0 below 0.5, where nothing is found."""
    everything = Ranking(
        detection_row=np.arange(len(found)),
        image_index=np.searchsorted(ground_truth.image_ids, found.image_id),
        category_index=np.searchsorted(ground_truth.category_ids, found.category_id),
        score=found.scores,
    )
    nearby = find_nearby(ground_truth, found, everything, _FOUND_IOU)
    best = np.zeros(len(ground_truth.boxes))
    np.maximum.at(best, nearby.object, nearby.iou)
    return best


def _under(prefix: str, metrics: JointMetrics) -> JointMetrics:
    """The same metrics, their names led by `prefix/`."""
    groups = [
        MetricGroup(names=tuple(f"{prefix}/{name}" for name in group.names), values=group.values)
        for group in metrics.groups
    ]
    return JointMetrics(groups=tuple(groups), differences={})


def with_values(labels: pd.DataFrame, values: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Labels and numbers side by side, row by row; no bounds for what is noted as too few."""
    frame = pd.concat([labels, values[list(columns)].reset_index(drop=True)], axis=1)
    if "note" in frame:
        bounds: list[Any] = [name for name in ("low", "high") if name in frame]
        frame.loc[frame["note"] != "", bounds] = np.nan
        frame = frame[[*(name for name in frame if name != "note"), "note"]]
    return frame
