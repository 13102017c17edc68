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
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from analysis.coco.columns import Detections, GroundTruth, box_areas, positions
from analysis.coco.match_parts import MatchedDetections
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
class Ranking:
    """Which detections count, E of the D given, in an order of their own."""

    detection_row: Int[np.ndarray, " E"]  # row in the `Detections` given
    image_index: Int[np.ndarray, " E"]  # position in the ground truth's image_ids
    category_index: Int[np.ndarray, " E"]  # position in its category_ids
    score: Float[np.ndarray, " E"]


@dataclass(frozen=True, kw_only=True)
class Ranked(Ranking):
    """The order is by category, then score, best first; ties by image, then by row."""

    rank: Int[np.ndarray, " E"]  # 0 for the best of its image and category


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

    @cached_property
    def object_group(self) -> Int[np.ndarray, " G"]:
        """Which objects share image and category: a number that is theirs, from 0."""
        ground_truth = self.ground_truth
        group = ground_truth.category_index * len(ground_truth.image_ids) + ground_truth.image_index
        return np.unique(group, return_inverse=True)[1]

    @cached_property
    def could_match(self) -> Int[np.ndarray, " _"]:
        """The detections that have a pair; all others match nothing."""
        has_pair = np.zeros(len(self.score), dtype=bool)
        has_pair[self.pair_detection] = True
        return np.flatnonzero(has_pair)

    @cached_property
    def matched_all(self) -> Int[np.ndarray, "T E"]:
        """The object that each detection takes where all but crowd regions count, -1 for none."""
        matched = np.full((len(self.iou_thresholds), len(self.score)), -1, dtype=np.int32)
        _greedy(self, self.ground_truth.iscrowd, np.arange(len(self.pair_object)), matched)
        return matched


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

    @cached_property
    def always_ignored(self) -> Bool[np.ndarray, " E"]:
        """Which detections count at no threshold."""
        return np.asarray(self.ignored.all(axis=0))

    @cached_property
    def told_apart(self) -> Int[np.ndarray, " _"]:
        """The detections that match something, or that count at some thresholds alone; others are wrong or ignored."""
        return np.flatnonzero((self.matched >= 0).any(axis=0) | (self.ignored.any(axis=0) & ~self.always_ignored))

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
    narrow_image, narrow_category = _narrow(image), _narrow(category)
    rows = np.lexsort((narrow_image, -detections.scores, narrow_category))
    rank = _ranks(narrow_image[rows], narrow_category[rows])
    rows, rank = rows[rank < max_detections], rank[rank < max_detections]
    group = category[rows] * len(ground_truth.image_ids) + image[rows]
    lowest = min(iou_thresholds[0], IOU_THRESHOLDS[0])
    if isinstance(detections, MatchedDetections):
        _check_stored(detections, max_detections, lowest)
        pair_detection, pair_object, pair_iou = _stored_pairs(ground_truth, detections, rows, rank)
    else:
        pair_detection, pair_object, pair_iou = _pairs(ground_truth, detections, rows, rank, group, lowest)
    return Overlaps(
        ground_truth=ground_truth,
        detection_row=rows.astype(np.int32),
        image_index=image[rows],
        category_index=category[rows].astype(np.int32),
        score=detections.scores[rows],
        rank=rank,
        num_detections=len(detections),
        iou_thresholds=iou_thresholds,
        pair_detection=pair_detection,
        pair_object=pair_object,
        pair_iou=pair_iou,
    )


def _narrow(index: np.ndarray) -> np.ndarray:
    """The same numbers from 0 in 16 bits where they fit, which numpy sorts several times as fast."""
    return index.astype(np.uint16) if index.max(initial=0) < 2**16 else index


def _ranks(image: np.ndarray, category: np.ndarray) -> np.ndarray:
    """How many earlier rows are of the same image and category, for every row."""
    order = np.lexsort((image, category))
    image, category = image[order], category[order]
    is_new = np.append(True, (image[1:] != image[:-1]) | (category[1:] != category[:-1]))[: len(order)]
    start = np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = np.arange(len(order)) - start
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
    for block in np.split(np.arange(len(rows)), block_ends(count)):
        pair_row = np.repeat(block, count[block])
        offset = np.arange(len(pair_row)) - np.repeat(np.cumsum(count[block]) - count[block], count[block])
        pair_object = objects[start[pair_row] + offset]
        iou = paired_iou(ground_truth, detections, pair_object, rows[pair_row])
        near = iou >= lowest
        parts.append((pair_row[near], pair_object[near], iou[near]))
    return _in_order(rank, *(np.concatenate(column) for column in zip(*parts, strict=True)))


def _check_stored(detections: MatchedDetections, max_detections: int, lowest: float) -> None:
    if max_detections > detections.max_detections or lowest < detections.lowest_iou:
        raise DataError(
            f"parts hold the best {detections.max_detections} detections of an image and category and pairs of IoU "
            f"{detections.lowest_iou} or more, but {max_detections} and {lowest} were asked for; give the detections"
        )


