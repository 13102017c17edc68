"""torchvision's own RetinaNet loss under our signature: the peer of our baseline.

Matcher, coder, focal loss and L1 are torchvision's, called through its `RetinaNet.compute_loss`; only units are changed
here. `freeanchor.integrations.torchvision` goes the other way and puts our loss into torchvision's detector.

    terms = TorchvisionRetinaNetLoss()(logits, deltas, anchors, gt_boxes, gt_labels)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.losses.focal import Terms, TotalCount, widen
from freeanchor.losses.targets import Ragged, checked

if TYPE_CHECKING:
    from torchvision.models.detection import RetinaNet


class _NoBackbone(nn.Identity):
    out_channels = 1  # all that torchvision's detector asks of a backbone


@lru_cache(maxsize=1)
def _detector() -> "RetinaNet":
    """torchvision's detector as it comes, never run: its loss reads no weight, so one class does for any number."""
    from torchvision.models.detection import RetinaNet

    # On "meta" weights have no memory, and drawing them leaves the training's random numbers where they were.
    with torch.device("meta"):
        return RetinaNet(_NoBackbone(), num_classes=1)


def _check_areas(gt_boxes: Sequence[Tensor]) -> None:
    # As torchvision's detector does before its loss, which would be infinite.
    for image, boxes in enumerate(gt_boxes):
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            raise ValueError(f"image {image} has gt_boxes without width or height; torchvision's loss needs both")


@dataclass(frozen=True, kw_only=True)
class TorchvisionRetinaNetLoss:
    """`torchvision.models.detection.RetinaNet`'s loss with its own settings, of which none is ours to choose.

    Against `RetinaNetLoss`: both terms are divided by an image's own matched anchors and averaged over images, not
    divided by those of the batch; the box term is L1 of plain deltas, without transition and without the 4; where an
    object meets no anchor, all anchors of the image are matched, each with the object it overlaps most. On one
    image without such an object it equals `RetinaNetLoss(convention="mmdetection", smooth_l1_beta=0)`, but for anchors
    that are best for another object than the one that they overlap most: torchvision leaves them to the latter.

    The loss divides the deltas by our weights. To learn at the rate of torchvision's detector, a network needs
    `ModelConfig.plain_deltas`: without it the box head's last layer learns 100 and 25 times more slowly under SGD.
    """

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        gt_boxes: Ragged,
        gt_labels: Ragged | None = None,
        total_count: TotalCount = int,
    ) -> Terms:
        """Terms `classification` and `box`, scalars in float32 or wider; deltas are coded with weights (10, 10, 5, 5).

        `total_count` sums a count over the processes that share a batch, here that of images: nothing else is shared.
        Raises ValueError where the ground truth does not pair with the batch or a box has no area.
        """
        deltas, anchors, boxes, labels = checked(logits, deltas, anchors, gt_boxes, gt_labels)
        _check_areas(boxes)
        with torch.autocast(logits.device.type, enabled=False):
            plain = deltas / deltas.new_tensor(DELTA_WEIGHTS)
            predictions = {"cls_logits": widen(logits), "bbox_regression": plain}
            pairs = zip(boxes, labels, strict=True)
            targets = [{"boxes": own, "labels": own_labels} for own, own_labels in pairs]
            terms = _detector().compute_loss(targets, predictions, [anchors] * len(targets))
            share = len(targets) / total_count(len(targets))  # torchvision's mean is over this process's images
            return {"classification": terms["classification"] * share, "box": terms["bbox_regression"] * share}
