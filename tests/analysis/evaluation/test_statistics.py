"""Bootstrap and spread: the seed reaches the draw, pairs share their images, intervals are what they claim."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.detection_sets import detection_sets, only_images

from analysis.evaluation import statistics as module
from analysis.evaluation.matching import match_detections
from analysis.evaluation.precision import average_precision, precision_curves
from analysis.evaluation.statistics import (
    bootstrap,
    paired_bootstrap,
    percentile_interval,
    spread,
    t_quantile,
)

# two-sided 95 % and 99 % points of Student's t, from the usual printed table
T_TABLE = {(0.975, 1): 12.706, (0.975, 2): 4.303, (0.975, 4): 2.776, (0.975, 9): 2.262, (0.995, 5): 4.032}


def mean_of(values):
    """The metric that is a weighted mean of one number an image."""
    return lambda weights: weights @ values / weights.sum(axis=-1)


def test_the_seed_reaches_the_draw():
    """Equal seeds give equal intervals, another seed another."""
    metric = mean_of(np.arange(20.0))
    first, again, other = (
        bootstrap(metric, num_images=20, generator=np.random.default_rng(seed), num_resamples=50) for seed in (1, 1, 2)
    )
    assert (first.low, first.high) == (again.low, again.high)
    assert (first.low, first.high) != (other.low, other.high)


def test_every_resampling_draws_as_many_images_as_there_are():
    """Weights are whole numbers that add up to the number of images, and the first call has each image once."""
    seen = []

    def metric(weights):
        seen.append(weights)
        return weights.sum(axis=-1)

    bootstrap(metric, num_images=7, generator=np.random.default_rng(0), num_resamples=450)
    drawn = np.concatenate(seen[1:])
    assert seen[0].tolist() == [[1.0] * 7]
    assert drawn.shape == (450, 7)
    assert set(drawn.sum(axis=1)) == {7.0}
    assert (drawn == drawn.round()).all()
    assert drawn.max() > 1


def test_detectors_are_compared_on_the_same_images():
    """A detector that is better by the same amount on every image is better by it in every resampling."""
    values = np.random.default_rng(0).random(30)
    interval = paired_bootstrap(
        mean_of(values), mean_of(values + 0.1), num_images=30, generator=np.random.default_rng(0), num_resamples=100
    )
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))


def test_interval_of_a_mean_is_that_of_the_normal():
    """For the mean of many numbers the interval is about 1.96 standard errors to each side."""
    values = np.random.default_rng(3).normal(size=400)
    interval = bootstrap(mean_of(values), num_images=400, generator=np.random.default_rng(0), num_resamples=4000)
    error = 1.96 * values.std() / math.sqrt(400)
    assert interval.low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_intervals_cover_as_often_as_they_say():
    """95 % intervals of a mean contain the true mean in 92 to 98 % of 500 simulated data sets."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(500):
        interval = bootstrap(mean_of(generator.normal(size=60)), num_images=60, generator=generator, num_resamples=200)
        covered += bool(interval.low <= 0 <= interval.high)
    assert 460 <= covered <= 490


def test_undefined_resamplings_are_left_out():
    """Resamplings without a value do not spoil the interval, and their number is told; none defined gives nan."""
    values = np.array([1.0, 2.0, 3.0])

    def sometimes(weights):
        both = np.stack([weights @ values / 3, np.full(len(weights), np.nan)], axis=1)
        both[weights[:, 0] == 0, 0] = np.nan
        return both

    interval = bootstrap(sometimes, num_images=3, generator=np.random.default_rng(0), num_resamples=100)
    assert 0 < interval.num_defined[0] < 100
    assert np.isfinite([interval.low[0], interval.high[0]]).all()
    assert interval.num_defined[1] == 0
    assert np.isnan([interval.value[1], interval.low[1], interval.high[1], interval.bias[1]]).all()


def test_centred_intervals_lose_the_bias():
    """Centring moves the interval by what the resamplings' mean lies off the value, and by nothing else."""

    def variance(weights):
        numbers = np.arange(5.0)
        mean = weights @ numbers / 5
        return weights @ numbers**2 / 5 - mean**2

    plain, centred = (
        bootstrap(variance, num_images=5, generator=np.random.default_rng(0), num_resamples=500, centred=centred)
        for centred in (False, True)
    )
    assert plain.bias == pytest.approx(-2.0 / 5, abs=0.1)  # the variance of n draws is too small by 1/n
    assert (centred.low, centred.high) == pytest.approx((plain.low - plain.bias, plain.high - plain.bias))


@settings(max_examples=15, deadline=None)
@given(detection_sets(distinct_scores=True), st.integers(0, 99))
def test_bootstrap_of_ap_is_evaluation_of_the_drawn_images(data, seed):
    """With one resampling, the interval is the AP of a data set made of the images drawn."""
    ground_truth, detections = data
    curves = precision_curves(match_detections(ground_truth, detections))
    drawn = []

    def metric(weights):
        drawn.append(weights)
        return average_precision(curves, weights)

    interval = bootstrap(metric, num_images=curves.num_images, generator=np.random.default_rng(seed), num_resamples=1)
    images = np.repeat(ground_truth.image_ids, drawn[1][0].astype(int))
    copies = precision_curves(match_detections(*only_images(ground_truth, detections, images)))
    expected = float(average_precision(copies))
    assert (float(interval.low), float(interval.high)) == pytest.approx((expected, expected), abs=1e-12, nan_ok=True)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_wider_levels_contain_narrower_ones(values):
    """The 99 % interval contains the 90 % one, and both lie among the samples."""
    samples = np.array(values)
    (low, high), (lower, higher) = percentile_interval(samples, 0.9), percentile_interval(samples, 0.99)
    assert samples.min() <= lower <= low <= high <= higher <= samples.max()


