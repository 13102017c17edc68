"""AP as Ultralytics' validation computes it, beside COCO's: why mAP50-95 there is not AP here.

    ultralytics_frame(ground_truth, detections)         # ap_ultralytics, ap_50_ultralytics

What differs, as its maintainers have it in public (yolov5 #8011, ultralytics #5741 and #8568); their program was not
run here:

- **Detections.** Scores of at least 0.001, and of each image the best 300 of all classes together; COCO takes the best
  100 of each class, whatever their score.
- **Matching.** Each detection goes to the object of its class that it overlaps most; of those that reach the threshold,
  an object takes the best-scoring one. A detection whose object is taken is wrong; COCO lets it take the next best.
- **Interpolation.** Precision starts at 1 for recall 0 and falls to 0 at recall 1, is interpolated linearly at 101
  levels and integrated by trapezoids. COCO takes the best precision at each level or beyond, and the mean of 101.
- **Crowd regions** do not exist: they are left out of the ground truth, and what is found in them is wrong.

NMS (IoU 0.7 there) is a detector's own business here: `freeanchor nms --nms 0.7 --score-threshold 0.001
--max-detections 300` does it first. Ultralytics evaluates boxes on padded, resized images: rounding there is not
repeated.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth, positions
from analysis.coco.match_parts import check_whole
from analysis.evaluation.matching import IOU_THRESHOLDS
from analysis.evaluation.suppression import pairwise_iou, rows_by_image

LOWEST_SCORE = 0.001
MAX_DETECTIONS = 300  # of an image
_LEVELS = np.linspace(0, 1, 101)


def ultralytics_frame(ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """metric, value: `ap_ultralytics` (mAP50-95 there) and `ap_50_ultralytics` (mAP50); nan without objects."""
    check_whole(detections, "Ultralytics' AP")
    by_class = class_ap(ground_truth, detections)
    defined = by_class[:, ~np.isnan(by_class[0])]
    values = [float(part.mean()) if defined.size else float("nan") for part in (defined, defined[:1])]
    return pd.DataFrame({"metric": ["ap_ultralytics", "ap_50_ultralytics"], "value": values})


def with_ultralytics(table: pd.DataFrame, ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """The table of `evaluate` with these two rows behind it, without intervals."""
    more = ultralytics_frame(ground_truth, detections).assign(label="")
    return pd.concat([table, more], ignore_index=True)


def class_ap(ground_truth: GroundTruth, detections: Detections) -> Float[np.ndarray, "T K"]:
    """AP of each class at IoU 0.50 to 0.95; nan for a class without objects, 0 for one without detections."""
    rows, is_right = matched_rows(ground_truth, detections)
    category = positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")[rows]
    num_objects = np.bincount(
        ground_truth.category_index[~ground_truth.iscrowd], minlength=len(ground_truth.category_ids)
    )
    values = np.full((len(IOU_THRESHOLDS), len(num_objects)), np.nan)
    for k in np.flatnonzero(num_objects):
        own = is_right[:, category == k]
        values[:, k] = [_area(flags, int(num_objects[k])) for flags in own]
    return values


def matched_rows(
    ground_truth: GroundTruth, detections: Detections
) -> tuple[Int[np.ndarray, " E"], Bool[np.ndarray, "T E"]]:
    """The rows that count, best first, and at which thresholds each is right."""
    image = positions(detections.image_id, ground_truth.image_ids, what="detections", kind="image")
    num_images = len(ground_truth.image_ids)
    counting = np.flatnonzero(~ground_truth.iscrowd)
    objects_in = [counting[own] for own in rows_by_image(ground_truth.image_index[counting], num_images)]
    kept, right = [np.empty(0, np.int64)], [np.empty((len(IOU_THRESHOLDS), 0), bool)]
    for objects, found in zip(objects_in, rows_by_image(image, num_images), strict=True):
        found = found[detections.scores[found] >= LOWEST_SCORE]
        found = found[np.argsort(-detections.scores[found], kind="stable")[:MAX_DETECTIONS]]
        kept.append(found)
        right.append(_right(ground_truth, objects, detections, found))
    rows = np.concatenate(kept)
    order = np.argsort(-detections.scores[rows], kind="stable")
    return rows[order], np.concatenate(right, axis=1)[:, order]


def _right(
    ground_truth: GroundTruth, objects: np.ndarray, detections: Detections, found: np.ndarray
) -> Bool[np.ndarray, "T D"]:
    """Of one image's detections, best first."""
    right = np.zeros((len(IOU_THRESHOLDS), len(found)), dtype=bool)
    if not len(objects) or not len(found):
        return right
    iou = pairwise_iou(ground_truth.boxes[objects], detections.boxes[found])
    iou[ground_truth.category_id[objects][:, None] != detections.category_id[found]] = 0.0
    nearest, best = iou.argmax(axis=0), iou.max(axis=0)
    for row, threshold in enumerate(IOU_THRESHOLDS):
        reaching = np.flatnonzero(best >= threshold)
        _, first = np.unique(nearest[reaching], return_index=True)  # best first, so the best-scoring of each object
        right[row, reaching[first]] = True
    return right


def _area(is_right: Bool[np.ndarray, " E"], num_objects: int) -> float:
    """The area under interpolated precision of ranked detections."""
    if not len(is_right):
        return 0.0
    num_right = np.cumsum(is_right)
    recall = np.concatenate([[0.0], num_right / num_objects, [1.0]])
    precision = np.concatenate([[1.0], num_right / np.arange(1, len(is_right) + 1), [0.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.trapezoid(np.interp(_LEVELS, recall, precision), _LEVELS))
