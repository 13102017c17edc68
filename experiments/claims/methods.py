"""What the papers of other methods of assignment claim and what our runs of them can tell, with the evidence for each.

The methods run on RetinaNet's network (`experiments/registry/methods.py`); a claim is *not run* where they were not.
"""

from collections.abc import Callable

import numpy as np

from analysis.evaluation.metrics import alignment_metrics
from analysis.evaluation.statistics import bootstrap, rank_correlation, spread
from experiments.claims.evidence import Evidence, Measured, Parts, SeedError, seed_error, widened_interval
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
        if not evidence.profile.methods:
            return dict.fromkeys(methods.values())
        profiles = {name: compared(evidence.profile, ("retinanet", key)) for key, name in methods.items()}
        return {
            name: Evidence(profile, evidence.store).gain_in(alignment_metrics, CORRELATION)
            for name, profile in profiles.items()
        }

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
            found.append([float(np.ravel(side)[0]) for side in (interval.value, interval.low, interval.high)])
        return {"": _over_seeds(found, tuple(run.name for run in done))}

    return measure


def _over_seeds(found: list[list[float]], runs: tuple[str, ...]) -> Measured | None:
    if not found:
        return None
    seeds = spread([value for value, *_ in found])
    low, high = np.mean([bounds for _, *bounds in found], axis=0)
    error = seed_error(seeds.sd, seeds.num_seeds) if seeds.num_seeds > 1 else SeedError()
    return widened_interval((seeds.mean, float(low), float(high)), seeds.num_seeds, error, runs)