def test_spread_by_hand():
    """Mean, standard deviation, range and t interval of three seeds."""
    result = spread([0.40, 0.42, 0.41])
    assert (result.mean, result.sd, result.minimum, result.maximum) == pytest.approx((0.41, 0.01, 0.40, 0.42))
    reach = 4.30265 * 0.01 / math.sqrt(3)
    assert (result.low, result.high, result.num_seeds) == pytest.approx((0.41 - reach, 0.41 + reach, 3), abs=1e-7)


def test_spread_of_a_single_seed_has_no_interval():
    """One seed has a mean, and neither a standard deviation nor an interval."""
    result = spread([0.4])
    assert (result.mean, result.num_seeds) == (0.4, 1)
    assert np.isnan([result.sd, result.low, result.high]).all()


@pytest.mark.parametrize(("probability", "degrees"), T_TABLE)
def test_t_quantiles_are_those_of_the_table(probability, degrees):
    """Quantiles of Student's t agree with the printed table, to both sides."""
    assert t_quantile(probability, degrees) == pytest.approx(T_TABLE[probability, degrees], abs=6e-4)
    assert t_quantile(1 - probability, degrees) == pytest.approx(-T_TABLE[probability, degrees], abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 7])
def test_t_between_whole_degrees_joins_those_at_both_ends(degrees):
    """Just beside whole degrees, where another formula serves, the quantile is the same; halfway it lies between."""
    ends = t_quantile(0.975, degrees), t_quantile(0.975, degrees + 1)
    assert t_quantile(0.975, degrees + 1e-7) == pytest.approx(ends[0], rel=1e-5)
    assert t_quantile(0.975, degrees + 1 - 1e-7) == pytest.approx(ends[1], rel=1e-5)
    assert ends[1] < t_quantile(0.975, degrees + 0.5) < sum(ends) / 2  # convex


def test_t_becomes_normal():
    """With many degrees of freedom the quantile is the normal's."""
    assert t_quantile(0.975, 100_000) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 0}, "at least one of each"),
        ({"num_resamples": 0}, "at least one of each"),
        ({"level": 95}, "pass a fraction, not a percentage"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message):
    """No images, no resamplings and a level in percent are refused."""
    settings_ = {"num_images": 3, "generator": np.random.default_rng(0)} | options
    with pytest.raises(ValueError, match=message):
        bootstrap(mean_of(np.ones(3)), **settings_)


def test_spread_of_nothing_is_refused():
    """No seeds, no spread."""
    with pytest.raises(ValueError, match="at least one value"):
        spread([])


def test_stacked_metrics_are_those_metrics_one_by_one():
    """M values at once have the values, intervals and biases that each metric has alone with the same seed."""
    columns = np.random.default_rng(1).random((3, 25))
    alone = [
        bootstrap(mean_of(column), num_images=25, generator=np.random.default_rng(5), num_resamples=130, centred=True)
        for column in columns
    ]
    together = bootstrap(
        lambda weights: np.stack([mean_of(column)(weights) for column in columns], axis=1),
        num_images=25,
        generator=np.random.default_rng(5),
        num_resamples=130,
        centred=True,
    )
    for name in ("value", "low", "high", "bias"):
        np.testing.assert_allclose(getattr(together, name), [getattr(one, name) for one in alone], rtol=0, atol=1e-14)


@settings(max_examples=10, deadline=None)
@given(detection_sets(), st.sampled_from([1, 2, 3, 7, 101, 501]))
def test_the_number_of_processes_changes_nothing(data, num_resamples):
    """One, two or five processes give the same interval to the last bit, AP's included."""
    ground_truth, detections = data
    curves = precision_curves(match_detections(ground_truth, detections))
    intervals = [
        bootstrap(
            lambda weights: average_precision(curves, weights),
            num_images=curves.num_images,
            generator=np.random.default_rng(3),
            num_resamples=num_resamples,
            num_processes=num_processes,
        )
        for num_processes in (1, 2, 5)
    ]
    for interval in intervals[1:]:
        np.testing.assert_array_equal([interval.low, interval.high], [intervals[0].low, intervals[0].high])


@pytest.mark.parametrize("at_once", [3, 40, 1000])
def test_resamplings_do_not_depend_on_how_many_are_held_at_once(at_once, monkeypatch):
    """The same seed draws the same images in blocks of any size."""
    seen = []

    def metric(weights):
        seen.append(weights)
        return weights[:, 0]

    expected = np.random.default_rng(8).integers(11, size=(101, 11))
    monkeypatch.setattr(module, "_RESAMPLINGS_AT_ONCE", at_once)
    bootstrap(metric, num_images=11, generator=np.random.default_rng(8), num_resamples=101)
    drawn = np.concatenate(seen[1:])
    assert drawn.tolist() == [np.bincount(draws, minlength=11).tolist() for draws in expected]
    assert max(len(block) for block in seen[1:]) <= at_once
