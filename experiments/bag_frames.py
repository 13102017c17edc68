"""Frames of the bags of a whole validation split, for the figures of the matching explorer and the claims.

bags = stored_bags(profile, store)                   # a row an object, run and snapshot
positions = stored_positions(profile, store)         # where FreeAnchor's weight lies in objects' boxes
"""

import numpy as np
import pandas as pd

from analysis.bags.summaries import concentration_frame, part_distance_frame
from experiments.registry.profile import Profile
from experiments.runs.bags import stored_bags
from experiments.runs.store import Store


def concentration(profile: Profile, store: Store) -> pd.DataFrame:
    """Entropy, effective anchors and confidence of bags over training, slender beside square, both detectors."""
    return concentration_frame(stored_bags(profile, store))


def part_distance(profile: Profile, store: Store) -> pd.DataFrame:
    """Distances of matched anchors from the telling part and from the centre, over training, both detectors."""
    return part_distance_frame(stored_bags(profile, store), np.random.default_rng(0))
