"""The parts of Eq. 7: bags, Mean-max (Sec. 3.3, Fig. 3), the saturated linear function and the match probability."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import matching as oracle
from oracles.inputs import random_boxes
from torch import Tensor

from freeanchor.boxes import pairwise_iou
from freeanchor.losses.free_anchor import (
    anchor_bags,
    effective_anchors,
    match_probability,
    mean_max,
    saturated_linear,
)

seeds = st.integers(0, 10_000)
fractions = st.floats(0, 1)
iou_rows = st.integers(1, 12).flatmap(
    lambda width: st.lists(st.lists(fractions, min_size=width, max_size=width), min_size=1, max_size=4)
)
thresholds = st.floats(0.05, 0.95)
confidences = st.lists(st.floats(0, 0.999), min_size=1, max_size=20)


def _scene(seed: int, num_anchors: int = 60, num_objects: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return random_boxes(num_anchors, generator), random_boxes(num_objects, generator)


def _rows(boxes: Tensor) -> list[tuple]:
    return [tuple(box) for box in boxes.tolist()]


def _bag(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


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


def _match_probability(iou: Tensor, match_iou: float) -> Tensor:
    """P{a_j -> b_i} of every pair, which is the same where only the pairs above the threshold are asked for."""
    t = torch.tensor(match_iou, dtype=iou.dtype).item()
    objects, anchors = (iou > t).nonzero(as_tuple=True)
    dense = torch.zeros_like(iou)
    dense[objects, anchors] = match_probability(objects, iou[objects, anchors], len(iou), t)
    every = torch.arange(len(iou)).repeat_interleave(iou.shape[1])
    assert torch.equal(match_probability(every, iou.flatten(), len(iou), t).view_as(iou), dense)
    assert torch.equal(dense.nonzero(), (iou > t).nonzero())
    return dense


@given(iou_rows, thresholds)
def test_match_probability_equals_the_oracle(iou: list[list[float]], match_iou: float) -> None:
    """Each object's row is the saturated line from the threshold to the row's best IoU; only what is above 0 is listed."""
    expected = [[oracle.saturated_linear(x, match_iou, max(row)) for x in row] for row in iou]
    match_prob = _match_probability(torch.tensor(iou, dtype=torch.float64), match_iou)
    torch.testing.assert_close(match_prob, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(iou_rows, thresholds)
def test_match_probability_has_the_papers_three_properties(iou: list[list[float]], match_iou: float) -> None:
    """It rises with IoU, is 0 up to the threshold, and is 1 at an object's best IoU above the threshold."""
    overlaps = torch.tensor(iou, dtype=torch.float64)
    match_prob = _match_probability(overlaps, match_iou)
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
    assert _match_probability(iou, 0.6).tolist() == [[0.0, 0.0], [1.0, 0.0]]


def test_ties_for_the_best_iou_all_get_one() -> None:
    """Several predictions may have probability 1 (D3)."""
    assert _match_probability(torch.tensor([[0.8, 0.7, 0.8]], dtype=torch.float64), 0.6)[0, [0, 2]].tolist() == [1, 1]


def test_match_probability_of_no_objects_is_empty() -> None:
    """No objects, no matches."""
    assert _match_probability(torch.zeros(0, 5), 0.6).shape == (0, 5)


@given(confidences)
def test_mean_max_equals_the_papers_formula(values: list[float]) -> None:
    """It is sum x / (1 - x) over sum 1 / (1 - x)."""
    assert mean_max(_bag(values)).item() == pytest.approx(oracle.mean_max(values), rel=1e-9, abs=1e-12)


@given(confidences)
def test_mean_max_is_one_minus_the_harmonic_mean_of_the_misses(values: list[float]) -> None:
    """Closed form: 1 - n / sum 1 / (1 - x)."""
    closed = 1 - len(values) / (1 / (1 - _bag(values))).sum().item()
    assert mean_max(_bag(values)).item() == pytest.approx(closed, abs=1e-9)


