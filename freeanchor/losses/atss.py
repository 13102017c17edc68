"""ATSS: an object's own statistics decide from which IoU on its anchors learn it (Zhang et al., CVPR 2020).

    assignment = ATSS().assign(anchors, gt_boxes, gt_labels, level_sizes=output.level_sizes)

Algorithm 1 of "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection"
for an object g with its candidates C_g, k per pyramid level:

    D_g = IoU(C_g, g),  m_g = Mean(D_g),  v_g = Std(D_g),  t_g = m_g + v_g
    positives = {c in C_g : IoU(c, g) >= t_g, the centre of c in g}
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import are_inside, box_centres, paired_iou
from freeanchor.losses.assignment import MARGIN, Predicted, by_highest_iou, check_levels

SAME_CENTRE = 1e-3  # px: anchors of one cell differ by the rounding of their corners


@dataclass(frozen=True, kw_only=True)
class ATSS:
    """Adaptive training sample selection.

    `candidates_per_level` counts cells: with nine anchors a cell, the nearest 81 of each level are an object's
    candidates. An anchor that two objects want learns the one that it overlaps more, the first of equal ones.
    Anchors at equal distance from an object come in the order of `torch.topk`.
    """

    candidates_per_level: int = 9  # k of Algorithm 1, the paper's default

    def __post_init__(self) -> None:
        if self.candidates_per_level < 1:
            raise ValueError(f"candidates_per_level must be at least 1 cell, got {self.candidates_per_level}")

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
        """Object index of each anchor or BACKGROUND; raises ValueError where `level_sizes` do not add up to A."""
        gt_boxes, centres = gt_boxes.to(anchors), box_centres(anchors)
        candidates = self._candidates(centres, gt_boxes, check_levels(level_sizes, len(anchors)))  # C_g
        iou = paired_iou(anchors[candidates], gt_boxes[:, None])  # D_g
        threshold = iou.mean(dim=1) + _deviation(iou)  # t_g = m_g + v_g
        is_positive = (iou >= threshold[:, None]) & are_inside(centres[candidates], gt_boxes[:, None], MARGIN)
        return by_highest_iou(len(anchors), candidates, iou, is_positive)

    def _candidates(self, centres: Tensor, gt_boxes: Tensor, level_sizes: list[int]) -> Tensor:
        """C_g [G, k]: on each level the anchors whose centres are nearest to the object's, in L2 distance."""
        x, y = centres.T.contiguous()  # each in a row of its own: read faster than every second number
        gt_x, gt_y = box_centres(gt_boxes).T[..., None]
        chosen, first = [], 0
        for size in level_sizes:
            level = slice(first, first + size)
            distances = (x[level] - gt_x).square_().add_((y[level] - gt_y).square_()).sqrt_()
            count = min(size, self.candidates_per_level * _num_per_cell(centres[level]))
            chosen.append(distances.topk(count, dim=1, largest=False).indices + first)
            first += size
        return torch.cat(chosen, dim=1) if chosen else centres.new_empty(len(gt_boxes), 0, dtype=torch.int64)


def _num_per_cell(centres: Tensor) -> int:
    """How many anchors of a level share the first one's centre."""
    return int(((centres - centres[:1]).abs() < SAME_CENTRE).all(dim=1).sum())


def _deviation(iou: Tensor) -> Tensor:
    """Std(D_g) over n - 1 candidates, as the authors' code has it; NaN of one, from which nothing learns."""
    squares = (iou - iou.mean(dim=1, keepdim=True)).square_().sum(dim=1)
    return (squares / (iou.shape[1] - 1)).sqrt() if iou.shape[1] > 1 else torch.full_like(squares, torch.nan)
