"""The account of this reproduction: where it differs from the paper, what its runs cost, and the usual checklist.

deviations_table(Path("."))         # Markdown, with the files that carry each `DEVIATION(Dn)` mark
records = read_records(Path("reports/shapes"))
compute_table(records)
checklist_table(records)
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from freeanchor.files import read_json

_MARK = re.compile(r"DEVIATION\((D\d+)\)")
DEVIATIONS = Path(__file__).parent / "deviations.csv"  # what the paper says, what is done here, and why
_PACKAGES = ("freeanchor", "analysis", "experiments", "examples")


def find_marks(root: Path) -> dict[str, list[str]]:
    """Mark -> the files under `root` that carry it, as paths from there."""
    found: dict[str, list[str]] = {}
    for package in _PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            for mark in dict.fromkeys(_MARK.findall(path.read_text(encoding="utf-8"))):
                found.setdefault(mark, []).append(path.relative_to(root).as_posix())
    return found


def deviations_table(root: Path) -> str:
    """All deviations as a Markdown table, in the order of their numbers, each with the files where it happens."""
    marks = find_marks(root)
    lines = ["| mark | paper | here | why | where |", "| --- | --- | --- | --- | --- |"]
    for row in pd.read_csv(DEVIATIONS, keep_default_na=False).to_dict("records"):
        where = ", ".join(f"`{path}`" for path in marks.get(str(row["mark"]), []))
        lines.append(f"| {row['mark']} | {row['paper']} | {row['here']} | {row['why']} | {where} |")
    return "\n".join(lines)


Record = dict[str, Any]


def read_records(reports: Path, pattern: str = "runs") -> list[Record]:
    """The provenance of every run of a report, or of all whose folder of runs has a `pattern`, by name."""
    paths = sorted(reports.glob(f"{pattern}/*.json"))
    return [read_json(path) for path in paths]


def _trainings(records: Sequence[Record]) -> pd.DataFrame:
    """One row per training; runs that only test one in another way share it."""
    rows = {}
    for record in records:
        training = record["training"]
        config = training["config"]
        rows[training["fingerprint"]] = {
            "network": _network(config["model"]["backbone"]),
            "steps": config["recipe"]["num_steps"],
            "batch": config["recipe"]["batch_size"],
            "seed": config["recipe"]["seed"],
            "minutes": training["seconds"] / 60,
            "threads": training["threads"],
            "hardware": training["provenance"]["hardware"],
            "precision": training["precision"],
        }
    return pd.DataFrame(rows.values())


def _network(backbone: dict[str, Any]) -> str:
    if "widths" in backbone:
        return f"ResNet-{2 + 2 * sum(backbone['depths'])}, {backbone['widths'][0]} channels first"
    return f"{backbone['name']}{' (to stride 16)' if backbone.get('strided_c5') else ''}"


def compute_table(records: Sequence[Record]) -> str:
    """Trainings by network and schedule: how many, how long, core hours in all."""
    if not records:
        return "Nothing has been run yet."
    trainings = _trainings(records)
    lines = ["| network | steps x images | trainings | minutes each (median, range) | core hours |", f"|{' --- |' * 5}"]
    for (network, steps, batch), own in trainings.groupby(["network", "steps", "batch"], sort=False):
        minutes, hours = own["minutes"], (own["minutes"] * own["threads"]).sum() / 60
        spread = f"{minutes.median():.0f} ({minutes.min():.0f} to {minutes.max():.0f})"
        lines.append(f"| {network} | {steps:,} x {batch} | {len(own)} | {spread} | {hours:.1f} |")
    total = (trainings["minutes"] * trainings["threads"]).sum() / 60
    lines.append(f"| in all | | {len(trainings)} | | {total:.1f} |")
    hardware = "; ".join(sorted(set(trainings["hardware"])))
    note = "Minutes are wall-clock time, beside whatever else ran, so that core hours are at most these."
    return "\n".join([*lines, "", f"Hardware: {hardware}. {note}"])


def checklist_table(records: Sequence[Record]) -> str:
    """The machine-learning reproducibility checklist (Pineau et al. 2021), in our words, filled from the records."""
    trainings = _trainings(records)
    versions = records[0]["training"]["provenance"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "torchvision", "numpy", "pycocotools"))
    repeated = trainings.groupby(["network", "steps"])["seed"].nunique().max()
    drawn = records[0]["training"]["config"]["data"]["shapes"]
    tests = [record["test"]["seconds"] / 60 for record in records if record["test"].get("seconds")]
    rows = [
        ("Model and algorithm described", "`docs/design.md`; equations beside their lines in "
         "`freeanchor/losses/free_anchor.py`"),
        ("Assumptions and choices stated", "*Deviations* above, each marked in the code"),
        ("Data: statistics, split, how to get it", f"`shapes`: {drawn['num_train']:,} images to train, "
         f"{drawn['num_val']:,} to validate, generated from a seed by `make data`; the generator's version is part of "
         "every run's fingerprint"),
        ("Pre-processing, exclusions", "none; images without objects take no part in training (authors' code)"),
        ("Dependencies pinned", f"`requirements.lock`; the runs had {packages}"),
        ("Training and evaluation code", "`make paper SEEDS=3`; `make table2` and others one by one"),
        ("Trained models", "`reports/shapes/models/` (small ones); all others by `make paper`"),
        ("Hyper-parameters: range, choice", "`reports/shapes/trials.csv`, by RetinaNet's AP alone; *Trials* above"),
        ("Number of runs", f"{len(trainings)} trainings; up to {repeated} seeds per configuration"),
        ("Measures defined", "`precision.py`, `nms_recall.py` and `breakdowns.py` in `analysis/evaluation/`; AP of "
         "record: pycocotools, which `analysis/evaluation/precision.py` equals to the bit"),
        ("Central tendency and variation", "mean, standard deviation, range, t interval over seeds; 95 % paired "
         "bootstrap over images, 1,000 resamples"),
        ("Run time", f"training {trainings['minutes'].median():.0f} min, test and measuring "
         f"{pd.Series(tests).median():.1f} min (medians)"),
        ("Computing infrastructure", "; ".join(sorted(set(trainings["hardware"])))
         + f"; {', '.join(sorted(set(trainings['precision'])))}; {versions['system']}"),
    ]  # fmt: skip
    return "\n".join(["| item | where, or what |", "| --- | --- |", *(f"| {item} | {what} |" for item, what in rows)])
