"""Bags over training: of the few objects whose matching is shown (Figs. 1 and 4), and of a data set's.

The few are chosen by a rule on the ground truth, before any detector is asked: of objects with a box no longer than
4:3, so that their bags hold anchors of ratio 1:1 as in the paper's Fig. 4, in images of at most `MAX_OBJECTS`
objects, the largest; those first whose discriminative part lies off their centre, where the data say so.

    frame = matches_frame(evaluation, store)            # one row per anchor: analysis.bags.matches.MATCH_COLUMNS
    bags, positions, boxes = bag_frames(evaluation, store)      # one row per bag; where in the objects their weight
                                                                # lies; what the trained network says of anchors
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.bags import arrays
from analysis.bags.matches import MATCH_COLUMNS
from analysis.bags.summaries import POSITION_COLUMNS, position_histograms
from analysis.evaluation.breakdowns import AspectCuts
from analysis.figures.bags import GROUP_NAMES
from experiments.registry.config import Evaluation, PublishedCheckpoint, Training
from experiments.registry.profile import SNAPSHOTS, Profile
from experiments.runs.store import Store, is_done, is_measured, stored_frame
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord, Split, locate_split, read_split
from freeanchor.files import read_json, write_csv
from freeanchor.inference.bags import ObjectBags, bag_rows, object_bags
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.shapes.dataset import recorded_parts

MAX_OBJECTS = 6  # an image with more is hard to read
NUM_OBJECTS = 4
MAX_BAGS = 5000  # objects of a data set, in whole images by the split's order: all of the synthetic sets'
DIGITS = 5  # decimals kept of what is stored
STAGE_COLUMNS = ("run", "detector", "step", "num_steps")
BAG_COLUMNS = [*STAGE_COLUMNS, *arrays.BAG_TABLE_COLUMNS]
BAGS, BOXES = "bags.csv", "bag_boxes.csv"
BOX_COLUMNS = ["image_id", *arrays.MEAN_COLUMNS]
STAGE_POSITION_COLUMNS = [*STAGE_COLUMNS[:3], *POSITION_COLUMNS]
Parts = dict[int, tuple[float, float]]  # where each annotation's discriminative part lies, for data that records it
UNKNOWN = (math.nan, math.nan)


def choose_objects(split: Split, parts: Parts, count: int = NUM_OBJECTS) -> list[tuple[ImageRecord, int]]:
    """The objects to show, each with its image, by the rule above; where no image is so empty, of all of them."""
    rows = [
        (place, annotation_id, *box, len(image.boxes), *parts.get(annotation_id, UNKNOWN))
        for place, image in enumerate(split.images)
        for annotation_id, box in zip(image.annotation_ids.tolist(), image.boxes.tolist(), strict=True)
    ]
    columns = ["place", "annotation_id", "x1", "y1", "x2", "y2", "num_objects", "part_x", "part_y"]
    objects = pd.DataFrame(rows, columns=columns)
    width, height = objects["x2"] - objects["x1"], objects["y2"] - objects["y1"]
    centre_x, centre_y = (objects["x1"] + objects["x2"]) / 2, (objects["y1"] + objects["y2"]) / 2
    offset = np.hypot(objects["part_x"] - centre_x, objects["part_y"] - centre_y)
    is_acentric = offset > arrays.OFF_CENTRE * np.hypot(width, height)
    aspect = np.maximum(width / height, height / width)
    objects = objects.assign(is_acentric=is_acentric, area=width * height, aspect=aspect)
    for column, limit in (("num_objects", MAX_OBJECTS), ("aspect", AspectCuts().square)):
        objects = objects[objects[column] <= limit] if (objects[column] <= limit).any() else objects
    order = ["is_acentric", "area", "annotation_id"]
    best = objects.sort_values(order, ascending=[False, False, True]).drop_duplicates("place").head(count)
    return [(split.images[place], number) for place, number in best[["place", "annotation_id"]].to_numpy().tolist()]


def snapshot_files(evaluation: Evaluation, store: Store) -> tuple[list[tuple[int, Path]], int]:
    """(step, model file) of each snapshot of a run, and its number of steps; a published one has its end alone.

    Raises CheckpointError where there are none.
    """
    training = evaluation.training
    if isinstance(training, PublishedCheckpoint):
        return [(1, store.weights(training))], 1
    there = _snapshots(training, store)
    if not there:
        raise store.gone(training, "its snapshots")
    return there, training.recipe.num_steps


def _snapshots(training: Training, store: Store) -> list[tuple[int, Path]]:
    folder, steps = training.directory(store.runs) / "snapshots", sorted(training.recipe.snapshot_steps)
    files = [(step, folder / f"step-{step:06d}.safetensors") for step in steps]
    return [(step, path) for step, path in files if path.exists()]


def has_bags(run: Evaluation, store: Store, answer: str = BAGS) -> bool:
    """Whether a run is measured, and its snapshots lie there, or what they answered before: the file `answer`."""
    if not is_measured(run, store):
        return False
    if (run.directory(store.runs) / answer).exists():
        return True
    if isinstance(run.training, PublishedCheckpoint):
        return store.network(run.training).exists()
    return bool(_snapshots(run.training, store))


def stages(evaluation: Evaluation, store: Store) -> Iterator[tuple[dict[str, Any], Path]]:
    """The snapshots at which matching is looked at, each under its columns; a run may have more, to draw AP by."""
    files, num_steps = snapshot_files(evaluation, store)
    shown = {round(fraction * num_steps) for fraction in SNAPSHOTS}
    for step, path in files:
        if step in shown:
            values = evaluation.name, evaluation.training.detector, step, num_steps
            yield dict(zip(STAGE_COLUMNS, values, strict=True)), path


def matches_frame(evaluation: Evaluation, store: Store) -> pd.DataFrame:
    """The bags of the chosen objects at each snapshot of a training; one row per anchor, columns MATCH_COLUMNS."""
    return matches_of(evaluation.training, store, stages(evaluation, store))


def matches_of(
    training: Training | PublishedCheckpoint, store: Store, stages: Iterable[tuple[dict[str, Any], Path]]
) -> pd.DataFrame:
    """The same for model files, each with the values of its STAGE_COLUMNS, on the data of a training."""
    directory = store.data(training)
    parts = recorded_parts(read_json(locate_split(directory, "val")[0]))
    chosen = choose_objects(read_split(directory, "val"), parts)
    rows = []
    for head, path in stages:
        model, detector = load_model(path)
        for image, annotation_id in chosen:
            part = dict(zip(("part_x", "part_y"), parts.get(annotation_id, UNKNOWN), strict=True))
            bags = bag_rows(model, detector, image, FreeAnchorLoss())
            rows += [{**head, **row, **part} for row in bags if row["annotation_id"] == annotation_id]
    return pd.DataFrame(rows, columns=list(MATCH_COLUMNS))


def bag_frames(
    evaluation: Evaluation, store: Store, max_objects: int = MAX_BAGS
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The bags of a data set's objects at each snapshot, where in the objects their weight lies, and their boxes.

    `BAG_COLUMNS`, one row per bag; `STAGE_POSITION_COLUMNS`, one row per bin with mass; of the trained network alone
    `BOX_COLUMNS`, one row per image and anchor. All rounded to `DIGITS`. Objects of the validation split, in whole
    images by its order while they hold at most `max_objects`.
    """
    directory = store.data(evaluation.training)
    parts = recorded_parts(read_json(locate_split(directory, "val")[0]))
    images = first_images(read_split(directory, "val"), max_objects)
    tables, positions = [pd.DataFrame(columns=BAG_COLUMNS)], [pd.DataFrame(columns=STAGE_POSITION_COLUMNS)]
    boxes = [pd.DataFrame(columns=BOX_COLUMNS)]
    for head, path in stages(evaluation, store):
        model, detector = load_model(path)
        found = []
        for own in object_bags(model, detector, images, FreeAnchorLoss()):
            found.append(bag_arrays(own, detector, parts))
            if head["step"] == head["num_steps"] and len(own.iou):
                boxes.append(_box_means(own))
        if found:
            bags = arrays.concatenate_bags(found)
            tables.append(arrays.bag_table(bags).assign(**head)[BAG_COLUMNS])
            positions.append(position_histograms(bags).assign(**head)[STAGE_POSITION_COLUMNS])
    return stored(tables), stored(positions), stored(boxes)


