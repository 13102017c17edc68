"""pycocotools itself on COCO's json, called as its manual says; shares nothing with `analysis`."""

import contextlib
import copy
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def twelve_statistics(content: dict, found: list[dict]) -> list[float]:
    """`COCOeval.stats` for boxes, nan where pycocotools says -1. Annotation ids must not be 0 (it takes 0 for none)."""
    with contextlib.redirect_stdout(io.StringIO()):
        objects = coco_of(copy.deepcopy(content))
        # an empty list has no first row to tell its kind by, so it cannot go through loadRes
        rows = objects.loadRes(copy.deepcopy(found)) if found else coco_of({**content, "annotations": []})
        evaluation = COCOeval(objects, rows, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float("nan") if value == -1 else float(value) for value in evaluation.stats]


def coco_of(content: dict) -> COCO:
    """A `COCO` that holds `content`, without a file."""
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    return coco


def with_images_repeated(content: dict, found: list[dict], counts: dict[int, int]) -> tuple[dict, list[dict]]:
    """The data set in which image i occurs `counts[i]` times, each time under an id of its own.

    Copies are numbered in the order of the old ids, so equal scores of different images keep their order.
    """
    images, annotations, detections = [], [], []
    for old in sorted(counts):
        for _ in range(counts[old]):
            new = len(images) + 1
            images.append({"id": new})
            annotations += [{**row, "image_id": new} for row in content["annotations"] if row["image_id"] == old]
            detections += [{**row, "image_id": new} for row in found if row["image_id"] == old]
    numbered = [{**row, "id": i} for i, row in enumerate(annotations, start=1)]
    return {**content, "images": images, "annotations": numbered}, detections
