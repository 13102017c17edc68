"""The bags of a whole data set as arrays, and what a detector makes of their anchors: one row per bag, means by rank.

    bags = concatenate_bags([first, second])
    table = bag_table(bags)             # one row per bag: entropy, effective_anchors, to_part, iou_to_part, u, v …

    means = image_means(anchor_iou, box_iou, score)         # of one image's bags [G, n]; one row per anchor
    boxes = BagBoxes.of(means_of_all)                       # with a column image_id
    boxes.values(np.ones((1, len(boxes.image_ids))))        # [1, names, quantities]

In the means, anchors are named by their rank in the bag, "1" for the one of highest IoU with the object. Two more are
picked from each bag, by each detector its own: "highest score", by the score of the object's class, and "best box",
from which the best box is predicted. "regret" is the latter's quantities minus the former's: what choosing by score
leaves in the bag. The highest score of a bag may be a neighbour's, of the same class.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from analysis.bags.matches import bag_entropy, effective_anchors
from analysis.evaluation.breakdowns import aspect_ratio

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
    num_objects: Int[np.ndarray, " G"]  # in the object's image, this one included
    gt_boxes: Float[np.ndarray, "G 4"]
    parts: Float[np.ndarray, "G 2"]  # centre of the discriminative part; nan where unknown
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
    values: np.ndarray = getattr(bags, name)
    if name not in ("boxes", "level", "iou", "confidence", "weight", "assigned"):
        return values
    rest = [(0, 0), (0, size - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
    return np.pad(values, rest, constant_values=np.nan if name == "boxes" else 0)


def bag_table(bags: BagArrays) -> pd.DataFrame:
    """One row per bag, columns `BAG_TABLE_COLUMNS`.

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
    return values[np.arange(len(values)), chosen]


def _middles(bags: BagArrays) -> np.ndarray:
    return (bags.gt_boxes[:, :2] + bags.gt_boxes[:, 2:]) / 2


def _distance(points: np.ndarray, targets: np.ndarray, bags: BagArrays) -> np.ndarray:
    pixels, diagonal = np.hypot(*(points - targets).T), np.hypot(*bags.sizes.T)
    return np.divide(pixels, diagonal, out=np.full(len(bags), np.nan), where=diagonal > 0)


HIGHEST_SCORE, BEST_BOX, REGRET = "highest score", "best box", "regret"
QUANTITIES = ("anchor_iou", "box_iou", "score")  # IoU of the anchor, of its predicted box; score of the object's class
MEAN_COLUMNS = ("anchor", "num_objects", *QUANTITIES)


def image_means(
    anchor_iou: Float[np.ndarray, "G n"], box_iou: Float[np.ndarray, "G n"], score: Float[np.ndarray, "G n"]
) -> pd.DataFrame:
    """Means over an image's G objects: one row per rank, then the two picked; no row where G is 0.

    Anchors by falling IoU with their object; of equal ones, the first is picked. Columns `MEAN_COLUMNS`.
    """
    if not anchor_iou.size:
        return pd.DataFrame(columns=list(MEAN_COLUMNS))
    quantities = np.stack([anchor_iou, box_iou, score], axis=-1).astype(np.float64)
    objects = np.arange(len(quantities))
    picked = [quantities[objects, of.argmax(axis=1)] for of in (score, box_iou)]
    means = np.vstack([quantities.mean(axis=0), *(own.mean(axis=0) for own in picked)])
    anchors = [*map(str, range(1, quantities.shape[1] + 1)), HIGHEST_SCORE, BEST_BOX]
    frame = pd.DataFrame(means, columns=list(QUANTITIES))
    return frame.assign(anchor=anchors, num_objects=len(objects))[list(MEAN_COLUMNS)]


@dataclass(frozen=True, kw_only=True)
class BagBoxes:
    """The means of I images: A anchors, the `QUANTITIES` of each, over `num_objects` (0 where a bag has no such)."""

    image_ids: np.ndarray
    anchors: tuple[str, ...]
    num_objects: Float[np.ndarray, "I A"]
    means: Float[np.ndarray, "I A Q"]

    @classmethod
    def of(cls, frame: pd.DataFrame, anchors: Sequence[str] | None = None) -> "BagBoxes":
        """From rows of `image_means` with their `image_id`; of the `anchors` named, or of all, in their order.

        The two picked must be among them.
        """
        names = list(frame["anchor"].unique() if anchors is None else anchors)
        wide = [
            frame.pivot(index="image_id", columns="anchor", values=name).reindex(columns=names)
            for name in ("num_objects", *QUANTITIES)
        ]
        num_objects = wide[0].fillna(0).to_numpy(dtype=np.float64)
        means = np.stack([table.to_numpy(dtype=np.float64) for table in wide[1:]], axis=-1)
        return cls(
            image_ids=wide[0].index.to_numpy(),
            anchors=tuple(names),
            num_objects=num_objects,
            means=np.where(num_objects[..., None] > 0, means, 0),  # a mean that is nan itself stays so
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Of what `values` gives: the anchors, then "regret"."""
        return (*self.anchors, REGRET)

    def values(self, weights: Float[np.ndarray, "R I"]) -> Float[np.ndarray, "R N Q"]:
        """Means over objects of each of `names` under each of R weightings of the images; nan where none is drawn."""
        count = (weights @ self.num_objects)[..., None]
        total = np.einsum("ri,ia,iaq->raq", weights, self.num_objects, self.means, optimize=True)
        values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        best, scored = (values[:, [self.anchors.index(name)]] for name in (BEST_BOX, HIGHEST_SCORE))
        return np.concatenate([values, best - scored], axis=1)
