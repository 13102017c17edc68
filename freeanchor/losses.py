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
from torchvision.ops import sigmoid_focal_loss

from freeanchor.boxes import DELTA_WEIGHTS, decode_boxes, encode_boxes, pairwise_iou
from freeanchor.matching import IGNORED, anchor_bags, assign_by_iou, match_probability, mean_max

Terms = dict[str, Tensor]
LIKELIHOODS = ("mean-max", "detached", "max")
EXCUSES = ("per-class", "per-anchor", "none")
# From this process's count of what a loss is divided by, to the count it shall be divided by: see `__call__`.
TotalCount = Callable[[int], int]


def _widen(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is where it is wider already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_pairing(logits: Tensor, gt_boxes: Sequence[Tensor], gt_labels: Sequence[Tensor]) -> None:
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
        _check_pairing(logits, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            logits, deltas, anchors = _widen(logits), _widen(deltas), _widen(anchors)
            assignments = [self._assign(anchors, boxes.to(anchors)) for boxes in gt_boxes]
            num_matched = total_count(sum(int((assignment >= 0).sum()) for assignment in assignments))
            targets = torch.zeros_like(logits)
            box = deltas.sum() * 0
            for image, assignment in enumerate(assignments):
                matched = (assignment >= 0).nonzero()[:, 0]
                objects = assignment[matched]
                targets[image, matched, gt_labels[image][objects]] = 1
                goals = encode_boxes(gt_boxes[image].to(anchors)[objects], anchors[matched])
                box = box + self._distance(deltas[image, matched], goals)
            taking_part = torch.stack(assignments) != IGNORED
            classification = sigmoid_focal_loss(
                logits[taking_part], targets[taking_part], alpha=self.alpha, gamma=self.gamma, reduction="sum"
            )
            # DEVIATION(D15): the authors' baseline divides its box term by 4 * 0 where no anchor of a batch is matched.
            over_all, over_boxes = num_matched + total_count(len(logits)), 4 * max(1, num_matched)
            if self.convention == "mmdetection":
                over_all = over_boxes = max(1, num_matched)
            return {"classification": classification / over_all, "box": self.box_weight * box / over_boxes}

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
        _check_pairing(logits, gt_boxes, gt_labels)
        with torch.autocast(logits.device.type, enabled=False):
            logits, deltas, anchors = _widen(logits), _widen(deltas), _widen(anchors)
            negative = _background_loss(logits, self.gamma)
            positive = deltas.sum() * 0  # keeps a gradient, of zeros, where no picture has an object
            for image, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
                if len(boxes) == 0:
                    continue
                picture = logits[image], deltas[image], anchors, boxes.to(anchors), labels
                positive = positive + self._bag_loss(self.confidence(*picture)[1])
                if self.excuse != "none":
                    negative = negative + self._excused(*picture)
            num_objects = max(1, total_count(sum(len(boxes) for boxes in gt_boxes)))  # DEVIATION(D8): of the batch
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
        cls_prob = logits[bags, gt_labels[:, None]].sigmoid()
        targets = encode_boxes(gt_boxes[:, None], anchors[bags])
        loc_prob = torch.exp(-self.box_weight * _smooth_l1(deltas[bags], targets, self.smooth_l1_beta))
        return bags, cls_prob * loc_prob

    def _bag_loss(self, confidence: Tensor) -> Tensor:
        """-log likelihood summed over objects; the floor keeps a bag without any confidence finite."""
        if self.likelihood == "max":
            likelihood = confidence.amax(dim=-1)
        else:
            likelihood = mean_max(confidence, detach_weights=self.likelihood == "detached")
        return -torch.log(likelihood.clamp(min=torch.finfo(likelihood.dtype).tiny)).sum()

    def _excused(self, logits: Tensor, deltas: Tensor, anchors: Tensor, gt_boxes: Tensor, gt_labels: Tensor) -> Tensor:
        """What the background loss of one picture changes by for its (anchor, class) pairs that predict an object.

        Only those few pairs have P{a in A-} < 1, so the rest never leaves the dense sum of `_background_loss`.
        """
        anchor, label, match_prob = excused_pairs(deltas, anchors, gt_boxes, gt_labels, self.match_iou)
        if self.excuse == "per-anchor":
            anchor, label, match_prob = _for_all_classes(anchor, match_prob, logits.shape[1])
        logit = logits[anchor, label]
        prob = logit.sigmoid()
        # 1 - q with q = p (1 - P), written as sigmoid(-x) + p P: exact where p is 1, and never 0 as P > 0.
        focal = (prob * (1 - match_prob)).pow(self.gamma) * -torch.log(torch.sigmoid(-logit) + prob * match_prob)
        # P = 1 leaves nothing of the term; its power would have no gradient at 0 for gamma below 1.
        focal = torch.where(match_prob < 1, focal, torch.zeros_like(focal))
        return focal.sum() - _background_loss(logit, self.gamma)


def excused_pairs(
    deltas: Float[Tensor, "A 4"],
    anchors: Float[Tensor, "A 4"],
    gt_boxes: Float[Tensor, "G 4"],
    gt_labels: Int[Tensor, "G"],
    match_iou: float,
) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"], Float[Tensor, "P"]]:
    """The (anchor, class) pairs of one picture with max_i P{a -> b_i} > 0, i of that class, and that maximum.

    P{a in A-} of Eq. 4 is one minus it, for each class apart (DEVIATION(D1)). No gradient (DEVIATION(D5)).
    """
    with torch.no_grad():
        match_prob = match_probability(pairwise_iou(gt_boxes, decode_boxes(deltas, anchors)), match_iou)
        objects, anchor = match_prob.nonzero(as_tuple=True)
        pairs = torch.stack([anchor, gt_labels[objects]], dim=1)
        unique, place = pairs.unique(dim=0, return_inverse=True)
        best = match_prob.new_zeros(len(unique)).scatter_reduce(0, place, match_prob[objects, anchor], "amax")
    return unique[:, 0], unique[:, 1], best


def _for_all_classes(anchor: Tensor, match_prob: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of `excused_pairs` where each anchor's best match probability excuses it for every class."""
    unique, place = anchor.unique(return_inverse=True)
    best = match_prob.new_zeros(len(unique)).scatter_reduce(0, place, match_prob, "amax")
    labels = torch.arange(num_classes, device=anchor.device).repeat(len(unique))
    return unique.repeat_interleave(num_classes), labels, best.repeat_interleave(num_classes)


def _background_loss(logits: Tensor, gamma: float) -> Tensor:
    """Sum of FL(p) = -p^gamma log(1 - p) over scores p (Sec. 3.3), as if every anchor were background."""
    return (logits.sigmoid().pow(gamma) * functional.softplus(logits)).sum()


def _check_focal(alpha: float, gamma: float, smooth_l1_beta: float, box_weight: float) -> None:
    """Refuse focal and box parameters that give no loss."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie in (0, 1), got {alpha}")
    if not (gamma == 0 or gamma >= 1):
        raise ValueError(f"gamma must be 0 or at least 1, got {gamma}; between, the gradient at score 0 is infinite")
    if smooth_l1_beta < 0 or box_weight < 0:
        raise ValueError(f"smooth_l1_beta and box_weight must not be negative, got {smooth_l1_beta} and {box_weight}")
