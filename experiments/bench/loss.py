"""The losses at COCO's size, against the authors' dense layout and torchvision's focal loss.

Two images of 800x1216 (182,403 anchors), 80 classes, forward and backward, for few objects and for many; crowds of
up to 1,000 objects in an image; and how time and memory grow.

    rows = bench_loss(device="cpu", repetitions=5)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from experiments.bench.rows import BenchRow, growth_exponent, interleaved, medians, peak_tensor_bytes
from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.boxes import encode_boxes
from freeanchor.losses.free_anchor import FreeAnchorLoss, anchor_bags
from freeanchor.losses.reference import dense_loss
from freeanchor.losses.retinanet import RetinaNetLoss

HEIGHT, WIDTH, NUM_CLASSES = 800, 1216, 80
CROWD_LIMIT = 1e9  # bytes
BASELINE = "our RetinaNetLoss"
WHY_SLOWER = (
    "against our RetinaNetLoss: it makes the same single pass over the logits; overlaps of predicted boxes, bags and "
    "match probabilities come on top in FreeAnchor and cannot be less than one look at objects x anchors"
)
PER_OBJECT = 200  # anchors whose prediction is drawn to their object, as in a trained detector


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What a loss is called with."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    gt_boxes: list[Tensor]
    gt_labels: list[Tensor]

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, list[Tensor], list[Tensor]]:
        """The positional arguments of a loss, in order."""
        return self.logits, self.deltas, self.anchors, self.gt_boxes, self.gt_labels


def bench_loss(device: str = "cpu", repetitions: int = 5, scale: float = 1.0) -> list[BenchRow]:
    """All rows; `scale` shrinks the image's sides, for tests."""
    rows = []
    for num_objects in (7, 60):
        rows += _compare(_scene(2, num_objects, NUM_CLASSES, device, scale), num_objects, device, repetitions)
    return [*rows, *_crowds(device, repetitions, scale)]


def _compare(scene: _Scene, num_objects: int, device: str, repetitions: int) -> list[BenchRow]:
    free_anchor = FreeAnchorLoss()
    targets = torch.zeros_like(scene.logits)
    calls = {
        "ours": _both_ways(scene, lambda: _sum(free_anchor(*scene.arguments()).values())),
        "authors' dense layout": _both_ways(scene, lambda: _sum(dense_loss(free_anchor, *scene.arguments()))),
        BASELINE: _both_ways(scene, lambda: _sum(RetinaNetLoss()(*scene.arguments()).values())),
        "torchvision's sigmoid_focal_loss": _both_ways(
            scene, lambda: sigmoid_focal_loss(scene.logits, targets, reduction="sum")
        ),
    }
    seconds = medians(interleaved(calls, repetitions, device))
    what = f"FreeAnchorLoss, forward and backward, 2 x {num_objects} objects"
    aims = dict(zip(calls, (0, 0.2, 1.0, 1.0), strict=True))
    rows = [
        BenchRow(subject="loss", what=what, unit="s", ours=seconds["ours"], peer=peer, theirs=seconds[peer],
                 aim=aims[peer], repetitions=repetitions, note=WHY_SLOWER if peer == BASELINE else "")
        for peer in list(calls)[1:]
    ]  # fmt: skip
    size = scene.logits.numel() * scene.logits.element_size()
    dense = peak_tensor_bytes(calls["authors' dense layout"], device)
    rows.append(
        BenchRow(
            subject="loss", what=f"{what}: memory beyond the inputs, gradients included", unit="MB",
            ours=peak_tensor_bytes(calls["ours"], device) / 1e6, peer="the logits", theirs=size / 1e6, aim=2.0,
            note=f"authors' dense layout: {dense / 1e6:.0f} MB",
        )
    )  # fmt: skip
    return rows


