"""FreeAnchor's detection customized loss, Eq. 7, from top to bottom:

    L'' = -w1 sum_i log Mean-max(X_i) + w2 sum_j FL(P{a_j in A-} (1 - P_j^bg))

    loss = FreeAnchorLoss(bag_size=50)
    terms = loss(logits, deltas, anchors, gt_boxes, gt_labels)
    sum(terms.values()).backward()

A loss is a frozen set of hyper-parameters that can be called; it holds no state and no network. Arithmetic is float32
or wider whatever comes in: near its threshold the match probability is close to 0/0 in float32 already.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import encode_boxes
from freeanchor.losses import focal, overlaps, targets
from freeanchor.losses.focal import Terms, TotalCount, background_focal_loss, smooth_l1
from freeanchor.losses.targets import Ragged

LIKELIHOODS = ("mean-max", "detached", "max")
EXCUSES = ("per-class", "per-anchor", "none")


@dataclass(frozen=True, kw_only=True)
class FreeAnchorLoss:
    """Eq. 7 as its authors coded it (modeling/rpn/free_anchor_loss.py).

    Where the paper is silent or says otherwise: P{a_j in A-} is found for each class apart, not for all at once
    (DEVIATION(D1), DEVIATION(D2)); the match probability looks at all anchors' predictions and passes no gradient
    (DEVIATION(D4), DEVIATION(D5)); Mean-max passes its gradient through its weights (DEVIATION(D6)).

    `likelihood` and `excuse` take parts of it away, for ablations. "max" is Eq. 6 as it stands, "detached" Mean-max
    without the gradient of its weights. "per-anchor" is P{a_j in A-} of Eq. 4 as it stands, for all classes at once;
    with "none" P{a_j -> b_i} = 0, so that all of a bag's anchors are background too.
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
        for name, known in (("likelihood", LIKELIHOODS), ("excuse", EXCUSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.bag_size < 1:
            raise ValueError(f"bag_size must be at least 1 anchor, got {self.bag_size}")
        if not 0 <= self.match_iou < 1:
            raise ValueError(f"match_iou must lie in [0, 1), got {self.match_iou}; pass a fraction, not a percentage")
        focal.check_settings(self.alpha, self.gamma, self.smooth_l1_beta, self.box_weight)

    def __call__(
        self,
        logits: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        gt_boxes: Ragged,
        gt_labels: Ragged | None = None,
        total_count: TotalCount = int,
    ) -> Terms:
        """Terms `positive` (first sum) and `negative` (second sum), scalars, weighted by w1 and w2.

        Logits are [B, A, K], deltas [B, A, 4] coded with weights (10, 10, 5, 5), anchors [A, 4] or [1, A, 4]. Boxes are
        xyxy, [G, 4] per image, labels [G] of 0 to K - 1; or `gt_boxes` holds both, padded (`losses/targets.py`).
        `total_count` sums a count over the processes that share a batch: the default is a batch of this process's own.
        Raises ValueError where any of them does not fit.
        """
        deltas, anchors, boxes, gt_labels = targets.checked(logits, deltas, anchors, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            # Objects of all images in a row. Places count anchors through the batch, [B * A], and scores, [B * A * K].
            objects, labels = torch.cat(boxes), torch.cat(gt_labels)
            images = torch.cat([torch.full_like(own, image) for image, own in enumerate(gt_labels)])

            # A_i, Algorithm 1, line 4; and max_i P{a_j -> b_i}, Eq. 4, of the few scores where it is not 0.
            bags, matched, match_prob = self._bags_and_matches(logits, deltas, anchors, objects, labels, images)
            places = bags + (images * len(anchors))[:, None]
            in_bags = places * logits.shape[2] + labels[:, None]

            # One pass over all scores: FL summed where P{a_j in A-} = 1 and no bag asks, and the logits of the others.
            exceptions = focal.rising(torch.cat([in_bags.flatten(), matched]), logits.numel())
            background, few = background_focal_loss(logits, exceptions, self.gamma)

            # First sum: X_i = {P_ij^cls P_ij^loc | a_j in A_i}; the floor keeps a bag without any confidence finite.
            score = few[torch.searchsorted(exceptions, in_bags)]
            confidence = self._confidence(score, deltas.flatten(0, 1)[places], anchors[bags], objects)
            likelihood = self._likelihood(confidence)
            positive = -torch.log(likelihood.clamp(min=torch.finfo(likelihood.dtype).tiny)).sum()
            positive = positive + deltas[:, :0].sum()  # a gradient, of zeros, where no image has an object

            # Second sum: P{a_j in A-} = 1 - max_i P{a_j -> b_i}.
            match_prob_of_few = (exceptions == logits.numel()).to(few.dtype)  # what is no score has no loss
            match_prob_of_few.scatter_reduce_(0, torch.searchsorted(exceptions, matched), match_prob.to(few), "amax")
            negative = background + _unmatched_focal_loss(few, match_prob_of_few, self.gamma).sum()

            num_objects = total_count(len(bags))  # ||B||; DEVIATION(D8): of the batch, and each divisor at least 1
            return {
                "positive": self.alpha * positive / max(1, num_objects),  # w1 = alpha / ||B||
                "negative": (1 - self.alpha) * negative / max(1, self.bag_size * num_objects),  # w2: n ||B||
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
        """X_i [G, n]: P^cls = sigmoid(logit) times P^loc = exp(-beta L^loc) (Sec. 3.1)."""
        distance = smooth_l1(deltas, encode_boxes(boxes[:, None], anchors), self.smooth_l1_beta)
        return score.sigmoid() * torch.exp(-self.box_weight * distance)

    def _likelihood(self, confidence: Tensor) -> Tensor:
        if self.likelihood == "max":
            return confidence.amax(dim=-1)
        return mean_max(confidence, detach_weights=self.likelihood == "detached")

    @torch.no_grad()  # DEVIATION(D5)
    def _bags_and_matches(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, objects: Tensor, labels: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bags [G, n], and of pairs [P] with P{a_j -> b_i} > 0 the score's place and that probability.

        A place may come more than once: its probability is the largest, over objects of the score's class
        (DEVIATION(D1)), with "per-anchor" over all objects. Where shapes must be known (`focal.rising`), pairs of
        probability 0 have a place beyond the end.
        """
        size = min(self.bag_size, len(anchors))
        if not len(objects) or not size:
            return labels.new_empty(len(objects), size), labels.new_empty(0), deltas.new_empty(0)
        bags, is_unsure = overlaps.likely_nearest(overlaps.chunked(anchors[None]), objects, size)
        if self.excuse == "none":
            overlaps.settle(bags, focal.places_where(is_unsure)[0], anchors, objects)
            return bags, bags.new_empty(0), deltas.new_empty(0)
        t = self.match_iou if anchors.dtype == torch.float64 else float(np.float32(self.match_iou))  # at it, not above
        predicted = overlaps.chunked_predictions(deltas, anchors)
        unsure, found = focal.places_where(is_unsure, overlaps.chunks_above(predicted, objects, images, t))
        overlaps.settle(bags, unsure, anchors, objects)
        owners, places, iou = overlaps.pairs_above(predicted, objects, images, found, t)
        match_prob = match_probability(owners, iou, len(objects), t)
        is_matched = match_prob > 0  # all are, on a CPU
        num_classes = logits.shape[2]
        if self.excuse == "per-anchor":
            scores = (places * num_classes)[:, None] + torch.arange(num_classes, device=places.device)
            scores = torch.where(is_matched[:, None], scores, logits.numel()).flatten()
            return bags, scores, match_prob.repeat_interleave(num_classes)
        return bags, torch.where(is_matched, places * num_classes + labels[owners], logits.numel()), match_prob


def anchor_bags(anchors: Float[Tensor, "A 4"], gt_boxes: Float[Tensor, "G 4"], bag_size: int) -> Int[Tensor, "G n"]:
    """A_i: indices of the `bag_size` anchors of highest IoU with each object, best first (Algorithm 1, line 4).

    Over all levels, with no IoU floor and no rule about centres; an anchor may sit in several bags. With fewer than
    `bag_size` anchors the bag is all of them.
    """
    return overlaps.nearest(anchors, gt_boxes, bag_size)


def mean_max(confidence: Float[Tensor, "*N n"], *, detach_weights: bool = False) -> Float[Tensor, "*N"]:
    """Mean of a bag's confidences weighted by 1 / (1 - x) (Sec. 3.3, Fig. 3): mean at first, max in the end.

    The gradient flows through the weights too, as in the authors' code, unless `detach_weights`. Values stay in [0, 1]
    up to rounding.
    """
    weights = _odds_weights(confidence.detach() if detach_weights else confidence)
    return (weights * confidence).sum(dim=-1) / weights.sum(dim=-1)


def _odds_weights(confidence: Tensor) -> Tensor:
    """1 / (1 - x), with 1 - x floored at 1e-12 as in the authors' code; the floor's gradient is the identity."""
    rest = 1 - confidence
    floored = rest + (rest.clamp(min=1e-12) - rest).detach()
    return 1 / floored


def mean_max_weights(confidence: Float[Tensor, "*N n"]) -> Float[Tensor, "*N n"]:
    """Each anchor's share in its bag's Mean-max; sums to 1 over the bag."""
    weights = _odds_weights(confidence)
    return weights / weights.sum(dim=-1, keepdim=True)


def effective_anchors(confidence: Float[Tensor, "*N n"]) -> Float[Tensor, "*N"]:
    """How many anchors of a bag its Mean-max really uses: 1 / sum of squared shares.

    n while all confidences are equal (Mean-max is the mean), towards 1 as one anchor takes over (the max).
    """
    return 1 / mean_max_weights(confidence).square().sum(dim=-1)


def saturated_linear(x: Float[Tensor, "*N"], t1: float, t2: Float[Tensor, "*#N"]) -> Float[Tensor, "*N"]:
    """0 up to `t1`, 1 from `t2`, linear between (Sec. 3.2, Fig. 2); 0 everywhere where t2 <= t1.

    The last clause is ours, DEVIATION(D17): the authors' code divides by t2 - t1, 0/0 when an object's best IoU is t1.
    """
    span = t2 - t1
    line = ((x - t1) / torch.where(span > 0, span, torch.ones_like(span))).clamp(0, 1)
    return torch.where(span > 0, line, torch.zeros_like(line))


def match_probability(
    objects: Int[Tensor, "P"], iou: Float[Tensor, "P"], num_objects: int, match_iou: float
) -> Float[Tensor, "P"]:
    """P{a_j -> b_i} of pairs of an object and a predicted box, among them all with an IoU above `match_iou` (Sec. 3.2).

    Predictions are of all anchors, not of the bag alone (DEVIATION(D4)). The best prediction of an object gets 1 if its
    IoU is above `match_iou`, every one at or below it 0: none where no prediction is so good, several on ties
    (DEVIATION(D3)).
    """
    best = iou.new_zeros(num_objects).scatter_reduce_(0, objects, iou, "amax")
    return saturated_linear(iou, match_iou, best[objects])


def _unmatched_focal_loss(logit: Tensor, match_prob: Tensor, gamma: float) -> Tensor:
    """FL(q) = -q^gamma log(1 - q) at q = P{a_j in A-} (1 - P_j^bg) = (1 - match_prob) p; 0 where match_prob is 1."""
    prob = logit.sigmoid()
    partly = (match_prob > 0) & (match_prob < 1)
    # 1 - q as sigmoid(-x) + p P: exact where p is 1, and never 0 as P > 0. Where P = 0, softplus is exact for any x.
    rest = torch.where(partly, torch.sigmoid(-logit) + prob * match_prob, 1)
    surprise = torch.where(partly, -torch.log(rest), functional.softplus(logit))
    focal_loss = (prob * (1 - match_prob)).pow(gamma) * surprise
    return torch.where(match_prob < 1, focal_loss, 0)
