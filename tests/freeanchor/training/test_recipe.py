"""A recipe's arithmetic: what it costs, how it scales, what it prints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, tiny_recipe

from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.training.recipe import TrainConfig, build_optimizer


@pytest.mark.parametrize(
    ("batch_size", "lr", "num_steps", "warmup_steps", "drops"),
    [
        (16, 0.01, 90_000, 500, (60_000, 80_000)),
        (8, 0.005, 180_000, 1000, (120_000, 160_000)),
        (2, 0.00125, 720_000, 4000, (480_000, 640_000)),
        (64, 0.04, 22_500, 125, (15_000, 20_000)),
    ],
)
def test_the_linear_rule(batch_size: int, lr: float, num_steps: int, warmup_steps: int, drops: tuple) -> None:
    """Rate in proportion to the batch, steps, warm-up and drops inversely: an eighth of the batch, an eighth of the rate."""
    recipe = TrainConfig(loss=FreeAnchorLoss()).at_batch_size(batch_size)
    assert recipe.lr == pytest.approx(lr)
    assert (recipe.batch_size, recipe.num_steps, recipe.warmup_steps) == (batch_size, num_steps, warmup_steps)
    assert recipe.drop_steps == drops
    assert recipe.num_samples == 1_440_000


@given(st.integers(1, 64), st.integers(1, 64))
def test_the_linear_rule_can_be_taken_back(one: int, other: int) -> None:
    """By way of another batch size or not, the rate is the same."""
    recipe = TrainConfig(loss=RetinaNetLoss())
    assert recipe.at_batch_size(one).at_batch_size(other).lr == pytest.approx(recipe.at_batch_size(other).lr)


def test_batch_sizes_that_are_none_are_refused() -> None:
    """At least an image; groups must fill the batch."""
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TrainConfig(loss=RetinaNetLoss()).at_batch_size(0)
    with pytest.raises(ValueError, match="groups of 2 images do not fill a batch of 3"):
        tiny_recipe(RetinaNetLoss(), batch_size=3, group_size=2)


def test_images_of_one_aspect_come_in_groups_or_batches() -> None:
    """As many as are padded together; 1, so that any may meet, unless it is asked for."""
    loss = RetinaNetLoss()
    assert TrainConfig(loss=loss).aspect_group == 1
    assert TrainConfig(loss=loss, aspect_groups=True).aspect_group == 16
    assert TrainConfig(loss=loss, aspect_groups=True, group_size=2).aspect_group == 2


def test_the_summary_says_what_will_happen() -> None:
    """Batch, rate, warm-up, drops, images and normalisation in one line."""
    line = TrainConfig(loss=FreeAnchorLoss(), group_size=2).summary(num_processes=4)
    assert "\n" not in line
    for part in (
        "batch of 16 images = 4 process(es) x 2 group(s) of 2",
        "learning rate 0.01 after 500 steps of warm-up from 0.00333",
        "a tenth from step 60,000 and 80,000",
        "90,000 steps = 1,440,000 images",
        "normalised over each group of 2",
    ):
        assert part in line
    assert "4 process(es) x 1 group(s) of 4" in TrainConfig(loss=FreeAnchorLoss()).summary(4)
    assert "normalised over the whole batch" in TrainConfig(loss=FreeAnchorLoss()).summary(4)


@pytest.mark.parametrize("bias_decays", [False, True])
def test_biases_decay_only_where_asked(bias_decays: bool) -> None:
    """The authors let none decay, mmdetection all."""
    recipe = tiny_recipe(RetinaNetLoss(), bias_decays=bias_decays, weight_decay=0.3)
    weights, biases = build_optimizer(tiny_model(), recipe).param_groups
    assert (weights["weight_decay"], biases["weight_decay"]) == (0.3, 0.3 if bias_decays else 0.0)
