"""What the papers of other methods of assignment claim and what our runs of them can tell, with the evidence for each.

The methods run on RetinaNet's network (`experiments/registry/methods.py`); a claim is *not run* where they were not.
"""

from collections.abc import Callable

import numpy as np

from analysis.evaluation.metrics import alignment_metrics
from analysis.evaluation.statistics import bootstrap, rank_correlation
from experiments.claims.evidence import Evidence, Parts, mean_over_seeds
from experiments.registry.build import compared
from experiments.registry.profile import Pair
from experiments.runs.learning import can_be_asked, learning_stage
from experiments.runs.store import stored_frame

CORRELATION = "score_iou_correlation"


def _pairs(evidence: Evidence, first: str, second: str) -> tuple[Pair, ...]:
    runs = {method.key: method.runs for method in evidence.profile.methods}
    return tuple(zip(runs.get(first, ()), runs.get(second, ()), strict=False))


def method_gain(first: str, second: str, metric: str) -> Callable[[Evidence], Parts]:
    """One method minus another in a stored metric."""

    def measure(evidence: Evidence) -> Parts:
        pairs = _pairs(evidence, first, second)
        return {"": evidence.gain(pairs, metric) if pairs else None}

    return measure


def alignment_gain(methods: dict[str, str]) -> Callable[[Evidence], Parts]:
    """How much better each method's scores rank its boxes than RetinaNet's do: a difference of rank correlations."""

    def measure(evidence: Evidence) -> Parts:
        there, parts = {method.key for method in evidence.profile.methods}, dict.fromkeys(methods.values())
        for key, name in methods.items():
            if key in there:
                own = Evidence(compared(evidence.profile, ("retinanet", key)), evidence.store)
                parts[name] = own.gain_in(alignment_metrics, CORRELATION)
        return parts

    return measure


def learners_by_size(key: str) -> Callable[[Evidence], Parts]:
    """Rank correlation of how many anchors learn an object with the object's diagonal, at the end, over seeds."""

    def measure(evidence: Evidence) -> Parts:
        names = next((method.runs for method in evidence.profile.methods if method.key == key), ())
        runs = [evidence.profile.evaluations[name] for name in names]
        done = [run for run in runs if can_be_asked(run, evidence.store)]
        found = []
        for run in done:
            objects = stored_frame(learning_stage(run, evidence.store)[0])
            last = objects[objects["step"] == objects["step"].max()]
            ids, image = np.unique(last["image_id"], return_inverse=True)
            counts, diagonals = (last[name].to_numpy(dtype=np.float64) for name in ("num_learning", "diagonal"))
            metric = rank_correlation(counts, diagonals, image, len(ids))
            interval = bootstrap(metric, num_images=len(ids), generator=np.random.default_rng(0))
            value, low, high = (float(np.ravel(side)[0]) for side in (interval.value, interval.low, interval.high))
            found.append((value, low, high))
        return {"": mean_over_seeds(found, tuple(run.name for run in done))}

    return measure
