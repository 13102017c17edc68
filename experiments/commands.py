"""The commands that work on the registry: train, predict, report, list, show, plan, data.

Each takes the parsed command line; what they do is in `stages.py` and `report.py`.
"""

import argparse
import difflib
import json
from pathlib import Path

from experiments.config import Evaluation
from experiments.frames import is_measured
from experiments.index import write_index
from experiments.plan import make_rules
from experiments.registry import PROFILES, Profile, build_profile
from experiments.report import REPORTS, write_report
from experiments.stages import data_stage, measure_stage, predict_stage, train_stage
from experiments.store import Store
from freeanchor.data import read_split
from freeanchor.runtime import Runtime
from freeanchor.shapes import ShapesConfig, write_shapes


class UsageError(ValueError):
    """A name or a combination of options that means nothing; one line with the remedy."""


def _did_you_mean(name: str, known: list[str]) -> str:
    """The nearest known names, or all of them where none is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(known)}"


def runtime_of(arguments: argparse.Namespace) -> Runtime:
    """Device, threads and precision of the command line, put into force."""
    import torch

    device = arguments.device
    try:
        torch.device(device)
    except RuntimeError:
        raise UsageError(f"--device {device}: torch knows no such device; give cpu, cuda or cuda:1") from None
    for option in ("threads", "workers"):
        if getattr(arguments, option, 0) < 0:
            raise UsageError(f"--{option} must not be negative, got {getattr(arguments, option)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no CUDA device here; use --device cpu")
    runtime = Runtime(
        device=device, threads=arguments.threads, precision=arguments.precision, num_workers=arguments.workers
    )
    runtime.prepare()
    return runtime


def _profile(arguments: argparse.Namespace) -> Profile:
    """The profile that the command line asks for."""
    if arguments.profile not in PROFILES:
        raise UsageError(f"unknown profile {arguments.profile!r}; {_did_you_mean(arguments.profile, list(PROFILES))}")
    if arguments.seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {arguments.seeds}")
    return build_profile(arguments.profile, data=arguments.data, num_seeds=arguments.seeds)


def _store(arguments: argparse.Namespace) -> Store:
    """Where things lie."""
    return Store(runs=arguments.runs, drawn=arguments.drawn, folder=arguments.data)


def _evaluation(arguments: argparse.Namespace, name: str) -> Evaluation:
    """The registered run of that name."""
    evaluations = _profile(arguments).evaluations
    if name not in evaluations:
        raise UsageError(f"no run {name!r} in profile {arguments.profile}; {_did_you_mean(name, list(evaluations))}")
    return evaluations[name]


def train(arguments: argparse.Namespace) -> None:
    """`freeanchor train NAME`."""
    evaluation = _evaluation(arguments, arguments.name)
    store = _store(arguments)
    data_stage(evaluation.training, store)
    train_stage(evaluation.training, store, runtime_of(arguments))


def predict(arguments: argparse.Namespace) -> None:
    """`freeanchor predict NAME`: test, then measure."""
    evaluation = _evaluation(arguments, arguments.name)
    store = _store(arguments)
    if not (evaluation.training.directory(store.runs) / "train.json").exists():
        raise UsageError(f"{arguments.name} is not trained yet; run: freeanchor train {arguments.name}")
    predict_stage(evaluation, store, runtime_of(arguments))
    measure_stage(evaluation, store)


def show(arguments: argparse.Namespace) -> None:
    """`freeanchor show NAME`."""
    evaluation = _evaluation(arguments, arguments.name)
    print(evaluation.training.describe())


def report(arguments: argparse.Namespace) -> None:
    """`freeanchor report NAME`."""
    known = [*REPORTS, "index", "all"]
    if arguments.name not in known:
        raise UsageError(f"no report {arguments.name!r}; {_did_you_mean(arguments.name, known)}")
    profile, store = _profile(arguments), _store(arguments)
    names = [*REPORTS, "index"] if arguments.name == "all" else [arguments.name]
    for name in names:
        if name == "index":
            print(write_index(profile, store, arguments.reports))
        else:
            print(write_report(name, profile, store, arguments.reports))


def list_runs(arguments: argparse.Namespace) -> None:
    """`freeanchor list`."""
    profile, store = _profile(arguments), _store(arguments)
    rows = [
        {
            "name": name,
            "done": is_measured(evaluation, store),
            "backbone": evaluation.training.backbone.label,
            "steps": evaluation.training.recipe.num_steps,
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
        print(f"{row['name']:{width}}  {state:8} {row['backbone']:20} {row['steps']:>7} steps  {row['directory']}")


def plan(arguments: argparse.Namespace) -> None:
    """`freeanchor plan`."""
    print(make_rules(_profile(arguments), _store(arguments), reports=arguments.reports, chosen=arguments.chosen))


def data(arguments: argparse.Namespace) -> None:
    """`freeanchor data shapes DIR | draw RUN | check DIR`."""
    if arguments.action == "shapes":
        write_shapes(ShapesConfig(), Path(arguments.target))
    elif arguments.action == "draw":
        print(data_stage(_evaluation(arguments, arguments.target).training, _store(arguments)))
    else:
        _check(Path(arguments.target))


def _check(directory: Path) -> None:
    """Read both splits with every picture, and say what is there."""
    from freeanchor.data import InputConfig, load_sample

    for name in ("train", "val"):
        split = read_split(directory, name)
        for picture in split.pictures:
            load_sample(picture, InputConfig())
        num_objects = sum(len(picture.boxes) for picture in split.pictures)
        print(
            f"{name}: {len(split.pictures)} pictures, {num_objects} objects, {len(split.category_ids)} categories: fine"
        )
