"""The stages of a run, train -> predict -> measure, each reading and writing the run store.

A stage writes its marker last: `train.json`, `predict.json`, `measurements.csv`. What has its marker is whole, and is
not done again.

    store = Store(runs=Path("runs"), drawn=Path("data"))
    train_stage(training, store, runtime)
    predict_stage(evaluation, store, runtime)
    measure_stage(evaluation, store)
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from experiments.registry.config import CocoData, DrawnData, FolderData, PublishedCheckpoint, Training, write_merged
from experiments.runs.store import Store, provenance
from experiments.runs.weights import backbone_file, fetch_checkpoint
from freeanchor.checkpoints.native import DetectorConfig, save_model
from freeanchor.data.coco import Split, locate_split, read_split
from freeanchor.errors import DataError
from freeanchor.files import alone_at, in_turn, write_json
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import write_shapes
from freeanchor.training.loop import TrainingResult, train
from freeanchor.training.processes import ALONE, Processes

COCO_IMAGES = {"train": 118_287, "val": 5_000}


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
    expected = COCO_IMAGES[name]
    if isinstance(training.data, CocoData) and len(split.images) != expected:
        raise DataError(
            f"{split.annotations}: lists {len(split.images):,} images, COCO 2017's {name} split {expected:,}; use "
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
