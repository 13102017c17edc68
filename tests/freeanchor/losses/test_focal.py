"""`background_focal_loss`: one pass in pieces equals the formula over everything, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from freeanchor.losses import focal
from freeanchor.losses.focal import background_focal_loss


def _by_formula(logits: Tensor, exceptions: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The same two results by plain autograd."""
    is_background = torch.ones(logits.numel(), dtype=torch.bool)
    is_background[exceptions] = False
    flat = logits.reshape(-1)
    return (flat.sigmoid() ** gamma * functional.softplus(flat))[is_background].sum(), flat[exceptions]


def _case(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (2, 25, 7)) -> tuple[Tensor, Tensor]:
    """Logits from -30 to 19 (softplus is linear from 20 on), and some exceptions, the first and the last score among them."""
    generator = torch.Generator().manual_seed(0)
    logits = (8 * torch.randn(shape, generator=generator, dtype=torch.float64)).clamp(-30, 19).to(dtype)
    count = logits.numel()
    exceptions = torch.cat([torch.randint(count, (20,), generator=generator), torch.tensor([0, count - 1])]).unique()
    return logits.requires_grad_(), exceptions


@pytest.mark.parametrize("gamma", [0.0, 1.0, 1.5, 2.0, 2.5])
@pytest.mark.parametrize("piece", [1, 16, 64, 350, 10_000])
def test_pieces_of_any_size_give_the_formulas_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch, gamma: float, piece: int
) -> None:
    """The sum, the exceptions and the gradient of a function of both equal the formula's to 1e-12."""
    monkeypatch.setattr(focal, "PIECE_ON_CPU", piece)
    logits, exceptions = _case()
    results = []
    for function in (background_focal_loss, _by_formula):
        background, few = function(logits, exceptions, gamma)
        (gradient,) = torch.autograd.grad(3 * background + few.square().sum(), logits)
        results.append((background.detach(), few.detach(), gradient))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_a_second_backward_gives_the_same_gradient() -> None:
    """The buffer is given away by the first call; the second fills a new one and leaves the first gradient alone."""
    logits, exceptions = _case()
    background, few = background_focal_loss(logits, exceptions, 2.0)
    total = background + few.sum()
    (first,) = torch.autograd.grad(total, logits, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(2 * total, logits)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)
    torch.testing.assert_close(second, 2 * kept, rtol=1e-15, atol=0)


def test_exceptions_that_nobody_uses_get_no_gradient() -> None:
    """Ignored anchors do not learn: without a use of the exceptions their gradient is 0."""
    logits, exceptions = _case()
    background, _ = background_focal_loss(logits, exceptions, 2.0)
    background.backward()
    assert (logits.grad.flatten()[exceptions] == 0).all()
    assert (logits.grad != 0).sum() > logits.numel() // 2


def test_a_slice_that_is_not_contiguous_is_read_in_its_own_order() -> None:
    """Transposed logits give the transposed gradient."""
    logits, _ = _case()
    nothing = torch.empty(0, dtype=torch.int64)
    (plain,) = torch.autograd.grad(background_focal_loss(logits, nothing, 2.0)[0], logits)
    turned = logits.detach().transpose(0, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(background_focal_loss(turned, nothing, 2.0)[0], turned)
    torch.testing.assert_close(gradient.transpose(0, 2), plain, rtol=1e-12, atol=0)


def test_silent_background_is_not_lost_beside_loud_exceptions() -> None:
    """In float32 the sum keeps 1e-5 of its accuracy though the exceptions' losses are a million times as large."""
    logits = torch.full((1, 4000, 1), -8.0)
    exceptions = torch.arange(0, 4000, 4)
    logits.view(-1)[exceptions] = 30.0
    expected = _by_formula(logits.double(), exceptions, 2.0)[0]
    assert background_focal_loss(logits, exceptions, 2.0)[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_half_precision_has_the_gradient_of_float32_rounded_once() -> None:
    """Float16 gradients that only a loss scale lifts above its smallest number survive."""
    logits = torch.full((1, 8, 1), -8.0)
    nothing = torch.empty(0, dtype=torch.int64)
    scale = 2.0**24
    gradients = []
    for dtype in (torch.float32, torch.float16):
        leaf = logits.to(dtype).requires_grad_()
        background, _ = background_focal_loss(leaf, nothing, 2.0)
        assert background.dtype == torch.float32
        (gradient,) = torch.autograd.grad(scale * background, leaf)
        gradients.append(gradient)
    assert gradients[1].dtype == torch.float16
    assert (gradients[1] > 0).all()
    torch.testing.assert_close(gradients[1].float(), gradients[0], rtol=1e-3, atol=0)


def test_without_gradient_no_buffer_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating the loss alone costs no memory of the logits' size."""

    def refuse(logits: Tensor) -> Tensor:
        raise AssertionError(f"a buffer of {logits.numel()} was asked for")

    monkeypatch.setattr(focal, "_empty_gradient", refuse)
    logits, exceptions = _case()
    with torch.no_grad():
        background, _ = background_focal_loss(logits, exceptions, 2.0)
    assert background > 0
    background_focal_loss(logits.detach(), exceptions, 2.0)
