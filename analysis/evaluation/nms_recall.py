"""NMS recall: how many of the objects that a detector's candidates cover are still covered after NMS (Sec. 4.2).

What it is: NR_tau and its table from each object's best IoU before and after NMS, and those IoUs from plain candidates.
What it is not: a measure of a detector's recall. The objects found before NMS are each detector's own, and the more so
the more candidates it has, so the two recalls stand beside the ratio, and `max_candidates` makes the numbers equal.

    recall = object_recall(ground_truth, candidates, definition=NmsRecallDefinition())
    nms_recall(recall, 0.7)                         # nr_70
    nms_recall_table(recall).nr.mean()              # nr
    counts = found_by_image(recall, ground_truth.image_ids)
    bootstrap(partial(nms_recall_values, counts), num_images=..., generator=...)    # intervals over images

A detector can stream the same columns, one image at a time, and never hold all candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from analysis.coco.columns import Detections, GroundTruth, positions
from analysis.evaluation.suppression import HardNms, Suppression, pairwise_iou, rows_by_image, survivors
from freeanchor.errors import DataError

TAUS = tuple(round(0.50 + 0.05 * step, 2) for step in range(9))  # authors' code: tools/eval_NR.py, .50, .55 ... .90
AUTHORS_NMS = HardNms(nms_iou=0.5)
MAX_DETECTIONS = 100  # of an image, where a definition caps: COCO's number
_ROUNDING = 1e-6  # a detector may stream its IoUs in float32
_PAIRS_AT_ONCE = 2_000_000  # candidates times objects whose IoU is held at once


@dataclass(frozen=True, kw_only=True)
class NmsRecallDefinition:
    """What counts as a candidate, and when it has found an object. The defaults are the authors' (nms_recall/*.py).

    - `score_threshold`: candidates score more than this; the authors' 0.05. After soft-NMS they must do so still.
    - `max_candidates`: so many of an image's candidates count, best first, before NMS. The authors take all.
    - `nms`: what removes candidates, class by class: the authors' NMS at IoU 0.5, or see `analysis.suppression`.
    - `class_aware`: only candidates of the object's own class can find it. The authors ignore classes.
    - `max_detections`: keep this many of an image after NMS, best first (100 as COCO does). The authors keep all.
    - `include_crowd`: count crowd regions as objects. The authors leave them out.
    - `strict`: found means IoU > tau, as in the authors' code; False means IoU >= tau, as COCO has it.

    In all of them one candidate may find several objects. The authors take boxes clipped to the resized image.
    """

    score_threshold: float = 0.05
    max_candidates: int | None = None
    nms: Suppression = AUTHORS_NMS
    class_aware: bool = False
    max_detections: int | None = None
    include_crowd: bool = False
    strict: bool = True

    def __post_init__(self) -> None:
        """Refuses a cap that cannot be meant."""
        for name in ("max_candidates", "max_detections"):
            cap = getattr(self, name)
            if cap is not None and cap < 1:
                raise ValueError(f"{name} must be at least 1, got {cap}; None keeps all")


def four_definitions(base: NmsRecallDefinition = NmsRecallDefinition()) -> dict[str, NmsRecallDefinition]:
    """The definitions in use, side by side: class-agnostic and class-aware, each without a cap and with COCO's 100.

    The first is the authors'. The keys are suffixes of metric names (`nr_70`, `nr_70_class_aware`, …); all else than
    classes and cap is as in `base`.
    """
    return {
        "": replace(base, class_aware=False, max_detections=None),
        "_class_aware": replace(base, class_aware=True, max_detections=None),
        "_capped": replace(base, class_aware=False, max_detections=MAX_DETECTIONS),
        "_class_aware_capped": replace(base, class_aware=True, max_detections=MAX_DETECTIONS),
    }


@dataclass(frozen=True, kw_only=True)
class ObjectRecall:
    """Each object's best IoU with a candidate before and after NMS, under one definition; G objects, 0 for none."""

    image_id: Int[np.ndarray, " G"]
    annotation_id: Int[np.ndarray, " G"]
    iou_before: Float[np.ndarray, " G"]
    iou_after: Float[np.ndarray, " G"]

    def __post_init__(self) -> None:
        """Refuses an IoU that grew: what is left after NMS was there before it (but for rounding, which is undone)."""
        grown = np.flatnonzero(self.iou_after > self.iou_before + _ROUNDING)
        if len(grown):
            row = grown[0]
            raise DataError(
                f"annotation {self.annotation_id[row]} has IoU {self.iou_after[row]} after NMS but "
                f"{self.iou_before[row]} before; detections must be taken from the candidates"
            )
        object.__setattr__(self, "iou_after", np.minimum(self.iou_after, self.iou_before))


