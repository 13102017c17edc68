"""What was measured of a claim, each value with an interval that holds all that is known of its chance.

A difference of detectors with several seeds has two half-widths, that of the paired bootstrap over images (the mean of
the seeds' own) and that of the t interval over paired seeds. They add in quadrature. That is cautious: how images and
seeds interact is in both. Single seeds borrow the noise of
their detectors from the runs that were repeated (standard deviations pooled over backbones: FreeAnchor's is not
RetinaNet's). Where a detector's runs were not repeated the interval covers images alone; so it does where one trained
model is tested in two ways, which share its seed.

    evidence = Evidence(profile, store)
    evidence.gain(profile.pairs, "ap")                                          # FreeAnchor minus RetinaNet
    evidence.difference("freeanchor-small-s0", "freeanchor-small-n40-s0", "ap")   # the variant minus the default
    BagEvidence(evidence).concentration()       # {"": Measured}
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from analysis.bags.summaries import is_acentric, matching_freed, object_mean
from analysis.evaluation.statistics import bootstrap, spread, t_quantile
from experiments.registry.profile import Pair, Profile
from experiments.runs.bags import stored_bags
from experiments.runs.cost import COLUMNS as COST_COLUMNS
from experiments.runs.cost import cost_file, cost_ratio
from experiments.runs.measured import MetricsOf, gains_frame, measurements, metrics_frame
from experiments.runs.store import Store, is_measured, stored_frame

LEVEL = 0.95
_t_quantile = cache(t_quantile)  # by bisection, and asked for again and again


@dataclass(frozen=True, kw_only=True)
class SeedError:
    """Standard error of a value for the choice of seeds, and its degrees of freedom; 0 of them where it is unknown."""

    error: float = 0.0
    degrees: float = 0

    @property
    def half(self) -> float:
        """Half-width of the 95 % interval; 0 where nothing is known."""
        return _t_quantile((1 + LEVEL) / 2, self.degrees) * self.error if self.degrees else 0.0


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A value with its 95 % interval, of which `seeds` is a part; `runs` are those it was measured on."""

    value: float
    low: float
    high: float
    n_seeds: int
    runs: tuple[str, ...]
    seeds: SeedError = SeedError()


