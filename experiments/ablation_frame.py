"""The ablations as a tidy frame, for their table, figure and csv.

frame = ablation_frame(profile, store)      # a row a (factor, value, metric)
"""

import math

import pandas as pd

from analysis.tables.cells import TableLayout
from experiments.claims.evidence import Evidence
from experiments.registry.profile import Ablation, Profile, Value
from experiments.runs.measured import measurements
from experiments.runs.store import Store, is_measured

METRICS = ("ap", "ap_50", "ap_75", "ap_slender", "ap_square", "nr", "nr_90")
LAYOUT = TableLayout(
    title="Ablations (Sec. 4.3)",
    labels={"factor": "Factor", "tried": "Value"},
    metrics={
        "ap": "AP", "gain_ap": "Difference", "ap_50": "AP50", "ap_75": "AP75", "ap_slender": "AP slender", "nr": "NR"
    },
    caption="FreeAnchor on the small backbone, seed 0, with one field of its loss changed at a time; the default of "
    "each factor is the run of the other tables. Difference: AP less the default's, paired over pictures; its brackets "
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

    Metric `gain_ap` is the AP less that of the factor's default, its interval over pictures and seeds; 0 without one
    for the default itself. `seed_sd` is the standard deviation over FreeAnchor's seeds, pooled over backbones.
    """
    evidence = Evidence(profile, store)
    rows = []
    for ablation in profile.ablations:
        cells = {metric: dict.fromkeys(("value", "low", "high"), math.nan) for metric in METRICS}
        run = profile.evaluations[ablation.run]
        if is_measured(run, store):
            measured = measurements(run, store).drop_duplicates("metric").set_index("metric")
            numbers = measured.loc[list(METRICS), ["value", "low", "high"]]
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
