"""TODO."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import pairwise_iou

IOUS_AT_A_TIME = 2**20  # float32 buffers of 4 MiB: memory stays small however many objects there are
BACKGROUND = -1  # C_ij = 0 for every object i: the anchor is in A-
IGNORED = -2  # between the two thresholds: the anchor takes no part in the loss


def assign_by_iou(
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Float[Tensor, "G 4"],
    *,
    foreground_iou: float = 0.5,
    background_iou: float = 0.4,
    low_quality_matches: bool = True,
) -> Int[Tensor, "A"]:
    """Object index of each anchor, BACKGROUND or IGNORED: RetinaNet's hand-crafted matrix C (Sec. 3.1).

    An anchor takes the object it overlaps most if their IoU reaches `foreground_iou`, is background below
    `background_iou`, and ignored between. With `low_quality_matches` the anchors that tie for an object's best IoU
    are matched too, each with the object it overlaps most itself (authors' code: modeling/matcher.py).
    """
    if len(gt_boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    best_iou = anchors.new_full((len(anchors),), -1.0)
    best_object = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    is_best = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    for first, iou in ious_by_objects(gt_boxes, anchors):
        best_here, object_here = iou.max(dim=0)
        best_object = torch.where(best_here > best_iou, first + object_here, best_object)
        best_iou = torch.maximum(best_iou, best_here)
        best_of_object = iou.amax(dim=1, keepdim=True)
        # DEVIATION(D14): an object that meets no anchor ties with every anchor at IoU 0; those ties are no matches.
        is_best |= ((iou == best_of_object) & (best_of_object > 0)).any(dim=0)
    assignment = torch.where(best_iou < background_iou, BACKGROUND, IGNORED)
    assignment = torch.where(best_iou >= foreground_iou, best_object, assignment)
    return torch.where(is_best, best_object, assignment) if low_quality_matches else assignment


def ious_by_objects(
    gt_boxes: Float[Tensor, "G 4"], boxes: Float[Tensor, "A 4"]
) -> Iterator[tuple[int, Float[Tensor, "_ A"]]]:
    """IoU of every object with every box, some objects at a time: the first one's index, and a row for each."""
    boxes = boxes.T.contiguous().T  # as `pairwise_iou` reads it, once for all
    step = max(1, IOUS_AT_A_TIME // max(1, len(boxes)))
    for first in range(0, len(gt_boxes), step):
        yield first, pairwise_iou(gt_boxes[first : first + step], boxes)
