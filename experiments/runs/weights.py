"""Weights from elsewhere: published detectors, fetched and converted; ImageNet backbones that trainings start from.

fetch_checkpoint(checkpoint, store)      # runs/coco/mmdetection-retinanet-r50-…/model.safetensors
backbone_file(training, store)           # downloads/MSRA-R-50.pkl
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from experiments.fetch.backbones import backbone_download, is_users_file, weights_of
from experiments.fetch.download import Download, fetch, mismatch
from experiments.registry.config import CocoData, PublishedCheckpoint, Training
from experiments.runs.store import Store, provenance
from freeanchor.checkpoints.convert import convert_file
from freeanchor.checkpoints.native import describe, read_model, save_tensors
from freeanchor.data.coco import COCO_CATEGORIES, read_categories
from freeanchor.errors import CheckpointError, DownloadError
from freeanchor.files import write_json
from freeanchor.training.processes import ALONE, Processes


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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_checkpoint(checkpoint: PublishedCheckpoint, store: Store) -> None:
    """Fetch, verify and convert a published checkpoint; leaves `model.safetensors` and `train.json` in its folder."""
    directory = checkpoint.directory(store.runs)
    path = _file_of(checkpoint, store)
    is_coco = isinstance(checkpoint.data, CocoData)
    categories = COCO_CATEGORIES if is_coco else read_categories(store.data(checkpoint), "val")
    model_path = directory / "model.safetensors"
    detector = convert_file(path, checkpoint.origin, model_path, categories)
    inputs = replace(detector.inputs, short_side=checkpoint.short_side, max_long_side=checkpoint.max_long_side)
    if inputs != detector.inputs:
        save_tensors(model_path, read_model(model_path)[0], describe(replace(detector, inputs=inputs)))
    record = {
        "seconds": None,
        "images_per_second": None,
        "precision": "published",
        "sha256": _sha256(path),
        "config": json.loads(checkpoint.describe()),
        "fingerprint": checkpoint.fingerprint,
        "provenance": provenance(),
    }
    write_json(directory / "train.json", record)


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
