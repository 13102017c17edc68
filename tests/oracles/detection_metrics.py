"""COCO's matching and AP in plain loops, from the definition; shares nothing with `analysis`."""

import numpy as np

LEVELS = [float(level) for level in np.linspace(0, 1, 101)]  # the floats matter where a recall meets a level


def iou(a, b, *, crowd: bool = False) -> float:
    """Intersection over union of two boxes xyxy; over the area of `b` where `a` is a crowd region."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area_b if crowd else area_a + area_b - width * height)


def match_image(objects, detections, tau: float) -> dict[int, int]:
    """What each detection (by row) takes (object's row) in one image and category.

    `objects`: (row, box, crowd, ignored); `detections`: (row, box, score). 100 best detections; best score first.
    """
    taken: set[int] = set()
    result = {}
    for row, box, _ in sorted(detections, key=lambda d: -d[2])[:100]:
        choice = None
        for wanted in (False, True):  # counting objects first, ignored ones only if there is none of those
            for object_row, object_box, crowd, ignored in objects:
                if ignored is not wanted or (object_row in taken and not crowd):
                    continue
                overlap = iou(object_box, box, crowd=crowd)
                if overlap >= tau and (choice is None or overlap >= choice[1]):
                    choice = (object_row, overlap)
            if choice is not None:
                break
        result[row] = -1 if choice is None else choice[0]
        if choice is not None:
            taken.add(choice[0])
    return result


def match_all(ground_truth, detections, tau: float, object_ignored) -> dict[int, int]:
    """`match_image` for every image and category; detections beyond the 100 best are absent from the result."""
    result = {}
    for image in ground_truth.image_ids:
        for category in ground_truth.category_ids:
            objects = [
                (row, ground_truth.boxes[row], bool(ground_truth.iscrowd[row]), bool(object_ignored[row]))
                for row in range(len(ground_truth.boxes))
                if ground_truth.image_id[row] == image and ground_truth.category_id[row] == category
            ]
            found = [
                (row, detections.boxes[row], detections.scores[row])
                for row in range(len(detections.boxes))
                if detections.image_id[row] == image and detections.category_id[row] == category
            ]
            result |= match_image(objects, found, tau)
    return result


def average_precision(outcomes: list[tuple[float, bool]], num_objects: int) -> float:
    """AP of one class from (score, is right) of its detections that count, already in order."""
    points = []
    num_right = 0
    for rank, (_, right) in enumerate(outcomes, start=1):
        num_right += right
        points.append((num_right / num_objects, num_right / rank))
    best = [max((precision for recall, precision in points if recall >= level), default=0.0) for level in LEVELS]
    return sum(best) / len(best)


def subset_ap(ground_truth, detections, object_inside, detection_inside, taus) -> float:
    """AP over a subset of objects under COCO's ignore rules; nan where the subset is empty."""
    object_ignored = [bool(c) or not i for c, i in zip(ground_truth.iscrowd, object_inside, strict=True)]
    values = []
    for tau in taus:
        matches = match_all(ground_truth, detections, tau, object_ignored)
        for category in ground_truth.category_ids:
            num_objects = sum(
                1
                for row in range(len(object_ignored))
                if ground_truth.category_id[row] == category and not object_ignored[row]
            )
            if num_objects == 0:
                continue
            order = sorted(
                (row for row in matches if detections.category_id[row] == category),
                key=lambda row: (-detections.scores[row], detections.image_id[row], row),
            )
            outcomes = []
            for row in order:
                took = matches[row]
                ignored = object_ignored[took] if took >= 0 else not detection_inside[row]
                if not ignored:
                    outcomes.append((detections.scores[row], took >= 0))
            values.append(average_precision(outcomes, num_objects))
    return sum(values) / len(values) if values else float("nan")
