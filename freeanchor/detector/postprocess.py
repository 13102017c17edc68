"""From predictions to boxes: candidates (before NMS), detections (after), and the merging of several scales.

capped, candidates = select_candidates(logits, deltas, anchors, level_sizes, (height, width), InferenceConfig())
detections = suppress(capped)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import DELTA_WEIGHTS, MAX_LOG_GROWTH, clip_boxes, decode_boxes

# Up to so many boxes of a class, looking at their pairs is faster than a call of `nms`; on a GPU calls cost far more.
FEW_BOXES, FEW_GPU_BOXES = 20, 300


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """What the detector reports (authors' code).

    `max_per_level` caps the candidates that each pyramid level hands to NMS, `max_detections` what an image keeps after
    it; None lifts a cap. `short_sides` lists the scales of multi-scale testing; none means the input's own.

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
    image_size: tuple[float, float],
    config: InferenceConfig,
    *,
    inclusive: bool = False,
) -> tuple[Candidates, Candidates]:
    """Every (anchor, class) pair of one image that scores above the threshold, decoded and clipped: capped, and all.

    Capped are the best `config.max_per_level` pairs of each level; where that cuts nothing, both are the same object.
    An anchor may come with several classes. `image_size` is (height, width) without the padding; `inclusive` as in
    `Candidates.clip`.
    """
    num_classes, sizes = logits.shape[1], list(level_sizes)
    capped, uncapped = [], []
    for logit, delta, cell in zip(logits.split(sizes), deltas.split(sizes), anchors.split(sizes), strict=True):
        scores = logit.float().sigmoid().flatten()
        pairs = (scores > config.score_threshold).nonzero()[:, 0]
        anchor = pairs.div(num_classes, rounding_mode="floor")
        boxes = _decode(delta[anchor], cell[anchor], limit_shrinkage=config.limit_shrinkage)
        level = best = Candidates(boxes, scores[pairs], pairs % num_classes)
        if config.max_per_level is not None and len(level) > config.max_per_level:
            best = level.take(level.scores.topk(config.max_per_level).indices)
        capped.append(best)
        uncapped.append(level)
    is_cut = any(best is not level for best, level in zip(capped, uncapped, strict=True))
    results = [merge_scales(capped), merge_scales(uncapped)] if is_cut else [merge_scales(uncapped)]
    if config.clip == "before_nms":
        results = [it.clip(*image_size, inclusive=inclusive, drop_empty=config.drop_empty) for it in results]
    return results[0], results[-1]


def suppress(candidates: Candidates, *, nms_iou: float = 0.5, max_detections: int | None = 100) -> Candidates:
    """Greedy NMS within each class; the `max_detections` best of what it leaves, best first."""
    kept = nms_by_class(candidates.boxes, candidates.scores, candidates.labels, nms_iou)
    return candidates.take(kept[:max_detections])


def nms_by_class(
    boxes: Float[Tensor, "D 4"], scores: Float[Tensor, " D"], labels: Int[Tensor, " D"], nms_iou: float
) -> Int[Tensor, " M"]:
    """Positions that torchvision's `nms` keeps of each class's boxes, best first; ties by position.

    Classes are never moved apart by a shift of coordinates, as torchvision's `batched_nms` does with up to 1,000 boxes:
    rounding would let far boxes and large labels lose their overlaps.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[labels[order].argsort(stable=True)]
    counts = labels[order].unique_consecutive(return_counts=True)[1]
    is_few = counts <= (FEW_BOXES if boxes.device.type == "cpu" else FEW_GPU_BOXES)
    of_few = is_few.repeat_interleave(counts)
    few, parts = order[of_few], [order[:0]]
    if len(few):
        parts.append(few[_best_of_pairs(boxes[few], counts[is_few], nms_iou)])
    if len(few) < len(order):
        from torchvision.ops import nms  # slow to import, and reports import this module without a network to run

        many = order[~of_few].split(counts[~is_few].tolist())
        parts += [own[nms(boxes[own], scores[own], nms_iou)] for own in many]
    kept = torch.cat(parts).sort().values
    return kept[scores[kept].argsort(descending=True, stable=True)]


def _best_of_pairs(boxes: Tensor, counts: Tensor, nms_iou: float) -> Tensor:
    """Which boxes `nms` keeps, for all classes at once; they come by class, `counts` of each, best first."""
    place = torch.arange(len(boxes), device=boxes.device)
    num_worse = counts.cumsum(0).repeat_interleave(counts) - place - 1
    better = place.repeat_interleave(num_worse)
    worse = better + 1 + torch.arange(len(better), device=boxes.device)
    worse -= (num_worse.cumsum(0) - num_worse).repeat_interleave(num_worse)
    # The operations of torchvision's `nms` in their order, so that results agree to the bit.
    a, b = boxes[better], boxes[worse]
    sides = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0)
    overlap = sides[:, 0] * sides[:, 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    removes = (overlap / (area[better] + area[worse] - overlap)).double() > nms_iou
    better, worse = better[removes], worse[removes]
    kept = torch.ones_like(place, dtype=torch.bool)
    while True:  # a box is decided once all better ones are: as many rounds as the longest chain has boxes
        before, kept = kept, torch.ones_like(kept)
        kept[worse[before[better]]] = False
        if torch.equal(before, kept):
            return kept


def merge_scales(candidates: Sequence[Candidates]) -> Candidates:
    """Candidates of several scales or levels, already in one frame, as one set: then one NMS for all."""
    return Candidates(
        torch.cat([part.boxes for part in candidates]),
        torch.cat([part.scores for part in candidates]),
        torch.cat([part.labels for part in candidates]),
    )
