"""The baseline's loss on anchors that any assigner gives their objects; and TOOD's own, with targets of quality.

terms = AssignedLoss(assigner=ATSS())(logits, deltas, anchors, gt_boxes, gt_labels, level_sizes=sizes, strides=strides)
sum(terms.values()).backward()
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import decode_boxes, encode_boxes, paired_iou
from freeanchor.losses import focal, targets
from freeanchor.losses.assignment import Assigner
from freeanchor.losses.focal import Terms, TotalCount, background_focal_loss, smooth_l1, widen
from freeanchor.losses.retinanet import RetinaNetLoss, matched_pairs
from freeanchor.losses.tal import TAL
from freeanchor.losses.targets import LARGEST_COORDINATE, Ragged

PARTS_OF_ONE = 2**16  # sums of qualities travel between processes as whole numbers of such parts


@dataclass(frozen=True)
class NetworkSays:
    """Decoded boxes and probabilities of one image, computed when an assigner first asks, finite whatever comes in."""

    logits: Float[Tensor, "A K"]
    deltas: Float[Tensor, "A 4"]
    anchors: Float[Tensor, "A 4"]

    @cached_property
    def boxes(self) -> Float[Tensor, "A 4"]:
        """Boxes in xyxy pixels."""
        boxes = decode_boxes(widen(self.deltas.detach()), self.anchors)
        return boxes.nan_to_num(0).clamp_(-LARGEST_COORDINATE, LARGEST_COORDINATE)

    @cached_property
    def scores(self) -> Float[Tensor, "A K"]:
        """Probabilities of the classes."""
        return widen(self.logits.detach()).sigmoid().nan_to_num(0)


@torch.no_grad()
def assign_batch(
    assigner: Assigner,
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A 4"],
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    *,
    level_sizes: Sequence[int] = (),
    strides: Float[Tensor, "A"] | None = None,
) -> Tensor:
    """Object, BACKGROUND or IGNORED of all anchors of a batch [B * A], image by image."""
    assignments = []
    for own_logits, own_deltas, boxes, labels in zip(logits, deltas, gt_boxes, gt_labels, strict=True):
        said = NetworkSays(own_logits, own_deltas, anchors)
        given: dict[str, Any] = {"level_sizes": level_sizes, "strides": strides, "predictions": said}
        assignments.append(assigner.assign(anchors, boxes, labels, **given))
    return torch.cat(assignments)


@dataclass(frozen=True, kw_only=True)
class AssignedLoss:
    """`RetinaNetLoss`'s focal loss and smooth-L1, divided as there, with another rule for who learns what.

    With `IoUThresholds` it is `RetinaNetLoss` itself. Of other methods it is the assignment alone: their papers'
    further parts (GIoU, centerness, branches of IoU) are left out, so that nothing else differs.
    """

    assigner: Assigner
    alpha: float = 0.25
    gamma: float = 2.0
    smooth_l1_beta: float = 0.11
    box_weight: float = 1.0

    def __post_init__(self) -> None:
        focal.check_settings(self.alpha, self.gamma, self.smooth_l1_beta, self.box_weight)

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        gt_boxes: Ragged,
        gt_labels: Ragged | None = None,
        total_count: TotalCount = int,
        *,
        level_sizes: Sequence[int] = (),
        strides: Float[Tensor, "A"] | None = None,
    ) -> Terms:
        """Terms `classification` and `box`, scalars; arguments and errors are those of `FreeAnchorLoss`.

        `level_sizes` are the anchors of each pyramid level, `strides` [A] their strides in pixels; the assigner says
        which it needs, by a ValueError where they are not given.
        """
        deltas, anchors, boxes, labels = targets.checked(logits, deltas, anchors, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            assignments = assign_batch(
                self.assigner, logits, deltas, anchors, boxes, labels, level_sizes=level_sizes, strides=strides
            )
            loss = RetinaNetLoss(
                alpha=self.alpha, gamma=self.gamma, smooth_l1_beta=self.smooth_l1_beta, box_weight=self.box_weight
            )
            return loss.terms(logits, deltas, anchors, boxes, labels, assignments, total_count)


@dataclass(frozen=True, kw_only=True)
class TaskAlignedLoss:
    """TAL with TOOD's quality-weighted targets: an anchor learns how good it is, not that it is one.

    An object's qualities are its anchors' t, scaled so that the greatest is the object's best IoU. Scores learn them:
    |q - p|^gamma BCE(p, q), 0 for background. Box terms are weighted by them, and both sums are divided by their
    sum. The box distance stays the baseline's smooth-L1, where TOOD has GIoU.
    """

    assigner: TAL = field(default_factory=TAL)
    gamma: float = 2.0  # the paper's, as in quality focal loss
    smooth_l1_beta: float = 0.11
    box_weight: float = 1.0

    def __post_init__(self) -> None:
        focal.check_settings(0.5, self.gamma, self.smooth_l1_beta, self.box_weight)

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        gt_boxes: Ragged,
        gt_labels: Ragged | None = None,
        total_count: TotalCount = int,
        *,
        level_sizes: Sequence[int] = (),
        strides: Float[Tensor, "A"] | None = None,
    ) -> Terms:
        """Terms `classification` and `box`, scalars; arguments are those of `AssignedLoss`."""
        deltas, anchors, boxes, labels = targets.checked(logits, deltas, anchors, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            assignments = assign_batch(
                self.assigner, logits, deltas, anchors, boxes, labels, level_sizes=level_sizes, strides=strides
            )
            matched, objects = matched_pairs(assignments, len(anchors), boxes)
            own, wanted = anchors[matched % len(anchors)], torch.cat(boxes)[objects]
            coded, moved = encode_boxes(wanted, own), deltas.flatten(0, 1)[matched]

            places = matched * logits.shape[2] + torch.cat(labels)[objects]
            background, score = background_focal_loss(logits, places, self.gamma)
            iou = paired_iou(decode_boxes(moved.detach(), own), wanted)
            quality = self._quality(score.detach().sigmoid(), iou, objects, sum(map(len, boxes)))

            surprise = functional.binary_cross_entropy_with_logits(score, quality.to(score), reduction="none")
            foreground = ((quality - score.sigmoid()).abs().pow(self.gamma) * surprise).sum()
            box = deltas[:, :0].sum() + (quality * smooth_l1(moved, coded, self.smooth_l1_beta)).sum()
            parts = total_count(round(PARTS_OF_ONE * float(quality.sum())))
            divisor = max(1.0, parts / PARTS_OF_ONE)
            return {
                "classification": (background + foreground) / divisor,
                "box": self.box_weight * box / (4 * divisor),  # the mean over coordinates, as the baseline's
            }

    def _quality(self, score: Tensor, iou: Tensor, objects: Tensor, num_objects: int) -> Tensor:
        """q of each matched anchor: t / max t * max u, the maxima over its object's anchors."""
        t = self.assigner.alignment(score, iou.to(score))
        most_t, most_iou = (
            own.new_zeros(num_objects).scatter_reduce(0, objects, own, "amax")[objects] for own in (t, iou)
        )
        return t / most_t.clamp(min=torch.finfo(t.dtype).tiny) * most_iou
