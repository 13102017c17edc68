"""Small random detection data sets for properties: many ties, crowd regions, absent classes, empty images."""

import numpy as np
from hypothesis import strategies as st

from analysis.coco.columns import Detections, GroundTruth


@st.composite
def detection_sets(draw, *, distinct_scores: bool = False) -> tuple[GroundTruth, Detections]:
    """A ground truth of up to 5 images and 4 classes, and detections, every so often beyond 100 in an image."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_images = draw(st.integers(1, 5))
    num_classes = draw(st.integers(1, 4))
    num_objects = draw(st.integers(0, 20))
    num_detections = draw(st.one_of(st.integers(0, 60), st.integers(300, 500)))
    ground_truth = random_ground_truth(generator, num_images, num_classes, num_objects)
    return ground_truth, random_detections(generator, ground_truth, num_detections, distinct_scores=distinct_scores)


def random_ground_truth(generator, num_images: int, num_classes: int, num_objects: int) -> GroundTruth:
    """Boxes on a grid of 8 pixels, from slivers to larger than 96 x 96; ids with gaps, objects in no order."""
    image_ids = generator.permutation(np.arange(num_images) * 3 + 1)
    category_ids = generator.permutation(np.arange(num_classes) * 2 + 1)
    boxes = random_boxes(generator, num_objects)
    return GroundTruth(
        image_ids=image_ids,
        category_ids=category_ids,
        category_names=tuple(f"class {i}" for i in category_ids),
        image_id=generator.choice(image_ids, num_objects),
        annotation_id=generator.permutation(num_objects),
        category_id=generator.choice(category_ids, num_objects),
        boxes=boxes,
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * generator.choice([0.5, 1.0], num_objects),
        iscrowd=generator.random(num_objects) < 0.2,
    )


def random_boxes(generator, count: int) -> np.ndarray:
    """Boxes xyxy with corners on a grid of 8 pixels, a few without extent."""
    corner = generator.integers(0, 12, (count, 2)) * 8.0
    size = np.where(generator.random((count, 2)) < 0.5, generator.integers(0, 6, (count, 2)), 4) * 8.0
    size *= generator.choice([1.0, 4.0], (count, 1))
    return np.hstack([corner, corner + size])


def random_detections(generator, ground_truth: GroundTruth, count: int, *, distinct_scores: bool) -> Detections:
    """Half near objects and mostly of their class, half anywhere; scores from ten levels unless all are to differ."""
    boxes = random_boxes(generator, count)
    image_id = generator.choice(ground_truth.image_ids, count)
    category_id = generator.choice(ground_truth.category_ids, count)
    if len(ground_truth.boxes):
        rows = generator.integers(len(ground_truth.boxes), size=count)
        near = generator.random(count) < 0.5
        moved = ground_truth.boxes[rows] + generator.integers(-1, 2, (count, 4)) * 4.0
        moved = np.hstack([np.minimum(moved[:, :2], moved[:, 2:]), np.maximum(moved[:, :2], moved[:, 2:])])
        boxes = np.where(near[:, None], moved, boxes)
        image_id = np.where(near, ground_truth.image_id[rows], image_id)
        category_id = np.where(near & (generator.random(count) < 0.8), ground_truth.category_id[rows], category_id)
    levels = generator.permutation(count) / max(count, 1) if distinct_scores else generator.integers(0, 10, count) / 10
    return Detections(image_id=image_id, category_id=category_id, boxes=boxes, scores=levels)


def only_images(ground_truth: GroundTruth, detections: Detections, image_ids) -> tuple[GroundTruth, Detections]:
    """The data set of some images alone, each as often as it is listed (copies follow each other in id order)."""
    chosen = sorted(int(i) for i in image_ids)
    rows = [np.flatnonzero(ground_truth.image_id == i) for i in chosen]
    found = [np.flatnonzero(detections.image_id == i) for i in chosen]
    g, d = np.concatenate([*rows, []]).astype(int), np.concatenate([*found, []]).astype(int)
    copies = GroundTruth(
        image_ids=np.arange(len(chosen)),
        category_ids=ground_truth.category_ids,
        category_names=ground_truth.category_names,
        image_id=np.repeat(np.arange(len(chosen)), [len(r) for r in rows]),
        annotation_id=np.arange(len(g)),
        category_id=ground_truth.category_id[g],
        boxes=ground_truth.boxes[g],
        area=ground_truth.area[g],
        iscrowd=ground_truth.iscrowd[g],
    )
    return copies, Detections(
        image_id=np.repeat(np.arange(len(chosen)), [len(f) for f in found]),
        category_id=detections.category_id[d],
        boxes=detections.boxes[d],
        scores=detections.scores[d],
    )
