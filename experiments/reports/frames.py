"""Tidy frames for tables and figures, gathered from the run store. Views only: nothing is computed twice or trained.

frame = table_frame(profile, "table2", store)
frame = pair_frame(profile, store)          # every metric of the two compared detectors
gains = gains_frame(profile, profile.pairs, store)         # and the gain between them

The result in one table: both detectors, their difference, and the difference the paper reports.

frame = headline_frame(profile, store, gains)

The ablations as a tidy frame, for their table, figure and csv.

frame = ablation_frame(profile, store)      # a row a (factor, value, metric)
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analysis.tables.cells import TableLayout
from experiments.claims.evidence import Evidence
from experiments.registry.config import CocoData, Evaluation, PublishedCheckpoint, Training
from experiments.registry.profile import DETECTORS, Ablation, Profile, Row, Value
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
    """Fig. 6: AP by objects per image for both detectors, and the gain in each bin."""
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
    """What is changed at random about training images, in words."""
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


HEADLINE_ROWS = {
    "ap": "AP",
    "ap_50": "AP50",
    "ap_75": "AP75",
    "ap_slender": "AP, slender objects (3:1 and beyond)",
    "ap_square": "AP, square objects (up to 4:3)",
    "ap_objects_1_3": "AP, 1 to 3 objects per image",
    "ap_objects_4_7": "AP, 4 to 7 objects",
    "ap_objects_8_12": "AP, 8 to 12 objects",
    "ap_objects_13_plus": "AP, 13 objects and more",
    "nr": "NMS recall, mean of 0.50 to 0.90",
    "nr_70": "NMS recall at 0.70",
    "nr_90": "NMS recall at 0.90",
}
HEADLINE_LAYOUT = TableLayout(
    title="In one table",
    labels={"what": "Metric (percent)"},
    metrics={"retinanet": "RetinaNet", "freeanchor": "FreeAnchor", "gain": "Gain"},
    caption="Small backbone; in brackets 95 % intervals over validation images, paired for the gain; ± the standard "
    "deviation over seeds, where there are several. The paper's lines are ResNet-50 on COCO, for the metrics that it "
    "gives as numbers.",
)


def headline_layout(profile: Profile) -> TableLayout:
    """The table's layout, saying which two detectors it is of where they are not the small ones."""
    if all("-small-" in name for name in profile.pair):
        return HEADLINE_LAYOUT
    return replace(
        HEADLINE_LAYOUT, caption=HEADLINE_LAYOUT.caption.replace("Small backbone", " and ".join(profile.pair))
    )


def _in_the_paper(metric: str) -> dict[str, float]:
    """Both detectors on ResNet-50 in the paper's Tables 1 and 2, and their difference; nan where there is none."""
    table = "table1" if metric.startswith("nr") else "table2"
    values = {name.lower(): published(table, name, "ResNet-50").get(metric, math.nan) for name in DETECTORS}
    return {**values, "gain": values["freeanchor"] - values["retinanet"]}


def headline_frame(profile: Profile, store: Store, gains: pd.DataFrame) -> pd.DataFrame:
    """A row a cell of the table: what, metric (the column), value, low, high, n_seeds; nan where not run."""
    pair = pair_frame(profile, store)
    columns = {name.lower(): pair[pair["detector"] == name].set_index("metric") for name in DETECTORS}
    columns["gain"] = gains.set_index("metric")
    rows = []
    for metric, what in HEADLINE_ROWS.items():
        head = {"profile": profile.name, "run": " ".join(run for pair in profile.pairs for run in pair), "what": what}
        head["split"] = "val2017" if isinstance(profile.data, CocoData) else "val"
        if set(profile.pair) <= set(profile.zoo):
            head["measured_as"] = "checkpoint beside the paper"
        paper = _in_the_paper(metric)
        for column, frame in columns.items():
            cell = dict(frame.loc[metric, list(NOT_RUN)]) if metric in frame.index else NOT_RUN
            source = SOURCES["table1" if metric.startswith("nr") else "table2"]
            known = {"published": paper[column], "source": source}
            rows.append({**head, "metric": column, **cell, **known})
    backbone = profile.evaluations[profile.pair[0]].training.backbone_label
    return pd.DataFrame(rows).assign(detector="", backbone=backbone)