def nms_recall(
    recall: ObjectRecall,
    tau: float,
    *,
    strict: bool = True,
    object_weights: Float[np.ndarray, "*R G"] | None = None,
) -> float | Float[np.ndarray, "*R"]:
    """Share of the objects found before NMS that NMS keeps, at one IoU threshold.

    NR_tau = recall(after) / recall(before), Sec. 4.2; in [0, 1]. Found means IoU > tau (authors' code:
    tools/eval_NR.py), or IoU >= tau unless `strict`. nan where nothing was found before NMS. `object_weights`, an axis
    of resamplings in front if wanted, count each object so many times; the result then has that axis.
    """
    before, after = _recalls(recall, tau, strict=strict, object_weights=object_weights)
    return np.divide(after, before, out=np.full(np.shape(before), np.nan), where=before > 0)[()]


def nms_recall_table(recall: ObjectRecall, taus: tuple[float, ...] = TAUS, *, strict: bool = True) -> pd.DataFrame:
    """One row a tau: tau, metric (`nr_50` …), recall_before, recall_after, nr. The paper's NR is the mean of `nr`."""
    rows = []
    for tau in taus:
        before, after = _recalls(recall, tau, strict=strict, object_weights=None)
        nr = float(nms_recall(recall, tau, strict=strict))
        rows.append((tau, f"nr_{round(100 * tau):02d}", float(before), float(after), nr))
    return pd.DataFrame(rows, columns=["tau", "metric", "recall_before", "recall_after", "nr"])


def mean_nms_recall(
    recall: ObjectRecall, *, strict: bool = True, object_weights: Float[np.ndarray, "*R G"] | None = None
) -> float | Float[np.ndarray, "*R"]:
    """NR, the mean of NR_tau over tau = 0.50, 0.55 … 0.90 (Table 1); nan where it is nan at any tau."""
    values = [np.asarray(nms_recall(recall, tau, strict=strict, object_weights=object_weights)) for tau in TAUS]
    return np.mean(values, axis=0)[()]


@dataclass(frozen=True, kw_only=True)
class FoundByImage:
    """Objects found in each image before and after NMS, at each tau: all that NR under image weights takes."""

    before: Float[np.ndarray, "N T"]
    after: Float[np.ndarray, "N T"]


def found_by_image(
    recall: ObjectRecall,
    image_ids: Int[np.ndarray, " N"],
    taus: tuple[float, ...] = TAUS,
    *,
    strict: bool = True,
) -> FoundByImage:
    """Counts the objects found, a row per image of `image_ids` (sorted, as `GroundTruth` has them).

    Raises `DataError` where an object's image is not among them.
    """
    place = positions(recall.image_id, image_ids, what="objects", kind="image")
    sides = []
    for iou in (recall.iou_before, recall.iou_after):
        counts = np.zeros((len(image_ids), len(taus)))
        np.add.at(counts, place, np.stack([_is_found(iou, tau, strict=strict) for tau in taus], axis=1))
        sides.append(counts)
    return FoundByImage(before=sides[0], after=sides[1])


