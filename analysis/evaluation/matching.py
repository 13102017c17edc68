"""Detections matched to objects at every IoU threshold, once, into a compact table.

    overlaps = find_overlaps(ground_truth, detections)       # once per detector
    everything = match(overlaps)
    large = match(overlaps, Subset(objects=areas_in_range, detections=detection_areas_in_range))

This is COCO's greedy matching (pycocotools' `COCOeval.evaluateImg`), for one image and category at a time: the 100
best-scoring detections count (equal scores in the order of the file); from the best score down, each takes the object
that it overlaps most, if the IoU reaches the threshold, the last of them where several are equal; a taken object is
gone, unless it is a crowd region, whose IoU is the share of the detection inside it. Objects that do not count (crowd
regions, objects outside the subset) are *ignored*: a detection takes one only where no counting object is to be had,
and is then ignored itself, neither right nor wrong.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth, positions
from freeanchor.errors import DataError

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # pycocotools' floats: np.arange gives others
MAX_DETECTIONS = 100  # of an image and category
_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of overlaps to about 200 MB


@dataclass(frozen=True, kw_only=True)
class Subset:
    """The objects that an evaluation is about, in COCO's way (its small, medium and large are such subsets).

    Objects outside `objects` are ignored: finding one is neither right nor wrong. A detection that matches nothing
    counts as wrong only where `detections` holds, that is, where its own box lies in the subset's range: a detection
    of another kind is no claim about this kind. Both masks must apply one rule, to the object and to the detection.
    """

    objects: Bool[np.ndarray, " G"]
    detections: Bool[np.ndarray, " D"]


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The E of the D given detections that count, by category, then score, best first; ties by image, then by row."""

    detection_row: Int[np.ndarray, " E"]  # row in the `Detections` given
    image_index: Int[np.ndarray, " E"]  # position in the ground truth's image_ids
    category_index: Int[np.ndarray, " E"]  # position in its category_ids
    score: Float[np.ndarray, " E"]
    rank: Int[np.ndarray, " E"]  # 0 for the best of its image and category
    box: Float[np.ndarray, "E 4"]


@dataclass(frozen=True, kw_only=True)
class Overlaps(Ranked):
    """Ranked detections and the P pairs that can match: same image, same category, IoU >= 0.5."""

    ground_truth: GroundTruth
    num_detections: int  # D
    iou_thresholds: Float[np.ndarray, " T"]  # to match at; the lowest is 0.5 or the lowest that was asked for
    # pairs stand in the order of their detection's rank, then detection, then object: the order in which they are taken
    pair_detection: Int[np.ndarray, " P"]  # position among the E
    pair_object: Int[np.ndarray, " P"]
    pair_iou: Float[np.ndarray, " P"]


@dataclass(frozen=True, kw_only=True)
class MatchTable(Ranked):
    """What every ranked detection matched at each of T IoU thresholds; G objects.

    Right: `(matched >= 0) & ~ignored`; wrong: `(matched < 0) & ~ignored`.
    """

    iou_thresholds: Float[np.ndarray, " T"]
    image_ids: Int[np.ndarray, " N"]
    category_ids: Int[np.ndarray, " K"]
    matched: Int[np.ndarray, "T E"]  # row of the object, -1 for none
    ignored: Bool[np.ndarray, "T E"]
    object_image: Int[np.ndarray, " G"]  # position in image_ids
    object_category: Int[np.ndarray, " G"]  # position in category_ids
    object_ignored: Bool[np.ndarray, " G"]

    @property
    def num_images(self) -> int:
        """Number of images, those without objects and detections included."""
        return len(self.image_ids)


def match_detections(ground_truth: GroundTruth, detections: Detections, subset: Subset | None = None) -> MatchTable:
    """The match table in one call; for several subsets call `find_overlaps` once, then `match` for each."""
    return match(find_overlaps(ground_truth, detections), subset)


