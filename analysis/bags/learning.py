"""Which anchors learn which object, under any method and on one scale: tables of objects, agreement, stability.

    table = learning_table(learning)                    # one row per object
    summary = learning_frame(tables)                    # mean over objects by detector, step, group, with intervals
    overlap(one, other)                                 # what two methods have in common, by object

Shares add up to 1 over an object's learning anchors, equal for assigners, those of Mean-max for FreeAnchor. So an
object of n equal anchors has n effective ones (1 over the sum of squared shares), and two methods have in common the
sum over anchors of the lesser share: of equal shares over as many anchors, the share of anchors in common.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from analysis.bags.arrays import OFF_CENTRE
from analysis.bags.summaries import object_mean
from analysis.evaluation.breakdowns import CROWDEDNESS_EDGES, AspectCuts, aspect_ratio
from analysis.evaluation.statistics import bootstrap

TABLE_COLUMNS = (
    "image_id", "annotation_id", "category", "aspect_ratio", "num_objects", "part_offset", "diagonal", "num_learning",
    "effective_anchors", "iou", "box_iou", "cls_prob", "to_centre", "to_part",
)  # fmt: skip
METRICS = ("effective_anchors", "iou", "box_iou", "cls_prob", "to_centre", "to_part", "unlearned")
CROWDED = CROWDEDNESS_EDGES[-1]  # objects in an image
NUM_RESAMPLES = 500


@dataclass(frozen=True, kw_only=True)
class Learning:
    """G objects and the P pairs of an object (its place among them) and an anchor that learns it."""

    image_id: Int[np.ndarray, " G"]
    annotation_id: Int[np.ndarray, " G"]
    category: Shaped[np.ndarray, " G"]
    num_objects: Int[np.ndarray, " G"]
    gt_boxes: Float[np.ndarray, "G 4"]
    parts: Float[np.ndarray, "G 2"]  # centre of the discriminative part; nan where unknown
    objects: Int[np.ndarray, " P"]
    anchors: Int[np.ndarray, " P"]  # place in the image's grid
    share: Float[np.ndarray, " P"]
    centres: Float[np.ndarray, "P 2"]
    iou: Float[np.ndarray, " P"]
    box_iou: Float[np.ndarray, " P"]
    cls_prob: Float[np.ndarray, " P"]


def learning_table(learning: Learning) -> pd.DataFrame:
    """One row per object, columns `TABLE_COLUMNS`; means weighted by share, nan where nothing learns the object.

    Distances are of anchors' centres, in diagonals of the object's box.
    """
    sizes = learning.gt_boxes[:, 2:] - learning.gt_boxes[:, :2]
    middles, diagonal = (learning.gt_boxes[:, :2] + learning.gt_boxes[:, 2:]) / 2, np.hypot(*sizes.T)

    def mean(values: np.ndarray) -> np.ndarray:
        totals = np.bincount(learning.objects, weights=learning.share * values, minlength=len(sizes))
        return np.where(has_any, totals, np.nan)

    def distance(targets: np.ndarray) -> np.ndarray:
        pixels = np.hypot(*(learning.centres - targets[learning.objects]).T)
        return _ratio(pixels, diagonal[learning.objects])

    num_learning = np.bincount(learning.objects, minlength=len(sizes))
    has_any = num_learning > 0
    squares = np.bincount(learning.objects, weights=np.square(learning.share), minlength=len(sizes))
    table = pd.DataFrame(
        {
            "image_id": learning.image_id,
            "annotation_id": learning.annotation_id,
            "category": learning.category,
            "aspect_ratio": aspect_ratio(sizes),
            "num_objects": learning.num_objects,
            "part_offset": _ratio(np.hypot(*(learning.parts - middles).T), diagonal),
            "diagonal": diagonal,
            "num_learning": num_learning,
            "effective_anchors": np.divide(1, squares, out=np.zeros(len(squares)), where=has_any),
            "iou": mean(learning.iou),
            "box_iou": mean(learning.box_iou),
            "cls_prob": mean(learning.cls_prob),
            "to_centre": mean(distance(middles)),
            "to_part": mean(distance(learning.parts)),
        }
    )
    return table[list(TABLE_COLUMNS)]


def _ratio(pixels: np.ndarray, diagonal: np.ndarray) -> np.ndarray:
    return np.divide(pixels, diagonal, out=np.full(len(pixels), np.nan), where=diagonal > 0)


def groups_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which objects belong to each group: all, slender and square by the box, crowded by the image, acentric."""
    cuts, aspects = AspectCuts(), table["aspect_ratio"].to_numpy(dtype=np.float64)
    return {
        "all": np.ones(len(table), dtype=bool),
        "slender": aspects >= cuts.slender,
        "square": aspects <= cuts.square,
        "crowded": table["num_objects"].to_numpy() >= CROWDED,
        "acentric": table["part_offset"].to_numpy(dtype=np.float64) > OFF_CENTRE,
    }


def learning_frame(tables: pd.DataFrame) -> pd.DataFrame:
    """Means over objects: detector, step, num_steps, group, metric, value, low, high, num_objects.

    `tables` are those of `learning_table` with detector, step and num_steps. `unlearned` is the share of objects that
    no anchor learns; a mean is over those that have a value, of all seeds; `num_objects` counts each of them once.
    Intervals: 95 %, bootstrap over images alone.
    """
    tables, rows = tables.assign(unlearned=(tables["num_learning"] == 0).astype(np.float64)), []
    for key, stage in tables.groupby(["detector", "step", "num_steps"], sort=False):
        for group, members in groups_of(stage).items():
            for metric in METRICS:
                own = stage[members & stage[metric].notna().to_numpy()]
                if len(own):
                    rows.append((*key, group, metric, *mean_interval(own, metric), own["annotation_id"].nunique()))
    columns = ["detector", "step", "num_steps", "group", "metric", "value", "low", "high", "num_objects"]
    return pd.DataFrame(rows, columns=columns)


def mean_interval(objects: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """The mean of a column over objects, with its 95 % bootstrap interval over images (column image_id)."""
    metric, num_images = object_mean(objects, column)
    generator = np.random.default_rng(0)
    interval = bootstrap(metric, num_images=num_images, generator=generator, num_resamples=NUM_RESAMPLES)
    return float(interval.value), float(interval.low), float(interval.high)


def overlap(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """The share of each object's learning that two methods, or two snapshots, have in common, by annotation_id.

    Frames have annotation_id, anchor and share; an object's shares add up to 1, but for their rounding. Objects that
    nothing learns in either are left out, those that something learns in one alone have 0.
    """
    keys = ["annotation_id", "anchor"]
    both = one.merge(other, on=keys, how="outer", suffixes=("", "_other")).fillna({"share": 0.0, "share_other": 0.0})
    both["overlap"] = both[["share", "share_other"]].min(axis=1)
    return both.groupby("annotation_id")["overlap"].sum().clip(upper=1)
