"""The page of a profile: every table and figure, with the runs behind each number and those runs' provenance.

write_index(profile, store, Path("reports"))                # reports/shapes/index.html
write_run(evaluation, store, Path("reports/shapes"))        # "runs/freeanchor-small-s0.json"
"""

from pathlib import Path

import pandas as pd

from analysis.tables.cells import Table, tidy_table
from experiments.claims.ledger import ledger_table
from experiments.registry.config import Evaluation, Training
from experiments.registry.profile import Profile
from experiments.reports.catalogue import FIRST, SECTIONS
from experiments.reports.page import Section, build_page
from experiments.reports.report import Report
from experiments.runs.store import TESTED, Store, is_measured, provenance, stored_record, trained_record
from freeanchor.files import write_json


def measured_runs(report: Report, profile: Profile, store: Store) -> tuple[str, ...]:
    """The runs that a report is made from, as far as they have been measured."""
    return tuple(run for run in dict.fromkeys(report.runs(profile)) if _is_there(run, profile, store))


def table_of(report: Report, profile: Profile, store: Store, directory: Path) -> Table | None:
    """A report's table from the csv beside it, whose lines name the runs of their numbers; None without csv."""
    path = directory / f"{report.name}.csv"
    if not path.exists():
        return None
    if report.layout:
        frame = pd.read_csv(path, keep_default_na=False, na_values=[""])  # "n/a" is a label
        table = tidy_table(frame, report.layout(profile))
    else:
        table = ledger_table(pd.read_csv(path).fillna({"part": "", "runs": ""}))
    return table.of_runs(run for run in profile.evaluations if _is_there(run, profile, store))


def _is_there(run: str, profile: Profile, store: Store) -> bool:
    """Whether a run is registered and measured: the csv may be older than the store."""
    return run in profile.evaluations and is_measured(profile.evaluations[run], store)


def run_records(profile: Profile, store: Store) -> list[dict[str, object]]:
    """Provenance of every run that lies in the store: name, fingerprint, time, precision, commit, hardware."""
    records = []
    for name, evaluation in profile.evaluations.items():
        if not is_measured(evaluation, store):
            continue
        training = evaluation.training
        record = trained_record(training, store)
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


def write_run(evaluation: Evaluation, store: Store, directory: Path) -> str:
    """Write how a run was made: configuration, times, commit, hardware, versions; the path from the page."""
    record = {
        "run": evaluation.name,
        "directory": str(evaluation.directory(Path("runs"))),
        "training": trained_record(evaluation.training, store),
        "test": stored_record(evaluation.directory(store.runs) / "predict.json", TESTED),
    }
    path = directory / "runs" / f"{evaluation.name}.json"
    write_json(path, record)
    return str(path.relative_to(directory))


def _sections(report: Report, profile: Profile, store: Store, directory: Path) -> list[Section]:
    """A report's table, figure, or both, with the runs it was measured on."""
    data = " DATA=DIR" if profile.name == "photos" else ""
    is_second = {kind: place > 0 for place, kind in enumerate(report.kinds)}
    return [
        Section(
            id=f"{report.name}_{kind}" if is_second[kind] else report.name,
            title=f"{report.title}, drawn" if is_second[kind] else report.title,
            caption=report.figure_caption if is_second[kind] else report.text(profile),
            command=f"make {report.name} PROFILE={profile.name}{data}",
            kind=kind,
            stem=directory / report.name,
            runs=measured_runs(report, profile, store),
            table=table_of(report, profile, store, directory) if kind == "table" else None,
        )
        for kind in report.kinds
    ]


def _is_shown(report: Report, profile: Profile, store: Store) -> bool:
    """Whether a report has anything measured, or needs no run."""
    return not tuple(report.runs(profile)) or bool(measured_runs(report, profile, store))


def _left_out(reports: list[Report]) -> str:
    names = "; ".join(report.title for report in reports)
    return f"Left out, since none of their runs has been measured here: {names}." if names else ""


def write_index(profile: Profile, store: Store, reports: Path) -> Path:
    """Write `index.html` beside the profile's tables and figures, and each run's provenance in `runs/`; its path.

    Reports of which nothing was measured are named in one line; of a profile without any run all are shown.
    """
    directory = reports / profile.report_name
    runs = [
        {**record, "file": write_run(profile.evaluations[str(record["run"])], store, directory)}
        for record in run_records(profile, store)
    ]
    shown = [report for report in (*FIRST, *SECTIONS) if not runs or _is_shown(report, profile, store)]
    sections = {report.name: _sections(report, profile, store, directory) for report in shown}
    build_page(
        directory,
        {"profile": str(profile.report_name), **provenance()},
        [section for report in shown if report not in FIRST for section in sections[report.name]],
        summary=_left_out([report for report in SECTIONS if report not in shown]),
        first=[section for report in FIRST for section in sections.get(report.name, [])],
        runs=runs,
    )
    files = {directory / str(run["file"]) for run in runs}
    for record in set((directory / "runs").glob("*.json")) - files:  # of an earlier report, with other seeds
        record.unlink()
    return directory / "index.html"
