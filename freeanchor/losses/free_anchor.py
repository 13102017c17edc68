"""The two training losses behind one signature: RetinaNet's (Eq. 1) and FreeAnchor's (Eq. 7).

A loss is a frozen set of hyper-parameters that can be called; it holds no state and no network. The sum of the terms
it returns is what to minimise. Arithmetic is float32 or wider whatever comes in: near its threshold the match
probability is 0/0 in float32 already, and all but certain to be in float16.

    loss = FreeAnchorLoss(bag_size=50)
    terms = loss(logits, deltas, anchors, gt_boxes, gt_labels)
    sum(terms.values()).backward()

Logits are [B, A, K], deltas [B, A, 4] coded with weights (10, 10, 5, 5), anchors [A, 4]; `gt_boxes` and `gt_labels`
hold one tensor per image, [G_i, 4] xyxy and [G_i] int64 in 0..K-1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeanchor.boxes import encode_boxes
from freeanchor.losses.focal import (
    Terms,
    TotalCount,
    _check_focal,
    _smooth_l1,
    _widen,
    background_focal_loss,
    check_pairing,
)
from freeanchor.losses.matching import anchor_bags, excused_pairs, for_all_classes, mean_max, missed_focal_loss

LIKELIHOODS = ("mean-max", "detached", "max")
EXCUSES = ("per-class", "per-anchor", "none")


@dataclass(frozen=True, kw_only=True)
class FreeAnchorLoss:
    """The detection customized loss, Eq. 7, as its authors coded it (modeling/rpn/free_anchor_loss.py).

    Where the paper is silent or says otherwise: an anchor is excused from being background for each class apart, not
    for all at once (DEVIATION(D1), DEVIATION(D2)); the match probability looks at all anchors' predictions and passes
    no gradient (DEVIATION(D4), DEVIATION(D5)); Mean-max passes its gradient through its weights (DEVIATION(D6)).

    `likelihood` and `excuse` take parts of it away, for ablations. "max" is Eq. 6 as it stands, "detached" Mean-max
    without the gradient of its weights. An anchor is excused "per-anchor" for all classes at once (Eq. 4 as it
    stands), or never ("none"): P{a -> b} = 0, so that all of a bag's anchors are background besides.
    """

    bag_size: int = 50  # n, Sec. 4.3
    match_iou: float = 0.6  # t, Sec. 4.3
    box_weight: float = 0.75  # beta, Sec. 4.3
    alpha: float = 0.5  # Sec. 4.3
    gamma: float = 2.0  # Sec. 4.3
    smooth_l1_beta: float = 0.11  # authors' code: BBOX_REG_BETA
    likelihood: Literal["mean-max", "detached", "max"] = "mean-max"
    excuse: Literal["per-class", "per-anchor", "none"] = "per-class"

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        for name, known in (("likelihood", LIKELIHOODS), ("excuse", EXCUSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.bag_size < 1:
            raise ValueError(f"bag_size must be at least 1 anchor, got {self.bag_size}")
        if not 0 <= self.match_iou < 1:
            raise ValueError(f"match_iou must lie in [0, 1), got {self.match_iou}; pass a fraction, not a percentage")
        _check_focal(self.alpha, self.gamma, self.smooth_l1_beta, self.box_weight)

    def __call__(
        self,
        logits: Float[Tensor, "B A K"],
        deltas: Float[Tensor, "B A 4"],
        anchors: Float[Tensor, "A 4"],
        gt_boxes: Sequence[Float[Tensor, "_ 4"]],
        gt_labels: Sequence[Int[Tensor, "_"]],
        total_count: TotalCount = int,
    ) -> Terms:
        """Terms `positive` (bags) and `negative` (background), scalars, weighted by w1 and w2 of Eq. 7.

        `total_count` sums a count over the processes that share a batch: the default is a batch of this process's own.
        """
        check_pairing(logits, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            deltas, anchors = _widen(deltas), _widen(anchors)
            boxes = [own.to(anchors) for own in gt_boxes]
            # Anchors are counted through the batch, [B * A], and scores through all of them, [B * A * K].
            bags = torch.cat([anchor_bags(anchors, own, self.bag_size) for own in boxes])
            firsts = [image * len(anchors) for image, own in enumerate(boxes) for _ in own]
            places = bags + torch.tensor(firsts, dtype=torch.int64, device=bags.device)[:, None]
            in_bags = places * logits.shape[2] + torch.cat(list(gt_labels))[:, None]
            excused, match_prob = self._excused_scores(logits, deltas, anchors, boxes, gt_labels)
            exceptions = torch.cat([in_bags.flatten(), excused]).unique()
            background, few = background_focal_loss(logits, exceptions, self.gamma)

            score = few[torch.searchsorted(exceptions, in_bags)]
            confidence = self._confidence(score, deltas.flatten(0, 1)[places], anchors[bags], torch.cat(boxes))
            # The empty sum keeps a gradient, of zeros, where no image has an object.
            positive = self._bag_loss(confidence) + deltas.sum() * 0
            match_prob_of_few = few.new_zeros(len(few))
            match_prob_of_few[torch.searchsorted(exceptions, excused)] = match_prob.to(few)
            negative = background + missed_focal_loss(few, match_prob_of_few, self.gamma).sum()
            num_objects = max(1, total_count(len(bags)))  # DEVIATION(D8): of the batch
            return {
                "positive": self.alpha * positive / num_objects,
                "negative": (1 - self.alpha) * negative / (self.bag_size * num_objects),
            }

    def confidence(
        self,
        logits: Float[Tensor, "A K"],
        deltas: Float[Tensor, "A 4"],
        anchors: Float[Tensor, "A 4"],
        gt_boxes: Float[Tensor, "G 4"],
        gt_labels: Int[Tensor, "G"],
    ) -> tuple[Int[Tensor, "G n"], Float[Tensor, "G n"]]:
        """Bags of one image's objects, and the likelihood set X_i of Eq. 7: P^cls * P^loc of each anchor in a bag."""
        bags = anchor_bags(anchors, gt_boxes, self.bag_size)
        return bags, self._confidence(logits[bags, gt_labels[:, None]], deltas[bags], anchors[bags], gt_boxes)

    def _confidence(self, score: Tensor, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """X_i of Eq. 7 [G, n] for bags whose anchors' logits, deltas and boxes are given, of objects `boxes` [G, 4]."""
        distance = _smooth_l1(deltas, encode_boxes(boxes[:, None], anchors), self.smooth_l1_beta)
        return score.sigmoid() * torch.exp(-self.box_weight * distance)

    def _bag_loss(self, confidence: Tensor) -> Tensor:
        """-log likelihood summed over objects; the floor keeps a bag without any confidence finite."""
        if self.likelihood == "max":
            likelihood = confidence.amax(dim=-1)
        else:
            likelihood = mean_max(confidence, detach_weights=self.likelihood == "detached")
        return -torch.log(likelihood.clamp(min=torch.finfo(likelihood.dtype).tiny)).sum()

    @torch.no_grad()
    def _excused_scores(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, gt_boxes: Sequence[Tensor], gt_labels: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Places [P] in the batch's flattened scores of those with P{a in A-} < 1, and what is missing to 1 [P]."""
        scores, match_probs = [torch.empty(0, dtype=torch.int64, device=logits.device)], [deltas.new_empty(0)]
        for image, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
            if self.excuse == "none" or len(boxes) == 0:
                continue
            anchor, label, match_prob = excused_pairs(deltas[image], anchors, boxes, labels, self.match_iou)
            if self.excuse == "per-anchor":
                anchor, label, match_prob = for_all_classes(anchor, match_prob, logits.shape[2])
            scores.append((image * len(anchors) + anchor) * logits.shape[2] + label)
            match_probs.append(match_prob)
        return torch.cat(scores), torch.cat(match_probs)
