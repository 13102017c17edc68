"""Which objects are slender or square, and which images crowded: what AP is broken down by (Figs. 5 and 6).

    AspectCuts().ranges()                   # square, middle, slender
    crowdedness_bins(ground_truth)          # objects_1_3 … objects_13_plus
    category_counts(ground_truth)           # one row per category

The paper gives neither its cuts nor its bins: those here are our definition. An aspect ratio is max(w/h, h/w) of the
box, 1 for a square, infinite for a box without extent.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.matching import Subset

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
    """max(w/h, h/w) of boxes given by width and height; infinite where either is 0, or beyond what floats hold."""
    short, long = np.minimum(*sizes.T), np.maximum(*sizes.T)
    with np.errstate(over="ignore"):  # a side next to nothing
        return np.divide(long, short, out=np.full(len(sizes), np.inf), where=short > 0)


def aspect_subset(ground_truth: GroundTruth, detections: Detections, low: float, high: float) -> Subset:
    """Objects whose aspect ratio lies in [low, high]; COCO's ignore rules, with the aspect in the place of area.

    Objects outside are ignored, and so are detections that match nothing and whose own box is outside.
    """
    objects, boxes = aspect_ratio(ground_truth.sizes), aspect_ratio(detections.sizes)
    return Subset(objects=(objects >= low) & (objects <= high), detections=(boxes >= low) & (boxes <= high))


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
