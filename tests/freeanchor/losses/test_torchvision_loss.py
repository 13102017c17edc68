"""torchvision's loss under our signature: torchvision's numbers to rounding, and where ours are known to differ."""

from collections import OrderedDict
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.boxes import encode
from oracles.inputs import LossInputs, random_inputs
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from freeanchor.losses import torchvision_peer as torchvision_loss
from freeanchor.losses.iou_thresholds import IoUThresholds
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss

LOSS = TorchvisionRetinaNetLoss()
WEIGHTS = torch.tensor([10.0, 10.0, 5.0, 5.0], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class _LikeTorchvision(RetinaNetLoss):
    """Our loss by mmdetection's convention, its low-quality matches as torchvision has them."""

    convention: Literal["authors", "mmdetection"] = "mmdetection"
    smooth_l1_beta: float = 0.0

    @property
    def assigner(self) -> IoUThresholds:
        """Each low-quality anchor goes to the object that it overlaps most."""
        return replace(super().assigner, low_quality_owner="anchor")


LIKE_TORCHVISION = _LikeTorchvision()  # but for its division by the batch's anchors, to which mmdetection adds 1.2e-7
CLOSE = 2e-7


class Backbone(nn.Module):
    """Two levels of one convolution each."""

    out_channels = 8

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, images):
        first = self.first(images).relu()
        return OrderedDict(p3=first, p4=self.second(first))


def _detector() -> RetinaNet:
    """torchvision's detector of three classes, as a user builds it."""
    torch.manual_seed(0)
    anchors = AnchorGenerator(((16, 20), (32, 40)), ((0.5, 1.0, 2.0),) * 2)
    return RetinaNet(Backbone(), 3, anchor_generator=anchors, min_size=64, max_size=96).double()


def _torchvisions(inputs: LossInputs, detector: RetinaNet) -> dict[str, Tensor]:
    """What torchvision's detector makes of predictions whose deltas have our weights."""
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in zip(inputs.gt_boxes, inputs.gt_labels)]
    predictions = {"cls_logits": inputs.logits, "bbox_regression": inputs.deltas / WEIGHTS}
    terms = detector.compute_loss(targets, predictions, [inputs.anchors] * len(targets))
    return {"classification": terms["classification"], "box": terms["bbox_regression"]}


def _gradients(terms: dict[str, Tensor], inputs: LossInputs) -> tuple[Tensor, Tensor]:
    return torch.autograd.grad(sum(terms.values()), (inputs.logits, inputs.deltas))


def _part(inputs: LossInputs, first: int, last: int) -> LossInputs:
    """Some of the images of a batch."""
    own = slice(first, last)
    return LossInputs(
        logits=inputs.logits[own],
        deltas=inputs.deltas[own],
        anchors=inputs.anchors,
        gt_boxes=inputs.gt_boxes[own],
        gt_labels=inputs.gt_labels[own],
    )


def _num_matched(inputs: LossInputs) -> list[int]:
    return [int((IoUThresholds().assign(inputs.anchors, boxes) >= 0).sum()) for boxes in inputs.gt_boxes]


