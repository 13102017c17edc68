"""What the losses share: the focal loss of background scores in one fast pass, smooth-L1, and the checks of arguments.

Of millions of scores a few hundred concern an object. `background_focal_loss` sums the loss of all others, for which
value and gradient are functions of the logit alone: both come from one pass, piece by piece, so that what lies between
stays in the processor's cache and the only large tensor made is the gradient itself. The few exceptions come back as a
short vector with its gradient, for the losses to do with as they like.

    background, few = background_focal_loss(logits, exceptions, gamma=2.0)
    loss = background + some_function(few)
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Terms = dict[str, Tensor]  # by name; their sum is what to minimise
# From this process's count of what a loss is divided by, to the count over all processes that share the batch.
TotalCount = Callable[[int], int]

PIECE_ON_CPU = 2**17  # scores: four float32 buffers of 512 KiB, enough for two threads to share
PIECE_ON_ACCELERATOR = 2**23  # scores: few launches, and buffers small beside the logits


def background_focal_loss(
    logits: Float[Tensor, "*N"], exceptions: Int[Tensor, "T"], gamma: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "T"]]:
    """Sum of FL(p) = -p^gamma log(1 - p) (Sec. 3.3) over all scores but the exceptions, and the exceptions' logits.

    `exceptions` are places in the flattened logits, rising and without repeats. Both results are float32 or wider
    whatever comes in; both pass their gradient to the logits, once: it has no derivative of its own.
    """
    # Inside a Function neither no_grad nor a detached tensor shows: a tensor without gradient asks for no buffer.
    return _OnePass.apply(logits if torch.is_grad_enabled() else logits.detach(), exceptions, gamma)


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, exceptions: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Sum over the scores, and the exceptions' logits."""
        ctx.save_for_backward(logits, exceptions)
        ctx.gamma = gamma
        ctx.gradient = _empty_gradient(logits) if ctx.needs_input_grad[0] else None
        flat = logits.reshape(-1)
        return _sweep(flat, exceptions, gamma, ctx.gradient), widen(flat[exceptions])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, of_few: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits; the buffer is given away, and a second call fills another."""
        logits, exceptions = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = _empty_gradient(logits)
            _sweep(logits.reshape(-1), exceptions, ctx.gamma, gradient)
        gradient.mul_(of_sum)
        gradient[exceptions] = of_few.to(gradient.dtype)
        return gradient.view(logits.shape).to(logits.dtype), None, None


def _empty_gradient(logits: Tensor) -> Tensor:
    """Room for the gradient: in float32 for float16, where it would vanish before a loss scale could save it."""
    dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    return torch.empty(logits.numel(), dtype=dtype, device=logits.device)


def _sweep(flat: Tensor, exceptions: Tensor, gamma: float, gradient: Tensor | None) -> Tensor:
    """The sum over all but the exceptions; fills `gradient` [N] where one is given, exceptions included."""
    piece = PIECE_ON_CPU if flat.device.type == "cpu" else PIECE_ON_ACCELERATOR
    starts = range(0, len(flat), piece)
    ends = torch.tensor([*starts, len(flat)], device=flat.device)
    borders = torch.searchsorted(exceptions, ends).tolist()
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    for place, start in enumerate(starts):
        logit = widen(flat[start : start + piece])
        prob = logit.sigmoid()
        power = prob * prob if gamma == 2 else prob.pow(gamma)
        focal = functional.softplus(logit).mul_(power)
        if gradient is not None:
            # d/dx of p^gamma softplus(x) = gamma p^gamma (1 - p) softplus(x) + p^gamma p
            slope = torch.addcmul(focal, focal, prob, value=-1).mul_(gamma)
            gradient[start : start + piece] = slope.addcmul_(power, prob)
        if borders[place] < borders[place + 1]:
            focal[exceptions[borders[place] : borders[place + 1]] - start] = 0
        total += focal.sum()
    return total.to(torch.promote_types(flat.dtype, torch.float32))


def widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is wider already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def smooth_l1(
    deltas: Float[Tensor, "*N 4"], targets: Float[Tensor, "*N 4"], smooth_l1_beta: float
) -> Float[Tensor, "*N"]:
    """Smooth-L1 distance summed over the four deltas; plain L1 at beta 0."""
    return functional.smooth_l1_loss(deltas, targets, reduction="none", beta=smooth_l1_beta).sum(dim=-1)


def check_settings(alpha: float, gamma: float, smooth_l1_beta: float, box_weight: float) -> None:
    """Refuse focal and box parameters that give no loss: ValueError."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    if not (gamma == 0 or gamma >= 1):
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}; between, the gradient at score 0 is infinite")
    if smooth_l1_beta < 0 or box_weight < 0:
        raise ValueError(f"smooth_l1_beta and box_weight must not be negative, got {smooth_l1_beta} and {box_weight}")
