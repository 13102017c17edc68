"""A trained detector over a data set: detections, and the best IoU of each object before and after NMS, streamed.

Those best IoUs, under each definition of NMS recall, are all that the analysis needs of the candidates, and
they stay small however many candidates an image has.

    for prediction in predict(model, detector, split.images, InferenceConfig(), Runtime()):
        prediction.detections, prediction.recall
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from freeanchor.boxes import pairwise_iou
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import Batch, ImageRecord, InputConfig, collate, load_sample
from freeanchor.detector.postprocess import Candidates, InferenceConfig, merge_scales, select_candidates, suppress
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.runtime import Runtime

BATCH_SIZE = 8  # images
IOU_CHUNK = 20_000  # candidates compared with the objects at a time: an early detector gives millions


@dataclass(frozen=True, kw_only=True)
class ObjectRecall:
    """Best IoU of each of G objects before and after NMS, any class counting or only the object's own.

    The first two pairs are the authors' definition and its class-aware variant: every candidate above the score
    threshold, no cap. `after_capped` is what the detector reports, with its caps per level and per image.
    """

    before: Tensor
    after: Tensor
    before_same_class: Tensor
    after_same_class: Tensor
    after_capped: Tensor
    after_capped_same_class: Tensor


@dataclass(frozen=True, kw_only=True)
class BudgetRecall:
    """Best IoU of each of G objects before and after NMS, by the authors' definition, among the best candidates alone.

    `num_given` is the number of these candidates: less than the budget where the image has no more.
    """

    before: Tensor
    after: Tensor
    num_given: int


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One image's candidates and detections in its file's pixels, and its objects' recall, also under budgets."""

    image: ImageRecord
    candidates: Candidates
    detections: Candidates
    recall: ObjectRecall
    at_budgets: dict[int, BudgetRecall]


def best_iou(
    gt_boxes: Float[Tensor, "G 4"], gt_labels: Tensor, found: Candidates, *, same_class: bool
) -> Float[Tensor, "G"]:
    """The highest IoU of each object with any found box; 0 where there is none (authors' code: nms_recall/)."""
    best = gt_boxes.new_zeros(len(gt_boxes))
    for boxes, labels in zip(found.boxes.split(IOU_CHUNK), found.labels.split(IOU_CHUNK), strict=True):
        iou = pairwise_iou(gt_boxes, boxes)
        if same_class:
            iou = iou * (gt_labels[:, None] == labels[None])
        if iou.numel():
            best = torch.maximum(best, iou.amax(dim=1))
    return best


def measure_recall(image: ImageRecord, before: Candidates, after: Candidates, reported: Candidates) -> ObjectRecall:
    """`ObjectRecall` of one image's objects from its candidates, what NMS leaves, and the reported detections."""
    boxes, labels = image.boxes.to(before.boxes), image.labels.to(before.labels)
    stages = {"before": before, "after": after, "after_capped": reported}
    any_class = {name: best_iou(boxes, labels, found, same_class=False) for name, found in stages.items()}
    own = {f"{name}_same_class": best_iou(boxes, labels, found, same_class=True) for name, found in stages.items()}
    return ObjectRecall(**any_class, **own)


@torch.no_grad()
def _at_one_scale(
    model: nn.Module, batch: Batch, runtime: Runtime, inference: InferenceConfig, *, inclusive: bool
) -> list[tuple[Candidates, Candidates]]:
    """For each image, its candidates with the cap per level and without it, in its file's pixels."""
    with runtime.autocast():
        output = model(batch.images.to(runtime.device, memory_format=torch.channels_last))
    found = []
    for image, (sample, size) in enumerate(zip(batch.samples, batch.sizes, strict=True)):
        predictions = output.logits[image], output.deltas[image], output.anchors, output.level_sizes
        capped, uncapped = select_candidates(*predictions, size, inference, inclusive=inclusive)
        all_of_them = _to_file(uncapped, sample.scale, inclusive=inclusive)
        is_cut = capped is not uncapped
        found.append((_to_file(capped, sample.scale, inclusive=inclusive) if is_cut else all_of_them, all_of_them))
    return found


def _to_file(found: Candidates, scale: tuple[float, float], *, inclusive: bool) -> Candidates:
    # Boxes with their last pixel included have that pixel scaled, not the edge beyond it (authors' code).
    pixel = 1 / scale[0], 1 / scale[1]
    rescaled = found.rescale(pixel)
    return rescaled.extend((1 - pixel[0], 1 - pixel[1])) if inclusive else rescaled


def _suppress(
    found: Candidates, inference: InferenceConfig, max_detections: int | None, scale: tuple[float, float] | None
) -> Candidates:
    """NMS in the file's frame; at the `scale` of inclusive boxes in theirs, where overlaps differ a little."""
    if scale is None:
        return suppress(found, nms_iou=inference.nms_iou, max_detections=max_detections)
    growth = 1 - 1 / scale[0], 1 - 1 / scale[1]
    shrunk = found.extend((-growth[0], -growth[1]))
    return suppress(shrunk, nms_iou=inference.nms_iou, max_detections=max_detections).extend(growth)


