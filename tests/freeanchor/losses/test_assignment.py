"""RetinaNet's assignment by IoU: oracle in loops, torchvision's Matcher, thresholds and ties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import matching as oracle
from oracles.inputs import random_boxes
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from freeanchor import boxes
from freeanchor.losses.assignment import BACKGROUND, IGNORED
from freeanchor.losses.free_anchor import anchor_bags
from freeanchor.losses.iou_thresholds import IoUThresholds

WITHOUT_LOW_QUALITY = IoUThresholds(low_quality_matches=False)


def _scene(seed: int, num_anchors: int = 60, num_objects: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return random_boxes(num_anchors, generator), random_boxes(num_objects, generator)


def _assign(anchors: Tensor, gt_boxes: Tensor) -> list[int]:
    return IoUThresholds().assign(anchors, gt_boxes).tolist()


def _rows(boxes: Tensor) -> list[tuple]:
    return [tuple(box) for box in boxes.tolist()]


@given(st.integers(0, 10_000), st.booleans(), st.integers(0, 6))
def test_assignment_equals_the_oracle(seed: int, low_quality: bool, num_objects: int) -> None:
    """Every anchor gets the object, BACKGROUND or IGNORED that loops over the definition give it."""
    anchors, gt_boxes = _scene(seed, num_objects=num_objects)
    assignment = IoUThresholds(low_quality_matches=low_quality).assign(anchors, gt_boxes)
    assert assignment.dtype == torch.int64
    assert assignment.tolist() == oracle.assign(_rows(anchors), _rows(gt_boxes), 0.5, 0.4, low_quality)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize(("foreground", "background"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
def test_assignment_equals_torchvisions_matcher(low_quality: bool, foreground: float, background: float) -> None:
    """Torchvision's Matcher, which is maskrcnn-benchmark's, assigns the same; all three outcomes occur."""
    outcomes = set()
    rule = IoUThresholds(foreground_iou=foreground, background_iou=background, low_quality_matches=low_quality)
    for seed in range(5):
        anchors, gt_boxes = _scene(seed, num_anchors=300, num_objects=8)
        expected = Matcher(foreground, background, low_quality)(box_iou(gt_boxes, anchors))
        assignment = rule.assign(anchors, gt_boxes)
        torch.testing.assert_close(assignment, expected)
        outcomes |= {min(outcome, 0) for outcome in assignment.tolist()}
    assert outcomes == ({0, BACKGROUND, IGNORED} if foreground > background else {0, BACKGROUND})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gt_box", "expected"), [((0, 0, 4, 2), 0), ((0, 0, 8, 5), IGNORED), ((0, 0, 8, 5.1), -1)])
def test_thresholds_are_inclusive(gt_box: tuple, expected: int, dtype: torch.dtype) -> None:
    """IoU of exactly 0.5 is a match and of exactly 0.4 is ignored, not background."""
    anchors = torch.tensor([[0, 0, 4, 4]], dtype=dtype)
    objects = torch.tensor([gt_box], dtype=dtype)
    assert WITHOUT_LOW_QUALITY.assign(anchors, objects).item() == expected


def test_every_anchor_that_ties_for_an_objects_best_iou_is_matched() -> None:
    """A small object no anchor overlaps enough still gets all anchors of its best IoU, and only those."""
    anchors = torch.tensor([[0.0, 0, 20, 20], [5, 5, 25, 25], [40, 40, 60, 60]])
    gt_boxes = torch.tensor([[8.0, 8, 12, 12]])
    assert _assign(anchors, gt_boxes) == [0, 0, BACKGROUND]
    assert WITHOUT_LOW_QUALITY.assign(anchors, gt_boxes).tolist() == [BACKGROUND] * 3


def test_a_low_quality_match_goes_to_the_object_the_anchor_overlaps_most() -> None:
    """The only anchor near two objects is both objects' best, and learns the one it overlaps most."""
    anchors = torch.tensor([[0.0, 0, 20, 20], [80, 80, 99, 99]])
    gt_boxes = torch.tensor([[0.0, 0, 6, 6], [10, 10, 20, 20]])
    assert _assign(anchors, gt_boxes) == [1, BACKGROUND]


def test_identical_objects_share_by_order() -> None:
    """Of two identical objects every anchor takes the first."""
    anchors, gt_boxes = _scene(3, num_objects=1)
    twice = _assign(anchors, gt_boxes.expand(2, 4))
    assert twice == _assign(anchors, gt_boxes)
    assert 1 not in twice


def test_without_objects_everything_is_background() -> None:
    """An image without objects assigns BACKGROUND everywhere."""
    anchors, gt_boxes = _scene(4)
    assert _assign(anchors, gt_boxes[:0]) == [BACKGROUND] * 60


@pytest.mark.parametrize("at_a_time", [1, 50, 130])
def test_objects_taken_some_at_a_time_give_the_same_matches(monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    """Bags and assignment do not depend on how many overlaps are held at once, identical objects included."""
    anchors, gt_boxes = _scene(5)
    gt_boxes = torch.cat([gt_boxes, gt_boxes[:2]])
    whole = anchor_bags(anchors, gt_boxes, 7), IoUThresholds().assign(anchors, gt_boxes)
    monkeypatch.setattr(boxes, "IOUS_AT_A_TIME", at_a_time)
    in_parts = anchor_bags(anchors, gt_boxes, 7), IoUThresholds().assign(anchors, gt_boxes)
    torch.testing.assert_close(in_parts, whole, rtol=0, atol=0)
