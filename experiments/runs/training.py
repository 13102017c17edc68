"""The first stages of a run: its data, its training, or the fetching of what somebody else has trained.

A stage writes its marker last, here `train.json`. What has its marker is whole, and is not done again.

    store = Store(runs=Path("runs"), drawn=Path("data"))
    data_stage(training, store)
    train_stage(training, store, runtime)
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from experiments.fetch.backbones import backbone_download, is_users_file, weights_of
from experiments.fetch.download import Download, fetch, mismatch
from experiments.registry.config import CocoData, DrawnData, FolderData, PublishedCheckpoint, Training, write_merged
from experiments.runs.store import Store, is_trained, provenance
from freeanchor.checkpoints.convert import convert_file
from freeanchor.checkpoints.native import DetectorConfig, describe, read_model, save_model, save_tensors
from freeanchor.data.coco import COCO_CATEGORIES, Split, locate_split, read_categories, read_split
from freeanchor.errors import CheckpointError, DataError, DownloadError
from freeanchor.files import alone_at, in_turn, write_json
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import write_shapes
from freeanchor.training.loop import TrainingResult, train
from freeanchor.training.processes import ALONE, Processes

COCO_IMAGES = {"train": 118_287, "val": 5_000}


def data_stage(training: Training | PublishedCheckpoint, store: Store) -> Path:
    """Draw the data set, or make other classes of it, where that is asked for; its validation split's annotations."""
    directory = store.data(training)
    if isinstance(training.data, DrawnData):
        with in_turn(directory):
            write_shapes(training.data.shapes, directory)
    elif isinstance(training.data, FolderData) and training.data.is_made:
        if store.folder is None:
            raise DataError(f"{training.name} needs its data folder; give it with DATA=DIR (or --data DIR)")
        with in_turn(directory):
            write_merged(store.folder, directory, training.data.classes)
    return locate_split(directory, "val")[0]


def _split(training: Training | PublishedCheckpoint, store: Store, name: str) -> Split:
    """A split of a training's data; raises DataError where it is not the COCO 2017 that it is taken for."""
    directory = store.data(training)
    if not isinstance(training.data, CocoData):
        return read_split(directory, name)
    if not directory.exists():
        raise DataError(f"{directory}: COCO is not there; run make data PROFILE=coco, or give its folder with DATA=DIR")
    split, expected = read_split(directory, name), COCO_IMAGES[name]
    if len(split.images) != expected:
        raise DataError(
            f"{split.annotations}: lists {len(split.images):,} images, COCO 2017's {name} split {expected:,}; use "
            "profile photos for other data"
        )
    return split


def validation_split(training: Training | PublishedCheckpoint, store: Store, detector: DetectorConfig) -> Split:
    """The validation split; raises DataError where its labels would mean other categories than the detector's."""
    split = _split(training, store, "val")
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
    done = is_trained(training, store, touched=True) if processes.is_main else None
    if processes.from_main(done):
        if processes.is_main:
            (directory / "state.safetensors").unlink(missing_ok=True)  # of a run killed between its last two lines
    elif isinstance(training, Training):
        _train(training, store, runtime, processes)
    elif processes.is_main:
        fetch_checkpoint(training, store)
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
    split = _split(training, store, "train")
    detector = DetectorConfig(
        model=training.model,
        inputs=training.inputs,
        category_ids=split.category_ids,
        category_names=split.category_names,
        inference=training.inference,
        detector="FreeAnchor" if training.detector == "FreeAnchor" else "RetinaNet",
    )
    validation = validation_split(training, store, detector)  # a fault there should show before, not after
    for note in (*split.notes, *validation.notes) if processes.is_main else ():
        print(note, file=sys.stderr)
    weights = backbone_file(training, store, processes)
    was_there = processes.from_main(directory.exists())
    # Emptied while the lock is held: otherwise it might be another process's.
    with alone_at(directory) if processes.is_main else nullcontext(), _not_left_empty(directory, was_there=was_there):
        if processes.from_main(is_trained(training, store, touched=True) if processes.is_main else None):
            return  # by another process, meanwhile
        result = train(
            directory, split, detector, training.recipe, runtime, processes, weights, run=training.fingerprint
        )
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
    }
    _write_record(directory, training, record, runtime.device)
    (directory / "state.safetensors").unlink(missing_ok=True)


def _write_record(
    directory: Path, training: Training | PublishedCheckpoint, record: Mapping[str, object], device: str = "cpu"
) -> None:
    known = {"config": json.loads(training.describe()), "fingerprint": training.fingerprint}
    write_json(directory / "train.json", {**record, **known, "provenance": provenance(device)})


def download_of(checkpoint: PublishedCheckpoint) -> Download:
    """A checkpoint's file as something to fetch."""
    return Download(url=checkpoint.url, name=checkpoint.file, sha256=checkpoint.sha256)


def is_at_hand(checkpoint: PublishedCheckpoint, store: Store) -> bool:
    """Whether it can be had without a person: fetched by name, or lying there already."""
    return not checkpoint.by_hand or (store.downloads / checkpoint.file).is_file()


def _file_of(checkpoint: PublishedCheckpoint, store: Store) -> Path:
    item, path = download_of(checkpoint), store.downloads / checkpoint.file
    if not checkpoint.by_hand:
        return fetch(item, store.downloads)
    if not path.is_file():
        raise DownloadError(
            f"{path}: not there, and {checkpoint.by_hand}; open {checkpoint.url} in a browser and put the file there"
        )
    if wrong := mismatch(item, path):
        raise DownloadError(f"{path}: {wrong}; get it anew from {checkpoint.url}")
    return path


def fetch_checkpoint(checkpoint: PublishedCheckpoint, store: Store) -> None:
    """Fetch, verify and convert a published checkpoint; leaves `model.safetensors` and `train.json` in its folder."""
    directory, path = checkpoint.directory(store.runs), _file_of(checkpoint, store)
    is_coco = isinstance(checkpoint.data, CocoData)
    categories = COCO_CATEGORIES if is_coco else read_categories(store.data(checkpoint), "val")
    model_path = directory / "model.safetensors"
    detector = convert_file(path, checkpoint.origin, model_path, categories)
    inputs = replace(detector.inputs, short_side=checkpoint.short_side, max_long_side=checkpoint.max_long_side)
    if inputs != detector.inputs:
        save_tensors(model_path, read_model(model_path)[0], describe(replace(detector, inputs=inputs)))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    record = {"seconds": None, "images_per_second": None, "precision": "published", "sha256": sha256}
    _write_record(directory, checkpoint, record)


def backbone_file(training: Training, store: Store, processes: Processes = ALONE) -> Path | None:
    """The ImageNet weights that a training starts from, fetched by the first process; None for random weights.

    A file that the user gave stays where it is; raises CheckpointError where it is another than the run was named for.
    """
    name = training.backbone_weights
    if not name:
        return None
    if is_users_file(name):
        given = store.backbone_weights
        if given is None or weights_of("", given) != name:
            raise CheckpointError(f"{given}: not the weights that {training.name} starts from ({name}); give that file")
        return given
    item = backbone_download(name)
    if processes.is_main:
        fetch(item, store.downloads)
    processes.wait()
    return store.downloads / item.name
