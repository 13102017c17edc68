"""SimOTA: each object takes the anchors that cost least, as many as its boxes are good (Ge et al., YOLOX, 2021).

    assignment = SimOTA().assign(anchors, gt_boxes, gt_labels, strides=strides, predictions=predictions)

The cost of an anchor j for an object i, Eq. 1 of the paper, and what its code adds for anchors that lie not both in
the object and near its centre:

    c_ij = L_ij^cls + lambda L_ij^reg + 1e5 [j not in box i and near its centre]
    L_ij^cls = sum_k BCE(p_jk, [k is the class of i]),  L_ij^reg = -log IoU_ij,  lambda = 3
    k_i = sum of the 10 greatest IoU_ij, rounded down, at least 1      (dynamic k estimation, from OTA)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import box_centres, ious_by_objects, objects_at_a_time, pairwise_iou
from freeanchor.losses.assignment import BACKGROUND, Cells, Predicted, centre_priors, check_predictions, check_strides

OUTSIDE = 1e5  # added to the cost: such an anchor is taken only where the object has too few others
LEAST_IOU = 1e-7  # added to IoU before the logarithm


@dataclass(frozen=True, kw_only=True)
class SimOTA:
    """YOLOX's simplified optimal transport, computed in float32 as its reference implementations are.

    Anchors whose centre lies in some object, or within `centre_radius` strides of some object's centre, may be taken.
    An anchor that several objects take learns the one of all objects that it costs least. Of equal costs, common above
    1e5 where float32 counts in steps of 1/128, `torch.topk` says which comes first, as in mmdetection.
    """

    centre_radius: float = 2.5  # strides
    num_candidates: int = 10  # whose IoU is summed for k
    cls_weight: float = 1.0
    iou_weight: float = 3.0  # lambda

    def __post_init__(self) -> None:
        if self.centre_radius <= 0 or self.num_candidates < 1 or min(self.cls_weight, self.iou_weight) < 0:
            raise ValueError(f"centre_radius and num_candidates must be positive, weights not negative, not {self}")

    @torch.no_grad()
    def assign(
        self,
        anchors: Float[Tensor, "A 4"],
        gt_boxes: Float[Tensor, "G 4"],
        gt_labels: Int[Tensor, "G"] | None = None,
        *,
        level_sizes: Sequence[int] = (),
        strides: Float[Tensor, "A"] | None = None,
        predictions: Predicted | None = None,
    ) -> Int[Tensor, "A"]:
        """Object index of each anchor or BACKGROUND; raises ValueError without strides, predictions or labels."""
        said, labels = check_predictions(self, predictions, gt_labels)
        reach = self.centre_radius * check_strides(strides, len(anchors)).float()
        centres = box_centres(anchors.float()).T.contiguous()
        image = _Image(gt_boxes.float(), labels, centres, reach, said.boxes.float(), said.scores)
        inside, valid = image.places()
        owner = torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
        times = torch.zeros_like(owner)
        for number, (own, k) in enumerate(zip(inside, self._counts(image, valid), strict=False)):
            # Where enough anchors lie in the object and near its centre, no other costs as little.
            places, cost = (own, self._near_cost) if len(own) >= k else (valid, self._cost)
            taken = places[cost(image, number, places).topk(k, largest=False).indices]
            owner[taken] = number
            times[taken] += 1
        contested = (times > 1).nonzero()[:, 0]
        if len(contested):
            costs = torch.stack([self._cost(image, number, contested) for number in range(len(gt_boxes))])
            owner[contested] = costs.argmin(dim=0)
        return owner

    def _counts(self, image: "_Image", valid: Tensor) -> list[int]:
        """k_i of each object, from the boxes of the anchors that may be taken; of no object where there are none."""
        counts: list[int] = []
        for _, iou in ious_by_objects(image.gt_boxes, image.boxes[valid]) if len(valid) else ():
            best = iou.topk(min(self.num_candidates, len(valid)), dim=1).values
            counts += best.sum(dim=1).int().clamp(min=1).tolist()
        return counts

    def _cost(self, image: "_Image", number: int, places: Tensor) -> Tensor:
        """c_ij of one object i with the anchors at some places."""
        own = image.gt_boxes[number, None]
        in_box, is_near = centre_priors(image.centres[:, places], image.reach[places], own)
        return self._near_cost(image, number, places) + OUTSIDE * ~(in_box & is_near)[0]

    def _near_cost(self, image: "_Image", number: int, places: Tensor) -> Tensor:
        """The same without what being outside costs."""
        scores, label = image.scores[places].float(), image.labels[number]
        surprise = torch.log1p(-scores).clamp_(min=-100).neg_()  # BCE(p, 0); nothing surprises by more than 100
        surprise[:, label] = -scores[:, label].log().clamp_(min=-100)
        iou = pairwise_iou(image.gt_boxes[number, None], image.boxes[places])[0]
        return self.cls_weight * surprise.sum(dim=1) + self.iou_weight * -(iou + LEAST_IOU).log_()


class _Image(NamedTuple):
    gt_boxes: Tensor  # [G, 4]
    labels: Tensor
    centres: Tensor  # [2, A]: x, y
    reach: Tensor  # [A], in pixels
    boxes: Tensor
    scores: Tensor

    def places(self) -> tuple[list[Tensor], Tensor]:
        """Each object's anchors that lie both in it and near its centre; all that lie in some object or near one."""
        cells = Cells.of(self.centres, self.reach)
        centres, reach = self.centres[:, cells.first], self.reach[cells.first]
        inside, is_valid = [], torch.zeros(len(reach), dtype=torch.uint8, device=reach.device)
        for own in objects_at_a_time(len(self.gt_boxes) if len(reach) else 0, len(reach)):
            in_box, is_near = centre_priors(centres, reach, self.gt_boxes[own])
            is_valid |= (in_box | is_near).view(torch.uint8).amax(dim=0)  # `any` takes a hundred times as long
            inside += [cells.anchors(row.nonzero()[:, 0]) for row in in_box & is_near]
        return inside, cells.anchors(is_valid.nonzero()[:, 0])
