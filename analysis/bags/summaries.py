"""Rows of bags summed up over objects: how concentrated matching is, how far it strays, and where its weight lies.

    concentration_frame(bags)           # quartiles over objects, by step and group
    part_distance_frame(bags, generator)        # distance to the discriminative part and to the centre, with intervals
    freed = matching_freed(bags[bags.step == bags.step.max()])      # one row per off-centre object
    metric, num_images = object_mean(freed, "nearer_to_part")
    position_histograms(arrays)         # columns group, matching, u, v, mass

`bags` is `analysis.bags.arrays.bag_table` with columns run, detector, step and num_steps before it. Histograms lie in
the object's own coordinates: its box is the unit square, (0, 0) the upper left corner, and they reach half a box beyond
it. Each object counts alike, with a mass of 1 over the number of objects: under matching "learned" by the weights of
its bag in Mean-max, under "likeliest" at the anchor of greatest weight, under "iou" in equal shares of the anchors of
its bag that the IoU rule assigns, under "part" at the part that tells its class.

Groups are `all`, `slender` and `square` by the box (`AspectCuts`), `acentric` (the part lies off the centre), and
`acentric_aligned`: the same, each object turned and mirrored so that its part lies to the right of the centre and
above it, at least as far right as above. Of the eight ways to lay a square on itself exactly one does so (or two, on
the borders), so the parts of all objects meet in one eighth of the box instead of spreading over all of it.
"""

import math
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analysis.bags.arrays import OFF_CENTRE, BagArrays, bag_table, in_object
from analysis.evaluation.breakdowns import AspectCuts
from analysis.evaluation.statistics import Metric, bootstrap

NUM_RESAMPLES = 1000
CONCENTRATION_METRICS = ("entropy", "effective_anchors", "mean_max", "max_confidence")
CONCENTRATION_COLUMNS = ("detector", "step", "num_steps", "group", "metric", "value", "low", "high", "num_objects")
DISTANCE_COLUMNS = (
    "detector", "step", "num_steps", "matching", "target", "value", "low", "high", "num_objects", "num_images",
)  # fmt: skip
_STAGE = ["detector", "step", "num_steps"]


def concentration_frame(bags: pd.DataFrame, split: Literal["aspect", "crowdedness"] = "aspect") -> pd.DataFrame:
    """Median (`value`) and quartiles (`low`, `high`) of `CONCENTRATION_METRICS` over objects.

    Columns `CONCENTRATION_COLUMNS`; one row per detector, step, group and metric, bags of several seeds together.
    Groups are `all`, `slender` and `square` (`AspectCuts`) by the object's box; or two by the number of objects in its
    image, of about as many objects each: `objects_1_9` and `objects_10_plus`, say. A group without objects has no
    rows.
    """
    groups = _aspect_groups(bags) if split == "aspect" else _crowdedness_groups(bags)
    rows = []
    for group, members in groups.items():
        for key, own in bags[members].groupby(_STAGE, sort=True, dropna=False):
            for metric in CONCENTRATION_METRICS:
                low, value, high = np.quantile(own[metric], [0.25, 0.5, 0.75])
                rows.append((*key, group, metric, value, low, high, _num_objects(own)))
    return pd.DataFrame(rows, columns=list(CONCENTRATION_COLUMNS))


def part_distance_frame(
    bags: pd.DataFrame, generator: np.random.Generator, num_resamples: int = NUM_RESAMPLES
) -> pd.DataFrame:
    """Mean distance of the matched anchor's centre from the discriminative part and the box's centre, in diagonals.

    Columns `DISTANCE_COLUMNS`; one row per detector, step, matching ("learned": the anchor of greatest weight, "iou":
    that of highest IoU) and target ("part", "centre"), over objects whose part lies off their centre (`OFF_CENTRE`);
    `low` and `high` bound the mean by bootstrap over images (95 %). No such object gives no rows.
    """
    rows = []
    acentric = bags[is_acentric(bags)]
    for key, own in acentric.groupby(_STAGE, sort=True, dropna=False):
        for matching, prefix in (("learned", ""), ("iou", "iou_")):
            for target in ("part", "centre"):
                metric, num_images = object_mean(own, f"{prefix}to_{target}")
                mean = bootstrap(metric, num_images=num_images, generator=generator, num_resamples=num_resamples)
                counts = _num_objects(own), num_images
                rows.append((*key, matching, target, float(mean.value), float(mean.low), float(mean.high), *counts))
    return pd.DataFrame(rows, columns=list(DISTANCE_COLUMNS))


