"""Suppression of boxes that another box of their class says already: NMS, and soft-NMS in its two forms.

What it is: from a detector's candidates to its detections, an image and class at a time, as columns. What it is not:
our detector's own (`freeanchor.postprocess`, on tensors), or what suppression costs (`analysis.nms_recall`).

    suppress(candidates, HardNms(nms_iou=0.5))
    suppress(candidates, GaussianSoftNms(sigma=0.5), score_threshold=0.05, max_detections=100)

Soft-NMS is of Bodla et al., "Soft-NMS -- Improving Object Detection With One Line of Code" (ICCV 2017, arXiv
1704.04503): the best box is kept, the scores of all others of its class fall the further they overlap it, and the best
of those comes next. It removes nothing by itself. *Kept* are the boxes whose score, fallen as it may be, is above
`score_threshold`: the same threshold that made them candidates. Kept boxes carry their fallen scores.

How far boxes overlap, as plain arrays.

What it is: IoU of every box with every other. What it is not: COCO's overlap with crowd regions, or its very float
operations (`analysis.matching`).

    pairwise_iou(np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10], [20, 20, 30, 30]]))    # [[1 / 3, 0]]
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torchvision.ops import batched_nms
from tqdm import tqdm

from analysis.coco.columns import Detections


def pairwise_iou(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """IoU of every box (xyxy) in `a` with every box in `b`; 0 where they do not meet, boxes without extent included."""
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.clip(extent, 0, None).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)


@dataclass(frozen=True, kw_only=True)
class HardNms:
    """Removes a box that overlaps a better one of its class by more than `nms_iou`; 1 removes nothing."""

    nms_iou: float = 0.5

    def __post_init__(self) -> None:
        """Refuses an IoU that cannot be meant."""
        _check_iou(self.nms_iou)

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"NMS {self.nms_iou}"


@dataclass(frozen=True, kw_only=True)
class LinearSoftNms:
    """Multiplies scores by 1 - IoU where the IoU with a better box is more than `nms_iou` (Bodla et al., Sec. 3).

    The paper writes *at least*, its authors' code *more than*: ours is the latter, so that the boxes that lose are
    those that `HardNms` removes. Their own `nms_iou` is 0.3.
    """

    nms_iou: float = 0.5

    def __post_init__(self) -> None:
        """Refuses an IoU that cannot be meant."""
        _check_iou(self.nms_iou)

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"linear soft-NMS {self.nms_iou}"

    def decay(self, iou: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """What is left of a score, as a factor, beside a better box."""
        return np.where(iou > self.nms_iou, 1 - iou, 1.0)


@dataclass(frozen=True, kw_only=True)
class GaussianSoftNms:
    """Multiplies scores by exp(-IoU^2 / sigma), however small the IoU (Bodla et al., Sec. 3; their sigma is 0.5)."""

    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Refuses a width that cannot be meant."""
        if not 0 < self.sigma < float("inf"):
            raise ValueError(f"sigma must be greater than 0, got {self.sigma}; 0.5 is usual")

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"gaussian soft-NMS {self.sigma}"

    def decay(self, iou: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """What is left of a score, as a factor, beside a better box."""
        return np.exp(-(iou**2) / self.sigma)


Suppression = HardNms | LinearSoftNms | GaussianSoftNms


def suppress(
    candidates: Detections,
    suppression: Suppression,
    *,
    score_threshold: float = 0.05,
    max_detections: int | None = None,
) -> Detections:
    """What a suppression keeps of the candidates that score more than `score_threshold`, with their scores thereafter.

    Of each image at most `max_detections`, best first (None: all); images in the order of their ids. Soft-NMS needs
    a threshold of 0 or more, since it multiplies scores: `ValueError` otherwise. Progress on stderr where it is a
    terminal.
    """
    image_ids, image = np.unique(candidates.image_id, return_inverse=True)
    every = np.arange(len(candidates))
    rows, scores = [np.empty(0, np.int64)], [np.empty(0)]
    for found in tqdm(rows_by_image(every, image, len(image_ids)), desc="nms", unit="image", disable=None):
        kept, left = survivors(candidates, found, suppression, score_threshold=score_threshold)
        rows.append(kept[:max_detections])
        scores.append(left[:max_detections])
    chosen = np.concatenate(rows)
    return Detections(
        image_id=candidates.image_id[chosen],
        category_id=candidates.category_id[chosen],
        boxes=candidates.boxes[chosen],
        scores=np.concatenate(scores),
        sizes=candidates.sizes[chosen],
    )


def survivors(
    candidates: Detections, rows: Int[np.ndarray, " D"], suppression: Suppression, *, score_threshold: float
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Which of one image's `rows` are kept, and their scores then; best first. The rules are those of `suppress`."""
    rows = rows[candidates.scores[rows] > score_threshold]
    if isinstance(suppression, HardNms):
        kept = rows[_hard(candidates, rows, suppression.nms_iou)]
        return kept, candidates.scores[kept]
    if score_threshold < 0:
        raise ValueError(f"score_threshold must not be negative with soft-NMS, got {score_threshold}; 0 is the lowest")
    parts = [(np.empty(0, np.int64), np.empty(0))]
    for category in np.unique(candidates.category_id[rows]):
        own = rows[candidates.category_id[rows] == category]
        place, scores = _soft(candidates.boxes[own], candidates.scores[own], suppression, score_threshold)
        parts.append((own[place], scores))
    kept, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((kept, -scores))
    return kept[order], scores[order]


def rows_by_image(
    rows: Int[np.ndarray, " D"], image: Int[np.ndarray, " D"], num_images: int
) -> list[Int[np.ndarray, " _"]]:
    """The rows of each image, in their own order; `image` is each row's image, counted from 0."""
    order = np.argsort(image, kind="stable")
    return np.split(rows[order], np.searchsorted(image[order], np.arange(1, num_images)))


def _hard(candidates: Detections, rows: np.ndarray, nms_iou: float) -> np.ndarray:
    """Positions among `rows` that per-class NMS keeps, best first."""
    boxes = torch.from_numpy(candidates.boxes[rows])
    if len(rows):
        boxes = boxes - boxes.amin().clamp(max=0)  # torchvision sets classes apart by shifts that take coordinates >= 0
    scores = torch.from_numpy(candidates.scores[rows])
    return batched_nms(boxes, scores, torch.from_numpy(candidates.category_id[rows]), nms_iou).numpy()


def _soft(
    boxes: np.ndarray, scores: np.ndarray, suppression: LinearSoftNms | GaussianSoftNms, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept of one image and class, in the order they are taken, and their scores; ties by position."""
    kept: list[int] = []
    final: list[float] = []
    rows = np.arange(len(scores))
    while True:
        alive = scores > score_threshold  # what has fallen can only fall further, so it may go at once
        rows, boxes, scores = rows[alive], boxes[alive], scores[alive]
        if not len(rows):
            return np.array(kept, dtype=np.int64), np.array(final, dtype=np.float64)
        best = int(np.argmax(scores))
        kept.append(int(rows[best]))
        final.append(float(scores[best]))
        scores = scores * suppression.decay(pairwise_iou(boxes[best : best + 1], boxes)[0])
        scores[best] = 0.0  # taken; not above any threshold


def _check_iou(nms_iou: float) -> None:
    if not 0 <= nms_iou <= 1:
        raise ValueError(f"nms_iou must lie in [0, 1], got {nms_iou}; pass a fraction, not a percentage")
