"""Taking learned matching apart: how concentrated a bag is, which anchor it chose, and where that anchor sits.

    effective_anchors(weights)          # [*N, n] -> [*N]: 50 for a bag that has not decided, 1 for one that has
    chosen_anchor(matches)              # one row per bag
    part_distance(matches)              # is the chosen anchor nearer to the discriminative part than IoU's?

A frame of matches has one row per anchor of a bag. A bag is one object seen by one detector at one step of training:
`run`, `detector`, `step`, `num_steps`, `image_id`, `annotation_id`, `category`. Its anchors have `rank` (by IoU, 0 is
best), `level` (3..7), `ratio` (h/w), `octave`, `x1`, `y1`, `x2`, `y2` (pixels), `iou` with the object, `cls_prob`,
`loc_prob`, `confidence` (their product), `weight` (the share in Mean-max; sums to 1 over the bag) and `assigned`
(whether the IoU rule assigns it). Constant over a bag: the object's box `gt_x1`, `gt_y1`, `gt_x2`, `gt_y2`, and
`part_x`, `part_y`, the centre of the part that tells its class, nan where unknown.
"""

import numpy as np
import pandas as pd
from jaxtyping import Float

from freeanchor.errors import FreeAnchorError

BAG_COLUMNS = ("run", "detector", "step", "num_steps", "image_id", "annotation_id", "category")
ANCHOR_COLUMNS = (
    "rank", "level", "ratio", "octave", "x1", "y1", "x2", "y2", "iou", "cls_prob", "loc_prob", "confidence", "weight",
    "assigned",
)  # fmt: skip
OBJECT_COLUMNS = ("gt_x1", "gt_y1", "gt_x2", "gt_y2", "part_x", "part_y")
MATCH_COLUMNS = (*BAG_COLUMNS, *ANCHOR_COLUMNS, *OBJECT_COLUMNS)


class MatchesError(FreeAnchorError):
    """A frame of matches, or weights, that cannot be such."""


def bag_entropy(weights: Float[np.ndarray, "*N n"]) -> Float[np.ndarray, "*N"]:
    """Entropy of each bag's weights in nats: log n while all n anchors count alike, 0 when one has taken over.

    Weights must be non-negative and sum to 1 over the last axis, within 1e-3; else `MatchesError`.
    """
    _check_weights(weights)
    logarithms = np.log(weights, out=np.zeros_like(weights, dtype=np.float64), where=weights > 0)
    return -(weights * logarithms).sum(axis=-1) + 0.0  # + 0.0 turns -0.0 into 0.0


def effective_anchors(weights: Float[np.ndarray, "*N n"]) -> Float[np.ndarray, "*N"]:
    """How many anchors of a bag its Mean-max really uses: 1 / sum of squared weights, from 1 to n."""
    _check_weights(weights)
    return 1 / np.square(weights).sum(axis=-1)


def summarize_bags(matches: pd.DataFrame) -> pd.DataFrame:
    """One row per bag: `num_anchors`, `num_assigned` (by IoU), `mean_max` (Eq. 7), `entropy`, `effective_anchors`."""
    _check_matches(matches)
    rows = []
    for key, bag in _bags(matches):
        weights = bag.weight.to_numpy(dtype=np.float64)
        mean_max = float((weights * bag.confidence).sum())
        numbers = len(bag), int(bag.assigned.sum()), mean_max, float(bag_entropy(weights))
        rows.append((*key, *numbers, float(effective_anchors(weights))))
    names = ["num_anchors", "num_assigned", "mean_max", "entropy", "effective_anchors"]
    return pd.DataFrame(rows, columns=[*BAG_COLUMNS, *names])


def chosen_anchor(matches: pd.DataFrame) -> pd.DataFrame:
    """The anchor of greatest weight in each bag, all columns kept; of equal ones that of highest IoU."""
    return _first_of_each_bag(matches, ["weight", "rank"], ascending=[False, True])


def preferred_by_iou(matches: pd.DataFrame) -> pd.DataFrame:
    """The anchor of highest IoU with the object in each bag (rank 0), all columns kept."""
    return _first_of_each_bag(matches, ["rank"], ascending=[True])


