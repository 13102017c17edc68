"""Suppression of boxes that repeat another box of their class: NMS, and soft-NMS in its two forms.

    suppress(candidates, HardNms(nms_iou=0.5))
    suppress(candidates, GaussianSoftNms(sigma=0.5), score_threshold=0.05, max_detections=100)

NMS keeps the boxes that torchvision's `nms` keeps, an image and class at a time, with the same float operations.
Soft-NMS is of Bodla et al., "Soft-NMS -- Improving Object Detection With One Line of Code" (ICCV 2017, arXiv
1704.04503): the best box is kept, the scores of all others of its class fall the further they overlap it, and the best
of those comes next. It removes nothing by itself. *Kept* are the boxes whose score, fallen as it may be, is above
`score_threshold`: the same threshold that made them candidates. Kept boxes carry their fallen scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from tqdm import tqdm

from analysis.coco.columns import Detections
from analysis.coco.match_parts import check_whole
from freeanchor.errors import UsageError

_BLOCK, _CHUNK = 64, 2048  # boxes that are compared with each other at once, and with as many of the rest


def pairwise_iou(a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"]) -> Float[np.ndarray, "N M"]:
    """IoU of every box (xyxy) in `a` with every box in `b`; 0 where they do not meet, boxes without extent included."""
    return _iou(a[:, None], b[None])


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU over the last axis; the operations and their order are those of torchvision's `nms`."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    overlap = np.maximum(width, 0) * np.maximum(height, 0)
    union = _area(a) + _area(b) - overlap
    return overlap / np.where(overlap > 0, union, 1.0)


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


@dataclass(frozen=True, kw_only=True)
class HardNms:
    """Removes a box that overlaps a better one of its class by more than `nms_iou`; 1 removes nothing."""

    nms_iou: float = 0.5

    def __post_init__(self) -> None:
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
        if not 0 < self.sigma < float("inf"):
            raise UsageError(f"sigma must be greater than 0, got {self.sigma}; 0.5 is usual")

    @property
    def label(self) -> str:
        """How tables call it."""
        return f"gaussian soft-NMS {self.sigma}"

    def decay(self, iou: Float[np.ndarray, " D"]) -> Float[np.ndarray, " D"]:
        """What is left of a score, as a factor, beside a better box."""
        return np.exp(-(iou**2) / self.sigma)


Suppression = HardNms | LinearSoftNms | GaussianSoftNms
SoftNms = Literal["linear", "gaussian"]


def suppressions(
    nms: float | Sequence[float], soft_nms: SoftNms | Sequence[SoftNms] | None, sigma: float
) -> list[Suppression]:
    """NMS at each IoU, then soft-NMS of each kind: linear at each IoU, gaussian of width `sigma`; each once.

    Raises `UsageError` for values that mean nothing.
    """
    ious = list(dict.fromkeys([nms] if isinstance(nms, int | float) else nms))
    found: list[Suppression] = [HardNms(nms_iou=iou) for iou in ious]
    for kind in dict.fromkeys([soft_nms] if isinstance(soft_nms, str) else soft_nms or ()):
        if kind == "linear":
            found += [LinearSoftNms(nms_iou=iou) for iou in ious]
        elif kind == "gaussian":
            found.append(GaussianSoftNms(sigma=sigma))
        else:
            raise UsageError(f'soft_nms must be "linear" or "gaussian", got {kind!r}')
    if not found:
        raise UsageError("nms must have at least one IoU; 0.5 is usual")
    return found


def check_threshold(score_threshold: float) -> None:
    """Raises `UsageError` for a score that candidates cannot have to exceed."""
    if not 0 <= score_threshold < float("inf"):
        raise UsageError(f"score_threshold must be 0 or more, got {score_threshold}; the paper's is 0.05")


def suppress(
    candidates: Detections,
    suppression: Suppression,
    *,
    score_threshold: float = 0.05,
    max_detections: int | None = None,
) -> Detections:
    """What a suppression keeps of the candidates that score more than `score_threshold`, with their scores thereafter.

    Of each image at most `max_detections`, best first (None: all); images in the order of their ids. Soft-NMS needs
    a threshold of 0 or more, since it multiplies scores: `ValueError` otherwise; `DataError` for parts of a matching.
    Progress on stderr where it is a terminal.
    """
    image_ids, image = np.unique(candidates.image_id, return_inverse=True)
    rows, scores = [np.empty(0, np.int64)], [np.empty(0)]
    for found in tqdm(rows_by_image(image, len(image_ids)), desc="nms", unit="image", disable=None):
        kept, left = survivors(candidates, found, suppression, score_threshold=score_threshold)
        rows.append(kept[:max_detections])
        scores.append(left[:max_detections])
    chosen = np.concatenate(rows)
    return replace(candidates.take(chosen), scores=np.concatenate(scores))


def survivors(
    candidates: Detections, rows: Int[np.ndarray, " D"], suppression: Suppression, *, score_threshold: float
) -> tuple[Int[np.ndarray, " M"], Float[np.ndarray, " M"]]:
    """Which of one image's `rows` are kept, and their scores then; best first. The rules are those of `suppress`."""
    check_whole(candidates, suppression.label)
    if score_threshold < 0 and not isinstance(suppression, HardNms):
        raise ValueError(f"score_threshold must not be negative with soft-NMS, got {score_threshold}; 0 is the lowest")
    rows = rows[candidates.scores[rows] > score_threshold]
    rows = rows[np.lexsort((-candidates.scores[rows], candidates.category_id[rows]))]
    boxes, scores, category = candidates.boxes[rows], candidates.scores[rows], candidates.category_id[rows]
    if isinstance(suppression, HardNms):
        taken = _hard(boxes, category, suppression.nms_iou)
        scores = scores[taken]
    else:
        edges = [0, *(np.flatnonzero(category[1:] != category[:-1]) + 1).tolist(), len(rows)]
        parts = [_soft(boxes[a:b], scores[a:b], suppression, score_threshold) for a, b in pairwise(edges)]
        taken = np.concatenate([start + own for start, (own, _) in zip(edges, parts, strict=False)])
        scores = np.concatenate([fallen for _, fallen in parts])
    order = np.lexsort((rows[taken], -scores))
    return rows[taken][order], scores[order]