Parts = dict[str, Measured | None]  # of a claim, by name; None where not run


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
        self.profile, self.store = profile, store
        self._gains = cache(lambda pairs: gains_frame(profile, pairs, store))

    def gain(self, pairs: tuple[Pair, ...], metric: str) -> Measured | None:
        """Second minus first of pairs that differ in nothing but the detector, a pair a seed; None where not run."""
        row = _row_of(self._gains(pairs), metric)
        if row is None:
            return None
        seeds = seed_error(row["sd"], int(row["n_seeds"])) if row["n_seeds"] > 1 else self.borrowed(pairs[0], metric)
        return widened(row, seeds, self._runs(pairs))

    def gain_in(self, metrics_of: MetricsOf, metric: str) -> Measured | None:
        """The gain in a metric of an analysis of its own, which is not among the stored measurements; None if not run.

        The noise of seeds is in the interval where there are several; a single seed has nothing to borrow from.
        """
        frame = metrics_frame(self.profile, self.store, metrics_of)
        row = _row_of(frame[frame["detector"] == "gain"], metric)
        if row is None:
            return None
        seeds = seed_error(row["sd"], int(row["n_seeds"])) if row["n_seeds"] > 1 else SeedError()
        return widened(row, seeds, self._runs(self.profile.pairs))

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

    def borrowed(self, pair: Pair, metric: str) -> SeedError:
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

    def _runs(self, pairs: Sequence[Pair]) -> tuple[str, ...]:
        return tuple(run for pair in self.done(pairs) for run in pair)

    def done(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs of which both runs have been measured."""
        return [pair for pair in pairs if all(map(self.is_done, pair))]


def _row_of(frame: pd.DataFrame, metric: str) -> pd.Series | None:
    rows = frame[frame["metric"] == metric]
    return None if rows.empty or math.isnan(rows["value"].iloc[0]) else rows.iloc[0]


def seed_error(sd: float, num_seeds: int) -> SeedError:
    """That of a mean over several seeds, from the standard deviation among them."""
    return SeedError(error=float(sd) / math.sqrt(num_seeds), degrees=num_seeds - 1)


def widened(row: pd.Series, seeds: SeedError, runs: tuple[str, ...]) -> Measured:
    """A row with value, low, high and n_seeds, the seeds' half-width added to its interval in quadrature."""
    bounds = float(row["value"]), float(row["low"]), float(row["high"])
    return widened_interval(bounds, int(row["n_seeds"]), seeds, runs)


def widened_interval(
    bounds: tuple[float, float, float], num_seeds: int, seeds: SeedError, runs: tuple[str, ...]
) -> Measured:
    """The same of a value with its low and high."""
    (value, low, high), half = bounds, seeds.half
    if half:  # a bound beyond the value, as a percentile's may be, has no width of its own
        low, high = value - math.hypot(max(0, value - low), half), value + math.hypot(max(0, high - value), half)
    return Measured(value=value, low=low, high=high, n_seeds=num_seeds, runs=runs, seeds=seeds)


def mean_over_seeds(intervals: Sequence[tuple[float, float, float]], runs: tuple[str, ...]) -> Measured | None:
    """The mean of the seeds' values, low and high, with the noise that the seeds show among themselves."""
    if not intervals:
        return None
    seeds = spread([value for value, _, _ in intervals])
    low, high = np.mean([bounds for _, *bounds in intervals], axis=0)
    error = seed_error(seeds.sd, seeds.num_seeds) if seeds.num_seeds > 1 else SeedError()
    return widened_interval((seeds.mean, float(low), float(high)), seeds.num_seeds, error, runs)


def measured_cost(evidence: Evidence) -> Parts:
    """The ratio on each backbone, for the claims; None where it was not timed."""
    profile = evidence.profile
    parts: Parts = {}
    for pairs in profile.comparisons.values():
        backbone = profile.evaluations[pairs[0][0]].training.backbone_label
        path = cost_file(profile, pairs[0], evidence.store)
        parts[backbone] = None
        if path.exists():
            baseline, detector = (profile.evaluations[run].training.detector for run in pairs[0])
            value, low, high = cost_ratio(stored_frame(path, COST_COLUMNS), detector, baseline)
            parts[backbone] = Measured(value=value, low=low, high=high, n_seeds=1, runs=pairs[0])
    return parts


class BagEvidence:
    """What the bags of all validation objects say: means over objects with a bootstrap over images, over seeds."""

    def __init__(self, evidence: Evidence) -> None:
        bags = stored_bags(evidence.profile, evidence.store)
        known = {str(run): own for run, own in bags.groupby("run", sort=False)}
        self.frames = {pair[1]: known[pair[1]] for pair in evidence.profile.pairs if pair[1] in known}
        self.pairs = evidence.profile.pairs
        self.baselines = {pair[1]: known[pair[0]] for pair in evidence.profile.pairs if set(pair) <= set(known)}

    def concentration(self) -> Parts:
        """Effective anchors at the last snapshot minus those at the first; None where there is but one."""
        return self._over_seeds([_change(frame, "effective_anchors") for frame in self.frames.values()])

    def effective_at_the_end(self) -> Parts:
        """Effective anchors at the last snapshot."""
        return self._over_seeds([_last(frame)[["image_id", "effective_anchors"]] for frame in self.frames.values()])

    def nearer_to_the_part(self) -> Parts:
        """How much nearer to the discriminative part the learned match is than the highest-IoU anchor, in diagonals."""
        return self._freed("nearer_to_part")

    def farther_from_the_centre(self) -> Parts:
        """How much farther from the object's centre it is, in diagonals."""
        return self._freed("farther_from_centre")

    def nearer_than_the_baseline(self) -> Parts:
        """How much nearer to the part FreeAnchor's best-scoring anchor is than RetinaNet's, in diagonals."""
        frames = []
        for run, baseline in self.baselines.items():
            theirs = _last(baseline).set_index("annotation_id")["to_part"]
            ours = _last(self.frames[run])
            ours = ours[is_acentric(ours)]
            frames.append(ours[["image_id"]].assign(nearer=ours["annotation_id"].map(theirs) - ours["to_part"]))
        runs = tuple(run for pair in self.pairs for run in pair if pair[1] in self.baselines)
        return self._over_seeds(frames, runs)

    def _freed(self, column: str) -> Parts:
        return self._over_seeds([matching_freed(_last(frame))[["image_id", column]] for frame in self.frames.values()])

    def _over_seeds(self, frames: list[pd.DataFrame], runs: tuple[str, ...] = ()) -> Parts:
        """The mean over objects, then over seeds, of frames of (image_id, value); `runs` if not FreeAnchor's alone."""
        intervals = [_mean_over_images(frame) for frame in frames if len(frame)]
        return {"": mean_over_seeds(intervals, runs or tuple(self.frames))}


def _last(bags: pd.DataFrame) -> pd.DataFrame:
    return bags[bags["step"] == bags["step"].max()]


def _change(bags: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column at the last snapshot minus the same object's at the first; no rows where the two are one."""
    first = bags[bags["step"] == bags["step"].min()].set_index("annotation_id")[column]
    last = _last(bags[bags["step"] > bags["step"].min()])
    change = last[column] - last["annotation_id"].map(first)
    return pd.DataFrame({"image_id": last["image_id"], column: change}).dropna()


def _mean_over_images(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Mean of the second column over objects, with its 95 % bootstrap interval over images."""
    metric, num_images = object_mean(frame, str(frame.columns[1]))
    interval = bootstrap(metric, num_images=num_images, generator=np.random.default_rng(0))
    return float(interval.value), float(interval.low), float(interval.high)
