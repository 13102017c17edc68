"""The stages of a run, train -> predict -> measure, each reading and writing the run store.

A stage writes its marker last: `train.json`, `predict.json`, `measurements.csv`. What has its marker is whole, and is
not done again.

    store = Store(runs=Path("runs"), drawn=Path("data"))
    train_stage(training, store, runtime)
    predict_stage(evaluation, store, runtime)
    measure_stage(evaluation, store)
"""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.coco.reading import read_detections, read_ground_truth
from analysis.evaluation.evaluate import Measured, compare, measure
from experiments.checkpoint_files import backbone_file, fetch_checkpoint
from experiments.matches import matches_frame
from experiments.provenance import provenance
from experiments.registry.classes import write_merged
from experiments.registry.config import (
    NUM_DIGITS,
    CocoData,
    DrawnData,
    Evaluation,
    FolderData,
    PublishedCheckpoint,
    Training,
)
from experiments.results import BUDGET_COLUMNS, BUDGETS, RECALL_COLUMNS, budget_rows, recall_rows, result_rows
from experiments.store import Store
from freeanchor.checkpoints.native import DetectorConfig, load_model, save_model
from freeanchor.data.coco import Split, locate_split, read_split
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import DataError
from freeanchor.files import alone_at, in_turn, read_json, replacing, write_csv, write_json
from freeanchor.inference.predict import BATCH_SIZE, predict
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import write_shapes
from freeanchor.training.loop import TrainingResult, train
from freeanchor.training.processes import ALONE, Processes

COCO_PICTURES = {"train": 118_287, "val": 5_000}


def is_done(marker: Path) -> bool:
    """Whether a stage's marker is there; it is touched then, so that Make sees it as younger than what it needs."""
    if not marker.exists():
        return False
    marker.touch()
    return True


def data_stage(training: Training | PublishedCheckpoint, store: Store) -> Path:
    """Draw the data set, or make other classes of it, where that is asked for; its validation split's annotations."""
    directory = store.data(training)
    if isinstance(training.data, DrawnData):
        with in_turn(directory.parent):
            write_shapes(training.data.shapes, directory)
    elif isinstance(training.data, FolderData) and training.data.is_made:
        if store.folder is None:
            raise DataError(f"{training.name} needs its data folder; give it with DATA=DIR (or --data DIR)")
        with in_turn(directory.parent):
            write_merged(store.folder, directory, training.data.classes)
    return locate_split(directory, "val")[0]


def _detector(training: Training, split: Split) -> DetectorConfig:
    """The training's network with the classes of its data."""
    return DetectorConfig(
        model=training.model,
        inputs=training.inputs,
        category_ids=split.category_ids,
        category_names=split.category_names,
        inference=training.inference,
        detector="FreeAnchor" if training.detector == "FreeAnchor" else "RetinaNet",
    )


def _read(training: Training | PublishedCheckpoint, store: Store, name: str) -> Split:
    """A split of a training's data; raises DataError where it is not the COCO 2017 that it is taken for."""
    directory = store.data(training)
    if isinstance(training.data, CocoData) and not directory.exists():
        raise DataError(f"{directory}: COCO is not there; run make data PROFILE=coco, or give its folder with DATA=DIR")
    split = read_split(directory, name)
    expected = COCO_PICTURES[name]
    if isinstance(training.data, CocoData) and len(split.pictures) != expected:
        raise DataError(
            f"{split.annotations}: lists {len(split.pictures):,} pictures, COCO 2017's {name} split {expected:,}; use "
            "profile photos for other data"
        )
    return split


def _validation(training: Training | PublishedCheckpoint, store: Store, detector: DetectorConfig) -> Split:
    """The validation split; raises DataError where its labels would mean other categories than the detector's."""
    split = _read(training, store, "val")
    if (split.category_ids, split.category_names) != (detector.category_ids, detector.category_names):
        raise DataError(
            f"{split.annotations}: lists other categories than the detector knows; give both splits the same list"
        )
    return split


def train_stage(
    training: Training | PublishedCheckpoint, store: Store, runtime: Runtime, processes: Processes = ALONE
) -> None:
    """Train, going on where an interrupted training stopped; leaves `model.safetensors` and `train.json`.

    A published checkpoint is fetched and converted instead. Of many processes the first writes.
    """
    directory = training.directory(store.runs)
    done = is_done(directory / "train.json") if processes.is_main else None
    if processes.from_main(done):
        if processes.is_main:
            (directory / "state.safetensors").unlink(missing_ok=True)  # of a run killed between its last two lines
    elif isinstance(training, PublishedCheckpoint):
        if processes.is_main:
            fetch_checkpoint(training, store)
    else:
        _train(training, store, runtime, processes)
    processes.wait()


@contextmanager
def _not_left_empty(directory: Path, *, was_there: bool) -> Iterator[None]:
    """Where the block fails, remove a folder that was not there before and holds nothing: a refused run leaves none."""
    try:
        yield
    except BaseException:
        if not was_there:
            with suppress(OSError):  # it holds something, and stays
                directory.rmdir()
        raise


def _train(training: Training, store: Store, runtime: Runtime, processes: Processes) -> None:
    """Train for real."""
    directory = training.directory(store.runs)
    split = _read(training, store, "train")
    detector = _detector(training, split)
    _validation(training, store, detector)  # a fault there should show before the training, not after it
    weights = backbone_file(training, store, processes)
    was_there = processes.from_main(directory.exists())
    # Emptied while the lock is held: otherwise it might be another process's.
    with alone_at(directory) if processes.is_main else nullcontext(), _not_left_empty(directory, was_there=was_there):
        if processes.from_main(is_done(directory / "train.json") if processes.is_main else None):
            return  # by another process, meanwhile
        result = train(directory, split, detector, training.recipe, runtime, processes, weights)
        if processes.is_main:
            _write_trained(directory, training, result, detector, runtime)


