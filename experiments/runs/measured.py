"""What was measured on runs, of one, of two compared, and of several seeds as one.

Two sources of chance stand side by side in every row over seeds, since neither contains the other. Which images were
drawn for validation: `low`, `high`, the mean of the seeds' bootstrap intervals, which more seeds do not narrow (where
an image does well with one seed and not with another, the interval of the mean would be narrower). And the seed of the
training: `sd`, `minimum`, `maximum`, and `seed_low`, `seed_high`, the t interval of the mean over seeds; nan for one.

    measure_stage(evaluation, store)                # measurements.csv, matches.csv
    over_seeds([measurements(run, store) for run in runs])
    compare_stage(first, second, store)             # second minus first in every metric, with paired intervals
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.evaluate import Measured, compare, measure, metric_differences, metric_intervals
from analysis.evaluation.matching import find_overlaps, match
from analysis.evaluation.metrics import JointMetrics
from analysis.evaluation.precision import average_precision, precision_curves
from analysis.evaluation.statistics import Metric, spread
from experiments.registry.config import NUM_DIGITS, Evaluation
from experiments.registry.profile import PEER, Pair, Profile
from experiments.runs.bags import matches_frame
from experiments.runs.store import MEASURED, Store, is_done, is_measured, stored_frame, trained_record
from experiments.runs.testing import RECALL_COLUMNS
from freeanchor.data.coco import locate_split
from freeanchor.files import write_csv
from freeanchor.training.loop import read_log

_Answer = TypeVar("_Answer")  # what is known of a run
MetricsOf = Callable[[GroundTruth, Detections], JointMetrics]
SEED_COLUMNS = ("n_seeds", "sd", "minimum", "maximum", "seed_low", "seed_high")
NOT_RUN = {**dict.fromkeys(("value", "low", "high", *SEED_COLUMNS), math.nan), "n_seeds": 0}


def over_seeds(frames: Sequence[pd.DataFrame], by: Sequence[str] = ("metric",)) -> pd.DataFrame:
    """One row per `metric` (or whatever `by` names), in the order of the first frame; `value` is the mean over seeds.

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
    rows = [(one.mean, one.num_seeds, one.sd, one.minimum, one.maximum, one.low, one.high) for one in spreads]
    summary = pd.DataFrame(rows, columns=["value", *SEED_COLUMNS], index=values.index)
    summary[["low", "high"]] = bounds.to_numpy()
    summary = summary.reset_index()[[*keys, "value", "low", "high", *SEED_COLUMNS]]
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


MEASUREMENT_COLUMNS = ("metric", "value", "low", "high", "num_objects", "num_images", "label", "median_aspect")


def measurements(evaluation: Evaluation, store: Store) -> pd.DataFrame:
    """What was measured on a run: one row per metric."""
    return stored_frame(evaluation.directory(store.runs) / "measurements.csv", MEASURED)


