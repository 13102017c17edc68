"""Differences with what is known of their chance: images and seeds in quadrature, noise borrowed where one run is."""

import math

import numpy as np
import pandas as pd
import pytest
from miniature import Mini, fabricate

from analysis.evaluation.metrics import detection_metrics
from experiments.claims.evidence import (
    Evidence,
    SeedError,
    SeedNoise,
    error_of_difference,
    pooled_noise,
    seed_error,
    widened,
    widened_interval,
)
from experiments.registry.build import build_profile
from experiments.runs import measured
from experiments.runs.store import Store


def test_noise_is_pooled_within_groups() -> None:
    """Two groups far apart with deviations of 1 and 3: root of the mean variance, by degrees of freedom."""
    noise = pooled_noise([[10.0, 12.0], [50.0, 53.0, 56.0], [7.0]])
    variance = (1 * np.var([10, 12], ddof=1) + 2 * np.var([50, 53, 56], ddof=1)) / 3
    assert noise.degrees == 3
    assert noise.sd == pytest.approx(math.sqrt(variance))
    assert error_of_difference(noise, noise).half == pytest.approx(3.182446 * noise.sd * math.sqrt(2), rel=1e-5)


def test_two_noises_add_up_after_welch() -> None:
    """Deviations 3 and 4 with 4 degrees each: root of the sum is 5, 7.4 degrees, cut to 7 (t 2.3646)."""
    error = error_of_difference(SeedNoise(sd=3.0, degrees=4), SeedNoise(sd=4.0, degrees=4))
    assert (error.error, error.degrees) == (5.0, 7)
    assert error.half == pytest.approx(2.364624 * 5, rel=1e-5)


def test_nothing_repeated_is_no_noise_known() -> None:
    """Where either detector was not repeated the interval stays that over images."""
    unknown = pooled_noise([[1.0], []])
    assert error_of_difference(unknown, unknown).half == 0.0
    assert error_of_difference(SeedNoise(sd=1.0, degrees=2), unknown) == SeedError()


def test_half_widths_add_in_quadrature() -> None:
    """3 below and 5 above over images with 4 over seeds: 5 below, 6.4 above. Two degrees: t is 4.3027."""
    row = pd.Series({"value": 10.0, "low": 7.0, "high": 15.0, "n_seeds": 3})
    seeds = seed_error(4.0 / 4.302653 * math.sqrt(3), 3)
    assert (seeds.half, seeds.degrees) == (pytest.approx(4.0), 2)
    measured = widened(row, seeds, ("a", "b"))
    assert measured.seeds == seeds
    assert (measured.low, measured.high) == pytest.approx((5.0, 10 + math.sqrt(41)))
    assert (measured.value, measured.n_seeds, measured.runs) == (10.0, 3, ("a", "b"))


def test_a_bound_beyond_the_value_is_not_mirrored() -> None:
    """A percentile interval may exclude its value: without seeds it stays, with seeds that side is theirs alone."""
    bounds = (0.0, 0.1, 0.3)
    alone = widened_interval(bounds, 1, SeedError(), ())
    assert (alone.low, alone.high) == (0.1, 0.3)
    error = SeedError(error=1.0, degrees=2)
    both = widened_interval(bounds, 3, error, ())
    assert (both.low, both.high) == pytest.approx((-error.half, math.hypot(0.3, error.half)))


def test_a_gain_is_paired_and_knows_its_runs(mini: Mini) -> None:
    """FreeAnchor minus RetinaNet from two real runs; a pair that was not run gives none."""
    evidence = Evidence(mini.profile, mini.store)
    gain = evidence.gain(mini.profile.pairs, "ap")
    first, second = mini.profile.pair
    assert gain is not None
    assert gain.value == pytest.approx(evidence.value(second, "ap") - evidence.value(first, "ap"))
    assert gain.low <= gain.value <= gain.high
    assert gain.runs == mini.profile.pair
    assert evidence.gain(mini.profile.comparisons["large"], "ap") is None
    assert evidence.difference(second, "freeanchor-small-n40-s0", "ap") is None


