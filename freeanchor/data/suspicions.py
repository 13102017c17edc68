"""What is possible in the json of a split and most likely wrong: boxes in another unit or order, areas of other boxes.

So are fields that change what an annotation means where other programs read them, and that COCO's format has not.

Nothing here is refused: a warning names the suspicion, and what was counted. The check of a folder and
the reader of a split tell the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from freeanchor.errors import Problem

PIXEL = 1.0  # by which a box may leave its image unnoticed
MOST = 0.99  # of all boxes, for what can only be so everywhere
FEW = 0.1  # of all boxes, for what would be an oddity here and there
MANY = 20  # boxes before their common limit tells a unit
UNITS = ((100, "percent"), (1000, "thousandths"))
TINY, LARGE = 0.02, 1.2  # of the box's area, for an area that no mask in it has
KINDS = (
    "boxes in fractions",
    "boxes in other units",
    "boxes by corners",
    "boxes by centres",
    "sides swapped",
    "areas of other boxes",
)
DRAWN = "freeanchor shapes"  # the description by which a json shows that it was drawn here
PASSED_OVER = "fields that are passed over"
NO: tuple[Any, ...] = (None, 0, "", "0", "false", "no", [])
XYWH = (None, 1, "1", "xywh", "xywh_abs", "coco")
AS_ANY = "it is learned and counted as any, as in pycocotools: give it iscrowd 1 to have it ignored"
# Fields of annotations by what they mean elsewhere, where they are set; of images in LVIS's files.
FLAGS = ("ignore", "ignored", "difficult", "is_crowd", "isCrowd", "crowd", "is_group_of", "isfake", "deleted")
TURNS = ("rotation", "angle", "theta")
ORDERS = ("bbox_mode", "bbox_format")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """The boxes with an area of a split, crowd regions left out: all [N, …].

    `boxes` are x, y, width, height, `sizes` (width, height) of their images, `areas` what the json says, NaN where it
    says none, `has_mask` whether an area may be a mask's.
    """

    boxes: Float[np.ndarray, "N 4"]
    sizes: Float[np.ndarray, "N 2"]
    areas: Float[np.ndarray, " N"]
    has_mask: Bool[np.ndarray, " N"]


def suspicions(found: Boxes, where: str) -> Iterator[Problem]:
    """What the boxes of a split make suspicious, one warning a kind; areas only where the boxes seem right."""
    is_suspect = False
    for kind, (count, what, remedy) in zip(KINDS, _findings(found) if len(found.boxes) else (), strict=False):
        if count and not (is_suspect and kind == KINDS[-1]):
            is_suspect = True
            yield Problem.warning(kind, where, f"{count:,} of {len(found.boxes):,} {what}", remedy)


def _findings(found: Boxes) -> Sequence[tuple[int, str, str]]:
    """How many boxes are suspicious of each of the KINDS, 0 for no suspicion; the words and the remedy."""
    boxes, sizes = found.boxes, found.sizes
    ends = boxes[:, :2] + boxes[:, 2:]
    is_fraction = (np.abs(boxes).max(axis=1) <= 1) & (boxes != np.round(boxes)).any(axis=1) & (sizes.min(axis=1) > 2)
    unit, unit_name = _unit(ends, sizes)
    return (
        (
            int(is_fraction.sum()),
            "boxes have no number above 1",
            "are they fractions of its sides? give pixels",
        ),
        (len(boxes) if unit else 0, f"boxes end at {unit} or before, in larger images", f"in {unit_name}? give pixels"),
        (
            _num_leaving(
                ends,
                sizes,
                _fit(boxes[:, :2], boxes[:, 2:], sizes) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1),
            ),
            "boxes leave their image, and all would fit as corners",
            "are they [x1, y1, x2, y2]? give [x, y, width, height]",
        ),
        (
            _num_leaving(ends, sizes, _fit(boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2, sizes)),
            "boxes leave their image, and all would fit around their corner",
            "are they [centre x, centre y, width, height]? give the left and upper edge",
        ),
        (
            _num_leaving(ends, sizes, _fit(boxes[:, :2], ends, sizes[:, ::-1])),
            "boxes leave their image, and all would fit with its sides swapped",
            "are width and height swapped, or x and y? see that the json says them in their order",
        ),
        (
            _num_areas(found),
            "annotations have an area that their box contradicts",
            "evaluation tells small from large objects by it: correct it, or leave it out for the box's",
        ),
    )


def _unit(ends: np.ndarray, sizes: np.ndarray) -> tuple[int, str]:
    """The unit that ends all boxes far before their images do, and is nearly reached in both directions."""
    for limit, name in UNITS:
        reach = ends.max(axis=0)
        if len(ends) >= MANY and 0.9 * limit < reach.min() and reach.max() <= limit and sizes.min() > 1.5 * limit:
            return limit, name
    return 0, ""


def _fit(starts: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes, of these corners, lie inside images of these sizes."""
    return np.logical_and(*((starts >= -PIXEL) & (ends <= sizes + PIXEL)).T)


def _num_leaving(ends: np.ndarray, sizes: np.ndarray, would_fit: np.ndarray) -> int:
    """How many boxes leave their image, if these are many and all would fit if read otherwise."""
    count = int((ends > sizes + PIXEL).any(axis=1).sum())
    return count if would_fit.mean() >= MOST and count >= FEW * len(ends) else 0


def _num_areas(found: Boxes) -> int:
    """Areas beyond their box, or, without a mask, of a hundredth of it; or all the same for boxes that differ."""
    own = found.boxes[:, 2] * found.boxes[:, 3]
    is_said = ~np.isnan(found.areas)
    areas, own, has_mask = found.areas[is_said], own[is_said], found.has_mask[is_said]
    if len(areas) > 1 and np.ptp(areas) == 0 and np.ptp(own) > PIXEL:
        return int((np.abs(areas - own) > PIXEL).sum())
    differ = (areas > LARGE * own + PIXEL) | ((areas < TINY * own) & ~has_mask)
    return int(differ.sum()) if differ.sum() >= FEW * len(areas) else 0


def is_drawn(content: Mapping[str, Any]) -> bool:
    """Whether a json says that it is one of `freeanchor data shapes`."""
    info = content.get("info")
    return isinstance(info, dict) and info.get("description") == DRAWN


def passed_over(
    images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], where: str
) -> Iterator[Problem]:
    """Fields that mean something to other programs and nothing here, one warning for each that is set somewhere."""
    singles = [item for item in annotations if not item.get("iscrowd")]
    for fields, items, name, remedy in (
        (FLAGS, singles, "annotations", AS_ANY),
        (TURNS, singles, "annotations", "boxes are upright here: give the box around the turned one"),
        (ORDERS, annotations, "annotations", "boxes are read as [x, y, width, height] in pixels: give them so"),
        (FEDERATED, images, "images", "what is not annotated counts as background, also where nobody looked for it"),
    ):
        for field in fields:
            if count := sum(_is_set(item, field) for item in items):
                yield Problem.warning(PASSED_OVER, where, f"{name} with {field}: {count:,} of {len(items):,}", remedy)


def _is_set(item: Mapping[str, Any], field: str) -> bool:
    """Whether a field, also one of CVAT's `attributes`, says what COCO's format does not."""
    attributes = item.get("attributes")
    value = item.get(field, attributes.get(field) if isinstance(attributes, dict) else None)
    value = value.strip().lower() if isinstance(value, str) else value
    return value not in (XYWH if field in ORDERS else NO)  # detectron2's mode 0 is that of corners