def _stored_pairs(
    ground_truth: GroundTruth, detections: MatchedDetections, rows: np.ndarray, rank: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same of detections that were matched before; pairs of detections that do not count are left out."""
    place = np.full(len(detections), -1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    order = np.argsort(ground_truth.annotation_id)
    pair_object = order[np.searchsorted(ground_truth.annotation_id[order], detections.pair_annotation)]
    pair_row = place[detections.pair_detection]
    counts = pair_row >= 0
    return _in_order(rank, pair_row[counts], pair_object[counts], detections.pair_iou[counts])


def _in_order(
    rank: np.ndarray, pair_row: np.ndarray, pair_object: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.lexsort((pair_object, pair_row, rank[pair_row]))
    return pair_row[order], pair_object[order], iou[order]


def block_ends(count: np.ndarray) -> np.ndarray:
    """Where to cut so that no block of rows has many more than `_PAIRS_AT_ONCE` pairs."""
    return np.flatnonzero(np.diff(np.cumsum(count) // _PAIRS_AT_ONCE)) + 1


def paired_iou(
    ground_truth: GroundTruth, detections: Detections, g: Int[np.ndarray, " P"], d: Int[np.ndarray, " P"]
) -> Float[np.ndarray, " P"]:
    """IoU of object g[i] with detection d[i]; for a crowd region, intersection over the detection's area.

    The operations and their order are those of pycocotools (`bbIou` in maskApi.c), so that results agree to the bit.
    """
    width, height = (_paired_extent(ground_truth.boxes, detections.boxes, g, d, axis) for axis in (0, 1))
    overlap = width
    overlap *= height
    area = box_areas(detections.sizes[d])
    union = area + box_areas(ground_truth.sizes[g])
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
    matched = _matched(overlaps, object_ignored)
    outside = ~subset.detections[overlaps.detection_row]
    ignored = np.tile(outside, (len(overlaps.iou_thresholds), 1))
    could = overlaps.could_match
    taken = matched[:, could]
    ignored[:, could] = np.where(taken >= 0, object_ignored[taken], outside[could])
    return MatchTable(
        iou_thresholds=overlaps.iou_thresholds,
        image_ids=ground_truth.image_ids,
        category_ids=ground_truth.category_ids,
        matched=matched,
        ignored=ignored,
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


def _matched(overlaps: Overlaps, object_ignored: np.ndarray) -> np.ndarray:
    """The object that each detection takes, [T, E], -1 for none.

    Flags of objects decide between objects of one image and category alone. Where those are all the same, they decide
    nothing, and the matches are those of all objects; only the others are matched anew.
    """
    crowd, group = overlaps.ground_truth.iscrowd, overlaps.object_group
    if np.array_equal(object_ignored, crowd):
        return overlaps.matched_all
    is_mixed = [_mixed(flags, group) for flags in (object_ignored, crowd)]
    differs = np.bincount(group, object_ignored != crowd, minlength=len(is_mixed[0])) > 0
    anew = (differs & (is_mixed[0] | is_mixed[1]))[group[overlaps.pair_object]]
    matched = overlaps.matched_all.copy()
    matched[:, overlaps.pair_detection[anew]] = -1
    _greedy(overlaps, object_ignored, np.flatnonzero(anew), matched)
    return matched


def _mixed(flags: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Which groups have both a set flag and one that is not."""
    num_set = np.bincount(group, flags)
    return (num_set > 0) & (num_set < np.bincount(group))


def _greedy(overlaps: Overlaps, object_ignored: np.ndarray, pairs: np.ndarray, matched: np.ndarray) -> None:
    """Fills in the object that each detection takes of the `pairs` that there are.

    Detections of different images or categories never compete, so the first ones of all groups choose together, then
    the second ones, and so on: at most 100 rounds of array work, however many images there are.
    """
    crowd, thresholds = overlaps.ground_truth.iscrowd, overlaps.iou_thresholds
    pair_object, pair_detection, pair_iou = (
        column[pairs] for column in (overlaps.pair_object, overlaps.pair_detection, overlaps.pair_iou)
    )
    free = np.ones((len(thresholds), len(object_ignored)), dtype=bool)
    ends = np.flatnonzero(np.diff(overlaps.rank[pair_detection], append=-1)) + 1
    is_first = np.diff(pair_detection, prepend=-1) != 0
    for start, end in pairwise([0, *ends.tolist()]):
        objects, detections, iou = pair_object[start:end], pair_detection[start:end], pair_iou[start:end]
        available = (iou >= thresholds[:, None]) & (free[:, objects] | crowd[objects])
        first = np.flatnonzero(is_first[start:end])
        winner = _choose(iou, available, object_ignored[objects], first)
        threshold, which = np.nonzero(winner >= 0)
        taken = objects[winner[threshold, which]]
        matched[threshold, detections[first[which]]] = taken
        free[threshold, taken] = False


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
