"""Matching of anchors with objects, both ways side by side: by hand (IoU) and learned (bags).

By hand, `assign_by_iou` fixes the matrix C of Eq. 1 before the network is asked. Learned, `anchor_bags` offers each
object n anchors, and the network's own confidence decides among them through `mean_max` (Eq. 7), while
`match_probability` tells which predictions are good enough not to be called background.

    bags = anchor_bags(anchors, gt_boxes, bag_size=50)                      # [G, 50]
    match_prob = match_probability(pairwise_iou(gt_boxes, boxes), match_iou=0.6)

Who is excused from being background: Eq. 4 for the few scores whose anchor predicts an object well enough.

Of all (anchor, class) pairs only these have P{a in A-} < 1. They are found some objects at a time, so that neither time
nor memory depends on more than objects times anchors, and their part of the background loss is written here.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import decode_boxes
from freeanchor.losses.assignment import ious_by_objects


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


@torch.no_grad()
def excused_pairs(
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Float[Tensor, "G 4"],
    gt_labels: Int[Tensor, "G"],
    match_iou: float,
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P"]]:
    """The (anchor, class) pairs of one image with max_i P{a -> b_i} > 0, i of that class, and that maximum.

    P{a in A-} of Eq. 4 is one minus it, for each class apart (DEVIATION(D1)). No gradient (DEVIATION(D5)).
    """
    anchor, label, match_prob = [], [], []
    for first, iou in ious_by_objects(gt_boxes, decode_boxes(deltas, anchors)):
        objects, found, prob = matched_predictions(iou, match_iou)
        anchor.append(found)
        label.append(gt_labels[first + objects])
        match_prob.append(prob)
    pairs = torch.stack([torch.cat(anchor), torch.cat(label)], dim=1)
    unique, best = _best_of_each(pairs, torch.cat(match_prob))
    return unique[:, 0], unique[:, 1], best


def for_all_classes(
    anchor: Int[Tensor, "P"], match_prob: Float[Tensor, "P"], num_classes: int
) -> tuple[Int[Tensor, "Q"], Int[Tensor, "Q"], Float[Tensor, "Q"]]:
    """The pairs of `excused_pairs` where an anchor's best match probability excuses it for every class: Eq. 4 as is."""
    unique, best = _best_of_each(anchor, match_prob)
    labels = torch.arange(num_classes, device=anchor.device).repeat(len(unique))
    return unique.repeat_interleave(num_classes), labels, best.repeat_interleave(num_classes)


def missed_focal_loss(logit: Float[Tensor, "T"], match_prob: Float[Tensor, "T"], gamma: float) -> Float[Tensor, "T"]:
    """FL(q) = -q^gamma log(1 - q) at q = p (1 - P), P the match probability (Eq. 7): 0 where P is 1."""
    prob = logit.sigmoid()
    partly = (match_prob > 0) & (match_prob < 1)
    # 1 - q as sigmoid(-x) + p P: exact where p is 1, and never 0 as P > 0. Where P = 0, softplus is exact for any x.
    rest = torch.where(partly, torch.sigmoid(-logit) + prob * match_prob, 1)
    surprise = torch.where(partly, -torch.log(rest), functional.softplus(logit))
    focal = (prob * (1 - match_prob)).pow(gamma) * surprise
    return torch.where(match_prob < 1, focal, 0)


def _best_of_each(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct keys (along the first axis), and the largest value of each."""
    unique, place = keys.unique(dim=0, return_inverse=True)
    return unique, values.new_zeros(len(unique)).scatter_reduce(0, place, values, "amax")
