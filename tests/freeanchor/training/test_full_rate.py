"""What keeps a GPU busy while training: few looks at its values, pinned batches, a compiled network. No GPU is needed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FLOAT32, tiny_detector, tiny_recipe, tiny_split
from torch import Tensor, nn

from freeanchor.data.coco import Batch, Split, collate, load_sample
from freeanchor.losses import focal
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.runtime import Runtime
from freeanchor.training import step as step_module
from freeanchor.training.loop import train
from freeanchor.training.processes import ALONE
from freeanchor.training.recipe import TrainingError
from freeanchor.training.state import share_network, start
from freeanchor.training.step import training_step


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six small images to train on."""
    return tiny_split(tmp_path_factory.mktemp("data"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps look at the device's values as they do on a GPU."""
    monkeypatch.setattr(step_module, "is_asynchronous", lambda device: True)


def _batch(split: Split, count: int = 3) -> Batch:
    return collate([load_sample(image, tiny_detector().inputs) for image in split.images[:count]])


def _weights(directory: Path, split: Split, runtime: Runtime = FLOAT32) -> dict[str, Tensor]:
    return train(directory, split, tiny_detector(), tiny_recipe(FreeAnchorLoss()), runtime).model.state_dict()


def test_one_look_a_step_trains_the_same_weights(tmp_path: Path, split: Split, request: pytest.FixtureRequest) -> None:
    """To the bit: what is looked at, and when, changes no number."""
    expected = _weights(tmp_path / "a", split)
    request.getfixturevalue("patient")
    weights = _weights(tmp_path / "b", split)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_one_look_a_step_still_finds_a_loss_that_is_not_finite(tmp_path: Path, split: Split, patient: None) -> None:
    """The loss is blamed, not the gradient that follows from it, and no weight has changed."""
    recipe = tiny_recipe(FreeAnchorLoss(), lr=1e30, max_grad_norm=None)
    with pytest.raises(TrainingError, match="loss is not finite at step 1"):
        train(tmp_path, split, tiny_detector(), recipe, FLOAT32)


def test_a_step_looks_three_times_at_most(monkeypatch: pytest.MonkeyPatch, split: Split, patient: None) -> None:
    """Twice in the loss, once for the gradient and all groups' losses."""
    looks: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "unique"):
        usual = getattr(Tensor, name)

        def look(tensor: Tensor, *arguments: Any, _name: str = name, _usual: Any = usual, **options: Any) -> Any:
            looks.append(_name)
            return _usual(tensor, *arguments, **options)

        monkeypatch.setattr(Tensor, name, look)
    monkeypatch.setattr(focal, "is_asynchronous", lambda device: True)
    recipe, batch = tiny_recipe(FreeAnchorLoss()), _batch(split)
    state = start(tiny_detector().model, recipe, FLOAT32)
    training_step(state, [batch], recipe, FLOAT32)
    looks.clear()
    training_step(state, [batch], recipe, FLOAT32)
    assert 1 <= len(looks) <= 3, looks


def test_batches_can_be_pinned(monkeypatch: pytest.MonkeyPatch, split: Split) -> None:
    """DataLoader pins what goes to the GPU: images, boxes and labels; all else stays."""
    pinned: list[Tensor] = []

    def pin(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pin)
    batch = _batch(split)
    copy = batch.pin_memory()
    assert len(pinned) == 1 + 2 * len(batch.samples)
    assert torch.equal(copy.images, batch.images)
    assert all(torch.equal(one, other) for one, other in zip(copy.gt_boxes, batch.gt_boxes, strict=True))
    assert copy.samples is batch.samples and copy.sizes == batch.sizes


def test_compilation_is_asked_for_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backbone, pyramid and both heads, each in place; the grid of anchors is kept from batch to batch outside."""
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda part: compiled.append(part))
    state = start(tiny_detector().model, tiny_recipe(FreeAnchorLoss()), FLOAT32)
    share_network(state, ALONE)
    assert compiled == []
    share_network(state, ALONE, compiled=True)
    model = state.model
    assert compiled == [model.backbone, model.pyramid, model.cls_head, model.box_head]


@pytest.mark.slow
def test_a_compiled_network_trains_and_resumes_under_the_same_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, split: Split
) -> None:
    """Its parts run through torch.compile (here without code generation); the weights are those of the plain one."""
    compiled: list[str] = []
    usual = nn.Module.compile

    def eagerly(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        usual(module, backend="eager")

    expected = _weights(tmp_path / "a", split)
    monkeypatch.setattr(nn.Module, "compile", eagerly)
    runtime = Runtime(precision="float32", compiled=True)
    weights = _weights(tmp_path / "b", split, runtime)
    assert len(compiled) == 4
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-5)
