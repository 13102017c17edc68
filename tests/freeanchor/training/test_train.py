"""The training loop: its schedule, its optimiser, what it logs, and when it refuses to go on."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import FLOAT32, tiny_detector, tiny_model, tiny_recipe, tiny_split

from freeanchor.checkpoints.native import load_model
from freeanchor.data.coco import Batch, Split, collate, load_sample
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.errors import DataError
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Runtime
from freeanchor.training import loop as training
from freeanchor.training.loop import train
from freeanchor.training.recipe import TrainConfig, TrainingError, build_optimizer
from freeanchor.training.state import TrainingState
from freeanchor.training.state import start as start_state
from freeanchor.training.step import training_step

LOSSES = [RetinaNetLoss(), FreeAnchorLoss()]
by_loss = pytest.mark.parametrize("loss", LOSSES, ids=["RetinaNet", "FreeAnchor"])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six small images to train on."""
    return tiny_split(tmp_path_factory.mktemp("data"))


def _batch(split: Split) -> Batch:
    return collate([load_sample(image, tiny_detector().inputs) for image in split.images[:3]])


def _lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("num_steps", "step", "lr"),
    [
        (90_000, 0, 0.01 / 3),
        (90_000, 250, 0.01 * (1 / 3 + 1 / 3)),
        (90_000, 500, 0.01),
        (90_000, 59_999, 0.01),
        (90_000, 60_000, 0.001),
        (90_000, 79_999, 0.001),
        (90_000, 80_000, 0.0001),
        (90_000, 89_999, 0.0001),
        (180_000, 119_999, 0.01),
        (180_000, 120_000, 0.001),
        (180_000, 160_000, 0.0001),
    ],
)
def test_the_default_schedule_is_the_papers(num_steps: int, step: int, lr: float) -> None:
    """Warm-up over 500 steps from a third, a tenth after 60k and 80k of 90k, after 120k and 160k of 180k."""
    assert TrainConfig(loss=FreeAnchorLoss(), num_steps=num_steps).lr_at(step) == pytest.approx(lr, rel=1e-12)


def test_the_default_recipe_is_the_authors() -> None:
    """Batch 16, momentum 0.9, decay 1e-4, biases at twice the rate, nothing clipped (authors' code)."""
    recipe = TrainConfig(loss=RetinaNetLoss())
    assert (recipe.num_steps, recipe.batch_size, recipe.lr) == (90_000, 16, 0.01)
    assert (recipe.momentum, recipe.weight_decay, recipe.bias_lr_factor) == (0.9, 1e-4, 2.0)
    assert recipe.max_grad_norm is None


