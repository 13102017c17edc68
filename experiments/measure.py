"""Everything measured on one evaluation, each number with its interval over pictures; and the difference of two.

The number, its bootstrap interval and the paired interval of a difference all come from one definition
(`experiments.metrics`), and all metrics are resampled together. AP, AR and their size groups are pycocotools'.

    frame = measure(ground_truth, detections, recall)          # metric, value, low, high, num_objects, num_images, …
    gains = compare((ground_truth, one, recall_one), (ground_truth, two, recall_two))
    gains = compare_detections(ground_truth, one, two)         # anybody's detections, without candidates
"""

import math

import numpy as np
import pandas as pd

from analysis.breakdowns import AspectCuts, category_aspects, crowdedness, slenderness
from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import coco_statistics
from analysis.processes import usable_processors
from analysis.statistics import bootstrap, paired_bootstrap
from experiments.metrics import CATEGORY, JointMetrics, Metric, detection_metrics, recall_metrics

NUM_RESAMPLES = 1000
SEED = 0  # of the resampling of pictures: the same pictures for every detector
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start

Measured = tuple[GroundTruth, Detections, pd.DataFrame]


def metric_functions(ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame) -> dict[str, Metric]:
    """Metric name -> function from picture weights [R, N] to values [R]."""
    return _metrics((ground_truth, detections, recall)).functions()


def detection_functions(ground_truth: GroundTruth, detections: Detections) -> dict[str, Metric]:
    """The metrics that detections alone give: AP and AR overall and by size, AP by slenderness and crowdedness.

    One function at a time; many at once are faster together (`experiments.metrics.detection_metrics`).
    """
    return detection_metrics(ground_truth, detections).functions()


def measure(
    ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame, *, num_processes: int | None = None
) -> pd.DataFrame:
    """One row a metric: metric, value, low, high (95 % over pictures), num_objects, num_images, label, median_aspect.

    The twelve COCO statistics are pycocotools' own numbers; `recall` has a row an object with the columns of
    `RECALL_DEFINITIONS`. Categories (`ap_category`, one row a class) come last. Intervals are centred on the value
    and, but for differences of two metrics, kept inside [0, 1]; nan where a metric is undefined. `num_processes` (None
    chooses) changes no number.
    """
    metrics = _metrics((ground_truth, detections, recall), per_category=True)
    rows = _intervals(metrics, len(ground_truth.image_ids), num_processes or _processes(detections))
    rows["value"] = rows["metric"].map(coco_statistics(ground_truth, detections)).fillna(rows["value"])
    counts = _counts(ground_truth, detections).drop(columns="value")
    is_category = rows["metric"].str.startswith(CATEGORY)
    frame = rows[~is_category].merge(counts[counts["metric"] != "ap_category"], on="metric", how="left")
    categories = counts[counts["metric"] == "ap_category"].reset_index(drop=True)
    bounds = rows.loc[is_category, ["value", "low", "high"]].reset_index(drop=True)
    columns = ["metric", "value", "low", "high", "num_objects", "num_images", "label", "median_aspect"]
    return pd.concat([frame, categories.join(bounds)], ignore_index=True)[columns]


def compare(first: Measured, second: Measured, *, num_processes: int | None = None) -> pd.DataFrame:
    """Second minus first in every metric, paired over pictures: metric, value, low, high (95 %)."""
    ones, twos = _metrics(first), _metrics(second)
    num_processes = num_processes or _processes(first[1], second[1])
    return _differences(ones, twos, len(first[0].image_ids), NUM_RESAMPLES, num_processes)


def compare_detections(
    ground_truth: GroundTruth,
    first: Detections,
    second: Detections,
    *,
    num_resamples: int = NUM_RESAMPLES,
    num_processes: int | None = None,
) -> pd.DataFrame:
    """Anybody's two detectors on the same pictures: metric, first, second, value (second minus first), low, high.

    The interval is the 95 % percentile interval of the paired bootstrap over pictures; nan where a metric is undefined.
    `num_processes` (None chooses) changes no number.
    """
    ones, twos = detection_metrics(ground_truth, first), detection_metrics(ground_truth, second)
    num_images = len(ground_truth.image_ids)
    frame = _differences(ones, twos, num_images, num_resamples, num_processes or _processes(first, second))
    as_they_are = np.ones((1, num_images))
    frame = frame.assign(first=ones(as_they_are)[0], second=twos(as_they_are)[0])
    return frame[["metric", "first", "second", "value", "low", "high"]]


def _metrics(measured: Measured, *, per_category: bool = False) -> JointMetrics:
    """All metrics of an evaluation."""
    ground_truth, detections, recall = measured
    of_detections = detection_metrics(ground_truth, detections, per_category=per_category)
    return of_detections.and_those_of(recall_metrics(ground_truth, recall))


def _processes(*detections: Detections) -> int:
    """How many processes so many detections are worth."""
    return usable_processors() if sum(len(own) for own in detections) >= _SMALL else 1


def _intervals(metrics: JointMetrics, num_images: int, num_processes: int) -> pd.DataFrame:
    """Each metric with its centred interval; taking the bias off can push a fraction's over the edge, which is cut."""
    interval = bootstrap(
        metrics,
        num_images=num_images,
        generator=np.random.default_rng(SEED),
        num_resamples=NUM_RESAMPLES,
        centred=True,
        num_processes=num_processes,
    )
    edge = [math.inf if name in metrics.differences else 1.0 for name in metrics.names]
    low, high = (np.clip(bound, np.subtract(1.0, edge), edge) for bound in (interval.low, interval.high))
    return pd.DataFrame({"metric": metrics.names, "value": interval.value, "low": low, "high": high})


def _counts(ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """Objects and pictures behind each breakdown, and the categories' APs."""
    groups = pd.concat([slenderness(ground_truth, detections, AspectCuts()), crowdedness(ground_truth, detections)])
    categories = category_aspects(ground_truth, detections)
    categories = categories.rename(columns={"ap": "value", "name": "label"})
    categories["metric"] = "ap_category"
    columns = ["metric", "value", "num_objects", "num_images", "label", "median_aspect"]
    return pd.concat([groups, categories]).reindex(columns=columns)


def _differences(
    ones: JointMetrics, twos: JointMetrics, num_images: int, num_resamples: int, num_processes: int
) -> pd.DataFrame:
    """Second minus first in each metric with its paired interval."""
    interval = paired_bootstrap(
        ones,
        twos,
        num_images=num_images,
        generator=np.random.default_rng(SEED),
        num_resamples=num_resamples,
        num_processes=num_processes,
    )
    columns = {"value": interval.value, "low": interval.low, "high": interval.high}
    return pd.DataFrame({"metric": ones.names, **columns})
