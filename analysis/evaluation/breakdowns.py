"""AP by the shape of objects and by how crowded their images are (Figs. 5 and 6).

    slenderness(ground_truth, detections)               # ap_square, ap_middle, ap_slender
    category_aspects(ground_truth, detections)          # one row per category
    crowdedness(ground_truth, detections)               # ap_objects_1_3 … ap_objects_13_plus

The paper gives neither its cuts nor its bins: those here are our definition. An aspect ratio is max(w/h, h/w) of the
box, 1 for a square, infinite for a box without extent.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.matching import Subset, find_overlaps, match, match_detections
from analysis.evaluation.precision import average_precision, class_precision, precision_curves

CROWDEDNESS_EDGES = (1, 4, 8, 13)  # 1-3, 4-7, 8-12, 13 and more objects


@dataclass(frozen=True, kw_only=True)
class AspectCuts:
    """Aspect ratios that part square, middle and slender objects; a cut belongs to both sides, as in COCO's sizes."""

    square: float = 4 / 3  # TIDE's square
    slender: float = 3.0  # SlenderObjDet (arXiv 2011.08529): slender is beyond 3:1

    def __post_init__(self) -> None:
        if not 1 <= self.square <= self.slender:
            raise ValueError(
                f"aspect cuts must satisfy 1 <= square <= slender, got {self.square} and {self.slender}; "
                "give max(w/h, h/w)"
            )

    def ranges(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest aspect ratio of each group, both included."""
        return {
            "square": (1.0, self.square),
            "middle": (self.square, self.slender),
            "slender": (self.slender, float("inf")),
        }


def aspect_ratio(sizes: Float[np.ndarray, "G 2"]) -> Float[np.ndarray, " G"]:
    """max(w/h, h/w) of boxes given by width and height; infinite where either is 0."""
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    return np.divide(long, short, out=np.full(len(sizes), np.inf), where=short > 0)


def aspect_subset(ground_truth: GroundTruth, detections: Detections, low: float, high: float) -> Subset:
    """Objects whose aspect ratio lies in [low, high]; COCO's ignore rules, with the aspect in the place of area.

    Objects outside are ignored, and so are detections that match nothing and whose own box is outside.
    """
    objects, boxes = aspect_ratio(ground_truth.sizes), aspect_ratio(detections.sizes)
    return Subset(objects=(objects >= low) & (objects <= high), detections=(boxes >= low) & (boxes <= high))


def slenderness(ground_truth: GroundTruth, detections: Detections, cuts: AspectCuts = AspectCuts()) -> pd.DataFrame:
    """AP of square, middle and slender objects: metric, value, num_objects, num_images, low, high (aspect ratios).

    `num_images` are the images with such an object. A group without objects has value nan.
    """
    overlaps = find_overlaps(ground_truth, detections)
    rows = []
    for name, (low, high) in cuts.ranges().items():
        table = match(overlaps, aspect_subset(ground_truth, detections, low, high))
        images = table.object_image[~table.object_ignored]
        value = float(average_precision(precision_curves(table)))
        rows.append((f"ap_{name}", value, len(images), len(np.unique(images)), low, high))
    return pd.DataFrame(rows, columns=["metric", "value", "num_objects", "num_images", "low", "high"])


def category_aspects(ground_truth: GroundTruth, detections: Detections) -> pd.DataFrame:
    """AP of each category beside the median aspect ratio of its objects: `category_counts`, and `ap`.

    A category without objects has nan for median and AP.
    """
    ap = class_precision(precision_curves(match_detections(ground_truth, detections))).mean(axis=0)
    return category_counts(ground_truth).assign(ap=ap)


def category_counts(ground_truth: GroundTruth) -> pd.DataFrame:
    """The objects of each category: category_id, name, median_aspect, num_objects, num_images.

    Crowd regions count as no objects; a category without objects has nan for the median.
    """
    aspects = aspect_ratio(ground_truth.sizes)
    rows = []
    category_index = ground_truth.category_index
    for k, (category_id, name) in enumerate(zip(ground_truth.category_ids, ground_truth.category_names, strict=True)):
        own = (category_index == k) & ~ground_truth.iscrowd
        median = float(np.median(aspects[own])) if own.any() else float("nan")
        num_images = len(np.unique(ground_truth.image_id[own]))
        rows.append((int(category_id), name, median, int(own.sum()), num_images))
    return pd.DataFrame(rows, columns=["category_id", "name", "median_aspect", "num_objects", "num_images"])


def objects_per_image(ground_truth: GroundTruth) -> Int[np.ndarray, " N"]:
    """Number of objects in each image, crowd regions left out, in the order of `image_ids`."""
    return np.bincount(ground_truth.image_index[~ground_truth.iscrowd], minlength=len(ground_truth.image_ids))


def crowdedness_bins(
    ground_truth: GroundTruth, edges: tuple[int, ...] = CROWDEDNESS_EDGES
) -> dict[str, Bool[np.ndarray, " N"]]:
    """Which images fall into each bin, by name: edges (1, 4, 8, 13) give `objects_1_3` … `objects_13_plus`.

    Images with fewer objects than the first edge fall into none.
    """
    if not edges or list(edges) != sorted(set(edges)):
        raise ValueError(f"edges must grow strictly, got {edges}; give the lowest number of objects of each bin")
    counts = objects_per_image(ground_truth)
    bins = {
        f"objects_{low}_{high - 1}" if high - 1 > low else f"objects_{low}": (counts >= low) & (counts < high)
        for low, high in pairwise(edges)
    }
    return bins | {f"objects_{edges[-1]}_plus": counts >= edges[-1]}


def crowdedness(
    ground_truth: GroundTruth, detections: Detections, edges: tuple[int, ...] = CROWDEDNESS_EDGES
) -> pd.DataFrame:
    """AP over the images of each bin alone: metric, value, num_objects, num_images.

    The classes averaged are those with an object in the bin; an empty bin has value nan.
    """
    curves = precision_curves(match_detections(ground_truth, detections))
    counts = objects_per_image(ground_truth)
    rows = []
    for name, images in crowdedness_bins(ground_truth, edges).items():
        value = float(average_precision(curves, images.astype(np.float64)))
        rows.append((f"ap_{name}", value, int(counts[images].sum()), int(images.sum())))
    return pd.DataFrame(rows, columns=["metric", "value", "num_objects", "num_images"])