def _box_means(bags: ObjectBags) -> pd.DataFrame:
    means = arrays.image_means(bags.iou.numpy(), bags.box_iou.numpy(), bags.cls_prob.numpy())
    return means.assign(image_id=bags.image.image_id)[BOX_COLUMNS]


def stored(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """All frames as one, rounded; the first is empty and stands for none."""
    return pd.concat(frames[1:] or frames, ignore_index=True).round(DIGITS)


def first_images(split: Split, max_objects: int) -> list[ImageRecord]:
    """The first images with objects that hold at most `max_objects` together, and at least one image."""
    images = [image for image in split.images if len(image.boxes)]
    totals = np.cumsum([len(image.boxes) for image in images], dtype=np.int64)
    return images[: max(1, int((totals <= max_objects).sum()))]


def bag_arrays(bags: ObjectBags, detector: DetectorConfig, parts: Parts) -> arrays.BagArrays:
    """One image's bags as the analysis takes them."""
    image, ids = bags.image, bags.image.annotation_ids.numpy()
    names = np.array(detector.category_names, dtype=object)
    return arrays.BagArrays(
        image_id=np.full(len(ids), image.image_id),
        annotation_id=ids,
        category=names[image.labels.numpy()],
        num_objects=np.full(len(ids), len(ids)),
        gt_boxes=image.boxes.numpy().astype(np.float64),
        parts=np.array([parts.get(number, UNKNOWN) for number in ids.tolist()], dtype=np.float64).reshape(-1, 2),
        boxes=bags.boxes.numpy().astype(np.float64),
        level=bags.level.numpy(),
        iou=bags.iou.numpy(),
        confidence=bags.confidence.numpy(),
        weight=bags.weight.numpy(),
        assigned=bags.assigned.numpy(),
    )


def bags_stage(evaluation: Evaluation, store: Store) -> tuple[Path, Path]:
    """Ask a run's snapshots about the bags of all objects, once; leaves `positions.csv` and, last, `bags.csv`.

    And `bag_boxes.csv`, where `bag_boxes_stage` has not: the last snapshot is the trained network.
    """
    directory = evaluation.directory(store.runs)
    bags, positions, boxes = (directory / name for name in (BAGS, "positions.csv", BOXES))
    if not is_done(bags, BAG_COLUMNS):
        tables = bag_frames(evaluation, store)
        if not is_done(boxes, BOX_COLUMNS):
            write_csv(boxes, tables[2])
        write_csv(positions, tables[1])
        write_csv(bags, tables[0])
    return bags, positions


def stored_bags(profile: Profile, store: Store) -> pd.DataFrame:
    """Bags of both detectors, all seeds, columns `BAG_COLUMNS`; empty where nothing was run."""
    runs = [profile.evaluations[run] for pair in profile.pairs for run in pair]
    frames = [stored_frame(bags_stage(run, store)[0]) for run in runs if is_measured(run, store)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=BAG_COLUMNS)


def stored_positions(profile: Profile, store: Store) -> pd.DataFrame:
    """Where the weight of FreeAnchor's bags lies, seed 0, first and last snapshot: what the figure draws.

    Columns `STAGE_POSITION_COLUMNS`; empty where nothing was run.
    """
    run = profile.evaluations[profile.pair[1]]
    if not is_measured(run, store):
        return pd.DataFrame(columns=STAGE_POSITION_COLUMNS)
    frame = stored_frame(bags_stage(run, store)[1], STAGE_POSITION_COLUMNS)
    return frame[frame["step"].isin([frame["step"].min(), frame["step"].max()]) & frame["group"].isin(GROUP_NAMES)]


def bag_boxes_stage(evaluation: Evaluation, store: Store) -> Path:
    """Ask a trained run about its bags, once; the path of `bag_boxes.csv`: `BOX_COLUMNS`.

    Validation objects in whole images by the split's order, while they are at most `MAX_BAGS`.
    """
    path = evaluation.directory(store.runs) / BOXES
    if not is_done(path, BOX_COLUMNS):
        model, detector = load_model(store.weights(evaluation.training))
        images = first_images(read_split(store.data(evaluation.training), "val"), MAX_BAGS)
        found = (bags for bags in object_bags(model, detector, images, FreeAnchorLoss()) if len(bags.iou))
        write_csv(path, stored([pd.DataFrame(columns=BOX_COLUMNS), *map(_box_means, found)]))
    return path
