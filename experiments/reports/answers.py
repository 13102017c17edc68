"""What detectors say of a sample's images at stages of their training: the numbers behind the matching explorer.

    detectors = [Asked(name="FreeAnchor", run="freeanchor-small-s0", stages=(Stage(step=70, path=…), …)), …]
    answers = [ask(asked, sample.images, names, ground_truth, bag_size=50, runtime=runtime) for asked in detectors]
    answers[0].arrays[image_id]["confidence"]       # [S, G, n]: stages, objects, anchors of the bag

All of it is computed by the functions that the figures and the loss use: nothing here defines a confidence.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from analysis.coco.columns import Detections, GroundTruth
from experiments.reports.gallery import find_objects
from experiments.reports.sample import relabelled
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord
from freeanchor.detector.postprocess import Candidates
from freeanchor.errors import UsageError
from freeanchor.inference.bags import Learners, ObjectBags, learners, object_bags
from freeanchor.inference.outcomes import NmsOutcomes, nms_outcomes
from freeanchor.inference.predict import Prediction, predict
from freeanchor.losses import ATSS, AssignedLoss, IoUThresholds, TaskAlignedLoss
from freeanchor.losses.free_anchor import FreeAnchorLoss, effective_anchors, mean_max
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Runtime

Kind = Literal["soft", "hard", "unknown"]
SUMMARY = ("mean_max", "mean", "max", "effective")  # of a bag's confidences
SAME_BOX = 0.05  # px: within rounding, a candidate is the box of the bag's anchor that predicts it
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A model file of a training; `step` is None where nothing says how long it had trained."""

    step: int | None
    path: Path


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A detector to be asked, with its stages: the finished model last; and the loss that trained it, where known."""

    name: str
    run: str
    stages: tuple[Stage, ...]
    loss: AssignedLoss | TaskAlignedLoss | None = None  # None: the model file says which of the paper's two it is


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What one detector says.

    `kind` is how its training gives anchors objects: "soft", by shares that it learns, or "hard", by a rule that
    `rule` words, and that `is_fixed` where it does not ask the network. `arrays` has, for each image id,

    - of bags, [G, n]: `anchors` [G, n, 4], `level`, `ratio`, `octave`, `iou`, `by_iou` (the IoU rule assigns it);
    - at each stage, [S, G, n]: `cls_prob`, `loc_prob`, `confidence`, `share` in Mean-max, `taught` (the share of the
      object that the detector's own rule gives to the anchor), `box_iou`, and `predicted` [S, G, n, 4];
    - of objects, [S, G]: `outside` (the share that the rule gives to anchors outside the bag), `summary` [S, G, 4] of
      `SUMMARY`, `nms` [S, G, 3, 6] (best candidate, survivor, suppressor), `nms_anchor` [S, G, 3] (their ranks in the
      bag, -1: none of it), `fate`, `owner`, `num_before`, `num_after` and `found`.

    `least_score` has, for each stage, the detector's own score.
    """

    asked: Asked
    kind: Kind
    rule: str
    is_fixed: bool
    bag_size: int
    levels: tuple[int, ...]
    ratios: tuple[float, ...]
    least_score: tuple[float, ...]
    arrays: dict[int, Arrays]


