"""NMS recall of the compared detectors from equally many candidates of an image, beside what the paper's takes.

Table 1 counts all candidates above score 0.05, and one detector may have several times as many of them as another; with
their number objects found before NMS grow, and NR changes. Here both have at most so many, the best-scored.

    frame = budget_frame(profile, store)        # detector, budget, num_given, metric, value, low, high, seeds
"""

import math
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.coco.reading import read_ground_truth
from analysis.evaluation.nms_recall import TAUS, FoundByImage, ObjectRecall, found_by_image, nms_recall_values
from analysis.evaluation.statistics import Interval, bootstrap, paired_bootstrap
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.runs.measured import SEED_COLUMNS, over_seeds, seeds_of_pairs
from experiments.runs.store import Store, is_measured
from freeanchor.data.coco import locate_split
from freeanchor.files import read_json

ALL = "all"  # the budget of the paper: every candidate
METRICS = ("nr", "recall_before", "recall_after")  # means over tau = 0.50, 0.55 … 0.90
COLUMNS = ("detector", "budget", "num_given", "metric", "value", "low", "high", *SEED_COLUMNS)
_KEYS = ("budget", "metric")
_SEED = 0  # of the resampling: every run and budget meets the same images


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """One run's test: objects found an image and budget, the mean number of candidates given, objects per image."""

    found: dict[str, FoundByImage]
    num_given: dict[str, float]
    num_objects: np.ndarray

    def values(self, budgets: list[str], weights: np.ndarray) -> np.ndarray:
        """Under each of R weightings of the images, `METRICS` at the first budget, then at the second, and so on."""
        total = (weights @ self.num_objects)[:, None] * len(TAUS)
        columns = []
        for own in (self.found[budget] for budget in budgets):
            columns.append(nms_recall_values(own, weights)[:, -1:])
            for side in (own.before, own.after):
                count = (weights @ side).sum(axis=1, keepdims=True)
                columns.append(np.divide(count, total, out=np.full(count.shape, np.nan), where=total > 0))
        return np.hstack(columns)


def budget_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a detector, budget and metric, over seeds; then the gain, paired over images, where both were run.

    `budget` is the most candidates of an image that NMS is given, or "all"; `num_given` how many that were: the mean
    over images, under a budget over those with objects; less than the budget where images have no more; nan for the
    gain. Intervals: 95 %, bootstrap over images, those of a single detector centred. Runs tested by an earlier
    version are named on stderr and left out.
    """
    runs = [profile.evaluations[name] for pair in profile.pairs for name in pair]
    tested = {run.name: _tested(run, store) for run in runs if _is_there(run, store)}
    frames = []
    for detector, seeds in seeds_of_pairs(profile, tested, _own, _gain):
        given = pd.concat(seeds).groupby(list(_KEYS), sort=False)["num_given"].mean()
        own = over_seeds(seeds, _KEYS).drop(columns="num_given").merge(given.reset_index(), on=list(_KEYS))
        frames.append(own.assign(detector=detector))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(run: Evaluation, store: Store) -> bool:
    """Whether a run has been tested whole, with budgets; a word on stderr where it was, but without them."""
    directory = run.directory(store.runs)
    if not is_measured(run, store) or not (directory / "predict.json").exists():
        return False
    if not (directory / "budgets.csv").exists():
        print(
            f"candidates: {run.name} was tested by an earlier version and is left out; run: freeanchor predict "
            f"{run.name}",
            file=sys.stderr,
        )
        return False
    return True


def _tested(run: Evaluation, store: Store) -> _Tested:
    """Read one run's test."""
    directory = run.directory(store.runs)
    image_ids = read_ground_truth(locate_split(store.data(run.training), "val")[0]).image_ids
    everything, budgets = (pd.read_csv(directory / name) for name in ("object_recall.csv", "budgets.csv"))
    record = read_json(directory / "predict.json")
    groups = {str(budget): own for budget, own in budgets.groupby("budget", sort=False)}
    means = {name: own.groupby("image_id")["num_given"].first().mean() for name, own in groups.items()}
    return _Tested(
        found={name: found_by_image(_recall(own), image_ids) for name, own in [*groups.items(), (ALL, everything)]},
        num_given={**means, ALL: float(record["num_candidates"]) / max(1, int(record["num_pictures"]))},
        num_objects=np.bincount(np.searchsorted(image_ids, everything["image_id"]), minlength=len(image_ids)),
    )


def _recall(rows: pd.DataFrame) -> ObjectRecall:
    """The columns as the analysis takes them."""
    return ObjectRecall(
        image_id=rows["image_id"].to_numpy(),
        annotation_id=rows["annotation_id"].to_numpy(),
        iou_before=rows["before"].to_numpy(),
        iou_after=rows["after"].to_numpy(),
    )


def _rows(budgets: list[str], interval: Interval) -> pd.DataFrame:
    """A row a budget and metric."""
    keys = [(budget, metric) for budget in budgets for metric in METRICS]
    return pd.DataFrame(keys, columns=["budget", "metric"]).assign(
        value=interval.value, low=interval.low, high=interval.high
    )


def _own(run: _Tested) -> pd.DataFrame:
    """One run's metrics."""
    budgets = list(run.found)
    metric, generator = partial(run.values, budgets), np.random.default_rng(_SEED)
    interval = bootstrap(metric, num_images=len(run.num_objects), generator=generator, centred=True)
    rows = _rows(budgets, interval)
    bounds = {side: rows[side].clip(0, 1) for side in ("low", "high")}  # centring can push them over the edge
    return rows.assign(num_given=rows["budget"].map(run.num_given), **bounds)


def _gain(first: _Tested, second: _Tested) -> pd.DataFrame:
    """The second run's metrics less the first's, paired over images, at the budgets that both have."""
    budgets = [budget for budget in first.found if budget in second.found]
    metrics = [partial(run.values, budgets) for run in (first, second)]
    generator = np.random.default_rng(_SEED)
    rows = _rows(budgets, paired_bootstrap(*metrics, num_images=len(first.num_objects), generator=generator))
    return rows.assign(num_given=math.nan)
