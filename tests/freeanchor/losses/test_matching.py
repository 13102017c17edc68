"""Both ways of matching: assignment by IoU, bags, and the match probability; Mean-max has a file of its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import matching as oracle
from oracles.inputs import random_boxes
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from freeanchor.boxes import pairwise_iou
from freeanchor.losses import matching
from freeanchor.losses.assignment import BACKGROUND, IGNORED, assign_by_iou
from freeanchor.losses.matching import anchor_bags, match_probability, matched_predictions, saturated_linear

seeds = st.integers(0, 10_000)
fractions = st.floats(0, 1)
iou_rows = st.integers(1, 12).flatmap(
    lambda width: st.lists(st.lists(fractions, min_size=width, max_size=width), min_size=1, max_size=4)
)
thresholds = st.floats(0.05, 0.95)


def _scene(seed: int, num_anchors: int = 60, num_objects: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return random_boxes(num_anchors, generator), random_boxes(num_objects, generator)


def _rows(boxes: Tensor) -> list[tuple]:
    return [tuple(box) for box in boxes.tolist()]


@given(seeds, st.booleans(), st.integers(0, 6))
def test_assignment_equals_the_oracle(seed: int, low_quality: bool, num_objects: int) -> None:
    """Every anchor gets the object, BACKGROUND or IGNORED that loops over the definition give it."""
    anchors, gt_boxes = _scene(seed, num_objects=num_objects)
    assignment = assign_by_iou(anchors, gt_boxes, low_quality_matches=low_quality)
    assert assignment.dtype == torch.int64
    assert assignment.tolist() == oracle.assign(_rows(anchors), _rows(gt_boxes), 0.5, 0.4, low_quality)


@pytest.mark.parametrize("low_quality", [True, False])
@pytest.mark.parametrize(("foreground", "background"), [(0.5, 0.4), (0.7, 0.3), (0.5, 0.5)])
def test_assignment_equals_torchvisions_matcher(low_quality: bool, foreground: float, background: float) -> None:
    """Torchvision's Matcher, which is maskrcnn-benchmark's, assigns the same; all three outcomes occur."""
    outcomes = set()
    for seed in range(5):
        anchors, gt_boxes = _scene(seed, num_anchors=300, num_objects=8)
        expected = Matcher(foreground, background, low_quality)(box_iou(gt_boxes, anchors))
        assignment = assign_by_iou(
            anchors,
            gt_boxes,
            foreground_iou=foreground,
            background_iou=background,
            low_quality_matches=low_quality,
        )
        torch.testing.assert_close(assignment, expected)
        outcomes |= {min(outcome, 0) for outcome in assignment.tolist()}
    assert outcomes == ({0, BACKGROUND, IGNORED} if foreground > background else {0, BACKGROUND})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gt_box", "expected"), [((0, 0, 4, 2), 0), ((0, 0, 8, 5), IGNORED), ((0, 0, 8, 5.1), -1)])
def test_thresholds_are_inclusive(gt_box: tuple, expected: int, dtype: torch.dtype) -> None:
    """IoU of exactly 0.5 is a match and of exactly 0.4 is ignored, not background."""
    anchors = torch.tensor([[0, 0, 4, 4]], dtype=dtype)
    objects = torch.tensor([gt_box], dtype=dtype)
    assert assign_by_iou(anchors, objects, low_quality_matches=False).item() == expected


def test_every_anchor_that_ties_for_an_objects_best_iou_is_matched() -> None:
    """A small object no anchor overlaps enough still gets all anchors of its best IoU, and only those."""
    anchors = torch.tensor([[0.0, 0, 20, 20], [5, 5, 25, 25], [40, 40, 60, 60]])
    gt_boxes = torch.tensor([[8.0, 8, 12, 12]])
    assert assign_by_iou(anchors, gt_boxes).tolist() == [0, 0, BACKGROUND]
    assert assign_by_iou(anchors, gt_boxes, low_quality_matches=False).tolist() == [BACKGROUND] * 3


def test_a_low_quality_match_goes_to_the_object_the_anchor_overlaps_most() -> None:
    """The only anchor near two objects is both objects' best, and learns the one it overlaps most."""
    anchors = torch.tensor([[0.0, 0, 20, 20], [80, 80, 99, 99]])
    gt_boxes = torch.tensor([[0.0, 0, 6, 6], [10, 10, 20, 20]])
    assert assign_by_iou(anchors, gt_boxes).tolist() == [1, BACKGROUND]


def test_identical_objects_share_by_order() -> None:
    """Of two identical objects every anchor takes the first."""
    anchors, gt_boxes = _scene(3, num_objects=1)
    twice = assign_by_iou(anchors, gt_boxes.expand(2, 4))
    assert twice.tolist() == assign_by_iou(anchors, gt_boxes).tolist()
    assert 1 not in twice


def test_without_objects_everything_is_background() -> None:
    """An image without objects assigns BACKGROUND everywhere."""
    anchors, gt_boxes = _scene(4)
    assert assign_by_iou(anchors, gt_boxes[:0]).tolist() == [BACKGROUND] * 60