def test_metrics_of_an_analysis_come_as_the_stored_ones_do(mini: Mini) -> None:
    """From the stored detections: each detector's values and intervals, the paired gain, and a claim's measured value."""
    stored, evidence = measured.pair_frame(mini.profile, mini.store), Evidence(mini.profile, mini.store)
    gains = measured.gains_frame(mini.profile, mini.profile.pairs, mini.store).assign(detector="gain")
    frame = measured.metrics_frame(mini.profile, mini.store, detection_metrics)
    expected = pd.concat([stored, gains]).merge(frame[["detector", "metric"]])
    assert list(frame["detector"].unique()) == ["RetinaNet", "FreeAnchor", "gain"]
    pd.testing.assert_frame_equal(frame, expected[frame.columns], check_dtype=False)
    assert evidence.gain_in(detection_metrics, "ap") == evidence.gain(mini.profile.pairs, "ap")
    assert evidence.gain_in(detection_metrics, "no such metric") is None


def test_metrics_of_an_analysis_are_not_run_where_nothing_was(empty_store: Store) -> None:
    """No rows, and no value for a claim."""
    profile = build_profile("mini")
    assert measured.metrics_frame(profile, empty_store, detection_metrics).empty
    assert Evidence(profile, empty_store).gain_in(detection_metrics, "ap") is None


def test_noise_is_that_of_the_detectors_own_repeated_runs(empty_store: Store) -> None:
    """Three seeds of RetinaNet and one of FreeAnchor: two degrees of freedom, and none."""
    profile = build_profile("shapes", num_seeds=3)
    for seed, value in enumerate((0.40, 0.44, 0.45)):
        fabricate(profile, empty_store, f"retinanet-small-s{seed}", value)
    fabricate(profile, empty_store, "freeanchor-small-s0", 0.9)
    noise = Evidence(profile, empty_store).noise("ap", "RetinaNet")
    assert Evidence(profile, empty_store).noise("ap", "FreeAnchor").degrees == 0
    assert noise.degrees == 2
    assert noise.sd == pytest.approx(np.std([0.40, 0.44, 0.45], ddof=1))


def test_noise_leaves_out_runs_in_which_the_metric_is_undefined(empty_store: Store) -> None:
    """NMS recall may be nan where nothing was found: that run tells nothing, and the others' noise stays a number."""
    profile = build_profile("shapes", num_seeds=3)
    for seed, value in enumerate((0.40, math.nan, 0.45)):
        fabricate(profile, empty_store, f"freeanchor-small-s{seed}", value)
    noise = Evidence(profile, empty_store).noise("nr", "FreeAnchor")
    assert noise.degrees == 1
    assert noise.sd == pytest.approx(np.std([0.40, 0.45], ddof=1))


def test_two_tests_of_one_model_borrow_no_noise(empty_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six test scales against one: the seed is the model's own, so the interval stays that over images."""
    profile = build_profile("shapes", num_seeds=3)
    long, other = "freeanchor-large-2x-wide", "freeanchor-large-2x-s0"
    for seed, value in enumerate((0.40, 0.44, 0.45)):
        fabricate(profile, empty_store, f"freeanchor-small-s{seed}", value)
    for run in (f"{long}-s0", f"{long}-multiscale-s0", other):
        fabricate(profile, empty_store, run, 0.5)
    gains = pd.DataFrame({"metric": ["ap"], "value": [0.013], "low": [0.010], "high": [0.016]})
    monkeypatch.setattr(measured, "compare_stage", lambda first, second, store: gains)
    evidence = Evidence(profile, empty_store)
    tested_twice = evidence.difference(f"{long}-s0", f"{long}-multiscale-s0", "ap")
    trained_twice = evidence.difference(other, f"{long}-s0", "ap")
    assert tested_twice is not None and trained_twice is not None
    assert (tested_twice.low, tested_twice.high) == pytest.approx((0.010, 0.016))
    assert trained_twice.low < -0.05
