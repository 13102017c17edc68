"""The commands on registered runs: list, show, train, predict, cost, report, plan, pack, unpack."""

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from experiments.commands.compute import check_device, runtime_of
from experiments.fetch.backbones import backbone_download, is_users_file
from experiments.registry.build import PROFILES, build_profile
from experiments.registry.config import CocoData, DrawnData, Evaluation, FolderData, PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.registry.sizes import Photographs
from experiments.reports.catalogue import REPORTS, in_order
from experiments.reports.index import write_index
from experiments.reports.kept import pack_runs, unpack_runs
from experiments.reports.plan import make_rules
from experiments.runs.cost import cost_stage
from experiments.runs.measured import measure_stage
from experiments.runs.store import Store, is_measured, is_trained
from experiments.runs.testing import curve_stage, predict_stage
from experiments.runs.training import COCO_IMAGES, data_stage, is_at_hand, train_stage
from freeanchor.errors import FreeAnchorError, UsageError
from freeanchor.training.processes import process_group


def _did_you_mean(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def profile_of(arguments: argparse.Namespace) -> Profile:
    """The profile that the options name; raises UsageError where they make none."""
    if arguments.profile not in PROFILES:
        raise UsageError(f"unknown profile {arguments.profile!r}; {_did_you_mean(arguments.profile, list(PROFILES))}")
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    try:
        profile = build_profile(
            arguments.profile,
            data=arguments.data,
            num_seeds=arguments.seeds,
            batch_size=arguments.batch_size,
            chosen=arguments.chosen,
            photographs=_photographs(arguments),
        )
    except FreeAnchorError:
        raise
    except ValueError as error:  # of a batch size that makes no recipe
        if arguments.batch_size is None:
            raise
        raise UsageError(f"--batch-size {arguments.batch_size}: {error}") from None
    if arguments.chosen == "zoo" and not profile.zoo:  # or the figures would wait for trainings
        raise UsageError(f"--chosen zoo: profile {profile.name} has no published checkpoints; give PROFILE=coco")
    return profile


def _photographs(arguments: argparse.Namespace) -> Photographs | None:
    chosen = {"classes": arguments.classes, "backbone": arguments.backbone_name, "weights": arguments.backbone_weights}
    given = {name: value for name, value in chosen.items() if value is not None}
    if given and arguments.profile != "photos":
        options = {"classes": "--classes", "backbone": "--backbone", "weights": "--backbone-weights"}
        raise UsageError(f"{options[next(iter(given))]} is for your own images; give --profile photos --data DIR")
    return Photographs(folder=arguments.data, **given) if arguments.data and arguments.profile == "photos" else None


def store_of(arguments: argparse.Namespace) -> Store:
    """Where things lie."""
    return Store(
        runs=arguments.runs,
        drawn=arguments.drawn,
        downloads=arguments.downloads,
        folder=arguments.data,
        backbone_weights=arguments.backbone_weights,
        images=not arguments.hide_images,
        credit=arguments.credit,
    )


def evaluation_of(arguments: argparse.Namespace, name: str) -> Evaluation:
    """The registered run of that name."""
    return _run_of(profile_of(arguments), name)


def _run_of(profile: Profile, name: str) -> Evaluation:
    if name not in profile.evaluations:
        known = list(profile.evaluations)
        raise UsageError(f"no run {name!r} in profile {profile.name}; {_did_you_mean(name, known)}")
    return profile.evaluations[name]


def make_data(profile: Profile, store: Store) -> None:
    """See that a folder with other classes is there, and leads to the images where they lie now."""
    if isinstance(profile.data, FolderData) and profile.data.is_made:
        data_stage(profile.evaluations[profile.pair[0]].training, store)


def train(arguments: argparse.Namespace) -> None:
    """`freeanchor train NAME`: train it, or fetch it where somebody else has."""
    check_device(arguments.device)
    training, store = evaluation_of(arguments, arguments.name).training, store_of(arguments)
    with process_group(arguments.device) as processes:
        runtime = runtime_of(arguments, processes)
        if processes.is_main:
            if training.data.is_made:
                data_stage(training, store)
            if isinstance(training, Training):
                print(f"{training.name}: {training.recipe.summary(processes.count)}", file=sys.stderr)
        processes.wait()
        if isinstance(training, Training):  # a checkpoint a hundredth of the way: the big ones take seconds to write
            runtime = replace(runtime, checkpoint_every=max(100, training.recipe.num_steps // 100))
        train_stage(training, store, runtime, processes)


def predict(arguments: argparse.Namespace) -> None:
    """`freeanchor predict NAME`: test, then measure; of a run that reports compare, its snapshots too."""
    profile = profile_of(arguments)
    evaluation = _run_of(profile, arguments.name)
    store = store_of(arguments)
    if not is_trained(evaluation.training, store):
        raise UsageError(f"{arguments.name} is not trained yet; run: freeanchor train {arguments.name}")
    make_data(profile, store)
    check_device(arguments.device)
    with process_group(arguments.device) as processes:
        runtime = runtime_of(arguments, processes)
        predict_stage(evaluation, store, runtime, processes)
    if processes.is_main:  # the others need not wait for it
        is_compared = any(arguments.name in pair for pair in profile.pairs)
        if is_compared and isinstance(evaluation.training, Training):
            curve_stage(evaluation, store, runtime)
        measure_stage(evaluation, store)


def cost(arguments: argparse.Namespace) -> None:
    """`freeanchor cost BACKBONE`: time training steps of both detectors in turn."""
    profile, store = profile_of(arguments), store_of(arguments)
    if arguments.backbone not in profile.comparisons:
        known = ", ".join(profile.comparisons)
        raise UsageError(f"no backbone {arguments.backbone!r} in profile {profile.name}; choose one of {known}")
    pair = profile.comparisons[arguments.backbone][0]
    for run in pair:
        if isinstance(profile.evaluations[run].training, PublishedCheckpoint):
            raise UsageError(f"{run} is a published checkpoint: there is no training of it to time")
        if not is_trained(profile.evaluations[run].training, store):
            raise UsageError(f"{run} is not trained yet; run: freeanchor train {run}")
    print(cost_stage(profile, pair, store, runtime_of(arguments)))


def show(arguments: argparse.Namespace) -> None:
    """`freeanchor show NAME`."""
    evaluation = evaluation_of(arguments, arguments.name)
    if arguments.json:
        print(evaluation.training.describe())
        return
    for line in recipe_lines(evaluation, store_of(arguments)):
        print(line)


def report(arguments: argparse.Namespace) -> None:
    """`freeanchor report NAME…`: each after those that it needs."""
    known = [*REPORTS, "index", "all"]
    for name in arguments.names:
        if name not in known:
            raise UsageError(f"no report {name!r}; {_did_you_mean(name, known)}")
    profile, store = profile_of(arguments), store_of(arguments)
    make_data(profile, store)
    for name in in_order([*REPORTS, "index"] if "all" in arguments.names else arguments.names):
        if name == "index":
            print(write_index(profile, store, arguments.reports))
        else:
            print(REPORTS[name].write(profile, store, arguments.reports))


def list_runs(arguments: argparse.Namespace) -> None:
    """`freeanchor list`."""
    profile, store = profile_of(arguments), store_of(arguments)
    rows = [
        {
            "name": name,
            "done": is_measured(evaluation, store),
            "backbone": evaluation.training.backbone_label,
            "steps": evaluation.training.recipe.num_steps if isinstance(evaluation.training, Training) else 0,
            "directory": str(evaluation.directory(store.runs)),
        }
        for name, evaluation in profile.evaluations.items()
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    width = max(len(name) for name in profile.evaluations)
    for row in rows:
        state = "done" if row["done"] else "not run"
        work = f"{row['steps']:>7} steps" if row["steps"] else "published    "
        print(f"{row['name']:{width}}  {state:8} {row['backbone']:20} {work}  {row['directory']}")


def plan(arguments: argparse.Namespace) -> None:
    """`freeanchor plan`."""
    print(make_rules(profile_of(arguments), store_of(arguments), reports=arguments.reports, chosen=arguments.chosen))


def pack(arguments: argparse.Namespace) -> None:
    """`freeanchor pack`."""
    for line in pack_runs(profile_of(arguments), store_of(arguments), arguments.reports):
        print(line)


def unpack(arguments: argparse.Namespace) -> None:
    """`freeanchor unpack`."""
    for line in unpack_runs(profile_of(arguments), store_of(arguments), arguments.reports):
        print(line)


COCO_TRAINED = 117_266  # of COCO 2017's training images, those with an object, as detectron2 logs them


def _fields(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field in fields(value):
        inner = getattr(value, field.name)
        if is_dataclass(inner) and not isinstance(inner, type):
            yield f"{prefix}{field.name}", type(inner).__name__
            yield from _fields(inner, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _short(inner)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.7g}"
    return ", ".join(map(_short, value)) if isinstance(value, tuple) else str(value)


def _block(title: str, value: Any) -> Iterator[str]:
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
    yield f"published checkpoint, {checkpoint.schedule}; AP {checkpoint.published['ap']:.3f} by {checkpoint.source}"
    yield f"file: {checkpoint.url} -> {store.downloads / checkpoint.file}"
    yield f"checksum: {f'SHA-256 {checkpoint.sha256}…' if checkpoint.sha256 else 'none is published'}"
    if not is_at_hand(checkpoint, store):
        yield f"to be fetched by hand: {checkpoint.by_hand}; open the address in a browser and put the file there"
    yield from _block("origin", checkpoint.origin)


def _own(training: Training, store: Store) -> Iterator[str]:
    recipe = training.recipe
    yield from _block("network", training.model)
    yield from _block("input", training.inputs)
    yield from _block("recipe", recipe)
    yield f"in words: {recipe.summary()}"
    yield f"cost: {recipe.num_samples:,} images{_epochs(training)}"
    yield f"needs: {_data_needed(training, store)}; {_weights_needed(training, store)}; {_processes_fitting(training)}"


def _epochs(training: Training) -> str:
    if isinstance(training.data, CocoData):
        num_images, what = COCO_TRAINED, f"the {COCO_TRAINED:,} of {COCO_IMAGES['train']:,} that have an object"
    elif isinstance(training.data, DrawnData):
        num_images = training.data.shapes.num_train
        what = f"{num_images:,} synthetic ones"
    else:
        return ""
    return f" = {training.recipe.num_samples / num_images:.2f} epochs of {what}"


def _data_needed(training: Training, store: Store) -> str:
    if isinstance(training.data, DrawnData):
        return f"data generated into {store.data(training)}"
    if isinstance(training.data, CocoData):
        return f"COCO 2017 in {store.data(training)} (make data PROFILE=coco)"
    return f"the data folder {store.data(training)}"


def _weights_needed(training: Training, store: Store) -> str:
    if not training.backbone_weights:
        return "no weights to start from"
    if is_users_file(training.backbone_weights):
        return f"ImageNet weights: your file {training.backbone_weights}"
    item = backbone_download(training.backbone_weights)
    return f"ImageNet weights {item.url}, fetched into {store.downloads}"


def _processes_fitting(training: Training) -> str:
    fitting = [str(number) for number in training.recipe.fitting_processes()]
    return f"{', '.join(fitting[:-1])} or {fitting[-1]} processes" if len(fitting) > 1 else "one process"