def part_distance(matches: pd.DataFrame) -> pd.DataFrame:
    """How far the matched anchor's centre lies from the discriminative part and from the object's centre.

    Two rows per bag, `matching` "learned" (the anchor of greatest weight) and "iou" (the one of highest IoU); `to_part`
    and `to_centre` in units of the object's diagonal. `to_part` is nan where the part is unknown, both are nan for an
    object without extent.
    """
    rows = []
    for matching, anchors in (("learned", chosen_anchor(matches)), ("iou", preferred_by_iou(matches))):
        distances = anchors[list(BAG_COLUMNS)].assign(
            matching=matching,
            to_part=_distance(anchors, anchors.part_x, anchors.part_y),
            to_centre=_distance(anchors, (anchors.gt_x1 + anchors.gt_x2) / 2, (anchors.gt_y1 + anchors.gt_y2) / 2),
        )
        rows.append(distances)
    return pd.concat(rows, ignore_index=True)


def anchors_of_ratio(matches: pd.DataFrame, ratio: float, count: int) -> pd.DataFrame:
    """The `count` anchors of one ratio (h/w) of highest IoU in each bag (Fig. 4 shows 16), in the frame's order.

    Fewer, even none, where the bag has no more: the bag of a box far from square holds no square anchors.
    """
    _check_matches(matches)
    if count < 1:
        raise MatchesError(f"count must be at least 1, got {count}; Fig. 4 shows 16 anchors")
    own = matches[np.isclose(matches.ratio.to_numpy(dtype=np.float64), ratio)]
    position = own.groupby(list(BAG_COLUMNS), dropna=False)["rank"].rank(method="first")
    return own[position <= count].reset_index(drop=True)


def anchor_centres(matches: pd.DataFrame) -> Float[np.ndarray, "A 2"]:
    """Centres (x, y) of the anchors, in pixels."""
    return np.stack([(matches.x1 + matches.x2) / 2, (matches.y1 + matches.y2) / 2], axis=1).astype(np.float64)


def _distance(anchors: pd.DataFrame, x: pd.Series, y: pd.Series) -> Float[np.ndarray, " N"]:
    centres = anchor_centres(anchors)
    diagonal = np.asarray(np.hypot(anchors.gt_x2 - anchors.gt_x1, anchors.gt_y2 - anchors.gt_y1), dtype=np.float64)
    pixels = np.hypot(centres[:, 0] - x.to_numpy(dtype=np.float64), centres[:, 1] - y.to_numpy(dtype=np.float64))
    return np.divide(pixels, diagonal, out=np.full(len(anchors), np.nan), where=diagonal > 0)


def _bags(matches: pd.DataFrame) -> pd.api.typing.DataFrameGroupBy:
    return matches.groupby(list(BAG_COLUMNS), sort=False, dropna=False)


def _first_of_each_bag(matches: pd.DataFrame, by: list[str], ascending: list[bool]) -> pd.DataFrame:
    """The row of each bag that comes first in the given order; bags in the order in which `matches` has them."""
    _check_matches(matches)
    numbered = matches.assign(_bag=_bags(matches).ngroup().to_numpy())
    first = numbered.sort_values(by, ascending=ascending, kind="stable").drop_duplicates("_bag")
    return first.sort_values("_bag").drop(columns="_bag").reset_index(drop=True)


def _check_matches(matches: pd.DataFrame) -> None:
    missing = [column for column in MATCH_COLUMNS if column not in matches.columns]
    if missing:
        raise MatchesError(f"the frame of matches lacks {', '.join(missing)}; give one row per anchor of a bag")


def _check_weights(weights: np.ndarray) -> None:
    sums = weights.sum(axis=-1)
    if np.any(weights < 0) or not np.allclose(sums, 1, atol=1e-3):
        raise MatchesError(
            f"weights must be shares that sum to 1 over a bag, got sums from {np.min(sums):g} to {np.max(sums):g} and "
            f"a least weight of {np.min(weights):g}; divide by their sum"
        )
