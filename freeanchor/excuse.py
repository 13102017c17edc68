"""Who is excused from being background: Eq. 4 for the few scores whose anchor predicts an object well enough.

Of all (anchor, class) pairs only these have P{a in A-} < 1. They are found some objects at a time, so that neither time
nor memory depends on more than objects times anchors, and their part of the background loss is written here.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import decode_boxes
from freeanchor.matching import ious_by_objects, matched_predictions


@torch.no_grad()
def excused_pairs(
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Float[Tensor, "G 4"],
    gt_labels: Int[Tensor, "G"],
    match_iou: float,
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P"]]:
    """The (anchor, class) pairs of one picture with max_i P{a -> b_i} > 0, i of that class, and that maximum.

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
