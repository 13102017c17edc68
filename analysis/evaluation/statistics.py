"""Uncertainty: paired bootstrap over images, and spread over seeds.

    generator = np.random.default_rng(0)
    curves = precision_curves(match_detections(ground_truth, detections))
    bootstrap(lambda weights: average_precision(curves, weights), num_images=curves.num_images, generator=generator)
    paired_bootstrap(first_metric, second_metric, num_images=..., generator=generator)      # second - first
    spread([0.412, 0.405, 0.418])                   # over seeds

A metric is a function of weights [R, N] (R resamplings of N images) that returns [R], or [R, M] for M values at once:
M metrics stacked draw the images once, and share them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from freeanchor.workers import map_in_processes

Metric = Callable[[np.ndarray], np.ndarray]
Values = float | np.ndarray  # one value, or M of them
_RESAMPLINGS_AT_ONCE = 500  # rows of numbers that long are summed at the processor's pace, not Python's
_CONSTANT = 1e-9  # of the squares' sum: what is left of it where all values are equal is rounding
_WEIGHTS_AT_ONCE = 4_000_000  # 32 MB


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its bootstrap percentile interval; arrays of M where the metric returns M values at once."""

    value: Values  # on the images as they are
    low: Values
    high: Values
    bias: Values  # mean over resamplings minus the value
    num_defined: np.integer | np.ndarray  # resamplings in which the metric was not nan


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values of several seeds summed up; `low` and `high` bound the mean (t interval), nan for a single seed."""

    mean: float
    sd: float  # of the values, with n - 1; nan for a single seed
    minimum: float
    maximum: float
    low: float
    high: float
    num_seeds: int


def bootstrap(
    metric: Metric,
    *,
    num_images: int,
    generator: np.random.Generator,
    num_resamples: int = 1000,
    level: float = 0.95,
    centred: bool = False,
    num_processes: int = 1,
) -> Interval:
    """Percentile interval of a metric under resampling of images with replacement.

    Resamplings where the metric is nan (no object drawn) are left out; all nan gives nan. AP grows when images are
    drawn twice, the more so the rarer the classes are, so with few images a percentile interval can lie above the
    value: `bias` tells by how much, and `centred` takes it off. Differences of two detectors have little of it, up to a
    third of the half-width where classes are many and rare; they are not centred, so that their sign is the resamples'.
    It is the bias that resampling adds, not that of the data set itself: with at most 100 objects per class an interval
    of AP covers about 90 to 93 times in 100, and none of the usual variants fixes that (simulated).

    The resamplings are shared out over `num_processes`, whose number changes no result. Raises `ValueError` for a level
    outside (0, 1) or fewer than one image, resampling or process.
    """
    _check(num_images, num_resamples, level)
    value = np.asarray(metric(np.ones((1, num_images))))[0]
    blocks = _resamplings(num_images, num_resamples, generator, num_processes)
    samples = np.concatenate(
        map_in_processes(lambda weights: np.asarray(metric(weights)), blocks, num_processes=num_processes)
    )
    num_defined = (~np.isnan(samples)).sum(axis=0)
    total = np.nansum(samples, axis=0)
    bias = np.divide(total, num_defined, out=np.full(np.shape(total), np.nan), where=num_defined > 0) - value
    low, high = percentile_interval(samples, level)
    shift = bias if centred else 0.0
    return Interval(value=value, low=low - shift, high=high - shift, bias=bias, num_defined=num_defined)


def paired_bootstrap(
    first: Metric,
    second: Metric,
    *,
    num_images: int,
    generator: np.random.Generator,
    num_resamples: int = 1000,
    num_processes: int = 1,
) -> Interval:
    """95 % percentile interval of `second - first`, both evaluated on the same resampled images; see `bootstrap`."""

    def difference(weights: np.ndarray) -> np.ndarray:
        return np.asarray(second(weights)) - np.asarray(first(weights))

    return bootstrap(
        difference,
        num_images=num_images,
        generator=generator,
        num_resamples=num_resamples,
        num_processes=num_processes,
    )


def percentile_interval(samples: Float[np.ndarray, "R *M"], level: float = 0.95) -> tuple[Values, Values]:
    """The middle `level` of the samples, leaving out nan; nan where no sample is defined."""
    tails = (1 - level) / 2
    columns = samples.reshape(len(samples), -1).T
    bounds = np.full((len(columns), 2), np.nan)
    for row, column in enumerate(columns):
        defined = column[~np.isnan(column)]
        if len(defined):
            bounds[row] = np.quantile(defined, [tails, 1 - tails])
    shape = samples.shape[1:]
    return bounds[:, 0].reshape(shape)[()], bounds[:, 1].reshape(shape)[()]


def spread(values: Sequence[float], level: float = 0.95) -> Spread:
    """Mean, standard deviation, range and t interval of the mean over seeds; leave pairs to the caller (differences).

    The interval assumes independent seeds and roughly normal values. Raises `ValueError` without values.
    """
    if not len(values):
        raise ValueError("spread needs at least one value, got none; give one value per seed")
    numbers = np.asarray(values, dtype=np.float64)
    num_seeds, mean = len(numbers), float(numbers.mean())
    sd = float(numbers.std(ddof=1)) if num_seeds > 1 else float("nan")
    reach = t_quantile((1 + level) / 2, num_seeds - 1) * sd / math.sqrt(num_seeds) if num_seeds > 1 else float("nan")
    return Spread(
        mean=mean,
        sd=sd,
        minimum=float(numbers.min()),
        maximum=float(numbers.max()),
        low=mean - reach,
        high=mean + reach,
        num_seeds=num_seeds,
    )


def t_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t by bisection, to about 1e-9; to 1e-5 of itself where `degrees` is not whole."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError(f"need 0 < probability < 1 and degrees >= 1, got {probability} and {degrees}")
    distribution = _t_cdf if degrees == int(degrees) else _t_cdf_between
    low, high = -1.0, 1.0
    while distribution(low, degrees) > probability:
        low *= 2
    while distribution(high, degrees) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if distribution(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, degrees: float) -> float:
    """Distribution function of Student's t for whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle, whole = math.atan2(t, math.sqrt(degrees)), int(degrees)
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = whole % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, whole, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + inside) / 2


