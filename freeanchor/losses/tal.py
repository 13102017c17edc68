"""TAL: anchors whose score and box agree best with an object learn it (Feng et al., TOOD, ICCV 2021).

    assignment = TAL().assign(anchors, gt_boxes, gt_labels, predictions=predictions)

Task alignment learning ranks anchors by how well both tasks are done there, the paper's alignment metric:

    t = s^alpha * u^beta        s: score of the object's class, u: IoU of the predicted box with the object
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import are_inside, box_centres, ious_by_objects
from freeanchor.losses.assignment import BACKGROUND, MARGIN, Predicted, by_highest_iou, check_predictions


@dataclass(frozen=True, kw_only=True)
class TAL:
    """Task-aligned assignment, as TOOD has it; YOLOv8 to YOLO11 have a variant of it.

    Of all anchors the `num_candidates` of greatest t are an object's; those of t = 0, and those whose centre lies
    outside the object, are dropped. An anchor that two objects want learns the one that its predicted box overlaps
    more, the first of equal ones. TOOD assigns by ATSS for its first 4 of 12 epochs; here as in YOLOv8, TAL begins
    at once.
    """

    num_candidates: int = 13  # m, as all three the paper's
    alpha: float = 1.0
    beta: float = 6.0

    def __post_init__(self) -> None:
        if self.num_candidates < 1 or self.alpha < 0 or self.beta <= 0:
            raise ValueError(
                f"num_candidates must be at least 1, alpha not negative, beta positive, got {self.num_candidates}, "
                f"{self.alpha} and {self.beta}"
            )

    def alignment(self, score: Float[Tensor, "*#N"], iou: Float[Tensor, "*#N"]) -> Float[Tensor, "*N"]:
        """t = s^alpha u^beta of each pair of an anchor and an object."""
        return score.pow(self.alpha) * iou.pow(self.beta)

    @torch.no_grad()
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
        """Object index of each anchor or BACKGROUND; raises ValueError without predictions or labels."""
        said, labels = check_predictions(self, predictions, gt_labels)
        if len(gt_boxes) == 0:
            return torch.full((len(anchors),), BACKGROUND, device=anchors.device)
        gt_boxes, boxes, centres, found = gt_boxes.to(anchors), said.boxes.to(anchors), box_centres(anchors), []
        for first, iou in ious_by_objects(gt_boxes, boxes):  # u
            t = torch.zeros_like(iou)
            objects, places = iou.nonzero(as_tuple=True)  # all others have t = 0
            score = said.scores[places, labels[first + objects]].to(iou)
            t[objects, places] = self.alignment(score, iou[objects, places])
            best = t.topk(min(self.num_candidates, len(anchors)), dim=1)
            own = gt_boxes[first : first + len(iou), None]
            is_positive = (best.values > 0) & are_inside(centres[best.indices], own, MARGIN)
            found.append((best.indices, iou.gather(1, best.indices), is_positive))
        return by_highest_iou(len(anchors), *map(torch.cat, zip(*found, strict=True)))
