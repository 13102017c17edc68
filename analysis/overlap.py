"""How far boxes overlap, as plain arrays.

What it is: IoU of every box with every other. What it is not: COCO's overlap with crowd regions, or its very float
operations (`analysis.matching`).

    pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [20, 20, 30, 30]]))    # [[1 / 3, 0]]
"""

import numpy as np
from jaxtyping import Float


def pairwise_iou(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """IoU of every box (xyxy) in `a` with every box in `b`; 0 where they do not meet, boxes without extent included."""
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.clip(extent, 0, None).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
