"""Eq. 7 as its authors lay it out: every (anchor, class) score of an image in dense tensors.

The tests' oracle and the peer that the bench measures ours against (authors' code:
modeling/rpn/free_anchor_loss.py). Not a loss to train with: it holds objects x anchors and several anchors x classes
tensors at once.

    positive, negative = dense_loss(FreeAnchorLoss(), logits, deltas, anchors, gt_boxes, gt_labels)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import decode_boxes, encode_boxes, pairwise_iou
from freeanchor.losses.free_anchor import FreeAnchorLoss


def dense_loss(
    loss: FreeAnchorLoss,
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A 4"],
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Sequence[Float[Tensor, "_ 4"]],
    gt_labels: Sequence[Int[Tensor, "_"]],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Both sums of Eq. 7, weighted, with `loss`'s settings but its ablations; for at least `bag_size` anchors."""
    scores = logits.sigmoid()
    positives, negatives = [], []
    for prob, offsets, boxes, labels in zip(scores, deltas, gt_boxes, gt_labels, strict=True):
        # A_i, Algorithm 1, line 4
        bags = pairwise_iou(boxes, anchors).topk(loss.bag_size, dim=1).indices
        # X_i = P^cls P^loc
        targets = encode_boxes(boxes[:, None], anchors[bags])
        distance = functional.smooth_l1_loss(offsets[bags], targets, reduction="none", beta=loss.smooth_l1_beta)
        loc_prob = torch.exp(-loss.box_weight * distance.sum(dim=-1))
        confidence = prob[bags, labels[:, None]] * loc_prob
        # -log Mean-max(X_i)
        odds = 1 / (1 - confidence).clamp(min=1e-12)
        positives.append(-torch.log((odds * confidence).sum(dim=1) / odds.sum(dim=1)))
        # FL(P{a_j in A-} (1 - P_j^bg))
        missed = prob * (1 - _match_prob(loss, prob, offsets, anchors, boxes, labels))
        surprise = functional.binary_cross_entropy(missed, torch.zeros_like(missed), reduction="none")
        negatives.append((missed**loss.gamma * surprise).sum())
    num_objects = sum(map(len, gt_boxes))
    positive = torch.cat(positives).sum() / max(1, num_objects)
    negative = torch.stack(negatives).sum() / max(1, num_objects * loss.bag_size)
    return loss.alpha * positive, (1 - loss.alpha) * negative


@torch.no_grad()
def _match_prob(
    loss: FreeAnchorLoss, prob: Tensor, offsets: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
) -> Tensor:
    """[A, K]: max_i P{a_j -> b_i} over the objects of each class, Saturated linear(IoU, t, max_j IoU) (Sec. 3.2)."""
    iou = pairwise_iou(boxes, decode_boxes(offsets, anchors))
    best = iou.amax(dim=1, keepdim=True).clamp(min=loss.match_iou + 1e-12)
    match_prob = ((iou - loss.match_iou) / (best - loss.match_iou)).clamp(0, 1)
    of_class = torch.zeros_like(prob).T.contiguous()
    for label in labels.unique().tolist():
        of_class[label] = match_prob[labels == label].amax(dim=0)
    return of_class.T
