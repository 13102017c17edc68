"""The bags of a whole data set as arrays, and one row a bag: for thousands of objects, where a frame would be slow.

What it is: `analysis.bags` at the scale of a data set. What it is not: making the arrays (a trained detector does),
summing the rows up over objects (`analysis.bag_summaries`), or where weight lies in a box (`analysis.positions`).

    table = bag_table(bags)             # one row a bag: entropy, effective_anchors, to_part, iou_to_part, u, v …
    bags = concatenate_bags([first, second])
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from analysis.bags import bag_entropy, effective_anchors
from analysis.breakdowns import aspect_ratio

OFF_CENTRE = 0.25  # of the box's diagonal: a part farther from the box's centre is off it; a corner is at 0.5
BAG_TABLE_COLUMNS = (
    "image_id", "annotation_id", "category", "aspect_ratio", "num_objects", "num_anchors", "num_assigned",
    "part_offset", "entropy", "effective_anchors", "mean_max", "max_confidence", "level",
    "chosen_rank", "chosen_iou", "best_iou", "to_part", "to_centre", "iou_to_part", "iou_to_centre", "u", "v",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BagArrays:
    """G bags of n anchors each, anchors by falling IoU with their object; boxes xyxy in continuous pixels.

    A bag of fewer anchors is filled up to n: boxes nan, weight and all else 0.
    """

    image_id: Int[np.ndarray, " G"]
    annotation_id: Int[np.ndarray, " G"]
    category: Shaped[np.ndarray, " G"]  # names
    num_objects: Int[np.ndarray, " G"]  # in the object's picture, this one included
    gt_boxes: Float[np.ndarray, "G 4"]
    parts: Float[np.ndarray, "G 2"]  # centre of the part that tells the class; nan where unknown
    boxes: Float[np.ndarray, "G n 4"]  # the anchors
    level: Int[np.ndarray, "G n"]
    iou: Float[np.ndarray, "G n"]
    confidence: Float[np.ndarray, "G n"]
    weight: Float[np.ndarray, "G n"]  # share in Mean-max; sums to 1 over a bag
    assigned: Bool[np.ndarray, "G n"]  # whether the IoU rule assigns the anchor to the object

    def __len__(self) -> int:
        return len(self.image_id)

    @property
    def centres(self) -> Float[np.ndarray, "G n 2"]:
        """Centres (x, y) of the anchors."""
        return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2

    @property
    def sizes(self) -> Float[np.ndarray, "G 2"]:
        """Width and height of the objects."""
        return self.gt_boxes[:, 2:] - self.gt_boxes[:, :2]


def concatenate_bags(bags: Sequence[BagArrays]) -> BagArrays:
    """Bags one after the other, all filled up to the largest n among them; raises ValueError for none."""
    size = max((one.iou.shape[1] for one in bags), default=0)
    names = [item.name for item in fields(BagArrays)]
    return BagArrays(**{name: np.concatenate([_filled(one, name, size) for one in bags]) for name in names})


def _filled(bags: BagArrays, name: str, size: int) -> np.ndarray:
    """A column, with `size` anchors a bag where it has one value an anchor."""
    values: np.ndarray = getattr(bags, name)
    if name not in ("boxes", "level", "iou", "confidence", "weight", "assigned"):
        return values
    rest = [(0, 0), (0, size - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
    return np.pad(values, rest, constant_values=np.nan if name == "boxes" else 0)


def bag_table(bags: BagArrays) -> pd.DataFrame:
    """One row a bag, columns `BAG_TABLE_COLUMNS`.

    `aspect_ratio` is max(w/h, h/w) of the object's box and `part_offset` how far the part lies from its centre.
    `mean_max` is Eq. 7's, `entropy` in nats. The chosen anchor is that of greatest weight (of equal ones that of
    highest IoU): its `level`, `chosen_rank` by IoU (0 is best), `chosen_iou`, and its centre (`u`, `v`) in the object's
    box, where (0, 0) is the upper left corner and (1, 1) the lower right one. `to_part` and `to_centre` are the chosen
    anchor's distances from part and box centre, `iou_to_part` and `iou_to_centre` those of the anchor of highest IoU,
    whose IoU is `best_iou`. Distances are in diagonals of the object; nan where the part is unknown or the box has no
    extent.
    """
    weight, chosen = bags.weight.astype(np.float64), bags.weight.argmax(axis=1)
    distances = {
        f"{prefix}{name}": _distance(anchor, target, bags)
        for prefix, anchor in (("", _pick(bags.centres, chosen)), ("iou_", bags.centres[:, 0]))
        for name, target in (("to_part", bags.parts), ("to_centre", _middles(bags)))
    }
    u, v = in_object(_pick(bags.centres, chosen), bags).T
    table = pd.DataFrame(
        {
            "image_id": bags.image_id,
            "annotation_id": bags.annotation_id,
            "category": bags.category,
            "aspect_ratio": aspect_ratio(bags.sizes),
            "num_objects": bags.num_objects,
            "num_anchors": np.isfinite(bags.boxes).all(axis=2).sum(axis=1),
            "num_assigned": bags.assigned.sum(axis=1),
            "part_offset": _distance(bags.parts, _middles(bags), bags),
            "entropy": bag_entropy(weight),
            "effective_anchors": effective_anchors(weight),
            "mean_max": (weight * bags.confidence).sum(axis=1),
            "max_confidence": bags.confidence.max(axis=1),
            "level": _pick(bags.level, chosen),
            "chosen_rank": chosen,
            "chosen_iou": _pick(bags.iou, chosen),
            "best_iou": bags.iou[:, 0],
            **distances,
            "u": u,
            "v": v,
        }
    )
    return table[list(BAG_TABLE_COLUMNS)]


def in_object(points: Float[np.ndarray, "G *n 2"], bags: BagArrays) -> Float[np.ndarray, "G *n 2"]:
    """Points in the coordinates of their objects' boxes: 0 to 1 from left to right and from top to bottom.

    nan where the box has no extent.
    """
    shape = (len(bags), *[1] * (points.ndim - 2), 2)
    shift = points - bags.gt_boxes[:, :2].reshape(shape)
    size = np.broadcast_to(bags.sizes.reshape(shape), shift.shape)
    return np.divide(shift, size, out=np.full(shift.shape, np.nan), where=size > 0)


def _pick(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The value of each bag's chosen anchor."""
    return values[np.arange(len(values)), chosen]


def _middles(bags: BagArrays) -> np.ndarray:
    return (bags.gt_boxes[:, :2] + bags.gt_boxes[:, 2:]) / 2


def _distance(points: np.ndarray, targets: np.ndarray, bags: BagArrays) -> np.ndarray:
    """Between points [G, 2], in diagonals of the object; nan for one without extent."""
    pixels, diagonal = np.hypot(*(points - targets).T), np.hypot(*bags.sizes.T)
    return np.divide(pixels, diagonal, out=np.full(len(bags), np.nan), where=diagonal > 0)