@given(confidences)
def test_mean_max_lies_between_mean_and_maximum(values: list[float]) -> None:
    """It is never below the mean nor above the greatest confidence."""
    value = mean_max(_bag(values)).item()
    assert sum(values) / len(values) - 1e-9 <= value <= max(values) + 1e-9


@given(confidences)
def test_mean_max_gradient_flows_through_the_weights(values: list[float]) -> None:
    """d Mean-max / dx_j is ((1 - Mean-max) / (1 - x_j))^2 / n, which detached weights do not give (D6)."""
    bag = _bag(values).requires_grad_()
    value = mean_max(bag)
    value.backward()
    expected = ((1 - value.detach()) / (1 - bag.detach())) ** 2 / len(values)
    torch.testing.assert_close(bag.grad, expected, rtol=1e-6, atol=1e-9)


def test_mean_max_gradient_passes_gradcheck() -> None:
    """The analytic gradient equals finite differences over a batch of bags."""
    bags = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9
    assert torch.autograd.gradcheck(mean_max, bags.requires_grad_())


@given(st.lists(st.floats(0, 1e-3), min_size=1, max_size=20))
def test_mean_max_is_the_mean_at_the_start(values: list[float]) -> None:
    """While every confidence is at most e, it exceeds the mean by at most e^2 / (1 - e)."""
    assert 0 <= mean_max(_bag(values)).item() - sum(values) / len(values) + 1e-12 <= 1.1e-6


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=20), st.floats(1e-11, 1e-6))
def test_mean_max_is_the_maximum_in_the_end(values: list[float], miss: float) -> None:
    """As one confidence nears 1, it nears that confidence: within n times what is missing."""
    value = mean_max(_bag([*values, 1 - miss])).item()
    assert 1 - value <= 1.001 * (len(values) + 1) * miss


@given(st.floats(0, 0.999), st.integers(1, 50))
def test_mean_max_of_equal_confidences_is_that_confidence(value: float, size: int) -> None:
    """A bag of one, or of equals, gives its confidence and uses all of its anchors."""
    bag = _bag([value] * size)
    assert mean_max(bag).item() == pytest.approx(value, abs=1e-9)
    assert effective_anchors(bag).item() == pytest.approx(size, rel=1e-6)


@given(confidences)
def test_effective_anchors_equal_the_oracle(values: list[float]) -> None:
    """One over the sum of squared shares: between 1 and the size of the bag."""
    number = effective_anchors(_bag(values)).item()
    assert number == pytest.approx(oracle.effective_anchors(values), rel=1e-6)
    assert 1 - 1e-6 <= number <= len(values) + 1e-6


def test_one_dominating_anchor_counts_as_one() -> None:
    """With one confidence next to 1 the effective number of anchors is 1."""
    assert effective_anchors(_bag([0.2] * 49 + [1 - 1e-9])).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [1.0, 0.5], [1.0], [0.0, 0.0], [0.0, 1.0]])
def test_mean_max_saturated_confidences_stay_finite(values: list[float], dtype: torch.dtype) -> None:
    """Confidences of exactly 0 and 1 give a value in [0, 1], up to rounding, and finite gradients."""
    bag = torch.tensor(values, dtype=dtype, requires_grad=True)
    value = mean_max(bag)
    value.backward()
    assert value.item() == pytest.approx(max(values), abs=1e-6)
    assert bag.grad.isfinite().all()


def test_mean_max_a_saturated_confidence_still_passes_its_gradient() -> None:
    """The floor under 1 - x is straight-through: where it acts the gradient is the formula's, not 0."""
    bag = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    mean_max(bag).backward()
    assert bag.grad[0].item() == pytest.approx(2.0, rel=1e-3)  # ((1 - mm) / 1e-12)^2 / 2 with 1 - mm = 2e-12


def test_mean_max_works_along_the_last_axis() -> None:
    """Every bag of a [G, n] tensor is treated apart; no bags give no values."""
    bags = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(mean_max(bags), torch.stack([mean_max(bag) for bag in bags]))
    torch.testing.assert_close(effective_anchors(bags), torch.stack([effective_anchors(bag) for bag in bags]))
    assert mean_max(bags[:0]).shape == effective_anchors(bags[:0]).shape == (0,)
