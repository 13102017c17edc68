"""Box geometry: areas, overlaps and the coding of boxes as deltas to anchors.

Boxes are xyxy in continuous pixels everywhere inside, so a box's width is x2 - x1; `xyxy_to_xywh` converts for files.

    deltas = encode_boxes(gt_boxes, anchors)
    boxes = decode_boxes(deltas, anchors)
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SHIFT_WEIGHT, GROWTH_WEIGHT = 10.0, 5.0  # DEVIATION(D7): unstated in the paper; those of the authors' box coder
DELTA_WEIGHTS = (SHIFT_WEIGHT, SHIFT_WEIGHT, GROWTH_WEIGHT, GROWTH_WEIGHT)
IOUS_AT_A_TIME = 2**20  # float32 buffers of 4 MiB: memory stays small however many objects there are
IOUS_IN_CACHE = 2**17  # float32 buffers of 512 KiB, between which a core's cache keeps what is worked on
MAX_LOG_GROWTH = math.log(1000.0 / 16.0)  # a decoded side is at most 62.5 times its anchor's


def box_area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Area of every box in square pixels; 0 where a side is not positive."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


@torch.no_grad()
def _intersection_area(a: Tensor, b: Tensor) -> Tensor:
    # In place: a pass over memory already at hand costs half of one over fresh memory.
    width = torch.minimum(a[..., 2], b[..., 2]).sub_(torch.maximum(a[..., 0], b[..., 0])).clamp_(min=0)
    height = torch.minimum(a[..., 3], b[..., 3]).sub_(torch.maximum(a[..., 1], b[..., 1])).clamp_(min=0)
    return width.mul_(height)


@torch.no_grad()
def pairwise_iou(a: Float[Tensor, "N 4"], b: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Intersection over union of every box in `a` with every box in `b`; 0 where the union is empty. No gradient."""
    b = b.T.contiguous().T  # each coordinate in a row of its own: read faster than every fourth number
    return paired_iou(a[:, None], b[None])


@torch.no_grad()
def paired_iou(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N"]:
    """Intersection over union of boxes that stand at the same place; 0 where the union is empty. No gradient."""
    return _iou(a, b, box_area(b))


def _iou(a: Tensor, b: Tensor, area_of_b: Tensor) -> Tensor:
    shared = _intersection_area(a, b)
    union = (box_area(a) + area_of_b).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


@torch.no_grad()
def ious_by_objects(
    gt_boxes: Float[Tensor, "G 4"], boxes: Float[Tensor, "A 4"]
) -> Iterator[tuple[int, Float[Tensor, "_ A"]]]:
    """IoU of every object with every box, some objects at a time: the first one's index, and a row for each."""
    boxes = boxes.T.contiguous().T  # as `pairwise_iou` reads it, once for all
    step = max(1, IOUS_AT_A_TIME // max(1, len(boxes)))
    tile = max(1, IOUS_IN_CACHE // step) if boxes.device.type == "cpu" else max(1, len(boxes))
    parts = list(zip(boxes.split(tile), box_area(boxes).split(tile), strict=True))
    for own in objects_at_a_time(len(gt_boxes), len(boxes)):
        tiles = [_iou(gt_boxes[own, None], part[None], area[None]) for part, area in parts]
        yield own.start, torch.cat(tiles, dim=1)


def objects_at_a_time(num_objects: int, num_boxes: int) -> list[slice]:
    """Slices of the objects whose pairs with all boxes are about `IOUS_AT_A_TIME`."""
    step = max(1, IOUS_AT_A_TIME // max(1, num_boxes))
    return [slice(first, first + step) for first in range(0, num_objects, step)]


def box_centres(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 2"]:
    """Centres (x, y) of boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def are_inside(
    points: Float[Tensor, "*#N 2"], boxes: Float[Tensor, "*#N 4"], margin: float = 0.0
) -> Bool[Tensor, "*N"]:
    """Whether points lie inside the boxes at the same place, by more than `margin` pixels from each side."""
    return ((points - boxes[..., :2] > margin) & (boxes[..., 2:] - points > margin)).all(dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def encode_boxes(boxes: Float[Tensor, "*#N 4"], anchors: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) that take `anchors` to `boxes`, scaled by (10, 10, 5, 5); the inverse of `decode_boxes`.

    Sides below 1e-6 px are taken as 1e-6, so a box of no area has finite deltas.
    """
    box_centres, box_sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shift = (box_centres - anchor_centres) / anchor_sides
    growth = torch.log(box_sides.clamp(min=1e-6) / anchor_sides)
    # By numbers, not by a tensor: to bring one to a GPU waits for it.
    return torch.cat([shift * SHIFT_WEIGHT, growth * GROWTH_WEIGHT], dim=-1)


def decode_boxes(deltas: Float[Tensor, "*#N 4"], anchors: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*N 4"]:
    """Boxes that `deltas` make of `anchors`, not clipped to any image.

    Growth is clamped from above only, as in the authors' code (modeling/box_coder.py): a side is at most 62.5 times
    the anchor's.
    """
    return torch.cat(decode_corners(deltas[..., :2], deltas[..., 2:], anchors[..., :2], anchors[..., 2:]), dim=-1)


def decode_corners(shift: Tensor, growth: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """`decode_boxes` in halves: of deltas (dx, dy) and (dw, dh) and an anchor's two corners, the box's two corners.

    Whichever axis the two coordinates lie along.
    """
    sides = upper - lower
    centres = (lower + upper) / 2 + shift / SHIFT_WEIGHT * sides
    half = sides * torch.exp((growth / GROWTH_WEIGHT).clamp(max=MAX_LOG_GROWTH)) / 2
    return centres - half, centres + half


def clip_boxes(boxes: Float[Tensor, "*N 4"], height: float, width: float) -> Float[Tensor, "*N 4"]:
    """Boxes cut at the borders of an image of `height` by `width` pixels."""
    limit = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limit)


def xyxy_to_xywh(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """(x1, y1, x2, y2) to COCO files' (x, y, width, height)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)
