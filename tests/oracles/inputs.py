"""Small inputs for the two losses: random generic ones, and the fixed list of edge cases.

Predictions are made near the objects, so that match probabilities other than 0 occur. Nothing of the package is used.

    loss(*random_inputs(seed=0).arguments())
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from oracles.boxes import encode
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What a loss is called with."""

    logits: Tensor  # [B, A, K]
    deltas: Tensor  # [B, A, 4]
    anchors: Tensor  # [A, 4]
    gt_boxes: list[Tensor]  # B tensors [G_i, 4]
    gt_labels: list[Tensor]  # B tensors [G_i]

    def arguments(self) -> tuple:
        """The positional arguments of a loss, in order."""
        return self.logits, self.deltas, self.anchors, self.gt_boxes, self.gt_labels

    def to(self, dtype: torch.dtype) -> "LossInputs":
        """The same numbers in another precision; labels stay integers."""
        return LossInputs(
            logits=self.logits.to(dtype),
            deltas=self.deltas.to(dtype),
            anchors=self.anchors.to(dtype),
            gt_boxes=[boxes.to(dtype) for boxes in self.gt_boxes],
            gt_labels=self.gt_labels,
        )

    def leaves(self) -> "LossInputs":
        """The same with fresh logits and deltas that collect gradients."""
        return replace(
            self,
            logits=self.logits.detach().clone().requires_grad_(),
            deltas=self.deltas.detach().clone().requires_grad_(),
        )


def random_boxes(count: int, generator: torch.Generator, side: float = 64.0) -> Tensor:
    """Boxes [count, 4] of sides 10 to 40 px with centres in a square image, float64."""
    centres = side * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    sides = 10 + 30 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=1)


def _deltas_near_objects(anchors: Tensor, gt_boxes: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Deltas [A, 4] that take each anchor near one of the objects in turn, or near itself without objects."""
    targets = torch.zeros(len(anchors), 4, dtype=torch.float64)
    for j in range(len(anchors) if len(gt_boxes) else 0):
        box = gt_boxes[j % len(gt_boxes)]
        targets[j] = torch.tensor(encode(tuple(box.tolist()), tuple(anchors[j].tolist())), dtype=torch.float64)
    return targets + noise * torch.randn(targets.shape, generator=generator, dtype=torch.float64)


def random_inputs(
    seed: int, *, num_objects: tuple = (3, 2), num_anchors: int = 24, num_classes: int = 3, noise: float = 0.7
) -> LossInputs:
    """Generic float64 inputs: one image for each entry of `num_objects`."""
    generator = torch.Generator().manual_seed(seed)
    anchors = random_boxes(num_anchors, generator)
    gt_boxes = [random_boxes(count, generator) for count in num_objects]
    shape = (len(num_objects), num_anchors, num_classes)
    return LossInputs(
        logits=1.5 * torch.randn(shape, generator=generator, dtype=torch.float64) - 1,
        deltas=torch.stack([_deltas_near_objects(anchors, boxes, noise, generator) for boxes in gt_boxes]),
        anchors=anchors,
        gt_boxes=gt_boxes,
        gt_labels=[torch.randint(num_classes, (count,), generator=generator) for count in num_objects],
    )


def exact_threshold_inputs() -> LossInputs:
    """Float32 inputs whose best IoU is float32(0.6) to the last bit: 3 of 5 columns shared, as 12 / 20."""
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    anchors = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 0.0, 5.0, 4.0], [8.0, 8.0, 12.0, 12.0]])
    # dx = 1 px over a 4 px anchor, times 10: every prediction is its anchor moved by one pixel.
    deltas = torch.tensor([[2.5, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    return LossInputs(
        logits=torch.tensor([[[0.5, -1.0], [0.0, 0.25], [-2.0, 1.0]]]),
        deltas=deltas[None],
        anchors=anchors,
        gt_boxes=[box],
        gt_labels=[torch.tensor([0])],
    )


def _with_boxes(change: Callable[[Tensor], Tensor]) -> LossInputs:
    """Generic inputs whose first image's objects are changed after the predictions were made."""
    inputs = random_inputs(11).to(torch.float32)
    return replace(inputs, gt_boxes=[change(inputs.gt_boxes[0]), *inputs.gt_boxes[1:]])


def _tied_scores() -> LossInputs:
    inputs = random_inputs(12).to(torch.float32)
    return replace(inputs, logits=torch.zeros_like(inputs.logits), deltas=torch.zeros_like(inputs.deltas))


def _extreme_logits() -> LossInputs:
    """Scores of exactly 0 and 1 in float32, on predictions that hit an object exactly and on ones that do not."""
    inputs = random_inputs(13, noise=0.0).to(torch.float32)
    return replace(inputs, logits=100 * torch.sign(inputs.logits))


EDGE_CASES: dict[str, Callable[[], LossInputs]] = {
    "image without objects": lambda: random_inputs(1, num_objects=(3, 0)).to(torch.float32),
    "batch without objects": lambda: random_inputs(2, num_objects=(0, 0)).to(torch.float32),
    "fewer anchors than the bag": lambda: random_inputs(3, num_anchors=3).to(torch.float32),
    "a single anchor": lambda: random_inputs(4, num_anchors=1).to(torch.float32),
    "a single class": lambda: random_inputs(5, num_classes=1).to(torch.float32),
    "identical boxes": lambda: _with_boxes(lambda boxes: boxes[:1].expand_as(boxes)),
    "a zero-area box": lambda: _with_boxes(lambda boxes: torch.cat([boxes[:1, [0, 1, 0, 1]], boxes[1:]])),
    "a box of no width": lambda: _with_boxes(lambda boxes: torch.cat([boxes[:1, [0, 1, 0, 3]], boxes[1:]])),
    "an object far from every anchor": lambda: _with_boxes(lambda boxes: boxes + 5000),
    "tied scores": _tied_scores,
    "IoU exactly at the threshold": exact_threshold_inputs,
    "scores of exactly 0 and 1": _extreme_logits,
    "float16": lambda: random_inputs(6).to(torch.float16),
    "bfloat16": lambda: random_inputs(7).to(torch.bfloat16),
    "float16, IoU exactly at the threshold": lambda: exact_threshold_inputs().to(torch.float16),
    "bfloat16, IoU exactly at the threshold": lambda: exact_threshold_inputs().to(torch.bfloat16),
}