def _crowds(device: str, repetitions: int, scale: float) -> list[BenchRow]:
    counts = [125, 250, 500, 1000]
    seconds, peaks = [], []
    for count in counts:
        scene = _scene(1, count, NUM_CLASSES, device, scale)
        call = _free_anchor(scene)
        seconds.append(medians(interleaved({"ours": call}, repetitions, device))["ours"])
        peaks.append(peak_tensor_bytes(call, device))
    told = ", ".join(f"{count}: {own:.2f} s" for count, own in zip(counts, seconds, strict=True))
    what = f"{len(scene.anchors):,} anchors, {counts[-1]:,} objects in one image"
    return [
        BenchRow(subject="crowds", what=f"{what}: memory beyond the inputs", unit="MB", ours=peaks[-1] / 1e6,
                 aim=CROWD_LIMIT / 1e6),
        BenchRow(subject="crowds", what=f"{what}: time", unit="s", ours=seconds[-1], repetitions=repetitions),
        BenchRow(subject="growth", what="loss: time against objects", unit="exponent",
                 ours=growth_exponent(counts, seconds), aim=1.1, repetitions=repetitions, note=told),
        BenchRow(subject="growth", what="loss: memory against objects", unit="exponent",
                 ours=growth_exponent(counts, peaks), aim=1.1),
        *_growth_in_anchors(device, repetitions, scale),
    ]  # fmt: skip


def _growth_in_anchors(device: str, repetitions: int, scale: float) -> list[BenchRow]:
    sizes, seconds, peaks = [], [], []
    for factor in (0.125, 0.25, 0.5, 1.0):
        scene = _scene(2, 7, NUM_CLASSES, device, scale * factor**0.5)
        call = _free_anchor(scene)
        sizes.append(len(scene.anchors))
        seconds.append(medians(interleaved({"ours": call}, repetitions, device))["ours"])
        peaks.append(peak_tensor_bytes(call, device))
    told = ", ".join(f"{size:,.0f}: {own:.3f} s" for size, own in zip(sizes, seconds, strict=True))
    return [
        BenchRow(subject="growth", what="loss: time against anchors", unit="exponent",
                 ours=growth_exponent(sizes, seconds), aim=1.1, repetitions=repetitions, note=told),
        BenchRow(subject="growth", what="loss: memory against anchors", unit="exponent",
                 ours=growth_exponent(sizes, peaks), aim=1.1),
    ]  # fmt: skip


def _both_ways(scene: _Scene, total: Callable[[], Tensor]) -> Callable[[], None]:
    def call() -> None:
        total().backward()
        scene.logits.grad = scene.deltas.grad = None

    return call


def _free_anchor(scene: _Scene) -> Callable[[], None]:
    return _both_ways(scene, lambda: _sum(FreeAnchorLoss()(*scene.arguments()).values()))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def _scene(num_images: int, num_objects: int, num_classes: int, device: str, scale: float) -> _Scene:
    """Noise for scores, and boxes drawn to the objects that they overlap most, as a trained detector's are."""
    generator = torch.Generator().manual_seed(0)
    height, width = (max(64, int(side * scale)) for side in (HEIGHT, WIDTH))
    anchors = _anchors(height, width)
    logits = torch.randn(num_images, len(anchors), num_classes, generator=generator) - 4
    deltas = 0.5 * torch.randn(num_images, len(anchors), 4, generator=generator)
    gt_boxes, gt_labels = [], []
    for image in range(num_images):
        boxes = _objects(num_objects, height, width, generator)
        bags = anchor_bags(anchors, boxes, PER_OBJECT)
        noise = 0.7 * torch.randn(*bags.shape, 4, generator=generator)
        deltas[image][bags] = encode_boxes(boxes[:, None], anchors[bags]) + noise
        gt_boxes.append(boxes.to(device))
        gt_labels.append(torch.randint(num_classes, (num_objects,), generator=generator).to(device))
    return _Scene(
        logits=logits.to(device).requires_grad_(),
        deltas=deltas.to(device).requires_grad_(),
        anchors=anchors.to(device),
        gt_boxes=gt_boxes,
        gt_labels=gt_labels,
    )


def _anchors(height: int, width: int) -> Tensor:
    config = AnchorConfig()
    sizes = [(-(-height // stride), -(-width // stride)) for stride in config.strides]
    return grid_anchors(config, sizes)


def _objects(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes [count, 4] with sides of 16 to 400 px, small ones more often, as in COCO."""
    sides = 16 * (25 ** torch.rand(count, 2, generator=generator))
    sides = torch.minimum(sides, torch.tensor([width - 1.0, height - 1.0]))
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([float(width), float(height)]) - sides)
    return torch.cat([corners, corners + sides], dim=1)
