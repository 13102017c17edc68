"""Testing a run on the validation split: what it finds in each image, and AP at every snapshot of its training.

predict_stage(evaluation, store, runtime)       # detections.json, object_recall.csv, budgets.csv, predict.json
curve_stage(evaluation, store, runtime)         # curve.csv: step, num_steps, metric, value
learning_curves(profile, store)                 # the curves of all compared runs
"""

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections
from analysis.coco.reading import read_ground_truth
from analysis.evaluation.matching import match_detections
from analysis.evaluation.precision import headline_statistics, precision_curves
from experiments.registry.config import Evaluation
from experiments.registry.profile import Profile
from experiments.runs.bags import snapshot_files
from experiments.runs.store import TESTED, Store, is_done, provenance, stored_frame
from experiments.runs.training import validation_split
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord, Split, locate_split, read_split
from freeanchor.detector.postprocess import Candidates, InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.files import alone_at, read_json, write_bytes, write_csv, write_json
from freeanchor.inference.predict import BATCH_SIZE, Prediction, predict
from freeanchor.runtime import Runtime
from freeanchor.training.processes import ALONE, Processes

BUDGETS = (10, 30, 100, 300, 1000)  # candidates of an image, the best, for NMS recall at equal numbers
_IOUS = ("before", "after", "before_same_class", "after_same_class", "after_capped", "after_capped_same_class")
_OBJECT = ("image_id", "annotation_id")
RECALL_COLUMNS = (*_OBJECT, *_IOUS)
BUDGET_COLUMNS = (*_OBJECT, "budget", "num_given", "before", "after")


