"""Everything measured on one evaluation: pycocotools' numbers, the analyses' numbers, and intervals around them."""

import numpy as np
import pandas as pd
import pytest
from oracles.measured_worlds import NUM_IMAGES, NUM_OBJECTS, measured

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import coco_statistics
from analysis.evaluation import evaluate as module
from analysis.evaluation.breakdowns import category_counts
from analysis.evaluation.evaluate import compare, compare_detections, evaluation_frame, measure
from analysis.evaluation.matching import find_overlaps, match
from analysis.evaluation.metrics import (
    RECALL_DEFINITIONS,
    JointMetrics,
    Metric,
    detection_metrics,
    object_recalls,
    recall_metrics,
)
from analysis.evaluation.nms_recall import nms_recall_table
from analysis.evaluation.precision import AREA_RANGES, area_subset, average_precision, average_recall, precision_curves
from analysis.evaluation.statistics import bootstrap, paired_bootstrap

SUFFIXES = tuple(RECALL_DEFINITIONS)


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of 50 resamplings: enough to see where they lie, and to compare two ways of doing them."""
    monkeypatch.setattr(module, "NUM_RESAMPLES", 50)


def one_by_one(metrics: JointMetrics) -> dict[str, Metric]:
    """Metric name -> function from weights [R, N] to values [R], each on its own."""
    single = {
        name: lambda weights, group=group, column=column: group.values(weights)[:, column]
        for group in metrics.groups
        for column, name in enumerate(group.names)
    }
    gaps = {
        name: lambda weights, one=single[one], two=single[two]: one(weights) - two(weights)
        for name, (one, two) in metrics.differences.items()
    }
    return single | gaps


def metric_functions(truth: GroundTruth, detections: Detections, recall: pd.DataFrame) -> dict[str, Metric]:
    """All metrics of an evaluation, each on its own."""
    return one_by_one(detection_metrics(truth, detections).and_those_of(recall_metrics(truth, recall)))


def _values(frame: pd.DataFrame) -> pd.Series:
    single = frame[frame["metric"] != "ap_category"]
    assert single["metric"].is_unique
    return single.set_index("metric")["value"]


def test_the_ap_family_is_pycocotools() -> None:
    """All twelve statistics, to the last bit."""
    truth, detections, recall = measured()
    values = _values(measure(truth, detections, recall))
    for name, value in coco_statistics(truth, detections).items():
        assert values[name] == value


def test_every_number_has_an_interval_around_it() -> None:
    """AP, AR, breakdowns, recalls, differences and categories: low and high wherever the value is defined."""
    frame = measure(*measured())
    defined = frame[frame["value"].notna()]
    assert {"ap", "ap_50", "ap_slender", "nr", "nr_50", "ar_1", "ar_small", "ap_category"} <= set(defined["metric"])
    assert {"recall_before_50", "recall_after_90_class_aware", "ap_slender_minus_square"} <= set(defined["metric"])
    assert bool((defined["low"] <= defined["high"]).all())
    assert bool((defined["low"] <= defined["value"] + 0.05).all())
    assert bool((defined["high"] >= defined["value"] - 0.05).all())
    assert frame.loc[frame["value"].isna(), ["low", "high"]].isna().all(axis=None)


def test_fractions_keep_their_intervals_between_0_and_1() -> None:
    """Also where taking the bias off would push a bound over the edge."""
    truth, detections, recall = measured()
    lost = np.arange(NUM_OBJECTS) == 7
    for before, after in RECALL_DEFINITIONS.values():
        recall = recall.assign(**{before: 0.95, after: np.where(lost, 0.3, 0.95)})
    nr_50 = metric_functions(truth, detections, recall)["nr_50"]
    uncut = bootstrap(nr_50, num_images=NUM_IMAGES, generator=np.random.default_rng(0), num_resamples=50, centred=True)
    assert uncut.high > 1
    frame = measure(truth, detections, recall).set_index("metric").dropna(subset=["value"])
    assert frame.loc["nr_50", ["low", "high"]].to_list() == [pytest.approx(uncut.low, abs=1e-12), 1.0]
    fractions = frame[~frame.index.str.contains("_minus_")]
    assert fractions[["low", "high"]].stack().between(0, 1).all()


def test_intervals_of_differences_may_fall_below_0() -> None:
    """A detector that finds no slender object is worse on slender than on square ones, whole interval."""
    truth, detections, recall = measured(noise=0.02)
    aspect = detections.sizes.max(axis=1) / detections.sizes.min(axis=1)
    astray = Detections(
        image_id=detections.image_id,
        category_id=detections.category_id,
        boxes=detections.boxes + np.where(aspect > 2, 500.0, 0.0)[:, None],
        scores=detections.scores,
    )
    row = measure(truth, astray, recall).set_index("metric").loc["ap_slender_minus_square"]
    assert row["low"] <= row["value"] <= row["high"] < 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nms_recall_is_the_analysis_of_the_stored_columns(suffix: str) -> None:
    """NR and NR_tau under each definition, with the recalls before and after beside them."""
    truth, detections, recall = measured()
    values = _values(measure(truth, detections, recall))
    before, after = RECALL_DEFINITIONS[suffix]
    ratios = []
    for tau in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9):
        found, kept = (recall[before] > tau).mean(), (recall[after] > tau).mean()
        ratios.append(kept / found)
        percent = round(100 * tau)
        assert values[f"nr_{percent}{suffix}"] == pytest.approx(kept / found)
        assert values[f"recall_before_{percent}{suffix}"] == pytest.approx(found)
        assert values[f"recall_after_{percent}{suffix}"] == pytest.approx(kept)
    assert values[f"nr{suffix}"] == pytest.approx(np.mean(ratios))
    assert nms_recall_table(object_recalls(recall)[suffix])["nr"].mean() == pytest.approx(np.mean(ratios))


def test_breakdowns_are_those_of_plain_evaluation() -> None:
    """Square, middle, slender; bins of objects per image; categories: values with the objects behind them."""
    truth, detections, recall = measured()
    frame = measure(truth, detections, recall)
    plain = evaluation_frame(truth, detections, num_resamples=0, per_category=True)
    groups = plain[plain["metric"].str.match("ap_(square|middle|slender|objects_.*)$")].set_index("metric")
    assert len(groups) == 7
    for column in ("value", "num_objects", "num_images"):
        own = frame.set_index("metric").loc[groups.index, column]
        np.testing.assert_allclose(own, groups[column].astype(float))
    categories = frame[frame["metric"] == "ap_category"].reset_index(drop=True)
    expected = category_counts(truth)
    assert categories["label"].tolist() == expected["name"].tolist()
    np.testing.assert_allclose(categories["value"], plain.loc[plain["metric"] == "ap_category", "value"])
    np.testing.assert_allclose(categories["median_aspect"], expected["median_aspect"])


def test_a_weight_of_zero_leaves_a_image_out() -> None:
    """Metrics under weights 0 and 1 are those of the images that remain."""
    truth, detections, recall = measured()
    kept_ids = truth.image_ids[::2]
    weights = np.isin(truth.image_ids, kept_ids).astype(float)[None]
    functions = metric_functions(truth, detections, recall)
    objects, boxes = np.isin(truth.image_id, kept_ids), np.isin(detections.image_id, kept_ids)
    rest = GroundTruth(
        image_ids=kept_ids,
        category_ids=truth.category_ids,
        category_names=truth.category_names,
        **{
            name: getattr(truth, name)[objects]
            for name in ("image_id", "annotation_id", "category_id", "boxes", "area", "iscrowd", "sizes")
        },
    )
    found = Detections(
        **{name: getattr(detections, name)[boxes] for name in ("image_id", "category_id", "boxes", "scores", "sizes")}
    )
    expected = metric_functions(rest, found, recall[objects])
    ones = np.ones((1, len(kept_ids)))
    for name, function in functions.items():
        np.testing.assert_allclose(function(weights), expected[name](ones), rtol=1e-9, err_msg=name)


def test_a_detector_gains_nothing_over_itself() -> None:
    """Every difference is 0 with an interval of no width, where the metric is defined."""
    one = measured()
    gains = compare(one, one)
    defined = gains.dropna(subset=["value"])
    assert len(defined) > 30
    assert defined[["value", "low", "high"]].to_numpy().tolist() == np.zeros((len(defined), 3)).tolist()


def test_gains_are_second_minus_first() -> None:
    """A better second detector gains; swapped, it loses as much."""
    worse, better = measured(noise=0.3), measured(noise=0.03)
    gains, losses = (compare(*pair).set_index("metric") for pair in ((worse, better), (better, worse)))
    assert gains.loc["ap", "low"] > 0
    single = [_values(measure(*one))["ap"] for one in (worse, better)]
    assert gains.loc["ap", "value"] == pytest.approx(single[1] - single[0], abs=1e-6)
    np.testing.assert_allclose(gains["value"], -losses["value"])
    np.testing.assert_allclose(gains["low"], -losses["high"])


def test_measuring_twice_gives_the_same_numbers() -> None:
    """The resampling has a seed of its own."""
    pd.testing.assert_frame_equal(measure(*measured()), measure(*measured()))


def test_no_detections_measure_zero() -> None:
    """AP is 0, NMS recall undefined, and nothing fails."""
    truth, _, recall = measured()
    nothing = Detections(
        image_id=np.zeros(0, dtype=np.int64),
        category_id=np.zeros(0, dtype=np.int64),
        boxes=np.zeros((0, 4)),
        scores=np.zeros(0),
    )
    zeros = recall.assign(**{name: 0.0 for pair in RECALL_DEFINITIONS.values() for name in pair})
    values = _values(measure(truth, nothing, zeros))
    assert values["ap"] == 0
    assert np.isnan(values["nr"])
    assert values["recall_before_50"] == 0


@pytest.mark.parametrize("num_processes", [1, 2])
def test_all_metrics_together_are_each_alone(num_processes: int) -> None:
    """Values and intervals equal those of a plain loop over the metrics, each resampled by itself with the seed."""
    one = measured()
    frame = measure(*one, num_processes=num_processes)
    together = frame[frame["metric"] != "ap_category"].set_index("metric")
    functions = metric_functions(*one)
    assert set(together.index) == set(functions)
    for name, function in functions.items():
        alone = bootstrap(
            function, num_images=NUM_IMAGES, generator=np.random.default_rng(0), num_resamples=50, centred=True
        )
        bounds = np.array([alone.low, alone.high])
        expected = [alone.value, *(bounds if "_minus_" in name else bounds.clip(0, 1))]
        np.testing.assert_allclose(together.loc[name, ["value", "low", "high"]].to_list(), expected, atol=1e-12)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_all_differences_together_are_each_alone(num_processes: int) -> None:
    """`compare` and `compare_detections` equal a plain loop of paired bootstraps, to 1e-12."""
    first, second = measured(1, 0.2), measured(2, 0.1)
    gains = compare(first, second, num_processes=num_processes).set_index("metric")
    detected = compare_detections(first[0], first[1], second[1], num_resamples=50, num_processes=num_processes)
    detected = detected.set_index("metric")
    ones, twos = metric_functions(*first), metric_functions(*second)
    assert set(gains.index) == set(ones)
    assert set(detected.index) == set(detection_metrics(*first[:2]).names)
    for name, function in ones.items():
        alone = paired_bootstrap(
            function, twos[name], num_images=NUM_IMAGES, generator=np.random.default_rng(0), num_resamples=50
        )
        expected = [alone.value, alone.low, alone.high]
        np.testing.assert_allclose(gains.loc[name, ["value", "low", "high"]].to_list(), expected, atol=1e-12)
        if name in detected.index:
            np.testing.assert_allclose(detected.loc[name, ["value", "low", "high"]].to_list(), expected, atol=1e-12)
            sides = detected.loc[name, ["first", "second"]].to_list()
            as_they_are = np.ones((1, NUM_IMAGES))
            np.testing.assert_allclose(sides, [function(as_they_are)[0], twos[name](as_they_are)[0]], atol=1e-12)


def test_metrics_are_the_analyses_under_weights() -> None:
    """AP at a threshold, AR at a limit and by size, AP in a bin and of a category, under weights, by the analyses."""
    truth, detections, _ = measured()
    weights = np.random.default_rng(0).integers(0, 3, (4, NUM_IMAGES)).astype(float)
    overlaps = find_overlaps(truth, detections)
    table = match(overlaps)
    curves = precision_curves(table)
    metrics = detection_metrics(truth, detections, per_category=True)
    values = dict(zip(metrics.names, metrics(weights).T, strict=True))
    counts = np.bincount(np.searchsorted(truth.image_ids, truth.image_id), minlength=NUM_IMAGES)
    expected = {
        "ap_50": average_precision(curves, weights, iou=0.5),
        "ap_75": average_precision(curves, weights, iou=0.75),
        "ar_1": average_recall(precision_curves(table, max_detections=1), weights),
        "ap_objects_1_3": average_precision(curves, weights * ((counts >= 1) & (counts <= 3))),
    }
    for size in AREA_RANGES:
        sized = precision_curves(match(overlaps, area_subset(truth, detections, size)))
        expected[f"ar_{size}"] = average_recall(sized, weights)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, atol=1e-12, err_msg=name)
    categories = [values[f"ap_category_{category}"] for category in truth.category_ids]
    np.testing.assert_allclose(np.nanmean(categories, axis=0), values["ap"], atol=1e-12)


def test_differences_are_between_two_metrics() -> None:
    """Slender minus square, and the most crowded bin minus the sparsest, each on the same resampled images."""
    functions = one_by_one(detection_metrics(*measured()[:2]))
    weights = np.random.default_rng(0).integers(0, 3, (5, NUM_IMAGES)).astype(float)
    values = {name: function(weights) for name, function in functions.items()}
    slender = values["ap_slender"] - values["ap_square"]
    crowded = values["ap_objects_13_plus"] - values["ap_objects_1_3"]
    np.testing.assert_array_equal(values["ap_slender_minus_square"], slender)
    np.testing.assert_array_equal(values["ap_crowded_minus_sparse"], crowded)
    assert np.isfinite(slender).any()


def test_a_check_runs_pycocotools_and_says_what_differs(monkeypatch):
    """With `check` equal statistics pass, and one that differs in its last bit is named; without it nobody looks."""
    truth, detections, _ = measured()
    plain = evaluation_frame(truth, detections, num_resamples=0)
    checked = evaluation_frame(truth, detections, num_resamples=0, check=True)
    assert checked.equals(plain)
    other = coco_statistics(truth, detections)
    other["ap_75"] = float(np.nextafter(other["ap_75"], 2))
    monkeypatch.setattr(module, "coco_statistics", lambda *_: other)
    with pytest.raises(ArithmeticError, match="ap_75 is .* here and .* in pycocotools"):
        evaluation_frame(truth, detections, num_resamples=0, check=True)
    assert evaluation_frame(truth, detections, num_resamples=0).equals(plain)
