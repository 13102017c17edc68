"""A small evaluation made up of numbers: ground truth, detections near it, and each object's best IoUs.

truth, detections, recall = measured(seed=1, noise=0.1)
"""

import numpy as np
import pandas as pd

from analysis.coco.columns import Detections, GroundTruth

NUM_IMAGES, NUM_OBJECTS = 12, 40


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corners = generator.uniform(0, 100, (count, 2))
    sides = np.exp(generator.uniform(np.log(6), np.log(120), (count, 2)))
    return np.hstack([corners, corners + sides])


def ground_truth_of(seed: int = 0) -> GroundTruth:
    generator = np.random.default_rng(seed)
    boxes = _boxes(generator, NUM_OBJECTS)
    sides = boxes[:, 2:] - boxes[:, :2]
    return GroundTruth(
        image_ids=np.arange(NUM_IMAGES) * 7 + 1,
        category_ids=np.array([4, 2, 9]),
        category_names=("four", "two", "nine"),
        image_id=generator.integers(0, NUM_IMAGES, NUM_OBJECTS) * 7 + 1,
        annotation_id=np.arange(NUM_OBJECTS) + 100,
        category_id=generator.choice([4, 2, 9], NUM_OBJECTS),
        boxes=boxes,
        area=sides.prod(axis=1),
        iscrowd=np.zeros(NUM_OBJECTS, dtype=bool),
    )


def detections_near(truth: GroundTruth, seed: int, noise: float = 0.1) -> Detections:
    """Every object found with an error of `noise` times its sides, and some boxes that are nothing."""
    generator = np.random.default_rng(seed)
    sides = np.tile(truth.boxes[:, 2:] - truth.boxes[:, :2], 2)
    near = truth.boxes + noise * sides * generator.normal(size=truth.boxes.shape)
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    return Detections(
        image_id=np.concatenate([truth.image_id, generator.choice(truth.image_ids, 20)]),
        category_id=np.concatenate([truth.category_id, generator.choice([4, 2, 9], 20)]),
        boxes=np.vstack([near, _boxes(generator, 20)]),
        scores=generator.uniform(0.05, 1, NUM_OBJECTS + 20),
    )


def recall_frame(truth: GroundTruth, seed: int) -> pd.DataFrame:
    """Best IoUs that fall from column to column, as NMS and caps make them."""
    generator = np.random.default_rng(seed)
    before = generator.uniform(0.4, 1, NUM_OBJECTS)
    own = before * generator.uniform(0.8, 1, NUM_OBJECTS)
    columns = {"before": before, "before_same_class": own}
    for name, start in (("after", before), ("after_capped", before), ("after_same_class", own)):
        columns[name] = start * generator.choice([1, 0.7], NUM_OBJECTS, p=[0.8, 0.2])
    columns["after_capped_same_class"] = columns["after_same_class"] * generator.choice([1, 0.5], NUM_OBJECTS)
    return pd.DataFrame({"image_id": truth.image_id, "annotation_id": truth.annotation_id, **columns})


def measured(seed: int = 1, noise: float = 0.1) -> tuple[GroundTruth, Detections, pd.DataFrame]:
    truth = ground_truth_of()
    return truth, detections_near(truth, seed, noise), recall_frame(truth, seed)
