"""The metrics of an evaluation as functions of image weights, evaluated together.

    metrics = detection_metrics(ground_truth, detections)       # or recall_metrics(ground_truth, recall)
    metrics.names                                               # ("ap", "ap_50", …)
    metrics(weights)                                            # [R, N] -> [R, M], one column per name

Metrics that rest on the same matches share one pass over them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation import precision as ap
from analysis.evaluation.matching import Overlaps, Subset, find_overlaps, match
from analysis.evaluation.nms_recall import TAUS, ObjectRecall, found_by_image, nms_recall_values
from analysis.evaluation.protocol import COCO_PROTOCOL, Protocol, percent
from analysis.evaluation.statistics import rank_correlation

Metric = Callable[[np.ndarray], np.ndarray]
CATEGORY = "ap_category_"  # and the category's id: AP of one category
# suffix -> columns of the recall frame. DEVIATION(D10): the authors' own definition comes first, then alternatives.
RECALL_DEFINITIONS = {
    "": ("before", "after"),
    "_class_aware": ("before_same_class", "after_same_class"),
    "_capped": ("before", "after_capped"),
    "_class_aware_capped": ("before_same_class", "after_capped_same_class"),
}


@dataclass(frozen=True, kw_only=True)
class MetricGroup:
    """Metrics that one pass gives: weights [R, N] to values [R, M], one column per name."""

    names: tuple[str, ...]
    values: Metric


@dataclass(frozen=True, kw_only=True)
class JointMetrics:
    """Groups of metrics evaluated on the same weights, and differences between two of them; names are unique."""

    groups: tuple[MetricGroup, ...]
    differences: dict[str, tuple[str, str]]  # name -> minuend, subtrahend
    signed: frozenset[str] = frozenset()  # names of the groups' metrics that may be negative, down to -1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, the differences last."""
        return (*(name for group in self.groups for name in group.names), *self.differences)

    def __call__(self, weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R M"]:
        """Every metric under every weighting of the images; nan where undefined."""
        weights = ap.turned(weights)
        values = np.concatenate([group.values(weights) for group in self.groups], axis=1)
        place = {name: column for column, name in enumerate(self.names)}
        gaps = [values[:, [place[one]]] - values[:, [place[other]]] for one, other in self.differences.values()]
        return np.concatenate([values, *gaps], axis=1)

    def and_those_of(self, other: "JointMetrics") -> "JointMetrics":
        """The metrics of both."""
        return JointMetrics(
            groups=self.groups + other.groups,
            differences=self.differences | other.differences,
            signed=self.signed | other.signed,
        )


@dataclass(frozen=True, kw_only=True)
class DetectionCurves:
    """What a detector's metrics are read off: curves of all objects, and of each part of them, by name."""

    overall: ap.PrecisionCurves
    limited: dict[int, ap.PrecisionCurves]  # detections of an image and category -> curves
    sized: dict[str, ap.PrecisionCurves]
    shaped: dict[str, ap.PrecisionCurves]
    crowded: dict[str, ap.PrecisionCurves]  # of the images of each bin alone

    def twelve(self) -> dict[str, float]:
        """Of the default protocol: COCO's twelve statistics, to the bit as `analysis.coco.record` has them."""
        return ap.twelve_statistics(overall=self.overall, limited=self.limited, sized=self.sized)


def overlaps_under(protocol: Protocol, ground_truth: GroundTruth, detections: Detections) -> Overlaps:
    """The pairs that can match, with the protocol's limit of detections and its thresholds."""
    return find_overlaps(
        ground_truth, detections, max_detections=protocol.max_detections, iou_thresholds=protocol.thresholds()
    )


def detection_curves(
    ground_truth: GroundTruth,
    detections: Detections,
    protocol: Protocol = COCO_PROTOCOL,
    *,
    overlaps: Overlaps | None = None,
) -> DetectionCurves:
    """Finds overlaps once (unless given), matches once per part, and boils the matches down."""
    overlaps = overlaps or overlaps_under(protocol, ground_truth, detections)
    table = match(overlaps, protocol.all_objects(ground_truth, detections))

    def of(subsets: dict[str, Subset]) -> dict[str, ap.PrecisionCurves]:
        return {name: ap.precision_curves(match(overlaps, subset)) for name, subset in subsets.items()}

    overall = ap.precision_curves(table)
    # the match table holds no more than the last limit's detections
    few = {limit: ap.precision_curves(table, max_detections=limit) for limit in protocol.limits[:-1]}
    bins = protocol.crowd_bins(ground_truth)
    return DetectionCurves(
        overall=overall,
        limited=few | {protocol.limits[-1]: overall},
        sized=of(protocol.area_subsets(ground_truth, detections)),
        shaped=of(protocol.aspect_subsets(ground_truth, detections)),
        crowded={name: ap.precision_curves(table, images=images) for name, images in bins.items()},
    )


def detection_metrics(ground_truth: GroundTruth, detections: Detections, *, per_category: bool = False) -> JointMetrics:
    """What detections alone give: COCO's twelve statistics, AP by slenderness and by crowdedness; see `metrics_of`."""
    return metrics_of(detection_curves(ground_truth, detections), ground_truth, per_category=per_category)


def metrics_of(
    curves: DetectionCurves,
    ground_truth: GroundTruth,
    *,
    per_category: bool = False,
    protocol: Protocol = COCO_PROTOCOL,
) -> JointMetrics:
    """The metrics of a detector from its curves, which are of the same protocol.

    `ap_slender_minus_square` and `ap_crowded_minus_sparse` (the most crowded bin minus the sparsest) are differences in
    [-1, 1], all others fractions. `per_category` adds `ap_category_<id>` for every category.
    """
    groups = [_overall(curves.overall, ground_truth, per_category, protocol)]
    for parts in (curves.sized, curves.shaped, curves.crowded):
        groups += [metric_alone(f"ap_{name}", ap.average_precision, own) for name, own in parts.items()]
    groups += [metric_alone(f"ar_{limit}", ap.average_recall, own) for limit, own in curves.limited.items()]
    groups += [metric_alone(f"ar_{size}", ap.average_recall, own) for size, own in curves.sized.items()]
    differences = {}
    for parts, name in ((curves.shaped, ""), (curves.crowded, "ap_crowded_minus_sparse")):
        names = list(parts)
        if len(names) > 1:
            differences[name or f"ap_{names[-1]}_minus_{names[0]}"] = (f"ap_{names[-1]}", f"ap_{names[0]}")
    return JointMetrics(groups=tuple(groups), differences=differences)


def recall_metrics(ground_truth: GroundTruth, recall: pd.DataFrame) -> JointMetrics:
    """NMS recall (mean, and at each tau) and recall before and after NMS, under every definition.

    `recall` has one row per object with the columns of `RECALL_DEFINITIONS`.
    """
    groups = [_nms_recall(ground_truth, objects, suffix) for suffix, objects in object_recalls(recall).items()]
    return JointMetrics(groups=tuple(groups), differences={})


def object_recalls(recall: pd.DataFrame) -> dict[str, ObjectRecall]:
    """The stored best IoUs as one `ObjectRecall` per definition."""
    return {
        suffix: ObjectRecall(
            image_id=recall["image_id"].to_numpy(),
            annotation_id=recall["annotation_id"].to_numpy(),
            iou_before=recall[before].to_numpy(),
            iou_after=recall[after].to_numpy(),
        )
        for suffix, (before, after) in RECALL_DEFINITIONS.items()
    }


def _overall(
    curves: ap.PrecisionCurves, ground_truth: GroundTruth, per_category: bool, protocol: Protocol
) -> MetricGroup:
    """AP, AP50, AP75, and each category's AP where asked, from one pass."""
    at = [ap.threshold_position(curves, iou) for iou in protocol.single_ious]

    def values(weights: np.ndarray) -> np.ndarray:
        precision = ap.class_precision(curves, weights)
        means = [ap.mean_over_classes(precision), *(ap.mean_over_classes(precision[:, [t]]) for t in at)]
        return np.column_stack([*means, precision.mean(axis=1)] if per_category else means)

    singles = [f"ap_{percent(iou)}" for iou in protocol.single_ious]
    categories = [f"{CATEGORY}{category}" for category in ground_truth.category_ids] if per_category else []
    return MetricGroup(names=("ap", *singles, *categories), values=values)


def metric_alone(name: str, statistic: Callable[..., np.ndarray], curves: ap.PrecisionCurves) -> MetricGroup:
    """One metric that shares its matches with no other: `ap.average_precision` or `ap.average_recall` of curves."""
    return MetricGroup(names=(name,), values=lambda weights: statistic(curves, weights)[:, None])


def _nms_recall(ground_truth: GroundTruth, objects: ObjectRecall, suffix: str) -> MetricGroup:
    """NR, NR_tau, and the two recalls at each tau, by one definition."""
    found = found_by_image(objects, ground_truth.image_ids)
    num_objects = np.bincount(
        np.searchsorted(ground_truth.image_ids, objects.image_id), minlength=len(ground_truth.image_ids)
    )

    def values(weights: np.ndarray) -> np.ndarray:
        total = (weights @ num_objects)[:, None]
        recalls = np.hstack([weights @ found.before, weights @ found.after])
        shares = np.divide(recalls, total, out=np.full(recalls.shape, np.nan), where=total > 0)
        return np.hstack([np.roll(nms_recall_values(found, weights), 1, axis=1), shares])  # their mean comes first

    percents = [round(100 * tau) for tau in TAUS]
    heads = ["nr", *(f"{name}_{percent}" for name in ("nr", "recall_before", "recall_after") for percent in percents)]
    return MetricGroup(names=tuple(f"{head}{suffix}" for head in heads), values=values)


def alignment_metrics(ground_truth: GroundTruth, detections: Detections) -> JointMetrics:
    """`score_iou_correlation`: rank correlation of score and IoU over detections that find an object (IoU >= 0.5).

    Spearman's, with ranks among all of them, whatever images are drawn; nan where fewer than two detections are.
    """
    overlaps = find_overlaps(ground_truth, detections)
    table = match(overlaps, ap.area_subset(ground_truth, detections, "all"))
    right = np.flatnonzero((table.matched[0] >= 0) & ~table.ignored[0])
    key = overlaps.pair_detection * (len(ground_truth.boxes) + 1) + overlaps.pair_object
    order = np.argsort(key)
    places = np.searchsorted(key[order], right * (len(ground_truth.boxes) + 1) + table.matched[0][right])
    iou = overlaps.pair_iou[order[places]]
    values = rank_correlation(table.score[right], iou, table.image_index[right], table.num_images)
    group = MetricGroup(names=("score_iou_correlation",), values=values)
    return JointMetrics(groups=(group,), differences={}, signed=frozenset(group.names))
