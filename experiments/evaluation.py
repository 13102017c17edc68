"""One detector's numbers from its detections alone, each with its interval over pictures and what it rests on.

What it is: the frame behind `freeanchor evaluate`. What it is not: the metrics (`experiments.metrics`), the measurement
of a run of ours (`experiments.measure`, which has candidates too), or two detectors compared.

    evaluation_frame(ground_truth, detections)          # metric, label, value, low, high, num_objects, num_images
"""

import os

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.breakdowns import AspectCuts, aspect_ratio, category_counts, crowdedness_bins, objects_per_image
from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import STATISTICS, coco_statistics
from analysis.precision import AREA_RANGES
from analysis.processes import usable_processors
from analysis.statistics import bootstrap
from experiments.metrics import CATEGORY, JointMetrics, Metric, detection_curves, metrics_of

COLUMNS = ("metric", "label", "value", "low", "high", "num_objects", "num_images")
_SEED = 0  # of the resampling: every metric, and every detector, meets the same pictures
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start


def evaluation_frame(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    num_resamples: int = 1000,
    per_category: bool = False,
    check: bool = False,
) -> pd.DataFrame:
    """One row a metric: metric, label, value, low, high, num_objects, num_images; fractions, nan where undefined.

    The twelve COCO statistics equal pycocotools' to the bit, which the tests hold, and `check` here and now: it takes
    pycocotools' time (a minute at COCO's size) and raises `ArithmeticError` should one differ. Then AP of slender,
    middle and square objects and by crowdedness, and differences of these; `per_category` adds a row `ap_category` a
    class, its name in `label`. `low` and `high` bound the value by centred percentile bootstrap over pictures (95 %),
    clipped to what the metric can be; nan with `num_resamples` 0. Counts are of the objects that a metric is about,
    crowd regions left out, and of the pictures it looks at (for a subset of objects: those that hold one).
    """
    curves = detection_curves(ground_truth, detections)
    metrics = metrics_of(curves, ground_truth, per_category=per_category)
    twelve = curves.twelve()
    if check:
        _refuse_difference(twelve, coco_statistics(ground_truth, detections))
    rows = _intervals(metrics, len(ground_truth.image_ids), num_resamples, len(detections))
    rows["value"] = rows["metric"].map(twelve).fillna(rows["value"])
    is_category = rows["metric"].str.startswith(CATEGORY)
    frame = rows[~is_category].set_index("metric")
    others = [name for name in frame.index if name not in STATISTICS]
    frame = frame.loc[[*STATISTICS, *others]].reset_index().assign(label="")
    frame = frame.merge(_counts(ground_truth), how="left")
    if per_category:
        counts = category_counts(ground_truth).rename(columns={"name": "label"})
        counts = counts[["label", "num_objects", "num_images"]].assign(metric="ap_category")
        bounds = rows.loc[is_category, ["value", "low", "high"]].reset_index(drop=True)
        frame = pd.concat([frame, counts.join(bounds)], ignore_index=True)
    return frame[list(COLUMNS)].astype({"num_objects": "Int64", "num_images": "Int64"})


def _refuse_difference(ours: dict[str, float], record: dict[str, float]) -> None:
    """Raises where a statistic is not pycocotools' to the bit."""
    for name, value in record.items():
        if not np.array_equal(ours[name], value, equal_nan=True):
            raise ArithmeticError(f"{name} is {ours[name]!r} here and {value!r} in pycocotools; please report this")


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


def _counts(ground_truth: GroundTruth) -> pd.DataFrame:
    """metric, num_objects, num_images."""
    counting = ~ground_truth.iscrowd
    rows = []
    for name in STATISTICS:
        low, high = AREA_RANGES.get(name.split("_")[-1], (-np.inf, np.inf))
        inside = counting & (ground_truth.area >= low) & (ground_truth.area <= high)
        num_images = len(np.unique(ground_truth.image_id[inside])) if low >= 0 else len(ground_truth.image_ids)
        rows.append((name, int(inside.sum()), num_images))
    aspects = aspect_ratio(ground_truth.sizes)
    for name, (low, high) in AspectCuts().ranges().items():
        inside = counting & (aspects >= low) & (aspects <= high)
        rows.append((f"ap_{name}", int(inside.sum()), len(np.unique(ground_truth.image_id[inside]))))
    counts = objects_per_image(ground_truth)
    for name, pictures in crowdedness_bins(ground_truth).items():
        rows.append((f"ap_{name}", int(counts[pictures].sum()), int(pictures.sum())))
    return pd.DataFrame(rows, columns=["metric", "num_objects", "num_images"])