def _t_cdf_between(t: float, degrees: float) -> float:
    """The same for any degrees: with t = sqrt(degrees) tan a, the density is a power of cos a (Simpson's rule)."""
    angles, step = np.linspace(0.0, math.atan2(t, math.sqrt(degrees)), 1001, retstep=True)
    heights = np.cos(angles) ** (degrees - 1)
    area = float(step) / 3 * float(heights[0] + 4 * heights[1::2].sum() + 2 * heights[2:-1:2].sum() + heights[-1])
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return 0.5 + scale * area


def _resamplings(
    num_images: int, num_resamples: int, generator: np.random.Generator, num_processes: int
) -> Iterator[np.ndarray]:
    """Blocks of weights [R, N]: how often each image is drawn in N draws with replacement."""
    for size in _block_sizes(num_images, num_resamples, num_processes):
        draws = generator.integers(num_images, size=(size, num_images))
        flat = draws + num_images * np.arange(size)[:, None]
        yield np.bincount(flat.ravel(), minlength=size * num_images).reshape(size, num_images).astype(np.float64)


def _block_sizes(num_images: int, num_resamples: int, num_processes: int) -> list[int]:
    """Nearly equal sizes that add up to `num_resamples`; as many for each process, and none of a single resampling.

    numpy adds a single column up in another order than one of many, so that its last digit would depend on the cut.
    """
    largest = max(1, min(_RESAMPLINGS_AT_ONCE, _WEIGHTS_AT_ONCE // num_images))
    rounds = math.ceil(num_resamples / (largest * num_processes))
    num_blocks = max(1, min(rounds * num_processes, num_resamples // 2))
    return [num_resamples // num_blocks + (block < num_resamples % num_blocks) for block in range(num_blocks)]


def _check(num_images: int, num_resamples: int, level: float) -> None:
    if num_images < 1 or num_resamples < 1:
        raise ValueError(
            f"need images and resamplings, got {num_images} and {num_resamples}; give at least one of each"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}; pass a fraction, not a percentage")


def rank_correlation(
    one: Float[np.ndarray, " M"], other: Float[np.ndarray, " M"], image: np.ndarray, num_images: int
) -> Metric:
    """Spearman's correlation of two columns of rows that belong to images, as a metric of image weights: [R, 1].

    Ranks are among all rows, equal values share their mean; nan where fewer than two rows, or equal ones alone, are
    drawn.
    """
    x, y = (pd.Series(values).rank().to_numpy(dtype=np.float64) / max(1, len(one)) for values in (one, other))
    products = (np.ones_like(x), x, y, x * x, y * y, x * y)
    moments = np.stack([np.bincount(image, weights=of, minlength=num_images) for of in products], axis=1)

    def correlation(weights: np.ndarray) -> np.ndarray:
        n, sum_x, sum_y, sum_xx, sum_yy, sum_xy = (weights @ moments).T
        with np.errstate(invalid="ignore", divide="ignore"):
            spread_x, spread_y = sum_xx - sum_x**2 / n, sum_yy - sum_y**2 / n
            varies = (spread_x > _CONSTANT * sum_xx) & (spread_y > _CONSTANT * sum_yy)
            product = np.sqrt(np.where(varies, spread_x * spread_y, 1))
            value = np.where(varies, (sum_xy - sum_x * sum_y / n) / product, np.nan)
        return np.clip(value, -1, 1)[:, None]

    return correlation
