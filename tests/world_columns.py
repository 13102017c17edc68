"""What tests of metrics share: columns, by hand or of a world of `oracles.coco_worlds`, and our twelve statistics.

ground_truth, detections = columns(world)
ground_truth, detections = objects([[0, 0, 40, 40]]), found([[0, 0, 40, 40]], [0.9])
our_statistics(ground_truth, detections)["ap_50"]
"""

import numpy as np
from oracles.coco_worlds import CocoWorld

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.metrics import detection_curves


def columns(world: CocoWorld) -> tuple[GroundTruth, Detections]:
    """A world as the columns that reading its two files would give."""
    objects, categories = world.content["annotations"], world.content["categories"]
    ground_truth = GroundTruth(
        image_ids=np.array([row["id"] for row in world.content["images"]]),
        category_ids=np.array([row["id"] for row in categories]),
        category_names=tuple(row["name"] for row in categories),
        annotation_id=np.array([row["id"] for row in objects]),
        area=np.array([row["area"] for row in objects]),
        iscrowd=np.array([row["iscrowd"] for row in objects]),
        **places(objects),
    )
    return ground_truth, Detections(scores=np.array([row["score"] for row in world.found]), **places(world.found))


def places(rows: list[dict]) -> dict[str, np.ndarray]:
    """Image, category and box of COCO's rows as columns."""
    bbox = np.array([row["bbox"] for row in rows]).reshape(-1, 4)
    return {
        "image_id": np.array([row["image_id"] for row in rows]),
        "category_id": np.array([row["category_id"] for row in rows]),
        "boxes": np.hstack([bbox[:, :2], bbox[:, :2] + bbox[:, 2:]]),
        "sizes": bbox[:, 2:],
    }


def our_statistics(ground_truth: GroundTruth, detections: Detections) -> dict[str, float]:
    """COCO's twelve statistics by our own matcher."""
    return detection_curves(ground_truth, detections).twelve()


def objects(boxes, image_id=1, category_id=1, *, image_ids=None, category_ids=None, iscrowd=False) -> GroundTruth:
    """Boxes xyxy as objects, all in one image and category or each in its own; these exist, others where named."""
    boxes = np.reshape(boxes, (-1, 4)).astype(float)
    image, category = (np.broadcast_to(ids, len(boxes)) for ids in (image_id, category_id))
    category_ids = np.unique(category_id) if category_ids is None else np.array(category_ids)
    return GroundTruth(
        image_ids=np.unique(image_id) if image_ids is None else np.array(image_ids),
        category_ids=category_ids,
        category_names=tuple(f"class {k}" for k in category_ids),
        image_id=image,
        annotation_id=np.arange(len(boxes)),
        category_id=category,
        boxes=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iscrowd=np.broadcast_to(iscrowd, len(boxes)),
    )


def found(boxes, scores, image_id=1, category_id=1) -> Detections:
    """Boxes xyxy as detections, all of one image and category, or each of its own."""
    boxes = np.reshape(boxes, (-1, 4)).astype(float)
    image, category = (np.broadcast_to(ids, len(boxes)) for ids in (image_id, category_id))
    return Detections(image_id=image, category_id=category, boxes=boxes, scores=np.array(scores, dtype=float))
