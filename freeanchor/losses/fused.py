# ruff: noqa: ANN001, ANN202  # a kernel's arguments are what Triton makes of them
"""The focal loss of background scores in one sweep on a GPU, as Triton kernels; `focal.py` chooses them.

Forward reads each logit once, in its own precision, and writes one partial sum per block of scores. Backward reads it
once more and writes the gradient, already times that of the sum: nothing of the logits' size lies between the two.
Arithmetic is float32 or wider. Partial sums have places of their own, so the result is the same at every call.

    total = background_sum(flat, exceptions, gamma=2.0)
    gradient = background_gradient(flat, exceptions, 2.0, of_sum, of_few)
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

BLOCK = 2048  # scores of one program: 16 per thread at four warps
LARGEST_WHOLE_POWER = 8  # of gamma, multiplied out


@triton.jit
@no_type_check
def _exp(x):
    """e^x to the last bits for x <= 0: `tl.exp` multiplies by log2(e) first and loses digits far from 0."""
    x = tl.where(x < -708.0, -708.0, x)  # where the result is none; not a maximum, which would drop NaN
    whole = tl.floor(x * 1.4426950408889634 + 0.5)
    rest = (x - whole * 0.693359375) + whole * 2.12194440054690583e-4  # ln 2 in two parts, the first of few digits
    return tl.exp(rest) * tl.exp2(whole)


@triton.jit
@no_type_check
def _log1p(z):
    """log(1 + z) for z in [0, 1], to the last bits."""
    if z.dtype == tl.float64:
        one_more = 1.0 + z
        lost = tl.where(one_more == 1.0, 1.0, one_more - 1.0)
        result = tl.where(one_more == 1.0, z, tl.log(one_more) * (z / lost))
    else:
        # 2 artanh(z / (2 + z)): eight terms are exact in float32, as its argument is at most 1/3
        s = z / (2.0 + z)
        t = s * s
        series = 1.0 / 13 + t * (1.0 / 15)
        series = 1.0 / 9 + t * (1.0 / 11 + t * series)
        series = 1.0 / 5 + t * (1.0 / 7 + t * series)
        result = 2.0 * s * (1.0 + t * (1.0 / 3 + t * series))
    return result


@triton.jit
@no_type_check
def _parts(x, GAMMA: tl.constexpr, WHOLE: tl.constexpr):
    """p, 1 - p, softplus(x) and p^gamma; `WHOLE` is the part of gamma that is multiplied out."""
    small = _exp(-tl.abs(x))
    share = 1.0 / (1.0 + small)
    prob = tl.where(x >= 0, 1.0, small) * share
    rest = tl.where(x >= 0, small, 1.0) * share
    log1p = _log1p(small)
    power = tl.full(x.shape, 1.0, x.dtype)
    for _ in tl.static_range(WHOLE):
        power = power * prob
    if WHOLE < GAMMA:
        power = power * _exp((GAMMA - WHOLE) * (tl.where(x < 0, x, 0.0) - log1p))
    return prob, rest, tl.where(x > 0, x, 0.0) + log1p, power


@triton.jit
@no_type_check
def _last_not_above(exceptions, begin, count, places):
    """Index of the last exception from `begin` on that is not above each place; that of the first where all are."""
    found = tl.full(places.shape, 0, tl.int64) + begin
    while count > 1:  # a block has few exceptions or none: one step for each doubling of them
        half = count // 2
        middle = tl.load(exceptions + found + half)
        found = tl.where(middle <= places, found + half, found)
        count = count - half
    return found


@triton.jit
@no_type_check
def _sum_kernel(
    logits, exceptions, borders, partials, size, GAMMA: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    places = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + places, mask=places < size, other=0.0).to(WIDE)
    _, _, softplus, power = _parts(x, GAMMA, WHOLE)
    is_counted = places < size
    begin, end = tl.load(borders + block), tl.load(borders + block + 1)
    if end > begin:
        found = _last_not_above(exceptions, begin, end - begin, places)
        is_counted = is_counted & (tl.load(exceptions + found) != places)
    total = tl.sum(tl.where(is_counted, softplus * power, 0.0), axis=0)
    tl.store(partials + block, total.to(tl.float64))


@triton.jit
@no_type_check
def _gradient_kernel(
    logits, exceptions, borders, of_sum, of_few, gradient, size, GAMMA: tl.constexpr, WHOLE: tl.constexpr,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    places = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(logits + places, mask=places < size, other=0.0).to(WIDE)
    prob, rest, softplus, power = _parts(x, GAMMA, WHOLE)
    # d/dx of p^gamma softplus(x) = gamma p^gamma (1 - p) softplus(x) + p^gamma p
    slope = power * (GAMMA * rest * softplus + prob) * tl.load(of_sum).to(WIDE)
    begin, end = tl.load(borders + block), tl.load(borders + block + 1)
    if end > begin:
        found = _last_not_above(exceptions, begin, end - begin, places)
        is_exception = tl.load(exceptions + found) == places
        slope = tl.where(is_exception, tl.load(of_few + found).to(WIDE), slope)
    tl.store(gradient + places, slope.to(gradient.dtype.element_ty), mask=places < size)


def background_sum(flat: Float[Tensor, "N"], exceptions: Int[Tensor, "T"], gamma: float) -> Float[Tensor, ""]:
    """The sum of `focal.background_focal_loss`, in float32 or wider; exceptions as there."""
    blocks, borders = _blocks(flat, exceptions)
    partials = torch.empty(blocks, dtype=torch.float64, device=flat.device)
    if blocks:
        _sum_kernel[(blocks,)](flat, exceptions, borders, partials, len(flat), **_constants(flat, gamma))
    return partials.sum().to(torch.promote_types(flat.dtype, torch.float32))


def background_gradient(
    flat: Float[Tensor, "N"],
    exceptions: Int[Tensor, "T"],
    gamma: float,
    of_sum: Float[Tensor, ""],
    of_few: Float[Tensor, "T"],
) -> Float[Tensor, "N"]:
    """Gradient of the logits, in their precision: `of_sum` times the sum's slope, and `of_few` at the exceptions."""
    blocks, borders = _blocks(flat, exceptions)
    gradient = torch.empty_like(flat)
    if blocks:
        arguments = flat, exceptions, borders, of_sum.contiguous(), of_few.contiguous(), gradient, len(flat)
        _gradient_kernel[(blocks,)](*arguments, **_constants(flat, gamma))
    return gradient


def _blocks(flat: Tensor, exceptions: Tensor) -> tuple[int, Tensor]:
    """How many programs there are, and where each one's exceptions begin, found on the device."""
    blocks = triton.cdiv(len(flat), BLOCK)
    firsts = torch.arange(blocks + 1, device=flat.device) * BLOCK
    return blocks, torch.searchsorted(exceptions, firsts)


def _constants(flat: Tensor, gamma: float) -> dict[str, Any]:
    wide = tl.float64 if flat.dtype == torch.float64 else tl.float32
    return {"GAMMA": float(gamma), "WHOLE": min(int(gamma), LARGEST_WHOLE_POWER), "BLOCK": BLOCK, "WIDE": wide}
