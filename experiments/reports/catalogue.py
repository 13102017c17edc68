"""Reports: each table, figure and the page that shows them all, written from stored results alone.

write_report("table2", profile, store, Path("reports"))      # reports/shapes/table2.csv, .md, .tex
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from analysis.bags.matches import MATCH_COLUMNS
from analysis.figures.bags import bag_concentration_figure, match_positions_figure, part_distance_figure
from analysis.figures.breakdowns import figure5, figure6
from analysis.figures.comparisons import ablations_figure, bag_boxes_figure, candidates_figure
from analysis.figures.curves import bag_overlap_figure, figure2, figure3, learning_curves, training_curves
from analysis.figures.matching import figure1, figure4
from analysis.figures.style import write_figure
from analysis.tables.cells import TableLayout
from analysis.tables.markup import write_table
from experiments.claims.ledger import ledger_frame, write_ledger
from experiments.registry.config import CocoData
from experiments.registry.profile import Profile
from experiments.reports.bags import bag_box_frame, bag_overlap, concentration, part_distance
from experiments.reports.budgets import budget_frame
from experiments.reports.frames import ABLATION_LAYOUT as ABLATIONS_LAYOUT
from experiments.reports.frames import (
    ablation_frame,
    crowdedness_frame,
    headline_frame,
    headline_layout,
    slenderness_frame,
    table_frame,
    trials_frame,
)
from experiments.reports.gallery import gallery_crowded, gallery_random, gallery_slender
from experiments.reports.gallery_objects import image_credits
from experiments.reports.models import write_models
from experiments.runs.bags import stored_positions
from experiments.runs.measured import gains_frame, peer_frame, training_frame
from experiments.runs.store import Store
from experiments.runs.testing import learning_curves as curves_of
from freeanchor.data.coco import read_split
from freeanchor.data.images import open_image
from freeanchor.files import write_csv
from freeanchor.losses.free_anchor import FreeAnchorLoss, mean_max, saturated_linear

AP_HEADINGS = {
    "ap": "AP",
    "ap_50": "AP50",
    "ap_75": "AP75",
    "ap_small": "APS",
    "ap_medium": "APM",
    "ap_large": "APL",
}
INTERVALS = (
    "In brackets: 95 % interval over validation images (bootstrap); ± the standard deviation over seeds, where there "
    "are several. The csv has range and t interval over seeds too."
)
OWN_SPLIT = "Lines marked here are this profile's own validation split, the paper's are COCO: not comparable in height."
COCO_SPLIT = (
    "Lines marked here, and published checkpoints, are COCO val2017. So is the paper's Table 1; its Tables 2 and 3 are "
    "test-dev, which runs about 0.0 to 0.7 above val2017 for the same weights (authors' README)."
)
TRAINING_TIME = (
    "Training time: the paper's on eight V100; ours as clocked beside whatever else ran, by default another training "
    "on the other half of the cores (hardware and threads: table of runs)."
)
LAYOUTS = {
    "table1": TableLayout(
        title="Table 1. NMS recall",
        labels={"backbone": "Backbone", "detector": "Detector"},
        metrics={"nr": "NR", "nr_50": "NR50", "nr_60": "NR60", "nr_70": "NR70", "nr_80": "NR80", "nr_90": "NR90"},
        caption="Recall after NMS over recall before it (percent), by the authors' definition: class-agnostic, every "
        "candidate above score 0.05, no cap, IoU strictly above the threshold.",
        notes=(OWN_SPLIT, INTERVALS),
    ),
    "table2": TableLayout(
        title="Table 2. FreeAnchor and RetinaNet",
        labels={"backbone": "Backbone", "detector": "Detector"},
        metrics={"training_seconds": "Training time", **AP_HEADINGS},
        caption="COCO's AP family (percent, pycocotools) and training time. The paper's RetinaNet rows are the "
        "RetinaNet paper's own test-dev numbers, not a re-run.",
        notes=(OWN_SPLIT, INTERVALS, TRAINING_TIME),
    ),
    "table3": TableLayout(
        title="Table 3. Longer schedules, scale jitter, multi-scale testing",
        labels={"detector": "Detector", "backbone": "Backbone", "schedule": "Schedule"},
        metrics=AP_HEADINGS,
        caption="The paper's comparison with other one-stage detectors, whose rows are published only, and this "
        "project's runs on twice its own schedule.",
        notes=(OWN_SPLIT, INTERVALS),
    ),
}


def comparison(profile: Profile, store: Store) -> pd.DataFrame:
    """FreeAnchor minus RetinaNet in every metric, paired over images and seeds; empty unless both have been run."""
    return gains_frame(profile, profile.pairs, store)


def matches(profile: Profile, store: Store) -> pd.DataFrame:
    """The stored bags of the compared FreeAnchor's run, first object alone; empty where it was not run."""
    path = profile.evaluations[profile.pair[-1]].directory(store.runs) / "matches.csv"
    if not path.exists():
        return pd.DataFrame(columns=list(MATCH_COLUMNS))
    frame = pd.read_csv(path)
    return frame[frame["annotation_id"] == frame["annotation_id"].iloc[0]] if len(frame) else frame


