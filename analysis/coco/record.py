"""TODO."""

import contextlib
import io
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import check_ids, read_ground_truth

# in the order of pycocotools' `COCOeval.stats`
STATISTICS = (
    "ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def coco_statistics(ground_truth: GroundTruth | Path, detections: Detections) -> dict[str, float]:
    """pycocotools' twelve box statistics, the AP of record, as fractions under the names in `STATISTICS`.

    Not defined (pycocotools' -1: no object of that size) is nan; no detections at all give 0. Annotation ids are
    renumbered from 1 on the way in, since pycocotools takes a match with annotation 0 for no match. Prints nothing.
    """
    if isinstance(ground_truth, Path):
        ground_truth = read_ground_truth(ground_truth)
    check_ids(detections, ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco_objects(ground_truth), _coco_detections(ground_truth, detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value > -1 else float("nan") for value in evaluation.stats]
    return dict(zip(STATISTICS, values, strict=True))


def _coco_objects(ground_truth: GroundTruth) -> COCO:
    columns = zip(
        ground_truth.image_id.tolist(),
        ground_truth.category_id.tolist(),
        np.hstack([ground_truth.boxes[:, :2], ground_truth.sizes]).tolist(),
        ground_truth.area.tolist(),
        ground_truth.iscrowd.astype(int).tolist(),
        strict=True,
    )
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    return _coco(ground_truth, [dict(zip(names, row, strict=True), id=i) for i, row in enumerate(columns, start=1)])


def _coco_detections(ground_truth: GroundTruth, detections: Detections) -> COCO:
    columns = zip(
        detections.image_id.tolist(),
        detections.category_id.tolist(),
        np.hstack([detections.boxes[:, :2], detections.sizes]).tolist(),
        detections.sizes.prod(axis=1).tolist(),
        detections.scores.tolist(),
        strict=True,
    )
    names = ("image_id", "category_id", "bbox", "area", "score")
    return _coco(ground_truth, [dict(zip(names, row, strict=True), id=i) for i, row in enumerate(columns, start=1)])


def _coco(ground_truth: GroundTruth, annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in ground_truth.image_ids.tolist()],
        "categories": [{"id": i} for i in ground_truth.category_ids.tolist()],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
