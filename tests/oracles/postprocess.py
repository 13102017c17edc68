"""Candidates and detections in loops (authors' code), with continuous boxes.

A candidate is the tuple (score, label, box).
"""

import math

from oracles.boxes import clip, decode, iou

Candidate = tuple[float, int, tuple]


def select(
    logits: list[list[float]],
    deltas: list[tuple],
    anchors: list[tuple],
    level_sizes: list[int],
    image_size: tuple[float, float],
    *,
    score_threshold: float,
    max_per_level: int | None,
) -> list[Candidate]:
    """The best (anchor, class) pairs of each level whose score exceeds the threshold, decoded and clipped."""
    chosen, first = [], 0
    for level_size in level_sizes:
        level = []
        for j in range(first, first + level_size):
            for label, logit in enumerate(logits[j]):
                score = 1 / (1 + math.exp(-logit))
                if score > score_threshold:
                    level.append((score, label, clip(decode(deltas[j], anchors[j]), *image_size)))
        chosen += sorted(level, key=lambda candidate: -candidate[0])[:max_per_level]
        first += level_size
    return chosen


def suppress(candidates: list[Candidate], nms_iou: float, max_detections: int | None) -> list[Candidate]:
    """Greedy per class: best first, dropping what overlaps a kept one of its class by more than `nms_iou`."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: -candidate[0]):
        rivals = [other for other in kept if other[1] == candidate[1]]
        if all(iou(candidate[2], other[2]) <= nms_iou for other in rivals):
            kept.append(candidate)
    return kept[:max_detections]
