"""What the losses share: the focal loss of background scores in one fast pass, smooth-L1, and the checks of arguments.

Of millions of scores a few hundred concern an object. `background_focal_loss` sums the loss of all others, for which
value and gradient are functions of the logit alone: both come from one pass, piece by piece, so that what lies between
stays in the processor's cache and the only large tensor made is the gradient itself. On a GPU with Triton the pass is
one kernel (`fused.py`). The few exceptions come back as a short vector with its gradient, for the losses to do with as
they like.

A device that works on its own is waited for wherever a shape depends on values; `rising` and `places_where` keep that
to one wait per loss.

    background, few = background_focal_loss(logits, exceptions, gamma=2.0)
    loss = background + some_function(few)
"""

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
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

    `exceptions` are places in the flattened logits, rising and without repeats; after them may come places beyond the
    end, whose logits mean nothing and learn nothing. Both results are float32 or wider whatever comes in; both pass
    their gradient to the logits, once: it has no derivative of its own.
    """
    # Inside a Function neither no_grad nor a detached tensor shows: a tensor without gradient asks for no buffer.
    return _OnePass.apply(logits if torch.is_grad_enabled() else logits.detach(), exceptions, gamma)


def is_asynchronous(device: torch.device) -> bool:
    """Whether a value read from the device waits until all work asked of it is done."""
    return device.type != "cpu"


def rising(places: Int[Tensor, "T"], end: int) -> Int[Tensor, "_"]:
    """Places in rising order, each once; on an asynchronous device filled up with `end`, so that the shape is known."""
    if not is_asynchronous(places.device):
        return places.unique()
    places = places.sort().values
    is_first = torch.ones_like(places, dtype=torch.bool)
    is_first[1:] = places[1:] != places[:-1]
    return torch.full_like(places, end).scatter_(0, is_first.cumsum(0) - 1, places)


def places_where(*masks: Bool[Tensor, "..."]) -> list[Int[Tensor, "_"]]:
    """Where each mask holds, as places in the flattened mask, rising; waits for the device once for all of them."""
    if not is_asynchronous(masks[0].device):
        return [mask.flatten().nonzero()[:, 0] for mask in masks]
    counts = torch.stack([mask.count_nonzero() for mask in masks]).tolist()
    return [torch.nonzero_static(mask.flatten(), size=n)[:, 0] for mask, n in zip(masks, counts, strict=True)]


@lru_cache
def kernels_for(device: torch.device) -> ModuleType | None:
    """`fused.py` where the device is a CUDA GPU and Triton can compile for it; else None, with a warning on a GPU."""
    if device.type != "cuda":
        return None
    try:
        from freeanchor.losses import fused

        fused.background_sum(torch.zeros(1, device=device), torch.empty(0, dtype=torch.int64, device=device), 2.0)
    except Exception as error:  # Triton is missing, finds no compiler, does not know the GPU: many kinds
        warnings.warn(f"no fused focal loss on {device}, the slower pass is taken: {error!r:.200}", stacklevel=2)
        return None
    return fused


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, exceptions: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
        """Sum over the scores, and the exceptions' logits."""
        ctx.save_for_backward(logits, exceptions)
        ctx.gamma = gamma
        flat = logits.reshape(-1)
        few = widen(flat[exceptions.clamp(max=len(flat) - 1)])
        ctx.kernels, ctx.gradient = kernels_for(logits.device), None
        if ctx.kernels:
            return ctx.kernels.background_sum(flat, exceptions, gamma), few
        if ctx.needs_input_grad[0]:
            ctx.gradient = _empty_gradient(logits)
        return _sweep(flat, exceptions, gamma, ctx.gradient), few

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor, of_few: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of the logits; the buffer is given away, and a second call fills another."""
        logits, exceptions = ctx.saved_tensors
        if ctx.kernels:
            flat = ctx.kernels.background_gradient(logits.reshape(-1), exceptions, ctx.gamma, of_sum, of_few)
            return flat.view(logits.shape), None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            gradient = _empty_gradient(logits)
            _sweep(logits.reshape(-1), exceptions, ctx.gamma, gradient)
        gradient.mul_(of_sum)
        gradient[exceptions] = of_few.to(gradient.dtype)
        return gradient[: logits.numel()].view(logits.shape).to(logits.dtype), None, None


def _empty_gradient(logits: Tensor) -> Tensor:
    """Room for the gradient: in float32 for float16, where it would vanish before a loss scale could save it.

    On an asynchronous device one more, for the exceptions beyond the end.
    """
    dtype = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    return torch.empty(logits.numel() + is_asynchronous(logits.device), dtype=dtype, device=logits.device)


def _sweep(flat: Tensor, exceptions: Tensor, gamma: float, gradient: Tensor | None) -> Tensor:
    """The sum over all but the exceptions; fills `gradient` [N] where one is given, exceptions included."""
    piece = PIECE_ON_ACCELERATOR if is_asynchronous(flat.device) else PIECE_ON_CPU
    total = torch.zeros((), dtype=torch.float64, device=flat.device)
    for start, own in zip(range(0, len(flat), piece), _by_piece(len(flat), piece, exceptions), strict=True):
        logit = widen(flat[start : start + piece])
        prob = logit.sigmoid()
        power = prob * prob if gamma == 2 else prob.pow(gamma)
        focal = functional.softplus(logit).mul_(power)
        if gradient is not None:
            # d/dx of p^gamma softplus(x) = gamma p^gamma (1 - p) softplus(x) + p^gamma p
            slope = torch.addcmul(focal, focal, prob, value=-1).mul_(gamma)
            gradient[start : start + len(logit)] = slope.addcmul_(power, prob)
        _remove(focal, own)
        total += focal.sum()
    return total.to(torch.promote_types(flat.dtype, torch.float32))


def _by_piece(size: int, piece: int, exceptions: Tensor) -> Iterator[Tensor]:
    """Each piece's exceptions as places in it; on an asynchronous device those of all, negative or beyond."""
    starts = range(0, size, piece)
    if is_asynchronous(exceptions.device):
        yield from (exceptions - start for start in starts)
        return
    borders = torch.searchsorted(exceptions, torch.tensor([*starts, size])).tolist()
    for start, first, last in zip(starts, borders, borders[1:], strict=False):
        yield exceptions[first:last] - start


def _remove(focal: Tensor, places: Tensor) -> None:
    """Set the places that lie in the piece to 0."""
    if is_asynchronous(focal.device):  # without a look at which they are: all others fall on one slot more
        is_removed = torch.zeros(len(focal) + 1, dtype=torch.bool, device=focal.device)
        is_removed[torch.where((places >= 0) & (places < len(focal)), places, len(focal))] = True
        focal.masked_fill_(is_removed[:-1], 0)
    elif len(places):
        focal[places] = 0


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
