"""AP over training: every snapshot of a run tested on the validation split, to see whether training has settled.

curve_stage(evaluation, store, runtime)         # curve.csv beside the run's detections: step, num_steps, metric, value
frame = learning_curves(profile, store)         # of all compared runs
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections
from analysis.coco.reading import read_ground_truth
from analysis.coco.record import coco_statistics
from experiments.matches import snapshot_files
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.results import result_rows
from experiments.store import Store
from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import locate_split, read_split
from freeanchor.files import write_csv
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime

METRICS = ("ap", "ap_50", "ap_75")
COLUMNS = ("detector", "run", "step", "num_steps", "metric", "value")


def curve_stage(evaluation: Evaluation, store: Store, runtime: Runtime) -> Path:
    """Test every snapshot as the trained model is tested, once; leaves `curve.csv`, a row a snapshot and metric."""
    path = _curve_file(evaluation, store)
    if not path.exists():
        write_csv(path, _curve(evaluation, store, runtime))
    return path


def _curve_file(evaluation: Evaluation, store: Store) -> Path:
    """Where a run's curve lies: beside its detections."""
    return evaluation.directory(store.runs) / "curve.csv"


def _curve(evaluation: Evaluation, store: Store, runtime: Runtime) -> pd.DataFrame:
    """AP of each snapshot."""
    directory = store.data(evaluation.training)
    split = read_split(directory, "val")
    ground_truth = read_ground_truth(locate_split(directory, "val")[0])
    files, num_steps = snapshot_files(evaluation, store)
    rows = []
    for step, file in files:
        model, detector = load_model(file, runtime.device)
        found = [
            row
            for prediction in predict(
                model, detector, split.pictures, evaluation.inference, runtime, all_candidates=False
            )
            for row in result_rows(prediction.picture, prediction.detections, detector.category_ids)
        ]
        statistics = coco_statistics(ground_truth, _detections(found))
        rows += [
            {"step": step, "num_steps": num_steps, "metric": metric, "value": statistics[metric]} for metric in METRICS
        ]
    return pd.DataFrame(rows, columns=list(COLUMNS[2:]))


def _detections(rows: list[dict[str, Any]]) -> Detections:
    """Rows of COCO results as columns."""
    bbox = np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4)
    return Detections(
        image_id=np.array([row["image_id"] for row in rows], dtype=np.int64),
        category_id=np.array([row["category_id"] for row in rows], dtype=np.int64),
        boxes=np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]]),
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
        sizes=bbox[:, 2:],
    )


def learning_curves(profile: Profile, store: Store) -> pd.DataFrame:
    """The curves of the compared runs, as far as they have been made: columns `COLUMNS`."""
    frames = []
    for name in (run for pair in profile.pairs for run in pair):
        evaluation = profile.evaluations[name]
        path = _curve_file(evaluation, store)
        if path.exists():
            frames.append(pd.read_csv(path).assign(detector=evaluation.training.detector, run=name))
    return pd.concat(frames)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))