def result_rows(image: ImageRecord, found: Candidates, category_ids: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """One row per box: image_id, category_id, bbox (x, y, width, height in the file's pixels, to 0.001), score."""
    for (x1, y1, x2, y2), score, label in zip(
        found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
    ):
        yield {
            "image_id": image.image_id,
            "category_id": category_ids[label],
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(score, 6),
        }


def recall_rows(prediction: Prediction) -> Iterator[dict[str, object]]:
    """One row per object: `RECALL_COLUMNS`, IoUs to 1e-6."""
    columns = [getattr(prediction.recall, name).tolist() for name in _IOUS]
    for annotation_id, *values in zip(prediction.image.annotation_ids.tolist(), *columns, strict=True):
        ious = dict(zip(_IOUS, (round(value, 6) for value in values), strict=True))
        yield {"image_id": prediction.image.image_id, "annotation_id": annotation_id, **ious}


def budget_rows(prediction: Prediction) -> Iterator[dict[str, object]]:
    """One row per object and budget of candidates: `BUDGET_COLUMNS`, IoUs to 1e-6."""
    annotation_ids = prediction.image.annotation_ids.tolist()
    for budget, found in prediction.at_budgets.items():
        sides = found.before.tolist(), found.after.tolist()
        for annotation_id, before, after in zip(annotation_ids, *sides, strict=True):
            values = (prediction.image.image_id, annotation_id, budget, found.num_given)
            yield dict(zip(BUDGET_COLUMNS, (*values, round(before, 6), round(after, 6)), strict=True))


@dataclass(frozen=True)
class _Tested:
    """What testing gave on one image: its place in the split, rows for the three files, the number of candidates."""

    place: int
    detections: list[dict[str, object]]
    recall: list[dict[str, object]]
    budgets: list[dict[str, object]]
    num_candidates: int


def _test(
    model: RetinaNet,
    detector: DetectorConfig,
    split: Split,
    inference: InferenceConfig,
    runtime: Runtime,
    processes: Processes,
) -> list[_Tested]:
    """All images' results, in order; each process tests batches in turn, the same ones whatever their number."""
    places = range(len(split.images))
    batches = [places[first : first + BATCH_SIZE] for first in range(0, len(places), BATCH_SIZE)]
    own = [place for batch in processes.share(batches) for place in batch]
    images = [split.images[place] for place in own]
    predictions = predict(model, detector, images, inference, runtime, budgets=BUDGETS)
    found = [
        _Tested(
            place,
            list(result_rows(prediction.image, prediction.detections, detector.category_ids)),
            list(recall_rows(prediction)),
            list(budget_rows(prediction)),
            len(prediction.candidates),
        )
        for place, prediction in zip(own, predictions, strict=True)
    ]
    return sorted((tested for part in processes.gather(found) for tested in part), key=lambda tested: tested.place)


def predict_stage(evaluation: Evaluation, store: Store, runtime: Runtime, processes: Processes = ALONE) -> None:
    """Run the detector over the validation split; leaves detections, objects' recall, and `predict.json`."""
    directory = evaluation.directory(store.runs)
    if processes.from_main(_is_tested(directory) if processes.is_main else None):
        return
    model, detector = load_model(store.weights(evaluation.training), runtime.device)
    split = validation_split(evaluation.training, store, detector)
    with alone_at(directory) if processes.is_main else nullcontext():
        started = time.perf_counter()
        tested = _test(model, detector, split, evaluation.inference, runtime, processes)
        seconds = time.perf_counter() - started
        if processes.is_main:
            _write_tested(directory, tested, seconds, runtime)
    processes.wait()


def _is_tested(directory: Path) -> bool:
    is_there = all((directory / name).exists() for name in ("detections.json", "object_recall.csv", "budgets.csv"))
    return is_done(directory / "predict.json", TESTED, touched=True) and is_there  # earlier versions left no budgets


def _write_tested(directory: Path, tested: list[_Tested], seconds: float, runtime: Runtime) -> None:
    detections = [row for one in tested for row in one.detections]
    recall = [row for one in tested for row in one.recall]
    budgets = [row for one in tested for row in one.budgets]
    write_bytes(directory / "detections.json", json.dumps(detections).encode())
    write_csv(directory / "object_recall.csv", pd.DataFrame(recall, columns=list(RECALL_COLUMNS)))
    write_csv(directory / "budgets.csv", pd.DataFrame(budgets, columns=list(BUDGET_COLUMNS)))
    record = {
        "seconds": seconds,
        "num_pictures": len(tested),
        "num_candidates": sum(one.num_candidates for one in tested),
        "num_detections": len(detections),
        "provenance": provenance(runtime.device),
    }
    write_json(directory / "predict.json", record)


CURVE = "curve.csv"
METRICS = ("ap", "ap_50", "ap_75")
COLUMNS = ("detector", "run", "step", "num_steps", "metric", "value")


def curve_stage(evaluation: Evaluation, store: Store, runtime: Runtime) -> Path:
    """Test every snapshot as the trained model is tested, once; leaves `curve.csv`, one row per snapshot and metric."""
    path = evaluation.directory(store.runs) / CURVE
    if not is_done(path, COLUMNS[2:]):
        write_csv(path, _curve(evaluation, store, runtime))
    return path


def _curve(evaluation: Evaluation, store: Store, runtime: Runtime) -> pd.DataFrame:
    directory = store.data(evaluation.training)
    split = read_split(directory, "val")
    ground_truth = read_ground_truth(locate_split(directory, "val")[0])
    files, num_steps = snapshot_files(evaluation, store)
    rows = []
    for step, file in files:
        model, detector = load_model(file, runtime.device)
        finished = evaluation.directory(store.runs) / "detections.json"
        if step == num_steps and finished.exists():  # `predict_stage` has tested the same weights
            found = read_json(finished)
        else:
            tested = predict(model, detector, split.images, evaluation.inference, runtime, all_candidates=False)
            found = [row for one in tested for row in result_rows(one.image, one.detections, detector.category_ids)]
        statistics = headline_statistics(precision_curves(match_detections(ground_truth, _detections(found))))
        rows += [(step, num_steps, metric, statistics[metric]) for metric in METRICS]
    return pd.DataFrame(rows, columns=list(COLUMNS[2:]))


def _detections(rows: list[dict[str, Any]]) -> Detections:
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
        path = evaluation.directory(store.runs) / CURVE
        if path.exists():
            frames.append(stored_frame(path, COLUMNS[2:]).assign(detector=evaluation.training.detector, run=name))
    return pd.concat(frames)[list(COLUMNS)] if frames else pd.DataFrame(columns=list(COLUMNS))