def ask(
    asked: Asked,
    images: Sequence[ImageRecord],
    category_names: tuple[str, ...],
    ground_truth: GroundTruth,
    *,
    bag_size: int,
    runtime: Runtime,
    told: Callable[[], object] = lambda: None,
) -> Answers:
    """Ask a detector about all images at each of its stages; `told` is called after each image of each.

    Raises UsageError where it has no category of an object's name, or where its stages are of different networks.
    """
    stages, least = [], []
    first: DetectorConfig | None = None
    for stage in asked.stages:
        model, detector = load_model(stage.path, runtime.device)
        first = first or detector
        if (detector.model.anchors, detector.model.levels, detector.inputs) != (
            first.model.anchors, first.model.levels, first.inputs,
        ):  # fmt: skip
            raise UsageError(f"{stage.path}: has other anchors or inputs than {asked.stages[0].path}; give one run's")
        records = _records(images, category_names, detector, stage.path)
        inference = replace(detector.inference, short_sides=())
        own = zip(
            object_bags(model, detector, records, FreeAnchorLoss(bag_size=bag_size), runtime=runtime),
            predict(model, detector, records, inference, runtime, all_candidates=False, progress=False),
            strict=True,
        )
        taught = learners(model, detector, records, asked.loss, runtime=runtime) if asked.loss else None
        arrays, predictions = [], []
        for bags, prediction in own:
            outcomes = nms_outcomes(
                prediction.image, prediction.candidates, prediction.detections, nms_iou=inference.nms_iou
            )
            arrays.append(_stage_arrays(bags, outcomes) | (_of_rule(bags, next(taught)) if taught else {}))
            predictions.append(prediction)
            told()
        found, score = _found(predictions, detector, category_names, ground_truth)
        stages.append([{**one, "found": own} for one, own in zip(arrays, found, strict=True)])
        least.append(score)
    assert first is not None, "a detector without stages"
    kind, rule = _teaching(first, asked)
    return Answers(
        asked=asked,
        kind=kind,
        rule=rule,
        is_fixed=not asked.loss or isinstance(asked.loss.assigner, IoUThresholds | ATSS),
        bag_size=bag_size,
        levels=tuple(first.model.levels),
        ratios=tuple(first.model.anchors.ratios),
        least_score=tuple(least),
        arrays={image.image_id: _joined([stage[place] for stage in stages]) for place, image in enumerate(images)},
    )


def _records(
    images: Sequence[ImageRecord], names: tuple[str, ...], detector: DetectorConfig, path: Path
) -> list[ImageRecord]:
    try:
        return relabelled(tuple(images), names, detector.category_names)
    except ValueError as error:
        known = ", ".join(detector.category_names[:12])
        raise UsageError(f"{path}: knows no category {str(error)!r}; of those it knows: {known}") from None


def _teaching(detector: DetectorConfig, asked: Asked) -> tuple[Kind, str]:
    """How the detector's training gives anchors objects, in words."""
    if asked.loss:
        return "hard", "by its rule"
    if detector.detector == "FreeAnchor":
        return "soft", "learned shares"
    if detector.detector == "RetinaNet":
        return "hard", f"by hand: IoU of {RetinaNetLoss().foreground_iou:g} or more"
    return "unknown", "its file does not say how it was trained"


# Of the bags, what no training changes.
_GRID = {
    "anchors": "boxes", "level": "level", "ratio": "ratio", "octave": "octave", "iou": "iou", "by_iou": "assigned",
}  # fmt: skip
_STAGE = {
    "cls_prob": "cls_prob", "loc_prob": "loc_prob", "confidence": "confidence", "share": "weight",
    "predicted": "predicted", "box_iou": "box_iou",
}  # fmt: skip


def _stage_arrays(bags: ObjectBags, outcomes: NmsOutcomes) -> Arrays:
    """One image's arrays at one stage, without the axis of stages."""
    values = {name: getattr(bags, source).numpy() for name, source in (_GRID | _STAGE).items()}
    x = bags.confidence
    summary = torch.stack([mean_max(x), x.mean(dim=1), x.amax(dim=1), effective_anchors(x)], dim=1)
    nms = torch.stack([outcomes.best, outcomes.survivor, outcomes.suppressor], dim=1)
    counts = {name: getattr(outcomes, name).numpy() for name in ("num_before", "num_after", "fate", "owner")}
    taught = bags.assigned / bags.assigned.sum(dim=1, keepdim=True).clamp(min=1)
    values["taught"], values["outside"] = taught.numpy(), np.zeros(len(x), dtype=np.float32)
    return {**values, **counts, "summary": summary.numpy(), "nms": nms.numpy(), "nms_anchor": _ranks(bags, nms)}


