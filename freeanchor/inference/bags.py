"""What a detector says of the anchors in each object's bag: as arrays for a data set, as rows for a single image.

Any detector can be asked, whichever loss trained it; `assigned` says what IoU assignment would have done. And which
anchors learn which object under a loss, on one scale for all: an object's shares add up to 1.

    shares = learning_shares(AssignedLoss(assigner=ATSS()), output, 0, gt_boxes, gt_labels, strides)
    for bags in object_bags(model, detector, split.images, FreeAnchorLoss()):
        bags.confidence, bags.weight                                    # [G, n] each
    rows = bag_rows(model, detector, image, FreeAnchorLoss())           # the same, one row per anchor
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from freeanchor.boxes import box_centres, clip_boxes, decode_boxes, paired_iou, pairwise_iou
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import ImageRecord, Sample, collate, load_sample
from freeanchor.detector.retinanet import ModelConfig, ModelOutput, RetinaNet
from freeanchor.losses.assigned import AssignedLoss, TaskAlignedLoss, assign_batch
from freeanchor.losses.free_anchor import FreeAnchorLoss, mean_max_weights
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Runtime

BATCH_SIZE = 8  # images
AssigningLoss = FreeAnchorLoss | RetinaNetLoss | AssignedLoss | TaskAlignedLoss  # losses whose assignment is known


@dataclass(frozen=True, kw_only=True)
class ObjectBags:
    """The bags of one image's G objects: n anchors each, by falling IoU, in the pixels of the image's file.

    `image` has the objects that the network's box convention keeps: an inclusive one drops those a pixel thin.
    """

    image: ImageRecord
    anchors: Int[Tensor, "G n"]  # their numbers in the network's grid
    boxes: Float[Tensor, "G n 4"]  # the anchors, xyxy
    strides: Float[Tensor, "G n 2"]  # width and height of a cell of the anchor's level
    level: Int[Tensor, "G n"]  # its pyramid level, 3 for P3
    ratio: Float[Tensor, "G n"]  # h / w
    octave: Int[Tensor, "G n"]
    iou: Float[Tensor, "G n"]  # of the anchor with the object
    predicted: Float[Tensor, "G n 4"]  # the box that the network makes of it, clipped to the image
    box_iou: Float[Tensor, "G n"]  # of that box with the object
    cls_prob: Float[Tensor, "G n"]
    loc_prob: Float[Tensor, "G n"]
    confidence: Float[Tensor, "G n"]  # their product, X_i of Eq. 7
    weight: Float[Tensor, "G n"]  # share in Mean-max
    assigned: Bool[Tensor, "G n"]  # by the IoU rule, to this object


def object_bags(
    model: RetinaNet,
    detector: DetectorConfig,
    images: Sequence[ImageRecord],
    loss: FreeAnchorLoss,
    *,
    assignment: RetinaNetLoss | None = None,
    runtime: Runtime | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[ObjectBags]:
    """The bags of every image's objects, in the order of `images`; G = 0 for an image without objects.

    `loss` decides the bag's size and the weight of localisation, `assignment` the IoU rule of `assigned`. A batch holds
    images of one size only, so that no bag depends on how other images pad the anchor grid. The network runs under
    `runtime` (float32 on the CPU by default), all else in float32 on the CPU.
    """
    runtime, rule = runtime or Runtime(precision="float32"), assignment or RetinaNetLoss()
    model = runtime.place(model).eval()
    for samples, output in _batches(model, detector, images, runtime, batch_size):
        for index, sample in enumerate(samples):
            yield _bags_of(output, index, sample, detector, loss, rule)


def bag_rows(
    model: RetinaNet,
    detector: DetectorConfig,
    image: ImageRecord,
    loss: FreeAnchorLoss,
    assignment: RetinaNetLoss | None = None,
    runtime: Runtime | None = None,
) -> list[dict[str, Any]]:
    """One row per anchor of each object's bag in `image`; no rows for an image without objects.

    Columns beside those of `ObjectBags`: image_id, annotation_id, category, rank (by IoU, 0 is best), x1 … y2 (the
    anchor), stride_x, stride_y (a cell of its level), gt_x1 … gt_y2; all in the pixels of the file.
    """
    (bags,) = object_bags(model, detector, [image], loss, assignment=assignment, runtime=runtime)
    return _rows(bags, detector)


@dataclass(frozen=True, kw_only=True)
class LearningShares:
    """P pairs of an object and an anchor that learns it, by rising object; an object's shares add up to 1.

    Of an assigner they are equal, of FreeAnchor those of its Mean-max. An object that nothing learns has no pair.
    """

    objects: Int[Tensor, "P"]
    anchors: Int[Tensor, "P"]
    share: Float[Tensor, "P"]


@torch.no_grad()
def learning_shares(
    loss: AssigningLoss,
    output: ModelOutput,
    index: int,
    gt_boxes: Float[Tensor, "G 4"],
    gt_labels: Int[Tensor, "G"],
    strides: Sequence[int],
) -> LearningShares:
    """Which anchors learn the objects of the `index`-th image of a batch under a loss; `strides` of the levels."""
    logits, deltas, anchors = output.logits[index].float(), output.deltas[index].float(), output.anchors.float()
    if isinstance(loss, FreeAnchorLoss):
        bags, confidence = loss.confidence(logits, deltas, anchors, gt_boxes, gt_labels)
        objects = torch.arange(len(bags), device=bags.device).repeat_interleave(bags.shape[1])
        return LearningShares(objects=objects, anchors=bags.flatten(), share=mean_max_weights(confidence).flatten())
    each = anchors.new_tensor(strides).repeat_interleave(torch.tensor(output.level_sizes, device=anchors.device))
    image = logits[None], deltas[None], anchors, [gt_boxes], [gt_labels]
    owner = assign_batch(loss.assigner, *image, level_sizes=output.level_sizes, strides=each)
    objects, places = (owner == torch.arange(len(gt_boxes), device=owner.device)[:, None]).nonzero(as_tuple=True)
    counts = objects.bincount(minlength=len(gt_boxes))
    return LearningShares(objects=objects, anchors=places, share=1 / counts[objects].float())


@dataclass(frozen=True, kw_only=True)
class Learners:
    """The learning anchors of one image's objects, with what the detector says there; in the pixels of the file."""

    image: ImageRecord
    shares: LearningShares
    centres: Float[Tensor, "P 2"]
    iou: Float[Tensor, "P"]  # of the anchor with its object
    box_iou: Float[Tensor, "P"]  # of the box predicted from it, clipped to the image
    cls_prob: Float[Tensor, "P"]  # of the object's class


