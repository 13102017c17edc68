"""The same measurements of several seeds as one: means, intervals over pictures, spread over seeds.

Two sources of chance stand side by side in every row, since neither contains the other: which pictures were drawn for
validation (`low`, `high`: the mean of the seeds' bootstrap intervals; the pictures are the same, so more seeds do not
narrow it), and the seed of the training (`sd`, `minimum`, `maximum`, and `seed_low`, `seed_high`: the t interval of the
mean over seeds; nan for one seed).

    over_seeds([measurements_of_seed_0, measurements_of_seed_1])
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from analysis.evaluation.statistics import spread
from experiments.registry.profile import Profile

_Answer = TypeVar("_Answer")  # what is known of a run
SEED_COLUMNS = ("n_seeds", "sd", "minimum", "maximum", "seed_low", "seed_high")
NOT_RUN = {**dict.fromkeys(("value", "low", "high", *SEED_COLUMNS), math.nan), "n_seeds": 0}


def over_seeds(frames: Sequence[pd.DataFrame], by: Sequence[str] = ("metric",)) -> pd.DataFrame:
    """One row a `metric` (or whatever `by` names), in the order of the first frame; `value` is the mean over seeds.

    Columns of the first frame other than value, low and high are kept as they are there. A metric that is nan in any
    seed is nan, its bounds too. Without frames the result is empty.
    """
    if not frames:
        return pd.DataFrame(columns=[*by, "value", "low", "high", *SEED_COLUMNS])
    keys = list(by)
    everything = pd.concat(frames, ignore_index=True)
    groups = everything.groupby(keys, sort=False, dropna=False)
    values = groups["value"].apply(list)
    spreads = [spread(list(own)) for own in values]
    bounds = groups[["low", "high"]].mean()
    bounds.loc[np.isnan([one.mean for one in spreads])] = math.nan
    summary = pd.DataFrame(
        {
            "value": [one.mean for one in spreads],
            "low": bounds["low"].to_numpy(),
            "high": bounds["high"].to_numpy(),
            "n_seeds": [one.num_seeds for one in spreads],
            "sd": [one.sd for one in spreads],
            "minimum": [one.minimum for one in spreads],
            "maximum": [one.maximum for one in spreads],
            "seed_low": [one.low for one in spreads],
            "seed_high": [one.high for one in spreads],
        },
        index=values.index,
    ).reset_index()
    first = frames[0].drop(columns=["value", "low", "high"], errors="ignore")
    return first.merge(summary, on=keys, how="left")


def seeds_of_pairs(
    profile: Profile,
    answers: Mapping[str, _Answer],
    own: Callable[[_Answer], pd.DataFrame],
    gain: Callable[[_Answer, _Answer], pd.DataFrame],
) -> Iterator[tuple[str, list[pd.DataFrame]]]:
    """The measurements of each seed, for `over_seeds`: of both detectors, then as "gain" of the pairs that are whole.

    `answers` holds what is known of a run under its name; a detector, or the gain, without any is left out.
    """
    for names in zip(*profile.pairs, strict=True):
        seeds = [own(answers[name]) for name in names if name in answers]
        if seeds:
            yield profile.evaluations[names[0]].training.detector, seeds
    gains = [gain(answers[pair[0]], answers[pair[1]]) for pair in profile.pairs if set(pair) <= set(answers)]
    if gains:
        yield "gain", gains