def _of_rule(bags: ObjectBags, found: Learners) -> Arrays:
    """What an assigner gives to the bag's anchors, and how much to others."""
    shares = found.shares
    is_it = bags.anchors[shares.objects] == shares.anchors[:, None]  # [P, n]
    taught = torch.zeros(bags.anchors.shape).index_add_(0, shares.objects, is_it * shares.share[:, None])
    whole = torch.zeros(len(taught)).index_add_(0, shares.objects, shares.share)
    return {"taught": taught.numpy(), "outside": (whole - taught.sum(dim=1)).clamp(min=0).numpy()}


def _ranks(bags: ObjectBags, nms: Float[torch.Tensor, "G 3 6"]) -> np.ndarray:
    """[G, 3]: the rank of the bag's anchor that predicts each box of NMS with its score; -1 where none does."""
    distance = (bags.predicted[:, None] - nms[:, :, None, :4]).abs().amax(dim=-1)
    distance += 100 * (bags.cls_prob[:, None] - nms[:, :, None, 4]).abs()
    nearest = distance.nan_to_num(torch.inf).min(dim=-1)
    return torch.where(nearest.values < SAME_BOX, nearest.indices, -1).numpy()


def _joined(stages: Sequence[Arrays]) -> Arrays:
    """All stages' arrays of one image: an axis of stages in front, but for the grid, which has none."""
    return {
        name: stages[0][name] if name in _GRID else np.stack([stage[name] for stage in stages]) for name in stages[0]
    }


def _found(
    predictions: Sequence[Prediction], detector: DetectorConfig, names: tuple[str, ...], ground_truth: GroundTruth
) -> tuple[list[Bool[np.ndarray, " G"]], float]:
    """Which objects the detector finds, by the galleries' rule over these images, and its own score."""
    ids = dict(zip(ground_truth.category_names, ground_truth.category_ids.tolist(), strict=True))
    labels = {place: ids[name] for place, name in enumerate(detector.category_names) if name in ids}
    found = find_objects(ground_truth, _detections(predictions, labels))
    is_found = dict(zip(ground_truth.annotation_id.tolist(), found.is_found.tolist(), strict=True))
    own = [
        np.array([is_found[number] for number in prediction.image.annotation_ids.tolist()], dtype=bool)
        for prediction in predictions
    ]
    return own, found.least_score


def _detections(predictions: Sequence[Prediction], ids: Mapping[int, int]) -> Detections:
    kept = [(it.image.image_id, _of_labels(it.detections, ids)) for it in predictions]
    boxes = torch.cat([found.boxes for _, found in kept]).double().cpu().numpy()
    return Detections(
        image_id=np.repeat([number for number, _ in kept], [len(found) for _, found in kept]),
        category_id=np.array([ids[label] for _, found in kept for label in found.labels.tolist()], dtype=np.int64),
        boxes=boxes,
        scores=torch.cat([found.scores for _, found in kept]).double().cpu().numpy(),
        sizes=np.maximum(boxes[:, 2:] - boxes[:, :2], 0),
    )


def _of_labels(found: Candidates, ids: Mapping[int, int]) -> Candidates:
    keep = [place for place, label in enumerate(found.labels.tolist()) if label in ids]
    return found.take(torch.tensor(keep, dtype=torch.int64))


def subset_of(ground_truth: GroundTruth, images: Sequence[ImageRecord]) -> GroundTruth:
    """The ground truth of these images alone, with the objects that they have and crowd regions."""
    ids, objects = {image.image_id for image in images}, {int(it) for image in images for it in image.annotation_ids}
    keep_image = np.isin(ground_truth.image_ids, list(ids))
    keep = np.isin(ground_truth.image_id, list(ids))
    keep &= ground_truth.iscrowd | np.isin(ground_truth.annotation_id, list(objects))
    per_object = ("image_id", "annotation_id", "category_id", "boxes", "area", "iscrowd", "sizes")
    return replace(
        ground_truth,
        image_ids=ground_truth.image_ids[keep_image],
        image_sizes=ground_truth.image_sizes[keep_image],
        **{name: getattr(ground_truth, name)[keep] for name in per_object},
    )
