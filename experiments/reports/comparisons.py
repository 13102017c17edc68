"""Both detectors beside each other: slender and square objects, crowded images, equally many candidates, training.

FIGURE5.write(profile, store, Path("reports"))
frame = budget_frame(profile, store)        # detector, budget, num_given, metric, value, low, high, seeds
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analysis.coco.reading import read_ground_truth
from analysis.evaluation.nms_recall import TAUS, FoundByImage, ObjectRecall, found_by_image, nms_recall_values
from analysis.evaluation.statistics import Metric, bootstrap, paired_bootstrap
from analysis.figures import breakdowns, curves
from experiments.registry.config import Evaluation, Training
from experiments.registry.profile import Profile
from experiments.reports.report import compared_runs, figure_report
from experiments.reports.tables import comparison
from experiments.runs.measured import SEED_COLUMNS, over_seeds, pair_frame, seeds_of_pairs, training_frame
from experiments.runs.store import TESTED, Store, is_measured, stored_frame, stored_record
from experiments.runs.testing import learning_curves
from freeanchor.data.coco import locate_split


def _pair_and_gain(profile: Profile, store: Store) -> pd.DataFrame:
    frame, gains = pair_frame(profile, store), comparison(profile, store)
    return pd.concat([frame, gains.assign(detector="gain")], ignore_index=True) if len(gains) else frame


def slenderness_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Fig. 5: AP on square and slender objects, and each category's AP against its median aspect ratio."""
    frame = _pair_and_gain(profile, store)
    groups = frame[frame["metric"].isin(["ap_square", "ap_middle", "ap_slender"])].assign(panel="group")
    groups = groups.assign(label=groups["metric"].str.removeprefix("ap_"))
    categories = frame[frame["metric"] == "ap_category"].assign(panel="category")
    columns = ["detector", "panel", "label", "median_aspect", "num_objects", "value", "low", "high", *SEED_COLUMNS]
    return pd.concat([groups, categories], ignore_index=True).reindex(columns=columns)


def crowdedness_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Fig. 6: AP by objects per image for both detectors, and the gain in each bin."""
    frame = _pair_and_gain(profile, store)
    bins = frame[frame["metric"].str.startswith("ap_objects_")]
    label = bins["metric"].str.removeprefix("ap_objects_").str.replace("_plus", "+").str.replace("_", "-")
    counts = bins.groupby("metric")[["num_images", "num_objects"]].transform("max")
    columns = ["detector", "bin", "num_images", "num_objects", "value", "low", "high", *SEED_COLUMNS]
    return bins.assign(bin=label, **counts).reindex(columns=columns)


FIGURE5 = figure_report(
    slenderness_frame,
    breakdowns.figure5,
    name="figure5",
    title="Figure 5. Slender and square objects",
    caption="AP on objects whose box is at most 4:3 (square), at least 3:1 (slender) and between, with COCO's rules "
    "for what is ignored. The paper does not publish its cuts; these are ours. Right: each category's AP against the "
    "median aspect ratio of its boxes.",
    needs=("comparison",),
)
FIGURE6 = figure_report(
    crowdedness_frame,
    breakdowns.figure6,
    name="figure6",
    title="Figure 6. Crowdedness",
    caption="AP on the images with that many objects, and what FreeAnchor gains, paired over images. The paper does "
    "not publish its bins; these are ours.",
    needs=("comparison",),
)

ALL = "all"  # the budget of the paper: every candidate
METRICS = ("nr", "recall_before", "recall_after")  # means over tau = 0.50, 0.55 … 0.90
COLUMNS = ("detector", "budget", "num_given", "metric", "value", "low", "high", *SEED_COLUMNS)
_KEYS = ("budget", "metric")


@dataclass(frozen=True, kw_only=True)
class _Tested:
    """One run's test: objects found by image and budget, mean number of candidates given, objects per image."""

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
    """One row per detector, budget and metric, over seeds; then the gain, paired over images, where both were run.

    `budget` is the most candidates of an image that NMS is given, or "all"; `num_given` how many that were: the mean
    over images, under a budget over those with objects; below the budget where images have no more; nan for the gain.
    Intervals: 95 %, bootstrap over images, those of a single detector centred. Runs tested by an earlier version are
    named on stderr and left out.
    """
    runs = [profile.evaluations[name] for name in compared_runs(profile)]
    tested = {run.name: _tested(run, store) for run in runs if _is_there(run, store)}
    frames = []
    for detector, seeds in seeds_of_pairs(profile, tested, _own, _gain):
        given = pd.concat(seeds).groupby(list(_KEYS), sort=False)["num_given"].mean()
        own = over_seeds(seeds, _KEYS).drop(columns="num_given").merge(given.reset_index(), on=list(_KEYS))
        frames.append(own.assign(detector=detector))
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(run: Evaluation, store: Store) -> bool:
    directory = run.directory(store.runs)
    if not is_measured(run, store) or not (directory / "predict.json").exists():
        return False
    if (directory / "budgets.csv").exists():
        return True
    again = f"run: freeanchor predict {run.name}"
    print(f"candidates: {run.name} was tested by an earlier version and is left out; {again}", file=sys.stderr)
    return False


