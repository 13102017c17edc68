"""NMS recall of the compared detectors from equally many candidates of a picture, beside what the paper's takes.

Table 1 counts all candidates above score 0.05, and one detector may have several times as many of them as another: it
finds more objects before NMS and has more to lose. Here both have the same number, the best-scored.

    frame = budget_frame(profile, store)        # detector, budget, num_candidates, metric, value, low, high, seeds
"""

import math
from functools import partial

import numpy as np
import pandas as pd

from analysis.nms_recall import TAUS, FoundByImage, ObjectRecall, found_by_image, nms_recall_values
from analysis.statistics import Interval, bootstrap, paired_bootstrap
from experiments.config import Evaluation
from experiments.files import read_json
from experiments.frames import is_measured
from experiments.profiles import Profile
from experiments.seeds import SEED_COLUMNS, over_seeds
from experiments.store import Store

ALL = "all"  # the budget of the paper: every candidate
METRICS = ("nr", "recall_before", "recall_after")  # means over tau = 0.50, 0.55 … 0.90
COLUMNS = ("detector", "budget", "num_candidates", "metric", "value", "low", "high", *SEED_COLUMNS)
_SEED = 0  # of the resampling: every run and budget meets the same pictures


def budget_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a detector, budget and metric, over seeds; then the gain, paired over pictures, where both were run.

    `budget` is a number of candidates a picture, or "all"; `num_candidates` the mean of those that a picture has above
    the threshold, of the detector (nan for the gain). Intervals: 95 %, bootstrap over pictures.
    """
    both = [[profile.evaluations[name] for name in pair] for pair in profile.pairs]
    frames = []
    for runs in zip(*both, strict=True):
        seeds = [_own(run, store) for run in runs if _is_there(store, run)]
        if seeds:
            counts = np.mean([_num_candidates(run, store) for run in runs if _is_there(store, run)])
            own = over_seeds(seeds, ("budget", "metric"))
            frames.append(own.assign(detector=runs[0].training.detector, num_candidates=counts))
    gains = [_gain(first, second, store) for first, second in both if _is_there(store, first, second)]
    if gains:
        frames.append(over_seeds(gains, ("budget", "metric")).assign(detector="gain", num_candidates=math.nan))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(store: Store, *runs: Evaluation) -> bool:
    """Whether runs have been measured, and their budgets with them: those of earlier versions have none."""
    return all(is_measured(run, store) and (run.directory(store.runs) / "budgets.csv").exists() for run in runs)


def _num_candidates(run: Evaluation, store: Store) -> float:
    """Candidates above the threshold, a picture."""
    record = read_json(run.directory(store.runs) / "predict.json")
    return float(record["num_candidates"]) / max(1, int(record["num_pictures"]))


def _found(run: Evaluation, store: Store) -> tuple[dict[str, FoundByImage], np.ndarray]:
    """Objects found before and after NMS in each picture, a table a budget; and the objects that each picture has."""
    directory = run.directory(store.runs)
    everything = pd.read_csv(directory / "object_recall.csv").assign(budget=ALL)
    frame = pd.concat([pd.read_csv(directory / "budgets.csv"), everything], ignore_index=True)
    image_ids, num_objects = np.unique(everything["image_id"], return_counts=True)
    found = {}
    for budget, own in frame.groupby("budget", sort=False):
        found[str(budget)] = found_by_image(_recall(own), image_ids)
    return found, num_objects


def _recall(rows: pd.DataFrame) -> ObjectRecall:
    """The columns as the analysis takes them."""
    return ObjectRecall(
        image_id=rows["image_id"].to_numpy(),
        annotation_id=rows["annotation_id"].to_numpy(),
        iou_before=rows["before"].to_numpy(),
        iou_after=rows["after"].to_numpy(),
    )


def _values(found: dict[str, FoundByImage], num_objects: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Under each of R weightings of the pictures, `METRICS` at the first budget, then at the second, and so on."""
    total = (weights @ num_objects)[:, None] * len(TAUS)
    columns = []
    for own in found.values():
        columns.append(nms_recall_values(own, weights)[:, -1:])
        columns += [(weights @ side).sum(axis=1, keepdims=True) / total for side in (own.before, own.after)]
    return np.hstack(columns)


def _rows(found: dict[str, FoundByImage], interval: Interval) -> pd.DataFrame:
    """A row a budget and metric."""
    keys = [(budget, metric) for budget in found for metric in METRICS]
    return pd.DataFrame(keys, columns=["budget", "metric"]).assign(
        value=interval.value, low=interval.low, high=interval.high
    )


def _own(run: Evaluation, store: Store) -> pd.DataFrame:
    """One run's metrics."""
    found, num_objects = _found(run, store)
    metric = partial(_values, found, num_objects)
    return _rows(found, bootstrap(metric, num_images=len(num_objects), generator=np.random.default_rng(_SEED)))


def _gain(first: Evaluation, second: Evaluation, store: Store) -> pd.DataFrame:
    """The second run's metrics less the first's, paired over pictures."""
    found = [_found(run, store) for run in (first, second)]
    num_objects = found[0][1]
    metrics = [partial(_values, own, num_objects) for own, _ in found]
    generator = np.random.default_rng(_SEED)
    return _rows(found[0][0], paired_bootstrap(*metrics, num_images=len(num_objects), generator=generator))
