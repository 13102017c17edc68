"""Which anchors learn which object over a run's training: asked of its snapshots once, kept beside its test.

    table, shares = learning_stage(evaluation, store)       # learning.csv, shares.csv
    stored_learning(profile, store)                         # the tables of every method, all seeds

The method asked is the one that trained the run: FreeAnchor's Mean-max, or the assigner of its loss.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.bags.learning import TABLE_COLUMNS, Learning, learning_table
from experiments.registry.config import Evaluation, PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.runs.bags import STAGE_COLUMNS, UNKNOWN, Parts, first_images, has_bags, stages, stored
from experiments.runs.store import Store, is_done, stored_frame
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import locate_split, read_split
from freeanchor.files import read_json, write_csv
from freeanchor.inference.bags import AssigningLoss, Learners, learners
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss
from freeanchor.shapes.dataset import recorded_parts

MAX_OBJECTS = 2000  # of a data set, in whole images by the split's order
LEAST_SHARE = 0.001  # of an anchor that is kept to tell methods apart; of Mean-max's tail, less
LEARNING = "learning.csv"
LEARNING_COLUMNS = [*STAGE_COLUMNS, *TABLE_COLUMNS]
SHARE_COLUMNS = ["step", "annotation_id", "anchor", "share"]


def learning_stage(evaluation: Evaluation, store: Store) -> tuple[Path, Path]:
    """Ask a run's snapshots once; leaves `shares.csv` and, last, `learning.csv`."""
    directory = evaluation.directory(store.runs)
    table, shares = directory / LEARNING, directory / "shares.csv"
    if not is_done(table, LEARNING_COLUMNS):
        frames = learning_frames(evaluation, store)
        write_csv(shares, frames[1])
        write_csv(table, frames[0])
    return table, shares


def learning_frames(evaluation: Evaluation, store: Store) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row per object and snapshot, `LEARNING_COLUMNS`; one per learning anchor, `SHARE_COLUMNS`."""
    training = evaluation.training
    loss = _loss(training)
    if loss is None:
        raise ValueError(f"{evaluation.name} was trained elsewhere; ask a run whose assignment is known")
    directory = store.data(training)
    parts = recorded_parts(read_json(locate_split(directory, "val")[0]))
    images = first_images(read_split(directory, "val"), MAX_OBJECTS)
    tables, shares = [pd.DataFrame(columns=LEARNING_COLUMNS)], [pd.DataFrame(columns=SHARE_COLUMNS)]
    for head, path in stages(evaluation, store):
        model, detector = load_model(path)
        for found in learners(model, detector, images, loss):
            learning = learning_arrays(found, detector, parts)
            tables.append(learning_table(learning).assign(**head)[LEARNING_COLUMNS])
            order = np.lexsort((learning.anchors, learning.objects))  # packed, rising anchors take less
            own = {"anchor": learning.anchors[order], "share": learning.share[order]}
            rows = pd.DataFrame({"annotation_id": learning.annotation_id[learning.objects[order]], **own})
            shares.append(rows[rows["share"] >= LEAST_SHARE].assign(step=head["step"])[SHARE_COLUMNS])
    return stored(tables), stored(shares)


def learning_arrays(found: Learners, detector: DetectorConfig, parts: Parts) -> Learning:
    """One image's learning anchors as the analysis takes them."""
    image, ids, shares = found.image, found.image.annotation_ids.numpy(), found.shares
    return Learning(
        image_id=np.full(len(ids), image.image_id),
        annotation_id=ids,
        category=np.array(detector.category_names, dtype=object)[image.labels.numpy()],
        num_objects=np.full(len(ids), len(ids)),
        gt_boxes=image.boxes.numpy().astype(np.float64),
        parts=np.array([parts.get(number, UNKNOWN) for number in ids.tolist()], dtype=np.float64).reshape(-1, 2),
        objects=shares.objects.numpy(),
        anchors=shares.anchors.numpy(),
        share=shares.share.numpy().astype(np.float64),
        centres=found.centres.numpy().astype(np.float64),
        iou=found.iou.numpy().astype(np.float64),
        box_iou=found.box_iou.numpy().astype(np.float64),
        cls_prob=found.cls_prob.numpy().astype(np.float64),
    )


def done_runs(profile: Profile, store: Store) -> dict[str, list[Evaluation]]:
    """By method's label, its runs that are measured and whose snapshots, or answers, lie there."""
    return {
        method.label: [profile.evaluations[run] for run in method.runs if can_be_asked(profile.evaluations[run], store)]
        for method in profile.methods
    }


def can_be_asked(run: Evaluation, store: Store) -> bool:
    """Whether a run is measured, its assignment is known, and its snapshots still lie there or were asked before."""
    return _loss(run.training) is not None and has_bags(run, store, LEARNING)


def _loss(training: Training | PublishedCheckpoint) -> AssigningLoss | None:
    # Whose assignment is known.
    if not isinstance(training, Training) or isinstance(training.recipe.loss, TorchvisionRetinaNetLoss):
        return None
    return training.recipe.loss


def stored_learning(profile: Profile, store: Store) -> pd.DataFrame:
    """The tables of every method, all seeds, columns `LEARNING_COLUMNS`; empty where nothing was run."""
    runs = [run for own in done_runs(profile, store).values() for run in own]
    frames = [stored_frame(learning_stage(run, store)[0]) for run in runs]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=LEARNING_COLUMNS)


def stored_shares(run: Evaluation, store: Store) -> dict[int, pd.DataFrame]:
    """A run's learning anchors by snapshot."""
    frame = stored_frame(learning_stage(run, store)[1], SHARE_COLUMNS)
    return {step: frame[frame["step"] == step] for step in sorted(frame["step"].unique().tolist())}
