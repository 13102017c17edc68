"""One miniature of the demonstration, trained and tested once for all workers, for the tests that need real results."""

import os
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from miniature import Mini

from experiments.registry.build import build_profile
from experiments.reports.gallery import gallery_stage
from experiments.runs.bags import bag_boxes_stage, bags_stage
from experiments.runs.measured import compare_stage, measure_stage
from experiments.runs.store import Store
from experiments.runs.testing import curve_stage, predict_stage
from experiments.runs.training import data_stage, train_stage
from freeanchor.runtime import Runtime


def _run(mini: Mini) -> None:
    """Everything that reports read of both runs."""
    runs = [mini.profile.evaluations[name] for name in mini.profile.pair]
    for run in runs:
        data_stage(run.training, mini.store)
        train_stage(run.training, mini.store, Runtime(precision="float32"))
        predict_stage(run, mini.store, Runtime(precision="float32"))
        curve_stage(run, mini.store, Runtime(precision="float32"))
        measure_stage(run, mini.store)
        bags_stage(run, mini.store)
        bag_boxes_stage(run, mini.store)
    compare_stage(*runs, mini.store)
    gallery_stage(mini.profile, mini.store)


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """RetinaNet and FreeAnchor on 32 synthetic images, 40 steps each; each worker has a copy of its own."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # that of the worker, or of the session
    profile, source = build_profile("mini"), shared / "miniature"
    with FileLock(shared / "miniature.lock"):
        if not source.exists():
            half = base / "miniature-half"
            _run(Mini(profile=profile, store=Store(runs=half / "runs", drawn=half / "data")))
            half.rename(source)
    root: Path = tmp_path_factory.mktemp("mini")
    shutil.copytree(source, root, dirs_exist_ok=True)
    return Mini(profile=profile, store=Store(runs=root / "runs", drawn=root / "data"))


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    """A store in which nothing was run."""
    return Store(runs=tmp_path / "runs", drawn=tmp_path / "data")
