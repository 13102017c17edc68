"""Where a detector's boxes come from: IoU of the predicted box and class score by an anchor's rank in its bag.

A rank is the same anchor for both detectors, so that what differs is what each has learned to make of it.

    frame = bag_box_frame(profile, store)       # detector, anchor, quantity, value, low, high, seeds

Boxes are decoded and cut at the borders as FreeAnchor's own; what published checkpoints do otherwise there (an
inclusive last pixel, a limit of shrinkage) is left out.
"""

from functools import partial

import numpy as np
import pandas as pd

from analysis.bags.arrays import QUANTITIES, BagBoxes
from analysis.evaluation.statistics import Interval, bootstrap, paired_bootstrap
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.runs.bags import bag_boxes_stage
from experiments.runs.measured import SEED_COLUMNS, over_seeds, seeds_of_pairs
from experiments.runs.store import Store, is_measured

COLUMNS = ("detector", "anchor", "quantity", "value", "low", "high", *SEED_COLUMNS)
_KEYS = ("anchor", "quantity")
_SEED = 0  # of the resampling: every run meets the same pictures


def bag_box_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a detector, anchor and quantity, over seeds; then the gain, paired over pictures, where both were run.

    `anchor` is a rank in the bag, one of the two picked, or their "regret" (`analysis.bag_boxes`). Intervals: 95 %,
    bootstrap over the pictures with objects; gains over those that both runs were asked about.
    """
    runs = [profile.evaluations[name] for pair in profile.pairs for name in pair]
    answers = {run.name: _asked(run, store) for run in runs if _is_there(run, store)}
    asked = {name: answer for name, answer in answers.items() if len(answer)}  # one without objects knows nothing
    frames = [
        over_seeds(seeds, _KEYS).assign(detector=detector)
        for detector, seeds in seeds_of_pairs(profile, asked, _own, _gain)
    ]
    return pd.concat(frames, ignore_index=True)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))


def _is_there(run: Evaluation, store: Store) -> bool:
    """Whether a run is done and its network still lies there, or had been asked before."""
    is_asked = (run.directory(store.runs) / "bag_boxes.csv").exists()
    return is_measured(run, store) and (is_asked or store.network(run.training).exists())


def _asked(run: Evaluation, store: Store) -> pd.DataFrame:
    """What a run says about its bags; ranks are names here."""
    return pd.read_csv(bag_boxes_stage(run, store), dtype={"anchor": str})


def _flat(boxes: BagBoxes, weights: np.ndarray) -> np.ndarray:
    """`boxes.values` with all that is measured in one axis."""
    return boxes.values(weights).reshape(len(weights), -1)


def _rows(boxes: BagBoxes, interval: Interval) -> pd.DataFrame:
    """A row an anchor (or regret) and quantity."""
    keys = [(name, quantity) for name in boxes.names for quantity in QUANTITIES]
    return pd.DataFrame(keys, columns=list(_KEYS)).assign(value=interval.value, low=interval.low, high=interval.high)


def _own(frame: pd.DataFrame) -> pd.DataFrame:
    """One run's means."""
    boxes, generator = BagBoxes.of(frame), np.random.default_rng(_SEED)
    return _rows(boxes, bootstrap(partial(_flat, boxes), num_images=len(boxes.image_ids), generator=generator))


def _gain(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The second run's means less the first's, paired over pictures, for the pictures and anchors that both have."""
    first, second = (one[one["image_id"].isin(other["image_id"])] for one, other in ((first, second), (second, first)))
    if first.empty:
        raise ValueError("two runs to compare were asked about no common picture; both need one validation split")
    common = [anchor for anchor in first["anchor"].unique() if anchor in set(second["anchor"])]
    boxes = [BagBoxes.of(frame, common) for frame in (first, second)]
    metrics = [partial(_flat, one) for one in boxes]
    generator = np.random.default_rng(_SEED)
    return _rows(boxes[0], paired_bootstrap(*metrics, num_images=len(boxes[0].image_ids), generator=generator))
