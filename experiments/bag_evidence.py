"""What the bags of all validation objects say about matching, for the claims: means with intervals.

An interval over pictures is a bootstrap of the mean over objects, pictures drawn whole; several seeds are averaged.

    BagEvidence(evidence).concentration()       # {"": Measured}
"""

import numpy as np
import pandas as pd

from analysis.bags.summaries import is_acentric, matching_freed, object_mean
from analysis.evaluation.statistics import bootstrap, spread
from experiments.evidence import Evidence, Measured, SeedError, seed_error, widened
from experiments.runs.bags import stored_bags

Parts = dict[str, Measured | None]


class BagEvidence:
    """The stored bags of the compared FreeAnchor runs, a frame a seed."""

    def __init__(self, evidence: Evidence) -> None:
        """Read the bags of every compared run that has been measured."""
        bags = stored_bags(evidence.profile, evidence.store)
        known = {str(run): own for run, own in bags.groupby("run", sort=False)}
        self.frames = {pair[1]: known[pair[1]] for pair in evidence.profile.pairs if pair[1] in known}
        self.pairs = evidence.profile.pairs
        self.baselines = {pair[1]: known[pair[0]] for pair in evidence.profile.pairs if set(pair) <= set(known)}

    def concentration(self) -> Parts:
        """Effective anchors at the last snapshot less those at the first; None where there is but one."""
        return self._over_seeds([_change(frame, "effective_anchors") for frame in self.frames.values()])

    def effective_at_the_end(self) -> Parts:
        """Effective anchors at the last snapshot."""
        return self._over_seeds([_last(frame)[["image_id", "effective_anchors"]] for frame in self.frames.values()])

    def nearer_to_the_part(self) -> Parts:
        """How much nearer to the telling part the learned match is than the anchor that IoU prefers, in diagonals."""
        return self._freed("nearer_to_part")

    def farther_from_the_centre(self) -> Parts:
        """How much farther from the object's centre it is, in diagonals."""
        return self._freed("farther_from_centre")

    def nearer_than_the_baseline(self) -> Parts:
        """How much nearer to the telling part FreeAnchor's likeliest anchor is than RetinaNet's, in diagonals."""
        frames = []
        for run, baseline in self.baselines.items():
            theirs = _last(baseline).set_index("annotation_id")["to_part"]
            ours = _last(self.frames[run])
            ours = ours[is_acentric(ours)]
            frames.append(ours[["image_id"]].assign(nearer=ours["annotation_id"].map(theirs) - ours["to_part"]))
        runs = tuple(run for pair in self.pairs for run in pair if pair[1] in self.baselines)
        return self._over_seeds(frames, runs)

    def _freed(self, column: str) -> Parts:
        """A column of `matching_freed` at the end of training."""
        return self._over_seeds([matching_freed(_last(frame))[["image_id", column]] for frame in self.frames.values()])

    def _over_seeds(self, frames: list[pd.DataFrame], runs: tuple[str, ...] = ()) -> Parts:
        """The mean over objects, then over seeds, of frames of (image_id, value); `runs` if not FreeAnchor's alone."""
        intervals = [_mean_over_pictures(frame) for frame in frames if len(frame)]
        if not intervals:
            return {"": None}
        seeds = spread([value for value, _, _ in intervals])
        row = pd.Series(
            {
                "value": seeds.mean,
                "low": np.mean([low for _, low, _ in intervals]),
                "high": np.mean([high for _, _, high in intervals]),
                "n_seeds": seeds.num_seeds,
            }
        )
        error = seed_error(seeds.sd, seeds.num_seeds) if seeds.num_seeds > 1 else SeedError()
        return {"": widened(row, error, runs or tuple(self.frames))}


def _last(bags: pd.DataFrame) -> pd.DataFrame:
    """The bags at the last snapshot."""
    return bags[bags["step"] == bags["step"].max()]


def _change(bags: pd.DataFrame, column: str) -> pd.DataFrame:
    """A column at the last snapshot less the same object's at the first; no rows where the two are one."""
    first = bags[bags["step"] == bags["step"].min()].set_index("annotation_id")[column]
    last = _last(bags[bags["step"] > bags["step"].min()])
    return pd.DataFrame(
        {"image_id": last["image_id"], column: last[column] - last["annotation_id"].map(first)}
    ).dropna()


def _mean_over_pictures(frame: pd.DataFrame) -> tuple[float, float, float]:
    """Mean of the second column over objects, with its 95 % bootstrap interval over pictures."""
    metric, num_images = object_mean(frame, str(frame.columns[1]))
    interval = bootstrap(metric, num_images=num_images, generator=np.random.default_rng(0))
    return float(interval.value), float(interval.low), float(interval.high)
