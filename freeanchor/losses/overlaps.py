"""Which boxes overlap which objects most, or enough: exact, with most of objects x boxes never looked at.

Boxes come in chunks of successive ones, which for anchors and for what a network makes of them lie side by side and are
of few sizes. From a chunk's hull and its smallest and largest area follows a bound of every IoU in it. Only chunks
whose bound is high enough are looked at, box by box. Nothing here has a gradient.

    chunks = chunked_predictions(deltas, anchors)
    found = places_where(chunks_above(chunks, gt_boxes, image_of_object, 0.6))[0]
    objects, boxes, iou = pairs_above(chunks, gt_boxes, image_of_object, found, 0.6)
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from freeanchor.boxes import box_area, decode_corners, ious_by_objects, paired_iou
from freeanchor.losses import focal
from freeanchor.losses.targets import LARGEST_COORDINATE

CHUNK = 64  # boxes
SLACK = 1e-4  # of a bound: many times what float32 rounds off
MORE_CHUNKS = 78  # beyond a bag's size: where the boxes of highest IoU surely are, but for odd objects
PAIRS_AT_A_TIME = 2**17  # float32 buffers of 512 KiB stay in a core's cache
PAIRS_ON_ACCELERATOR = 2**24


class Chunks(NamedTuple):
    """Boxes [B, A, 4] of B images in chunks, the last of each image filled up with copies of its last box."""

    boxes: Float[Tensor, "B C 4 n"]
    hulls: Float[Tensor, "4 B C"]
    smallest: Float[Tensor, "B C"]
    largest: Float[Tensor, "B C"]
    num_boxes: int


def chunked(boxes: Float[Tensor, "B A 4"]) -> Chunks:
    """The chunks of each image's boxes, of at least one."""
    return _with_bounds(_rows(boxes), boxes.shape[1])


@torch.no_grad()
def chunked_predictions(deltas: Float[Tensor, "B A 4"], anchors: Float[Tensor, "A 4"]) -> Chunks:
    """The chunks of what the deltas make of the anchors; huge boxes are cut where areas are still finite.

    Infinite ones would overlap as NaN.
    """
    rows, own = _rows(deltas), _rows(anchors[None])
    boxes = torch.cat(decode_corners(rows[:, :, :2], rows[:, :, 2:], own[:, :, :2], own[:, :, 2:]), dim=2)
    return _with_bounds(boxes.clamp_(-LARGEST_COORDINATE, LARGEST_COORDINATE), len(anchors))


def _rows(boxes: Tensor) -> Tensor:
    """Boxes [B, A, 4] as [B, C, 4, n]: each coordinate in a row of its own is read faster than every fourth number."""
    images, count = boxes.shape[:2]
    filling = boxes[:, -1:].expand(-1, -count % CHUNK, -1)
    whole = torch.cat([boxes, filling], dim=1) if count % CHUNK else boxes
    return whole.reshape(images, -1, CHUNK, 4).transpose(2, 3).contiguous()


def _with_bounds(rows: Tensor, num_boxes: int) -> Chunks:
    areas = box_area(rows.transpose(2, 3))
    hulls = torch.cat([rows[:, :, :2].amin(dim=3), rows[:, :, 2:].amax(dim=3)], dim=2).permute(2, 0, 1).contiguous()
    return Chunks(rows, hulls, areas.amin(dim=2), areas.amax(dim=2), num_boxes)


def _bounds(chunks: Chunks, gt_boxes: Tensor, images: Tensor | None) -> Tensor:
    """No IoU of an object [G] with a box of a chunk [C] is above this; of each object's own image."""

    def own(values: Tensor) -> Tensor:
        return values[0] if images is None else values[images]

    x1, y1, x2, y2 = gt_boxes[:, :, None].unbind(dim=1)
    width = torch.minimum(own(chunks.hulls[2]), x2).sub_(torch.maximum(own(chunks.hulls[0]), x1)).clamp_(min=0)
    height = torch.minimum(own(chunks.hulls[3]), y2).sub_(torch.maximum(own(chunks.hulls[1]), y1)).clamp_(min=0)
    shared = torch.minimum(width.mul_(height), own(chunks.largest))
    # IoU rises with what is shared and falls with the box's area, which is at least both of these.
    union = torch.maximum(shared, own(chunks.smallest)).add_(box_area(gt_boxes)[:, None]).sub_(shared)
    return shared.div_(union.clamp_(min=torch.finfo(union.dtype).tiny)).mul_(1 + SLACK)


@torch.no_grad()
def chunks_above(
    chunks: Chunks, gt_boxes: Float[Tensor, "G 4"], images: Int[Tensor, "G"], threshold: float
) -> Bool[Tensor, "G C"]:
    """The chunks of each object's own image that may hold a box with an IoU above the threshold."""
    return ~(_bounds(chunks, gt_boxes, images) <= threshold)  # NaN of a box leaves its chunk in


