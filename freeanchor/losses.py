"""The two training losses behind one signature: RetinaNet's (Eq. 1) and FreeAnchor's (Eq. 7).

A loss is a frozen set of hyper-parameters that can be called; it holds no state and no network. The sum of the terms
it returns is what to minimise. Arithmetic is float32 or wider whatever comes in: near its threshold the match
probability is 0/0 in float32 already, and all but certain to be in float16.

    loss = FreeAnchorLoss(bag_size=50)
    terms = loss(logits, deltas, anchors, gt_boxes, gt_labels)
    sum(terms.values()).backward()

Logits are [B, A, K], deltas [B, A, 4] coded with weights (10, 10, 5, 5), anchors [A, 4]; `gt_boxes` and `gt_labels`
hold one tensor a picture, [G_i, 4] xyxy and [G_i] int64 in 0..K-1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from freeanchor.boxes import DELTA_WEIGHTS, encode_boxes
from freeanchor.excuse import excused_pairs, for_all_classes, missed_focal_loss
from freeanchor.focal import background_focal_loss, widened
from freeanchor.matching import IGNORED, anchor_bags, assign_by_iou, mean_max

Terms = dict[str, Tensor]
LIKELIHOODS = ("mean-max", "detached", "max")
EXCUSES = ("per-class", "per-anchor", "none")
# From this process's count of what a loss is divided by, to the count it shall be divided by: see `__call__`.
TotalCount = Callable[[int], int]


def _widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is wider already."""
    return tensor.to(widened(tensor.dtype))


def check_pairing(logits: Tensor, gt_boxes: Sequence[Tensor], gt_labels: Sequence[Tensor]) -> None:
    """Refuse ground truth that does not pair with the batch, with itself, or with the classes."""
    if not len(logits) == len(gt_boxes) == len(gt_labels):
        raise ValueError(
            f"{len(logits)} pictures, {len(gt_boxes)} gt_boxes and {len(gt_labels)} gt_labels do not pair up"
        )
    for image, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
        if len(boxes) != len(labels):
            raise ValueError(
                f"picture {image} has {len(boxes)} gt_boxes and {len(labels)} gt_labels; give one label a box"
            )
        if len(labels) and not 0 <= (wrong := int(labels[_farthest(labels, logits.shape[2])])) < logits.shape[2]:
            raise ValueError(
                f"picture {image} has label {wrong}; labels are 0 to {logits.shape[2] - 1}, not category ids"
            )


def _farthest(labels: Tensor, num_classes: int) -> int:
    """Place of the label farthest from the middle of the classes: if any is out of range, this one is."""
    return int((2 * labels - num_classes + 1).abs().argmax())


def _smooth_l1(deltas: Tensor, targets: Tensor, smooth_l1_beta: float) -> Tensor:
    """Smooth-L1 distance summed over the four deltas; plain L1 at beta 0."""
    return functional.smooth_l1_loss(deltas, targets, reduction="none", beta=smooth_l1_beta).sum(dim=-1)


