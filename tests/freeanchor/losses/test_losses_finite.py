"""Both losses under random cases made of everything that has ever given nan: an image is a case.

Boxes have whole coordinates, so that overlaps of exactly 0.4, 0.5 and 0.6 are common; objects repeat, lie on anchors,
have no area, or are missing; predictions hit anchors and objects exactly, or overflow; scores are 0, 1/2, 1 and between.

    FREEANCHOR_LOSS_CASES=100000 python -m pytest tests/freeanchor/losses/test_losses_finite.py    # minutes; 6,000 otherwise
"""

import os

import pytest
import torch
from oracles.inputs import LossInputs
from torch import Tensor

from freeanchor.boxes import pairwise_iou
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

NUM_ANCHORS, NUM_CLASSES, IMAGES_A_CALL = 12, 3, 500
NUM_CASES = int(os.environ.get("FREEANCHOR_LOSS_CASES", "6000"))  # over all precisions
PRECISIONS = [torch.float32, torch.bfloat16, torch.float16]
LOSSES = [
    FreeAnchorLoss(bag_size=4),
    FreeAnchorLoss(bag_size=20, match_iou=0.5, gamma=1.0),
    FreeAnchorLoss(bag_size=1, excuse="per-anchor", likelihood="max", gamma=0.0),
    RetinaNetLoss(),
]
ANCHORS = torch.tensor(
    [[x, y, x + 4, y + 4] for x in (0, 1, 2) for y in (0, 1)]
    + [[x, 0, x + 5, 3] for x in (0, 1, 2)]
    + [[0, y, 3, y + 5] for y in (0, 1, 2)],
    dtype=torch.float32,
)


def _pick(values: list[float], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.tensor(values)[torch.randint(len(values), shape, generator=generator)]


def _objects(generator: torch.Generator) -> Tensor:
    """Up to four boxes: whole coordinates, anchors themselves, points and lines, and repetitions of the first."""
    count = int(torch.randint(5, (), generator=generator))
    corners = torch.randint(0, 4, (count, 2), generator=generator)
    boxes = torch.cat([corners, corners + torch.randint(0, 6, (count, 2), generator=generator)], dim=1).float()
    kind = torch.randint(6, (count,), generator=generator)
    chosen = torch.randint(NUM_ANCHORS, (count,), generator=generator)
    boxes = torch.where((kind == 0)[:, None], ANCHORS[chosen], boxes)
    return torch.where((kind == 1)[:, None], boxes[:1].expand_as(boxes), boxes) if count else boxes


def _cases(seed: int, dtype: torch.dtype) -> LossInputs:
    """A batch of cases."""
    generator = torch.Generator().manual_seed(seed)
    shape = (IMAGES_A_CALL, NUM_ANCHORS)
    logits = 3 * torch.randn(*shape, NUM_CLASSES, generator=generator)
    extreme = _pick([-1e4, -100, -20, 0, 20, 100, 1e4], (*shape, NUM_CLASSES), generator)
    deltas = torch.randn(*shape, 4, generator=generator)
    wild = _pick([-1e4, -50, 0, 2.5, 50, 1e4], (*shape, 4), generator)
    boxes = [_objects(generator) for _ in range(IMAGES_A_CALL)]
    return LossInputs(
        logits=torch.where(torch.rand(logits.shape, generator=generator) < 0.4, extreme, logits).to(dtype),
        # predictions that are their anchors, shift them by whole pixels, or leave all bounds, anchor by anchor
        deltas=_mixed(deltas, wild, torch.rand(*shape, 1, generator=generator)).to(dtype),
        anchors=ANCHORS,
        gt_boxes=boxes,
        gt_labels=[torch.randint(NUM_CLASSES, (len(own),), generator=generator) for own in boxes],
    )


def _mixed(deltas: Tensor, wild: Tensor, chance: Tensor) -> Tensor:
    """A third of the anchors predict themselves, some are wild, the rest ordinary."""
    return torch.where(chance < 0.33, torch.zeros_like(deltas), torch.where(chance < 0.45, wild, deltas))


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_every_random_case_has_finite_terms_and_gradients(dtype: torch.dtype) -> None:
    """No inf and no nan in a term or a gradient of any setting; terms are not negative."""
    for number in range(-(-NUM_CASES // (len(PRECISIONS) * IMAGES_A_CALL))):
        inputs = _cases(number, dtype).leaves()
        loss = LOSSES[number % len(LOSSES)]
        terms = loss(*inputs.arguments())
        assert all(term.isfinite() and term >= 0 for term in terms.values()), (number, loss, terms)
        gradients = torch.autograd.grad(sum(terms.values()), (inputs.logits, inputs.deltas))
        assert all(gradient.isfinite().all() for gradient in gradients), (number, loss)


def test_the_cases_contain_what_they_are_made_for() -> None:
    """Overlaps of exactly float32(0.6) and 0.5, objects without area, repeated ones, none, and scores of 0 and 1 occur."""
    inputs = _cases(0, torch.float32)
    overlaps = torch.cat([pairwise_iou(boxes, ANCHORS).flatten() for boxes in inputs.gt_boxes if len(boxes)])
    assert (overlaps == torch.tensor(0.6)).sum() > 10
    assert (overlaps == 0.5).sum() > 10
    every = torch.cat(inputs.gt_boxes)
    assert ((every[:, 2] == every[:, 0]) | (every[:, 3] == every[:, 1])).sum() > 10
    assert any(len(boxes) > len(boxes.unique(dim=0)) for boxes in inputs.gt_boxes)
    assert any(len(boxes) == 0 for boxes in inputs.gt_boxes)
    scores = inputs.logits.sigmoid()
    assert (scores == 0).any()
    assert (scores == 1).any()
