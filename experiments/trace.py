"""From a number on the page to the run it was measured on, and to that run's provenance.

write_run(evaluation, store, Path("reports/shapes"))        # "runs/freeanchor-small-s0.json"
"""

from pathlib import Path

import pandas as pd

from analysis.tables.cells import table_rows
from experiments.ablation_frame import LAYOUT as ABLATIONS_LAYOUT
from experiments.headline import headline_layout
from experiments.plan import shown_runs
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.report import LAYOUTS
from experiments.runs.store import Store, is_measured
from freeanchor.files import read_json, write_json


def measured_runs(report: str, profile: Profile, store: Store) -> tuple[str, ...]:
    """The runs that a report is made from, as far as they have been measured."""
    return tuple(run for run in dict.fromkeys(shown_runs(profile, report)) if _is_there(run, profile, store))


def line_runs(report: str, profile: Profile, store: Store, directory: Path) -> tuple[tuple[str, ...], ...]:
    """For each line of a table's Markdown, the runs that its numbers are of; from the csv beside it."""
    path = directory / f"{report}.csv"
    if not path.exists():
        return ()
    frame = pd.read_csv(path)
    if report == "claims":
        names = frame.groupby("id", sort=False)["runs"].agg(lambda own: " ".join(own.dropna()))
        lines = [tuple(dict.fromkeys(runs.split())) for runs in names]
    else:
        layout = {**LAYOUTS, "ablations": ABLATIONS_LAYOUT, "headline": headline_layout(profile)}[report]
        lines = [line.runs for line in table_rows(frame.assign(run=frame["run"].fillna("")), layout)]
    return tuple(tuple(run for run in line if _is_there(run, profile, store)) for line in lines)


def _is_there(run: str, profile: Profile, store: Store) -> bool:
    """Whether a run is registered and measured: the csv may be older than the store."""
    return run in profile.evaluations and is_measured(profile.evaluations[run], store)


def write_run(evaluation: Evaluation, store: Store, directory: Path) -> str:
    """Write how a run was made: configuration, times, commit, hardware, versions; the path from the page."""
    record = {
        "run": evaluation.name,
        "directory": str(evaluation.directory(Path("runs"))),
        "training": read_json(evaluation.training.directory(store.runs) / "train.json"),
        "test": read_json(evaluation.directory(store.runs) / "predict.json"),
    }
    path = directory / "runs" / f"{evaluation.name}.json"
    write_json(path, record)
    return str(path.relative_to(directory))