@given(seed=st.integers(0, 10_000), num_objects=st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple))
def test_values_and_gradients_are_torchvisions(seed: int, num_objects: tuple) -> None:
    """Both terms, and each one's gradients in logits and deltas, equal those of a torchvision RetinaNet in float64."""
    inputs = random_inputs(seed, num_objects=num_objects, num_anchors=60).leaves()
    terms, expected = LOSS(*inputs.arguments()), _torchvisions(inputs, _detector())
    assert list(terms) == ["classification", "box"]
    for name, leaf in (("classification", inputs.logits), ("box", inputs.deltas)):
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-9, atol=0)
        gradients = [torch.autograd.grad(its[name], leaf)[0] for its in (terms, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-15)


def test_a_whole_torchvision_training_step_has_these_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """From images to losses, torchvision's training forward gives what our loss makes of its head's outputs."""
    detector, seen = _detector().train(), []
    compute_loss = detector.compute_loss
    monkeypatch.setattr(detector, "compute_loss", lambda *given: seen.append(given) or compute_loss(*given))
    images = [torch.rand(3, 64, 80, dtype=torch.float64), torch.rand(3, 64, 64, dtype=torch.float64)]
    boxes = torch.tensor([[5, 6, 30, 24], [30, 20, 52, 60], [2, 40, 18, 55]], dtype=torch.float64)
    targets = [
        {"boxes": boxes, "labels": torch.tensor([0, 2, 1])},
        {"boxes": boxes[:0], "labels": torch.tensor([], dtype=torch.int64)},
    ]
    expected = detector(images, targets)

    ((resized, predictions, anchors),) = seen
    truth = [target["boxes"] for target in resized], [target["labels"] for target in resized]
    terms = LOSS(predictions["cls_logits"], predictions["bbox_regression"] * WEIGHTS, anchors[0], *truth)
    assert expected["bbox_regression"] > 0
    assert terms["classification"].item() == pytest.approx(expected["classification"].item(), rel=1e-9)
    assert terms["box"].item() == pytest.approx(expected["bbox_regression"].item(), rel=1e-9)


@pytest.mark.parametrize(
    ("head", "term"), [(RetinaNetClassificationHead, "classification"), (RetinaNetRegressionHead, "box")]
)
def test_torchvisions_own_functions_are_called(monkeypatch: pytest.MonkeyPatch, head: type, term: str) -> None:
    """Whatever torchvision's heads say is the loss: nothing is computed beside them."""
    monkeypatch.setattr(head, "compute_loss", lambda *_: torch.tensor(17.25))
    terms = LOSS(*random_inputs(1).arguments())
    assert [name for name, value in terms.items() if value == 17.25] == [term]


def test_an_image_without_objects_is_background() -> None:
    """Its box term is 0 with a gradient of zeros, its scores are all pushed down, and it counts as an image."""
    inputs = random_inputs(2, num_objects=(0, 3)).leaves()
    terms = LOSS(*inputs.arguments())
    logits_gradient, deltas_gradient = _gradients(terms, inputs)
    assert (deltas_gradient[0] == 0).all()
    assert (logits_gradient[0] > 0).all()
    assert terms["box"].item() == pytest.approx(LOSS(*_part(inputs, 1, 2).arguments())["box"].item() / 2)
    alone = LOSS(*_part(inputs, 0, 1).arguments())
    assert alone["box"] == 0
    assert alone["classification"] > 0


def test_one_image_is_our_loss_in_other_units() -> None:
    """On each image alone it is our RetinaNetLoss with matched anchors as divisor and plain L1 of plain deltas."""
    inputs = random_inputs(3, num_objects=(4, 0, 2), num_anchors=60)
    images = [_part(inputs, image, image + 1) for image in range(3)]
    expected = [LIKE_TORCHVISION(*image.arguments()) for image in images]
    for name, value in LOSS(*inputs.arguments()).items():
        assert value.item() == pytest.approx(sum(terms[name].item() for terms in expected) / 3, rel=CLOSE)


def test_images_weigh_alike_however_many_anchors_they_have_matched() -> None:
    """Ours divides by the batch's matched anchors, so that a crowded image weighs more; torchvision's does not."""
    inputs = random_inputs(4, num_objects=(1, 9), num_anchors=60)
    few, many = _num_matched(inputs)
    assert 2 * few < many
    one, other = (LOSS(*_part(inputs, image, image + 1).arguments()) for image in range(2))
    terms, ours = LOSS(*inputs.arguments()), LIKE_TORCHVISION(*inputs.arguments())
    for name in terms:
        first, second = one[name].item(), other[name].item()
        assert terms[name].item() == pytest.approx((first + second) / 2, rel=1e-9)
        assert ours[name].item() == pytest.approx((few * first + many * second) / (few + many), rel=CLOSE)
        assert ours[name].item() != pytest.approx(terms[name].item(), rel=1e-2)


def test_our_default_divides_classification_by_one_image_more() -> None:
    """The authors' divisor is matched anchors plus images, torchvision's the matched anchors alone."""
    inputs = random_inputs(5, num_objects=(3,), num_anchors=60)
    (matched,) = _num_matched(inputs)
    ours, theirs = RetinaNetLoss()(*inputs.arguments()), LOSS(*inputs.arguments())
    expected = theirs["classification"].item() * matched / (matched + 1)
    assert ours["classification"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("delta", "weight"), [(0, 10), (1, 10), (2, 5), (3, 5)])
def test_our_default_weighs_an_error_of_shift_or_growth_otherwise(delta: int, weight: int) -> None:
    """Off by r in one plain delta: torchvision's has r, ours (weight * r - beta / 2) / 4 with beta = 0.11."""
    error, inputs = 0.3, random_inputs(6, num_objects=(1,), num_anchors=60)
    (box,) = inputs.gt_boxes[0].tolist()
    targets = torch.tensor([encode(box, anchor) for anchor in inputs.anchors.tolist()], dtype=torch.float64)
    targets[:, delta] += weight * error
    inputs = replace(inputs, deltas=targets[None])
    assert LOSS(*inputs.arguments())["box"].item() == pytest.approx(error, rel=1e-9)
    assert RetinaNetLoss()(*inputs.arguments())["box"].item() == pytest.approx((weight * error - 0.055) / 4, rel=1e-9)


def test_an_object_that_meets_no_anchor_matches_them_all() -> None:
    """Its ties at IoU 0 are matches to torchvision, each of the object that the anchor overlaps most; not to ours."""
    inputs = random_inputs(7, num_objects=(2,), num_anchors=60)
    boxes, labels = inputs.gt_boxes[0], inputs.gt_labels[0]
    far = replace(inputs, gt_boxes=[torch.cat([boxes, boxes[:1] + 5000])], gt_labels=[torch.cat([labels, labels[:1]])])
    assert LIKE_TORCHVISION(*far.arguments()) == LIKE_TORCHVISION(*inputs.arguments())
    all_matched = replace(LIKE_TORCHVISION, foreground_iou=0.0, background_iou=0.0)(*far.arguments())
    for name, value in LOSS(*far.arguments()).items():
        assert value.item() == pytest.approx(all_matched[name].item(), rel=CLOSE)
        assert value.item() != pytest.approx(LOSS(*inputs.arguments())[name].item(), rel=0.1)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, autocast: bool) -> None:
    """Half-precision predictions give the finite float32 terms of the same numbers in float32, and finite gradients."""
    single = random_inputs(8, num_objects=(3, 0, 2)).to(torch.float32)
    half = replace(single, logits=single.logits.to(dtype), deltas=single.deltas.to(dtype)).leaves()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        terms = LOSS(*half.arguments())
    rounded = replace(single, logits=half.logits.detach().float(), deltas=half.deltas.detach().float())
    assert {name: value.item() for name, value in terms.items()} == {
        name: value.item() for name, value in LOSS(*rounded.arguments()).items()
    }
    for value in terms.values():
        assert value.dtype == torch.float32
        assert value.isfinite()
    for gradient in _gradients(terms, half):
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()


