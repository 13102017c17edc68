"""Everything measured on one evaluation, each number with its interval over images; and the difference of two.

    evaluation_frame(ground_truth, detections)          # behind `freeanchor evaluate`
    compare_detections(ground_truth, one, two)          # behind `freeanchor compare`
    measure(ground_truth, detections, recall)           # of a run of ours, whose candidates are known too
    compare((ground_truth, one, recall_one), (ground_truth, two, recall_two))

The number, its bootstrap interval and the paired interval of a difference all come from one definition
(`analysis.evaluation.metrics`), and all metrics are resampled together.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import STATISTICS, coco_statistics
from analysis.evaluation.breakdowns import category_counts
from analysis.evaluation.errors import Convention
from analysis.evaluation.metrics import (
    CATEGORY,
    JointMetrics,
    Metric,
    detection_curves,
    detection_metrics,
    metrics_of,
    recall_metrics,
)
from analysis.evaluation.parts import Context, Part, errors_part, slices_part, with_values
from analysis.evaluation.protocol import COCO_PROTOCOL, Protocol
from analysis.evaluation.slices import Slice
from analysis.evaluation.statistics import bootstrap, paired_bootstrap
from analysis.evaluation.working_point import Goal, working_points_part
from freeanchor.workers import usable_processors

COLUMNS = ("metric", "label", "value", "low", "high", "num_objects", "num_images")
NUM_RESAMPLES = 1000
_SEED = 0  # of the resampling: every metric, and every detector, meets the same images
_SMALL = 100_000  # detections; fewer are done before other processes are worth their start
Measured = tuple[GroundTruth, Detections, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What an evaluation is asked for beside its main table."""

    protocol: Protocol = COCO_PROTOCOL
    per_category: bool = False
    errors: Convention | None = None
    working_point: Goal | None = None
    slices: Sequence[Slice] = ()
    candidates: tuple[Detections, ...] = ()  # before NMS, one set for each detector


def evaluation_frame(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    num_resamples: int = NUM_RESAMPLES,
    per_category: bool = False,
    check: bool = False,
) -> pd.DataFrame:
    """The main table of `evaluation_frames`."""
    wanted = Wanted(per_category=per_category)
    return evaluation_frames(ground_truth, detections, wanted, num_resamples=num_resamples, check=check)["metrics"]


def evaluation_frames(
    ground_truth: GroundTruth,
    detections: Detections,
    wanted: Wanted = Wanted(),
    *,
    num_resamples: int = NUM_RESAMPLES,
    check: bool = False,
    context: Context | None = None,
) -> dict[str, pd.DataFrame]:
    """The main table, `metrics`, then `errors` and `slices` where wanted, all resampled together.

    One row per metric: metric, label, value, low, high, num_objects, num_images; fractions, nan where undefined.
    The twelve COCO statistics equal pycocotools' to the bit, which the tests hold, and `check` here and now: it takes
    pycocotools' time (a minute at COCO's size) and raises `ArithmeticError` should one differ. Then AP of slender,
    middle and square objects and by crowdedness, and differences of these; `per_category` adds one row `ap_category`
    per class, its name in `label`. `low` and `high` bound the value by centred percentile bootstrap over images (95 %),
    clipped to what the metric can be; nan with `num_resamples` 0. Counts are of the objects that a metric is about,
    crowd regions left out, and of the images it looks at (for a subset of objects: those that hold one). Errors and
    slices have the columns of `analysis.evaluation.parts`, then value, low, high. `context` is that of `contexts_of`,
    where the caller needs it for more.
    """
    protocol = wanted.protocol
    context = context or contexts_of(ground_truth, (detections,), wanted)[0]
    curves = detection_curves(ground_truth, detections, protocol, overlaps=context.overlaps)
    twelve = curves.twelve() if protocol.is_record else {}
    if check:
        _refuse_difference(twelve, coco_statistics(ground_truth, detections))
    main = metrics_of(curves, ground_truth, per_category=wanted.per_category, protocol=protocol)
    parts = _parts(context, wanted)
    rows = metric_intervals(_joined(main, parts), ground_truth, num_resamples, _processes(detections))
    columns = ("value", "low", "high")
    more = {name: with_values(part.labels, _rows_of(rows, name), columns) for name, part in parts.items()}
    rows = rows[rows["metric"].isin(main.names)]
    rows["value"] = rows["metric"].map(twelve).fillna(rows["value"])
    counts = _counts(ground_truth, protocol)
    single = rows[~rows["metric"].str.startswith(CATEGORY)].assign(label="").merge(counts, how="left")
    order = [name for name in STATISTICS if name in main.names] if protocol.is_record else []
    order += [name for name in single["metric"] if name not in order]
    whole = [single.set_index("metric").loc[order].reset_index()]
    if wanted.per_category:
        whole.append(_category_rows(rows, ground_truth))
    frame = pd.concat(whole, ignore_index=True)[list(COLUMNS)]
    return {"metrics": frame.astype({"num_objects": "Int64", "num_images": "Int64"}), **more}


def contexts_of(ground_truth: GroundTruth, detectors: Sequence[Detections], wanted: Wanted) -> list[Context]:
    """Each detector under the protocol that is wanted: what tables share of it is found once, if they share it."""
    candidates = wanted.candidates or (None,) * len(detectors)
    return [
        Context(ground_truth=ground_truth, detections=own, protocol=wanted.protocol, candidates=before)
        for own, before in zip(detectors, candidates, strict=True)
    ]


