"""The tables: the paper's three, the headline, the ablations and the claims; and the csvs beside them.

Frames are views of the run store: nothing is trained or measured here.

    frame = table_frame(profile, "table2", store)           # one row per cell, nan where not run
    TABLE2.write(profile, store, Path("reports"))           # reports/shapes/table2.csv, .md, .tex
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.comparisons import ablations_figure
from experiments.claims.evidence import Evidence
from experiments.claims.ledger import CAPTION, ledger_frame, write_ledger
from experiments.registry.config import CocoData, Evaluation, PublishedCheckpoint, Training
from experiments.registry.profile import DETECTORS, FACTORS, PEER, Ablation, Profile, Row, Value
from experiments.registry.published import AP_FAMILY, NMS_RECALL, SOURCES, published
from experiments.reports.report import Report, csv_of, split_of, table_report
from experiments.runs.measured import NOT_RUN, gains_frame, measurements, over_seeds, pair_frame, peer_frame
from experiments.runs.store import Store, is_measured
from freeanchor.data.augmentation import AugmentConfig
from freeanchor.detector.backbones import SmallResNet
from freeanchor.detector.retinanet import ModelConfig

TABLE_METRICS = {"table1": NMS_RECALL, "table2": ("training_seconds", *AP_FAMILY), "table3": AP_FAMILY}


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


def _measured_cells(frames: list[pd.DataFrame]) -> dict[str, dict[str, Any]]:
    """Metric -> value, interval and spread over seeds, of the metrics that have one row per run."""
    single = [frame[frame["metric"] != "ap_category"] for frame in frames]
    rows = over_seeds(single)[["metric", *NOT_RUN]].to_dict("records")
    return {str(row.pop("metric")): {str(key): value for key, value in row.items()} for row in rows}


def _row_cells(profile: Profile, table: str, row: Row, store: Store) -> list[dict[str, object]]:
    evaluations = [profile.evaluations[run] for run in row.runs]
    paper, source = _published_values(table, row, evaluations)
    done = [run for run in evaluations if is_measured(run, store)]
    measured = _measured_cells([measurements(run, store) for run in done])
    theirs = row.published[1] if row.published else "n/a"
    labels = {
        "profile": profile.name,
        "run": " ".join(run.name for run in done) or " ".join(row.runs),
        "detector": row.detector,
        "backbone": evaluations[0].training.backbone_label if evaluations else theirs,
        "published_backbone": theirs,
        "schedule": row.variant or row.schedule,
        "published_schedule": row.schedule or "n/a",
        "split": split_of(profile),
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
    """The tidy frame of Table 1, 2 or 3: one row per cell, nan where not run."""
    return pd.DataFrame([cell for row in profile.tables[table] for cell in _row_cells(profile, table, row, store)])


_AP = {"ap": "AP", "ap_50": "AP50", "ap_75": "AP75", "ap_small": "APS", "ap_medium": "APM", "ap_large": "APL"}
_INTERVALS = (
    "In brackets: 95 % interval over validation images (bootstrap); ± the standard deviation over seeds, where there "
    "are several. The csv has range and t interval over seeds too."
)
_OWN_SPLIT = (
    "Lines marked here are this profile's own validation split, the paper's are COCO: absolute values are not "
    "comparable."
)
_COCO_SPLIT = (
    "Lines marked here, and published checkpoints, are COCO val2017. So is the paper's Table 1; its Tables 2 and 3 are "
    "test-dev, which runs about 0.0 to 0.7 above val2017 for the same weights (authors' README)."
)
_TRAINING_TIME = (
    "Training time: the paper's is on eight V100; ours includes whatever else the machine did, by default a second "
    "training (hardware and threads: table of runs)."
)


def _paper_table(name: str, labels: Mapping[str, str], metrics: Mapping[str, str], title: str, caption: str) -> Report:
    further = (_INTERVALS, *([_TRAINING_TIME] if "training_seconds" in metrics else []))
    return table_report(
        lambda profile, store: table_frame(profile, name, store),
        name=name,
        title=title,
        caption=caption,
        labels=labels,
        metrics=metrics,
        notes=lambda profile: (_COCO_SPLIT if isinstance(profile.data, CocoData) else _OWN_SPLIT, *further),
        runs=lambda profile: [run for row in profile.tables[name] for run in row.runs],
    )


TABLE1 = _paper_table(
    "table1",
    labels={"backbone": "Backbone", "detector": "Detector"},
    metrics={"nr": "NR", "nr_50": "NR50", "nr_60": "NR60", "nr_70": "NR70", "nr_80": "NR80", "nr_90": "NR90"},
    title="Table 1. NMS recall",
    caption="Recall after NMS over recall before it (percent), by the authors' definition: class-agnostic, every "
    "candidate above score 0.05, no cap, IoU strictly above the threshold.",
)
TABLE2 = _paper_table(
    "table2",
    labels={"backbone": "Backbone", "detector": "Detector"},
    metrics={"training_seconds": "Training time", **_AP},
    title="Table 2. FreeAnchor and RetinaNet",
    caption="COCO's AP family (percent, pycocotools) and training time. The paper's RetinaNet rows are the RetinaNet "
    "paper's own test-dev numbers, not a re-run.",
)
TABLE3 = _paper_table(
    "table3",
    labels={"detector": "Detector", "backbone": "Backbone", "schedule": "Schedule"},
    metrics=_AP,
    title="Table 3. Longer schedules, scale jitter, multi-scale testing",
    caption="The paper's comparison with other one-stage detectors, whose rows are published only, and this project's "
    "runs on twice its own schedule.",
)


def comparison(profile: Profile, store: Store) -> pd.DataFrame:
    """FreeAnchor minus RetinaNet in every metric, paired over images and seeds; empty unless both have been run."""
    return gains_frame(profile, profile.pairs, store)


COMPARISON = Report(
    name="comparison", title="FreeAnchor minus RetinaNet in every metric, paired", build=csv_of(comparison)
)
PEER_REPORT = Report(
    name="peer",
    title="Both detectors minus RetinaNet with torchvision's own loss (PROFILE=photos)",
    runs=lambda profile: (PEER, *profile.pair) if PEER in profile.evaluations else (),
    build=csv_of(peer_frame),
)


def trials_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """The settings tried before the recipe was fixed, one row per metric of a run; nan where not run."""
    rows = []
    for name in profile.trials:
        evaluation = profile.evaluations[name]
        assert isinstance(evaluation.training, Training)  # nobody tries rates with somebody else's weights
        recipe = evaluation.training.recipe
        head: dict[str, Any] = {
            "run": name,
            "detector": evaluation.training.detector,
            "network": _network(evaluation.training.model),
            "lr": recipe.lr,
            "steps": recipe.num_steps,
            "pictures": recipe.num_samples,
            "augmentation": _augmentation(recipe.augment),
        }
        values = measurements(evaluation, store).set_index("metric") if is_measured(evaluation, store) else None
        for metric in ("ap", "ap_50", "ap_75"):
            value = math.nan if values is None else values.loc[metric, "value"]
            rows.append({**head, "metric": metric, "value": value})
    columns = ["run", "detector", "network", "lr", "steps", "pictures", "augmentation", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def _network(model: ModelConfig) -> str:
    backbone = model.backbone
    widths = f" of {backbone.widths[0]} to {backbone.widths[-1]} channels" if isinstance(backbone, SmallResNet) else ""
    levels = f"P{model.levels[0]} to P{model.levels[-1]}"
    return f"{backbone.label}{widths}, {levels} of {model.pyramid_channels}, heads of {model.head_depth} convolutions"


def _augmentation(augment: AugmentConfig) -> str:
    sides = augment.short_sides
    scales = f", short side {min(sides)} to {max(sides)} px" if sides else ""
    return f"flips{scales}" if augment.flip_probability else f"none{scales}"


TRIALS = Report(
    name="trials",
    title="The settings tried before the recipe was fixed, by RetinaNet's AP",
    runs=lambda profile: profile.trials,
    is_extra=True,
    build=csv_of(trials_frame),
)

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


def _is_zoo(profile: Profile) -> bool:
    return set(profile.pair) <= set(profile.zoo)


def _in_the_paper(metric: str) -> dict[str, float]:
    """Both detectors on ResNet-50 in the paper's Tables 1 and 2, and their difference; nan where there is none."""
    table = "table1" if metric.startswith("nr") else "table2"
    values = {name.lower(): published(table, name, "ResNet-50").get(metric, math.nan) for name in DETECTORS}
    return {**values, "gain": values["freeanchor"] - values["retinanet"]}


