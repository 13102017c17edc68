"""The page that shows every table and figure of a profile, with where each comes from.

write_index(profile, store, Path("reports"))      # reports/shapes/index.html

From a number on the page to the run it was measured on, and to that run's provenance.

write_run(evaluation, store, Path("reports/shapes"))        # "runs/freeanchor-small-s0.json"
"""

from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.tables.cells import table_rows
from experiments.claims.ledger import CAPTION as LEDGER_CAPTION
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.reports.catalogue import LAYOUTS
from experiments.reports.frames import ABLATION_LAYOUT as ABLATIONS_LAYOUT
from experiments.reports.frames import headline_layout, run_records
from experiments.reports.gallery import FIGURE_TEXTS as GALLERY_TEXTS
from experiments.reports.page import Section, build_page
from experiments.reports.plan import shown_runs
from experiments.runs.store import Store, is_measured, provenance
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


FIRST = ("claims", "headline")  # above the table of contents: verdicts, then the numbers behind most of them
TABLE_TEXTS = {
    "claims": ("The paper's claims, judged", LEDGER_CAPTION.replace("*", "")),
    "ablations": (ABLATIONS_LAYOUT.title, ABLATIONS_LAYOUT.caption),
}
FIGURE_TEXTS = {
    "figure1": (
        "Figure 1. Assignment by hand and learned",
        "One object of the validation split. Top: the anchors that IoU assignment matches with it, all equal. Bottom: "
        "its bag of 50 under the trained FreeAnchor, opacity by each anchor's share in Mean-max, the chosen one thick.",
    ),
    "figure2": (
        "Figure 2. Saturated linear function",
        "The probability that a prediction is right, against its IoU, for two values of the best IoU t2; computed by "
        "the function that the loss calls.",
    ),
    "figure3": (
        "Figure 3. Mean-max",
        "Mean-max of a bag in which one anchor's confidence grows: the mean at first, the max in the end.",
    ),
    "figure4": (
        "Figure 4. Matching of one object over training",
        "Left: confidence of the 16 square anchors of highest IoU under FreeAnchor, darker is likelier. Right: the "
        "same anchors by IoU, as hand-crafted assignment ranks them. One row a stage of training. The object is "
        "chosen by a rule on the ground truth: of objects with their class at one end and a box no longer than 4:3, "
        "the largest in an image of few objects.",
    ),
    "figure5": (
        "Figure 5. Slender and square objects",
        "AP on objects whose box is at most 4:3 (square), at least 3:1 (slender) and between, with COCO's rules for "
        "what is ignored; the paper's own cuts are unpublished, these are ours. Right: each category's AP against the "
        "median aspect ratio of its boxes.",
    ),
    "figure6": (
        "Figure 6. Crowdedness",
        "AP on the images with so many objects, and what FreeAnchor gains, paired over images. The paper's bins "
        "are unpublished, these are ours.",
    ),
    "positions": (
        "Where matching happens in objects",
        "Share of Mean-max's weight by the place of the anchor's centre in the object's box (drawn), summed over all "
        "objects of the validation split, seed 0: over training, beside the anchors that IoU assignment gives them. "
        "Objects whose telling part lies off the centre are turned so that it lies at the upper right.",
    ),
    "concentration": (
        "Concentration of bags over training",
        "Entropy of a bag's weights in Mean-max, how many anchors it really uses, Mean-max itself, and the "
        "confidence of the bag's best anchor, over all objects (median and quartiles), all seeds together.",
    ),
    "part_distance": (
        "Distance of the matched anchor from the telling part",
        "For objects whose class shows at one end: mean distance of the likeliest anchor's centre from that part and "
        "from the box's centre, beside the anchor of highest IoU, all seeds together.",
    ),
    "bag_boxes": (
        "Boxes and scores of a bag's anchors",
        "Left and middle: IoU of the box predicted from an anchor, and the score of the object's class there, by the "
        "anchor's rank in its object's bag: the same anchors for both detectors. Right: the box of the anchor that "
        "overlaps the object most; then, each detector's own, of the anchor that scores highest, and the best box in "
        "the bag. Means over the validation objects (of COCO's the first 5,000) and over seeds, 95 % intervals over "
        "images.",
    ),
    "candidates": (
        "NMS recall from equally many candidates",
        "Table 1 takes every candidate above score 0.05, however many a detector has. Here NMS is given at most so "
        "many of an image's candidates, the best-scored, of either detector; at the right, all of them. Hollow "
        "points: images have fewer than that (num_given in the csv). Authors' definition, mean over IoU thresholds "
        "0.50 to 0.90, 95 % intervals over images.",
    ),
    "ablations_figure": (
        "Ablations, drawn",
        "AP with one factor changed at a time, seed 0. The filled point is the default; error bars are 95 % intervals "
        "over images, the band one standard deviation over seeds to either side.",
    ),
    "training": (
        "Training",
        "Loss terms, learning rate, and how many of a bag's anchors Mean-max really uses, for both detectors: "
        "the mean over seeds, and their range.",
    ),
    "convergence": (
        "AP over training",
        "AP on the validation split at snapshots of both detectors' trainings: the mean over seeds, and their range. "
        "The learning rate falls to a tenth at 67 and 89 %.",
    ),
    "bag_overlap": (
        "What a bag can hold",
        "IoU of an object's anchors by rank, the best first: median and quartiles over the validation objects under "
        "this profile's anchors, beside COCO's under the paper's. No detector is asked. Where images are small, the "
        "paper's 50 (dotted) reaches down to anchors that hardly touch their object.",
    ),
    **GALLERY_TEXTS,
}
SECTIONS = (
    "table1", "table2", "table3", "figure1", "figure2", "figure3", "figure4", "figure5", "figure6", "candidates",
    "ablations", "ablations_figure", "positions", "concentration", "part_distance", "bag_boxes", "training",
    "convergence", "bag_overlap", "gallery_slender", "gallery_crowded", "gallery_random",
)  # fmt: skip