def _tested(run: Evaluation, store: Store) -> _Tested:
    directory = run.directory(store.runs)
    image_ids = read_ground_truth(locate_split(store.data(run.training), "val")[0]).image_ids
    everything, budgets = (stored_frame(directory / name) for name in ("object_recall.csv", "budgets.csv"))
    record = stored_record(directory / "predict.json", TESTED)
    groups = {str(budget): own for budget, own in budgets.groupby("budget", sort=False)}
    means = {name: own.groupby("image_id")["num_given"].first().mean() for name, own in groups.items()}
    return _Tested(
        found={name: found_by_image(_recall(own), image_ids) for name, own in [*groups.items(), (ALL, everything)]},
        num_given={**means, ALL: float(record["num_candidates"]) / max(1, int(record["num_pictures"]))},
        num_objects=np.bincount(np.searchsorted(image_ids, everything["image_id"]), minlength=len(image_ids)),
    )


def _recall(rows: pd.DataFrame) -> ObjectRecall:
    return ObjectRecall(
        image_id=rows["image_id"].to_numpy(),
        annotation_id=rows["annotation_id"].to_numpy(),
        iou_before=rows["before"].to_numpy(),
        iou_after=rows["after"].to_numpy(),
    )


def interval_rows(
    keys: pd.DataFrame, metrics: Sequence[Metric], num_images: int, *, centred: bool = False
) -> pd.DataFrame:
    """Keys with value, low and high: of one metric, or of the second minus the first of two, paired over images.

    The resampling has a fixed seed: every run meets the same images.
    """
    generator = np.random.default_rng(0)
    if len(metrics) == 2:
        interval = paired_bootstrap(*metrics, num_images=num_images, generator=generator)
    else:
        interval = bootstrap(*metrics, num_images=num_images, generator=generator, centred=centred)
    return keys.assign(value=interval.value, low=interval.low, high=interval.high)


def _keys(budgets: list[str]) -> pd.DataFrame:
    return pd.DataFrame([(budget, metric) for budget in budgets for metric in METRICS], columns=list(_KEYS))


def _own(run: _Tested) -> pd.DataFrame:
    budgets = list(run.found)
    rows = interval_rows(_keys(budgets), [partial(run.values, budgets)], len(run.num_objects), centred=True)
    bounds = {side: rows[side].clip(0, 1) for side in ("low", "high")}  # centring can push them over the edge
    return rows.assign(num_given=rows["budget"].map(run.num_given), **bounds)


def _gain(first: _Tested, second: _Tested) -> pd.DataFrame:
    """The second run's metrics minus the first's, at the budgets that both have."""
    budgets = [budget for budget in first.found if budget in second.found]
    metrics = [partial(run.values, budgets) for run in (first, second)]
    return interval_rows(_keys(budgets), metrics, len(first.num_objects)).assign(num_given=math.nan)


CANDIDATES = figure_report(
    budget_frame,
    breakdowns.candidates_figure,
    name="candidates",
    title="NMS recall from equally many candidates",
    caption="Table 1 takes every candidate above score 0.05, and one detector may have several times as many as the "
    "other. Here NMS is given at most that many of an image's candidates, the best-scoring, of either detector; at the "
    "right, all of them. Hollow points: images have fewer (num_given in the csv). Authors' definition, mean over IoU "
    "thresholds 0.50 to 0.90, 95 % intervals over images.",
)
TRAINING = figure_report(
    training_frame,
    curves.training_curves,
    name="training",
    title="Loss, learning rate and effective anchors over training",
    caption="Loss terms, learning rate, and how many of a bag's anchors Mean-max really uses, for both detectors: the "
    "mean over seeds, and their range.",
)


def _convergence_caption(profile: Profile) -> str:
    text = "AP on the validation split at snapshots of both detectors' trainings: the mean over seeds, and their range."
    training = profile.evaluations[profile.pair[0]].training
    if not isinstance(training, Training) or not training.recipe.drops:
        return text
    drops = " and ".join(f"{100 * drop:.0f}" for drop in training.recipe.drops)
    return f"{text} The learning rate falls to a tenth at {drops} % of the training."


CONVERGENCE = figure_report(
    learning_curves, curves.learning_curves, name="convergence", title="AP over training", caption=_convergence_caption
)

REPORTS = (FIGURE5, FIGURE6, CANDIDATES, TRAINING, CONVERGENCE)
