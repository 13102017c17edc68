"""pycocotools' twelve box statistics, the AP of record.

coco_statistics(ground_truth, detections)["ap_50"]
"""

import contextlib
import io
from typing import TYPE_CHECKING

import numpy as np

from analysis.coco.columns import Detections, GroundTruth, bbox_of, box_areas
from analysis.coco.reading import check_ids

if TYPE_CHECKING:
    from pycocotools.coco import COCO

# in the order of pycocotools' `COCOeval.stats`
STATISTICS = (
    "ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large",
    "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large",
)  # fmt: skip


def coco_statistics(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """pycocotools' twelve box statistics as fractions, under the names in `STATISTICS`.

    Not defined (pycocotools' -1: no object of that size) is nan; no detections at all give 0. Annotation ids are
    renumbered from 1 on the way in, since pycocotools takes a match with annotation 0 for no match. Prints nothing.
    """
    from pycocotools.cocoeval import COCOeval  # brings matplotlib, which most callers do without

    check_ids(detections, ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):
        objects = _coco(ground_truth, ground_truth, area=ground_truth.area, iscrowd=ground_truth.iscrowd.astype(int))
        found = _coco(ground_truth, detections, area=box_areas(detections.sizes), score=detections.scores)
        evaluation = COCOeval(objects, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [float(value) if value > -1 else float("nan") for value in evaluation.stats]
    return dict(zip(STATISTICS, values, strict=True))


def _coco(ground_truth: GroundTruth, rows: GroundTruth | Detections, **more: np.ndarray) -> "COCO":
    """The data set in pycocotools' own form, with objects or detections as its annotations."""
    from pycocotools.coco import COCO

    columns = {"image_id": rows.image_id, "category_id": rows.category_id, "bbox": bbox_of(rows), **more}
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in ground_truth.image_ids.tolist()],
        "categories": [{"id": i} for i in ground_truth.category_ids.tolist()],
        "annotations": [dict(zip(columns, row, strict=True), id=i) for i, row in enumerate(values, start=1)],
    }
    coco.createIndex()
    return coco
