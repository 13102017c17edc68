"""RetinaNet's loss, Eq. 1: focal loss and smooth-L1 on anchors that are assigned before the loss.

terms = RetinaNetLoss()(logits, deltas, anchors, gt_boxes, gt_labels)
sum(terms.values()).backward()
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import GROWTH_WEIGHT, SHIFT_WEIGHT, encode_boxes
from freeanchor.losses import focal, targets
from freeanchor.losses.assignment import IGNORED
from freeanchor.losses.focal import Terms, TotalCount, background_focal_loss, smooth_l1
from freeanchor.losses.iou_thresholds import IoUThresholds
from freeanchor.losses.targets import Ragged

MMDETECTION_EPS = 2.0**-23  # it adds float32's epsilon to what losses are divided by (models/losses/utils.py)


@dataclass(frozen=True, kw_only=True)
class RetinaNetLoss:
    """Focal loss and smooth-L1 on anchors assigned by IoU: Eq. 1 as RetinaNet has it.

    `convention="authors"`: classification is divided by matched anchors plus images, box terms by four times the
    matched anchors (authors' code: modeling/rpn/retinanet_loss.py). "mmdetection": both by the matched anchors, at
    least one per image; box terms are of plain deltas, not of coded ones; and a low-quality match goes to the
    object that the anchor is best for; its own transition is `smooth_l1_beta=0`.
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
        _ = self.assigner  # refuses thresholds out of order
        focal.check_settings(self.alpha, self.gamma, self.smooth_l1_beta, self.box_weight)

    @property
    def assigner(self) -> IoUThresholds:
        """The rule that decides which anchors learn which object."""
        return IoUThresholds(
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            low_quality_matches=self.low_quality_matches,
            low_quality_owner="object" if self.convention == "mmdetection" else "anchor",
        )

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        gt_boxes: Ragged,
        gt_labels: Ragged | None = None,
        total_count: TotalCount = int,
        valid_anchors: Bool[Tensor, "B A"] | None = None,
    ) -> Terms:
        """Terms `classification` and `box`, scalars; arguments and errors are those of `FreeAnchorLoss`.

        `valid_anchors` are those that take part, by image, all without it; mmdetection leaves out those whose cell
        begins beyond the image's own padded shape (`anchors.valid_anchors`).
        """
        deltas, anchors, boxes, labels = targets.checked(logits, deltas, anchors, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            assignments = self._assign(anchors, boxes, valid_anchors)
            return self.terms(logits, deltas, anchors, boxes, labels, assignments, total_count)

    def terms(
        self,
        logits: Float[Tensor, "B A K"],
        deltas: Float[Tensor, "B A 4"],
        anchors: Float[Tensor, "A 4"],
        boxes: list[Tensor],
        labels: list[Tensor],
        assignments: Int[Tensor, "BA"],
        total_count: TotalCount = int,
    ) -> Terms:
        """The two terms of anchors that are assigned already, image after image: B * A objects of their own images."""
        is_matched = assignments >= 0
        without = ~is_matched.view(len(logits), -1).any(dim=1)
        matched, ignored, unmatched = focal.places_where(is_matched, assignments == IGNORED, without)
        objects = assignments[matched] + first_objects(boxes)[matched // len(anchors)]
        coded = encode_boxes(torch.cat(boxes)[objects], anchors[matched % len(anchors)])
        box = deltas[:, :0].sum() + self._distance(deltas.flatten(0, 1)[matched], coded)
        classification = self._focal_loss(logits, ignored, matched, torch.cat(labels)[objects])
        if self.convention == "mmdetection":
            # Its samplers count at least one matched anchor for each image.
            divisor = total_count(len(matched) + len(unmatched)) + MMDETECTION_EPS
            return {"classification": classification / divisor, "box": self.box_weight * box / divisor}
        num_matched = total_count(len(matched))
        # DEVIATION(D15): the authors' baseline divides its box term by 4 * 0 where no anchor of a batch is matched.
        over_all, over_boxes = num_matched + total_count(len(logits)), 4 * max(1, num_matched)
        return {"classification": classification / over_all, "box": self.box_weight * box / over_boxes}

    def _assign(self, anchors: Tensor, boxes: list[Tensor], valid_anchors: Tensor | None) -> Tensor:
        """Object, BACKGROUND or IGNORED of all anchors [B * A]; those that take no part are ignored."""
        if valid_anchors is None:
            return torch.cat([self.assigner.assign(anchors, own) for own in boxes])
        if valid_anchors.shape != (len(boxes), len(anchors)):
            shape = list(valid_anchors.shape)
            raise ValueError(f"valid_anchors are {shape}; give [{len(boxes)}, {len(anchors)}], a row per image")
        # Of no area and so of IoU 0, an anchor is the best for an object only where all others are too.
        own_anchors = torch.where(valid_anchors[:, :, None], anchors, 0)
        pairs = zip(own_anchors, boxes, strict=True)
        assignments = torch.stack([self.assigner.assign(anchors, own) for anchors, own in pairs])
        return torch.where(valid_anchors, assignments, IGNORED).flatten()

    def _focal_loss(self, logits: Tensor, ignored: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        """Focal loss (Lin et al. 2017, Eq. 5) summed over the scores of all anchors [B * A] but the ignored ones."""
        num_classes = logits.shape[2]
        positives = matched * num_classes + labels
        without = ignored[:, None] * num_classes + torch.arange(num_classes, device=logits.device)
        exceptions = torch.cat([positives, without.flatten()]).sort().values
        background, few = background_focal_loss(logits, exceptions, self.gamma)
        score = few[torch.searchsorted(exceptions, positives)]
        foreground = (torch.sigmoid(-score).pow(self.gamma) * functional.softplus(-score)).sum()
        return (1 - self.alpha) * background + self.alpha * foreground

    def _distance(self, deltas: Tensor, targets: Tensor) -> Tensor:
        """Summed smooth-L1 of matched anchors' deltas, in the units of the convention."""
        if self.convention == "mmdetection":
            deltas, targets = _plain(deltas), _plain(targets)
        return smooth_l1(deltas, targets, self.smooth_l1_beta).sum()


def matched_pairs(assignments: Tensor, num_anchors: int, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Places [M] of the matched among a batch's anchors [B * A], rising, and the object of each, counted likewise."""
    matched = focal.places_where(assignments >= 0)[0]
    return matched, assignments[matched] + first_objects(boxes)[matched // num_anchors]


def first_objects(boxes: list[Tensor]) -> Tensor:
    """The place [B] of each image's first object among those of all images."""
    firsts = torch.zeros(len(boxes), dtype=torch.int64, device=boxes[0].device if boxes else None)
    for image, own in enumerate(boxes):
        firsts[image + 1 :] += len(own)  # not from a list: to bring one to a GPU waits for it
    return firsts


def _plain(deltas: Tensor) -> Tensor:
    return torch.cat([deltas[:, :2] / SHIFT_WEIGHT, deltas[:, 2:] / GROWTH_WEIGHT], dim=1)
