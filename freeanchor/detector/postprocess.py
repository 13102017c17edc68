"""From predictions to boxes: candidates (before NMS), detections (after), and the merging of several scales.

candidates = select_candidates(logits, deltas, anchors, level_sizes, (height, width))
detections = suppress(candidates)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms

from freeanchor.boxes import DELTA_WEIGHTS, MAX_LOG_GROWTH, clip_boxes, decode_boxes


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """What the detector reports (FACTS A9).

    `max_per_level` caps the candidates a pyramid level hands to NMS, `max_detections` what an image keeps after it;
    None lifts a cap. `short_sides` lists the scales of multi-scale testing; none means the input's own.

    Three habits of other code bases, for detectors converted from them: `limit_shrinkage` keeps a decoded side above
    1/62.5 of its anchor's, as growth always is below 62.5 times it (mmdetection); `clip="after_nms"` cuts at the
    borders only what NMS leaves (detectron2); `drop_empty` drops boxes without area when they have been cut (both).
    """

    score_threshold: float = 0.05
    max_per_level: int | None = 1000
    nms_iou: float = 0.5
    max_detections: int | None = 100
    short_sides: tuple[int, ...] = ()
    limit_shrinkage: bool = False
    clip: Literal["before_nms", "after_nms"] = "before_nms"
    drop_empty: bool = False

    def __post_init__(self) -> None:
        """Refuse thresholds that are no fractions, and an unknown moment to clip."""
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}; pass a fraction")
        if self.clip not in ("before_nms", "after_nms"):
            raise ValueError(f"clip must be 'before_nms' or 'after_nms', got {self.clip!r}")


@dataclass(frozen=True)
class Candidates:
    """Scored boxes of one image: boxes [D, 4] xyxy, scores [D] and labels [D]; also used for detections."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.scores)

    def take(self, index: Tensor) -> "Candidates":
        """The boxes at `index`, in its order."""
        return Candidates(self.boxes[index], self.scores[index], self.labels[index])

    def first(self, count: int | None) -> "Candidates":
        """The first `count` boxes; None is all of them."""
        return Candidates(self.boxes[:count], self.scores[:count], self.labels[:count])

    def rescale(self, scale: tuple[float, float]) -> "Candidates":
        """The boxes in a frame whose width and height are `scale` times this one's."""
        return Candidates(self.boxes * self.boxes.new_tensor([*scale, *scale]), self.scores, self.labels)

    def extend(self, pixels: tuple[float, float]) -> "Candidates":
        """The boxes with their right and lower edges moved outwards by `pixels` (horizontally, vertically)."""
        return Candidates(self.boxes + self.boxes.new_tensor([0, 0, *pixels]), self.scores, self.labels)

    def clip(self, height: float, width: float, *, inclusive: bool = False, drop_empty: bool = False) -> "Candidates":
        """The boxes cut at the borders of an image, those left without area dropped where `drop_empty` says so.

        `inclusive` keeps every box at least one pixel wide and high, as the authors' clipping of first and last pixels
        to [0, width - 1] does.
        """
        boxes = clip_boxes(self.boxes, height, width)
        if inclusive:
            limit = boxes.new_tensor([width - 1, height - 1])
            boxes = torch.cat([torch.minimum(boxes[:, :2], limit), boxes[:, 2:].clamp(min=1)], dim=1)
        clipped = Candidates(boxes, self.scores, self.labels)
        if drop_empty:
            return clipped.take((boxes[:, 2:] > boxes[:, :2]).all(dim=1).nonzero()[:, 0])
        return clipped


def _decode(deltas: Tensor, anchors: Tensor, *, limit_shrinkage: bool) -> Tensor:
    """Decoded boxes in float32, a side no smaller than 1/62.5 of its anchor's where `limit_shrinkage` says so."""
    deltas = deltas.float()
    if limit_shrinkage:
        growth = deltas[:, 2:].clamp(min=-MAX_LOG_GROWTH * DELTA_WEIGHTS[2])
        deltas = torch.cat([deltas[:, :2], growth], dim=1)
    return decode_boxes(deltas, anchors.float())


def select_candidates(
    logits: Float[Tensor, "A K"],
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    level_sizes: Sequence[int],
    image_size: tuple[float, float] | None,
    *,
    score_threshold: float = 0.05,
    max_per_level: int | None = 1000,
    limit_shrinkage: bool = False,
    inclusive: bool = False,
    drop_empty: bool = False,
) -> Candidates:
    """Every (anchor, class) pair of one image that scores above `score_threshold`, decoded and clipped.

    Of each level at most `max_per_level` pairs, the best. `image_size` is (height, width) without the padding; None
    leaves the boxes unclipped. An anchor may come with several classes. See `InferenceConfig` and `Candidates.clip` for
    the last three arguments.
    """
    return select_with_and_without_cap(
        logits,
        deltas,
        anchors,
        level_sizes,
        image_size,
        score_threshold=score_threshold,
        max_per_level=max_per_level,
        limit_shrinkage=limit_shrinkage,
        inclusive=inclusive,
        drop_empty=drop_empty,
    )[0]


def select_with_and_without_cap(
    logits: Float[Tensor, "A K"],
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    level_sizes: Sequence[int],
    image_size: tuple[float, float] | None,
    *,
    score_threshold: float,
    max_per_level: int | None,
    limit_shrinkage: bool,
    inclusive: bool,
    drop_empty: bool,
) -> tuple[Candidates, Candidates]:
    """`select_candidates` with the cap a level, and without it, from one pass over the scores.

    The same object twice where the cap cuts nothing.
    """
    capped, uncapped = [], []
    for level_logits, level_deltas, level_anchors in zip(
        logits.split(list(level_sizes)), deltas.split(list(level_sizes)), anchors.split(list(level_sizes)), strict=True
    ):
        scores = level_logits.float().sigmoid().flatten()
        pairs = (scores > score_threshold).nonzero()[:, 0]
        anchor = pairs.div(logits.shape[1], rounding_mode="floor")
        boxes = _decode(level_deltas[anchor], level_anchors[anchor], limit_shrinkage=limit_shrinkage)
        level = Candidates(boxes, scores[pairs], pairs % logits.shape[1])
        best = level
        if max_per_level is not None and len(level) > max_per_level:
            best = level.take(level.scores.topk(max_per_level).indices)
        capped.append(best)
        uncapped.append(level)
    cuts = any(best is not level for best, level in zip(capped, uncapped, strict=True))
    results = [merge_scales(capped), merge_scales(uncapped)] if cuts else [merge_scales(uncapped)]
    if image_size:
        results = [it.clip(*image_size, inclusive=inclusive, drop_empty=drop_empty) for it in results]
    return results[0], results[-1]


def suppress(candidates: Candidates, *, nms_iou: float = 0.5, max_detections: int | None = 100) -> Candidates:
    """Greedy NMS within each class; the `max_detections` best of what it leaves, best first."""
    kept = batched_nms(candidates.boxes, candidates.scores, candidates.labels, nms_iou)
    return candidates.take(kept[:max_detections])


def merge_scales(candidates: Sequence[Candidates]) -> Candidates:
    """Candidates of several scales or levels, already in one frame, as one set (FACTS A10: then one NMS for all)."""
    return Candidates(
        torch.cat([part.boxes for part in candidates]),
        torch.cat([part.scores for part in candidates]),
        torch.cat([part.labels for part in candidates]),
    )
