"""The baseline's loss with any assigner, and TOOD's: equality with the baseline, gradients, edge cases, refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from oracles.inputs import LossInputs, random_inputs
from torch.nn import functional

from freeanchor.boxes import decode_boxes, encode_boxes, pairwise_iou
from freeanchor.losses import ATSS, TAL, AssignedLoss, IoUThresholds, RetinaNetLoss, SimOTA, TaskAlignedLoss
from freeanchor.losses.assignment import Predictions

LOSSES = {
    "atss": AssignedLoss(assigner=ATSS()),
    "simota": AssignedLoss(assigner=SimOTA()),
    "tal": AssignedLoss(assigner=TAL()),
    "tal, own targets": TaskAlignedLoss(),
}


def _grid(inputs: LossInputs) -> dict[str, Any]:
    num_anchors = len(inputs.anchors)
    half = num_anchors // 2
    return {"level_sizes": (half, num_anchors - half), "strides": torch.full((num_anchors,), 8.0)}


def test_iou_thresholds_make_it_the_baselines_loss() -> None:
    """With RetinaNet's own rule both terms and both gradients are the baseline's to the bit."""
    for loss in (RetinaNetLoss(), AssignedLoss(assigner=IoUThresholds())):
        inputs = random_inputs(3).leaves()
        terms = loss(*inputs.arguments())
        sum(terms.values()).backward()
        found = [*terms.values(), inputs.logits.grad, inputs.deltas.grad]
        if isinstance(loss, RetinaNetLoss):
            expected = found
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_only_the_assignment_differs_from_the_baseline() -> None:
    """Its terms are the baseline's of an image in which the assigner's anchors are the matched ones."""
    inputs = random_inputs(5, num_objects=(4,))
    grid, loss = _grid(inputs), LOSSES["atss"]
    assigned = ATSS().assign(inputs.anchors, inputs.gt_boxes[0], level_sizes=grid["level_sizes"])
    matched = (assigned >= 0).nonzero()[:, 0]
    objects = assigned[matched]
    assert len(matched)
    targets = torch.zeros_like(inputs.logits[0])
    targets[matched, inputs.gt_labels[0][objects]] = 1
    p = inputs.logits[0].sigmoid()
    focal = -torch.where(targets == 1, 0.25 * (1 - p) ** 2 * p.log(), 0.75 * p**2 * (1 - p).log())
    coded = encode_boxes(inputs.gt_boxes[0][objects], inputs.anchors[matched])
    distance = functional.smooth_l1_loss(inputs.deltas[0, matched], coded, beta=0.11, reduction="sum")
    terms = loss(*inputs.arguments(), **grid)
    torch.testing.assert_close(terms["classification"], focal.sum() / (len(matched) + 1))
    torch.testing.assert_close(terms["box"], distance / (4 * len(matched)))


def test_qualities_are_toods() -> None:
    """Scores learn t scaled to the object's best IoU, box terms are weighted by it, both divided by its sum."""
    inputs = random_inputs(8, num_objects=(3,), num_anchors=200, noise=0.4)
    boxes, labels, anchors = inputs.gt_boxes[0], inputs.gt_labels[0], inputs.anchors
    predicted, p = decode_boxes(inputs.deltas[0], anchors), inputs.logits[0].sigmoid()
    assigned = TAL().assign(anchors, boxes, labels, predictions=Predictions(boxes=predicted, scores=p))
    targets, box = torch.zeros_like(p), torch.zeros(())
    for i in range(3):
        own = (assigned == i).nonzero()[:, 0]
        if len(own):
            u = pairwise_iou(boxes[i : i + 1], predicted[own])[0]
            t = p[own, labels[i]] * u**6
            quality = t / t.max() * u.max()
            targets[own, labels[i]] = quality
            coded = encode_boxes(boxes[i].expand(len(own), 4), anchors[own])
            distance = functional.smooth_l1_loss(inputs.deltas[0, own], coded, beta=0.11, reduction="none").sum(1)
            box = box + (quality * distance).sum()
    assert (targets > 0).sum() > 3
    surprise = -(targets * p.log() + (1 - targets) * (1 - p).log())
    divisor = max(1.0, targets.sum().item())
    terms = LOSSES["tal, own targets"](*inputs.arguments(), **_grid(inputs))
    torch.testing.assert_close(
        terms["classification"], ((targets - p).abs() ** 2 * surprise).sum() / divisor, rtol=1e-4, atol=0
    )
    torch.testing.assert_close(terms["box"], box / (4 * divisor), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_edge_cases_give_finite_terms_and_gradients(name: str, edge_case: LossInputs) -> None:
    """No input of the fixed list makes a term, or a gradient of it, anything but a finite number."""
    inputs = edge_case.leaves()
    terms = LOSSES[name](*inputs.arguments(), **_grid(inputs))
    sum(terms.values()).backward()
    for value in (*terms.values(), inputs.logits.grad, inputs.deltas.grad):
        assert torch.isfinite(value).all()


@pytest.mark.parametrize("name", LOSSES)
def test_predictions_that_are_not_finite_give_a_loss_that_is_not(name: str) -> None:
    """An assigner does not fall over NaN: the loss is NaN, which is what a training looks at."""
    inputs = random_inputs(2).to(torch.float32)
    broken = replace(inputs, logits=torch.full_like(inputs.logits, torch.nan), deltas=inputs.deltas * torch.inf)
    assert not torch.isfinite(sum(LOSSES[name](*broken.arguments(), **_grid(inputs)).values()))


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("atss", {}, "level_sizes .* add up to 0; give the anchors of each level, 24"),
        ("simota", {"level_sizes": (24,)}, "none strides are given for 24 anchors"),
    ],
)
def test_a_grid_that_is_missing_is_named(name: str, grid: dict, message: str) -> None:
    """Each assigner names what it needs of the grid where it was not given."""
    with pytest.raises(ValueError, match=message):
        LOSSES[name](*random_inputs(1).arguments(), **grid)


def test_predictions_that_are_missing_are_named() -> None:
    """SimOTA and TAL ask the network, and say so."""
    inputs = random_inputs(1)
    for assigner in (SimOTA(), TAL()):
        with pytest.raises(ValueError, match="asks what the network says of each class; give predictions"):
            assigner.assign(inputs.anchors, inputs.gt_boxes[0], inputs.gt_labels[0], strides=torch.full((24,), 8.0))