def headline_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """Both detectors and their difference beside the paper's, one row per cell (`metric` is the column's name)."""
    pair = pair_frame(profile, store)
    columns = {name.lower(): pair[pair["detector"] == name].set_index("metric") for name in DETECTORS}
    columns["gain"] = comparison(profile, store).set_index("metric")
    rows = []
    for metric, what in HEADLINE_ROWS.items():
        head = {"profile": profile.name, "run": " ".join(run for pair in profile.pairs for run in pair), "what": what}
        head["split"] = split_of(profile)
        if _is_zoo(profile):
            head["measured_as"] = "checkpoint beside the paper"
        paper = _in_the_paper(metric)
        for column, frame in columns.items():
            cell = dict(frame.loc[metric, list(NOT_RUN)]) if metric in frame.index else NOT_RUN
            source = SOURCES["table1" if metric.startswith("nr") else "table2"]
            rows.append({**head, "metric": column, **cell, "published": paper[column], "source": source})
    backbone = profile.evaluations[profile.pair[0]].training.backbone_label
    return pd.DataFrame(rows).assign(detector="", backbone=backbone)


def _headline_caption(profile: Profile) -> str:
    backbone = profile.evaluations[profile.pair[0]].training.backbone_label
    whose = " and ".join(profile.pair) if _is_zoo(profile) else f"Both detectors on {backbone}"
    return (
        f"{whose}; in brackets 95 % intervals over validation images, paired for the gain; ± the standard deviation "
        "over seeds, where there are several. The paper's lines are ResNet-50 on COCO, for metrics it gives as numbers."
    )


