"""A data set as the plain files that anybody's detector would leave: ground truth and COCO results as json.

gt, found = write_files(tmp_path, *random_sets())
"""

import gzip
import json
from pathlib import Path

import numpy as np
from oracles.detection_sets import random_detections, random_ground_truth

from analysis.coco.columns import Detections, GroundTruth


def random_sets(seed: int = 0, num_detections: int = 400) -> tuple[GroundTruth, Detections]:
    """Twelve images, three classes, sixty objects, candidates with distinct scores."""
    generator = np.random.default_rng(seed)
    ground_truth = random_ground_truth(generator, 12, 3, 60)
    return ground_truth, random_detections(generator, ground_truth, num_detections, distinct_scores=True)


def ground_truth_content(ground_truth: GroundTruth) -> dict:
    """COCO's json, annotation ids from 1."""
    names = zip(ground_truth.category_ids.tolist(), ground_truth.category_names, strict=True)
    return {
        "images": [{"id": i} for i in ground_truth.image_ids.tolist()],
        "categories": [{"id": i, "name": name} for i, name in names],
        "annotations": [
            {
                "id": int(ground_truth.annotation_id[row]) + 1,
                "image_id": int(ground_truth.image_id[row]),
                "category_id": int(ground_truth.category_id[row]),
                "bbox": [*ground_truth.boxes[row, :2].tolist(), *ground_truth.sizes[row].tolist()],
                "area": float(ground_truth.area[row]),
                "iscrowd": int(ground_truth.iscrowd[row]),
            }
            for row in range(len(ground_truth.boxes))
        ],
    }


def results_content(detections: Detections) -> list[dict]:
    """COCO results."""
    return [
        {
            "image_id": int(detections.image_id[row]),
            "category_id": int(detections.category_id[row]),
            "bbox": [*detections.boxes[row, :2].tolist(), *detections.sizes[row].tolist()],
            "score": float(detections.scores[row]),
        }
        for row in range(len(detections.boxes))
    ]


def write_files(folder: Path, ground_truth: GroundTruth, detections: Detections) -> tuple[str, str]:
    """Paths of both files in `folder`, the results gzipped."""
    paths = folder / "gt.json", folder / "candidates.json.gz"
    paths[0].write_text(json.dumps(ground_truth_content(ground_truth)))
    paths[1].write_bytes(gzip.compress(json.dumps(results_content(detections)).encode()))
    return str(paths[0]), str(paths[1])
