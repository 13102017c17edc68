"""NMS recall as the paper words it (Sec. 4.2), in loops; shares nothing with `analysis`."""

from oracles.detection_metrics import iou
from oracles.soft_nms import soft_nms


def greedy_nms(candidates, nms_iou: float) -> list:
    """Per-class NMS: (box, category, score, …), best first; a box goes if it overlaps a kept one of its class by more."""
    kept = []
    for row in sorted(candidates, key=lambda row: -row[2]):
        if all(other[1] != row[1] or iou(other[0], row[0]) <= nms_iou for other in kept):
            kept.append(row)
    return kept


def best_ious(
    ground_truth,
    candidates,
    *,
    score_threshold=0.05,
    nms_iou=0.5,
    decay=None,
    class_aware=False,
    max_candidates=None,
    max_detections=None,
    include_crowd=False,
) -> list[tuple[int, float, float]]:
    """(annotation id, u, v) of every object: best IoU among the candidates D and among D' = NMS(D).

    With `decay` (a factor from an IoU) the NMS is soft, and D' is what still scores above `score_threshold`.
    """
    rows = []
    for g in range(len(ground_truth.boxes)):
        if ground_truth.iscrowd[g] and not include_crowd:
            continue
        before = [
            (candidates.boxes[d], candidates.category_id[d], candidates.scores[d])
            for d in range(len(candidates.boxes))
            if candidates.image_id[d] == ground_truth.image_id[g] and candidates.scores[d] > score_threshold
        ]
        before = sorted(before, key=lambda c: -c[2])[:max_candidates]
        after = greedy_nms(before, nms_iou) if decay is None else soft_nms(before, decay, score_threshold)
        after = after[:max_detections]
        u, v = (
            max(
                (
                    iou(ground_truth.boxes[g], box)
                    for box, category, _ in boxes
                    if not class_aware or category == ground_truth.category_id[g]
                ),
                default=0.0,
            )
            for boxes in (before, after)
        )
        rows.append((int(ground_truth.annotation_id[g]), u, v))
    return rows


def nms_recall(rows, tau: float, *, strict: bool = True) -> float:
    """#{v > tau} / #{u > tau}; nan where nothing was found before NMS."""
    before = sum(1 for _, u, _ in rows if (u > tau if strict else u >= tau))
    after = sum(1 for _, _, v in rows if (v > tau if strict else v >= tau))
    return after / before if before else float("nan")
