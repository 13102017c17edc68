"""Both losses: oracles in the paper's notation, finite differences, torchvision's parts, properties, awkward input.

The authors' own numbers are in `test_losses_golden.py`.
"""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from oracles import losses as oracle
from oracles.inputs import LossInputs, exact_threshold_inputs, random_boxes, random_inputs
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection import _utils as torchvision_detection

from freeanchor.boxes import decode_boxes, pairwise_iou
from freeanchor.losses.assignment import IGNORED
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.iou_thresholds import IoUThresholds
from freeanchor.losses.retinanet import RetinaNetLoss

LOSSES = [FreeAnchorLoss(bag_size=5), RetinaNetLoss()]
TERMS = {FreeAnchorLoss: {"positive", "negative"}, RetinaNetLoss: {"classification", "box"}}
by_name = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
FREE_ANCHOR_SETTINGS = [
    {},
    {"bag_size": 1},
    {"bag_size": 100},
    {"match_iou": 0.5, "alpha": 0.25, "gamma": 1.5},
    {"box_weight": 1.0, "smooth_l1_beta": 1.0, "alpha": 0.75, "gamma": 2.5},
    {"likelihood": "max"},
    {"likelihood": "detached"},
    {"excuse": "per-anchor"},
    {"excuse": "none"},
]
RETINANET_SETTINGS = [
    {},
    {"foreground_iou": 0.6, "background_iou": 0.2},
    {"alpha": 0.75, "gamma": 1.0, "smooth_l1_beta": 1.0},
]


def _gradients(terms: dict[str, Tensor], inputs: LossInputs) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(sum(terms.values()), (inputs.logits, inputs.deltas))


