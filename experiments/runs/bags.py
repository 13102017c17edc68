"""Bags over training: of the few objects whose matching is shown (Figs. 1 and 4), and of a data set's.

The few are chosen by a rule on the ground truth, before any detector is asked: of objects with a box no longer than
4:3, so that their bags hold anchors of ratio 1:1 as in the paper's Fig. 4, in images of at most `MAX_OBJECTS`
objects, the largest; those first whose discriminative part lies off their centre, where the data say so.

    frame = matches_frame(evaluation, store)            # a row an anchor: analysis.bags.MATCH_COLUMNS
    bags, positions = bag_frames(evaluation, store)     # a row a bag; where in the objects their weight lies
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.bags.arrays import (
    BAG_TABLE_COLUMNS,
    MEAN_COLUMNS,
    OFF_CENTRE,
    BagArrays,
    bag_table,
    concatenate_bags,
    image_means,
)
from analysis.bags.matches import MATCH_COLUMNS
from analysis.bags.summaries import POSITION_COLUMNS, position_histograms
from analysis.evaluation.breakdowns import AspectCuts
from analysis.figures.bags import GROUP_NAMES
from experiments.registry.config import Evaluation, PublishedCheckpoint
from experiments.registry.profile import SNAPSHOTS, Profile
from experiments.runs.store import Store, is_measured
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord, Split, locate_split, read_split
from freeanchor.files import write_csv
from freeanchor.inference.bags import ObjectBags, bag_rows, object_bags
from freeanchor.losses.free_anchor import FreeAnchorLoss

MAX_OBJECTS = 6  # an image with more is hard to read
NUM_OBJECTS = 4
MAX_BAGS = 5000  # objects of a data set, in whole images by the split's order: all of the drawn sets'
DIGITS = 5  # decimals kept of what is stored
STAGE_COLUMNS = ("run", "detector", "step", "num_steps")


def _parts(annotations: Path) -> dict[int, tuple[float, float]]:
    content = json.loads(annotations.read_text(encoding="utf-8"))
    return {item["id"]: tuple(item["part"]) for item in content["annotations"] if "part" in item}


def _objects(split: Split) -> pd.DataFrame:
    """Every object of a split: image's place, annotation id, corners, area, aspect, objects in its image."""
    rows = []
    for place, image in enumerate(split.images):
        for annotation_id, (x1, y1, x2, y2) in zip(image.annotation_ids.tolist(), image.boxes.tolist(), strict=True):
            rows.append((place, annotation_id, x1, y1, x2, y2, len(image.boxes)))
    frame = pd.DataFrame(rows, columns=["place", "annotation_id", "x1", "y1", "x2", "y2", "num_objects"])
    width, height = frame["x2"] - frame["x1"], frame["y2"] - frame["y1"]
    return frame.assign(
        area=width * height, aspect=np.maximum(width / height, height / width), diagonal=np.hypot(width, height)
    )


def _is_acentric(objects: pd.DataFrame, parts: dict[int, tuple[float, float]]) -> pd.Series:
    """Whether an object's part is known to lie off its centre by more than `OFF_CENTRE` of its diagonal."""
    missing = (math.nan, math.nan)
    x, y = np.array([parts.get(number, missing) for number in objects["annotation_id"]]).reshape(-1, 2).T
    centre_x, centre_y = (objects["x1"] + objects["x2"]) / 2, (objects["y1"] + objects["y2"]) / 2
    return np.hypot(x - centre_x, y - centre_y) > OFF_CENTRE * objects["diagonal"]


def choose_objects(
    split: Split, parts: dict[int, tuple[float, float]], count: int = NUM_OBJECTS
) -> list[tuple[ImageRecord, int]]:
    """The objects to show, each with its image, by the rule above; where no image is so empty, of all of them."""
    objects = _objects(split)
    objects = objects.assign(is_acentric=_is_acentric(objects, parts))
    for condition in (objects["num_objects"] <= MAX_OBJECTS, objects["aspect"] <= AspectCuts().square):
        objects = objects[condition.loc[objects.index]] if condition.loc[objects.index].any() else objects
    order = ["is_acentric", "area", "annotation_id"]
    best = objects.sort_values(order, ascending=[False, False, True]).drop_duplicates("place").head(count)
    return [(split.images[place], number) for place, number in best[["place", "annotation_id"]].to_numpy().tolist()]