def image_of(frame: pd.DataFrame, profile: Profile, store: Store) -> tuple[np.ndarray, str]:
    """Pixels [H, W, 3] of the image that a frame of matches is about, and whose it is.

    One grey pixel for an empty frame; all grey where the data set's images, or this one, are not to be shown.
    """
    if frame.empty:
        return np.full((1, 1, 3), 128, dtype=np.uint8), ""
    split = read_split(store.data(profile.evaluations[profile.pair[-1]].training), "val")
    image_id = int(frame["image_id"].iloc[0])
    image = next(image for image in split.images if image.image_id == image_id)
    credit = image_credits(split.annotations, store.credit).get(image_id)
    if not store.images or credit is None:
        return np.full((image.height, image.width, 3), 128, dtype=np.uint8), ""
    return np.array(open_image(image.path)), credit


def saturated_linear_frame(match_iou: float, best_iou: tuple[float, ...] = (0.75, 0.9)) -> pd.DataFrame:
    """Fig. 2: P{a -> b} against IoU, for objects whose best prediction has `best_iou`."""
    x = torch.linspace(0, 1, 401, dtype=torch.float64)
    frames = []
    for t2 in best_iou:
        value = saturated_linear(x, match_iou, torch.tensor(t2, dtype=torch.float64))
        frames.append(pd.DataFrame({"x": x.numpy(), "t1": match_iou, "t2": t2, "value": value.numpy()}))
    return pd.concat(frames, ignore_index=True)


def mean_max_frame(bag_size: int, rest: tuple[float, ...] = (0.1, 0.5)) -> pd.DataFrame:
    """Fig. 3: mean, max and Mean-max of a bag in which one anchor's confidence is x and all others' is `rest`."""
    x = torch.linspace(0, 1, 401, dtype=torch.float64)
    frames = []
    for other in rest:
        bags = torch.cat([x[:, None], torch.full((len(x), bag_size - 1), other, dtype=torch.float64)], dim=1)
        functions = {"mean": bags.mean(dim=1), "max": bags.amax(dim=1), "mean-max": mean_max(bags)}
        title = f"{bag_size} anchors, all others at {other:g}"
        frames += [
            pd.DataFrame({"x": x.numpy(), "function": name, "value": value.numpy(), "bag": title})
            for name, value in functions.items()
        ]
    return pd.concat(frames, ignore_index=True)


def _matching_figure(draw: Callable[..., Figure]) -> Callable[[Profile, Store], tuple[Figure, pd.DataFrame]]:
    """A figure of the stored matches over their image."""

    def build(profile: Profile, store: Store) -> tuple[Figure, pd.DataFrame]:
        frame = matches(profile, store)
        pixels, credit = image_of(frame, profile, store)
        figure = draw(frame, pixels)
        if credit:
            figure.supxlabel(f"Image: {credit}", fontsize=6, x=0.99, ha="right", parse_math=False)
        return figure, frame

    return build


