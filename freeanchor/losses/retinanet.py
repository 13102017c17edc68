"""TODO."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import DELTA_WEIGHTS, encode_boxes
from freeanchor.losses.assignment import IGNORED, assign_by_iou
from freeanchor.losses.focal import (
    Terms,
    TotalCount,
    _check_focal,
    _smooth_l1,
    _widen,
    background_focal_loss,
    check_pairing,
)


@dataclass(frozen=True, kw_only=True)
class RetinaNetLoss:
    """Focal loss and smooth-L1 on anchors assigned by IoU: Eq. 1 as RetinaNet has it.

    `convention="authors"`: classification is divided by matched anchors plus images, box terms by four times the
    matched anchors (authors' code: modeling/rpn/retinanet_loss.py). "mmdetection": both by the matched anchors, and box
    terms are of plain deltas, not of coded ones (FACTS F); its own transition is `smooth_l1_beta=0`.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.4
    low_quality_matches: bool = True
    alpha: float = 0.25
    gamma: float = 2.0
    smooth_l1_beta: float = 0.11
    box_weight: float = 1.0
    convention: Literal["authors", "mmdetection"] = "authors"

    def __post_init__(self) -> None:
        """Refuse thresholds out of order and weights out of range."""
        if not 0 <= self.background_iou <= self.foreground_iou <= 1:
            raise ValueError(
                f"background_iou and foreground_iou must be fractions in this order, got {self.background_iou} and "
                f"{self.foreground_iou}"
            )
        _check_focal(self.alpha, self.gamma, self.smooth_l1_beta, self.box_weight)

    def __call__(
        self,
        logits: Float[Tensor, "B A K"],
        deltas: Float[Tensor, "B A 4"],
        anchors: Float[Tensor, "A 4"],
        gt_boxes: Sequence[Float[Tensor, "_ 4"]],
        gt_labels: Sequence[Int[Tensor, "_"]],
        total_count: TotalCount = int,
    ) -> Terms:
        """Terms `classification` and `box`, scalars; `total_count` sums counts over processes that share a batch."""
        check_pairing(logits, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            deltas, anchors = _widen(deltas), _widen(anchors)
            boxes = [own.to(anchors) for own in gt_boxes]
            assignments = torch.cat([self._assign(anchors, own) for own in boxes])
            # Objects and anchors are counted through the batch: image i's anchors begin at i * A.
            firsts = torch.tensor([0, *map(len, boxes)], device=anchors.device).cumsum(0)[:-1]
            matched = (assignments >= 0).nonzero()[:, 0]
            objects = assignments[matched] + firsts[matched // len(anchors)]
            goals = encode_boxes(torch.cat(boxes)[objects], anchors[matched % len(anchors)])
            box = deltas.sum() * 0 + self._distance(deltas.flatten(0, 1)[matched], goals)
            focal = self._focal(logits, assignments, matched, torch.cat(list(gt_labels))[objects])
            num_matched = total_count(len(matched))
            # DEVIATION(D15): the authors' baseline divides its box term by 4 * 0 where no anchor of a batch is matched.
            over_all, over_boxes = num_matched + total_count(len(logits)), 4 * max(1, num_matched)
            if self.convention == "mmdetection":
                over_all = over_boxes = max(1, num_matched)
            return {"classification": focal / over_all, "box": self.box_weight * box / over_boxes}

    def _focal(self, logits: Tensor, assignments: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        """Focal loss (Lin et al. 2017, Eq. 5) summed over the scores of all anchors [B * A] but the ignored ones."""
        num_classes = logits.shape[2]
        positives = matched * num_classes + labels
        ignored = (assignments == IGNORED).nonzero() * num_classes + torch.arange(num_classes, device=logits.device)
        exceptions = torch.cat([positives, ignored.flatten()]).sort().values
        background, few = background_focal_loss(logits, exceptions, self.gamma)
        score = few[torch.searchsorted(exceptions, positives)]
        foreground = (torch.sigmoid(-score).pow(self.gamma) * functional.softplus(-score)).sum()
        return (1 - self.alpha) * background + self.alpha * foreground

    def _distance(self, deltas: Tensor, goals: Tensor) -> Tensor:
        """Summed smooth-L1 of matched anchors' deltas, in the units of the convention."""
        units = deltas.new_tensor(DELTA_WEIGHTS if self.convention == "mmdetection" else (1.0,))
        return _smooth_l1(deltas / units, goals / units, self.smooth_l1_beta).sum()

    def _assign(self, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Assignment [A] of one image, without gradient."""
        return assign_by_iou(
            anchors,
            gt_boxes,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            low_quality_matches=self.low_quality_matches,
        )