def _write_trained(
    directory: Path, training: Training, result: TrainingResult, detector: DetectorConfig, runtime: Runtime
) -> None:
    """The files of a training, its marker last; what it would have gone on from is no more needed then."""
    save_model(directory / "model.safetensors", result.model, detector)
    record = {
        "seconds": result.seconds,
        "images_per_second": result.images_per_second,
        "precision": result.precision,
        "threads": result.threads,
        "processes": result.processes,
        "config": json.loads(training.describe()),
        "fingerprint": training.fingerprint,
        "provenance": provenance(runtime.device),
    }
    write_json(directory / "train.json", record)
    (directory / "state.safetensors").unlink(missing_ok=True)


@dataclass(frozen=True)
class _Tested:
    """What testing gave on one picture: its place in the split, rows for the three files, the number of candidates."""

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
    """All pictures' results, in order; each process tests every so-manieth batch, so that batches are the same."""
    places = range(len(split.pictures))
    batches = [places[first : first + BATCH_SIZE] for first in range(0, len(places), BATCH_SIZE)]
    own = [place for batch in processes.share(batches) for place in batch]
    pictures = [split.pictures[place] for place in own]
    found = [
        _Tested(
            place,
            list(result_rows(prediction.picture, prediction.detections, detector.category_ids)),
            list(recall_rows(prediction)),
            list(budget_rows(prediction)),
            len(prediction.candidates),
        )
        for place, prediction in zip(
            own, predict(model, detector, pictures, inference, runtime, budgets=BUDGETS), strict=True
        )
    ]
    return sorted((tested for part in processes.gather(found) for tested in part), key=lambda tested: tested.place)


def predict_stage(evaluation: Evaluation, store: Store, runtime: Runtime, processes: Processes = ALONE) -> None:
    """Run the detector over the validation split; leaves detections, objects' recall, and `predict.json`."""
    directory = evaluation.directory(store.runs)
    done = processes.is_main and is_done(directory / "predict.json") and (directory / "budgets.csv").exists()
    if processes.from_main(done if processes.is_main else None):  # earlier versions left no budgets
        return
    model, detector = load_model(store.weights(evaluation.training), runtime.device)
    split = _validation(evaluation.training, store, detector)
    with alone_at(directory) if processes.is_main else nullcontext():
        started = time.perf_counter()
        tested = _test(model, detector, split, evaluation.inference, runtime, processes)
        seconds = time.perf_counter() - started
        if processes.is_main:
            _write_tested(directory, tested, seconds, runtime)
    processes.wait()


def _write_tested(directory: Path, tested: list[_Tested], seconds: float, runtime: Runtime) -> None:
    """The files of a test, its marker last."""
    detections = [row for one in tested for row in one.detections]
    recall = [row for one in tested for row in one.recall]
    budgets = [row for one in tested for row in one.budgets]
    with replacing(directory / "detections.json") as temporary:
        temporary.write_text(json.dumps(detections), encoding="utf-8")
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


def measure_stage(evaluation: Evaluation, store: Store) -> None:
    """Measure what `predict_stage` left; leaves `matches.csv` (bags of a few objects) and `measurements.csv`."""
    directory = evaluation.directory(store.runs)
    if is_done(directory / "measurements.csv"):
        return
    ground_truth, detections, recall = _predicted(evaluation, store)
    seconds = read_json(evaluation.training.directory(store.runs) / "train.json")["seconds"]
    write_csv(directory / "matches.csv", matches_frame(evaluation, store))
    frame = measure(ground_truth, detections, recall)
    training = pd.DataFrame([{"metric": "training_seconds", "value": seconds}]).astype({"value": float})
    write_csv(directory / "measurements.csv", pd.concat([training, frame], ignore_index=True))


def _predicted(evaluation: Evaluation, store: Store) -> Measured:
    """Ground truth, detections and each object's recall of a run that has been tested."""
    directory = evaluation.directory(store.runs)
    ground_truth = read_ground_truth(locate_split(store.data(evaluation.training), "val")[0])
    detections = read_detections(directory / "detections.json", ground_truth)
    return ground_truth, detections, pd.read_csv(directory / "object_recall.csv")


def compare_stage(first: Evaluation, second: Evaluation, store: Store) -> pd.DataFrame:
    """Second minus first in every metric with paired intervals, computed once for what both runs found.

    Kept under both fingerprints and a digest: a run trained again, or unpacked, may have found something else.
    """
    names = [f"{run.training.fingerprint}-{run.directory(store.runs).name}" for run in (first, second)]
    names.append(_digest(first, second, store))
    path = store.runs / first.training.profile / "comparisons" / f"{'-'.join(names)}.csv"
    if not path.exists():
        write_csv(path, compare(_predicted(first, store), _predicted(second, store)))
    return pd.read_csv(path)


def _digest(first: Evaluation, second: Evaluation, store: Store) -> str:
    """Of all that a comparison of two runs reads from them."""
    found = hashlib.sha256()
    for run in (first, second):
        for name in ("detections.json", "object_recall.csv"):
            found.update((run.directory(store.runs) / name).read_bytes())
    return found.hexdigest()[:NUM_DIGITS]
