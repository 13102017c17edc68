"""One miniature of the demonstration, trained and tested once a session, for the tests that need real results."""

from pathlib import Path

import pytest
from miniature import Mini

from experiments.registry.build import build_profile
from experiments.runs.measured import measure_stage
from experiments.runs.store import Store
from experiments.runs.testing import curve_stage, predict_stage
from experiments.runs.training import data_stage, train_stage
from freeanchor.runtime import Runtime


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Mini:
    """RetinaNet and FreeAnchor on 32 drawn images, 40 steps each."""
    root = tmp_path_factory.mktemp("mini")
    profile, store = build_profile("mini"), Store(runs=root / "runs", drawn=root / "data")
    for name in profile.pair:
        evaluation = profile.evaluations[name]
        data_stage(evaluation.training, store)
        train_stage(evaluation.training, store, Runtime(precision="float32"))
        predict_stage(evaluation, store, Runtime(precision="float32"))
        curve_stage(evaluation, store, Runtime(precision="float32"))
        measure_stage(evaluation, store)
    return Mini(profile=profile, store=store)


@pytest.fixture
def empty_store(tmp_path: Path) -> Store:
    """A store in which nothing was run."""
    return Store(runs=tmp_path / "runs", drawn=tmp_path / "data")
