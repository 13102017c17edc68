"""Trainings by assigned losses: they learn, resume bit for bit, and a step of theirs that diverged is replayed."""

from pathlib import Path

import pytest
import torch
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split

from freeanchor.checkpoints.native import load_tensors
from freeanchor.data.coco import Split
from freeanchor.inference.bags import learners, object_bags
from freeanchor.losses import ATSS, TAL, AssignedLoss, FreeAnchorLoss, IoUThresholds, SimOTA, TaskAlignedLoss
from freeanchor.runtime import Interrupted
from freeanchor.training import loop as training
from freeanchor.training.divergence import replay
from freeanchor.training.loop import train
from freeanchor.training.recipe import TrainingError

LOSSES = {
    "atss": AssignedLoss(assigner=ATSS()),
    "simota": AssignedLoss(assigner=SimOTA()),
    "tal": AssignedLoss(assigner=TAL()),
    "tal-own": TaskAlignedLoss(),
}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six small images to train on."""
    return tiny_split(tmp_path_factory.mktemp("data"))


def _stop_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the step of that number fail the first time."""
    step, stopped = training.training_step, []

    def stepping(state: training.TrainingState, *arguments: object) -> object:
        if state.step == number and not stopped:
            stopped.append(number)
            raise Interrupted("stopped")
        return step(state, *arguments)

    monkeypatch.setattr(training, "training_step", stepping)


@pytest.mark.parametrize("name", LOSSES)
def test_interrupted_and_resumed_it_is_the_same_training(
    tmp_path: Path, split: Split, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at step 5 of 6 and gone on from the state of step 4: the weights are those of a training at once."""
    recipe, detector = tiny_recipe(LOSSES[name], num_steps=6, snapshots=(1.0,)), tiny_detector()
    train(tmp_path / "whole", split, detector, recipe, FLOAT32)
    _stop_once(monkeypatch, 5)
    with pytest.raises(Interrupted):
        train(tmp_path / "halves", split, detector, recipe, FLOAT32)
    assert (tmp_path / "halves" / "state.safetensors").exists()
    train(tmp_path / "halves", split, detector, recipe, FLOAT32)
    one, other = (
        load_tensors(tmp_path / part / "snapshots" / "step-000006.safetensors")[0] for part in ("whole", "halves")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_diverged_step_of_an_assigner_can_be_replayed(tmp_path: Path, split: Split) -> None:
    """The file keeps the loss with its assigner; predictions that are not finite do not stop an assigner."""
    for number, loss in enumerate((LOSSES["simota"], LOSSES["tal-own"])):
        with pytest.raises(TrainingError, match="freeanchor replay"):
            train(
                tmp_path / str(number), split, tiny_detector(), tiny_recipe(loss, lr=1e30, max_grad_norm=None), FLOAT32
            )
        (path,) = (tmp_path / str(number)).glob("divergence-*.safetensors")
        lines = list(replay(path))
        assert "is the first layer with values that are not finite" in lines[2]
        assert all(" objects, classification " in line for line in lines[3:])


def test_learning_anchors_are_on_one_scale(split: Split) -> None:
    """Shares of an object add up to 1: equal ones of assigned anchors, FreeAnchor's weights of its bag."""
    torch.manual_seed(0)
    state = training.start(tiny_detector().model, tiny_recipe(LOSSES["tal"]), FLOAT32)
    losses = {**LOSSES, "iou": AssignedLoss(assigner=IoUThresholds()), "freeanchor": FreeAnchorLoss(bag_size=12)}
    for name, loss in losses.items():
        some = 0
        for found in learners(state.model, tiny_detector(), split.images, loss):
            totals = torch.bincount(found.shares.objects, weights=found.shares.share, minlength=len(found.image.boxes))
            assert ((totals - 1).abs() < 1e-5).logical_or(totals == 0).all()
            some += len(totals)
            assert found.centres.shape == (len(found.iou), 2) and (found.iou >= 0).all()
        assert some, name
    bags = list(object_bags(state.model, tiny_detector(), split.images, losses["freeanchor"]))
    soft = list(learners(state.model, tiny_detector(), split.images, losses["freeanchor"]))
    for bag, own in zip(bags, soft, strict=True):
        for theirs, ours in ((bag.weight, own.shares.share), (bag.iou, own.iou), (bag.box_iou, own.box_iou)):
            torch.testing.assert_close(theirs.flatten(), ours, rtol=1e-5, atol=1e-6)
