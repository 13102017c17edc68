"""pycocotools on files whose objects outside a slice carry an `ignore` flag, or on some images alone; with its settings.

pycocotools itself overwrites the flag by `iscrowd` (its `_prepare`), so that is put right here and nothing else.
"""

import contextlib
import copy
import io

import numpy as np
from oracles.coco_record import coco_of
from pycocotools.cocoeval import COCOeval


class FlaggedEval(COCOeval):
    """COCOeval that honours `ignore` as its own comment says."""

    def _prepare(self) -> None:
        super()._prepare()
        for rows in self._gts.values():
            for row in rows:
                row["ignore"] = bool(row["iscrowd"] or row.get("flag"))


def evaluated(content: dict, found: list[dict], *, outside=(), images=None, **settings) -> COCOeval:
    """`accumulate`d, with annotations `outside` flagged, of `images` alone; `settings` are of its `params`."""
    content = copy.deepcopy(content)
    for row in content["annotations"]:
        row["flag"] = row["id"] in outside
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_of(content)
        rows = truth.loadRes(copy.deepcopy(found)) if found else coco_of({**content, "annotations": []})
        evaluation = FlaggedEval(truth, rows, "bbox")
        for name, value in settings.items():
            setattr(evaluation.params, name, value)
        if images is not None:
            evaluation.params.imgIds = sorted(images)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def mean_precision(evaluation: COCOeval, *, iou: int | None = None, area: int = 0) -> float:
    """AP over all thresholds or at one, by place, of the last limit of detections; nan where undefined."""
    return _mean(evaluation.eval["precision"][slice(None) if iou is None else iou, :, :, area, -1])


def mean_recall(evaluation: COCOeval, *, area: int = 0, limit: int = -1) -> float:
    """AR over all thresholds; nan where undefined."""
    return _mean(evaluation.eval["recall"][:, :, area, limit])


def _mean(values: np.ndarray) -> float:
    defined = values[values > -1]
    return float(np.mean(defined)) if defined.size else float("nan")
