"""Where in an object the weight of its bag lies, summed over a data set: histograms in the object's own coordinates.

What it is: counting. What it is not: drawing (`analysis.bag_figures`).

    position_histograms(bags)           # columns group, matching, u, v, mass

An object's box is the unit square, (0, 0) its upper left corner; the histogram reaches half a box beyond it. Each
object counts alike, with a mass of 1 over the number of objects: under matching "learned" by the weights of its bag in
Mean-max, under "likeliest" at the anchor of greatest weight, under "iou" in equal shares of the anchors of its bag that
the IoU rule assigns, under "part" at the part that tells its class.

Groups are `all`, `slender` and `square` by the box (`AspectCuts`), `acentric` (the part lies off the centre), and
`acentric_aligned`: the same, each object turned and mirrored so that its part lies to the right of the centre and
above it, at least as far right as above. Of the eight ways to lay a square on itself exactly one does so (or two, on
the borders), so the parts of all objects meet in one eighth of the box instead of spreading over all of it.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analysis.bag_arrays import OFF_CENTRE, BagArrays, bag_table, in_object
from analysis.breakdowns import AspectCuts

NUM_BINS, REACH = 24, (-0.5, 1.5)  # bins in each direction, and what they cover, in sides of the object's box
POSITION_COLUMNS = ("group", "matching", "u", "v", "mass")
ALIGNED = "acentric_aligned"


def position_histograms(bags: BagArrays) -> pd.DataFrame:
    """Mass by group, matching and bin (`u`, `v`: the bin's middle); bins without mass are left out.

    The masses of a group and matching add up to 1, less what lies outside `REACH`. Objects without extent, without an
    assigned anchor ("iou") or without a known part ("part") are left out of where they have no place; a group without
    objects has no rows.
    """
    likeliest = np.arange(bags.weight.shape[1]) == bags.weight.argmax(axis=1)[:, None]
    centres, parts = in_object(bags.centres.astype(np.float64), bags), in_object(bags.parts.astype(np.float64), bags)
    assigned = bags.assigned.astype(np.float64)
    shares = np.divide(assigned, assigned.sum(axis=1, keepdims=True), out=np.zeros_like(assigned), where=assigned > 0)
    frames = []
    for group, members in object_groups(bags).items():
        places, own_parts = centres[members], parts[members]
        if group == ALIGNED:
            places, own_parts = align(places, own_parts), align(own_parts[:, None], own_parts)[:, 0]
        frames += [
            _histogram(places, bags.weight[members], group, "learned"),
            _histogram(places, likeliest[members].astype(np.float64), group, "likeliest"),
            _histogram(places, shares[members], group, "iou"),
            _histogram(own_parts[:, None], np.ones((len(own_parts), 1)), group, "part"),
        ]
    return pd.concat(frames, ignore_index=True)


def object_groups(bags: BagArrays) -> dict[str, Bool[np.ndarray, " G"]]:
    """Which objects with extent belong to each group, by name."""
    table, cuts = bag_table(bags), AspectCuts()
    has_extent = np.all(bags.sizes > 0, axis=1)
    acentric = table.part_offset.to_numpy(dtype=np.float64) > OFF_CENTRE
    groups = {
        "all": has_extent,
        "slender": table.aspect_ratio.to_numpy() >= cuts.slender,
        "square": table.aspect_ratio.to_numpy() <= cuts.square,
        "acentric": acentric,
        ALIGNED: acentric,
    }
    return {name: np.asarray(members & has_extent) for name, members in groups.items()}


def align(places: Float[np.ndarray, "G n 2"], parts: Float[np.ndarray, "G 2"]) -> Float[np.ndarray, "G n 2"]:
    """Places in the box, turned and mirrored about its centre as brings the object's part to the right and upwards."""
    offset, part = places - 0.5, parts - 0.5
    is_upright = np.abs(part[:, 1]) > np.abs(part[:, 0])
    offset = np.where(is_upright[:, None, None], offset[..., ::-1], offset)
    part = np.where(is_upright[:, None], part[:, ::-1], part)
    side = np.where(part >= 0, 1, -1) * np.array([1, -1])  # v grows downwards: above the centre it is negative
    return 0.5 + offset * side[:, None]


def _histogram(places: np.ndarray, masses: np.ndarray, group: str, matching: str) -> pd.DataFrame:
    """The bins that hold mass; `masses` [G, n] add up to 1 for each object that has a place, to 0 for others."""
    known = np.isfinite(places).all(axis=2) & (masses > 0)
    num_objects = int(known.any(axis=1).sum())
    edges = np.linspace(*REACH, NUM_BINS + 1)
    u, v = places[known].T
    grid, _, _ = np.histogram2d(u, v, bins=(edges, edges), weights=masses[known])
    columns, rows = np.nonzero(grid)
    middles = (edges[:-1] + edges[1:]) / 2
    mass = grid[columns, rows] / max(num_objects, 1)
    frame = pd.DataFrame(
        {"group": group, "matching": matching, "u": middles[columns], "v": middles[rows], "mass": mass}
    )
    return frame[list(POSITION_COLUMNS)]
