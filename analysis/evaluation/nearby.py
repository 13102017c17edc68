"""Detections and the objects near them, of any class: what tells a wrong detection's kind of error.

nearby = find_nearby(ground_truth, detections, ranked, IOU)     # every pair of one image with IoU >= 0.1
iou, objects = nearby.best(nearby.same_class)                   # of each ranked detection, 0 and -1 for none
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth, positions
from analysis.evaluation.matching import Ranking, block_ends, paired_iou


@dataclass(frozen=True, kw_only=True)
class Nearby:
    """P pairs of a ranked detection and an object of its image; by detection, then best IoU, then object."""

    num_ranked: int  # E
    detection: Int[np.ndarray, " P"]  # position among the E
    object: Int[np.ndarray, " P"]  # row of the ground truth; crowd regions are none here
    iou: Float[np.ndarray, " P"]
    same_class: Bool[np.ndarray, " P"]

    def best(self, wanted: Bool[np.ndarray, " P"]) -> tuple[Float[np.ndarray, " E"], Int[np.ndarray, " E"]]:
        """Each detection's highest IoU among the wanted pairs, and the object; the first of equal ones. 0, -1: none."""
        rows = np.flatnonzero(wanted)
        rows = rows[np.diff(self.detection[rows], prepend=-1) != 0]
        iou, objects = np.zeros(self.num_ranked), np.full(self.num_ranked, -1)
        iou[self.detection[rows]] = self.iou[rows]
        objects[self.detection[rows]] = self.object[rows]
        return iou, objects


def find_nearby(ground_truth: GroundTruth, detections: Detections, ranking: Ranking, min_iou: float) -> Nearby:
    """Every pair of a ranked detection and a plain object of its image, of whatever class, with IoU >= `min_iou`."""
    is_plain = ~ground_truth.iscrowd
    found, objects, iou = _pairs(ground_truth, detections, ranking, is_plain, min_iou)
    order = np.lexsort((objects, -iou, found))
    found, objects, iou = found[order], objects[order], iou[order]
    return Nearby(
        num_ranked=len(ranking.score),
        detection=found,
        object=objects,
        iou=iou,
        same_class=ranking.category_index[found] == ground_truth.category_index[objects],
    )


def inside_crowds(
    ground_truth: GroundTruth, detections: Detections, ranking: Ranking, share: float
) -> Bool[np.ndarray, " E"]:
    """Which detections lie inside a crowd region of their class by more than `share` of their area."""
    found, objects, overlap = _pairs(ground_truth, detections, ranking, ground_truth.iscrowd, share)
    is_own = ranking.category_index[found] == ground_truth.category_index[objects]
    inside = np.zeros(len(ranking.score), dtype=bool)
    inside[found[is_own & (overlap > share)]] = True
    return inside


def rank_by_image(ground_truth: GroundTruth, detections: Detections, limit: int) -> Ranking:
    """The best `limit` detections of each image, whatever their class: image by image, best first, ties by row."""
    image = positions(detections.image_id, ground_truth.image_ids, what="detections", kind="image")
    category = positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")
    rows = np.lexsort((-detections.scores, image))
    start = np.searchsorted(image[rows], image[rows])
    rows = rows[np.arange(len(rows)) - start < limit]
    return Ranking(
        detection_row=rows, image_index=image[rows], category_index=category[rows], score=detections.scores[rows]
    )


def _pairs(
    ground_truth: GroundTruth, detections: Detections, ranking: Ranking, wanted: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranked detection, wanted object of its image, and IoU, in any order; a block of pairs at a time."""
    objects = np.flatnonzero(wanted)
    objects = objects[np.argsort(ground_truth.image_index[objects], kind="stable")]
    image = ground_truth.image_index[objects]
    start = np.searchsorted(image, ranking.image_index, side="left")
    count = np.searchsorted(image, ranking.image_index, side="right") - start
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for block in np.split(np.arange(len(count)), block_ends(count)):
        found = np.repeat(block, count[block])
        offset = np.arange(len(found)) - np.repeat(np.cumsum(count[block]) - count[block], count[block])
        other = objects[start[found] + offset]
        iou = paired_iou(ground_truth, detections, other, ranking.detection_row[found])
        near = iou >= min_iou
        parts.append((found[near], other[near], iou[near]))
    found, other, iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return found, other, iou