def learners(
    model: RetinaNet,
    detector: DetectorConfig,
    images: Sequence[ImageRecord],
    loss: AssigningLoss,
    *,
    runtime: Runtime | None = None,
    batch_size: int = BATCH_SIZE,
) -> Iterator[Learners]:
    """Of every image in the order of `images`; batches as in `object_bags`."""
    runtime, strides = runtime or Runtime(precision="float32"), detector.model.anchors.strides
    model = runtime.place(model).eval()
    for samples, output in _batches(model, detector, images, runtime, batch_size):
        for index, sample in enumerate(samples):
            boxes, labels = sample.boxes, sample.record.labels
            shares = learning_shares(loss, output, index, boxes, labels, strides)
            anchors, own = output.anchors[shares.anchors], boxes[shares.objects]
            said = decode_boxes(output.deltas[index][shares.anchors], anchors)
            yield Learners(
                image=sample.record,
                shares=shares,
                centres=box_centres(_in_file(output.anchors, sample, detector)[shares.anchors]),
                iou=paired_iou(anchors, own),
                box_iou=paired_iou(clip_boxes(said, *sample.image.shape[1:]), own),
                cls_prob=output.logits[index][shares.anchors, labels[shares.objects]].sigmoid(),
            )


def _batches(
    model: RetinaNet, detector: DetectorConfig, images: Sequence[ImageRecord], runtime: Runtime, batch_size: int
) -> Iterator[tuple[list[Sample], ModelOutput]]:
    """Samples and outputs of images of one size at a time."""
    for _, group in groupby(images, key=lambda image: (image.width, image.height)):
        own = list(group)
        for first in range(0, len(own), batch_size):
            samples = [load_sample(image, detector.inputs) for image in own[first : first + batch_size]]
            yield samples, _output(model, collate(samples).images, runtime)