@pytest.mark.parametrize("first", [1, 2, 3])
def test_parts_of_a_batch_add_up_to_it(first: int) -> None:
    """Shared out among processes, with the number of images summed, terms and gradients add up to the batch's."""
    inputs = random_inputs(9, num_objects=(4, 0, 1, 2), num_anchors=60).leaves()
    parts = [_part(inputs, 0, first), _part(inputs, first, 4)]
    terms = [LOSS(*part.arguments(), total_count=lambda _own: 4) for part in parts]
    together = {name: terms[0][name] + terms[1][name] for name in terms[0]}
    whole = LOSS(*inputs.arguments())
    for name, value in whole.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=0)
    for gradient, expected in zip(_gradients(together, inputs), _gradients(whole, inputs)):
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-15)


def test_only_images_are_counted_over_processes() -> None:
    """What other processes have matched changes nothing here: one count is asked for, that of images."""
    asked: list[int] = []
    LOSS(*random_inputs(10, num_objects=(3, 1)).arguments(), total_count=lambda own: asked.append(own) or own)
    assert asked == [2]


def test_no_random_number_is_drawn() -> None:
    """A first call leaves the random numbers of a training where they were, so that a resumed one is the same."""
    torchvision_loss._detector.cache_clear()
    inputs, before = random_inputs(11), torch.get_rng_state()
    LOSS(*inputs.arguments())
    assert torch.equal(torch.get_rng_state(), before)


def test_arguments_and_the_loss_stay_as_they_are() -> None:
    """A call changes none of its arguments, and the loss has no settings to change."""
    inputs, same = random_inputs(12), random_inputs(12)
    LOSS(*inputs.arguments())
    torch.testing.assert_close(inputs.arguments(), same.arguments(), rtol=0, atol=0)
    with pytest.raises(FrozenInstanceError):
        LOSS.alpha = 0.1
    assert TorchvisionRetinaNetLoss() == LOSS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gt_boxes": []}, "0 gt_boxes"),
        ({"gt_labels": [torch.tensor([0, 1, 3])]}, "label 3"),
        ({"gt_labels": [torch.tensor([0, -1, 2])]}, "label -1"),
        ({"gt_labels": [torch.tensor([0])]}, "3 gt_boxes and 1 gt_labels"),
        ({"gt_boxes": [torch.tensor([[0.0, 0, 5, 5], [4, 4, 4, 9], [3, 3, 9, 9]])]}, "without width or height"),
    ],
    ids=["images", "label", "negative", "pairs", "area"],
)
def test_ground_truth_that_makes_no_sense_is_refused(change: dict, words: str) -> None:
    """Labels that are no class, boxes without label or area: an error in one line, not the last class and not inf."""
    inputs = random_inputs(13, num_objects=(3,), num_classes=3).to(torch.float32)
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*$"):
        LOSS(*replace(inputs, **change).arguments())