def find_overlaps(
    ground_truth: GroundTruth,
    detections: Detections,
    *,
    max_detections: int = MAX_DETECTIONS,
    iou_thresholds: Float[np.ndarray, " T"] = IOU_THRESHOLDS,
) -> Overlaps:
    """Ranks the detections and finds every pair of detection and object that could match, at IoU 0.5 or more.

    Of each image and category `max_detections` count. Thresholds rise; where the first is below 0.5, pairs are found
    from there on. Raises `DataError` for unknown images or categories.
    """
    image = positions(detections.image_id, ground_truth.image_ids, what="detections", kind="image")
    category = positions(detections.category_id, ground_truth.category_ids, what="detections", kind="category")
    group = category * len(ground_truth.image_ids) + image
    rows = np.lexsort((image, -detections.scores, category))
    rank = _ranks(group[rows])
    rows, rank = rows[rank < max_detections], rank[rank < max_detections]
    lowest = min(iou_thresholds[0], IOU_THRESHOLDS[0])
    pair_detection, pair_object, pair_iou = _pairs(ground_truth, detections, rows, rank, group[rows], lowest)
    return Overlaps(
        ground_truth=ground_truth,
        detection_row=rows,
        image_index=image[rows],
        category_index=category[rows],
        score=detections.scores[rows],
        rank=rank,
        box=detections.boxes[rows],
        num_detections=len(detections),
        iou_thresholds=iou_thresholds,
        pair_detection=pair_detection,
        pair_object=pair_object,
        pair_iou=pair_iou,
    )


def _ranks(group: np.ndarray) -> np.ndarray:
    """How many earlier rows belong to the same group, for every row."""
    order = np.argsort(group, kind="stable")
    new = np.diff(group[order], prepend=-1) != 0
    start = np.maximum.accumulate(np.where(new, np.arange(len(group)), 0))
    ranks = np.empty(len(group), dtype=np.int64)
    ranks[order] = np.arange(len(group)) - start
    return ranks


