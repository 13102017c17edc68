"""Runs for tests: one miniature that was really trained, and results of runs that never were.

fabricate(profile, store, "freeanchor-small-s0", 0.4)
"""

import json
from dataclasses import dataclass

import pandas as pd

from experiments.registry.profile import Profile
from experiments.registry.published import AP_FAMILY, NMS_RECALL
from experiments.runs.store import Store

METRICS = ("training_seconds", *AP_FAMILY, *NMS_RECALL)


@dataclass(frozen=True, kw_only=True)
class Mini:
    """The profile `mini` with its two runs measured, in a store of its own; only to be read."""

    profile: Profile
    store: Store


def fabricate(profile: Profile, store: Store, run: str, value: float) -> None:
    """Results of a run that never was: every metric has `value`, between half and twice of it."""
    evaluation = profile.evaluations[run]
    directory = evaluation.directory(store.runs)
    directory.mkdir(parents=True)
    rows = [{"metric": metric, "value": value, "low": value / 2, "high": 2 * value} for metric in METRICS]
    pd.DataFrame(rows).to_csv(directory / "measurements.csv", index=False)
    record = {
        "seconds": 120.0,
        "images_per_second": 33.333,
        "precision": "float32",
        "fingerprint": evaluation.training.fingerprint,
        "provenance": {"commit": "abc", "date": "today", "hardware": "abacus"},
    }
    (directory.parent / "train.json").write_text(json.dumps(record))
