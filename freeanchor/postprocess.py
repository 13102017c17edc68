"""From predictions to boxes: candidates (before NMS), detections (after), and the merging of several scales.

candidates = select_candidates(logits, deltas, anchors, level_sizes, (height, width))
detections = suppress(candidates)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.ops import batched_nms

from freeanchor.boxes import clip_boxes, decode_boxes


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """What the detector reports (FACTS A9).

    `max_per_level` caps the candidates a pyramid level hands to NMS, `max_detections` what a picture keeps after it;
    None lifts a cap. `short_sides` lists the scales of multi-scale testing; none means the input's own.
    """

    score_threshold: float = 0.05
    max_per_level: int | None = 1000
    nms_iou: float = 0.5
    max_detections: int | None = 100
    short_sides: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse thresholds that are no fractions."""
        for name in ("score_threshold", "nms_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}; pass a fraction")


@dataclass(frozen=True)
class Candidates:
    """Scored boxes of one picture: boxes [D, 4] xyxy, scores [D] and labels [D]; also used for detections."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.scores)

    def take(self, index: Tensor) -> "Candidates":
        """The boxes at `index`, in its order."""
        return Candidates(self.boxes[index], self.scores[index], self.labels[index])

    def rescale(self, scale: tuple[float, float]) -> "Candidates":
        """The boxes in a frame whose width and height are `scale` times this one's."""
        return Candidates(self.boxes * self.boxes.new_tensor([*scale, *scale]), self.scores, self.labels)


def select_candidates(
    logits: Float[Tensor, "A K"],
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    level_sizes: Sequence[int],
    image_size: tuple[float, float],
    *,
    score_threshold: float = 0.05,
    max_per_level: int | None = 1000,
) -> Candidates:
    """Every (anchor, class) pair of one picture that scores above `score_threshold`, decoded and clipped.

    Of each level at most `max_per_level` pairs, the best. `image_size` is (height, width) without the padding. An
    anchor may come with several classes.
    """
    found = []
    for level_logits, level_deltas, level_anchors in zip(
        logits.split(list(level_sizes)), deltas.split(list(level_sizes)), anchors.split(list(level_sizes)), strict=True
    ):
        scores = level_logits.float().sigmoid().flatten()
        pairs = (scores > score_threshold).nonzero()[:, 0]
        if max_per_level is not None and len(pairs) > max_per_level:
            pairs = pairs[scores[pairs].topk(max_per_level).indices]
        anchor = pairs.div(logits.shape[1], rounding_mode="floor")
        boxes = decode_boxes(level_deltas[anchor].float(), level_anchors[anchor].float())
        found.append(Candidates(clip_boxes(boxes, *image_size), scores[pairs], pairs % logits.shape[1]))
    return merge_scales(found)


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
