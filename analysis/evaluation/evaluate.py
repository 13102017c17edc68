"""Everything measured on one evaluation, each number with its interval over images; and the difference of two.

    evaluation_frame(ground_truth, detections)          # behind `freeanchor evaluate`
    compare_detections(ground_truth, one, two)          # behind `freeanchor compare`
    measure(ground_truth, detections, recall)           # of a run of ours, whose candidates are known too
    compare((ground_truth, one, recall_one), (ground_truth, two, recall_two))

The number, its bootstrap interval and the paired interval of a difference all come from one definition
(`analysis.evaluation.metrics`), and all metrics are resampled together.
"""

import os

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import STATISTICS, coco_statistics
from analysis.evaluation.breakdowns import (
    AspectCuts,
    aspect_ratio,
    category_counts,
    crowdedness_bins,
    objects_per_image,
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
from analysis.evaluation.precision import ALL_AREAS, AREA_RANGES
from analysis.evaluation.processes import usable_processors
from analysis.evaluation.statistics import bootstrap, paired_bootstrap

COLUMNS = ("metric", "label", "value", "low", "high", "num_objects", "num_images")
NUM_RESAMPLES = 1000
_SEED = 0  # of the resampling: every metric, and every detector, meets the same images
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start
Measured = tuple[GroundTruth, Detections, pd.DataFrame]


def evaluation_frame(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    num_resamples: int = NUM_RESAMPLES,
    per_category: bool = False,
    check: bool = False,
) -> pd.DataFrame:
    """One row per metric: metric, label, value, low, high, num_objects, num_images; fractions, nan where undefined.

    The twelve COCO statistics equal pycocotools' to the bit, which the tests hold, and `check` here and now: it takes
    pycocotools' time (a minute at COCO's size) and raises `ArithmeticError` should one differ. Then AP of slender,
    middle and square objects and by crowdedness, and differences of these; `per_category` adds one row `ap_category`
    per class, its name in `label`. `low` and `high` bound the value by centred percentile bootstrap over images (95 %),
    clipped to what the metric can be; nan with `num_resamples` 0. Counts are of the objects that a metric is about,
    crowd regions left out, and of the images it looks at (for a subset of objects: those that hold one).
    """
    curves = detection_curves(ground_truth, detections)
    twelve = curves.twelve()
    if check:
        _refuse_difference(twelve, coco_statistics(ground_truth, detections))
    metrics = metrics_of(curves, ground_truth, per_category=per_category)
    rows = metric_intervals(metrics, ground_truth, num_resamples, _processes(detections))
    rows["value"] = rows["metric"].map(twelve).fillna(rows["value"])
    single = rows[~rows["metric"].str.startswith(CATEGORY)].assign(label="").merge(_counts(ground_truth), how="left")
    order = [*STATISTICS, *(name for name in single["metric"] if name not in STATISTICS)]
    parts = [single.set_index("metric").loc[order].reset_index()]
    if per_category:
        parts.append(_category_rows(rows, ground_truth))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)].astype({"num_objects": "Int64", "num_images": "Int64"})


def measure(
    ground_truth: GroundTruth, detections: Detections, recall: pd.DataFrame, *, num_processes: int | None = None
) -> pd.DataFrame:
    """One row per metric: metric, value, low, high (95 % over images), num_objects, num_images, label, median_aspect.

    The twelve COCO statistics are pycocotools' own numbers; `recall` has one row per object with the columns of
    `RECALL_DEFINITIONS`. Categories (`ap_category`, one row per class) come last. Intervals are centred on the value
    and clipped to what the metric can be; nan where a metric is undefined. `num_processes` (None chooses) changes no
    number.
    """
    metrics = _metrics((ground_truth, detections, recall), per_category=True)
    rows = metric_intervals(metrics, ground_truth, NUM_RESAMPLES, num_processes or _processes(detections))
    rows["value"] = rows["metric"].map(coco_statistics(ground_truth, detections)).fillna(rows["value"])
    counts = _counts(ground_truth)
    counts = counts[~counts["metric"].isin(STATISTICS)]  # whose counts the stored measurements do not have
    single = rows[~rows["metric"].str.startswith(CATEGORY)].merge(counts, how="left")
    columns = ["metric", "value", "low", "high", "num_objects", "num_images", "label", "median_aspect"]
    return pd.concat([single, _category_rows(rows, ground_truth)], ignore_index=True)[columns]