HEADLINE = table_report(
    headline_frame,
    name="headline",
    title="Both detectors and their difference",
    caption=_headline_caption,
    labels={"what": "Metric (percent)"},
    metrics={"retinanet": "RetinaNet", "freeanchor": "FreeAnchor", "gain": "Gain"},
    needs=("comparison",),
)

_ABLATION_METRICS = ("ap", "ap_50", "ap_75", "ap_slender", "ap_square", "nr", "nr_90")
_UNKNOWN = dict.fromkeys(("value", "low", "high"), math.nan)
_PAPERS_VALUES = {factor.symbol: factor.values for factor in FACTORS}


def ablation_frame(profile: Profile, store: Store) -> pd.DataFrame:
    """One row per (factor, value, metric): value, low, high, n_seeds; nan where not run.

    Metric `gain_ap` is the AP minus that of the factor's default, its interval over images and seeds; 0 without one
    for the default itself, and over every seed that both have. The other metrics are seed 0's. `seed_sd` is the
    standard deviation over FreeAnchor's seeds, pooled over backbones.
    """
    evidence = Evidence(profile, store)
    rows = []
    for ablation in profile.ablations:
        cells: dict[str, dict[Any, float]] = dict.fromkeys(_ABLATION_METRICS, _UNKNOWN)
        run = profile.evaluations[ablation.run]
        if is_measured(run, store):
            measured = measurements(run, store).drop_duplicates("metric").set_index("metric")
            cells = {metric: measured.loc[metric, list(_UNKNOWN)].to_dict() for metric in _ABLATION_METRICS}
        num_pairs = len(evidence.done(ablation.pairs_with(profile.default_runs(ablation.factor))))
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
        }
        rows += [
            {
                **head,
                "n_seeds": num_pairs if metric == "gain_ap" else int(is_measured(run, store)),
                "published": math.nan,
                "source": "",
                "metric": metric,
                **cell,
                "seed_sd": evidence.noise(metric.removeprefix("gain_")).sd,
            }
            for metric, cell in cells.items()
        ]
    return pd.DataFrame(rows)


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _difference(ablation: Ablation, profile: Profile, evidence: Evidence) -> dict[Any, float]:
    """AP minus the default's with its interval; nan for what was not run."""
    default = profile.default_runs(ablation.factor)
    if ablation.runs == default:
        return {**_UNKNOWN, "value": 0.0} if evidence.is_done(ablation.run) else _UNKNOWN
    measured = evidence.gain(ablation.pairs_with(default), "ap")
    return {"value": measured.value, "low": measured.low, "high": measured.high} if measured else _UNKNOWN


