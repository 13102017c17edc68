"""What tests of metrics share: a world of `oracles.coco_worlds` as columns, and our twelve statistics.

ground_truth, detections = columns(world)
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
