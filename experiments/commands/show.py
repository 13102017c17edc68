"""A run in words: the whole recipe, what it costs in images, what it needs before it can start.

for line in recipe_lines(evaluation, store): print(line)
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from experiments.fetch.backbones import backbone_download, is_users_file
from experiments.registry.config import CocoData, DrawnData, Evaluation, PublishedCheckpoint, Training
from experiments.runs.stages import COCO_IMAGES
from experiments.runs.store import Store
from experiments.runs.weights import is_at_hand

COCO_TRAINED = 117_266  # of COCO 2017's training images, those with an object (FACTS A3)


def _fields(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every choice of a configuration, nested names joined by dots."""
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, type):
            yield f"{prefix}{field.name}", type(inner).__name__
            yield from _fields(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _short(inner)


def _short(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, float):
        return f"{value:.7g}"
    return ", ".join(map(_short, value)) if isinstance(value, tuple) else str(value)


def _block(title: str, value: Any) -> Iterator[str]:
    """A configuration under its title."""
    rows = list(_fields(value))
    width = max(len(name) for name, _ in rows)
    yield f"{title}:"
    yield from (f"  {name:{width}}  {text}" for name, text in rows)


def recipe_lines(evaluation: Evaluation, store: Store) -> Iterator[str]:
    """The run from its name to its needs."""
    training = evaluation.training
    yield f"{evaluation.name}: {training.detector} on {training.backbone_label}, profile {training.profile}"
    yield f"results: {evaluation.directory(store.runs)}"
    if isinstance(training, PublishedCheckpoint):
        yield from _published(training, store)
    else:
        yield from _own(training, store)
    yield from _block("inference", evaluation.inference)


def _published(checkpoint: PublishedCheckpoint, store: Store) -> Iterator[str]:
    """What is known of somebody else's training."""
    yield f"published checkpoint, {checkpoint.schedule}; AP {checkpoint.published['ap']:.3f} by {checkpoint.source}"
    yield f"file: {checkpoint.url} -> {store.downloads / checkpoint.file}"
    yield f"checksum: {f'SHA-256 {checkpoint.sha256}…' if checkpoint.sha256 else 'none is published'}"
    if not is_at_hand(checkpoint, store):
        yield f"to be fetched by hand: {checkpoint.by_hand}; open the address in a browser and put the file there"
    yield from _block("origin", checkpoint.origin)


def _own(training: Training, store: Store) -> Iterator[str]:
    """The recipe, its cost, its needs."""
    recipe = training.recipe
    yield from _block("network", training.model)
    yield from _block("input", training.inputs)
    yield from _block("recipe", recipe)
    yield f"in words: {recipe.summary()}"
    yield f"cost: {recipe.num_samples:,} images{_epochs(training)}"
    yield f"needs: {_data_needed(training, store)}; {_weights_needed(training, store)}; {_processes_fitting(training)}"


def _epochs(training: Training) -> str:
    """The cost in epochs, where the size of the data is known without reading it."""
    if isinstance(training.data, CocoData):
        num_images, what = COCO_TRAINED, f"the {COCO_TRAINED:,} of {COCO_IMAGES['train']:,} that have an object"
    elif isinstance(training.data, DrawnData):
        num_images = training.data.shapes.num_train
        what = f"{num_images:,} drawn ones"
    else:
        return ""
    return f" = {training.recipe.num_samples / num_images:.2f} epochs of {what}"


def _data_needed(training: Training, store: Store) -> str:
    """Where its data lie, or how they get there."""
    if isinstance(training.data, DrawnData):
        return f"data drawn into {store.data(training)}"
    if isinstance(training.data, CocoData):
        return f"COCO 2017 in {store.data(training)} (make data PROFILE=coco)"
    return f"the data folder {store.data(training)}"


def _weights_needed(training: Training, store: Store) -> str:
    """The ImageNet weights it starts from."""
    if not training.backbone_weights:
        return "no weights to start from"
    if is_users_file(training.backbone_weights):
        return f"ImageNet weights: your file {training.backbone_weights}"
    item = backbone_download(training.backbone_weights)
    return f"ImageNet weights {item.url}, fetched into {store.downloads}"


def _processes_fitting(training: Training) -> str:
    """The numbers of processes that can share its batch."""
    fitting = [str(number) for number in training.recipe.fitting_processes()]
    return f"{', '.join(fitting[:-1])} or {fitting[-1]} processes" if len(fitting) > 1 else "one process"