@torch.no_grad()
def _output(model: RetinaNet, images: Tensor, runtime: Runtime) -> ModelOutput:
    # In float32 on the CPU, whatever the runtime.
    with runtime.autocast():
        output = model(images.to(runtime.device))
    logits, deltas, anchors = (tensor.float().cpu() for tensor in (output.logits, output.deltas, output.anchors))
    return ModelOutput(logits, deltas, anchors, output.level_sizes)


def _bags_of(
    output: ModelOutput, index: int, sample: Sample, detector: DetectorConfig, loss: FreeAnchorLoss, rule: RetinaNetLoss
) -> ObjectBags:
    """The bags of the `index`-th image of a batch."""
    logits, deltas, gt_labels = output.logits[index], output.deltas[index], sample.record.labels
    bags, confidence = loss.confidence(logits, deltas, output.anchors, sample.boxes, gt_labels)
    cls_prob = logits[bags, gt_labels[:, None]].sigmoid()
    predicted = clip_boxes(decode_boxes(deltas, output.anchors), *sample.image.shape[1:])[bags]
    levels, ratios, octaves = _shapes_of(output, detector.model)
    strides = torch.tensor(detector.model.anchors.strides)[levels - detector.model.levels[0], None] / torch.tensor(
        sample.scale
    )
    return ObjectBags(
        image=sample.record,
        anchors=bags,
        boxes=_in_file(output.anchors, sample, detector)[bags],
        strides=strides[bags],
        level=levels[bags],
        ratio=ratios[bags],
        octave=octaves[bags],
        iou=pairwise_iou(sample.boxes, output.anchors).gather(1, bags),
        predicted=_in_file(predicted, sample, detector),
        box_iou=paired_iou(sample.boxes[:, None], predicted),
        cls_prob=cls_prob,
        loc_prob=torch.where(cls_prob > 0, confidence / cls_prob, torch.zeros_like(cls_prob)),
        confidence=confidence,
        weight=mean_max_weights(confidence),
        assigned=_assigned(output.anchors, sample.boxes, rule).gather(1, bags),
    )


def _shapes_of(output: ModelOutput, model: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    sizes, config = output.level_sizes, model.anchors
    levels = torch.cat([torch.full((size,), level) for level, size in zip(model.levels, sizes, strict=True)])
    in_cell = torch.arange(len(output.anchors)) % config.num_per_cell  # every level holds whole cells
    ratios = torch.tensor(config.ratios)[in_cell // config.num_octaves]
    return levels, ratios, in_cell % config.num_octaves


def _in_file(anchors: Tensor, sample: Sample, detector: DetectorConfig) -> Tensor:
    # Anchors or other boxes of the network's input. The inverse of what `load_sample` does to boxes.
    boxes = anchors / torch.tensor([*sample.scale, *sample.scale])
    if detector.inputs.box_convention == "inclusive":
        boxes[..., 2:] += 1 - 1 / torch.tensor(sample.scale)
    return boxes


def _assigned(anchors: Tensor, gt_boxes: Tensor, rule: RetinaNetLoss) -> Tensor:
    """[G, A]: whether IoU assignment gives the anchor to the object."""
    owner = rule.assigner.assign(anchors, gt_boxes)
    return owner[None] == torch.arange(len(gt_boxes))[:, None]


def _rows(bags: ObjectBags, detector: DetectorConfig) -> list[dict[str, Any]]:
    names = ("level", "ratio", "octave", "iou", "cls_prob", "loc_prob", "confidence", "weight", "assigned")
    columns = {name: getattr(bags, name).tolist() for name in names}
    corners, strides, image = bags.boxes.tolist(), bags.strides.tolist(), bags.image
    rows = []
    for index, annotation_id in enumerate(image.annotation_ids.tolist()):
        gt = dict(zip(("gt_x1", "gt_y1", "gt_x2", "gt_y2"), image.boxes[index].tolist(), strict=True))
        category = detector.category_names[int(image.labels[index])]
        for rank, (anchor, stride) in enumerate(zip(corners[index], strides[index], strict=True)):
            head = {"image_id": image.image_id, "annotation_id": annotation_id, "category": category, "rank": rank}
            box = dict(zip(("x1", "y1", "x2", "y2", "stride_x", "stride_y"), (*anchor, *stride), strict=True))
            rows.append({**head, **box, **{name: column[index][rank] for name, column in columns.items()}, **gt})
    return rows