def _assert_equal_with_gradients(terms: dict[str, Tensor], expected: tuple[Tensor, Tensor], inputs: LossInputs) -> None:
    for value, other in zip(terms.values(), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-9, atol=1e-12)
    expected_gradients = torch.autograd.grad(sum(expected), (inputs.logits, inputs.deltas))
    for gradient, other in zip(_gradients(terms, inputs), expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("settings", FREE_ANCHOR_SETTINGS, ids=str)
@pytest.mark.parametrize("num_objects", [(3, 2), (4, 0, 1)], ids=str)
def test_free_anchor_equals_equation_7(settings: dict, num_objects: tuple) -> None:
    """Values and gradients are those of Eq. 7 written as loops over objects, anchors and classes."""
    loss = FreeAnchorLoss(**{"bag_size": 5, **settings})
    inputs = random_inputs(len(num_objects), num_objects=num_objects).leaves()
    expected = oracle.detection_customized_loss(
        *inputs.arguments(),
        n=loss.bag_size,
        t=loss.match_iou,
        beta=loss.box_weight,
        alpha=loss.alpha,
        gamma=loss.gamma,
        transition=loss.smooth_l1_beta,
        likelihood=loss.likelihood,
        excuse=loss.excuse,
    )
    _assert_equal_with_gradients(loss(*inputs.arguments()), expected, inputs)


@pytest.mark.parametrize("field", ["likelihood", "excuse"])
def test_each_ablated_part_changes_the_loss(field: str) -> None:
    """Every choice of a part gives another gradient on the same batch, so that none is the default under a new name."""
    inputs = random_inputs(2, num_objects=(3, 2)).leaves()
    choices = {"likelihood": ("mean-max", "detached", "max"), "excuse": ("per-class", "per-anchor", "none")}[field]
    losses = [FreeAnchorLoss(bag_size=5, match_iou=0.3, **{field: choice}) for choice in choices]
    gradients = [_gradients(loss(*inputs.arguments()), inputs)[0] for loss in losses]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(gradients[one], gradients[other])


@pytest.mark.parametrize("settings", RETINANET_SETTINGS, ids=str)
@pytest.mark.parametrize("num_objects", [(3, 2), (4, 0, 1)], ids=str)
def test_retinanet_equals_equation_1(settings: dict, num_objects: tuple) -> None:
    """Values and gradients are those of focal loss and smooth-L1 summed in loops, with the authors' normalisers."""
    loss = RetinaNetLoss(**settings)
    inputs = random_inputs(7, num_objects=num_objects).leaves()
    expected = oracle.retinanet_loss(
        *inputs.arguments(),
        foreground=loss.foreground_iou,
        background=loss.background_iou,
        alpha=loss.alpha,
        gamma=loss.gamma,
        transition=loss.smooth_l1_beta,
    )
    _assert_equal_with_gradients(loss(*inputs.arguments()), expected, inputs)


def test_retinanet_equals_torchvisions_parts() -> None:
    """Torchvision's matcher, coder and focal loss, with the authors' normalisers, give the same two terms."""
    inputs = random_inputs(21, num_objects=(6,), num_anchors=200)
    boxes, labels, anchors = inputs.gt_boxes[0], inputs.gt_labels[0], inputs.anchors
    matched = torchvision_detection.Matcher(0.5, 0.4, True)(torchvision.ops.box_iou(boxes, anchors))
    positive = matched >= 0
    targets = torch.zeros_like(inputs.logits[0])
    targets[positive, labels[matched[positive]]] = 1
    focal = torchvision.ops.sigmoid_focal_loss(inputs.logits[0], targets, 0.25, 2.0)[matched != -2].sum()
    weights = torch.tensor([10.0, 10.0, 5.0, 5.0], dtype=torch.float64)
    coded = torchvision_detection.encode_boxes(boxes[matched[positive]], anchors[positive], weights)
    distance = functional.smooth_l1_loss(inputs.deltas[0, positive], coded, beta=0.11, reduction="sum")

    terms = RetinaNetLoss()(*inputs.arguments())
    assert (matched == -2).any()
    torch.testing.assert_close(terms["classification"], focal / (positive.sum() + 1))
    torch.testing.assert_close(terms["box"], distance / (4 * positive.sum()))


@by_name
def test_gradient_with_respect_to_logits_passes_gradcheck(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
    """The whole loss's gradient in the logits equals finite differences (the match probability ignores them)."""
    inputs = random_inputs(31, num_anchors=8, num_classes=2)
    assert torch.autograd.gradcheck(
        lambda logits: sum(loss(logits, *inputs.arguments()[1:]).values()), inputs.logits.requires_grad_()
    )


@pytest.mark.parametrize(("loss", "term"), [(LOSSES[0], "positive"), (LOSSES[1], "box")], ids=["free", "retina"])
def test_gradient_with_respect_to_deltas_passes_gradcheck(loss: FreeAnchorLoss | RetinaNetLoss, term: str) -> None:
    """The term that teaches localisation has the gradient of finite differences in the deltas."""
    inputs = random_inputs(32, num_anchors=8, num_classes=2)
    arguments = inputs.arguments()
    assert torch.autograd.gradcheck(
        lambda deltas: loss(arguments[0], deltas, *arguments[2:])[term], inputs.deltas.requires_grad_()
    )


def test_no_gradient_flows_through_the_match_probability() -> None:
    """The background term depends on the deltas but does not teach them (D5)."""
    inputs = random_inputs(33).leaves()
    negative = FreeAnchorLoss(bag_size=5)(*inputs.arguments())["negative"]
    (gradient,) = torch.autograd.grad(negative, inputs.deltas, allow_unused=True, materialize_grads=True)
    moved = replace(inputs, deltas=inputs.deltas + 5)
    assert (gradient == 0).all()
    assert FreeAnchorLoss(bag_size=5)(*moved.arguments())["negative"] > negative


def test_only_objects_of_the_class_take_an_anchors_score_from_the_background() -> None:
    """A perfect prediction is no background for its object's class, but for every other (D1)."""
    box = torch.tensor([[10.0, 10, 30, 30]], dtype=torch.float64)
    loss, zeros = FreeAnchorLoss(bag_size=1), torch.zeros(1, 1, 4, dtype=torch.float64)

    def negative(logits: list[float]) -> float:
        scores = torch.tensor([[logits]], dtype=torch.float64)
        return loss(scores, zeros, box, [box], [torch.tensor([0])])["negative"].item()

    silent = -60.0
    assert negative([4.0, silent]) == pytest.approx(0, abs=1e-12)
    assert negative([silent, 4.0]) > 0.5


def test_ignored_anchors_do_not_learn() -> None:
    """Anchors between RetinaNet's two thresholds get no gradient, all others get some."""
    inputs = random_inputs(44, num_objects=(4,), num_anchors=100).leaves()
    ignored = IoUThresholds().assign(inputs.anchors, inputs.gt_boxes[0]) == IGNORED
    logits_gradient, _ = _gradients(RetinaNetLoss()(*inputs.arguments()), inputs)
    assert ignored.any()
    assert torch.equal((logits_gradient[0] == 0).all(dim=1), ignored)


def test_box_weight_scales_retinanets_box_term() -> None:
    """Only the box term is multiplied by `box_weight`."""
    arguments = random_inputs(45).arguments()
    plain, doubled = RetinaNetLoss()(*arguments), RetinaNetLoss(box_weight=2.0)(*arguments)
    torch.testing.assert_close(doubled["box"], 2 * plain["box"])
    torch.testing.assert_close(doubled["classification"], plain["classification"])


@by_name
@given(order=st.permutations(range(5)), seed=st.integers(0, 1000))
def test_the_order_of_objects_does_not_matter(
    loss: FreeAnchorLoss | RetinaNetLoss, order: list[int], seed: int
) -> None:
    """Listing an image's objects in another order leaves both terms as they are."""
    inputs = random_inputs(seed, num_objects=(5,))
    shuffled = replace(inputs, gt_boxes=[inputs.gt_boxes[0][order]], gt_labels=[inputs.gt_labels[0][order]])
    terms, others = loss(*inputs.arguments()), loss(*shuffled.arguments())
    for name, value in terms.items():
        torch.testing.assert_close(others[name], value, rtol=1e-9, atol=1e-12)


@given(seed=st.integers(0, 1000), count=st.integers(1, 30))
def test_distant_background_does_not_change_the_positive_term(seed: int, count: int) -> None:
    """Anchors far from every object enter no bag, and silent ones add nothing to the background either."""
    inputs = random_inputs(seed, num_objects=(2,))
    generator = torch.Generator().manual_seed(seed)
    far = random_boxes(count, generator) + 10_000
    silent = torch.full((1, count, 3), -40.0, dtype=torch.float64)
    extended = replace(
        inputs,
        anchors=torch.cat([inputs.anchors, far]),
        logits=torch.cat([inputs.logits, silent], dim=1),
        deltas=torch.cat([inputs.deltas, torch.zeros(1, count, 4, dtype=torch.float64)], dim=1),
    )
    loss = FreeAnchorLoss(bag_size=1)
    terms, others = loss(*inputs.arguments()), loss(*extended.arguments())
    torch.testing.assert_close(others["positive"], terms["positive"], rtol=1e-12, atol=0)
    torch.testing.assert_close(others["negative"], terms["negative"], rtol=1e-12, atol=0)


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
def test_an_image_without_objects_counts_as_background_only(loss: FreeAnchorLoss | RetinaNetLoss) -> None:
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
    """Where the best IoU is float32(0.6) exactly no prediction is matched, as if the threshold were out of reach."""
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
