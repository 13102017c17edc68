"""Matching of anchors with objects, both ways side by side: by hand (IoU) and learned (bags).

By hand, `assign_by_iou` fixes the matrix C of Eq. 1 before the network is asked. Learned, `anchor_bags` offers each
object n anchors, and the network's own confidence decides among them through `mean_max` (Eq. 7), while
`match_probability` tells which predictions are good enough not to be called background.

    bags = anchor_bags(anchors, gt_boxes, bag_size=50)                      # [G, 50]
    match_prob = match_probability(pairwise_iou(gt_boxes, boxes), match_iou=0.6)
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import pairwise_iou

IOUS_AT_A_TIME = 2**20  # float32 buffers of 4 MiB: memory stays small however many objects there are
BACKGROUND = -1  # C_ij = 0 for every object i: the anchor is in A-
IGNORED = -2  # between the two thresholds: the anchor takes no part in the loss


def assign_by_iou(
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Float[Tensor, "G 4"],
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality_matches: bool = True,
) -> Int[Tensor, "A"]:
    """Object index of each anchor, BACKGROUND or IGNORED: RetinaNet's hand-crafted matrix C (Sec. 3.1).

    An anchor takes the object it overlaps most if their IoU reaches `foreground_iou`, is background below
    `background_iou`, and ignored between. With `low_quality_matches` the anchors that tie for an object's best IoU
    are matched too, each with the object it overlaps most itself (authors' code: modeling/matcher.py).
    """
    if len(gt_boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    best_iou = anchors.new_full((len(anchors),), -1.0)
    best_object = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    is_best = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    for first, iou in ious_by_objects(gt_boxes, anchors):
        best_here, object_here = iou.max(dim=0)
        best_object = torch.where(best_here > best_iou, first + object_here, best_object)
        best_iou = torch.maximum(best_iou, best_here)
        best_of_object = iou.amax(dim=1, keepdim=True)
        # DEVIATION(D14): an object that meets no anchor ties with every anchor at IoU 0; those ties are no matches.
        is_best |= ((iou == best_of_object) & (best_of_object > 0)).any(dim=0)
    assignment = torch.where(best_iou < background_iou, BACKGROUND, IGNORED)
    assignment = torch.where(best_iou >= foreground_iou, best_object, assignment)
    return torch.where(is_best, best_object, assignment) if low_quality_matches else assignment


def ious_by_objects(
    gt_boxes: Float[Tensor, "G 4"], boxes: Float[Tensor, "A 4"]
) -> Iterator[tuple[int, Float[Tensor, "_ A"]]]:
    """IoU of every object with every box, some objects at a time: the first one's index, and a row for each."""
    boxes = boxes.T.contiguous().T  # as `pairwise_iou` reads it, once for all
    step = max(1, IOUS_AT_A_TIME // max(1, len(boxes)))
    for first in range(0, len(gt_boxes), step):
        yield first, pairwise_iou(gt_boxes[first : first + step], boxes)


def anchor_bags(anchors: Float[Tensor, "A 4"], gt_boxes: Float[Tensor, "G 4"], bag_size: int) -> Int[Tensor, "G n"]:
    """Indices of the `bag_size` anchors of highest IoU with each object, best first (Algorithm 1, line 4).

    Over all levels, with no IoU floor and no rule about centres; an anchor may sit in several bags. With fewer than
    `bag_size` anchors the bag is all of them.
    """
    size = min(bag_size, len(anchors))
    bags = torch.empty(len(gt_boxes), size, dtype=torch.int64, device=anchors.device)
    for first, iou in ious_by_objects(gt_boxes, anchors):
        bags[first : first + len(iou)] = iou.topk(size, dim=1).indices
    return bags


def saturated_linear(x: Float[Tensor, "*N"], t1: float, t2: Float[Tensor, "*#N"]) -> Float[Tensor, "*N"]:
    """0 up to `t1`, 1 from `t2`, linear between (Sec. 3.2, Fig. 2); 0 everywhere where t2 <= t1.

    The last clause is ours, DEVIATION(D17): the authors' code divides by t2 - t1, 0/0 when an object's best IoU is t1.
    """
    span = t2 - t1
    line = ((x - t1) / torch.where(span > 0, span, torch.ones_like(span))).clamp(0, 1)
    return torch.where(span > 0, line, torch.zeros_like(line))


def match_probability(iou: Float[Tensor, "G A"], match_iou: float) -> Float[Tensor, "G A"]:
    """P{a_j -> b_i}: the probability that anchor j predicts object i correctly (Sec. 3.2).

    `iou` is that of every predicted box with every object, over all anchors, not the bag alone (authors' code). The
    best prediction of an object gets 1 if its IoU is above `match_iou`, every one at or below it 0: none where no
    prediction is so good, several on ties (DEVIATION(D3)). Computed in float32 or wider. No anchors give an empty
    result.
    """
    iou = iou.to(torch.promote_types(iou.dtype, torch.float32))
    if iou.shape[1] == 0:
        return iou
    return saturated_linear(iou, _threshold(match_iou, iou.dtype), iou.amax(dim=1, keepdim=True))


def matched_predictions(
    iou: Float[Tensor, "G A"], match_iou: float
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P"]]:
    """The entries of `match_probability` above 0: object, anchor and P{a_j -> b_i} of each, by object, then anchor.

    They are few, and only they cost more than a comparison. `iou` is float32 or wider and has at least one anchor.
    """
    objects, anchors = (iou > _threshold(match_iou, iou.dtype)).nonzero(as_tuple=True)
    best = iou.amax(dim=1)[objects]
    return objects, anchors, saturated_linear(iou[objects, anchors], _threshold(match_iou, iou.dtype), best)


def _threshold(match_iou: float, dtype: torch.dtype) -> float:
    """t1 in the tensor's own precision: an IoU of float32(0.6) is at the threshold, not above it."""
    return torch.tensor(match_iou, dtype=dtype).item()


def _odds_weights(confidence: Tensor) -> Tensor:
    """1 / (1 - x), the weights of Mean-max, finite at x = 1.

    1 - x is floored at 1e-12 as in the authors' code, with the identity as its gradient (straight-through).
    """
    rest = 1 - confidence
    floored = rest + (rest.clamp(min=1e-12) - rest).detach()
    return 1 / floored


def mean_max(confidence: Float[Tensor, "*N n"], *, detach_weights: bool = False) -> Float[Tensor, "*N"]:
    """Mean of a bag's confidences weighted by 1 / (1 - x) (Sec. 3.3, Fig. 3): mean at first, max in the end.

    The gradient flows through the weights too, as in the authors' code, unless `detach_weights`. Values stay in [0, 1]
    up to rounding.
    """
    weights = _odds_weights(confidence.detach() if detach_weights else confidence)
    return (weights * confidence).sum(dim=-1) / weights.sum(dim=-1)


def mean_max_weights(confidence: Float[Tensor, "*N n"]) -> Float[Tensor, "*N n"]:
    """Each anchor's share in its bag's Mean-max; sums to 1 over the bag."""
    weights = _odds_weights(confidence)
    return weights / weights.sum(dim=-1, keepdim=True)


def effective_anchors(confidence: Float[Tensor, "*N n"]) -> Float[Tensor, "*N"]:
    """How many anchors of a bag its Mean-max really uses: 1 / sum of squared shares.

    n while all confidences are equal (Mean-max is the mean), towards 1 as one anchor takes over (the max).
    """
    return 1 / mean_max_weights(confidence).square().sum(dim=-1)
