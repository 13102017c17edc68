"""Everything measured on one evaluation, each number with its interval over pictures; and the difference of two.

Metrics are functions of picture weights, so that the number, its bootstrap interval and the paired interval of a
difference all come from one definition. AP, AR and their size groups are pycocotools'.

    frame = measure(ground_truth, detections, recall)          # metric, value, low, high, num_objects, num_images, …
    gains = compare((ground_truth, one, recall_one), (ground_truth, two, recall_two))
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from analysis.breakdowns import (
    AspectCuts,
    category_aspects,
    crowdedness,
    crowdedness_bins,
    slenderness,
    slenderness_tables,
)
from analysis.coco import coco_statistics
from analysis.columns import Detections, GroundTruth
from analysis.matching import find_overlaps, match
from analysis.nms_recall import TAUS, ObjectRecall, mean_nms_recall, nms_recall, nms_recall_table
from analysis.precision import PrecisionCurves, area_subset, average_precision, precision_curves
from analysis.statistics import bootstrap, paired_bootstrap

Metric = Callable[[np.ndarray], np.ndarray]
NUM_RESAMPLES = 1000
SEED = 0  # of the resampling of pictures: the same pictures for every detector

# suffix -> columns of the recall frame. DEVIATION(D10): the authors' own definition comes first, then alternatives.
RECALL_DEFINITIONS = {
    "": ("before", "after"),
    "_class_aware": ("before_same_class", "after_same_class"),
    "_capped": ("before", "after_capped"),
    "_class_aware_capped": ("before_same_class", "after_capped_same_class"),
}


def object_recalls(recall: pd.DataFrame) -> dict[str, ObjectRecall]:
    """The stored best IoUs as one `ObjectRecall` a definition."""
    return {
        suffix: ObjectRecall(
            image_id=recall["image_id"].to_numpy(),
            annotation_id=recall["annotation_id"].to_numpy(),
            iou_before=recall[before].to_numpy(),
            iou_after=recall[after].to_numpy(),
        )
        for suffix, (before, after) in RECALL_DEFINITIONS.items()
    }


def _ap(
    curves: PrecisionCurves, weights: np.ndarray, *, iou: float | None = None, within: np.ndarray | None = None
) -> np.ndarray:
    """AP under picture weights, of the pictures `within` alone where given."""
    return average_precision(curves, weights if within is None else weights * within, iou=iou)


def metric_functions(ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame) -> dict[str, Metric]:
    """Metric name -> function from picture weights [R, N] to values [R]."""
    return detection_functions(ground_truth, detections) | _recall_functions(ground_truth, recall)


def detection_functions(ground_truth: GroundTruth, detections: Detections) -> dict[str, Metric]:
    """The metrics that detections alone give: AP overall, by size, slenderness and crowdedness."""
    overlaps = find_overlaps(ground_truth, detections)
    curves = precision_curves(match(overlaps))
    functions: dict[str, Metric] = {
        "ap": partial(_ap, curves),
        "ap_50": partial(_ap, curves, iou=0.5),
        "ap_75": partial(_ap, curves, iou=0.75),
    }
    for size in ("small", "medium", "large"):
        table = match(overlaps, area_subset(ground_truth, detections, size))
        functions[f"ap_{size}"] = partial(_ap, precision_curves(table))
    for name, table in slenderness_tables(ground_truth, detections).items():
        functions[f"ap_{name}"] = partial(_ap, precision_curves(table))
    for name, pictures in crowdedness_bins(ground_truth).items():
        functions[f"ap_{name}"] = partial(_ap, curves, within=pictures)
    return functions


def _recall_functions(ground_truth: GroundTruth, recall: pd.DataFrame) -> dict[str, Metric]:
    """NMS recall, mean and at each tau, under every definition."""
    place = np.searchsorted(ground_truth.image_ids, recall["image_id"].to_numpy())
    functions: dict[str, Metric] = {}
    for suffix, objects in object_recalls(recall).items():

        def mean(weights: np.ndarray, objects: ObjectRecall = objects) -> np.ndarray:
            return np.asarray(mean_nms_recall(objects, object_weights=weights[:, place]))

        def at(weights: np.ndarray, tau: float, objects: ObjectRecall = objects) -> np.ndarray:
            return np.asarray(nms_recall(objects, tau, object_weights=weights[:, place]))

        functions[f"nr{suffix}"] = mean
        functions |= {f"nr_{round(100 * tau)}{suffix}": partial(at, tau=tau) for tau in TAUS}
    return functions


def _counts(ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """Objects and pictures behind each breakdown, and the categories' APs."""
    groups = pd.concat([slenderness(ground_truth, detections, AspectCuts()), crowdedness(ground_truth, detections)])
    categories = category_aspects(ground_truth, detections)
    categories = categories.rename(columns={"ap": "value", "name": "label"})
    categories["metric"] = "ap_category"
    columns = ["metric", "value", "num_objects", "num_images", "label", "median_aspect"]
    return pd.concat([groups, categories]).reindex(columns=columns)


