"""An assigner of your own: each object is learned by the anchors whose centres are nearest, one grid level at a time.

    .venv/bin/freeanchor train nearest-centres-small-s0 --assigner examples/nearest_centres.py
    make assigners ASSIGNER=examples/nearest_centres.py     # beside every other method, in every table and figure

One frozen dataclass with a method `assign`; see docs/matching.md for what it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class NearestCentres:
    """An object takes, on the level of anchors nearest to its size, those of the `num_cells` nearest cells."""

    num_cells: int = 4

    def assign(
        self,
        anchors: Tensor,
        gt_boxes: Tensor,
        gt_labels: Tensor | None = None,
        *,
        level_sizes: Sequence[int] = (),
        strides: Tensor | None = None,
        predictions: object = None,
    ) -> Tensor:
        """The object of each anchor [A], or -1; where two objects want an anchor, the smaller one has it."""
        assignment = torch.full((len(anchors),), -1, device=anchors.device)
        centres, areas = (anchors[:, :2] + anchors[:, 2:]) / 2, (anchors[:, 2:] - anchors[:, :2]).prod(dim=1)
        starts = torch.tensor([0, *level_sizes]).cumsum(0)[:-1].tolist()
        sizes = (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(dim=1)
        for number in sizes.argsort(descending=True).tolist():  # small objects last: they overwrite
            x1, y1, x2, y2 = gt_boxes[number].tolist()
            levels = [slice(start, start + size) for start, size in zip(starts, level_sizes, strict=True)]
            level = min(levels, key=lambda one: abs(float((areas[one].mean() / sizes[number].clamp(min=1)).log())))
            distance = (centres[level] - centres.new_tensor([(x1 + x2) / 2, (y1 + y2) / 2])).norm(dim=1)
            num_per_cell = int((distance - distance[:1]).abs().lt(1e-3).cumprod(0).sum())
            count = min(len(distance), self.num_cells * num_per_cell)
            assignment[level][distance.topk(count, largest=False).indices] = number
        return assignment