def _of(draw: Callable[[pd.DataFrame], Figure], frame: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """A figure with the frame it draws."""
    return draw(frame), frame


FIGURES: dict[str, Callable[[Profile, Store], tuple[Figure, pd.DataFrame]]] = {
    "figure1": _matching_figure(figure1),
    "figure2": lambda profile, store: _of(figure2, saturated_linear_frame(FreeAnchorLoss().match_iou)),
    "figure3": lambda profile, store: _of(figure3, mean_max_frame(FreeAnchorLoss().bag_size)),
    "figure4": _matching_figure(figure4),
    "figure5": lambda profile, store: _of(figure5, slenderness_frame(profile, store, comparison(profile, store))),
    "figure6": lambda profile, store: _of(figure6, crowdedness_frame(profile, store, comparison(profile, store))),
    "positions": lambda profile, store: _of(match_positions_figure, stored_positions(profile, store)),
    "concentration": lambda profile, store: _of(bag_concentration_figure, concentration(profile, store)),
    "part_distance": lambda profile, store: _of(part_distance_figure, part_distance(profile, store)),
    "bag_boxes": lambda profile, store: _of(bag_boxes_figure, bag_box_frame(profile, store)),
    "candidates": lambda profile, store: _of(candidates_figure, budget_frame(profile, store)),
    "training": lambda profile, store: _of(training_curves, training_frame(profile, store)),
    "bag_overlap": lambda profile, store: _of(bag_overlap_figure, bag_overlap(profile, store)),
    "gallery_slender": gallery_slender,
    "gallery_crowded": gallery_crowded,
    "gallery_random": gallery_random,
    "convergence": lambda profile, store: _of(learning_curves, curves_of(profile, store)),
}
FRAMES: dict[str, Callable[[Profile, Store], pd.DataFrame]] = {
    "comparison": comparison,
    "peer": peer_frame,
    "trials": trials_frame,
}


def _write_headline(profile: Profile, store: Store, stem: Path) -> None:
    """The result in one table."""
    write_table(headline_frame(profile, store, comparison(profile, store)), headline_layout(profile), stem)


def _write_ablations(profile: Profile, store: Store, stem: Path) -> None:
    """Table and figure of one frame."""
    frame = ablation_frame(profile, store)
    write_figure(ablations_figure(frame), frame, stem)
    write_table(frame, ABLATIONS_LAYOUT, stem)


def _write_claims(profile: Profile, store: Store, stem: Path) -> None:
    """The ledger of claims."""
    write_ledger(ledger_frame(profile, store), stem)


WRITERS: dict[str, Callable[[Profile, Store, Path], None]] = {
    "headline": _write_headline,
    "ablations": _write_ablations,
    "claims": _write_claims,
    "models": write_models,
}
REPORTS = (*LAYOUTS, *FIGURES, *FRAMES, *WRITERS)


def _layout(name: str, profile: Profile) -> TableLayout:
    """A table's layout with the note on which images it was measured."""
    layout = LAYOUTS[name]
    own = COCO_SPLIT if isinstance(profile.data, CocoData) else OWN_SPLIT
    return replace(layout, notes=tuple(own if note == OWN_SPLIT else note for note in layout.notes))


def write_report(name: str, profile: Profile, store: Store, reports: Path) -> Path:
    """Write a table (csv, md, tex), a figure (csv, png, pdf) or a plain csv; the path of the csv, written last."""
    stem = reports / profile.report_name / name
    if name in LAYOUTS:
        write_table(table_frame(profile, name, store), _layout(name, profile), stem)
    elif name in WRITERS:
        WRITERS[name](profile, store, stem)
    elif name in FIGURES:
        figure, frame = FIGURES[name](profile, store)
        write_figure(figure, frame, stem)
    else:
        write_csv(stem.with_suffix(".csv"), FRAMES[name](profile, store))
    return stem.with_suffix(".csv")
