"""Frames of the bags of a whole validation split, for the figures of the matching explorer and the claims.

bags = stored_bags(profile, store)                   # a row an object, run and snapshot
positions = stored_positions(profile, store)         # where FreeAnchor's weight lies in objects' boxes
"""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.bags.arrays import BAG_TABLE_COLUMNS
from analysis.bags.summaries import POSITION_COLUMNS, concentration_frame, part_distance_frame
from analysis.figures.bags import GROUP_NAMES
from experiments.frames import is_measured
from experiments.matches import STAGE_COLUMNS, bag_frames
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.store import Store
from freeanchor.files import write_csv


def bags_stage(evaluation: Evaluation, store: Store) -> tuple[Path, Path]:
    """Ask a run's snapshots about the bags of all objects, once; leaves `positions.csv` and, last, `bags.csv`."""
    directory = evaluation.directory(store.runs)
    bags, positions = directory / "bags.csv", directory / "positions.csv"
    if not bags.exists():
        tables = bag_frames(evaluation, store)
        write_csv(positions, tables[1])
        write_csv(bags, tables[0])
    return bags, positions


def _of_pairs(profile: Profile, store: Store, file: int, columns: tuple[str, ...], *, sides: slice) -> pd.DataFrame:
    """The bags (file 0) or positions (1) of the compared runs that have been measured."""
    runs = [profile.evaluations[run] for pair in profile.pairs for run in pair[sides]]
    frames = [pd.read_csv(bags_stage(run, store)[file]) for run in runs if is_measured(run, store)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))


def stored_bags(profile: Profile, store: Store) -> pd.DataFrame:
    """Bags of both detectors, all seeds: `STAGE_COLUMNS` and `BAG_TABLE_COLUMNS`; empty where nothing was run."""
    return _of_pairs(profile, store, 0, (*STAGE_COLUMNS, *BAG_TABLE_COLUMNS), sides=slice(None))


def stored_positions(profile: Profile, store: Store) -> pd.DataFrame:
    """Where the weight of FreeAnchor's bags lies, seed 0, first and last snapshot: what the figure draws.

    Columns run, detector, step and `POSITION_COLUMNS`.
    """
    frame = _of_pairs(profile, store, 1, (*STAGE_COLUMNS[:3], *POSITION_COLUMNS), sides=slice(1, 2))
    is_drawn = frame["step"].isin([frame["step"].min(), frame["step"].max()]) & frame["group"].isin(GROUP_NAMES)
    return frame[is_drawn & (frame["run"] == profile.pair[1])]


def concentration(profile: Profile, store: Store) -> pd.DataFrame:
    """Entropy, effective anchors and confidence of bags over training, slender beside square, both detectors."""
    return concentration_frame(stored_bags(profile, store))


def part_distance(profile: Profile, store: Store) -> pd.DataFrame:
    """Distances of matched anchors from the telling part and from the centre, over training, both detectors."""
    return part_distance_frame(stored_bags(profile, store), np.random.default_rng(0))
