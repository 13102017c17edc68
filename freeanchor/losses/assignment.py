"""What an assigner is: a rule that gives each anchor an object before the loss is computed (C_ij of Eq. 1).

An assigner is a frozen dataclass with one method, so that methods can be compared on the same loss:
`IoUThresholds`, `ATSS`, `SimOTA`, `TAL`, or your own (docs/matching.md).

    assignment = ATSS().assign(anchors, gt_boxes, gt_labels, level_sizes=sizes)     # object index, BACKGROUND, IGNORED
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKGROUND = -1  # C_ij = 0 for every object i: the anchor is in A-
IGNORED = -2  # between the two thresholds: the anchor takes no part in the loss
MARGIN = 0.01  # px that a centre must lie inside its object (ATSS' code, atss_core/modeling/rpn/atss/loss.py; TOOD's)


@runtime_checkable
class Predicted(Protocol):
    """What the network says of one image, for assigners that ask it: anything with decoded boxes and probabilities."""

    @property
    def boxes(self) -> Float[Tensor, "A 4"]:
        """Boxes in xyxy pixels, without gradient."""

    @property
    def scores(self) -> Float[Tensor, "A K"]:
        """Probabilities of the classes, without gradient."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Those of an image, as they are."""

    boxes: Float[Tensor, "A 4"]
    scores: Float[Tensor, "A K"]


@runtime_checkable
class Assigner(Protocol):
    """A rule that gives each anchor of one image an object."""

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
        """Object index of each anchor, BACKGROUND or IGNORED; `level_sizes` are the anchors of each pyramid level."""


def check_levels(level_sizes: Sequence[int], num_anchors: int) -> list[int]:
    """The anchors of each pyramid level; raises ValueError where they are not all anchors."""
    sizes = [int(size) for size in level_sizes]
    if sum(sizes) != num_anchors:
        raise ValueError(f"level_sizes {sizes} add up to {sum(sizes)}; give the anchors of each level, {num_anchors}")
    return sizes


def check_strides(strides: Tensor | None, num_anchors: int) -> Tensor:
    """The stride of each anchor's level in pixels; raises ValueError where there is not one per anchor."""
    if strides is None or len(strides) != num_anchors:
        given = "none" if strides is None else f"{len(strides)}"
        raise ValueError(f"{given} strides are given for {num_anchors} anchors; give one per anchor, in pixels")
    return strides


def check_predictions(
    assigner: Assigner, predictions: Predicted | None, gt_labels: Tensor | None
) -> tuple[Predicted, Tensor]:
    """Both, for an assigner that cannot do without; raises ValueError where one is missing."""
    if predictions is None or gt_labels is None:
        missing = "predictions (boxes and scores)" if predictions is None else "gt_labels"
        raise ValueError(f"{type(assigner).__name__} asks what the network says of each class; give {missing}")
    return predictions, gt_labels.long()


class Cells(NamedTuple):
    """Anchors in runs of one centre and one level, as those of a cell are: where each run begins, and how many it has.

    Centres that rounding tells apart are cells of their own.
    """

    first: Int[Tensor, "C"]
    counts: Int[Tensor, "C"]

    @classmethod
    def of(cls, centres: Float[Tensor, "2 A"], reach: Float[Tensor, "A"]) -> "Cells":
        """The cells of all anchors, whose reach is their level's."""
        x, y = centres
        begins = torch.ones(len(reach), dtype=torch.bool, device=reach.device)
        begins[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1]) | (reach[1:] != reach[:-1])
        first = begins.nonzero()[:, 0]
        return cls(first, torch.diff(first, append=first.new_tensor([len(reach)])))

    def anchors(self, cells: Int[Tensor, "N"]) -> Int[Tensor, "M"]:
        """The anchors of some cells, in their order."""
        counts = self.counts[cells]
        ends = counts.cumsum(0)
        starts = (self.first[cells] - ends + counts).repeat_interleave(counts)
        return starts + torch.arange(len(starts), device=starts.device)


def centre_priors(
    centres: Float[Tensor, "2 A"], reach: Float[Tensor, "A"], gt_boxes: Float[Tensor, "G 4"]
) -> tuple[Bool[Tensor, "G A"], Bool[Tensor, "G A"]]:
    """Whether centres lie in objects, and whether within `reach` pixels of the objects' centres in both x and y."""
    reaches, counts = reach.unique_consecutive(return_counts=True)
    boxes: Tensor = gt_boxes[:, :, None]
    in_box: list[Tensor] = []
    is_near: list[Tensor] = []
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    for own, (x, y) in zip(reaches, centres.split(counts.tolist(), dim=1), strict=True):  # level by level
        for found, low, high in ((in_box, boxes[:, :2], boxes[:, 2:]), (is_near, middle - own, middle + own)):
            found.append((x > low[:, 0]).logical_and_(x < high[:, 0]))
            found[-1].logical_and_(y > low[:, 1]).logical_and_(y < high[:, 1])
    return torch.cat(in_box, dim=1), torch.cat(is_near, dim=1)


def by_highest_iou(
    num_anchors: int, candidates: Int[Tensor, "G M"], iou: Float[Tensor, "G M"], is_positive: Bool[Tensor, "G M"]
) -> Int[Tensor, "A"]:
    """Of the objects whose positive candidate an anchor is, the one of highest IoU, the first of equal ones."""
    objects, places = is_positive.nonzero(as_tuple=True)
    anchors, iou = candidates[objects, places], iou[objects, places]
    best = iou.new_full((num_anchors,), -1.0).scatter_reduce(0, anchors, iou, "amax")
    is_best, none = iou == best[anchors], len(candidates)
    owner = torch.full((num_anchors,), none, device=candidates.device)
    owner = owner.scatter_reduce(0, anchors[is_best], objects[is_best], "amin")
    return torch.where(owner < none, owner, BACKGROUND)