def matching_freed(bags: pd.DataFrame) -> pd.DataFrame:
    """What learned matching changes for objects whose part lies off their centre, one row each, in diagonals.

    Columns image_id, annotation_id, `nearer_to_part` (`iou_to_part - to_part`) and `farther_from_centre`
    (`to_centre - iou_to_centre`): both positive where the learned match has left the centre for the part. Give the rows
    of one detector at one step (several seeds may be together); raises ValueError for more.
    """
    stages = bags[["detector", "step"]].drop_duplicates()
    if len(stages) > 1:
        raise ValueError(f"matching_freed compares one detector at one step, got {len(stages)}; select one of them")
    own = bags[is_acentric(bags)]
    freed = own[["image_id", "annotation_id"]].assign(
        nearer_to_part=own.iou_to_part - own.to_part, farther_from_centre=own.to_centre - own.iou_to_centre
    )
    return freed.reset_index(drop=True)


def is_acentric(bags: pd.DataFrame) -> Bool[np.ndarray, " G"]:
    """Whether an object's part is known to lie off its box's centre by more than `OFF_CENTRE` of the diagonal."""
    return bags.part_offset.to_numpy(dtype=np.float64) > OFF_CENTRE


def object_mean(objects: pd.DataFrame, column: str) -> tuple[Metric, int]:
    """The mean of a column over objects as a metric for `bootstrap`, and the number of images.

    Images are those that `objects` (column `image_id`) names, so an image is drawn with all its objects; a mean over
    no objects is nan.
    """
    images, place = np.unique(objects.image_id, return_inverse=True)
    values = objects[column].to_numpy(dtype=np.float64)
    totals = np.bincount(place, weights=values, minlength=len(images))
    counts = np.bincount(place, minlength=len(images)).astype(np.float64)

    def mean(weights: np.ndarray) -> np.ndarray:
        number = weights @ counts
        return np.divide(weights @ totals, number, out=np.full(len(weights), math.nan), where=number > 0)

    return mean, len(images)


def _aspect_groups(bags: pd.DataFrame) -> dict[str, np.ndarray]:
    cuts, aspects = AspectCuts(), bags.aspect_ratio.to_numpy(dtype=np.float64)
    return {"all": np.ones(len(bags), dtype=bool), "slender": aspects >= cuts.slender, "square": aspects <= cuts.square}


def _crowdedness_groups(bags: pd.DataFrame) -> dict[str, np.ndarray]:
    """Objects in images of up to as many objects as the median object's has, and beyond."""
    if bags.empty:
        return {}
    counts = bags.num_objects.to_numpy(dtype=np.int64)
    middle = int(bags.drop_duplicates(["image_id", "annotation_id"]).num_objects.median())
    return {f"objects_1_{middle}": counts <= middle, f"objects_{middle + 1}_plus": counts > middle}


def _num_objects(bags: pd.DataFrame) -> int:
    """Objects, each counted once however many seeds were asked about it."""
    return len(bags.drop_duplicates(["image_id", "annotation_id"]))


NUM_BINS, REACH = 24, (-0.5, 1.5)  # bins in each direction, and what they cover, in sides of the object's box
POSITION_COLUMNS = ("group", "matching", "u", "v", "mass")
ALIGNED = "acentric_aligned"


def position_histograms(bags: BagArrays) -> pd.DataFrame:
    """Mass by group, matching and bin (`u`, `v`: the bin's middle); bins without mass are left out.

    The masses of a group and matching add up to 1 minus what lies outside `REACH`. Objects without extent, without an
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
    is_portrait = np.abs(part[:, 1]) > np.abs(part[:, 0])
    offset = np.where(is_portrait[:, None, None], offset[..., ::-1], offset)
    part = np.where(is_portrait[:, None], part[:, ::-1], part)
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
