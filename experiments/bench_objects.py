"""Objects and detections made up at val2017's size, for the benchmarks of evaluation.

What it is: COCO json from a seed: objects drawn like val2017's, or a file's own, and detections that are jittered
objects and strays. What it is not: anything that a detector said; no score made of it means anything.

    content = made_up_ground_truth(num_images=5000, num_objects=36_781, generator=np.random.default_rng(0))
    found = made_up_detections(content, 500_000, np.random.default_rng(1))
    part = first_pictures(content, 2500)
"""

from typing import Any

import numpy as np

NUM_CATEGORIES = 80
_CROWD_SHARE = 0.007  # of val2017's annotations
_STRAYS = 0.5  # share of detections that lie in a picture drawn anew
_MISLABELLED = 0.2
_JITTERS = (0.02, 0.08, 0.25)  # of an object's sides, each for a third: sharp, fair and poor boxes


def made_up_ground_truth(*, num_images: int, num_objects: int, generator: np.random.Generator) -> dict[str, Any]:
    """A COCO instances file with much of val2017's spread of objects a picture, categories, sizes and aspect ratios.

    Pictures are of 640 x 480; a third of the objects each is small, medium and large, 13 % are slender.
    """
    crowdedness = generator.gamma(1.2, size=num_images)  # val2017: standard deviation 7.4 where the mean is 7.4
    image = generator.choice(num_images, size=num_objects, p=crowdedness / crowdedness.sum())
    commonness = np.append(1.05, 1 / np.arange(8, NUM_CATEGORIES + 7))  # the first, as val2017's persons, for 30 %
    category = generator.choice(NUM_CATEGORIES, size=num_objects, p=commonness / commonness.sum())
    side = np.exp(generator.normal(np.log(68), 1.0, num_objects)).clip(4, 450)
    stretch = np.exp(generator.normal(0, 0.37, num_objects))  # the root of width over height
    sizes = np.column_stack([side * stretch, side / stretch]).clip(2, [640, 480])
    corners = generator.random((num_objects, 2)) * ([640, 480] - sizes)
    boxes = np.hstack([corners, sizes]).round(2)
    areas = (boxes[:, 2] * boxes[:, 3] * generator.uniform(0.4, 0.9, num_objects)).round(2)  # masks fill boxes in part
    is_crowd = (generator.random(num_objects) < _CROWD_SHARE).astype(int)
    columns = (image + 1, category + 1, boxes, areas, is_crowd)
    return {
        "images": [{"id": i + 1, "file_name": f"{i + 1:012}.jpg"} for i in range(num_images)],
        "categories": [{"id": k + 1, "name": f"category {k + 1}"} for k in range(NUM_CATEGORIES)],
        "annotations": _rows(("image_id", "category_id", "bbox", "area", "iscrowd"), columns, numbered=True),
    }


def made_up_detections(content: dict[str, Any], count: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    """COCO results: `count` boxes jittered around objects drawn anew, half of them in another picture.

    Those that stay score somewhat more, so that precision falls with recall as a detector's does.
    """
    objects = content["annotations"]
    source = generator.integers(len(objects), size=count)
    image_ids, category_ids = (np.array([item["id"] for item in content[key]]) for key in ("images", "categories"))
    image, category = (np.array([item[key] for item in objects])[source] for key in ("image_id", "category_id"))
    boxes = np.array([item["bbox"] for item in objects], dtype=np.float64)[source]
    is_stray, is_mislabelled = generator.random(count) < _STRAYS, generator.random(count) < _MISLABELLED
    image = np.where(is_stray, generator.choice(image_ids, size=count), image)
    category = np.where(is_mislabelled, generator.choice(category_ids, size=count), category)
    jitter = generator.normal(size=(count, 4)) * generator.choice(_JITTERS, size=(count, 1))
    corners = boxes[:, :2] + jitter[:, :2] * boxes[:, 2:]
    sizes = boxes[:, 2:] * np.exp(jitter[:, 2:])
    score = generator.beta(2, 5, count) + 0.3 * ~is_stray * generator.random(count)
    columns = (image, category, np.hstack([corners, sizes]).round(2), score.clip(0, 1).round(5))
    return _rows(("image_id", "category_id", "bbox", "score"), columns)


def first_pictures(content: dict[str, Any], count: int) -> dict[str, Any]:
    """The data set of the first `count` pictures alone."""
    images = content["images"][:count]
    ids = {item["id"] for item in images}
    annotations = [item for item in content["annotations"] if item["image_id"] in ids]
    return {"images": images, "categories": content["categories"], "annotations": annotations}


def _rows(names: tuple[str, ...], columns: tuple[np.ndarray, ...], *, numbered: bool = False) -> list[dict[str, Any]]:
    """Columns as json's rows, with ids from 1 where `numbered`."""
    rows = [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return [row | {"id": i} for i, row in enumerate(rows, start=1)] if numbered else rows