def snapshot_files(evaluation: Evaluation, store: Store) -> tuple[list[tuple[int, Path]], int]:
    """(step, model file) of each snapshot of a training, and its number of steps; a published one has but its end.

    Raises CheckpointError where there are none.
    """
    training = evaluation.training
    if isinstance(training, PublishedCheckpoint):
        return [(1, store.weights(training))], 1
    files = sorted((training.directory(store.runs) / "snapshots").glob("step-*.safetensors"))
    if not files:
        raise store.gone(training, "its snapshots")
    return [(int(path.stem.removeprefix("step-")), path) for path in files], training.recipe.num_steps


def _stages(evaluation: Evaluation, store: Store) -> tuple[list[tuple[int, Path]], int]:
    """The snapshots at which matching is looked at: those of every profile, where a run has more to draw AP by."""
    files, num_steps = snapshot_files(evaluation, store)
    shown = {round(fraction * num_steps) for fraction in SNAPSHOTS}
    return [(step, path) for step, path in files if step in shown], num_steps


def matches_frame(evaluation: Evaluation, store: Store) -> pd.DataFrame:
    """The bags of the chosen objects at each snapshot of a training; a row an anchor, columns MATCH_COLUMNS."""
    training = evaluation.training
    directory = store.data(training)
    parts = _parts(locate_split(directory, "val")[0])
    chosen = choose_objects(read_split(directory, "val"), parts)
    rows = []
    stages, num_steps = _stages(evaluation, store)
    for step, path in stages:
        model, detector = load_model(path)
        head = {"run": evaluation.name, "detector": training.detector, "step": step, "num_steps": num_steps}
        for image, annotation_id in chosen:
            part = dict(zip(("part_x", "part_y"), parts.get(annotation_id, (math.nan, math.nan)), strict=True))
            bags = bag_rows(model, detector, image, FreeAnchorLoss())
            rows += [{**head, **row, **part} for row in bags if row["annotation_id"] == annotation_id]
    return pd.DataFrame(rows, columns=list(MATCH_COLUMNS))


def bags_frame(evaluation: Evaluation, store: Store, max_objects: int = MAX_BAGS) -> pd.DataFrame:
    """The bags of a data set's objects at each snapshot: `STAGE_COLUMNS`, then `BAG_TABLE_COLUMNS`; a row a bag.

    Objects of the validation split, in whole images by its order while they hold at most `max_objects`.
    """
    return bag_frames(evaluation, store, max_objects)[0]


def position_frame(evaluation: Evaluation, store: Store, max_objects: int = MAX_BAGS) -> pd.DataFrame:
    """Where the weight of the same bags lies: run, detector, step, then `POSITION_COLUMNS`; a row a bin with mass."""
    return bag_frames(evaluation, store, max_objects)[1]


