"""The door of the losses: what does not fit is refused in one line, what is nearly right is read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.reference import dense_loss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.losses.torchvision_peer import TorchvisionRetinaNetLoss

LOSSES = [
    FreeAnchorLoss(bag_size=10),
    RetinaNetLoss(),
    RetinaNetLoss(convention="mmdetection"),
    TorchvisionRetinaNetLoss(),
]
NAMES = ["FreeAnchor", "RetinaNet", "mmdetection", "torchvision"]
B, A, K = 2, 60, 3


def _arguments() -> dict[str, Any]:
    """Two images of 60 anchors and 3 classes, with two objects and one."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(A, 2, generator=generator) * 60
    return {
        "logits": torch.randn(B, A, K, generator=generator),
        "deltas": torch.randn(B, A, 4, generator=generator),
        "anchors": torch.cat([corners, corners + 20], dim=1),
        "gt_boxes": [torch.tensor([[5.0, 5, 25, 25], [30, 30, 60, 50]]), torch.tensor([[10.0, 10, 40, 30]])],
        "gt_labels": [torch.tensor([0, 2]), torch.tensor([1])],
    }


def _changed(name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    arguments = _arguments()
    return {**arguments, name: change(arguments[name])}


def _box(value: float, column: int = 0) -> Callable[[list[Tensor]], list[Tensor]]:
    def change(boxes: list[Tensor]) -> list[Tensor]:
        boxes[1][0, column] = value
        return boxes

    return change


REFUSED = {
    "deltas of 59 anchors": ("deltas", lambda it: it[:, :59], r"deltas are \[2, 59, 4\] beside logits \[2, 60, 3\]"),
    "deltas of another batch": ("deltas", lambda it: it[:1], r"deltas are \[1, 60, 4\]"),
    "deltas of five": ("deltas", lambda it: torch.cat([it, it[..., :1]], dim=2), r"deltas are \[2, 60, 5\]"),
    "anchors of 50": ("anchors", lambda it: it[:50], r"anchors are \[50, 4\] beside logits \[2, 60, 3\]"),
    "anchors of two images": ("anchors", lambda it: torch.stack([it, it]), r"anchors are \[2, 60, 4\]"),
    "logits of one image": ("logits", lambda it: it[0], r"logits are \[60, 3\]; give \[B, A, K\]"),
    "logits of whole numbers": ("logits", lambda it: it.long(), r"logits are torch.int64; give floating-point"),
    "a nan": ("gt_boxes", _box(float("nan")), r"image 1 has gt_box 0 \[nan, .*corners must be finite"),
    "an infinity": ("gt_boxes", _box(float("inf"), 2), r"image 1 has gt_box 0 .*inf.*corners must be finite"),
    "beyond float32": ("gt_boxes", lambda it: [it[0], it[1].double() * 1e300], r"image 1 has gt_box 0 .*below 2\^60"),
    "an anchor of nan": ("anchors", lambda it: it.index_fill(0, torch.tensor([7]), float("nan")), r"anchor 7 is \[nan"),
    "corners swapped": ("gt_boxes", _box(50.0), r"image 1 has gt_box 0 \[50.0, .*x1 <= x2"),
    "boxes of five": ("gt_boxes", lambda it: [it[0], it[1].new_zeros(1, 5)], r"image 1 has gt_boxes of .* \[1, 5\]"),
    "one box without its list": ("gt_boxes", lambda it: [it[0], it[1][0]], r"image 1 has gt_boxes of .* \[4\]"),
    "an image too few": ("gt_boxes", lambda it: it[:1], r"2 images, 1 gt_boxes and 2 gt_labels do not pair up"),
    "a label too many": ("gt_labels", lambda it: [it[0], torch.tensor([1, 1])], r"image 1 has 1 gt_boxes and 2 gt_labels"),
    "a label without a box": ("gt_boxes", lambda it: [it[0], torch.zeros(0, 4)], r"image 1 has 0 gt_boxes and 1"),
    "a label of K": ("gt_labels", lambda it: [it[0], torch.tensor([3])], r"image 1 has label 3; labels are 0 to 2"),
    "a negative label": ("gt_labels", lambda it: [torch.tensor([0, -1]), it[1]], r"image 0 has label -1"),
    "uint8 beyond the classes": (
        "gt_labels", lambda it: [it[0], torch.tensor([200], dtype=torch.uint8)], r"image 1 has label 200"
    ),
    "labels of float": ("gt_labels", lambda it: [it[0], torch.tensor([1.0])], r"gt_labels of torch.float32; .*\.long\(\)"),
    "labels of bool": ("gt_labels", lambda it: [it[0], torch.tensor([True])], r"gt_labels of torch.bool"),
    "labels in a column": ("gt_labels", lambda it: [it[0], torch.tensor([[1]])], r"image 1 has 1 gt_boxes and 1 gt_labels \[1, 1\]"),
    "no labels at all": ("gt_labels", lambda it: None, r"gt_labels"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_what_does_not_fit_is_refused(loss: Any, case: str) -> None:
    """The line names the image, the value and what to give; no loss comes out of a part."""
    name, change, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        loss(**_changed(name, change))


SAME = {
    "anchors of a batch of one": ("anchors", lambda it: it[None]),
    "labels of uint8": ("gt_labels", lambda it: [own.to(torch.uint8) for own in it]),
    "labels of int32": ("gt_labels", lambda it: [own.int() for own in it]),
    "boxes of whole numbers": ("gt_boxes", lambda it: [own.long() for own in it]),
    "boxes in float64": ("gt_boxes", lambda it: [own.double() for own in it]),
    "tuples": ("gt_boxes", tuple),
}


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_other_forms_of_the_same_give_the_same(loss: Any, case: str) -> None:
    """Kinds of numbers and a leading 1 change nothing."""
    expected, found = loss(**_arguments()), loss(**_changed(*SAME[case]))
    assert {name: term.item() for name, term in found.items()} == {name: term.item() for name, term in expected.items()}


def _padded(arguments: dict[str, Any], num_rows: int) -> Tensor:
    """[B, M, 5] with rows of -1 behind, and between, the objects."""
    padded = torch.full((B, num_rows, 5), -1.0)
    for image, (boxes, labels) in enumerate(zip(arguments["gt_boxes"], arguments["gt_labels"], strict=True)):
        places = torch.arange(len(boxes)) * 2
        padded[image, places] = torch.cat([boxes, labels[:, None].float()], dim=1)
    return padded


@pytest.mark.parametrize("num_rows", [3, 9])
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_padded_targets_are_the_lists(loss: Any, num_rows: int) -> None:
    """In one tensor, or boxes [B, M, 4] beside labels [B, M]; rows of -1 are no objects wherever they stand."""
    arguments = _arguments()
    padded = _padded(arguments, num_rows)
    expected = {name: term.item() for name, term in loss(**arguments).items()}
    first = loss(arguments["logits"], arguments["deltas"], arguments["anchors"][None], padded)
    second = loss(**{**arguments, "gt_boxes": padded[..., :4], "gt_labels": padded[..., 4].long()})
    assert {name: term.item() for name, term in first.items()} == expected
    assert {name: term.item() for name, term in second.items()} == expected


@pytest.mark.parametrize("label", [0.5, 3.0, -2.0])
def test_padded_labels_that_are_no_classes_are_refused(label: float) -> None:
    """Only -1 is padding."""
    arguments = _arguments()
    padded = _padded(arguments, 3)
    padded[0, 0, 4] = label
    with pytest.raises(ValueError, match="label"):
        FreeAnchorLoss(bag_size=10)(arguments["logits"], arguments["deltas"], arguments["anchors"], padded)


@pytest.mark.parametrize("empty", [torch.tensor([]), torch.zeros(0, dtype=torch.int64)], ids=["float", "int64"])
@pytest.mark.parametrize("loss", LOSSES, ids=NAMES)
def test_tensor_of_nothing_is_an_image_without_objects(loss: Any, empty: Tensor) -> None:
    """`torch.tensor([])` as boxes and labels, whose shape and kind are torch's own choice."""
    arguments = _arguments()
    boxes, labels = [arguments["gt_boxes"][0], torch.tensor([])], [arguments["gt_labels"][0], empty]
    found = loss(**{**arguments, "gt_boxes": boxes, "gt_labels": labels})
    boxes, labels = [arguments["gt_boxes"][0], torch.zeros(0, 4)], [arguments["gt_labels"][0], torch.zeros(0).long()]
    expected = loss(**{**arguments, "gt_boxes": boxes, "gt_labels": labels})
    assert {name: term.item() for name, term in found.items()} == {name: term.item() for name, term in expected.items()}


@pytest.mark.parametrize("loss", LOSSES[:3], ids=NAMES[:3])
def test_huge_deltas_leave_a_finite_loss(loss: Any) -> None:
    """Of anchors that concern no object, 1e37 is multiplied with nothing; the gradients of all others are finite."""
    arguments = _arguments()
    arguments["deltas"][:, -1] = 1e37
    arguments["anchors"][-1] = torch.tensor([900.0, 900, 910, 910])
    leaf = arguments["deltas"].requires_grad_()
    total = sum(loss(**arguments).values())
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(leaf.grad[:, :-1]).all()


@pytest.mark.parametrize("bag_size", [10, 50])
def test_a_batch_without_objects_is_divided_once(bag_size: int) -> None:
    """Its background term is (1 - alpha) sum FL(p), over max(1, n |B|) = 1: as the authors' code and mmdetection's."""
    arguments = _arguments()
    logits = arguments["logits"].double()
    nothing = [torch.zeros(0, 4), torch.zeros(0, 4)], [torch.zeros(0).long(), torch.zeros(0).long()]
    loss = FreeAnchorLoss(bag_size=bag_size)
    terms = loss(logits, arguments["deltas"].double(), arguments["anchors"].double(), *nothing)
    expected = sum(0.5 * p**2 * -torch.log1p(-p) for p in logits.sigmoid().flatten()).item()
    assert terms["negative"].item() == pytest.approx(expected, rel=1e-12)
    assert terms["positive"].item() == 0
    dense = dense_loss(loss, logits, arguments["deltas"].double(), arguments["anchors"].double(), *nothing)
    assert dense[1].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("delta", [1e37, 3e38, -3e38])
def test_one_huge_delta_leaves_the_matches_of_other_anchors(delta: float) -> None:
    """A box decoded beyond float32 overlaps nothing; the object's other predictions are excused as before."""
    arguments = _arguments()
    arguments["anchors"][:2] = arguments["gt_boxes"][0][0] + torch.tensor([[0.0], [1.0]])
    arguments["deltas"][:, :2] = 0
    before = FreeAnchorLoss(bag_size=5)(**arguments)
    arguments["deltas"][0, -1] = delta
    after = FreeAnchorLoss(bag_size=5)(**arguments)
    assert after["negative"].item() == pytest.approx(before["negative"].item(), rel=1e-6)
    assert torch.isfinite(after["positive"])