def rows_by_image(image: Int[np.ndarray, " D"], num_images: int) -> list[Int[np.ndarray, " _"]]:
    """The rows of each image, in their own order; `image` is each row's image, counted from 0."""
    order = np.argsort(image, kind="stable")
    return np.split(order, np.searchsorted(image[order], np.arange(1, num_images)))


def _hard(boxes: np.ndarray, category: np.ndarray, nms_iou: float) -> np.ndarray:
    """Positions that NMS keeps of one image's boxes, which come by category, then best first: block after block."""
    kept, left = [np.empty(0, np.int64)], np.arange(len(boxes))
    while len(left):
        block, left = left[:_BLOCK], left[_BLOCK:]
        rivals = np.triu(category[block, None] == category[block], 1)
        removes = _overlaps(boxes[block], boxes[block], nms_iou, rivals)
        stays = np.ones(len(block), dtype=bool)
        for row in np.flatnonzero(removes.any(axis=1)):
            if stays[row]:
                stays &= ~removes[row]
        last = category[block[-1]]  # the only category that goes on after the block
        kept.append(block[stays])
        better = boxes[block[stays & (category[block] == last)]]
        num_rivals = int(np.searchsorted(category[left], last, side="right"))
        if num_rivals:
            parts = [left[start : min(start + _CHUNK, num_rivals)] for start in range(0, num_rivals, _CHUNK)]
            parts = [part[~_overlaps(better, boxes[part], nms_iou).any(axis=0)] for part in parts]
            left = np.concatenate([*parts, left[num_rivals:]])
    return np.concatenate(kept)


def _overlaps(a: np.ndarray, b: np.ndarray, nms_iou: float, which: np.ndarray | bool = True) -> np.ndarray:
    """Which boxes overlap by more than `nms_iou`; most do not meet at all, which is seen without their IoU."""
    found = (a[:, 2, None] > b[:, 0]) & (b[:, 2] > a[:, 0, None]) & which
    found &= (a[:, 3, None] > b[:, 1]) & (b[:, 3] > a[:, 1, None])
    i, j = np.nonzero(found)
    found[i, j] = _iou(a[i], b[j]) > nms_iou
    return found


def _soft(
    boxes: np.ndarray, scores: np.ndarray, suppression: LinearSoftNms | GaussianSoftNms, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions kept of one class's boxes, in the order they are taken, and their scores; ties by position."""
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
        raise UsageError(f"nms_iou must lie in [0, 1], got {nms_iou}; pass a fraction, not a percentage")