def bag_frames(evaluation: Evaluation, store: Store, max_objects: int = MAX_BAGS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`bags_frame` and `position_frame` from one pass of each snapshot over the images; rounded to `DIGITS`."""
    tables = [pd.DataFrame(columns=[*STAGE_COLUMNS, *BAG_TABLE_COLUMNS])]
    positions = [pd.DataFrame(columns=[*STAGE_COLUMNS[:3], *POSITION_COLUMNS])]
    for head, bags in _stage_bags(evaluation, store, max_objects):
        for frames, frame in ((tables, bag_table(bags)), (positions, position_histograms(bags))):
            frames.append(frame.assign(**head)[list(frames[0].columns)])
    bags_of_all, positions_of_all = (
        pd.concat(frames[1:] or frames, ignore_index=True).round(DIGITS) for frames in (tables, positions)
    )
    return bags_of_all, positions_of_all


def _stage_bags(evaluation: Evaluation, store: Store, max_objects: int) -> Iterator[tuple[dict[str, Any], BagArrays]]:
    training = evaluation.training
    directory = store.data(training)
    parts = _parts(locate_split(directory, "val")[0])
    images = first_images(read_split(directory, "val"), max_objects)
    stages, num_steps = _stages(evaluation, store)
    for step, path in stages:
        model, detector = load_model(path)
        found = [bag_arrays(bags, detector, parts) for bags in object_bags(model, detector, images, FreeAnchorLoss())]
        if found:
            names = evaluation.name, training.detector, step, num_steps
            yield dict(zip(STAGE_COLUMNS, names, strict=True)), concatenate_bags(found)


def first_images(split: Split, max_objects: int) -> list[ImageRecord]:
    """The first images with objects that hold at most `max_objects` together, and at least one image."""
    images = [image for image in split.images if len(image.boxes)]
    totals = np.cumsum([len(image.boxes) for image in images], dtype=np.int64)
    return images[: max(1, int((totals <= max_objects).sum()))]


def bag_arrays(bags: ObjectBags, detector: DetectorConfig, parts: dict[int, tuple[float, float]]) -> BagArrays:
    """One image's bags as the analysis takes them."""
    image, missing = bags.image, (math.nan, math.nan)
    ids = image.annotation_ids.numpy()
    names = np.array(detector.category_names, dtype=object)
    return BagArrays(
        image_id=np.full(len(ids), image.image_id),
        annotation_id=ids,
        category=names[image.labels.numpy()],
        num_objects=np.full(len(ids), len(ids)),
        gt_boxes=image.boxes.numpy().astype(np.float64),
        parts=np.array([parts.get(number, missing) for number in ids.tolist()], dtype=np.float64).reshape(-1, 2),
        boxes=bags.boxes.numpy().astype(np.float64),
        level=bags.level.numpy(),
        iou=bags.iou.numpy(),
        confidence=bags.confidence.numpy(),
        weight=bags.weight.numpy(),
        assigned=bags.assigned.numpy(),
    )


def bags_stage(evaluation: Evaluation, store: Store) -> tuple[Path, Path]:
    """Ask a run's snapshots about the bags of all objects, once; leaves `positions.csv` and, last, `bags.csv`."""
    directory = evaluation.directory(store.runs)
    bags, positions = directory / "bags.csv", directory / "positions.csv"
    if not bags.exists():
        tables = bag_frames(evaluation, store)
        write_csv(positions, tables[1])
        write_csv(bags, tables[0])
    return bags, positions


def _of_pairs(profile: Profile, store: Store, file: int, columns: tuple[str, ...], *, sides: slice) -> pd.DataFrame:
    runs = [profile.evaluations[run] for pair in profile.pairs for run in pair[sides]]
    frames = [pd.read_csv(bags_stage(run, store)[file]) for run in runs if is_measured(run, store)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(columns))


def stored_bags(profile: Profile, store: Store) -> pd.DataFrame:
    """Bags of both detectors, all seeds: `STAGE_COLUMNS` and `BAG_TABLE_COLUMNS`; empty where nothing was run."""
    return _of_pairs(profile, store, 0, (*STAGE_COLUMNS, *BAG_TABLE_COLUMNS), sides=slice(None))


def stored_positions(profile: Profile, store: Store) -> pd.DataFrame:
    """Where the weight of FreeAnchor's bags lies, seed 0, first and last snapshot: what the figure draws.

    Columns run, detector, step and `POSITION_COLUMNS`.
    """
    frame = _of_pairs(profile, store, 1, (*STAGE_COLUMNS[:3], *POSITION_COLUMNS), sides=slice(1, 2))
    is_drawn = frame["step"].isin([frame["step"].min(), frame["step"].max()]) & frame["group"].isin(GROUP_NAMES)
    return frame[is_drawn & (frame["run"] == profile.pair[1])]


def bag_boxes_stage(evaluation: Evaluation, store: Store) -> Path:
    """Ask a trained run about its bags, once; the path of `bag_boxes.csv`: `image_id` and `MEAN_COLUMNS`.

    Validation objects in whole images by the split's order, while they are at most `MAX_BAGS`.
    """
    path = evaluation.directory(store.runs) / "bag_boxes.csv"
    if not path.exists():
        model, detector = load_model(store.weights(evaluation.training))
        images = first_images(read_split(store.data(evaluation.training), "val"), MAX_BAGS)
        frames = [pd.DataFrame(columns=["image_id", *MEAN_COLUMNS])]
        for bags in object_bags(model, detector, images, FreeAnchorLoss()):
            means = image_means(bags.iou.numpy(), bags.box_iou.numpy(), bags.cls_prob.numpy())
            frames.append(means.assign(image_id=bags.image.image_id)[list(frames[0].columns)])
        found = [frame for frame in frames if len(frame)]
        write_csv(path, (pd.concat(found, ignore_index=True) if found else frames[0]).round(DIGITS))
    return path
