"""What a detector thinks of the anchors in an object's bag: one row an anchor, ready to tabulate or draw.

Any detector can be asked, whichever loss trained it; `assigned` tells beside it what IoU assignment would have done.

    rows = bag_rows(model, detector, picture, FreeAnchorLoss())
    rows[0]["confidence"], rows[0]["weight"]
"""

from typing import Any

import torch
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.boxes import pairwise_iou
from freeanchor.checkpoints import DetectorConfig
from freeanchor.data import Picture, collate, load_sample
from freeanchor.losses import FreeAnchorLoss, RetinaNetLoss
from freeanchor.matching import assign_by_iou, mean_max_weights
from freeanchor.model import ModelOutput, RetinaNet

FIRST_LEVEL = 3  # the pyramid starts at P3


def _shapes_of(anchors: Tensor, level_sizes: tuple[int, ...], config: AnchorConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Level, ratio and octave of every anchor, from its place in the grid's order."""
    levels = torch.cat([torch.full((size,), FIRST_LEVEL + level) for level, size in enumerate(level_sizes)])
    place = torch.arange(len(anchors)) % config.num_per_cell  # levels hold whole cells, so the order never slips
    ratios = torch.tensor(config.ratios)[place // config.num_octaves]
    return levels, ratios, place % config.num_octaves


@torch.no_grad()
def bag_rows(
    model: RetinaNet,
    detector: DetectorConfig,
    picture: Picture,
    loss: FreeAnchorLoss,
    assignment: RetinaNetLoss | None = None,
) -> list[dict[str, Any]]:
    """A row for each anchor of each object's bag in `picture`, in the pixels of its file.

    Columns: annotation_id, category, rank (by IoU, 0 is best), level, ratio (h / w), octave, x1 … y2 (the anchor), iou,
    cls_prob, loc_prob, confidence (their product, X_i of Eq. 7), weight (the share in Mean-max), assigned (by
    `assignment`'s IoU rule to this object), gt_x1 … gt_y2. A picture without objects has no rows.
    """
    batch = collate([load_sample(picture, detector.inputs)])
    output = model(batch.images)
    gt_boxes, gt_labels = batch.gt_boxes[0], batch.gt_labels[0]
    if len(gt_boxes) == 0:
        return []
    logits, deltas = output.logits[0].float(), output.deltas[0].float()
    bags, confidence = loss.confidence(logits, deltas, output.anchors, gt_boxes, gt_labels)
    assigned = _assigned(output, gt_boxes, assignment or RetinaNetLoss())
    columns = {
        "iou": pairwise_iou(gt_boxes, output.anchors).gather(1, bags),
        "cls_prob": logits[bags, gt_labels[:, None]].sigmoid(),
        "confidence": confidence,
        "weight": mean_max_weights(confidence),
        "assigned": assigned.gather(1, bags),
    }
    levels, ratios, octaves = _shapes_of(output.anchors, output.level_sizes, detector.model.anchors)
    columns |= {"level": levels[bags], "ratio": ratios[bags], "octave": octaves[bags]}
    scale = batch.samples[0].scale
    corners = (output.anchors[bags] / torch.tensor([*scale, *scale])).tolist()
    return _rows(picture, detector, {name: column.tolist() for name, column in columns.items()}, corners)


def _assigned(output: ModelOutput, gt_boxes: Tensor, rule: RetinaNetLoss) -> Tensor:
    """[G, A]: whether IoU assignment gives the anchor to the object."""
    owner = assign_by_iou(
        output.anchors,
        gt_boxes,
        foreground_iou=rule.foreground_iou,
        background_iou=rule.background_iou,
        low_quality_matches=rule.low_quality_matches,
    )
    return owner[None] == torch.arange(len(gt_boxes))[:, None]


def _rows(
    picture: Picture, detector: DetectorConfig, columns: dict[str, list[list[Any]]], corners: list[list[list[float]]]
) -> list[dict[str, Any]]:
    """The columns [G, n] turned into rows."""
    rows = []
    for index, annotation_id in enumerate(picture.annotation_ids.tolist()):
        gt = dict(zip(("gt_x1", "gt_y1", "gt_x2", "gt_y2"), picture.boxes[index].tolist(), strict=True))
        category = detector.category_names[int(picture.labels[index])]
        for rank, anchor in enumerate(corners[index]):
            values = {name: column[index][rank] for name, column in columns.items()}
            cls_prob = values["cls_prob"]
            values["loc_prob"] = values["confidence"] / cls_prob if cls_prob > 0 else 0.0
            box = dict(zip(("x1", "y1", "x2", "y2"), anchor, strict=True))
            head = {"image_id": picture.image_id, "annotation_id": annotation_id, "category": category, "rank": rank}
            rows.append({**head, **box, **values, **gt})
    return rows