def pair_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Every metric of the two compared detectors over seeds, with `detector`; not-run detectors have no rows."""
    frames = []
    for runs in zip(*profile.pairs, strict=True):
        evaluations = [profile.evaluations[name] for name in runs]
        seeds = [measurements(evaluation, store) for evaluation in evaluations if is_measured(evaluation, store)]
        if seeds:
            detector = evaluations[0].training.detector
            frames.append(over_seeds(seeds, ("metric", "label")).assign(detector=detector))
    columns = ["detector", *MEASUREMENT_COLUMNS, *SEED_COLUMNS]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def gains_frame(profile: Profile, pairs: Sequence[Pair], store: Store) -> pd.DataFrame:
    """Second minus first of each pair in every metric, paired over images, then over seeds.

    Columns metric, value, low, high and `SEED_COLUMNS`; empty where no pair has been run whole.
    """
    both = [[profile.evaluations[name] for name in pair] for pair in pairs]
    done = [pair for pair in both if all(is_measured(run, store) for run in pair)]
    return over_seeds([compare_stage(first, second, store) for first, second in done])


def metrics_frame(profile: Profile, store: Store, metrics_of: MetricsOf) -> pd.DataFrame:
    """Metrics of detections that the stored measurements do not have: of both detectors, then their gain, over seeds.

    Columns detector ("gain": FreeAnchor minus RetinaNet, paired over images), metric, value, low, high and
    `SEED_COLUMNS`. A detector that was not run has no rows.
    """
    runs, found = [profile.evaluations[name] for pair in profile.pairs for name in pair], {}
    for run in (run for run in runs if is_measured(run, store)):
        ground_truth, detections, _ = predicted(run, store)
        found[run.name] = metrics_of(ground_truth, detections), ground_truth
    seeds_of = seeds_of_pairs(
        profile,
        found,
        own=lambda one: metric_intervals(*one),
        gain=lambda one, other: metric_differences(one[0], other[0], one[1]),
    )
    frames = [over_seeds(seeds).assign(detector=detector) for detector, seeds in seeds_of]
    columns = ["detector", "metric", "value", "low", "high", *SEED_COLUMNS]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def peer_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Seed 0 of both detectors minus RetinaNet with torchvision's own loss, in every metric, paired over images.

    Columns detector, metric, value, low, high; empty where the profile has no such peer, or it was not run.
    """
    peer, frames = profile.evaluations.get(PEER), []
    if peer and is_measured(peer, store):
        done = [run for run in (profile.evaluations[name] for name in profile.pair) if is_measured(run, store)]
        frames = [compare_stage(peer, run, store).assign(detector=run.training.detector) for run in done]
    columns = ["detector", "metric", "value", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def training_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Training curves of the compared runs: detector, run, step, metric, value."""
    frames = []
    for name in (run for pair in profile.pairs for run in pair):
        training = profile.evaluations[name].training
        path = training.directory(store.runs) / "metrics.jsonl"
        if path.exists():
            lines = read_log(path)  # it may be growing
            frame = pd.DataFrame(lines, columns=None if lines else ["step"]).melt(id_vars="step", var_name="metric")
            frames.append(frame.assign(detector=training.detector, run=name))
    columns = ["detector", "run", "step", "metric", "value"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def measure_stage(evaluation: Evaluation, store: Store) -> None:
    """Measure what `predict_stage` left; leaves `matches.csv` (bags of a few objects) and `measurements.csv`."""
    directory = evaluation.directory(store.runs)
    if is_done(directory / "measurements.csv", MEASURED, touched=True):
        return
    ground_truth, detections, recall = predicted(evaluation, store)
    seconds = trained_record(evaluation.training, store)["seconds"]
    write_csv(directory / "matches.csv", matches_frame(evaluation, store))
    frame = measure(ground_truth, detections, recall)
    training = pd.DataFrame([{"metric": "training_seconds", "value": seconds}]).astype({"value": float})
    write_csv(directory / "measurements.csv", pd.concat([training, frame], ignore_index=True))


def predicted(evaluation: Evaluation, store: Store) -> Measured:
    """Ground truth, detections and object recall of a run that was tested."""
    directory = evaluation.directory(store.runs)
    ground_truth = read_ground_truth(locate_split(store.data(evaluation.training), "val")[0])
    detections = read_detections(directory / "detections.json", ground_truth)
    return ground_truth, detections, stored_frame(directory / "object_recall.csv", RECALL_COLUMNS)


def ap_metric(evaluation: Evaluation, store: Store) -> tuple[Metric, int]:
    """AP of a tested run under any weights of its images, and how many these are."""
    ground_truth, detections, _ = predicted(evaluation, store)
    curves = precision_curves(match(find_overlaps(ground_truth, detections)))
    return partial(average_precision, curves), curves.num_images


def compare_stage(first: Evaluation, second: Evaluation, store: Store) -> pd.DataFrame:
    """Second minus first in every metric with paired intervals, computed once for what both runs found.

    Kept under both fingerprints and a digest: a run trained again, or unpacked, may have found something else.
    """
    names = [f"{run.training.fingerprint}-{run.directory(store.runs).name}" for run in (first, second)]
    names.append(_digest(first, second, store))
    path = store.runs / first.training.profile / "comparisons" / f"{'-'.join(names)}.csv"
    if not path.exists():
        write_csv(path, compare(predicted(first, store), predicted(second, store)))
    return stored_frame(path, MEASURED)


def _digest(first: Evaluation, second: Evaluation, store: Store) -> str:
    found = hashlib.sha256()
    for run in (first, second):
        for name in ("detections.json", "object_recall.csv"):
            found.update((run.directory(store.runs) / name).read_bytes())
    return found.hexdigest()[:NUM_DIGITS]