def _ablation_caption(profile: Profile) -> str:
    factors = {ablation.factor.label: ablation.factor for ablation in profile.ablations}
    papers = [label.split()[-1] for label, factor in factors.items() if factor.is_papers]
    whose = f"The values of {', '.join(papers)} are the paper's, all others ours" if papers else "The values are ours"
    whose = whose.replace("β are", "β (0.75 alone) are")
    added = {
        one.symbol: [value for value in one.values if value not in _PAPERS_VALUES.get(one.symbol, ())]
        for one in factors.values()
        if one.is_papers
    }
    whose += "".join(f", but {symbol} = {', '.join(map(_text, values))}" for symbol, values in added.items() if values)
    repeated = [f"{factor.symbol} = {_text(value)}" for factor in factors.values() for value in factor.repeated]
    seeds = f" (over all seeds for {', '.join(repeated)})" if repeated else ""
    return (
        f"FreeAnchor on {profile.evaluations[profile.pair[1]].training.backbone_label}, seed 0, with one field of its "
        "loss changed at a time; the default of each factor is the run of the other tables. Difference: AP minus the "
        f"default's, paired over images{seeds}; its brackets include what another seed would change (standard "
        f"deviation over FreeAnchor's seeds, pooled over backbones). {whose}; the paper gives no numbers."
    )


ABLATIONS = table_report(
    ablation_frame,
    name="ablations",
    title="Ablations (Sec. 4.3)",
    caption=_ablation_caption,
    figure_caption="AP minus the default's with one factor changed at a time, seed 0. The filled point at 0 is the "
    "default; bars are 95 % intervals, which include what another seed would change.",
    labels={"factor": "Factor", "tried": "Value"},
    metrics={
        "ap": "AP", "gain_ap": "Difference", "ap_50": "AP50", "ap_75": "AP75", "ap_slender": "AP slender", "nr": "NR"
    },
    has_paper_lines=False,
    draw=ablations_figure,
    runs=lambda profile: list(dict.fromkeys(run for ablation in profile.ablations for run in ablation.runs)),
    is_extra=True,
)  # fmt: skip


def _write_claims(profile: Profile, store: Store, stem: Path) -> None:
    write_ledger(ledger_frame(profile, store), stem)


CLAIMS = Report(
    name="claims",
    title="The paper's claims, judged",
    caption=CAPTION.replace("*", ""),
    kinds=("table",),
    runs=lambda profile: profile.evaluations,
    needs=("concentration", "comparison"),
    needs_costs=True,
    build=_write_claims,
)

REPORTS = (CLAIMS, HEADLINE, TABLE1, TABLE2, TABLE3, ABLATIONS, COMPARISON, PEER_REPORT, TRIALS)
