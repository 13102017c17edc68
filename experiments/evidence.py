"""Differences between runs with all that is known of their chance: pictures and seeds in one interval.

A difference of detectors with several seeds has two half-widths, that of the paired bootstrap over pictures and that of
the t interval over paired seeds; one seed apiece borrows the seeds' noise of its detector from the runs that were
repeated (standard deviations pooled over backbones: FreeAnchor's is not RetinaNet's). The two are independent, so they
add in quadrature. Where a detector's runs were not repeated, the interval knows pictures alone; so it does where one
trained model is tested in two ways, which share its seed.

    evidence = Evidence(profile, store)
    evidence.gain(profile.pairs, "ap")                                          # FreeAnchor - RetinaNet
    evidence.difference("freeanchor-small-s0", "freeanchor-small-n40-s0", "ap")   # the variant - the default
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from analysis.evaluation.statistics import spread, t_quantile
from experiments.registry.profile import Pair, Profile
from experiments.runs.measured import gains_frame, measurements
from experiments.runs.store import Store, is_measured

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class SeedError:
    """Standard error of a value for the choice of seeds, and its degrees of freedom; 0 of them where it is unknown."""

    error: float = 0.0
    degrees: float = 0

    @property
    def half(self) -> float:
        """Half-width of the 95 % interval; 0 where nothing is known."""
        return t_quantile((1 + LEVEL) / 2, self.degrees) * self.error if self.degrees else 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A value with its 95 % interval, of which `seeds` is a part; `runs` are those it was measured on."""

    value: float
    low: float
    high: float
    n_seeds: int
    runs: tuple[str, ...]
    seeds: SeedError = SeedError()


@dataclass(frozen=True, kw_only=True)
class SeedNoise:
    """Standard deviation of a metric over seeds, pooled over groups of runs; nan where none was repeated."""

    sd: float
    degrees: int


def joint_degrees(terms: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of variances, each with its own, after Welch and Satterthwaite; one is above 0."""
    total = math.fsum(variance for variance, _ in terms)
    return total**2 / math.fsum(variance**2 / degrees for variance, degrees in terms)


def error_of_difference(first: SeedNoise, second: SeedNoise) -> SeedError:
    """That of a difference of two single runs; unknown where either's noise is.

    Degrees of freedom after Welch and Satterthwaite; those of the estimate itself where both have the same.
    """
    if first.degrees < 1 or second.degrees < 1:
        return SeedError()
    one, two = first.sd**2, second.sd**2
    degrees: float = first.degrees
    if first != second:
        degrees = joint_degrees([(one, first.degrees), (two, second.degrees)]) if one + two else 1
    return SeedError(error=math.sqrt(one + two), degrees=max(1, int(degrees)))


def pooled_noise(groups: Sequence[Sequence[float]]) -> SeedNoise:
    """The noise over seeds that groups of repeated runs share: the root of the mean variance within groups."""
    spreads = [spread(group) for group in groups if len(group) > 1]
    degrees = sum(one.num_seeds - 1 for one in spreads)
    if degrees == 0:
        return SeedNoise(sd=math.nan, degrees=0)
    within = sum((one.num_seeds - 1) * one.sd**2 for one in spreads)
    return SeedNoise(sd=math.sqrt(within / degrees), degrees=degrees)


class Evidence:
    """What a profile's stored runs say about differences; nothing is trained or tested here."""

    def __init__(self, profile: Profile, store: Store) -> None:
        """Look at the runs of `profile` in `store`."""
        self.profile, self.store = profile, store
        self._gains = cache(lambda pairs: gains_frame(profile, pairs, store))

    def gain(self, pairs: tuple[Pair, ...], metric: str) -> Measured | None:
        """Second minus first of pairs that differ in nothing but the detector, a pair a seed; None where not run."""
        frame = self._gains(pairs)
        rows = frame[frame["metric"] == metric]
        if rows.empty or math.isnan(rows["value"].iloc[0]):
            return None
        row = rows.iloc[0]
        seeds = seed_error(row["sd"], int(row["n_seeds"])) if row["n_seeds"] > 1 else self._borrowed(pairs[0], metric)
        return widened(row, seeds, tuple(run for pair in self.done(pairs) for run in pair))

    def difference(self, first: str, second: str, metric: str) -> Measured | None:
        """Second minus first of two single runs with the same seed; None where not run."""
        return self.gain(((first, second),), metric)

    def noise(self, metric: str, detector: str = "FreeAnchor") -> SeedNoise:
        """How much a metric of a detector varies over seeds alone, over all its runs that were repeated.

        Runs in which the metric is undefined are left out.
        """
        groups: dict[str, list[float]] = {}
        for backbone, pairs in self.profile.comparisons.items():
            for run in dict.fromkeys(run for pair in pairs for run in pair if self.is_done(run)):
                if self.profile.evaluations[run].training.detector == detector:
                    groups.setdefault(backbone, []).append(self.value(run, metric))
        return pooled_noise([[value for value in group if not math.isnan(value)] for group in groups.values()])

    def _borrowed(self, pair: Pair, metric: str) -> SeedError:
        """What another seed of both single runs would change; none known for two tests of one trained model."""
        first, second = (self.profile.evaluations[run].training for run in pair)
        if first.fingerprint == second.fingerprint:
            return SeedError()
        return error_of_difference(*(self.noise(metric, training.detector) for training in (first, second)))

    def value(self, run: str, metric: str) -> float:
        """A metric of a run that has been measured."""
        frame = measurements(self.profile.evaluations[run], self.store)
        return float(frame.loc[frame["metric"] == metric, "value"].iloc[0])

    def is_done(self, run: str) -> bool:
        """Whether the run is registered at these seeds and has been measured."""
        return run in self.profile.evaluations and is_measured(self.profile.evaluations[run], self.store)

    def done(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs of which both runs have been measured."""
        return [pair for pair in pairs if all(map(self.is_done, pair))]


def seed_error(sd: float, num_seeds: int) -> SeedError:
    """That of a mean over several seeds, from the standard deviation among them."""
    return SeedError(error=float(sd) / math.sqrt(num_seeds), degrees=num_seeds - 1)


def widened(row: pd.Series, seeds: SeedError, runs: tuple[str, ...]) -> Measured:
    """A row with value, low, high and n_seeds, the seeds' half-width added to its interval in quadrature."""
    value, half = float(row["value"]), seeds.half
    return Measured(
        value=value,
        low=value - math.hypot(value - row["low"], half),
        high=value + math.hypot(row["high"] - value, half),
        n_seeds=int(row["n_seeds"]),
        runs=runs,
        seeds=seeds,
    )
