"""Soft-NMS as its paper's pseudo code has it (Bodla et al. 2017, Fig. 3), in loops; shares nothing with `analysis`.

soft_nms([(box, category, score), …], gaussian(0.5), 0.05)
"""

import math

from oracles.detection_metrics import iou


def linear(nms_iou: float):
    """s <- s (1 - IoU) where the IoU is more than the threshold."""
    return lambda overlap: 1 - overlap if overlap > nms_iou else 1.0


def gaussian(sigma: float):
    """s <- s exp(-IoU^2 / sigma)."""
    return lambda overlap: math.exp(-overlap * overlap / sigma)


def soft_nms(candidates, decay, score_threshold: float) -> list:
    """(box, category, score) left, best first: B loses its best box M to D, all others of M's class decay; repeat.

    Nothing is left out on the way; only at the end do those go whose score is not above the threshold.
    """
    left, taken = list(candidates), []
    while left:
        best = max(range(len(left)), key=lambda i: left[i][2])
        box, category, score = left.pop(best)
        taken.append((box, category, score))
        left = [(b, c, s * decay(iou(box, b)) if c == category else s) for b, c, s in left]
    return [row for row in taken if row[2] > score_threshold]