@given(st.integers(1, 5000), st.integers(0, 600))
def test_rates_stay_within_bounds(num_steps: int, warmup_steps: int) -> None:
    """A schedule of any length is positive and at most `lr`; without warm-up it only falls."""
    recipe = tiny_recipe(RetinaNetLoss(), num_steps=num_steps, warmup_steps=warmup_steps, lr=0.5)
    rates = [recipe.lr_at(step) for step in range(0, num_steps, max(1, num_steps // 200))]
    assert all(0 < rate <= 0.5 for rate in rates)
    if warmup_steps == 0:
        assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    "changes", [{"num_steps": 0}, {"batch_size": 0}, {"lr": 0.0}, {"lr": -1.0}, {"lr": float("nan")}]
)
def test_recipes_that_train_nothing_are_refused(changes: dict) -> None:
    """At least one step of one image, at a positive rate."""
    with pytest.raises(ValueError, match="must be"):
        tiny_recipe(RetinaNetLoss(), **changes)


@by_loss
def test_a_step_is_sgd_with_biases_apart(split: Split, loss: RetinaNetLoss | FreeAnchorLoss) -> None:
    """Each weight moves by lr (gradient + decay), each bias by twice lr times its gradient alone."""
    recipe = tiny_recipe(loss, lr=0.3, weight_decay=0.1, max_grad_norm=None)
    model = tiny_model().train()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    state = TrainingState(model, build_optimizer(model, recipe))
    training_step(state, [_batch(split)], recipe, FLOAT32)
    assert state.step == 1
    biases = 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        is_bias = name.rpartition(".")[2] == "bias"
        biases += is_bias
        rate, decay = (2 * 0.1, 0.0) if is_bias else (0.1, 0.1)  # a third of 0.3 at step 0
        expected = before[name] - rate * (parameter.grad + decay * before[name])
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)
    assert biases > 5


def test_gradients_are_clipped_to_the_norm_asked_for(split: Split) -> None:
    """With `max_grad_norm`, the whole gradient's length is at most that."""
    recipe = tiny_recipe(RetinaNetLoss(), max_grad_norm=0.01)
    model = tiny_model().train()
    training_step(TrainingState(model, build_optimizer(model, recipe)), [_batch(split)], recipe, FLOAT32)
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    assert norm.item() == pytest.approx(0.01, rel=1e-3)


@by_loss
def test_the_loss_goes_down(tmp_path: Path, split: Split, loss: RetinaNetLoss | FreeAnchorLoss) -> None:
    """On six images seen ten times, both losses fall by a tenth at least."""
    recipe = tiny_recipe(loss, num_steps=40, lr=0.02)
    train(tmp_path, split, tiny_detector(), recipe, Runtime(precision="float32", log_every=1))
    totals = [sum(value for name, value in line.items() if name.startswith("loss_")) for line in _lines(tmp_path)]
    assert sum(totals[-5:]) < 0.9 * sum(totals[:5])


@by_loss
def test_metrics_say_what_happened(tmp_path: Path, split: Split, loss: RetinaNetLoss | FreeAnchorLoss) -> None:
    """A line every `log_every` steps and at the end: the terms, the rate of that step, the speed, the bags."""
    recipe = tiny_recipe(loss, num_steps=7)
    result = train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    lines = _lines(tmp_path)
    terms = {"positive", "negative"} if isinstance(loss, FreeAnchorLoss) else {"classification", "box"}
    assert [line["step"] for line in lines] == [2, 4, 6, 7]
    for line in lines:
        assert set(line) == {
            "step",
            "lr",
            "effective_anchors",
            "images_per_second",
            *(f"loss_{term}" for term in terms),
        }
        assert line["lr"] == recipe.lr_at(line["step"] - 1)
        assert 1 <= line["effective_anchors"] <= 50
        assert line["images_per_second"] > 0
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(7 * 3 / result.seconds)
    assert not result.model.training


def test_bags_that_have_not_decided_use_all_their_anchors(split: Split) -> None:
    """With equal confidences, the effective number of anchors is the bag's size; it is nan without objects."""
    model = tiny_model()
    with torch.no_grad():
        for parameter in (model.box_head.output.weight, model.cls_head.output.weight):
            parameter.zero_()
        model.cls_head.output.bias.fill_(-20.0)  # confidences near 0: all weights alike
        output = model(_batch(split).images)
    batch = _batch(split)
    assert training.bag_concentration(output, batch) == pytest.approx(50, rel=1e-3)
    empty = Batch(
        images=batch.images,
        sizes=batch.sizes,
        gt_boxes=(torch.zeros(0, 4),) * 3,
        gt_labels=(torch.zeros(0, dtype=torch.int64),) * 3,
        samples=batch.samples,
    )
    assert training.bag_concentration(output, empty) != training.bag_concentration(output, empty)  # nan


@by_loss
def test_a_diverged_run_stops_with_one_line(tmp_path: Path, split: Split, loss: RetinaNetLoss | FreeAnchorLoss) -> None:
    """A loss that is not finite names the step, the terms and the images, and nothing is saved as trained."""
    recipe = tiny_recipe(loss, lr=1e30, max_grad_norm=None)
    with pytest.raises(TrainingError) as error:
        train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    message = str(error.value)
    assert "\n" not in message
    assert "step 1 " in message
    assert ".png" in message
    assert "lower lr (now 1e+30)" in message
    assert not (tmp_path / "state.safetensors").exists()


def test_detectors_start_from_the_same_weights() -> None:
    """With one seed, only the classification bias tells the two detectors apart; with two seeds, all weights differ."""
    states = []
    for loss, prior_prob, seed in ((LOSSES[0], 0.01, 3), (LOSSES[1], 0.02, 3), (LOSSES[1], 0.02, 4)):
        state = start_state(tiny_detector(prior_prob=prior_prob).model, tiny_recipe(loss, seed=seed), FLOAT32)
        states.append(state.model.state_dict())
    one, two, other = states
    assert [name for name in one if not torch.equal(one[name], two[name])] == ["cls_head.output.bias"]
    assert not torch.equal(two["cls_head.output.weight"], other["cls_head.output.weight"])


@pytest.mark.parametrize("frozen_norm", [True, False], ids=["frozen-norm", "batch-norm"])
def test_frozen_stages_stay_as_they_are(tmp_path: Path, split: Split, frozen_norm: bool) -> None:
    """Training moves neither weights nor statistics of the stem and the stages that are frozen, and all the rest."""
    backbone = TorchvisionResNet(name="resnet18", frozen_stages=2, frozen_norm=frozen_norm)
    detector, recipe = tiny_detector(backbone=backbone), tiny_recipe(FreeAnchorLoss(), num_steps=2, weight_decay=0.1)
    start = start_state(detector.model, recipe, FLOAT32).model.state_dict()
    start = {name: tensor.clone() for name, tensor in start.items()}
    end = train(tmp_path, split, detector, recipe, FLOAT32).model.state_dict()
    frozen = ("backbone.stem.", "backbone.stages.0.")
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert sorted(name for name in moved if name.startswith(frozen)) == []
    weights = {name for name in start if name.endswith("weight") and start[name].dim() == 4}
    assert {name for name in weights if not name.startswith(frozen)} <= moved


def test_snapshots_are_kept_at_fractions_of_training(tmp_path: Path, split: Split) -> None:
    """Each is a model file; the last is the result."""
    recipe = tiny_recipe(FreeAnchorLoss(), snapshots=(0.25, 0.5, 1.0))
    result = train(tmp_path, split, tiny_detector(), recipe, FLOAT32)
    files = sorted((tmp_path / "snapshots").iterdir())
    assert [path.name for path in files] == [f"step-{step:06d}.safetensors" for step in (2, 4, 8)]
    states = [load_model(path)[0].state_dict() for path in files]
    assert all(torch.equal(states[-1][name], tensor) for name, tensor in result.model.state_dict().items())
    assert not torch.equal(states[0]["cls_head.output.weight"], states[-1]["cls_head.output.weight"])


def test_processes_that_load_images_change_nothing(tmp_path: Path, split: Split) -> None:
    """The same weights, whether images are read by the trainer itself or by another process."""
    recipe = tiny_recipe(RetinaNetLoss(), num_steps=3)
    runtimes = [Runtime(precision="float32", num_workers=number) for number in (0, 1)]
    one, other = (
        train(tmp_path / str(runtime.num_workers), split, tiny_detector(), recipe, runtime).model.state_dict()
        for runtime in runtimes
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_image_stops_training_with_one_line(tmp_path: Path, num_workers: int) -> None:
    """Whichever process was to read it, the image is named in a single line."""
    split = tiny_split(tmp_path / "data")
    for image in split.images:
        image.path.unlink()
    with pytest.raises(DataError) as error:
        train(tmp_path / "run", split, tiny_detector(), tiny_recipe(RetinaNetLoss()), Runtime(num_workers=num_workers))
    assert "no such image" in str(error.value)
    assert "\n" not in str(error.value)
