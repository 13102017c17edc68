"""Matching of one part of the images, so that any job array or cluster does it: parts put together equal the whole.

    match_part("gt.json", "detections.json", "parts", part=3, num_parts=16)     # of each job
    analysis.evaluate("gt.json", "parts")                                       # afterwards, once

Images are matched independently of each other, so a part is a range of images: memory is that of the ground truth and
of a part's detections, for a results file in json is read in pieces.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.match_parts import MatchedDetections, image_range, write_part
from analysis.coco.pieces import NotInPieces, ResultRows, joined, result_pieces
from analysis.coco.reading import DetectionSource, GroundTruthSource, read_detections, read_ground_truth
from analysis.evaluation.matching import IOU_THRESHOLDS, MAX_DETECTIONS, find_overlaps
from freeanchor.errors import DataError, UsageError


def match_part(
    gt: GroundTruthSource, detections: DetectionSource, folder: str | Path, *, part: int = 1, num_parts: int = 1
) -> Path:
    """Match part `part` of `num_parts`, counted from 1, into a file in `folder`; the file's path.

    `gt` and `detections` are those of `analysis.evaluate`. Raises `UsageError` for a part that is none, and what
    reading raises.
    """
    if not 1 <= part <= num_parts:
        raise UsageError(f"part must lie in 1 to {num_parts}, got {part}; parts are counted from 1")
    ground_truth = read_ground_truth(gt)
    start, end = image_range(len(ground_truth.image_ids), part, num_parts)
    own = _of_images(detections, ground_truth, ground_truth.image_ids[start:end])
    return write_part(Path(folder), matched(ground_truth, own), ground_truth, part, num_parts)


def matched(ground_truth: GroundTruth, detections: Detections) -> MatchedDetections:
    """The detections that count, in their order, with the pairs that can match."""
    overlaps = find_overlaps(ground_truth, detections)
    kept = np.sort(overlaps.detection_row)
    return MatchedDetections(
        **vars(detections.take(kept)),
        pair_detection=np.searchsorted(kept, overlaps.detection_row[overlaps.pair_detection]),
        pair_annotation=ground_truth.annotation_id[overlaps.pair_object],
        pair_iou=overlaps.pair_iou,
        max_detections=MAX_DETECTIONS,
        lowest_iou=float(IOU_THRESHOLDS[0]),
    )


def _of_images(source: DetectionSource, ground_truth: GroundTruth, image_ids: np.ndarray) -> Detections:
    """The detections of these images, of categories that there are."""
    try:
        return joined(list(_own_rows(source, ground_truth, image_ids))).as_detections()
    except (NotInPieces, DataError):
        every = read_detections(source, ground_truth)
        return every.take(np.isin(every.image_id, image_ids))


def _own_rows(source: DetectionSource, ground_truth: GroundTruth, image_ids: np.ndarray) -> Iterator[ResultRows]:
    if not isinstance(source, Path | str) or Path(source).suffix == ".parquet":
        raise NotInPieces("not a file of json")
    for rows in result_pieces(Path(source)):
        yield rows.take(np.isin(rows.image_id, image_ids) & np.isin(rows.category_id, ground_truth.category_ids))