def _cut_at_borders(found: Candidates, image: ImageRecord, inference: InferenceConfig) -> Candidates:
    # Only those that NMS saw beyond the borders.
    if inference.clip != "after_nms":
        return found
    return found.clip(image.height, image.width, drop_empty=inference.drop_empty)


def _under_budgets(
    image: ImageRecord,
    candidates: Candidates,
    inference: InferenceConfig,
    inclusive_scale: tuple[float, float] | None,
    budgets: Sequence[int],
) -> dict[int, BudgetRecall]:
    # Recall before NMS grows with the number of candidates, so detectors are compared at equal numbers.
    if not budgets:
        return {}
    by_score = candidates.take(candidates.scores.argsort(descending=True, stable=True)[: max(budgets)])
    gt_boxes, gt_labels = image.boxes.to(by_score.boxes), image.labels.to(by_score.labels)
    found = {}
    for budget in budgets:
        before = by_score.first(budget)
        sides = before, _suppress(before, inference, None, inclusive_scale)
        cut = (_cut_at_borders(side, image, inference) for side in sides)
        ious = [best_iou(gt_boxes, gt_labels, side, same_class=False) for side in cut]
        found[budget] = BudgetRecall(before=ious[0], after=ious[1], num_given=len(before))
    return found


def _finish(
    image: ImageRecord,
    scales: Sequence[tuple[Candidates, Candidates]],
    inference: InferenceConfig,
    inclusive_scale: tuple[float, float] | None,
    budgets: Sequence[int],
) -> Prediction:
    candidates = merge_scales([uncapped for _, uncapped in scales])
    survivors = _suppress(candidates, inference, None, inclusive_scale)
    if any(capped is not uncapped for capped, uncapped in scales):
        capped = merge_scales([capped for capped, _ in scales])
        reported = _suppress(capped, inference, inference.max_detections, inclusive_scale)
    else:  # NMS would do the same again
        reported = survivors.first(inference.max_detections)
    at_budgets = _under_budgets(image, candidates, inference, inclusive_scale, budgets)
    candidates, survivors, reported = (
        _cut_at_borders(found, image, inference) for found in (candidates, survivors, reported)
    )
    return Prediction(
        image=image,
        candidates=candidates,
        detections=reported,
        recall=measure_recall(image, candidates, survivors, reported),
        at_budgets=at_budgets,
    )


def _at_scale(inputs: InputConfig, short_side: int | None) -> InputConfig:
    # The long side's limit grows with the short side, from 1333 at 800 to 2133 at 1280 (authors' code).
    if short_side is None:
        return inputs
    limit = -(-inputs.max_long_side * short_side // inputs.short_side)  # rounded up: 1067 at 640
    return replace(inputs, short_side=short_side, max_long_side=limit)


def predict(
    model: RetinaNet,
    detector: DetectorConfig,
    images: Sequence[ImageRecord],
    inference: InferenceConfig,
    runtime: Runtime,
    batch_size: int = BATCH_SIZE,
    *,
    all_candidates: bool = True,
    budgets: Sequence[int] = (),
    progress: bool = True,
) -> Iterator[Prediction]:
    """Predictions for `images`, in order; `progress` shows a bar on a terminal.

    Detections come from the candidates within the cap per level. Recall before NMS counts the others too; without
    `all_candidates` they are left out, since an early detector has so many that their NMS takes minutes.

    With `inference.short_sides` every image is read again at each of those sizes, and the candidates of all of them
    go through one NMS. DEVIATION(D16): the authors re-interpolate the tensor already resized to 800 px.
    The padded size of a batch moves torchvision's anchors: a network that has them sees images one by one, so that no
    image's boxes depend on the others of its batch.
    """
    if detector.model.anchors.geometry == "torchvision":
        batch_size = 1
    inclusive = detector.inputs.box_convention == "inclusive"
    model = runtime.place(model).eval()
    for first in tqdm(
        range(0, len(images), batch_size), desc="predict", unit="batch", disable=None if progress else True
    ):
        group = images[first : first + batch_size]
        by_scale = []
        for short_side in inference.short_sides or (None,):
            batch = collate([load_sample(image, _at_scale(detector.inputs, short_side)) for image in group])
            found = _at_one_scale(model, batch, runtime, inference, inclusive=inclusive)
            by_scale.append(found if all_candidates else [(capped, capped) for capped, _ in found])
        for place, (image, *scales) in enumerate(zip(group, *by_scale, strict=True)):
            last_scale = batch.samples[place].scale if inclusive else None
            yield _finish(image, scales, inference, last_scale, budgets)
