"""RetinaNet's assignment: each anchor takes the object that it overlaps most, if it overlaps it enough (Sec. 3.1).

assignment = IoUThresholds().assign(anchors, gt_boxes)  # object index, BACKGROUND or IGNORED
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import ious_by_objects
from freeanchor.losses.assignment import BACKGROUND, IGNORED, Predicted


@dataclass(frozen=True, kw_only=True)
class IoUThresholds:
    """RetinaNet's hand-crafted matrix C (Sec. 3.1).

    An anchor takes the object it overlaps most if their IoU reaches `foreground_iou`, is background below
    `background_iou`, and ignored between. With `low_quality_matches` the anchors that tie for an object's best IoU
    are matched too, each with the object it overlaps most itself (authors' code: modeling/matcher.py); with
    `low_quality_owner="object"` each with the last object that it is best for, and an object that meets no anchor
    takes those at IoU 0, as mmdetection's MaxIoUAssigner has it.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.4
    low_quality_matches: bool = True
    low_quality_owner: Literal["anchor", "object"] = "anchor"

    def __post_init__(self) -> None:
        if not 0 <= self.background_iou <= self.foreground_iou <= 1:
            raise ValueError(
                f"background_iou and foreground_iou must be fractions in this order, got {self.background_iou} and "
                f"{self.foreground_iou}"
            )

    def assign(
        self,
        anchors: Float[Tensor, "A 4"],
        gt_boxes: Float[Tensor, "G 4"],
        gt_labels: Int[Tensor, "G"] | None = None,
        *,
        level_sizes: Sequence[int] = (),
        strides: Float[Tensor, "A"] | None = None,
        predictions: Predicted | None = None,
    ) -> Int[Tensor, "A"]:
        """Object index of each anchor, BACKGROUND or IGNORED, from boxes alone."""
        if len(gt_boxes) == 0:
            return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
        best_iou = anchors.new_full((len(anchors),), -1.0)
        best_object = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
        is_best = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        owner = torch.full_like(best_object, BACKGROUND)
        for first, iou in ious_by_objects(gt_boxes, anchors):
            best_here, object_here = iou.max(dim=0)
            best_object = torch.where(best_here > best_iou, first + object_here, best_object)
            best_iou = torch.maximum(best_iou, best_here)
            best_of_object = iou.amax(dim=1, keepdim=True)
            ties = iou == best_of_object
            if self.low_quality_owner == "object":
                numbers = torch.arange(first, first + len(iou), device=anchors.device)[:, None]
                last = torch.where(ties, numbers, BACKGROUND).amax(dim=0)
                owner = torch.where(last >= 0, last, owner)
                continue
            # DEVIATION(D14): an object that meets no anchor ties with every anchor at IoU 0; those ties are no matches.
            is_best |= (ties & (best_of_object > 0)).any(dim=0)
        assignment = torch.where(best_iou < self.background_iou, BACKGROUND, IGNORED)
        assignment = torch.where(best_iou >= self.foreground_iou, best_object, assignment)
        if not self.low_quality_matches:
            return assignment
        if self.low_quality_owner == "object":
            return torch.where(owner >= 0, owner, assignment)
        return torch.where(is_best, best_object, assignment)
