"""One detector's numbers from its detections alone, each with its interval over pictures and what it rests on.

What it is: the frame behind `freeanchor evaluate`. What it is not: the metrics (`experiments.metrics`), the measurement
of a run of ours (`experiments.measure`, which has candidates too), or two detectors compared.

    evaluation_frame(ground_truth, detections)          # metric, label, value, low, high, num_objects, num_images
"""

import os

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.breakdowns import category_aspects, crowdedness, slenderness
from analysis.coco import STATISTICS, coco_statistics
from analysis.columns import Detections, GroundTruth
from analysis.precision import AREA_RANGES, area_subset
from analysis.processes import usable_processors
from analysis.statistics import bootstrap
from experiments.metrics import CATEGORY, JointMetrics, Metric, detection_metrics

COLUMNS = ("metric", "label", "value", "low", "high", "num_objects", "num_images")
_SEED = 0  # of the resampling: every metric, and every detector, meets the same pictures
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start


def evaluation_frame(
    ground_truth: GroundTruth, detections: Detections, *, num_resamples: int = 1000, per_category: bool = False
) -> pd.DataFrame:
    """One row a metric: metric, label, value, low, high, num_objects, num_images; fractions, nan where undefined.

    The twelve COCO statistics are pycocotools' own; then AP of slender, middle and square objects and by crowdedness,
    and differences of these; `per_category` adds a row `ap_category` a class, its name in `label`. `low` and `high`
    bound the value by centred percentile bootstrap over pictures (95 %), clipped to what the metric can be; nan with
    `num_resamples` 0. Counts are of the objects that a metric is about, crowd regions left out, and of the pictures it
    looks at (for a subset of objects: those that hold one).
    """
    metrics = detection_metrics(ground_truth, detections, per_category=per_category)
    rows = _intervals(metrics, len(ground_truth.image_ids), num_resamples, len(detections))
    rows["value"] = rows["metric"].map(coco_statistics(ground_truth, detections)).fillna(rows["value"])
    is_category = rows["metric"].str.startswith(CATEGORY)
    frame = rows[~is_category].set_index("metric")
    others = [name for name in frame.index if name not in STATISTICS]
    frame = frame.loc[[*STATISTICS, *others]].reset_index().assign(label="")
    frame = frame.merge(_counts(ground_truth, detections), how="left")
    if per_category:
        counts = category_aspects(ground_truth, detections).rename(columns={"name": "label"})
        counts = counts[["label", "num_objects", "num_images"]].assign(metric="ap_category")
        bounds = rows.loc[is_category, ["value", "low", "high"]].reset_index(drop=True)
        frame = pd.concat([frame, counts.join(bounds)], ignore_index=True)
    return frame[list(COLUMNS)].astype({"num_objects": "Int64", "num_images": "Int64"})


def _intervals(metrics: JointMetrics, num_images: int, num_resamples: int, num_detections: int) -> pd.DataFrame:
    """metric, value, low, high: each value with its centred interval, inside what the metric can be."""
    if not num_resamples:
        values = metrics(np.ones((1, num_images)))[0]
        return pd.DataFrame({"metric": metrics.names, "value": values, "low": np.nan, "high": np.nan})
    num_processes = usable_processors() if num_detections >= _SMALL else 1
    with tqdm(total=num_resamples, desc="intervals", unit="resampling", disable=None) as progress:
        interval = bootstrap(
            _watched(metrics, progress, num_resamples, num_processes),
            num_images=num_images,
            generator=np.random.default_rng(_SEED),
            num_resamples=num_resamples,
            centred=True,
            num_processes=num_processes,
        )
    lowest = [-1.0 if name in metrics.differences else 0.0 for name in metrics.names]
    low, high = (np.clip(bound, lowest, 1.0) for bound in (interval.low, interval.high))
    return pd.DataFrame({"metric": metrics.names, "value": interval.value, "low": low, "high": high})


def _watched(metrics: JointMetrics, progress: tqdm, num_resamples: int, num_processes: int) -> Metric:
    """The metrics, with this process telling how far it and, at its pace, the others are."""
    here = os.getpid()

    def values(weights: np.ndarray) -> np.ndarray:
        result = metrics(weights)
        if os.getpid() == here and len(weights) > 1:  # a single weighting is the value itself
            progress.update(min(len(weights) * num_processes, num_resamples - progress.n))
        return result

    return values


def _counts(ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """metric, num_objects, num_images."""
    counting = ~ground_truth.iscrowd
    rows = []
    for name in STATISTICS:
        size = name.split("_")[-1]
        if size in AREA_RANGES:
            inside = counting & area_subset(ground_truth, detections, size).objects
            rows.append((name, int(inside.sum()), len(np.unique(ground_truth.image_id[inside]))))
        else:
            rows.append((name, int(counting.sum()), len(ground_truth.image_ids)))
    columns = ["metric", "num_objects", "num_images"]
    groups = [slenderness(ground_truth, detections)[columns], crowdedness(ground_truth, detections)[columns]]
    return pd.concat([pd.DataFrame(rows, columns=columns), *groups], ignore_index=True)