@given(seeds, st.integers(1, 80))
def test_bags_equal_the_oracle(seed: int, bag_size: int) -> None:
    """A bag holds the anchors of highest IoU, best first, and all of them where there are fewer than its size."""
    anchors, gt_boxes = _scene(seed)
    bags = anchor_bags(anchors, gt_boxes, bag_size)
    assert bags.shape == (5, min(bag_size, 60))
    overlaps = pairwise_iou(gt_boxes, anchors)
    for i, gt_box in enumerate(_rows(gt_boxes)):
        expected = oracle.bag(_rows(anchors), gt_box, bag_size)
        # Anchors that do not touch the object tie at 0 and may come in any order.
        assert overlaps[i, bags[i]].tolist() == pytest.approx(overlaps[i, expected].tolist(), abs=1e-12)
        touching = int((overlaps[i] > 0).sum())
        assert bags[i, :touching].tolist() == expected[:touching]
        assert len(set(bags[i].tolist())) == min(bag_size, 60)


def test_bags_of_no_objects_are_none() -> None:
    """An image without objects has a [0, n] tensor of bags."""
    anchors, gt_boxes = _scene(5)
    assert anchor_bags(anchors, gt_boxes[:0], 50).shape == (0, 50)
    assert anchor_bags(anchors[:7], gt_boxes[:0], 50).shape == (0, 7)


@given(st.floats(-1, 2), st.floats(0, 0.9), st.floats(0.01, 1))
def test_saturated_linear_equals_the_oracle(x: float, t1: float, gap: float) -> None:
    """0 up to t1, 1 from t2, a straight line between (Sec. 3.2)."""
    value = saturated_linear(torch.tensor([x], dtype=torch.float64), t1, torch.tensor([t1 + gap], dtype=torch.float64))
    assert value.item() == pytest.approx(oracle.saturated_linear(x, t1, t1 + gap), abs=1e-9)


@given(iou_rows, thresholds)
def test_match_probability_equals_the_oracle(iou: list[list[float]], match_iou: float) -> None:
    """Each object's row is the saturated line from the threshold to the row's best IoU."""
    expected = [[oracle.saturated_linear(x, match_iou, max(row)) for x in row] for row in iou]
    match_prob = match_probability(torch.tensor(iou, dtype=torch.float64), match_iou)
    torch.testing.assert_close(match_prob, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(iou_rows, thresholds)
def test_match_probability_has_the_papers_three_properties(iou: list[list[float]], match_iou: float) -> None:
    """It rises with IoU, is 0 up to the threshold, and is 1 at an object's best IoU above the threshold."""
    overlaps = torch.tensor(iou, dtype=torch.float64)
    match_prob = match_probability(overlaps, match_iou)
    by_iou = match_prob.gather(1, overlaps.argsort(dim=1))
    assert (by_iou.diff(dim=1) >= 0).all()
    assert (match_prob[overlaps <= match_iou] == 0).all()
    best, place = overlaps.max(dim=1)
    at_best = match_prob.gather(1, place[:, None])[:, 0]
    assert torch.equal(at_best, (best > match_iou).to(at_best.dtype))


def test_match_probability_is_zero_where_the_best_iou_is_the_threshold() -> None:
    """Best IoU of exactly float32(0.6) gives 0 where the authors' code gives nan; the next float gives 1."""
    threshold = torch.tensor(0.6)
    above = torch.nextafter(threshold, torch.tensor(1.0))
    iou = torch.stack([torch.stack([threshold, threshold]), torch.stack([above, threshold])])
    assert match_probability(iou, 0.6).tolist() == [[0.0, 0.0], [1.0, 0.0]]


@given(iou_rows, thresholds)
def test_matched_predictions_are_the_entries_above_zero(iou: list[list[float]], match_iou: float) -> None:
    """The sparse form holds exactly the dense form's positive entries, in its order."""
    dense = match_probability(torch.tensor(iou), match_iou)
    objects, anchors, prob = matched_predictions(torch.tensor(iou), match_iou)
    expected = dense.nonzero()
    torch.testing.assert_close(torch.stack([objects, anchors], dim=1), expected, rtol=0, atol=0)
    torch.testing.assert_close(prob, dense[dense > 0], rtol=0, atol=0)


@pytest.mark.parametrize("at_a_time", [1, 50, 130])
def test_objects_taken_some_at_a_time_give_the_same_matches(monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    """Bags and assignment do not depend on how many overlaps are held at once, identical objects included."""
    anchors, gt_boxes = _scene(5)
    gt_boxes = torch.cat([gt_boxes, gt_boxes[:2]])
    whole = anchor_bags(anchors, gt_boxes, 7), assign_by_iou(anchors, gt_boxes)
    monkeypatch.setattr(matching, "IOUS_AT_A_TIME", at_a_time)
    in_parts = anchor_bags(anchors, gt_boxes, 7), assign_by_iou(anchors, gt_boxes)
    torch.testing.assert_close(in_parts, whole, rtol=0, atol=0)


def test_ties_for_the_best_iou_all_get_one() -> None:
    """Several predictions may have probability 1 (D3)."""
    assert match_probability(torch.tensor([[0.8, 0.7, 0.8]], dtype=torch.float64), 0.6)[0, [0, 2]].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_match_probability_is_computed_in_float32_or_wider(dtype: torch.dtype) -> None:
    """Half-precision IoU near the threshold gives finite float32 probabilities."""
    iou = torch.linspace(0.55, 0.65, 40).to(dtype)[:, None].expand(40, 3)
    match_prob = match_probability(iou, 0.6)
    assert match_prob.dtype == torch.float32
    assert ((match_prob == 0) | (match_prob == 1)).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_match_probability_of_nothing_is_empty(shape: tuple[int, int]) -> None:
    """No objects or no anchors give an empty matrix."""
    assert match_probability(torch.zeros(shape), 0.6).shape == shape
