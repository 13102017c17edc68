"""Matching of anchors with objects, both ways side by side: by hand (IoU) and learned (bags).

By hand, `assign_by_iou` fixes the matrix C of Eq. 1 before the network is asked. Learned, `anchor_bags` offers each
object n anchors, and the network's own confidence decides among them through `mean_max` (Eq. 7), while
`match_probability` tells which predictions are good enough not to be called background.

    bags = anchor_bags(anchors, gt_boxes, bag_size=50)                      # [G, 50]
    match_prob = match_probability(pairwise_iou(gt_boxes, boxes), match_iou=0.6)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import pairwise_iou

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
    iou = pairwise_iou(gt_boxes, anchors)
    best_iou, best_object = iou.max(dim=0)
    assignment = torch.where(best_iou < background_iou, BACKGROUND, IGNORED)
    assignment = torch.where(best_iou >= foreground_iou, best_object, assignment)
    if low_quality_matches:
        best_of_object = iou.amax(dim=1, keepdim=True)
        # DEVIATION(D14): an object that meets no anchor ties with every anchor at IoU 0; those ties are no matches.
        is_best = ((iou == best_of_object) & (best_of_object > 0)).any(dim=0)
        assignment = torch.where(is_best, best_object, assignment)
    return assignment


def anchor_bags(anchors: Float[Tensor, "A 4"], gt_boxes: Float[Tensor, "G 4"], bag_size: int) -> Int[Tensor, "G n"]:
    """Indices of the `bag_size` anchors of highest IoU with each object, best first (Algorithm 1, line 4).

    Over all levels, with no IoU floor and no rule about centres; an anchor may sit in several bags. With fewer than
    `bag_size` anchors the bag is all of them.
    """
    iou = pairwise_iou(gt_boxes, anchors)
    return iou.topk(min(bag_size, len(anchors)), dim=1).indices


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
    # t1 in the tensor's own precision: an IoU of float32(0.6) is at the threshold, not above it.
    t1 = torch.tensor(match_iou, dtype=iou.dtype).item()
    return saturated_linear(iou, t1, iou.amax(dim=1, keepdim=True))


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
