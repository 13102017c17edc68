"""What a detector makes of the anchors of a bag: the box predicted from each and its class score, by the anchor's rank.

What it is: means over the objects of pictures. What it is not: asking a detector (`freeanchor.bags`), or drawing them.

    means = picture_means(anchor_iou, box_iou, score)       # of one picture's bags [G, n]; a row an anchor
    boxes = BagBoxes.of(means_of_all)                       # with a column image_id
    boxes.values(np.ones((1, len(boxes.image_ids))))        # [1, names, quantities]

Anchors are named by their rank in the bag, "1" for the one of highest IoU with the object. Two more are picked from
each bag, by each detector its own: "highest score", by the score of the object's class, and "best box", from which the
best box is predicted. "regret" is the latter's quantities less the former's: what choosing by score leaves in the bag.
The highest score of a bag may be a neighbour's, of the same class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

HIGHEST_SCORE, BEST_BOX, REGRET = "highest score", "best box", "regret"
QUANTITIES = ("anchor_iou", "box_iou", "score")  # IoU of the anchor, of its predicted box; score of the object's class
MEAN_COLUMNS = ("anchor", "num_objects", *QUANTITIES)


def picture_means(
    anchor_iou: Float[np.ndarray, "G n"], box_iou: Float[np.ndarray, "G n"], score: Float[np.ndarray, "G n"]
) -> pd.DataFrame:
    """Means over a picture's G objects: a row for each rank, then for the two picked; no row where G is 0.

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
    """The means of I pictures: A anchors, the `QUANTITIES` of each, over `num_objects` (0 where a bag has no such)."""

    image_ids: np.ndarray
    anchors: tuple[str, ...]
    num_objects: Float[np.ndarray, "I A"]
    means: Float[np.ndarray, "I A Q"]

    @classmethod
    def of(cls, frame: pd.DataFrame, anchors: Sequence[str] | None = None) -> "BagBoxes":
        """From rows of `picture_means` with their `image_id`; of the `anchors` named, or of all, in their order.

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
        """Means over objects of each of `names` under each of R weightings of the pictures; nan where none is drawn."""
        count = (weights @ self.num_objects)[..., None]
        total = np.einsum("ri,ia,iaq->raq", weights, self.num_objects, self.means, optimize=True)
        values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        best, scored = (values[:, [self.anchors.index(name)]] for name in (BEST_BOX, HIGHEST_SCORE))
        return np.concatenate([values, best - scored], axis=1)