def _make(name: str, profile: Profile) -> str:
    """The command that remakes a report."""
    data = " DATA=DIR" if profile.name == "photos" else ""
    return f"make {name} PROFILE={profile.name}{data}"


def _section(name: str, profile: Profile, store: Store, directory: Path) -> Section:
    """A report as a section of the page, with the runs it was measured on."""
    kind: Literal["table", "figure"] = "figure" if name in FIGURE_TEXTS else "table"
    title, caption = (FIGURE_TEXTS | TABLE_TEXTS).get(name, ("", ""))
    if name in LAYOUTS:
        title, caption = LAYOUTS[name].title, LAYOUTS[name].caption
    elif name == "headline":
        title, caption = headline_layout(profile).title, headline_layout(profile).caption
    return Section(
        id=name,
        title=title,
        caption=caption,
        command=_make(name.removesuffix("_figure"), profile),
        kind=kind,
        stem=directory / name.removesuffix("_figure"),
        runs=measured_runs(name.removesuffix("_figure"), profile, store),
        line_runs=line_runs(name, profile, store, directory) if kind == "table" else (),
    )


def write_index(profile: Profile, store: Store, reports: Path) -> Path:
    """Write `index.html` beside the profile's tables and figures, and each run's provenance in `runs/`; its path."""
    directory = reports / profile.report_name
    sections = [_section(name, profile, store, directory) for name in SECTIONS]
    first = [_section(name, profile, store, directory) for name in FIRST]
    origin = {"profile": str(profile.report_name), **provenance()}
    runs = [
        {**record, "file": write_run(profile.evaluations[str(record["run"])], store, directory)}
        for record in run_records(profile, store)
    ]
    build_page(directory, origin, sections, first=first, runs=runs)
    shown = {directory / str(run["file"]) for run in runs}
    for record in set((directory / "runs").glob("*.json")) - shown:  # of an earlier report, with other seeds
        record.unlink()
    return directory / "index.html"
