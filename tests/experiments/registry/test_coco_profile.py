"""The paper's own scale: its recipes as its authors and as mmdetection have them, and what others have published."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from oracles.coco_folder import write_both

from experiments.commands.runs import recipe_lines
from experiments.fetch.backbones import BACKBONE_FILES
from experiments.registry.build import build_profile
from experiments.registry.config import PublishedCheckpoint, Training
from experiments.registry.profile import Profile
from experiments.runs.store import Store
from experiments.runs.training import download_of, is_at_hand
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

AUTHORS, MMDETECTION = build_profile("coco"), build_profile("coco-mmdetection")


def _training(profile: Profile, name: str) -> Training:
    training = profile.evaluations[name].training
    assert isinstance(training, Training)
    return training


def test_the_authors_recipe_is_theirs() -> None:
    """The authors' recipe, choice by choice."""
    training = _training(AUTHORS, "freeanchor-r50-s0")
    model, inputs, recipe = training.model, training.inputs, training.recipe
    assert model.backbone == TorchvisionResNet(name="resnet50", stride_in_1x1=True, norm_eps=0.0, frozen_stages=2)
    assert (model.p6_source, model.relu_before_p7, model.prior_prob) == ("P5", True, 0.02)
    assert (model.anchors.geometry, model.anchors.centre_offset) == ("legacy", 0.5)
    assert (model.pyramid_channels, model.head_depth, model.head_norm, model.tower_init) == (256, 4, "none", "normal")
    assert inputs.bgr and inputs.mean == (102.9801, 115.9465, 122.7717) and inputs.std == (1, 1, 1)
    assert (inputs.short_side, inputs.max_long_side, inputs.box_convention) == (800, 1333, "inclusive")
    assert (recipe.num_steps, recipe.batch_size, recipe.group_size, recipe.aspect_groups) == (90_000, 16, 2, True)
    assert (recipe.lr, recipe.warmup_steps, recipe.warmup_factor) == (0.01, 500, 1 / 3)
    assert (recipe.bias_lr_factor, recipe.bias_decays, recipe.max_grad_norm) == (2.0, False, None)
    assert recipe.drop_steps == (60_000, 80_000)
    assert training.backbone_weights == "MSRA-R-50.pkl"
    assert _training(AUTHORS, "freeanchor-x101-2x-s0").model.backbone == TorchvisionResNet(
        name="resnext101_64x4d", norm_eps=0.0
    )


def test_mmdetections_recipe_is_its_own() -> None:
    """mmdetection's recipe, and its RetinaNet."""
    training = _training(MMDETECTION, "freeanchor-r50-s0")
    model, inputs, recipe = training.model, training.inputs, training.recipe
    assert model.backbone == TorchvisionResNet(name="resnet50", trained_affine=True)
    assert (model.p6_source, model.relu_before_p7, model.prior_prob) == ("C5", False, 0.01)
    assert (model.anchors.geometry, model.anchors.centre_offset) == ("exact", 0.0)
    assert not inputs.bgr and inputs.mean == (123.675, 116.28, 103.53)
    assert (inputs.resize, inputs.box_convention) == ("mmdetection", "continuous")
    assert (recipe.num_steps, recipe.drop_steps) == (87_960, (58_640, 80_630))
    assert (recipe.bias_lr_factor, recipe.bias_decays, recipe.max_grad_norm) == (1.0, True, 35.0)
    assert recipe.loss == FreeAnchorLoss()
    baseline = _training(MMDETECTION, "retinanet-r50-s0")
    assert baseline.recipe.loss == RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0.0)
    assert baseline.model.plain_deltas and not model.plain_deltas


@pytest.mark.parametrize("key", ["r101", "x101"])
def test_table_3_has_both_jitters_and_six_scales(key: str) -> None:
    """180k steps; 640 to 800 and 480 to 960 in steps of 32; tested at 480 to 1280."""
    jitter, wide = (_training(AUTHORS, f"freeanchor-{key}-2x{suffix}-s0").recipe for suffix in ("", "-wide"))
    assert jitter.num_steps == wide.num_steps == 180_000
    assert jitter.augment.short_sides == (640, 672, 704, 736, 768, 800)
    assert (wide.augment.short_sides[0], wide.augment.short_sides[-1], len(wide.augment.short_sides)) == (480, 960, 16)
    scales = AUTHORS.evaluations[f"freeanchor-{key}-2x-wide-multiscale-s0"]
    assert scales.inference.short_sides == (480, 640, 800, 960, 1120, 1280)
    assert scales.training == _training(AUTHORS, f"freeanchor-{key}-2x-wide-s0")