def compare(first: Measured, second: Measured, *, num_processes: int | None = None) -> pd.DataFrame:
    """Second minus first in every metric, paired over images: metric, value, low, high (95 %)."""
    num_processes = num_processes or _processes(first[1], second[1])
    return metric_differences(_metrics(first), _metrics(second), first[0], NUM_RESAMPLES, num_processes)


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
    frame = metric_differences(ones, twos, ground_truth, num_resamples, num_processes or _processes(first, second))
    as_they_are = np.ones((1, len(ground_truth.image_ids)))
    frame = frame.assign(first=ones(as_they_are)[0], second=twos(as_they_are)[0])
    return frame[["metric", "first", "second", "value", "low", "high"]]


def _metrics(measured: Measured, *, per_category: bool = False) -> JointMetrics:
    ground_truth, detections, recall = measured
    of_detections = detection_metrics(ground_truth, detections, per_category=per_category)
    return of_detections.and_those_of(recall_metrics(ground_truth, recall))


def _processes(*detections: Detections) -> int:
    """How many processes so many detections are worth."""
    return usable_processors() if sum(len(own) for own in detections) >= _SMALL else 1


def _refuse_difference(ours: dict[str, float], record: dict[str, float]) -> None:
    for name, value in record.items():
        if not np.array_equal(ours[name], value, equal_nan=True):
            raise ArithmeticError(f"{name} is {ours[name]!r} here and {value!r} in pycocotools; please report this")


def metric_intervals(
    metrics: JointMetrics, ground_truth: GroundTruth, num_resamples: int = NUM_RESAMPLES, num_processes: int = 1
) -> pd.DataFrame:
    """metric, value, low, high (95 % over images, centred); taking the bias off can push a bound too far: it is cut.

    The cut is at what a metric can be: [0, 1], for a difference [-1, 1]. Bounds are nan with `num_resamples` 0.
    """
    num_images = len(ground_truth.image_ids)
    if not num_resamples:
        values = metrics(np.ones((1, num_images)))[0]
        return pd.DataFrame({"metric": metrics.names, "value": values, "low": np.nan, "high": np.nan})
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


def metric_differences(
    ones: JointMetrics,
    twos: JointMetrics,
    ground_truth: GroundTruth,
    num_resamples: int = NUM_RESAMPLES,
    num_processes: int = 1,
) -> pd.DataFrame:
    """metric, value, low, high: `twos` minus `ones` with the 95 % interval of the paired bootstrap over images."""
    interval = paired_bootstrap(
        ones,
        twos,
        num_images=len(ground_truth.image_ids),
        generator=np.random.default_rng(_SEED),
        num_resamples=num_resamples,
        num_processes=num_processes,
    )
    columns = {"value": interval.value, "low": interval.low, "high": interval.high}
    return pd.DataFrame({"metric": ones.names, **columns})


def _counts(ground_truth: GroundTruth) -> pd.DataFrame:
    """metric, num_objects, num_images of the twelve statistics and of each breakdown."""
    counting, aspects = ~ground_truth.iscrowd, aspect_ratio(ground_truth.sizes)

    def within(measure: np.ndarray, low: float, high: float) -> tuple[int, int]:
        own = counting & (measure >= low) & (measure <= high)
        return int(own.sum()), len(np.unique(ground_truth.image_id[own]))

    whole = within(ground_truth.area, *ALL_AREAS)[0], len(ground_truth.image_ids)
    rows = dict.fromkeys(STATISTICS, whole)
    rows |= {
        f"{of}_{size}": within(ground_truth.area, *AREA_RANGES[size]) for of in ("ap", "ar") for size in AREA_RANGES
    }
    rows |= {f"ap_{shape}": within(aspects, *bounds) for shape, bounds in AspectCuts().ranges().items()}
    counts = objects_per_image(ground_truth)
    for name, images in crowdedness_bins(ground_truth).items():
        rows[f"ap_{name}"] = int(counts[images].sum()), int(images.sum())
    return pd.DataFrame([(name, *numbers) for name, numbers in rows.items()], columns=["metric", *COLUMNS[-2:]])


def _category_rows(rows: pd.DataFrame, ground_truth: GroundTruth) -> pd.DataFrame:
    """One row `ap_category` per class: its name in `label`, its counts, value and interval."""
    counts = category_counts(ground_truth).rename(columns={"name": "label"}).drop(columns="category_id")
    bounds = rows.loc[rows["metric"].str.startswith(CATEGORY), ["value", "low", "high"]].reset_index(drop=True)
    return counts.assign(metric="ap_category").join(bounds)
