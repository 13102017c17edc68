"""NMS recall: how many of the objects that a detector's candidates cover are still covered after NMS (Sec. 4.2).

What it is: NR_tau and its table from each object's best IoU before and after NMS, and those IoUs from plain candidates.
What it is not: a measure of a detector's recall. The objects found before NMS are each detector's own, so the two
recalls stand beside the ratio.

    recall = object_recall(ground_truth, candidates, definition=NmsRecallDefinition())
    nms_recall(recall, 0.7)                         # nr_70
    nms_recall_table(recall).nr.mean()              # nr

A detector can stream the same columns, one picture at a time, and never hold all candidates.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torchvision.ops import batched_nms

from analysis.columns import DataError, Detections, GroundTruth, positions

TAUS = tuple(round(0.50 + 0.05 * step, 2) for step in range(9))  # authors' code: tools/eval_NR.py, .50, .55 ... .90
_ROUNDING = 1e-6  # a detector may stream its IoUs in float32
_PAIRS_AT_ONCE = 2_000_000  # candidates times objects whose IoU is held at once


@dataclass(frozen=True, kw_only=True)
class NmsRecallDefinition:
    """What counts as a candidate, and when it has found an object. The defaults are the authors' (nms_recall/*.py).

    - `score_threshold`: candidates score more than this; the authors' 0.05.
    - `nms_iou`: per-class NMS removes a box that overlaps a better one by more than this; 1 removes nothing.
    - `class_aware`: only candidates of the object's own class can find it. The authors ignore classes.
    - `max_detections`: keep this many of a picture after NMS, best first (100 as COCO does). The authors keep all.
    - `include_crowd`: count crowd regions as objects. The authors leave them out.
    - `strict`: found means IoU > tau, as in the authors' code; False means IoU >= tau, as COCO has it.

    In all of them one candidate may find several objects. The authors take boxes clipped to the resized picture.
    """

    score_threshold: float = 0.05
    nms_iou: float = 0.5
    class_aware: bool = False
    max_detections: int | None = None
    include_crowd: bool = False
    strict: bool = True

    def __post_init__(self) -> None:
        """Refuses thresholds that cannot be meant."""
        if not 0 <= self.nms_iou <= 1:
            raise ValueError(f"nms_iou must lie in [0, 1], got {self.nms_iou}; pass a fraction, not a percentage")
        if self.max_detections is not None and self.max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {self.max_detections}; None keeps all")


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


def object_recall(
    ground_truth: GroundTruth, candidates: Detections, *, definition: NmsRecallDefinition = NmsRecallDefinition()
) -> ObjectRecall:
    """Each object's best IoU with the candidates, before and after per-class NMS, a picture at a time.

    `candidates` are boxes before NMS. Objects keep the order of the ground truth, crowd regions left out unless the
    definition says otherwise (their IoU is the plain one). Raises `DataError` for unknown pictures or categories.
    """
    positions(candidates.category_id, ground_truth.category_ids, what="candidates", kind="category")
    image = positions(candidates.image_id, ground_truth.image_ids, what="candidates", kind="picture")
    rows = np.flatnonzero(candidates.scores > definition.score_threshold)
    rows_of = _rows_by_image(rows, image[rows], len(ground_truth.image_ids))
    objects = np.flatnonzero(~ground_truth.iscrowd | definition.include_crowd)
    objects_of = _rows_by_image(objects, ground_truth.image_index[objects], len(ground_truth.image_ids))
    before, after = np.zeros(len(ground_truth.boxes)), np.zeros(len(ground_truth.boxes))
    for here, found in zip(objects_of, rows_of, strict=True):
        if len(here) and len(found):
            kept = found[_kept_by_nms(candidates, found, definition)]
            before[here] = _best_iou(ground_truth, here, candidates, found, definition.class_aware)
            after[here] = _best_iou(ground_truth, here, candidates, kept, definition.class_aware)
    return ObjectRecall(
        image_id=ground_truth.image_id[objects],
        annotation_id=ground_truth.annotation_id[objects],
        iou_before=before[objects],
        iou_after=after[objects],
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


def _rows_by_image(rows: np.ndarray, image: np.ndarray, num_images: int) -> list[np.ndarray]:
    """The rows of each picture, in their own order."""
    order = np.argsort(image, kind="stable")
    return np.split(rows[order], np.searchsorted(image[order], np.arange(1, num_images)))


def _kept_by_nms(candidates: Detections, rows: np.ndarray, definition: NmsRecallDefinition) -> np.ndarray:
    """Which of a picture's `rows` are left after per-class NMS and the cap, best first."""
    boxes = torch.from_numpy(candidates.boxes[rows])
    boxes = boxes - boxes.amin().clamp(max=0)  # torchvision sets classes apart by shifts that take coordinates >= 0
    scores = torch.from_numpy(candidates.scores[rows])
    kept = batched_nms(boxes, scores, torch.from_numpy(candidates.category_id[rows]), definition.nms_iou)
    return kept[: definition.max_detections].numpy()


def _best_iou(
    ground_truth: GroundTruth, objects: np.ndarray, candidates: Detections, rows: np.ndarray, class_aware: bool
) -> np.ndarray:
    """Highest IoU of each of a picture's objects with the candidates in `rows`, blocks of candidates at a time."""
    best = np.zeros(len(objects))
    block = max(1, _PAIRS_AT_ONCE // len(objects))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        iou = _pairwise_iou(ground_truth.boxes[objects], candidates.boxes[part])
        if class_aware:
            iou = np.where(ground_truth.category_id[objects][:, None] == candidates.category_id[part], iou, 0.0)
        best = np.maximum(best, iou.max(axis=1))
    return best


def _pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU of every box in `a` with every box in `b`; 0 where they do not meet."""
    extent = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    overlap = np.clip(extent, 0, None).prod(axis=2)
    union = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=overlap > 0)