@pytest.mark.parametrize("profile", [AUTHORS, MMDETECTION], ids=["coco", "coco-mmdetection"])
def test_every_backbone_file_is_known(profile: Profile) -> None:
    """What a training starts from can be fetched, and file names that carry a checksum are held to it."""
    for evaluation in profile.evaluations.values():
        if isinstance(evaluation.training, Training):
            item = BACKBONE_FILES[evaluation.training.backbone_weights]
            digits = re.search(r"-([0-9a-f]{8})\.pth$", item.name)
            assert item.sha256 == (digits.group(1) if digits else "")


def test_every_row_of_the_paper_that_can_be_run_has_a_run() -> None:
    """FreeAnchor's six lines of Tables 2 and 3 on COCO, the README's two, and Table 2's baselines."""
    rows = [row for row in AUTHORS.tables["table2"] if row.published]
    assert all(row.runs for row in rows) and len(rows) == 4
    rows = [row for row in AUTHORS.tables["table3"] if row.published and row.detector.startswith("FreeAnchor")]
    assert all(row.runs for row in rows)
    assert [(row.detector, row.published[1]) for row in rows] == [
        ("FreeAnchor", "ResNet-101"),
        ("FreeAnchor", "ResNeXt-101"),
        ("FreeAnchor*", "ResNeXt-101"),
        ("FreeAnchor**", "ResNeXt-101"),
        ("FreeAnchor*", "ResNet-101"),
        ("FreeAnchor**", "ResNet-101"),
    ]


def test_published_checkpoints_have_address_checksum_and_claim(tmp_path: Path) -> None:
    """Each has an AP by its authors; mmdetection's and torchvision's have a checksum; the authors' are fetched by hand."""
    found = {run.training.name: run.training for name, run in AUTHORS.evaluations.items() if name in AUTHORS.zoo}
    assert len(found) == 19
    for checkpoint in found.values():
        assert isinstance(checkpoint, PublishedCheckpoint)
        assert 0.3 < checkpoint.published["ap"] < 0.5
        format = checkpoint.origin.format
        assert (len(checkpoint.sha256) == 8) == (format in ("mmdetection", "torchvision"))
        assert download_of(checkpoint).name == checkpoint.file
        assert is_at_hand(checkpoint, Store(downloads=tmp_path)) == (format != "authors")
    assert len({checkpoint.file for checkpoint in found.values()}) == len(found)
    assert [run.removeprefix("mmdetection-") for run in build_profile("coco", chosen="zoo").pair] == [
        "retinanet-r50",
        "free-anchor-r50",
    ]


def test_a_smaller_batch_follows_the_linear_rule() -> None:
    """One GPU with two images: an eighth of the rate, eight times the steps, another fingerprint."""
    small = _training(build_profile("coco", batch_size=2), "freeanchor-r50-s0")
    assert (small.recipe.lr, small.recipe.num_steps, small.recipe.warmup_steps) == (0.00125, 720_000, 4000)
    assert small.fingerprint != _training(AUTHORS, "freeanchor-r50-s0").fingerprint
    drawn = build_profile("shapes", batch_size=16).evaluations["freeanchor-small-s0"].training
    assert isinstance(drawn, Training) and (drawn.recipe.lr, drawn.recipe.num_steps) == (0.32, 1750)


def test_a_run_is_shown_with_its_cost_and_needs() -> None:
    """Samples and epochs, COCO, the weights' address, the processes that can share its batch."""
    text = "\n".join(recipe_lines(AUTHORS.evaluations["freeanchor-r50-s0"], Store()))
    for part in (
        "stride_in_1x1",
        "cost: 1,440,000 images = 12.28 epochs of the 117,266 of 118,287 that have an object",
        "make data PROFILE=coco",
        "MSRA/R-50.pkl",
        "1, 2, 4 or 8 processes",
    ):
        assert part in text
    text = "\n".join(recipe_lines(AUTHORS.evaluations["authors-free-anchor-r50"], Store()))
    assert "to be fetched by hand" in text and "drive.google.com" in text and "AP 0.387" in text


def test_the_miniature_is_the_same_list(tmp_path: Path) -> None:
    """The same runs and rows; only sizes differ, and of the ablations it has one factor alone."""
    mini = build_profile("coco-mini", data=write_both(tmp_path / "coco"))
    others = {one.run for one in AUTHORS.ablations} - {one.run for one in mini.ablations}
    assert list(mini.evaluations) == [run for run in AUTHORS.evaluations if run not in others]
    assert mini.tables == AUTHORS.tables
    one, other = (_training(profile, "freeanchor-r50-s0") for profile in (mini, AUTHORS))
    assert replace(one.recipe, num_steps=90_000, batch_size=16, warmup_steps=500) == other.recipe
    assert replace(one.inputs, short_side=800, max_long_side=1333) == other.inputs


def test_a_batch_of_nothing_is_refused() -> None:
    """0 is a mistake, not the recipe's own size."""
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        build_profile("coco", batch_size=0)
