"""Both ways to match anchors with objects, in loops and the paper's notation.

IoU assignment is C_ij of Sec. 3.1 with the authors' baseline's low-quality matches; bags, saturated linear,
P{a -> b} and Mean-max are Sec. 3.2 and 3.3 with the authors' choices. Works on lists of boxes; Mean-max takes any
numbers that add and divide, so that autograd can follow it.

    mean_max([0.2, 0.8])   # 0.68
"""

from collections.abc import Sequence
from typing import Any

from oracles.boxes import Box, iou

BACKGROUND, IGNORED = -1, -2


def assign(
    anchors: list[Box], gt_boxes: list[Box], foreground: float, background: float, low_quality: bool
) -> list[int]:
    """For each anchor the object it learns, or BACKGROUND, or IGNORED.

    As maskrcnn-benchmark's Matcher, but that an object which meets no anchor ties with none.
    """
    if not gt_boxes:
        return [BACKGROUND for _ in anchors]
    overlaps = [[iou(anchor, box) for anchor in anchors] for box in gt_boxes]
    assignment = []
    for j in range(len(anchors)):
        column = [overlaps[i][j] for i in range(len(gt_boxes))]
        best_object = column.index(max(column))
        if max(column) >= foreground:
            assignment.append(best_object)
        elif max(column) < background:
            assignment.append(BACKGROUND)
        else:
            assignment.append(IGNORED)
        reaches_best_of_an_object = any(0 < overlaps[i][j] == max(overlaps[i]) for i in range(len(gt_boxes)))
        if low_quality and reaches_best_of_an_object:
            assignment[j] = best_object
    return assignment


def bag(anchors: list[Box], gt_box: Box, bag_size: int) -> list[int]:
    """A_i: the indices of the n anchors of greatest IoU with the object, best first."""
    return sorted(range(len(anchors)), key=lambda j: -iou(anchors[j], gt_box))[:bag_size]


def saturated_linear(x: float, t1: float, t2: float) -> float:
    """The three cases of the paper's definition, in its order."""
    if x <= t1:
        return 0.0
    if x >= t2:
        return 1.0
    return (x - t1) / (t2 - t1)


def match_probability(predicted: list[Box], gt_box: Box, match_iou: float) -> list[float]:
    """P{a_j -> b_i} for every predicted box j of one image: t2 is the best IoU over all of them (D4)."""
    overlaps = [iou(box, gt_box) for box in predicted]
    return [saturated_linear(overlap, match_iou, max(overlaps)) for overlap in overlaps]


def mean_max(confidences: Sequence[Any]) -> Any:
    """sum x / (1 - x) over sum 1 / (1 - x), as printed in Sec. 3.3; for confidences below 1."""
    return sum(x / (1 - x) for x in confidences) / sum(1 / (1 - x) for x in confidences)


def effective_anchors(confidences: Sequence[float]) -> float:
    """One over the sum of the squared shares that the anchors have in Mean-max."""
    total = sum(1 / (1 - x) for x in confidences)
    return 1 / sum((1 / (1 - x) / total) ** 2 for x in confidences)
