"""Anchors, decoding and suppression as each foreign code base has them, box by box.

Boxes are tuples in the convention of their code base: the authors' are inclusive (a width is x2 - x1 + 1), the others'
continuous. Candidates are (score, label, box).
"""

import functools
import math
from dataclasses import dataclass

import torch
from oracles.anchors import shapes
from oracles.boxes import Box
from torch import Tensor
from torchvision.ops import nms

STRIDES = (8, 16, 32, 64, 128)
SIZES = (32, 64, 128, 256, 512)
RATIOS = (0.5, 1.0, 2.0)
LARGEST_GROWTH = math.log(1000 / 16)
Candidate = tuple[float, int, Box]


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What a code base takes deltas and boxes to mean.

    `pixel` is 1 where boxes are inclusive. `shrink_limited` clamps dw and dh from below too.
    """

    weights: tuple[float, float, float, float]
    geometry: str
    centre_offset: float
    scale_major: bool = False
    pixel: float = 0.0
    shrink_limited: bool = False


@functools.cache
def cell_anchors(coding: Coding, level: int) -> list[tuple[float, float]]:
    """(width, height) of the nine anchors of a cell, in the code base's order."""
    ratio_major = shapes(SIZES[level], STRIDES[level], coding.geometry, RATIOS)
    if not coding.scale_major:
        return ratio_major
    return [ratio_major[3 * ratio + scale] for scale in range(3) for ratio in range(3)]


def anchor_at(coding: Coding, level: int, place: int, columns: int) -> Box:
    """The anchor behind row `place` of a level's flat predictions."""
    cell, anchor = divmod(place, 9)
    row, column = divmod(cell, columns)
    width, height = cell_anchors(coding, level)[anchor]
    # inclusive anchors are centred at (stride - 1) / 2, half a pixel left of the continuous centre
    x = (column + coding.centre_offset) * STRIDES[level] - coding.pixel / 2
    y = (row + coding.centre_offset) * STRIDES[level] - coding.pixel / 2
    half_width, half_height = (width - coding.pixel) / 2, (height - coding.pixel) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def decode(coding: Coding, deltas: tuple, anchor: Box) -> Box:
    """The box that deltas make of an anchor."""
    width, height = anchor[2] - anchor[0] + coding.pixel, anchor[3] - anchor[1] + coding.pixel
    dx, dy, dw, dh = (delta / weight for delta, weight in zip(deltas, coding.weights, strict=True))
    if coding.shrink_limited:
        dw, dh = max(dw, -LARGEST_GROWTH), max(dh, -LARGEST_GROWTH)
    new_width = width * math.exp(min(dw, LARGEST_GROWTH))
    new_height = height * math.exp(min(dh, LARGEST_GROWTH))
    x = anchor[0] + width / 2 + dx * width
    y = anchor[1] + height / 2 + dy * height
    return (
        x - new_width / 2,
        y - new_height / 2,
        x + new_width / 2 - coding.pixel,
        y + new_height / 2 - coding.pixel,
    )


def clip(box: Box, width: float, height: float, pixel: float = 0.0) -> Box:
    """Every corner moved into [0, width - pixel] x [0, height - pixel]."""
    right, bottom = width - pixel, height - pixel
    return (
        min(max(box[0], 0.0), right),
        min(max(box[1], 0.0), bottom),
        min(max(box[2], 0.0), right),
        min(max(box[3], 0.0), bottom),
    )


def suppress(candidates: list[Candidate], nms_iou: float, pixel: float) -> list[Candidate]:
    """Greedy within each class, best first: what overlaps a kept box by more than `nms_iou` goes."""
    kept: list[Candidate] = []
    for label in sorted({label for _, label, _ in candidates}):
        own = [candidate for candidate in candidates if candidate[1] == label]
        boxes = torch.tensor([box for _, _, box in own], dtype=torch.float64)
        boxes[:, 2:] += pixel  # an inclusive box's area is that of the continuous one a pixel further
        scores = torch.tensor([score for score, _, _ in own], dtype=torch.float64)
        kept += [own[i] for i in nms(boxes, scores, nms_iou).tolist()]
    return sorted(kept, key=lambda candidate: -candidate[0])


def best_of_level(
    logits: Tensor, deltas: Tensor, coding: Coding, level: int, columns: int, threshold: float, most: int
) -> list[Candidate]:
    """The `most` best (anchor, class) pairs of one level above the threshold, decoded, not clipped."""
    scores = logits.sigmoid()
    pairs = [(float(scores[j, k]), int(j), int(k)) for j, k in (scores > threshold).nonzero().tolist()]
    best = sorted(pairs, key=lambda pair: -pair[0])[:most]
    return [
        (score, label, decode(coding, tuple(deltas[j].tolist()), anchor_at(coding, level, j, columns)))
        for score, j, label in best
    ]
