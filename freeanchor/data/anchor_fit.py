"""How anchors fit objects: the highest IoUs of each object, and its anchors of IoU 0.5 or more, without an image read.

Nothing but boxes and image sizes is needed, so a grid can be judged before any training. Only anchors near an object
are looked at: those of the most similar shapes, in a window of cells around it. Where the anchors left out might be
among its highest, more shapes and cells are looked at, so the result is that of all anchors.

    fit = anchor_fit([(640, 480, boxes)], InputConfig(short_side=224, max_long_side=336), AnchorConfig())
    fit.ious[:, 49]                     # IoU of each object's 50th anchor
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.anchors import AnchorConfig, cell_anchors, grid_sizes, level_strides, padded_size
from freeanchor.boxes import box_area
from freeanchor.data.coco import InputConfig
from freeanchor.data.images import resized_size

NUM_RANKS = 100  # the largest bag that the paper tries
FITTING_IOU = 0.5  # RetinaNet's foreground
Objects = tuple[int, int, Tensor]  # an image's width, height and boxes [G, 4] xyxy, in the file's pixels
_FIRST_SHAPES, _FIRST_CELLS = 12, 8  # rows and columns; most objects need no more
_IOUS_AT_A_TIME = 2**20
_SLACK = 1e-5  # what float32 makes of coordinates of a thousand pixels


@dataclass(frozen=True, kw_only=True)
class AnchorFit:
    """How one grid fits the objects of a data set, in the order of its images.

    `ious` are each object's `NUM_RANKS` highest, highest first, 0 where it overlaps fewer anchors; `num_fitting` counts
    its anchors of IoU 0.5 or more. `num_cells` and `num_pixels` are means over the images, padding included.
    """

    ious: Float[Tensor, "G R"]
    num_fitting: Int[Tensor, " G"]
    num_cells: float
    num_pixels: float


@dataclass(frozen=True, kw_only=True)
class _Levels:
    """What each level gives each object: cells as (rows, columns), strides as (vertical, horizontal) [G, L, 2]."""

    cells: Tensor
    strides: Tensor

    def of(self, objects: Tensor, levels: Tensor) -> "_Levels":
        """Those of some objects, one level for each [..., 2]."""
        return _Levels(cells=self.cells[objects, levels], strides=self.strides[objects, levels])


def anchor_fit(images: Sequence[Objects], inputs: InputConfig, anchors: AnchorConfig) -> AnchorFit:
    """The fit of `anchors` to the objects of `images`, resized as `inputs` says; IoUs in float32, ranks to 1e-5."""
    boxes, levels, num_pixels, num_cells = [torch.zeros(0, 4)], [], 0, 0
    for width, height, objects in images:
        w, h = resized_size(width, height, inputs.short_side, inputs.max_long_side, rule=inputs.resize)
        size = padded_size(h, w)
        cells = grid_sizes(anchors, *size)
        boxes.append(objects * torch.tensor([w / width, h / height] * 2))
        levels += [(cells, level_strides(anchors, cells, size))] * len(objects)
        num_pixels += size[0] * size[1]
        num_cells += sum(rows * columns for rows, columns in cells)
    found = torch.cat(boxes)
    of_objects = torch.tensor(levels, dtype=torch.int64).reshape(-1, 2, len(anchors.strides), 2)
    ious, num_fitting = _search(found, _Levels(cells=of_objects[:, 0], strides=of_objects[:, 1]), anchors)
    num_images = max(1, len(images))
    return AnchorFit(
        ious=ious, num_fitting=num_fitting, num_cells=num_cells / num_images, num_pixels=num_pixels / num_images
    )


def _search(boxes: Tensor, levels: _Levels, anchors: AnchorConfig) -> tuple[Tensor, Tensor]:
    """Highest IoUs [G, R] and fitting anchors [G] of each box: more shapes and cells until nothing is missed.

    A shape is one of the anchors of a level's cell.
    """
    shapes = torch.cat(cell_anchors(anchors))
    level_of = torch.arange(len(anchors.strides)).repeat_interleave(anchors.num_per_cell)
    sides = shapes[:, 2:] - shapes[:, :2]
    ious, num_fitting = torch.zeros(len(boxes), NUM_RANKS), torch.zeros(len(boxes), dtype=torch.int64)
    waiting, num_shapes, num_cells = torch.arange(len(boxes)), _FIRST_SHAPES, _FIRST_CELLS
    while len(waiting):
        num_shapes = min(num_shapes, len(shapes))
        missed = torch.zeros(len(waiting), dtype=torch.float64)
        for part in _parts(len(waiting), num_shapes * num_cells**2):
            rows = waiting[part]
            own = boxes[rows]
            extents = (own[:, 2:] - own[:, :2]).double()[:, None]
            bounds = _iou(extents, sides, torch.minimum(extents, sides)).topk(min(num_shapes + 1, len(shapes)), dim=1)
            chosen = bounds.indices[:, :num_shapes]
            near = levels.of(rows[:, None], level_of[chosen])
            found, beyond = _near_ious(own, shapes[chosen], near, anchors.centre_offset, num_cells)
            missed[part] = beyond if num_shapes == len(shapes) else beyond.maximum(bounds.values[:, num_shapes])
            best = found.topk(min(NUM_RANKS, found.shape[1]), dim=1).values
            ious[rows, : best.shape[1]] = best
            num_fitting[rows] = (found >= FITTING_IOU).sum(dim=1)
        # what was not looked at is neither above the last rank nor fitting
        done = (missed <= ious[waiting, -1] + _SLACK) & (missed < FITTING_IOU - _SLACK)
        waiting, num_shapes, num_cells = waiting[~done], 2 * num_shapes, num_cells * 3 // 2
    return ious, num_fitting


def _parts(total: int, size_of_one: int) -> Iterator[slice]:
    step = max(1, _IOUS_AT_A_TIME // size_of_one)
    return (slice(first, first + step) for first in range(0, total, step))


def _iou(own: Tensor, sides: Tensor, shared: Tensor) -> Tensor:
    """The IoU of a box with sides `own` and an anchor with `sides` that have `shared` sides in common."""
    common = shared.prod(dim=-1)
    return common / (own.prod(dim=-1) + sides.prod(dim=-1) - common)


def _near_ious(boxes: Tensor, shapes: Tensor, levels: _Levels, offset: float, num_cells: int) -> tuple[Tensor, Tensor]:
    """IoUs of boxes [G, 4] with the shapes [G, S, 4] of the nearest cells, and the highest beyond those [G].

    The nearest are `num_cells` rows by as many columns. Arithmetic is that of `pairwise_iou` on `grid_anchors`.
    """
    shared, extents, beyond = [], [], []
    for axis in (0, 1):  # x, y
        stride, count = levels.strides[..., 1 - axis].double(), levels.cells[..., 1 - axis]
        low, high = boxes[:, None, axis], boxes[:, None, axis + 2]
        place = (low.double() + high) / 2 / stride - offset
        first = (place - (num_cells - 1) / 2).round().long().minimum(count - num_cells).clamp(min=0)
        cells = first[..., None] + torch.arange(num_cells)
        middle = (cells + offset) * stride[..., None]
        start, end = ((middle + shapes[..., side, None]).float() for side in (axis, axis + 2))
        common = (torch.minimum(end, high[..., None]) - torch.maximum(start, low[..., None])).clamp_(min=0)
        shared.append(common * (cells < count[..., None]))
        extents.append(end - start)
        left = torch.where(first > 0, place - (first - 1), torch.inf)
        right = torch.where(first + num_cells < count, first + num_cells - place, torch.inf)
        reach = (high.double() - low + shapes[..., axis + 2] - shapes[..., axis]) / 2
        beyond.append((reach - torch.minimum(left, right) * stride).clamp(min=0))
    common = shared[1][..., :, None] * shared[0][..., None, :]
    union = (box_area(boxes)[:, None, None, None] + extents[1][..., :, None] * extents[0][..., None, :]).sub_(common)
    own, sides = (boxes[:, 2:] - boxes[:, :2]).double()[:, None], shapes[..., 2:] - shapes[..., :2]
    most, (x, y) = torch.minimum(own, sides), beyond
    missed = torch.maximum(
        _iou(own, sides, torch.stack([torch.minimum(x, most[..., 0]), most[..., 1]], dim=-1)),
        _iou(own, sides, torch.stack([most[..., 0], torch.minimum(y, most[..., 1])], dim=-1)),
    )
    return common.div_(union.clamp_(min=torch.finfo(union.dtype).tiny)).flatten(1), missed.amax(dim=1)