ABLATION_METRICS = ("ap", "ap_50", "ap_75", "ap_slender", "ap_square", "nr", "nr_90")
ABLATION_LAYOUT = TableLayout(
    title="Ablations (Sec. 4.3)",
    labels={"factor": "Factor", "tried": "Value"},
    metrics={
        "ap": "AP", "gain_ap": "Difference", "ap_50": "AP50", "ap_75": "AP75", "ap_slender": "AP slender", "nr": "NR"
    },
    caption="FreeAnchor on the small backbone, seed 0, with one field of its loss changed at a time; the default of "
    "each factor is the run of the other tables. Difference: AP less the default's, paired over images; its brackets "
    "include what another seed would change (standard deviation over FreeAnchor's seeds, pooled over backbones). The "
    "paper gives the values it tried for n, t, α and γ, and no numbers; the values beside β = 0.75 and the last two "
    "factors are ours.",
    has_paper_lines=False,
)  # fmt: skip


def _text(value: Value) -> str:
    """A value as it is printed."""
    return value if isinstance(value, str) else f"{value:g}"


def ablation_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """A row a (factor, value, metric): value, low, high, n_seeds; nan where not run.

    Metric `gain_ap` is the AP less that of the factor's default, its interval over images and seeds; 0 without one
    for the default itself. `seed_sd` is the standard deviation over FreeAnchor's seeds, pooled over backbones.
    """
    evidence = Evidence(profile, store)
    rows = []
    for ablation in profile.ablations:
        cells = {metric: dict.fromkeys(("value", "low", "high"), math.nan) for metric in ABLATION_METRICS}
        run = profile.evaluations[ablation.run]
        if is_measured(run, store):
            measured = measurements(run, store).drop_duplicates("metric").set_index("metric")
            numbers = measured.loc[list(ABLATION_METRICS), ["value", "low", "high"]]
            cells = {str(row.pop("metric")): row for row in numbers.reset_index().to_dict("records")}  # type: ignore[misc]
        cells["gain_ap"] = _difference(ablation, profile, evidence)
        head = {
            "profile": profile.name,
            "run": ablation.run,
            "detector": run.training.detector,
            "backbone": run.training.backbone_label,
            "split": "val",
            "factor": ablation.factor.label,
            "symbol": ablation.factor.symbol,
            "tried": _text(ablation.value) + (" (default)" if ablation.value == ablation.factor.default else ""),
            "is_default": ablation.value == ablation.factor.default,
            "is_papers": ablation.factor.is_papers,
            "n_seeds": int(is_measured(run, store)),
            "published": math.nan,
            "source": "",
        }
        rows += [
            {**head, "metric": metric, **cell, "seed_sd": evidence.noise(metric.removeprefix("gain_")).sd}
            for metric, cell in cells.items()
        ]
    return pd.DataFrame(rows)


def _difference(ablation: Ablation, profile: Profile, evidence: Evidence) -> dict[str, float]:
    """AP less the default's with its interval; nan for what was not run."""
    default = next(
        other.run
        for other in profile.ablations
        if other.factor == ablation.factor and other.value == ablation.factor.default
    )
    if ablation.run == default:
        return {"value": 0.0 if evidence.is_done(default) else math.nan, "low": math.nan, "high": math.nan}
    measured = evidence.difference(default, ablation.run, "ap")
    if measured is None:
        return dict.fromkeys(("value", "low", "high"), math.nan)
    return {"value": measured.value, "low": measured.low, "high": measured.high}