def nms_recall_values(found: FoundByImage, weights: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R T+1"]:
    """NR_tau at each tau, then NR, their mean, when each image counts `weights` times; R weightings at once.

    As `nms_recall` and `mean_nms_recall`: nan where nothing was found before NMS, the mean where any tau is nan.
    """
    before, after = weights @ found.before, weights @ found.after
    values = np.divide(after, before, out=np.full(before.shape, np.nan), where=before > 0)
    return np.hstack([values, values.mean(axis=1, keepdims=True)])


def object_recall(
    ground_truth: GroundTruth, candidates: Detections, *, definition: NmsRecallDefinition = NmsRecallDefinition()
) -> ObjectRecall:
    """Each object's best IoU with the candidates, before and after per-class NMS, an image at a time.

    `candidates` are boxes before NMS. Objects keep the order of the ground truth, crowd regions left out unless the
    definition says otherwise (their IoU is the plain one). Raises `DataError` for unknown images or categories.
    """
    return object_recall_under(ground_truth, candidates, [definition])[0]


def object_recall_under(
    ground_truth: GroundTruth, candidates: Detections, definitions: Sequence[NmsRecallDefinition]
) -> list[ObjectRecall]:
    """`object_recall` under each of several definitions, in one pass: those with the same NMS share its work.

    Progress on stderr where it is a terminal.
    """
    positions(candidates.category_id, ground_truth.category_ids, what="candidates", kind="category")
    image = positions(candidates.image_id, ground_truth.image_ids, what="candidates", kind="image")
    num_images, num_objects = len(ground_truth.image_ids), len(ground_truth.boxes)
    found_in = rows_by_image(np.arange(len(candidates)), image, num_images)
    objects_in = rows_by_image(np.arange(num_objects), ground_truth.image_index, num_images)
    best = np.zeros((len(definitions), 2, num_objects))
    images = zip(objects_in, found_in, strict=True)
    for objects, found in tqdm(images, total=num_images, desc="nms-recall", unit="image", disable=None):
        if len(objects) and len(found):
            best[:, :, objects] = _image_recall(ground_truth, objects, candidates, found, definitions)
    return [_columns(ground_truth, ious, definition) for ious, definition in zip(best, definitions, strict=True)]


def _image_recall(
    ground_truth: GroundTruth,
    objects: np.ndarray,
    candidates: Detections,
    found: np.ndarray,
    definitions: Sequence[NmsRecallDefinition],
) -> np.ndarray:
    """Best IoUs of one image's objects, [definition, before and after, object]."""
    best = np.zeros((len(definitions), 2, len(objects)))
    kept: dict[tuple[Suppression, float, int | None], np.ndarray] = {}
    for d, definition in enumerate(definitions):
        before = _before_nms(candidates, found, definition)
        key = (definition.nms, definition.score_threshold, definition.max_candidates)
        if key not in kept:
            kept[key], _ = survivors(candidates, before, definition.nms, score_threshold=definition.score_threshold)
        for side, rows in enumerate((before, kept[key][: definition.max_detections])):
            best[d, side] = _best_iou(ground_truth, objects, candidates, rows, definition.class_aware)
    return best


def _before_nms(candidates: Detections, found: np.ndarray, definition: NmsRecallDefinition) -> np.ndarray:
    """Those of one image's rows that NMS is given: above the threshold, and the best of them where there is a cap."""
    rows = found[candidates.scores[found] > definition.score_threshold]
    if definition.max_candidates is None:
        return rows
    return rows[np.argsort(-candidates.scores[rows], kind="stable")[: definition.max_candidates]]


def _columns(ground_truth: GroundTruth, ious: np.ndarray, definition: NmsRecallDefinition) -> ObjectRecall:
    """The columns of the objects that count, from best IoUs [before and after, object]."""
    counts = ~ground_truth.iscrowd | definition.include_crowd
    return ObjectRecall(
        image_id=ground_truth.image_id[counts],
        annotation_id=ground_truth.annotation_id[counts],
        iou_before=ious[0, counts],
        iou_after=ious[1, counts],
    )


def _recalls(
    recall: ObjectRecall, tau: float, *, strict: bool, object_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Recall before and after NMS; nan without objects."""
    if not 0 < tau <= 1:
        raise ValueError(f"tau must lie in (0, 1], got {tau}; pass a fraction, not a percentage")
    weights = np.ones(len(recall.iou_before)) if object_weights is None else object_weights
    total = np.sum(weights, axis=-1)
    shares = []
    for iou in (recall.iou_before, recall.iou_after):
        count = weights @ _is_found(iou, tau, strict=strict)
        shares.append(np.divide(count, total, out=np.full(np.shape(total), np.nan), where=total > 0))
    return shares[0], shares[1]


def _is_found(iou: np.ndarray, tau: float, *, strict: bool) -> Bool[np.ndarray, " G"]:
    return iou > tau if strict else iou >= tau


def _best_iou(
    ground_truth: GroundTruth, objects: np.ndarray, candidates: Detections, rows: np.ndarray, class_aware: bool
) -> np.ndarray:
    """Highest IoU of each of an image's objects with the candidates in `rows`, blocks of candidates at a time."""
    best = np.zeros(len(objects))
    block = max(1, _PAIRS_AT_ONCE // len(objects))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        iou = pairwise_iou(ground_truth.boxes[objects], candidates.boxes[part])
        if class_aware:
            iou = np.where(ground_truth.category_id[objects][:, None] == candidates.category_id[part], iou, 0.0)
        best = np.maximum(best, iou.max(axis=1))
    return best
