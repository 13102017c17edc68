"""The arithmetic of pooled claims: means, their intervals over images and over seeds, and how often these hold."""

import math

import numpy as np
import pytest

from analysis.evaluation.statistics import t_quantile
from experiments.claims.evidence import Measured, SeedError, seed_error
from experiments.claims.pooling import pool


def _measured(value: float, low: float, high: float, n_seeds: int = 2) -> Measured:
    return Measured(value=value, low=low, high=high, n_seeds=n_seeds, runs=("a",))


def test_a_pooled_value_by_hand() -> None:
    """The plain mean; each limit at the root of the summed squares on its side over the number of values."""
    whole = pool([_measured(1.0, 0.7, 1.8, 3), _measured(3.0, 2.6, 3.6, 2)])
    assert whole.value == 2.0
    assert (whole.low, whole.high) == pytest.approx((2 - 0.5 / 2, 2 + 1.0 / 2))  # 0.3, 0.4 below; 0.8, 0.6 above
    assert (whole.n_seeds, whole.runs) == (2, ("a", "a"))


def test_one_value_keeps_its_interval_and_none_is_an_error() -> None:
    """Pooling one thing changes nothing; pooling nothing is a mistake of the caller."""
    one = pool([_measured(1.0, 0.7, 1.8)])
    assert (one.value, one.low, one.high) == pytest.approx((1.0, 0.7, 1.8))
    with pytest.raises(ValueError, match="at least one value"):
        pool([])


def test_seeds_are_pooled_apart_from_images() -> None:
    """Errors of 3 and 4 over two seeds each: 2.5 for the mean, with 625 / (81 + 256) degrees; images 6 and 8 give 5."""
    seeds = [SeedError(error=error, degrees=1) for error in (3.0, 4.0)]
    reaches = [math.hypot(one.half, images) for one, images in zip(seeds, (6.0, 8.0))]
    measured = [
        Measured(value=1.0, low=1 - reach, high=1 + reach, n_seeds=2, runs=("a",), seeds=one)
        for one, reach in zip(seeds, reaches)
    ]
    whole = pool(measured)
    assert (whole.seeds.error, whole.seeds.degrees) == pytest.approx((2.5, 625 / 337))
    half = math.hypot(5.0, t_quantile(0.975, 625 / 337) * 2.5)
    assert (whole.low, whole.high) == pytest.approx((1 - half, 1 + half))
    assert half < math.hypot(*reaches) / 2  # narrower than the two wide intervals joined as they are


def test_a_single_seed_is_lent_the_others_noise() -> None:
    """Two seeds with an error of 3, so 18 is a seed's variance; beside a lone seed (9 + 18) / 4 is that of the mean."""
    error = SeedError(error=3.0, degrees=1)
    known = Measured(value=1.0, low=1 - error.half, high=1 + error.half, n_seeds=2, runs=("a",), seeds=error)
    whole = pool([known, _measured(1.0, -7.0, 9.0, 1)])
    assert (whole.seeds.error, whole.seeds.degrees) == pytest.approx((math.sqrt(27 / 4), 1))
    assert whole.high == pytest.approx(1 + math.hypot(4.0, whole.seeds.half))


def _coverage(noise: np.random.Generator, num_seeds: int, num_draws: int) -> float:
    """How often the pooled interval holds the mean truth of three sets that differ in level and in noise.

    Of one seed the noise is images' (known); of several it is the seeds'.
    """
    truths, sds, hits = np.array([-1.0, 0.5, 2.0]), np.array([0.3, 1.0, 2.0]), 0
    for _ in range(num_draws):
        draws = truths[:, None] + sds[:, None] * noise.standard_normal((3, num_seeds))
        measured = []
        for values, sd in zip(draws, sds):
            seeds = seed_error(values.std(ddof=1), num_seeds) if num_seeds > 1 else SeedError()
            reach, mean = seeds.half or 1.959964 * sd, values.mean()
            measured.append(
                Measured(value=mean, low=mean - reach, high=mean + reach, n_seeds=num_seeds, runs=(), seeds=seeds)
            )
        whole = pool(measured)
        hits += whole.low <= truths.mean() <= whole.high
    return hits / num_draws


@pytest.mark.slow
def test_the_interval_covers_at_its_level() -> None:
    """95 % in 1000 draws, within chance, of images' noise; of two and three seeds' unequal noise, too, or more."""
    noise = np.random.default_rng(0)
    assert _coverage(noise, 1, 1000) == pytest.approx(0.95, abs=0.02)
    assert 0.94 <= _coverage(noise, 2, 1000) <= 0.99
    assert 0.93 <= _coverage(noise, 3, 1000) <= 0.98


@pytest.mark.parametrize("num_seeds", [1, 2, 3])
def test_the_interval_is_not_wrong_by_a_factor(num_seeds: int) -> None:
    """About 95 % in 120 draws: half the width would cover two thirds of the time, twice the width always."""
    assert 0.88 <= _coverage(np.random.default_rng(0), num_seeds, 120) < 1
