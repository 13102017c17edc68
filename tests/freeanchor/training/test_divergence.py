"""A step that is not finite: it is named, kept, and can be looked at again."""

from pathlib import Path

import pytest
import torch
from tiny import FLOAT32, tiny_detector, tiny_model, tiny_recipe, tiny_split

from freeanchor.checkpoints.native import save_model
from freeanchor.data.coco import Split, collate, load_sample
from freeanchor.errors import CheckpointError
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Runtime
from freeanchor.training.divergence import DivergedError, Divergence, replay, save_divergence
from freeanchor.training.loop import train
from freeanchor.training.recipe import TrainingError
from freeanchor.training.state import start
from freeanchor.training.step import training_step


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six small images to train on."""
    return tiny_split(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("loss", [RetinaNetLoss(), FreeAnchorLoss()], ids=["RetinaNet", "FreeAnchor"])
def test_a_diverged_step_can_be_replayed(tmp_path: Path, split: Split, loss: RetinaNetLoss | FreeAnchorLoss) -> None:
    """The message names the file; replaying it tells the same story, and each image's own terms."""
    recipe = tiny_recipe(loss, lr=1e30, max_grad_norm=None)
    with pytest.raises(TrainingError, match="freeanchor replay") as error:
        train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    path = next(tmp_path.glob("divergence-*.safetensors"))
    assert str(path) in str(error.value)
    lines = list(replay(path))
    assert "step 1 in float32" in lines[0]
    assert "hold values that are not finite" in lines[1]
    assert "is the first layer with values that are not finite" in lines[2]
    assert len(lines) == 3 + recipe.batch_size
    assert all(".png: " in line and " objects, " in line for line in lines[3:])


def test_a_replay_of_a_sound_step_finds_nothing(tmp_path: Path, split: Split) -> None:
    """What is blamed is what is broken: with the weights of the start every layer is finite."""
    detector, batch = tiny_detector(), collate([load_sample(p, tiny_detector().inputs) for p in split.images[:2]])
    told = Divergence(step=7, what="loss", terms={"box": 1.0}, images=("a", "b"), precision="float32", lr=0.1)
    save_divergence(tmp_path / "d.safetensors", tiny_model(), detector, batch, RetinaNetLoss(), told)
    lines = list(replay(tmp_path / "d.safetensors"))
    assert "every layer gives finite values" in lines[2]
    assert lines[1].startswith("weights: 0 of")
    assert "float16" in list(replay(tmp_path / "d.safetensors", precision="float16"))[2]


def test_other_files_are_not_replayed(tmp_path: Path) -> None:
    """A model file is refused in one line."""
    save_model(tmp_path / "model.safetensors", tiny_model(), tiny_detector())
    with pytest.raises(CheckpointError, match="no step to replay"):
        list(replay(tmp_path / "model.safetensors"))


def test_a_gradient_that_is_not_finite_changes_no_weight(split: Split) -> None:
    """The loss may be finite and its gradient not: that is an error of its own, raised before the step."""
    recipe = tiny_recipe(RetinaNetLoss())
    state = start(tiny_detector().model, recipe, FLOAT32)
    state.model.box_head.output.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items() if "running" not in name}
    batch = collate([load_sample(image, tiny_detector().inputs) for image in split.images[:3]])
    with pytest.raises(DivergedError, match="gradient is not finite at step 0"):
        training_step(state, [batch], recipe, FLOAT32)
    after = state.model.state_dict()
    assert [name for name in before if "num_batches" not in name and not torch.equal(before[name], after[name])] == []
    assert state.step == 0


def test_float16_leaves_out_steps_that_overflow_and_then_gives_up(split: Split) -> None:
    """An overflow halves the scale and changes no weight; with no scale left it is an error."""
    recipe, runtime = tiny_recipe(RetinaNetLoss(), max_grad_norm=None), Runtime(precision="float16")
    state = start(tiny_detector().model, recipe, runtime)
    weight = state.model.box_head.output.weight
    weight.register_hook(lambda gradient: gradient * float("inf"))
    before, scale = weight.detach().clone(), state.scaler.get_scale()
    batch = collate([load_sample(image, tiny_detector().inputs) for image in split.images[:3]])
    training_step(state, [batch], recipe, runtime)
    assert torch.equal(weight, before)
    assert state.scaler.get_scale() == scale / 2
    assert state.step == 1
    state.scaler.update(1.0)
    with pytest.raises(DivergedError, match="gradient is not finite at step 1 in float16"):
        training_step(state, [batch], recipe, runtime)


def test_float16_training_resumes_with_its_scale(tmp_path: Path, split: Split) -> None:
    """The scale is part of the state: a training stopped and resumed has the one it had."""
    recipe, runtime = tiny_recipe(FreeAnchorLoss()), Runtime(precision="float16")
    state = start(tiny_detector().model, recipe, runtime)
    batch = collate([load_sample(image, tiny_detector().inputs) for image in split.images[:3]])
    training_step(state, [batch], recipe, runtime)
    state.scaler.update(512.0)
    state.save(tmp_path / "state.safetensors", recipe)
    other = start(tiny_detector().model, recipe, runtime)
    other.resume(tmp_path / "state.safetensors", recipe)
    assert other.scaler.get_scale() == 512.0
    for one in (state, other):
        training_step(one, [batch], recipe, runtime)
    assert all(torch.equal(t, other.model.state_dict()[name]) for name, t in state.model.state_dict().items())


def test_a_gradient_is_all_groups_doing_and_is_replayed(tmp_path: Path, split: Split) -> None:
    """Whichever group broke it, every image of the step is named and kept, and each one's gradient looked at."""
    recipe = tiny_recipe(RetinaNetLoss(), batch_size=4, group_size=2)
    state = start(tiny_detector().model, recipe, FLOAT32)
    factors = iter([float("nan"), 1.0])
    state.model.box_head.output.weight.register_hook(lambda gradient: gradient * next(factors))
    samples = [load_sample(image, tiny_detector().inputs) for image in split.images[:4]]
    with pytest.raises(DivergedError) as error:
        training_step(state, [collate(samples[:2]), collate(samples[2:])], recipe, FLOAT32)
    found = error.value.divergence
    assert found is not None
    assert found.images == tuple(sample.record.path.name for sample in samples)
    path = tmp_path / "d.safetensors"
    with torch.no_grad():
        state.model.box_head.output.weight.fill_(float("inf"))
    save_divergence(path, state.model, tiny_detector(), error.value.batch, recipe.loss, found)
    lines = list(replay(path))
    assert [f"{name}: gradient is not finite at " in "\n".join(lines) for name in found.images] == [True] * 4
