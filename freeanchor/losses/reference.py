"""FreeAnchor's loss as its authors lay it out: every (anchor, class) score of an image in dense tensors.

What it is: the peer that `bench_loss` measures ours against, and one more oracle of its values (FACTS of the authors'
code: modeling/rpn/free_anchor_loss.py). What it is not: a loss to train with; it holds objects x anchors and several
anchors x classes tensors at once.

    positive, negative = dense_loss(FreeAnchorLoss(), logits, deltas, anchors, gt_boxes, gt_labels)
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import decode_boxes, encode_boxes, pairwise_iou
from freeanchor.losses.free_anchor import FreeAnchorLoss


def dense_loss(
    loss: FreeAnchorLoss,
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
) -> tuple[Tensor, Tensor]:
    """Both terms of Eq. 7 with the settings of `loss`, its ablations aside; arguments as `FreeAnchorLoss` takes."""
    scores = logits.sigmoid()
    positives, negatives = [], []
    for prob, offsets, boxes, labels in zip(scores, deltas, gt_boxes, gt_labels, strict=True):
        positives.append(_bag_losses(loss, prob, offsets, anchors, boxes, labels))
        missed = prob * (1 - _object_prob(loss, prob, offsets, anchors, boxes, labels))
        surprise = functional.binary_cross_entropy(missed, torch.zeros_like(missed), reduction="none")
        negatives.append((missed**loss.gamma * surprise).sum())
    num_objects = max(1, sum(map(len, gt_boxes)))
    positive = torch.cat(positives).sum() / num_objects
    negative = torch.stack(negatives).sum() / (num_objects * loss.bag_size)
    return loss.alpha * positive, (1 - loss.alpha) * negative


@torch.no_grad()
def _object_prob(
    loss: FreeAnchorLoss, prob: Tensor, offsets: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
) -> Tensor:
    """[A, K]: the best match probability of each anchor with an object of each class."""
    iou = pairwise_iou(boxes, decode_boxes(offsets, anchors))
    best = iou.amax(dim=1, keepdim=True).clamp(min=loss.match_iou + 1e-12)
    match_prob = ((iou - loss.match_iou) / (best - loss.match_iou)).clamp(0, 1)
    of_class = torch.zeros_like(prob).T.contiguous()
    for label in labels.unique().tolist():
        of_class[label] = match_prob[labels == label].amax(dim=0)
    return of_class.T


def _bag_losses(
    loss: FreeAnchorLoss, prob: Tensor, offsets: Tensor, anchors: Tensor, boxes: Tensor, labels: Tensor
) -> Tensor:
    """[G]: -log Mean-max of each object's bag."""
    bags = pairwise_iou(boxes, anchors).topk(loss.bag_size, dim=1).indices
    targets = encode_boxes(boxes[:, None], anchors[bags])
    distance = functional.smooth_l1_loss(offsets[bags], targets, reduction="none", beta=loss.smooth_l1_beta).sum(dim=-1)
    confidence = prob[bags, labels[:, None]] * torch.exp(-loss.box_weight * distance)
    odds = 1 / (1 - confidence).clamp(min=1e-12)
    return -torch.log((odds * confidence).sum(dim=1) / odds.sum(dim=1))