def _pairs(
    ground_truth: GroundTruth,
    detections: Detections,
    rows: np.ndarray,
    rank: np.ndarray,
    group: np.ndarray,
    lowest: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of one image and category with IoU >= `lowest`: position among `rows`, object row, IoU."""
    object_group = ground_truth.category_index * len(ground_truth.image_ids) + ground_truth.image_index
    objects = np.argsort(object_group, kind="stable")
    start = np.searchsorted(object_group[objects], group, side="left")
    count = np.searchsorted(object_group[objects], group, side="right") - start
    parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for block in np.split(np.arange(len(rows)), _block_ends(count)):
        pair_row = np.repeat(block, count[block])
        offset = np.arange(len(pair_row)) - np.repeat(np.cumsum(count[block]) - count[block], count[block])
        pair_object = objects[start[pair_row] + offset]
        iou = _paired_iou(ground_truth, detections, pair_object, rows[pair_row])
        near = iou >= lowest
        parts.append((pair_row[near], pair_object[near], iou[near]))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.lexsort((columns[1], columns[0], rank[columns[0]]))
    return columns[0][order], columns[1][order], columns[2][order]


def _block_ends(count: np.ndarray) -> np.ndarray:
    """Where to cut so that no block of rows has many more than `_PAIRS_AT_ONCE` pairs."""
    return np.flatnonzero(np.diff(np.cumsum(count) // _PAIRS_AT_ONCE)) + 1


def _paired_iou(ground_truth: GroundTruth, detections: Detections, g: np.ndarray, d: np.ndarray) -> np.ndarray:
    """IoU of object g[i] with detection d[i]; for a crowd region, intersection over the detection's area.

    The operations and their order are those of pycocotools (`bbIou` in maskApi.c), so that results agree to the bit.
    """
    width, height = (_paired_extent(ground_truth.boxes, detections.boxes, g, d, axis) for axis in (0, 1))
    overlap = width
    overlap *= height
    area = detections.sizes.prod(axis=1)[d]
    union = area + ground_truth.sizes.prod(axis=1)[g]
    union -= overlap
    is_crowd = ground_truth.iscrowd[g]
    union[is_crowd] = area[is_crowd]
    return np.divide(overlap, union, out=np.zeros(len(g)), where=overlap > 0)


def _paired_extent(a: np.ndarray, b: np.ndarray, g: np.ndarray, d: np.ndarray, axis: int) -> np.ndarray:
    """How far box a[g[i]] and box b[d[i]] overlap along an axis, 0 where they do not."""
    extent = np.minimum(a[:, axis + 2][g], b[:, axis + 2][d])
    extent -= np.maximum(a[:, axis][g], b[:, axis][d])
    return np.maximum(extent, 0.0, out=extent)


def match(overlaps: Overlaps, subset: Subset | None = None) -> MatchTable:
    """Matches at all IoU thresholds, about the objects of `subset` (all when None); see `Subset` for the ignore rules.

    Raises `DataError` where a mask's length is not the number of objects or detections.
    """
    subset = _checked(subset, overlaps)
    ground_truth = overlaps.ground_truth
    object_ignored = ground_truth.iscrowd | ~subset.objects
    matched = _greedy(overlaps, object_ignored)
    found = matched >= 0
    takes_ignored = found & np.append(object_ignored, False)[matched]  # the appended entry answers -1
    outside = ~subset.detections[overlaps.detection_row]
    return MatchTable(
        iou_thresholds=overlaps.iou_thresholds,
        image_ids=ground_truth.image_ids,
        category_ids=ground_truth.category_ids,
        matched=matched,
        ignored=takes_ignored | (~found & outside),
        object_image=ground_truth.image_index,
        object_category=ground_truth.category_index,
        object_ignored=object_ignored,
        **{item.name: getattr(overlaps, item.name) for item in fields(Ranked)},
    )


def _checked(subset: Subset | None, overlaps: Overlaps) -> Subset:
    num_objects, num_detections = len(overlaps.ground_truth.boxes), overlaps.num_detections
    if subset is None:
        return Subset(objects=np.ones(num_objects, bool), detections=np.ones(num_detections, bool))
    if len(subset.objects) != num_objects or len(subset.detections) != num_detections:
        raise DataError(
            f"subset masks {len(subset.objects)} objects and {len(subset.detections)} detections, but there are "
            f"{num_objects} and {num_detections}; give one flag per row of the ground truth and of the detections"
        )
    return subset


def _greedy(overlaps: Overlaps, object_ignored: np.ndarray) -> np.ndarray:
    """The object that each detection takes, [T, E], -1 for none.

    Detections of different images or categories never compete, so the first ones of all groups choose together, then
    the second ones, and so on: at most 100 rounds of array work, however many images there are.
    """
    crowd, thresholds = overlaps.ground_truth.iscrowd, overlaps.iou_thresholds
    matched = np.full((len(thresholds), len(overlaps.score)), -1, dtype=np.int32)
    free = np.ones((len(thresholds), len(object_ignored)), dtype=bool)
    ends = np.flatnonzero(np.diff(overlaps.rank[overlaps.pair_detection], append=-1)) + 1
    is_first = np.diff(overlaps.pair_detection, prepend=-1) != 0
    for start, end in pairwise([0, *ends.tolist()]):
        objects, detections = overlaps.pair_object[start:end], overlaps.pair_detection[start:end]
        iou = overlaps.pair_iou[start:end]
        available = (iou >= thresholds[:, None]) & (free[:, objects] | crowd[objects])
        first = np.flatnonzero(is_first[start:end])
        winner = _choose(iou, available, object_ignored[objects], first)
        threshold, which = np.nonzero(winner >= 0)
        taken = objects[winner[threshold, which]]
        matched[threshold, detections[first[which]]] = taken
        free[threshold, taken] = False
    return matched


def _choose(iou: np.ndarray, available: np.ndarray, ignored: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Each detection's best available pair, [T, detections], -1 for none; `first` is where its pairs begin."""
    num_pairs = np.append(first[1:], len(iou)) - first
    winner = np.where(available[:, first], first, -1)
    several = num_pairs > 1
    if several.any():
        pairs = np.flatnonzero(np.repeat(several, num_pairs))
        starts = np.cumsum(num_pairs[several]) - num_pairs[several]
        best = _choose_of_several(iou[pairs], available[:, pairs], ignored[pairs], starts)
        winner[:, several] = np.where(best >= 0, pairs[best], -1)
    return winner


def _choose_of_several(iou: np.ndarray, available: np.ndarray, ignored: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Counting objects come before ignored ones whatever their IoU; of equal IoUs the last wins."""
    owner = np.repeat(np.arange(len(first)), np.append(first[1:], len(iou)) - first)
    counting = available & ~ignored
    has_counting = np.logical_or.reduceat(counting, first, axis=1)[:, owner]
    candidates = np.where(has_counting, counting, available)
    value = np.where(candidates, iou, -1.0)
    is_best = candidates & (value == np.maximum.reduceat(value, first, axis=1)[:, owner])
    return np.maximum.reduceat(np.where(is_best, np.arange(len(iou)), -1), first, axis=1)
