"""Mean-max (Sec. 3.3, Fig. 3): the paper's formula, its closed form, its gradient, and its two limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import matching as oracle
from torch import Tensor

from freeanchor.losses.matching import effective_anchors, mean_max

confidences = st.lists(st.floats(0, 0.999), min_size=1, max_size=20)


def _bag(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(confidences)
def test_equals_the_papers_formula(values: list[float]) -> None:
    """It is sum x / (1 - x) over sum 1 / (1 - x)."""
    assert mean_max(_bag(values)).item() == pytest.approx(oracle.mean_max(values), rel=1e-9, abs=1e-12)


@given(confidences)
def test_is_one_minus_the_harmonic_mean_of_the_misses(values: list[float]) -> None:
    """Closed form: 1 - n / sum 1 / (1 - x)."""
    closed = 1 - len(values) / (1 / (1 - _bag(values))).sum().item()
    assert mean_max(_bag(values)).item() == pytest.approx(closed, abs=1e-9)


@given(confidences)
def test_lies_between_mean_and_maximum(values: list[float]) -> None:
    """It is never below the mean nor above the greatest confidence."""
    value = mean_max(_bag(values)).item()
    assert sum(values) / len(values) - 1e-9 <= value <= max(values) + 1e-9


@given(confidences)
def test_gradient_flows_through_the_weights(values: list[float]) -> None:
    """d Mean-max / dx_j is ((1 - Mean-max) / (1 - x_j))^2 / n, which detached weights do not give (D6)."""
    bag = _bag(values).requires_grad_()
    value = mean_max(bag)
    value.backward()
    expected = ((1 - value.detach()) / (1 - bag.detach())) ** 2 / len(values)
    torch.testing.assert_close(bag.grad, expected, rtol=1e-6, atol=1e-9)


def test_gradient_passes_gradcheck() -> None:
    """The analytic gradient equals finite differences over a batch of bags."""
    bags = torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.9
    assert torch.autograd.gradcheck(mean_max, bags.requires_grad_())


@given(st.lists(st.floats(0, 1e-3), min_size=1, max_size=20))
def test_is_the_mean_at_the_start(values: list[float]) -> None:
    """While every confidence is at most e, it exceeds the mean by at most e^2 / (1 - e)."""
    assert 0 <= mean_max(_bag(values)).item() - sum(values) / len(values) + 1e-12 <= 1.1e-6


@given(st.lists(st.floats(0, 0.9), min_size=1, max_size=20), st.floats(1e-11, 1e-6))
def test_is_the_maximum_in_the_end(values: list[float], miss: float) -> None:
    """As one confidence nears 1, it nears that confidence: within n times what is missing."""
    value = mean_max(_bag([*values, 1 - miss])).item()
    assert 1 - value <= 1.001 * (len(values) + 1) * miss


@given(st.floats(0, 0.999), st.integers(1, 50))
def test_of_equal_confidences_is_that_confidence(value: float, size: int) -> None:
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
def test_saturated_confidences_stay_finite(values: list[float], dtype: torch.dtype) -> None:
    """Confidences of exactly 0 and 1 give a value in [0, 1], up to rounding, and finite gradients."""
    bag = torch.tensor(values, dtype=dtype, requires_grad=True)
    value = mean_max(bag)
    value.backward()
    assert value.item() == pytest.approx(max(values), abs=1e-6)
    assert bag.grad.isfinite().all()


def test_a_saturated_confidence_still_passes_its_gradient() -> None:
    """The floor under 1 - x is straight-through: where it acts the gradient is the formula's, not 0."""
    bag = torch.tensor([1.0, 0.5], dtype=torch.float64, requires_grad=True)
    mean_max(bag).backward()
    assert bag.grad[0].item() == pytest.approx(2.0, rel=1e-3)  # ((1 - mm) / 1e-12)^2 / 2 with 1 - mm = 2e-12


def test_works_along_the_last_axis() -> None:
    """Every bag of a [G, n] tensor is treated apart; no bags give no values."""
    bags = torch.rand(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(mean_max(bags), torch.stack([mean_max(bag) for bag in bags]))
    torch.testing.assert_close(effective_anchors(bags), torch.stack([effective_anchors(bag) for bag in bags]))
    assert mean_max(bags[:0]).shape == effective_anchors(bags[:0]).shape == (0,)
