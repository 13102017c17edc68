"""The time of a step of both detectors, taken in turn."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from miniature import Mini

from experiments.claims.evidence import Evidence, measured_cost
from experiments.cli import main
from experiments.runs import cost as training_cost
from experiments.runs.cost import cost_file, cost_ratio, cost_stage
from freeanchor.data.augmentation import TrainingStream
from freeanchor.runtime import Runtime


def test_the_ratio_is_of_medians_after_the_warm_up() -> None:
    """Twice the time gives 2; slow first rounds and one slow step do not count."""
    generator = np.random.default_rng(0)
    theirs = generator.uniform(0.9, 1.1, 30)
    ours = 2 * generator.uniform(0.9, 1.1, 30)
    theirs[:3], ours[10] = 50.0, 40.0
    frame = pd.DataFrame(
        {
            "detector": ["RetinaNet"] * 30 + ["FreeAnchor"] * 30,
            "round": [*range(30), *range(30)],
            "seconds": [*theirs, *ours],
        }
    )
    value, low, high = cost_ratio(frame)
    assert value == pytest.approx(2.0, rel=0.1)
    assert 1.8 < low < value < high < 2.2


def test_both_detectors_are_timed_on_the_same_batches(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row a step, as many of each; kept under both fingerprints; the claims find the ratio, and None elsewhere."""
    monkeypatch.setattr(training_cost, "NUM_ROUNDS", 6)
    path = cost_stage(mini.profile, mini.profile.pair, mini.store, Runtime(precision="float32"))
    assert path == cost_file(mini.profile, mini.profile.pair, mini.store)
    frame = pd.read_csv(path)
    assert frame.groupby("detector").size().to_dict() == {"RetinaNet": 6, "FreeAnchor": 6}
    assert bool((frame["seconds"] > 0).all())
    before = path.read_bytes()
    cost_stage(mini.profile, mini.profile.pair, mini.store, Runtime(precision="float32"))
    assert path.read_bytes() == before  # timed once
    small, large = measured_cost(Evidence(mini.profile, mini.store)).values()
    assert small is not None and 0.2 < small.value < 5
    assert large is None


def test_the_batches_are_those_of_training(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream has the recipe's seed and its groups of one aspect: others are padded to other sizes."""
    asked = []
    trainings = [mini.profile.evaluations[run].training for run in mini.profile.pair]
    trainings = [replace(it, recipe=replace(it.recipe, seed=3, aspect_groups=True)) for it in trainings]
    monkeypatch.setattr(training_cost, "_racer", lambda training, store, runtime: SimpleNamespace(detector="either"))
    monkeypatch.setattr(
        training_cost, "TrainingStream", lambda *given: asked.append(given[3:]) or TrainingStream(*given)
    )
    monkeypatch.setattr(training_cost, "_timed_step", lambda racer, groups, runtime: 1.0)
    training_cost._race(trainings, mini.store, Runtime())
    assert asked == [(3, trainings[0].recipe.batch_size)]


@pytest.mark.parametrize(("backbone", "word"), [("huge", "choose one of small, large"), ("large", "not trained yet")])
def test_what_cannot_be_timed_is_one_line(
    mini: Mini, tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: str, word: str
) -> None:
    """An unknown backbone and an untrained pair: exit status 2, one line."""
    where = ["--profile", "mini", "--runs", str(tmp_path), "--drawn", str(mini.store.drawn)]
    assert main(["cost", backbone, *where]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1


def test_published_checkpoints_cannot_be_timed(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody has their optimizer: exit status 2 and one line, fetched or not."""
    assert main(["cost", "published", "--profile", "coco", "--chosen", "zoo"]) == 2
    error = capsys.readouterr().err
    assert "mmdetection-retinanet-r50 is a published checkpoint" in error
    assert error.count("\n") == 1
