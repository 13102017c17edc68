"""The metrics of an evaluation together: each as it is alone, and as the analyses define it."""

import numpy as np
import pytest
from oracles.measured_worlds import NUM_IMAGES, measured

from analysis.evaluation import evaluate as module
from analysis.evaluation.evaluate import compare, compare_detections, detection_functions, measure, metric_functions
from analysis.evaluation.matching import find_overlaps, match
from analysis.evaluation.metrics import detection_metrics
from analysis.evaluation.precision import AREA_RANGES, area_subset, average_precision, average_recall, precision_curves
from analysis.evaluation.statistics import bootstrap, paired_bootstrap


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 resamplings are enough to compare two ways of doing them."""
    monkeypatch.setattr(module, "NUM_RESAMPLES", 50)


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
    assert set(detected.index) == set(detection_functions(first[0], first[1]))
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
    """Slender less square, and the most crowded bin less the sparsest, each on the same resampled images."""
    functions = detection_functions(*measured()[:2])
    weights = np.random.default_rng(0).integers(0, 3, (5, NUM_IMAGES)).astype(float)
    values = {name: function(weights) for name, function in functions.items()}
    slender = values["ap_slender"] - values["ap_square"]
    crowded = values["ap_objects_13_plus"] - values["ap_objects_1_3"]
    np.testing.assert_array_equal(values["ap_slender_minus_square"], slender)
    np.testing.assert_array_equal(values["ap_crowded_minus_sparse"], crowded)
    assert np.isfinite(slender).any()
