"""What NMS makes of each object's candidates: the best one, the one that is left, and which box suppressed which.

    outcomes = nms_outcomes(prediction.image, prediction.candidates, prediction.detections, nms_iou=0.5)
    outcomes.best[i], outcomes.survivor[i], outcomes.suppressor[i]      # of object i

The paper calls a detector compatible with NMS where the candidate of highest IoU with an object is the one that NMS
keeps (Sec. 4.2). Candidates count for an object of their own class alone.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import pairwise_iou
from freeanchor.data.coco import ImageRecord
from freeanchor.detector.postprocess import Candidates

FOUND_IOU = 0.5  # from which on a box counts as one of the object's
BOX_COLUMNS = ("x1", "y1", "x2", "y2", "score", "iou")  # of a box; `iou` is that with the object


class Fate(IntEnum):
    """What becomes of the candidate of highest IoU with an object."""

    NONE = 0  # no candidate of its class reaches `FOUND_IOU`
    KEPT = 1
    SUPPRESSED = 2
    LIMIT = 3  # NMS keeps it, but the limit of detections per image, or of candidates per level, does not


@dataclass(frozen=True, kw_only=True)
class NmsOutcomes:
    """Of one image's G objects; rows of boxes have `BOX_COLUMNS`, nan where there is none.

    `suppressor` is the box that removed `best`, and `owner` the object that this box overlaps most (-1: none).
    """

    num_before: Int[Tensor, " G"]  # candidates of the class whose IoU with the object is at least `FOUND_IOU`
    num_after: Int[Tensor, " G"]  # detections, likewise
    best: Float[Tensor, "G 6"]  # the candidate of highest IoU
    survivor: Float[Tensor, "G 6"]  # the detection of highest IoU
    suppressor: Float[Tensor, "G 6"]
    fate: Int[Tensor, " G"]  # a `Fate`
    owner: Int[Tensor, " G"]


def nms_outcomes(
    image: ImageRecord, candidates: Candidates, detections: Candidates, *, nms_iou: float = 0.5
) -> NmsOutcomes:
    """The outcome for every object of an image, from its candidates and what the detector reports of them.

    Both are in the pixels of the file, detections best first. The box that suppresses a candidate is the best-scoring
    detection of its class whose IoU with it is above `nms_iou`.
    """
    found = [_of_object(image, index, candidates, detections, nms_iou) for index in range(len(image.boxes))]
    counts = torch.tensor([[*own[0]] for own in found], dtype=torch.int64).reshape(-1, 4)
    boxes = torch.stack([own[1] for own in found]) if found else torch.zeros(0, 3, len(BOX_COLUMNS))
    return NmsOutcomes(
        num_before=counts[:, 0],
        num_after=counts[:, 1],
        fate=counts[:, 2],
        owner=counts[:, 3],
        best=boxes[:, 0],
        survivor=boxes[:, 1],
        suppressor=boxes[:, 2],
    )


def _of_object(
    image: ImageRecord, index: int, candidates: Candidates, detections: Candidates, nms_iou: float
) -> tuple[tuple[int, int, int, int], Tensor]:
    """Counts before and after, fate and owner; then the three boxes [3, 6]."""
    label = int(image.labels[index])
    before, after = (_of_class(found, label) for found in (candidates, detections))
    gt_box = image.boxes[index : index + 1]
    ious = [pairwise_iou(gt_box, found.boxes)[0] for found in (before, after)]
    counts = [int((iou >= FOUND_IOU).sum()) for iou in ious]
    best, survivor = _best(before, ious[0]), _best(after, ious[1])
    suppressor, fate, owner = torch.full_like(best, torch.nan), Fate.NONE, -1
    if counts[0]:
        fate, row = _fate(best, after, nms_iou)
        if row is not None:
            suppressor = _row(after, row, ious[1])
            owner = _owner(image, label, after.boxes[row])
    return (counts[0], counts[1], int(fate), owner), torch.stack([best, survivor, suppressor])


def _of_class(found: Candidates, label: int) -> Candidates:
    own = found.take((found.labels == label).nonzero()[:, 0])
    return Candidates(own.boxes.float().cpu(), own.scores.float().cpu(), own.labels.cpu())


def _row(found: Candidates, row: int, iou: Tensor) -> Tensor:
    return torch.cat([found.boxes[row], found.scores[row, None], iou[row, None]])


def _best(found: Candidates, iou: Tensor) -> Tensor:
    """The box of highest IoU, of equal ones the best-scoring; nan where none reaches `FOUND_IOU`."""
    if not len(found) or iou.max() < FOUND_IOU:
        return torch.full((len(BOX_COLUMNS),), torch.nan)
    top = (iou == iou.max()).nonzero()[:, 0]
    return _row(found, int(top[found.scores[top].argmax()]), iou)


def _fate(best: Tensor, after: Candidates, nms_iou: float) -> tuple[Fate, int | None]:
    """What became of a candidate among the detections of its class, and the row that suppressed it."""
    if bool(((after.boxes == best[:4]).all(dim=1) & (after.scores == best[4])).any()):
        return Fate.KEPT, None
    removes = (pairwise_iou(best[None, :4], after.boxes)[0] > nms_iou) & (after.scores >= best[4])
    rows = removes.nonzero()[:, 0].tolist()
    return (Fate.SUPPRESSED, rows[0]) if rows else (Fate.LIMIT, None)


def _owner(image: ImageRecord, label: int, box: Tensor) -> int:
    """The object of the class that a box overlaps most; -1 where it meets none."""
    iou = pairwise_iou(box[None], image.boxes)[0] * (image.labels == label)
    return int(iou.argmax()) if float(iou.max()) > 0 else -1
