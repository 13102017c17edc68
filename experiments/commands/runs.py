"""The commands that work on the registry: train, predict, report, list, show, plan, pack, unpack.

Each takes the parsed command line; what they do is in `stages.py` and `report.py`.
"""

import argparse
import difflib
import json
import sys
from dataclasses import replace

from experiments.commands.options import check_device, runtime_of
from experiments.commands.show import recipe_lines
from experiments.registry.build import PROFILES, build_profile
from experiments.registry.config import Evaluation, FolderData, PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.registry.sizes import Photographs
from experiments.reports.catalogue import REPORTS, write_report
from experiments.reports.index import write_index
from experiments.reports.kept import pack_runs, unpack_runs
from experiments.reports.plan import make_rules
from experiments.runs.cost import cost_stage
from experiments.runs.measured import measure_stage
from experiments.runs.stages import data_stage, train_stage
from experiments.runs.store import Store, is_measured
from experiments.runs.testing import curve_stage, predict_stage
from freeanchor.errors import CheckpointError, DataError, TimmError, UsageError
from freeanchor.training.processes import process_group


def _did_you_mean(name: str, known: list[str]) -> str:
    """The nearest known names, or all of them where none is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def _profile(arguments: argparse.Namespace) -> Profile:
    """The profile that the command line asks for."""
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
    except (CheckpointError, DataError, TimmError):
        raise
    except ValueError as error:  # of a batch size that makes no recipe
        if arguments.batch_size is None:
            raise
        raise UsageError(f"--batch-size {arguments.batch_size}: {error}") from None
    if arguments.chosen == "zoo" and not profile.zoo:  # or the figures would wait for trainings
        raise UsageError(f"--chosen zoo: profile {profile.name} has no published checkpoints; give PROFILE=coco")
    return profile


def _photographs(arguments: argparse.Namespace) -> Photographs | None:
    """What the command line says about the user's photographs, where it names their folder."""
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
    return _run_of(_profile(arguments), name)


def _run_of(profile: Profile, name: str) -> Evaluation:
    """A profile's run of that name."""
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
    profile = _profile(arguments)
    evaluation = _run_of(profile, arguments.name)
    store = store_of(arguments)
    if not (evaluation.training.directory(store.runs) / "train.json").exists():
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
    profile, store = _profile(arguments), store_of(arguments)
    if arguments.backbone not in profile.comparisons:
        known = ", ".join(profile.comparisons)
        raise UsageError(f"no backbone {arguments.backbone!r} in profile {profile.name}; choose one of {known}")
    pair = profile.comparisons[arguments.backbone][0]
    for run in pair:
        if isinstance(profile.evaluations[run].training, PublishedCheckpoint):
            raise UsageError(f"{run} is a published checkpoint: there is no training of it to time")
        if not (profile.evaluations[run].training.directory(store.runs) / "train.json").exists():
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
    """`freeanchor report NAME`."""
    known = [*REPORTS, "index", "all"]
    if arguments.name not in known:
        raise UsageError(f"no report {arguments.name!r}; {_did_you_mean(arguments.name, known)}")
    profile, store = _profile(arguments), store_of(arguments)
    make_data(profile, store)
    names = [*REPORTS, "index"] if arguments.name == "all" else [arguments.name]
    for name in names:
        if name == "index":
            print(write_index(profile, store, arguments.reports))
        else:
            print(write_report(name, profile, store, arguments.reports))


def list_runs(arguments: argparse.Namespace) -> None:
    """`freeanchor list`."""
    profile, store = _profile(arguments), store_of(arguments)
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
    print(make_rules(_profile(arguments), store_of(arguments), reports=arguments.reports, chosen=arguments.chosen))


def pack(arguments: argparse.Namespace) -> None:
    """`freeanchor pack`."""
    for line in pack_runs(_profile(arguments), store_of(arguments), arguments.reports):
        print(line)


def unpack(arguments: argparse.Namespace) -> None:
    """`freeanchor unpack`."""
    for line in unpack_runs(_profile(arguments), store_of(arguments), arguments.reports):
        print(line)