@dataclass(frozen=True, kw_only=True)
class RetinaNetLoss:
    """Focal loss and smooth-L1 on anchors assigned by IoU: Eq. 1 as RetinaNet has it.

    `convention="authors"`: classification is divided by matched anchors plus pictures, box terms by four times the
    matched anchors (authors' code: modeling/rpn/retinanet_loss.py). "mmdetection": both by the matched anchors, and box
    terms are of plain deltas, not of coded ones (FACTS F); its own transition is `smooth_l1_beta=0`.
    """

    foreground_iou: float = 0.5
    background_iou: float = 0.4
    low_quality_matches: bool = True
    alpha: float = 0.25
    gamma: float = 2.0
    smooth_l1_beta: float = 0.11
    box_weight: float = 1.0
    convention: Literal["authors", "mmdetection"] = "authors"

    def __post_init__(self) -> None:
        """Refuse thresholds out of order and weights out of range."""
        if not 0 <= self.background_iou <= self.foreground_iou <= 1:
            raise ValueError(
                f"background_iou and foreground_iou must be fractions in this order, got {self.background_iou} and "
                f"{self.foreground_iou}"
            )
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
        """Terms `classification` and `box`, scalars; `total_count` sums counts over processes that share a batch."""
        check_pairing(logits, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            deltas, anchors = _widen(deltas), _widen(anchors)
            boxes = [own.to(anchors) for own in gt_boxes]
            assignments = torch.cat([self._assign(anchors, own) for own in boxes])
            # Objects and anchors are counted through the batch: picture i's anchors begin at i * A.
            firsts = torch.tensor([0, *map(len, boxes)], device=anchors.device).cumsum(0)[:-1]
            matched = (assignments >= 0).nonzero()[:, 0]
            objects = assignments[matched] + firsts[matched // len(anchors)]
            goals = encode_boxes(torch.cat(boxes)[objects], anchors[matched % len(anchors)])
            box = deltas.sum() * 0 + self._distance(deltas.flatten(0, 1)[matched], goals)
            focal = self._focal(logits, assignments, matched, torch.cat(list(gt_labels))[objects])
            num_matched = total_count(len(matched))
            # DEVIATION(D15): the authors' baseline divides its box term by 4 * 0 where no anchor of a batch is matched.
            over_all, over_boxes = num_matched + total_count(len(logits)), 4 * max(1, num_matched)
            if self.convention == "mmdetection":
                over_all = over_boxes = max(1, num_matched)
            return {"classification": focal / over_all, "box": self.box_weight * box / over_boxes}

    def _focal(self, logits: Tensor, assignments: Tensor, matched: Tensor, labels: Tensor) -> Tensor:
        """Focal loss (Lin et al. 2017, Eq. 5) summed over the scores of all anchors [B * A] but the ignored ones."""
        num_classes = logits.shape[2]
        positives = matched * num_classes + labels
        ignored = (assignments == IGNORED).nonzero() * num_classes + torch.arange(num_classes, device=logits.device)
        exceptions = torch.cat([positives, ignored.flatten()]).sort().values
        background, few = background_focal_loss(logits, exceptions, self.gamma)
        score = few[torch.searchsorted(exceptions, positives)]
        foreground = (torch.sigmoid(-score).pow(self.gamma) * functional.softplus(-score)).sum()
        return (1 - self.alpha) * background + self.alpha * foreground

    def _distance(self, deltas: Tensor, goals: Tensor) -> Tensor:
        """Summed smooth-L1 of matched anchors' deltas, in the units of the convention."""
        units = deltas.new_tensor(DELTA_WEIGHTS if self.convention == "mmdetection" else (1.0,))
        return _smooth_l1(deltas / units, goals / units, self.smooth_l1_beta).sum()

    def _assign(self, anchors: Tensor, gt_boxes: Tensor) -> Tensor:
        """Assignment [A] of one picture, without gradient."""
        return assign_by_iou(
            anchors,
            gt_boxes,
            foreground_iou=self.foreground_iou,
            background_iou=self.background_iou,
            low_quality_matches=self.low_quality_matches,
        )


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
            # The empty sum keeps a gradient, of zeros, where no picture has an object.
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
        """Bags of one picture's objects, and the likelihood set X_i of Eq. 7: P^cls * P^loc of each anchor in a bag."""
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


def _check_focal(alpha: float, gamma: float, smooth_l1_beta: float, box_weight: float) -> None:
    """Refuse focal and box parameters that give no loss."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    if not (gamma == 0 or gamma >= 1):
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}; between, the gradient at score 0 is infinite")
    if smooth_l1_beta < 0 or box_weight < 0:
        raise ValueError(f"smooth_l1_beta and box_weight must not be negative, got {smooth_l1_beta} and {box_weight}")
