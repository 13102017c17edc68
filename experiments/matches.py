"""The objects whose matching is shown (Figs. 1 and 4), and their bags over training.

The objects are chosen by a rule on the ground truth, before any detector is asked: in pictures of at most
`MAX_OBJECTS` objects, the largest ones whose box is at least 3:1, the kind the paper says IoU assignment fails.

    frame = matches_frame(evaluation, store)      # columns of analysis.bags.MATCH_COLUMNS
"""

import json
import math
from pathlib import Path

import pandas as pd

from analysis.bags import MATCH_COLUMNS
from analysis.breakdowns import AspectCuts
from freeanchor.bags import bag_rows
from freeanchor.checkpoints import load_model
from freeanchor.data import Picture, Split, locate_split, read_split
from freeanchor.losses import FreeAnchorLoss

from experiments.config import Evaluation
from experiments.store import Store

MAX_OBJECTS = 6  # a picture with more is hard to read
NUM_OBJECTS = 4


def _objects(split: Split) -> pd.DataFrame:
    """Every object of a split: picture's place, annotation id, area, aspect, objects in its picture."""
    rows = []
    for place, picture in enumerate(split.pictures):
        sides = picture.boxes[:, 2:] - picture.boxes[:, :2]
        for annotation_id, (width, height) in zip(picture.annotation_ids.tolist(), sides.tolist(), strict=True):
            aspect = max(width / height, height / width)
            rows.append((place, annotation_id, width * height, aspect, len(sides)))
    return pd.DataFrame(rows, columns=["place", "annotation_id", "area", "aspect", "num_objects"])


def choose_objects(split: Split, count: int = NUM_OBJECTS) -> list[tuple[Picture, int]]:
    """The objects to show, each with its picture, by the rule above; where none is so slender, the most slender ones."""
    objects = _objects(split)
    uncrowded = objects[objects["num_objects"] <= MAX_OBJECTS]
    objects = uncrowded if len(uncrowded) else objects
    slender = objects[objects["aspect"] >= AspectCuts().slender]
    ranked = slender.sort_values(["area", "annotation_id"], ascending=[False, True])
    if ranked.empty:
        ranked = objects.sort_values(["aspect", "annotation_id"], ascending=[False, True])
    best = ranked.drop_duplicates("place").head(count)
    return [(split.pictures[row.place], row.annotation_id) for row in best.itertuples()]


def _parts(annotations: Path) -> dict[int, tuple[float, float]]:
    """Where each annotation's discriminative part lies, for data that records it."""
    content = json.loads(annotations.read_text(encoding="utf-8"))
    return {item["id"]: tuple(item["part"]) for item in content["annotations"] if "part" in item}


def matches_frame(evaluation: Evaluation, store: Store) -> pd.DataFrame:
    """The bags of the chosen objects at each snapshot of a training; a row an anchor, columns MATCH_COLUMNS."""
    training = evaluation.training
    directory = store.data(training)
    chosen = choose_objects(read_split(directory, "val"))
    parts = _parts(locate_split(directory, "val")[0])
    rows = []
    for path in sorted((training.directory(store.runs) / "snapshots").glob("step-*.safetensors")):
        model, detector = load_model(path)
        head = {
            "run": evaluation.name,
            "detector": training.detector,
            "step": int(path.stem.removeprefix("step-")),
            "num_steps": training.recipe.num_steps,
        }
        for picture, annotation_id in chosen:
            part = dict(zip(("part_x", "part_y"), parts.get(annotation_id, (math.nan, math.nan)), strict=True))
            bags = bag_rows(model, detector, picture, FreeAnchorLoss())
            rows += [{**head, **row, **part} for row in bags if row["annotation_id"] == annotation_id]
    return pd.DataFrame(rows, columns=list(MATCH_COLUMNS))