def measure(ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame) -> pd.DataFrame:
    """One row a metric: metric, value, low, high (95 % over pictures), num_objects, num_images, label, median_aspect.

    The twelve COCO statistics are pycocotools' own numbers; `recall` has a row an object with the columns of
    `RECALL_DEFINITIONS`. Categories (`ap_category`, one row a class) have no interval.
    """
    num_images = len(ground_truth.image_ids)
    rows: dict[str, dict[str, float]] = {}
    for name, function in metric_functions(ground_truth, detections, recall).items():
        interval = bootstrap(
            function,
            num_images=num_images,
            generator=np.random.default_rng(SEED),
            num_resamples=NUM_RESAMPLES,
            centred=True,
        )
        rows[name] = {"value": float(interval.value), "low": float(interval.low), "high": float(interval.high)}
    for name, value in coco_statistics(ground_truth, detections).items():
        rows.setdefault(name, {"low": np.nan, "high": np.nan})["value"] = value
    for suffix, objects in object_recalls(recall).items():
        for row in nms_recall_table(objects).to_dict("records"):
            for side in ("recall_before", "recall_after"):
                rows[f"{side}_{round(100 * row['tau'])}{suffix}"] = {"value": row[side]}
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric").reset_index()
    counts = _counts(ground_truth, detections)
    grouped = counts[counts["metric"] != "ap_category"].drop(columns=["value", "label", "median_aspect"])
    categories = counts[counts["metric"] == "ap_category"]
    return pd.concat([frame.merge(grouped, on="metric", how="left"), categories], ignore_index=True)


Measured = tuple[GroundTruth, Detections, pd.DataFrame]


def compare(first: Measured, second: Measured) -> pd.DataFrame:
    """Second minus first in every metric, paired over pictures: metric, value, low, high (95 %)."""
    return _differences(metric_functions(*first), metric_functions(*second), len(first[0].image_ids), NUM_RESAMPLES)


def compare_detections(
    ground_truth: GroundTruth, first: Detections, second: Detections, *, num_resamples: int = NUM_RESAMPLES
) -> pd.DataFrame:
    """Anybody's two detectors on the same pictures: metric, first, second, value (second minus first), low, high.

    The interval is the 95 % percentile interval of the paired bootstrap over pictures; nan where a metric is undefined.
    """
    ones, twos = detection_functions(ground_truth, first), detection_functions(ground_truth, second)
    num_images = len(ground_truth.image_ids)
    frame = _differences(ones, twos, num_images, num_resamples)
    as_they_are = np.ones((1, num_images))
    sides = {
        side: [float(of[name](as_they_are)[0]) for name in frame["metric"]]
        for side, of in (("first", ones), ("second", twos))
    }
    return frame.assign(**sides)[["metric", "first", "second", "value", "low", "high"]]


def _differences(ones: dict[str, Metric], twos: dict[str, Metric], num_images: int, num_resamples: int) -> pd.DataFrame:
    """Second minus first in each metric with its paired interval."""
    rows = []
    for name, function in ones.items():
        interval = paired_bootstrap(
            function,
            twos[name],
            num_images=num_images,
            generator=np.random.default_rng(SEED),
            num_resamples=num_resamples,
        )
        rows.append(
            {"metric": name, "value": float(interval.value), "low": float(interval.low), "high": float(interval.high)}
        )
    return pd.DataFrame(rows)
