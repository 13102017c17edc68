"""Everything measured on one evaluation, each number with its interval over images; and the difference of two.

The number, its bootstrap interval and the paired interval of a difference all come from one definition
(`experiments.metrics`), and all metrics are resampled together. AP, AR and their size groups are pycocotools'.

    frame = measure(ground_truth, detections, recall)          # metric, value, low, high, num_objects, num_images, …
    gains = compare((ground_truth, one, recall_one), (ground_truth, two, recall_two))
    gains = compare_detections(ground_truth, one, two)         # anybody's detections, without candidates

One detector's numbers from its detections alone, each with its interval over images and what it rests on.

What it is: the frame behind `freeanchor evaluate`. What it is not: the metrics (`experiments.metrics`), the measurement
of a run of ours (`experiments.measure`, which has candidates too), or two detectors compared.

    evaluation_frame(ground_truth, detections)          # metric, label, value, low, high, num_objects, num_images
"""

import math
import os

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import STATISTICS, coco_statistics
from analysis.evaluation.breakdowns import (
    AspectCuts,
    aspect_ratio,
    category_aspects,
    category_counts,
    crowdedness,
    crowdedness_bins,
    objects_per_image,
    slenderness,
)
from analysis.evaluation.metrics import (
    CATEGORY,
    JointMetrics,
    Metric,
    detection_curves,
    detection_metrics,
    metrics_of,
    recall_metrics,
)
from analysis.evaluation.precision import AREA_RANGES
from analysis.evaluation.processes import usable_processors
from analysis.evaluation.statistics import bootstrap, paired_bootstrap

NUM_RESAMPLES = 1000
SEED = 0  # of the resampling of images: the same images for every detector
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start
Measured = tuple[GroundTruth, Detections, pd.DataFrame]


def metric_functions(ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame) -> dict[str, Metric]:
    """Metric name -> function from image weights [R, N] to values [R]."""
    return _metrics((ground_truth, detections, recall)).functions()


def detection_functions(ground_truth: GroundTruth, detections: Detections) -> dict[str, Metric]:
    """The metrics that detections alone give: AP and AR overall and by size, AP by slenderness and crowdedness.

    One function at a time; many at once are faster together (`experiments.metrics.detection_metrics`).
    """
    return detection_metrics(ground_truth, detections).functions()


def measure(
    ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame, *, num_processes: int | None = None
) -> pd.DataFrame:
    """One row a metric: metric, value, low, high (95 % over images), num_objects, num_images, label, median_aspect.

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
    """Second minus first in every metric, paired over images: metric, value, low, high (95 %)."""
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
    """Anybody's two detectors on the same images: metric, first, second, value (second minus first), low, high.

    The interval is the 95 % percentile interval of the paired bootstrap over images; nan where a metric is undefined.
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
    """Objects and images behind each breakdown, and the categories' APs."""
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


COLUMNS = ("metric", "label", "value", "low", "high", "num_objects", "num_images")
_SEED = 0  # of the resampling: every metric, and every detector, meets the same images


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
    class, its name in `label`. `low` and `high` bound the value by centred percentile bootstrap over images (95 %),
    clipped to what the metric can be; nan with `num_resamples` 0. Counts are of the objects that a metric is about,
    crowd regions left out, and of the images it looks at (for a subset of objects: those that hold one).
    """
    curves = detection_curves(ground_truth, detections)
    metrics = metrics_of(curves, ground_truth, per_category=per_category)
    twelve = curves.twelve()
    if check:
        _refuse_difference(twelve, coco_statistics(ground_truth, detections))
    rows = _evaluation_intervals(metrics, len(ground_truth.image_ids), num_resamples, len(detections))
    rows["value"] = rows["metric"].map(twelve).fillna(rows["value"])
    is_category = rows["metric"].str.startswith(CATEGORY)
    frame = rows[~is_category].set_index("metric")
    others = [name for name in frame.index if name not in STATISTICS]
    frame = frame.loc[[*STATISTICS, *others]].reset_index().assign(label="")
    frame = frame.merge(_evaluation_counts(ground_truth), how="left")
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


def _evaluation_intervals(
    metrics: JointMetrics, num_images: int, num_resamples: int, num_detections: int
) -> pd.DataFrame:
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


def _evaluation_counts(ground_truth: GroundTruth) -> pd.DataFrame:
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
    for name, images in crowdedness_bins(ground_truth).items():
        rows.append((f"ap_{name}", int(counts[images].sum()), int(images.sum())))
    return pd.DataFrame(rows, columns=["metric", "num_objects", "num_images"])