@torch.no_grad()
def pairs_above(
    chunks: Chunks, gt_boxes: Float[Tensor, "G 4"], images: Int[Tensor, "G"], found: Int[Tensor, "P"], threshold: float
) -> tuple[Int[Tensor, "Q"], Int[Tensor, "Q"], Float[Tensor, "Q"]]:
    """Object, box (counted through the batch) and IoU of the pairs above the threshold, in no certain order.

    `found` are places in the flattened result of `chunks_above`. On an asynchronous device all pairs of these chunks
    come back, those not above the threshold with IoU 0. A pair may come more than once.
    """
    num_chunks = chunks.boxes.shape[1]
    is_static = focal.is_asynchronous(gt_boxes.device)
    parts = found.split(max(1, (PAIRS_ON_ACCELERATOR if is_static else PAIRS_AT_A_TIME) // CHUNK))
    pairs = []
    for part in parts:
        objects, own = part // num_chunks, part % num_chunks
        iou = paired_iou(gt_boxes[objects, None], chunks.boxes[images[objects], own].transpose(1, 2))
        boxes = (own[:, None] * CHUNK + torch.arange(CHUNK, device=own.device)).clamp_(max=chunks.num_boxes - 1)
        boxes += (images[objects] * chunks.num_boxes)[:, None]
        is_above = iou > threshold
        if is_static:
            pairs.append((objects.repeat_interleave(CHUNK), boxes.flatten(), (iou * is_above).flatten()))
        else:
            rows, columns = is_above.nonzero(as_tuple=True)
            pairs.append((objects[rows], boxes[rows, columns], iou[rows, columns]))
    if not pairs:
        return found, found, gt_boxes.new_empty(0)
    objects, boxes, iou = (torch.cat(own) for own in zip(*pairs, strict=True))
    return objects, boxes, iou


@torch.no_grad()
def likely_nearest(
    chunks: Chunks, gt_boxes: Float[Tensor, "G 4"], size: int
) -> tuple[Int[Tensor, "G n"], Bool[Tensor, "G"]]:
    """The `size` boxes of highest IoU with each object, best first; and the objects for which this is not certain.

    `chunks` are of one image. On a CPU none is certain: anchors inside of an object tie, as do those around it, and
    which of them `topk` takes depends on all that it is given.
    """
    num_chunks = chunks.boxes.shape[1]
    bags = torch.empty(len(gt_boxes), size, dtype=torch.int64, device=gt_boxes.device)
    if num_chunks <= size + MORE_CHUNKS or not focal.is_asynchronous(gt_boxes.device):
        return bags, torch.ones(len(gt_boxes), dtype=torch.bool, device=gt_boxes.device)
    bounds, nearby = _bounds(chunks, gt_boxes, None).topk(size + MORE_CHUNKS + 1, dim=1)
    step = max(1, PAIRS_ON_ACCELERATOR // (CHUNK * (size + MORE_CHUNKS)))
    unsure = []
    for first in range(0, len(gt_boxes), step):
        own = nearby[first : first + step, :-1]
        near = chunks.boxes[0][own].transpose(2, 3)
        iou = paired_iou(gt_boxes[first : first + step, None, None], near)
        boxes = own[:, :, None] * CHUNK + torch.arange(CHUNK, device=own.device)
        iou = iou.masked_fill_(boxes >= chunks.num_boxes, -1).flatten(1)
        best = iou.topk(size, dim=1)
        bags[first : first + step] = boxes.flatten(1).gather(1, best.indices)
        unsure.append(~(bounds[first : first + step, -1] <= best.values[:, -1]))
    return bags, torch.cat(unsure) if unsure else bags.new_empty(0, dtype=torch.bool)


def settle(bags: Int[Tensor, "G n"], unsure: Int[Tensor, "U"], boxes: Float[Tensor, "A 4"], gt_boxes: Tensor) -> None:
    """Fill in the bags of objects that were not certain, from all boxes."""
    for first, iou in ious_by_objects(gt_boxes[unsure], boxes):
        bags[unsure[first : first + len(iou)]] = iou.topk(bags.shape[1], dim=1).indices


def nearest(boxes: Float[Tensor, "A 4"], gt_boxes: Float[Tensor, "G 4"], size: int) -> Int[Tensor, "G n"]:
    """Indices of the `size` boxes of highest IoU with each object, best first; all boxes where there are fewer."""
    size = min(size, len(boxes))
    if not len(gt_boxes) or not size:
        return torch.empty(len(gt_boxes), size, dtype=torch.int64, device=boxes.device)
    bags, is_unsure = likely_nearest(chunked(boxes[None]), gt_boxes, size)
    settle(bags, focal.places_where(is_unsure)[0], boxes, gt_boxes)
    return bags
