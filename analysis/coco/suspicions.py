"""Boxes, areas and flags that hardly mean what COCO's format says: one line for each suspicion, nothing is refused.

    for line in detection_suspicions(detections, ground_truth):
        print(line)

A suspicion is about a file as a whole: many boxes contradict COCO's reading, [x, y, width, height] in pixels of the
image as listed, and nearly all agree with another one. A few odd boxes raise none.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from analysis.coco.columns import COUNTED_AREA, Detections, GroundTruth, bbox_of, box_areas, corners

NEARLY_ALL, MANY, A_QUARTER = 0.95, 0.05, 0.25  # shares of the rows
FRACTION = 1.5  # the largest coordinate of boxes in fractions: 1, or a little more where they leave their image
SLACK = 1.0, 0.02  # px, and share of the image's side, that boxes leave their image by unsuspected
# Keys by which other formats and tools mark objects that do not count; pycocotools goes by `iscrowd` alone.
FLAGS = ("ignore", "ignored", "difficult", "isDifficult", "crowd", "is_crowd", "isCrowd", "isGroupOf")


def ground_truth_suspicions(
    ground_truth: GroundTruth, annotations: Sequence[Mapping[str, Any]], area: str
) -> Iterator[str]:
    """What is suspected of the objects; `annotations` are the same rows as the file has them."""
    yield from _of_boxes(ground_truth, ground_truth.image_sizes[ground_truth.image_index])
    if area == "annotation":
        yield from _of_areas(ground_truth.area, box_areas(ground_truth.sizes))
    flags = Counter(key for item in annotations for key in FLAGS if item.get(key) and not item.get("iscrowd"))
    for key, count in flags.items():
        yield (
            f'{count:,} of {len(annotations):,} annotations have "{key}" set, which means nothing in COCO\'s format: '
            'they count like all others, as in pycocotools; set "iscrowd" to 1 where they are not to count'
        )
    yield from _of_size(ground_truth.area, "objects", "they do not count")


def detection_suspicions(detections: Detections, ground_truth: GroundTruth | None) -> Iterator[str]:
    """What is suspected of the detections; how they lie in their images only where there is a ground truth."""
    if not len(detections):
        return
    low, high = detections.scores.min(), detections.scores.max()
    if low < 0 or high > 1:
        yield f"scores reach from {low:g} to {high:g}, not from 0 to 1; AP takes their order alone"
    image_sizes = np.full((len(detections), 2), np.nan)
    if ground_truth is not None:
        image_sizes = ground_truth.image_sizes[np.searchsorted(ground_truth.image_ids, detections.image_id)]
    yield from _of_boxes(detections, image_sizes)
    yield from _of_size(box_areas(detections.sizes), "detections", "those that match nothing do not count as wrong")


def _of_boxes(rows: GroundTruth | Detections, image_sizes: Float[np.ndarray, "M 2"]) -> Iterator[str]:
    """One line at most; `image_sizes` (nan where unknown) are those of each row's image."""
    bbox = bbox_of(rows)
    if _are_fractions(bbox, image_sizes):
        yield f"boxes reach from {bbox.min():.3g} to {bbox.max():.3g}: are they fractions? COCO's are in pixels"
        return
    leaves = ~_fits(rows.boxes, image_sizes)
    if leaves.sum() < 2 or leaves.mean() < MANY:
        return
    what = f"{int(leaves.sum()):,} of {len(bbox):,} boxes leave their image"
    for reading, boxes in _other_readings(bbox):
        if _fits(boxes, image_sizes).mean() >= NEARLY_ALL:
            yield f"{what} as [x, y, width, height], and nearly all fit as {reading}: is that what they are?"
            return
    if leaves.mean() >= A_QUARTER:
        yield f"{what}: are they in pixels of the images as the ground truth lists them?"


def _are_fractions(bbox: np.ndarray, image_sizes: np.ndarray) -> bool:
    """Whether boxes are too small and too uneven to be in pixels, in images that are larger."""
    if not len(bbox) or np.median(bbox[:, 2:]) > FRACTION:  # soon said of pixels
        return False
    is_small = (np.abs(bbox) <= FRACTION).all(axis=1) & ~(image_sizes <= 2 * FRACTION).any(axis=1)
    return bool(is_small.mean() >= NEARLY_ALL and (bbox % 1).any())


def _other_readings(bbox: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What boxes may be in the place of COCO's, and their corners then."""
    yield "[x1, y1, x2, y2]", bbox
    yield "[centre x, centre y, width, height]", corners(np.hstack([bbox[:, :2] - bbox[:, 2:] / 2, bbox[:, 2:]]))
    swapped = bbox[:, [1, 0, 3, 2]]
    yield "[y, x, height, width] (or with the images' width and height exchanged)", corners(swapped)
    yield "[y1, x1, y2, x2]", swapped


def _fits(boxes: np.ndarray, image_sizes: np.ndarray) -> Bool[np.ndarray, " M"]:
    """Which boxes, by their corners, lie in their image, as far as its size is known."""
    slack = SLACK[0] + SLACK[1] * image_sizes
    outside = (boxes[:, :2] < -slack) | (boxes[:, 2:] > image_sizes + slack) | (boxes[:, 2:] < boxes[:, :2])
    return ~(outside[:, 0] | outside[:, 1])


def _of_areas(area: np.ndarray, box_area: np.ndarray) -> Iterator[str]:
    """Areas larger than the box, or next to nothing of nearly all boxes; a mask fills a part of its box."""
    if not len(area):
        return
    is_beyond, is_nothing = area > 1.1 * box_area + 1, area < 0.02 * box_area
    for contradicts, share in ((is_beyond, MANY), (is_nothing, NEARLY_ALL)):
        if contradicts.sum() >= min(2, len(area)) and contradicts.mean() >= share:
            row = np.flatnonzero(contradicts)[0]
            yield (
                f'{int(contradicts.sum()):,} of {len(area):,} annotations have an "area" that their box contradicts, '
                f"{area[row]:g} and {box_area[row]:g} square pixels for one: small, medium and large go by it; "
                "--area box goes by the box"
            )


def _of_size(areas: np.ndarray, what: str, consequence: str) -> Iterator[str]:
    if count := int((areas > COUNTED_AREA).sum()):
        yield f"{count:,} {what} are larger than {COUNTED_AREA:g} square pixels: {consequence}, as in pycocotools"
