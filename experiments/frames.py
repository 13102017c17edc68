"""Tidy frames for tables and figures, gathered from the run store. Views only: nothing is computed twice or trained.

frame = table_frame(profile, "table2", store)
frame = pair_frame(profile, store)          # every metric of the two compared detectors
gains = gains_frame(profile, profile.pairs, store)         # and the gain between them
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.registry.config import CocoData, Evaluation, PublishedCheckpoint, Training
from experiments.registry.profile import Profile, Row
from experiments.registry.published import AP_FAMILY, NMS_RECALL, SOURCES, published
from experiments.runs.measured import NOT_RUN, SEED_COLUMNS, measurements, over_seeds, pair_frame
from experiments.runs.store import Store, is_measured
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.files import read_json

TABLE_METRICS = {
    "table1": NMS_RECALL,
    "table2": ("training_seconds", *AP_FAMILY),
    "table3": AP_FAMILY,
}


def _published_values(table: str, row: Row, evaluations: Sequence[Evaluation]) -> tuple[dict[str, float], str]:
    """Metrics that the paper gives for a row, or a checkpoint's authors for theirs, and where."""
    if row.published:
        where = row.published_in or table
        return published(where, *row.published), SOURCES[where]
    training = evaluations[0].training if evaluations else None
    if isinstance(training, PublishedCheckpoint):
        is_multiscale = bool(evaluations[0].inference.short_sides)
        return training.published_multiscale if is_multiscale else training.published, training.source
    return {}, ""


def _cells(frames: list[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Metric -> value, interval and spread over seeds, of the metrics that have one row a run."""
    single = [frame[frame["metric"] != "ap_category"] for frame in frames]
    rows = over_seeds(single)[["metric", *NOT_RUN]].to_dict("records")
    return {str(row.pop("metric")): {str(key): value for key, value in row.items()} for row in rows}


def _row_cells(profile: Profile, table: str, row: Row, store: Store) -> list[dict[str, object]]:
    """The cells of one row: what the paper has, and what was measured here."""
    evaluations = [profile.evaluations[run] for run in row.runs]
    paper, source = _published_values(table, row, evaluations)
    done = [run for run in evaluations if is_measured(run, store)]
    measured = _cells([measurements(run, store) for run in done])
    theirs = row.published[1] if row.published else "n/a"
    labels = {
        "profile": profile.name,
        "run": " ".join(run.name for run in done) or " ".join(row.runs),
        "detector": row.detector,
        "backbone": evaluations[0].training.backbone_label if evaluations else theirs,
        "published_backbone": theirs,
        "schedule": row.variant or row.schedule,
        "published_schedule": row.schedule or "n/a",
        "split": "val2017" if isinstance(profile.data, CocoData) else "val",
        "measured_as": "here" if row.published else "here alone",
    }
    if evaluations and isinstance(evaluations[0].training, PublishedCheckpoint):
        labels |= {"measured_as": "checkpoint", "published_backbone": labels["backbone"]}
        labels |= {"published_schedule": labels["schedule"]}
    return [
        {
            **labels,
            "metric": metric,
            **measured.get(metric, NOT_RUN),
            "published": paper.get(metric, math.nan),
            "source": source,
        }
        for metric in TABLE_METRICS[table]
    ]


def table_frame(profile: Profile, table: str, store: Store) -> pd.DataFrame:
    """The tidy frame of Table 1, 2 or 3: a row a cell, nan where not run."""
    return pd.DataFrame([cell for row in profile.tables[table] for cell in _row_cells(profile, table, row, store)])


def slenderness_frame(profile: Profile, store: Store, gains: pd.DataFrame) -> pd.DataFrame:
    """Fig. 5: AP on square and slender objects, and each category's AP against its median aspect ratio."""
    frame = pair_frame(profile, store)
    frame = pd.concat([frame, gains.assign(detector="gain")], ignore_index=True) if len(gains) else frame
    groups = frame[frame["metric"].isin(["ap_square", "ap_middle", "ap_slender"])].assign(panel="group")
    groups = groups.assign(label=groups["metric"].str.removeprefix("ap_"))
    categories = frame[frame["metric"] == "ap_category"].assign(panel="category")
    columns = ["detector", "panel", "label", "median_aspect", "num_objects", "value", "low", "high", *SEED_COLUMNS]
    return pd.concat([groups, categories], ignore_index=True).reindex(columns=columns)


def crowdedness_frame(profile: Profile, store: Store, gains: pd.DataFrame) -> pd.DataFrame:
    """Fig. 6: AP by objects per picture for both detectors, and the gain in each bin."""
    frame = pair_frame(profile, store)
    frame = pd.concat([frame, gains.assign(detector="gain")], ignore_index=True) if len(gains) else frame
    bins = frame[frame["metric"].str.startswith("ap_objects_")]
    label = bins["metric"].str.removeprefix("ap_objects_").str.replace("_plus", "+").str.replace("_", "-")
    counts = bins.groupby("metric")[["num_images", "num_objects"]].transform("max")
    columns = ["detector", "bin", "num_images", "num_objects", "value", "low", "high", *SEED_COLUMNS]
    return bins.assign(bin=label, **counts).reindex(columns=columns)


def trials_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """The settings tried before the recipe was fixed, a row a metric of a run; nan where not run."""
    rows = []
    for name in profile.trials:
        evaluation = profile.evaluations[name]
        assert isinstance(evaluation.training, Training)  # nobody tries rates with somebody else's weights
        recipe = evaluation.training.recipe
        head = {"run": name, "detector": evaluation.training.detector, "lr": recipe.lr, "steps": recipe.num_steps}
        head |= {"pictures": recipe.num_samples, "augmentation": _augmentation(recipe.augment)}
        values = measurements(evaluation, store).set_index("metric") if is_measured(evaluation, store) else None
        for metric in ("ap", "ap_50", "ap_75"):
            rows.append(
                {**head, "metric": metric, "value": math.nan if values is None else values.loc[metric, "value"]}
            )
    return pd.DataFrame(rows, columns=["run", "detector", "lr", "steps", "pictures", "augmentation", "metric", "value"])


def _augmentation(augment: AugmentConfig) -> str:
    """What is changed at random about training pictures, in words."""
    sides = augment.short_sides
    scales = f", short side {min(sides)} to {max(sides)} px" if sides else ""
    return f"flips{scales}" if augment.flip_probability else f"none{scales}"


def run_records(profile: Profile, store: Store) -> list[dict[str, object]]:
    """Provenance of every run that lies in the store: name, fingerprint, time, precision, commit, hardware."""
    records = []
    for name, evaluation in profile.evaluations.items():
        if not is_measured(evaluation, store):
            continue
        training = evaluation.training
        record = read_json(training.directory(store.runs) / "train.json")
        origin = record["provenance"]
        records.append(
            {
                "run": name,
                "fingerprint": record["fingerprint"],
                "seed": training.recipe.seed if isinstance(training, Training) else "published",
                "training_minutes": round(record["seconds"] / 60, 1) if record["seconds"] else "–",
                "images_per_second": round(record["images_per_second"], 1) if record["seconds"] else "–",
                "precision": record["precision"],
                "commit": origin["commit"],
                "date": origin["date"],
                "hardware": origin["hardware"],
            }
        )
    return records
