"""ATSS, SimOTA and TAL in loops and their papers' notation, one image at a time; boxes are tuples in pixels.

Where values tie for a place, papers say nothing: `nearest(values, k)`, the places of the k least in some order, is an
argument. A result is the object of each anchor, or -1.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from oracles.boxes import Box, iou

Nearest = Callable[[Sequence[float], int], list[int]]
BACKGROUND = -1


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _depth(point: tuple[float, float], box: Box) -> float:
    """How far a point lies inside a box: its distance from the nearest side, negative outside."""
    x, y = point
    return min(x - box[0], y - box[1], box[2] - x, box[3] - y)


def _to_highest_iou(num_anchors: int, wanted: list[tuple[int, int, float]]) -> list[int]:
    """Each anchor to the object it overlaps most, of (object, anchor, IoU) by rising object."""
    assignment, best = [BACKGROUND] * num_anchors, [-1.0] * num_anchors
    for i, j, overlap in wanted:
        if overlap > best[j]:
            assignment[j], best[j] = i, overlap
    return assignment


def atss(
    anchors: list[Box], gt_boxes: list[Box], level_sizes: Sequence[int], num_per_cell: int, nearest: Nearest, k: int = 9
) -> list[int]:
    """Algorithm 1: candidates by distance on each level, then mean plus standard deviation of their IoU."""
    wanted = []
    for i, g in enumerate(gt_boxes):
        C_g, first = [], 0
        for size in level_sizes:
            distances = [math.dist(_centre(a), _centre(g)) for a in anchors[first : first + size]]
            C_g += [first + place for place in nearest(distances, min(size, k * num_per_cell))]
            first += size
        D_g = [iou(anchors[j], g) for j in C_g]
        if len(D_g) < 2:
            continue
        m_g = math.fsum(D_g) / len(D_g)
        v_g = math.sqrt(math.fsum((d - m_g) ** 2 for d in D_g) / (len(D_g) - 1))
        for j, d in zip(C_g, D_g, strict=True):
            if d >= m_g + v_g and _depth(_centre(anchors[j]), g) > 0.01:
                wanted.append((i, j, d))
    return _to_highest_iou(len(anchors), wanted)


def tal(
    anchors: list[Box], gt_boxes: list[Box], labels: list[int], boxes: list[Box], scores: list[list[float]],
    nearest: Nearest, m: int = 13, alpha: float = 1.0, beta: float = 6.0,
) -> list[int]:  # fmt: skip
    """The m anchors of greatest t = s^alpha u^beta, but those whose centre is outside or whose t is 0."""
    wanted = []
    for i, (g, c) in enumerate(zip(gt_boxes, labels, strict=True)):
        t = [scores[j][c] ** alpha * iou(boxes[j], g) ** beta for j in range(len(anchors))]
        for j in nearest([-value for value in t], min(m, len(anchors))):
            if t[j] > 0 and _depth(_centre(anchors[j]), g) > 0.01:
                wanted.append((i, j, iou(boxes[j], g)))
    return _to_highest_iou(len(anchors), wanted)


def _surprise(p: float, is_class: bool) -> float:
    """Binary cross entropy of one score, its logarithm not below -100."""
    rest = p if is_class else 1 - p
    return min(100.0, -math.log(rest)) if rest > 0 else 100.0


def simota(
    anchors: list[Box], gt_boxes: list[Box], labels: list[int], strides: list[float], boxes: list[Box],
    scores: list[list[float]], nearest: Nearest, radius: float = 2.5, num_candidates: int = 10,
) -> list[int]:  # fmt: skip
    """Dynamic k: each object takes the k anchors of least cost; anchors taken twice go where they cost least."""
    in_box = [[_depth(_centre(a), g) > 0 for a in anchors] for g in gt_boxes]
    is_near = []
    for g in gt_boxes:
        x, y = _centre(g)
        reach = [radius * stride for stride in strides]
        squares = [(x - r, y - r, x + r, y + r) for r in reach]
        is_near.append([_depth(_centre(a), square) > 0 for a, square in zip(anchors, squares, strict=True)])
    objects = range(len(gt_boxes))
    valid = [j for j in range(len(anchors)) if any(in_box[i][j] or is_near[i][j] for i in objects)]
    cost: list[dict[int, np.float32]] = []
    taken_by: dict[int, list[int]] = {j: [] for j in valid}
    for i in objects:
        cost.append({})
        for j in valid:
            L_cls = sum(_surprise(p, k == labels[i]) for k, p in enumerate(scores[j]))
            L_reg = -math.log(iou(boxes[j], gt_boxes[i]) + 1e-7)
            far = np.float32(0 if in_box[i][j] and is_near[i][j] else 1e5)
            cost[i][j] = np.float32(L_cls) + np.float32(3) * np.float32(L_reg) + far
        best = sorted((iou(boxes[j], gt_boxes[i]) for j in valid), reverse=True)[:num_candidates]
        k_i = max(1, int(sum(best)))
        own = [j for j in valid if in_box[i][j] and is_near[i][j]]
        pool = own if len(own) >= k_i else valid  # all others cost 1e5 more; it matters to the order of ties alone
        for place in nearest([float(cost[i][j]) for j in pool], k_i) if valid else []:
            taken_by[pool[place]].append(i)
    assignment = [BACKGROUND] * len(anchors)
    for j, takers in taken_by.items():
        if len(takers) == 1:
            assignment[j] = takers[0]
        elif takers:
            assignment[j] = min(objects, key=lambda i: cost[i][j])
    return assignment