def _parts(context: Context, wanted: Wanted) -> dict[str, Part]:
    parts = {"errors": errors_part(context, wanted.errors)} if wanted.errors else {}
    if wanted.working_point is not None:
        parts["working_points"] = working_points_part(context, wanted.working_point)
    return parts | ({"slices": slices_part(context, wanted.slices)} if wanted.slices else {})


def _joined(main: JointMetrics, parts: dict[str, Part]) -> JointMetrics:
    for part in parts.values():
        main = main.and_those_of(part.metrics)
    return main


def _rows_of(rows: pd.DataFrame, part: str) -> pd.DataFrame:
    return rows[rows["metric"].str.startswith(f"{part}/")]


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
    frames = comparison_frames(ground_truth, first, second, num_resamples=num_resamples, num_processes=num_processes)
    return frames["metrics"].rename(columns={"difference": "value"})


def comparison_frames(
    ground_truth: GroundTruth,
    first: Detections,
    second: Detections,
    wanted: Wanted = Wanted(),
    *,
    num_resamples: int = NUM_RESAMPLES,
    num_processes: int | None = None,
    contexts: Sequence[Context] = (),
) -> dict[str, pd.DataFrame]:
    """The main table, `metrics`, then `errors` and `slices` where wanted: first, second, difference, low, high.

    Classes, where wanted, are rows `ap_category` of the main table, which has a column `label` then. `contexts` are
    those of `contexts_of`, where the caller needs them for more.
    """
    detectors = (first, second)
    parts: dict[str, Part] = {}
    joint: list[JointMetrics] = []
    for context in contexts or contexts_of(ground_truth, detectors, wanted):
        curves = detection_curves(ground_truth, context.detections, wanted.protocol, overlaps=context.overlaps)
        main = metrics_of(curves, ground_truth, per_category=wanted.per_category, protocol=wanted.protocol)
        parts = _parts(context, wanted)
        joint.append(_joined(main, parts))
    ones, twos = joint
    rows = metric_differences(ones, twos, ground_truth, num_resamples, num_processes or _processes(*detectors))
    as_they_are = np.ones((1, len(ground_truth.image_ids)))
    values = [metrics(as_they_are)[0] for metrics in joint]
    rows = rows.rename(columns={"value": "difference"}).assign(first=values[0], second=values[1])
    columns = ("first", "second", "difference", "low", "high")
    more = {name: with_values(part.labels, _rows_of(rows, name), columns) for name, part in parts.items()}
    rows = rows.loc[rows["metric"].isin(main.names), ["metric", *columns]].reset_index(drop=True)
    if wanted.per_category:
        rows = _with_category_labels(rows, ground_truth)
    return {"metrics": rows, **more}


def _with_category_labels(rows: pd.DataFrame, ground_truth: GroundTruth) -> pd.DataFrame:
    """Classes last, their name in `label`."""
    is_class = rows["metric"].str.startswith(CATEGORY)
    classes = rows[is_class].assign(metric="ap_category", label=list(ground_truth.category_names))
    frame = pd.concat([rows[~is_class].assign(label=""), classes], ignore_index=True)
    return frame[["metric", "label", *(name for name in rows if name != "metric")]]


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

    The cut is at what a metric can be: [0, 1], for a difference or a signed one [-1, 1]. Bounds are nan with
    `num_resamples` 0.
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
    lowest, highest = zip(*(_range_of(name, metrics) for name in metrics.names), strict=True)
    back = np.where([name.startswith("working_points/") for name in metrics.names], interval.bias, 0.0)  # not centred
    low, high = (np.clip(bound + back, lowest, highest) for bound in (interval.low, interval.high))
    return pd.DataFrame({"metric": metrics.names, "value": interval.value, "low": low, "high": high})


def _range_of(name: str, metrics: JointMetrics) -> tuple[float, float]:
    """What a metric can be: a count, a difference of fractions, or a fraction."""
    last = name.rpartition("/")[2]
    if last.startswith("num_") or last == "threshold":
        return (0.0 if last != "threshold" else -np.inf), np.inf
    is_signed = name in metrics.differences or name in metrics.signed or last.startswith("dap_")
    return (-1.0 if is_signed else 0.0), 1.0


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


def _counts(ground_truth: GroundTruth, protocol: Protocol = COCO_PROTOCOL) -> pd.DataFrame:
    """metric, num_objects, num_images of the twelve statistics and of each breakdown."""
    rows = [(name, *numbers) for name, numbers in protocol.counts(ground_truth).items()]
    return pd.DataFrame(rows, columns=["metric", *COLUMNS[-2:]])


def _category_rows(rows: pd.DataFrame, ground_truth: GroundTruth) -> pd.DataFrame:
    """One row `ap_category` per class: its name in `label`, its counts, value and interval."""
    counts = category_counts(ground_truth).rename(columns={"name": "label"}).drop(columns="category_id")
    bounds = rows.loc[rows["metric"].str.startswith(CATEGORY), ["value", "low", "high"]].reset_index(drop=True)
    return counts.assign(metric="ap_category").join(bounds)
