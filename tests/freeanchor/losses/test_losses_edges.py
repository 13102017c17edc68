"""Both losses on awkward input: half precision, saturated scores, no objects, IoU at the threshold, wrong arguments."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from oracles.inputs import LossInputs, exact_threshold_inputs, random_inputs
from torch import Tensor

from freeanchor.boxes import decode_boxes, pairwise_iou
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

LOSSES = [FreeAnchorLoss(bag_size=5), RetinaNetLoss()]
TERMS = {FreeAnchorLoss: {"positive", "negative"}, RetinaNetLoss: {"classification", "box"}}
by_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)


def _gradients(terms: dict[str, Tensor], inputs: LossInputs) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(sum(terms.values()), (inputs.logits, inputs.deltas))


@by_name
def test_edge_cases_give_finite_terms_and_gradients(
    loss: FreeAnchorLoss | RetinaNetLoss, edge_case: LossInputs
) -> None:
    """Whatever the input, the documented terms are non-negative finite scalars, and so are all gradients."""
    inputs = edge_case.leaves()
    terms = loss(*inputs.arguments())
    assert set(terms) == TERMS[type(loss)]
    for value in terms.values():
        assert value.shape == ()
        assert value.isfinite()
        assert value >= -1e-6
        assert value.dtype == torch.float32
    for gradient, leaf in zip(_gradients(terms, inputs), (inputs.logits, inputs.deltas), strict=True):
        assert gradient.isfinite().all()
        assert gradient.dtype == leaf.dtype


@by_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(
    loss: FreeAnchorLoss | RetinaNetLoss, dtype: torch.dtype
) -> None:
    """Half-precision predictions give exactly the terms of the same numbers in float32; float64 stays float64."""
    inputs = random_inputs(41)
    half = replace(inputs.to(torch.float32), logits=inputs.logits.to(dtype), deltas=inputs.deltas.to(dtype))
    single = replace(half, logits=half.logits.float(), deltas=half.deltas.float())
    assert loss(*half.arguments()) == loss(*single.arguments())
    assert {value.dtype for value in loss(*inputs.arguments()).values()} == {torch.float64}


@by_name
def test_float32_keeps_its_accuracy_when_training_has_succeeded(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
    """With confident, well placed predictions and a silent background, float32 agrees with float64 to 1e-4."""
    inputs = random_inputs(42, noise=0.05)
    confident = torch.full_like(inputs.logits, -8.0)
    for image, labels in enumerate(inputs.gt_labels):
        for j in range(len(inputs.anchors)):
            confident[image, j, labels[j % len(labels)]] = 12.0
    # Rounded to float32 first, so that both precisions see the same numbers.
    inputs = replace(inputs, logits=confident).to(torch.float32).to(torch.float64)
    expected, terms = loss(*inputs.arguments()), loss(*inputs.to(torch.float32).arguments())
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value.item(), rel=1e-4)


@by_name
def test_a_image_without_objects_counts_as_background_only(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
    """Without any object the localising term is 0, the background still counts, and the deltas have gradient 0."""
    inputs = random_inputs(43, num_objects=(0, 0)).leaves()
    terms = loss(*inputs.arguments())
    logits_gradient, deltas_gradient = _gradients(terms, inputs)
    localising, background = ("positive", "negative") if "positive" in terms else ("box", "classification")
    assert terms[localising] == 0
    assert terms[background] > 0
    assert (deltas_gradient == 0).all()
    assert (logits_gradient > 0).all()


def test_the_authors_nan_is_gone() -> None:
    """Where the best IoU is float32(0.6) exactly nothing is excused, as if the threshold were out of reach."""
    inputs = exact_threshold_inputs()
    best = pairwise_iou(inputs.gt_boxes[0], decode_boxes(inputs.deltas[0], inputs.anchors)).max()
    assert best == torch.tensor(0.6)
    at_threshold, out_of_reach = FreeAnchorLoss(match_iou=0.6), FreeAnchorLoss(match_iou=0.95)
    assert at_threshold(*inputs.arguments())["negative"] == out_of_reach(*inputs.arguments())["negative"]
    within_reach = FreeAnchorLoss(match_iou=0.59)
    assert within_reach(*inputs.arguments())["negative"] < at_threshold(*inputs.arguments())["negative"]


def test_an_object_that_meets_no_anchor_teaches_retinanet_nothing() -> None:
    """A far-away object's best IoU is 0, which every anchor ties; those ties must not become matches."""
    inputs = random_inputs(48, num_objects=(3,))
    far = replace(
        inputs,
        gt_boxes=[torch.cat([inputs.gt_boxes[0], inputs.gt_boxes[0][:1] + 5000])],
        gt_labels=[torch.cat([inputs.gt_labels[0], inputs.gt_labels[0][:1]])],
    )
    assert RetinaNetLoss()(*far.arguments()) == RetinaNetLoss()(*inputs.arguments())


@by_name
def test_arguments_and_settings_stay_as_they_are(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
    """A call changes none of its arguments, and a loss's settings cannot be changed either."""
    inputs, same = random_inputs(46), random_inputs(46)
    loss(*inputs.arguments())
    torch.testing.assert_close(inputs.arguments(), same.arguments(), rtol=0, atol=0)
    with pytest.raises(FrozenInstanceError):
        loss.alpha = 0.1


@by_name
def test_ground_truth_that_does_not_pair_is_refused(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
    """Fewer ground truths than images, or fewer labels than boxes, are an error in one line."""
    inputs = random_inputs(47)
    too_few = replace(inputs, gt_boxes=inputs.gt_boxes[:1], gt_labels=inputs.gt_labels[:1])
    unlabelled = replace(inputs, gt_labels=[inputs.gt_labels[0][:1], inputs.gt_labels[1]])
    for wrong in (too_few, unlabelled):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            loss(*wrong.arguments())


@by_name
@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_are_refused(loss: FreeAnchorLoss | RetinaNetLoss, label: int) -> None:
    """A label outside 0..K-1 is a ValueError, not the last class (-1) and not a crash inside a kernel (K)."""
    inputs = random_inputs(49, num_classes=3)
    wrong = replace(inputs, gt_labels=[inputs.gt_labels[0].clone().fill_(label), inputs.gt_labels[1]])
    with pytest.raises(ValueError, match=str(label)):
        loss(*wrong.arguments())


@pytest.mark.parametrize(
    "wrong",
    [{"bag_size": 0}, {"match_iou": 1.5}, {"alpha": -0.1}, {"gamma": -1.0}, {"likelihood": "mean"}, {"excuse": "all"}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    """Hyper-parameters out of their range are an error that names them (a TypeError where types are checked first)."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        FreeAnchorLoss(**wrong)
