"""Both training losses as loops over images, objects, anchors and classes.

`detection_customized_loss` is Eq. 7 in the paper's symbols, with the authors' choices where the paper is silent. `retinanet_loss` is Eq. 1 with focal loss and the authors' normalisers. Logits and deltas are tensors, so
that autograd supplies the gradients; everything that the authors do not differentiate is a Python float.
"""

from collections.abc import Callable

import torch
from oracles import matching
from oracles.boxes import Box, decode, encode
from torch import Tensor


def _smooth_l1(prediction: Tensor, target: float, transition: float) -> Tensor:
    """Quadratic within `transition` of the target, linear beyond."""
    distance = (prediction - target).abs()
    return distance**2 / (2 * transition) if distance < transition else distance - transition / 2


def _location_loss(deltas_j: Tensor, box: Box, anchor: Box, transition: float) -> Tensor:
    """L_ij^loc: the sum of smooth-L1 over the four coded coordinates."""
    return sum(_smooth_l1(deltas_j[d], target, transition) for d, target in enumerate(encode(box, anchor)))


def _as_boxes(boxes: Tensor) -> list[Box]:
    return [tuple(box) for box in boxes.detach().tolist()]


def detection_customized_loss(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: list[Tensor],
    gt_labels: list[Tensor],
    *,
    n: int,
    t: float,
    beta: float,
    alpha: float,
    gamma: float,
    transition: float,
    bag_of: Callable[[list[Box], Box, int], list[int]] = matching.bag,
    likelihood: str = "mean-max",
    excuse: str = "per-class",
) -> tuple[Tensor, Tensor]:
    """The two sums of Eq. 7 with their weights w1 and w2: (over objects, over anchors and classes).

    `bag_of` chooses A_i; it is an argument because anchors that tie for the last place may be taken in any order.
    `likelihood` "max" is Eq. 6, "detached" has constant weights in Mean-max; `excuse` "per-anchor" takes max_i over
    objects of all classes as Eq. 4 does, "none" has P{a -> b} = 0.
    """
    A = _as_boxes(anchors)
    over_objects, over_anchors = logits.sum() * 0, logits.sum() * 0
    for a_cls, a_delta, boxes, labels in zip(logits.sigmoid(), deltas, gt_boxes, gt_labels, strict=True):
        b_loc, b_cls = _as_boxes(boxes), labels.tolist()
        for b_i, c_i in zip(b_loc, b_cls, strict=True):
            X_i = []
            for j in bag_of(A, b_i, n):
                P_loc = torch.exp(-beta * _location_loss(a_delta[j], b_i, A[j], transition))
                X_i.append(a_cls[j, c_i] * P_loc)
            if likelihood == "max":
                likelihood_i = max(X_i)
            elif likelihood == "detached":
                odds = [1 / (1 - x.item()) for x in X_i]
                likelihood_i = sum(w * x for w, x in zip(odds, X_i, strict=True)) / sum(odds)
            else:
                likelihood_i = matching.mean_max(X_i)
            over_objects = over_objects - torch.log(likelihood_i)
        a_loc = [decode(values, anchor) for values, anchor in zip(_as_boxes(a_delta), A, strict=True)]
        P_match = [matching.match_probability(a_loc, b_i, t) for b_i in b_loc]
        for j in range(len(A)):
            for c in range(a_cls.shape[1]):
                same = [P_match[i][j] for i in range(len(b_loc)) if b_cls[i] == c or excuse == "per-anchor"]
                P_missed = 1 if excuse == "none" else 1 - max(same, default=0.0)
                x = P_missed * a_cls[j, c]
                over_anchors = over_anchors - x**gamma * torch.log(1 - x)
    num_objects = sum(len(boxes) for boxes in gt_boxes)
    w_1 = alpha / max(1, num_objects)
    w_2 = (1 - alpha) / max(1, n * num_objects)
    return w_1 * over_objects, w_2 * over_anchors


def _focal(score: Tensor, is_object: bool, alpha: float, gamma: float) -> Tensor:
    """Focal loss of one score (Lin et al. 2017, Eq. 5)."""
    if is_object:
        return -alpha * (1 - score) ** gamma * torch.log(score)
    return -(1 - alpha) * score**gamma * torch.log(1 - score)


def retinanet_loss(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: list[Tensor],
    gt_labels: list[Tensor],
    *,
    foreground: float,
    background: float,
    alpha: float,
    gamma: float,
    transition: float,
) -> tuple[Tensor, Tensor]:
    """Focal loss over (positives + images), and smooth-L1 over four times the positives, at least one."""
    A = _as_boxes(anchors)
    classification, box, num_positives = logits.sum() * 0, deltas.sum() * 0, 0
    for a_cls, a_delta, boxes, labels in zip(logits.sigmoid(), deltas, gt_boxes, gt_labels, strict=True):
        b_loc = _as_boxes(boxes)
        for j, matched in enumerate(matching.assign(A, b_loc, foreground, background, low_quality=True)):
            if matched == matching.IGNORED:
                continue
            for c in range(a_cls.shape[1]):
                is_object = matched >= 0 and int(labels[matched]) == c
                classification = classification + _focal(a_cls[j, c], is_object, alpha, gamma)
            if matched >= 0:
                num_positives += 1
                box = box + _location_loss(a_delta[j], b_loc[matched], A[j], transition)
    return classification / (num_positives + len(gt_boxes)), box / (4 * max(1, num_positives))
