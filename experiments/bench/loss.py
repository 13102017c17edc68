"""The losses at COCO's size, against the authors' dense layout and torchvision's focal loss.

Two images of 800x1216 (182,403 anchors), 80 classes, forward and backward, for few objects and for many; crowds of
up to 1,000 objects in an image; and how time and memory grow.

    rows = bench_loss(device="cpu", repetitions=5)
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from experiments.bench.rows import BenchRow, growth_exponent, medians, peak_tensor_bytes
from freeanchor.anchors import AnchorConfig, grid_anchors, grid_sizes
from freeanchor.boxes import decode_boxes, encode_boxes
from freeanchor.losses import ATSS, TAL, IoUThresholds, SimOTA
from freeanchor.losses.assignment import Predictions
from freeanchor.losses.free_anchor import FreeAnchorLoss, anchor_bags
from freeanchor.losses.reference import dense_loss
from freeanchor.losses.retinanet import RetinaNetLoss

HEIGHT, WIDTH, NUM_CLASSES = 800, 1216, 80
CROWDS = (125, 250, 500, 1000)  # objects in one image
CROWD_LIMIT = 1e9  # bytes
BASELINE = "our RetinaNetLoss"
DENSE, FOCAL = "authors' dense layout", "torchvision's sigmoid_focal_loss"
WHY_SLOWER = (
    "against our RetinaNetLoss: the same single pass over the logits; bags need the overlaps of objects x anchors as "
    "the assignment does, match probabilities those of the few chunks of predictions that may reach the threshold"
)
NUM_ASSIGNED = 60
PER_OBJECT = 200  # anchors whose prediction is drawn to their object, as in a trained detector


class LossScene(NamedTuple):
    """What a loss is called with."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    gt_boxes: list[Tensor]
    gt_labels: list[Tensor]


def bench_loss(device: str = "cpu", repetitions: int = 5, scale: float = 1.0) -> list[BenchRow]:
    """All rows; `scale` shrinks the image's sides, for tests."""
    rows = []
    for num_objects in (7, 60):
        rows += _compare(loss_scene(2, num_objects, device, scale), num_objects, device, repetitions)
    rows += _assigners(device, repetitions, scale)
    return [*rows, *_crowds(device, repetitions, scale), *_growth_in_anchors(device, repetitions, scale)]


def _assigners(device: str, repetitions: int, scale: float) -> list[BenchRow]:
    """Time of one image's assignment by each method against IoU thresholds, predictions at hand."""
    scene, (height, width) = loss_scene(1, NUM_ASSIGNED, device, scale), _sides(scale)
    cells = [rows * columns for rows, columns in grid_sizes(AnchorConfig(), height, width)]
    sizes = [AnchorConfig().num_per_cell * number for number in cells]
    with torch.no_grad():
        said = Predictions(boxes=decode_boxes(scene.deltas[0], scene.anchors), scores=scene.logits[0].sigmoid())
    strides = (
        torch.tensor(AnchorConfig().strides, device=device)
        .float()
        .repeat_interleave(torch.tensor(sizes, device=device))
    )
    given: dict[str, Any] = {"level_sizes": sizes, "strides": strides, "predictions": said}
    calls = {
        type(method).__name__: partial(method.assign, scene.anchors, scene.gt_boxes[0], scene.gt_labels[0], **given)
        for method in (IoUThresholds(), ATSS(), SimOTA(), TAL())
    }
    seconds = medians(calls, repetitions, device)
    baseline = seconds.pop(IoUThresholds.__name__)
    row = partial(BenchRow, subject="assignment", unit="s", theirs=baseline, aim=2.0, repetitions=repetitions)
    what = f"{len(scene.anchors):,} anchors, {NUM_ASSIGNED} objects"
    return [row(what=f"{name}, {what}", ours=own, peer="IoUThresholds") for name, own in seconds.items()]


def _compare(scene: LossScene, num_objects: int, device: str, repetitions: int) -> list[BenchRow]:
    """Time against all peers, and memory against the logits."""
    calls = loss_calls(scene)
    seconds = medians(calls, repetitions, device)
    what = f"FreeAnchorLoss, forward and backward, 2 x {num_objects} objects"
    rows = [
        BenchRow(subject="loss", what=what, unit="s", ours=seconds["ours"], peer=peer, theirs=seconds[peer],
                 aim=aim, repetitions=repetitions, note=WHY_SLOWER if peer == BASELINE else "")
        for peer, aim in {DENSE: 0.2, BASELINE: 1.0, FOCAL: 1.0}.items()
    ]  # fmt: skip
    size = scene.logits.numel() * scene.logits.element_size()
    note = f"authors' dense layout: {peak_tensor_bytes(calls[DENSE], device) / 1e6:.0f} MB"
    peak = peak_tensor_bytes(calls["ours"], device) / 1e6
    memory = BenchRow(subject="loss", what=f"{what}: memory beyond the inputs, gradients included", unit="MB",
                      ours=peak, peer="the logits", theirs=size / 1e6, aim=2.0, note=note)  # fmt: skip
    return [*rows, memory]


def loss_calls(scene: LossScene) -> dict[str, Callable[[], None]]:
    """Forward and backward of our loss ("ours") and of its peers on a scene, by name."""
    targets = torch.zeros_like(scene.logits)
    return {
        "ours": _free_anchor(scene),
        DENSE: _both_ways(scene, lambda: _sum(dense_loss(FreeAnchorLoss(), *scene))),
        BASELINE: _both_ways(scene, lambda: _sum(RetinaNetLoss()(*scene).values())),
        FOCAL: _both_ways(scene, lambda: sigmoid_focal_loss(scene.logits, targets, reduction="sum")),
    }


def _costs(scenes: Iterable[LossScene], device: str, repetitions: int) -> tuple[list[float], list[int]]:
    """Seconds and bytes at the peak of our loss on each scene."""
    seconds, peaks = [], []
    for scene in scenes:
        call = _free_anchor(scene)
        seconds.append(medians({"ours": call}, repetitions, device)["ours"])
        peaks.append(peak_tensor_bytes(call, device))
    return seconds, peaks


def _growth(
    against: str, sizes: Sequence[int], seconds: list[float], peaks: list[int], repetitions: int
) -> list[BenchRow]:
    told = ", ".join(f"{size:,}: {own:.3g} s" for size, own in zip(sizes, seconds, strict=True))
    row = partial(BenchRow, subject="growth", unit="exponent", aim=1.1)
    return [
        row(what=f"loss: time against {against}", ours=growth_exponent(sizes, seconds), repetitions=repetitions,
            note=told),
        row(what=f"loss: memory against {against}", ours=growth_exponent(sizes, peaks)),
    ]  # fmt: skip


def _crowds(device: str, repetitions: int, scale: float) -> list[BenchRow]:
    """One image with many objects: memory at the most, and growth of time and memory."""
    seconds, peaks = _costs((loss_scene(1, count, device, scale) for count in CROWDS), device, repetitions)
    num_anchors = len(_anchors(*_sides(scale)))
    what = f"{num_anchors:,} anchors, {CROWDS[-1]:,} objects in one image"
    return [
        BenchRow(subject="crowds", what=f"{what}: memory beyond the inputs", unit="MB", ours=peaks[-1] / 1e6,
                 aim=CROWD_LIMIT / 1e6),
        BenchRow(subject="crowds", what=f"{what}: time", unit="s", ours=seconds[-1], repetitions=repetitions),
        *_growth("objects", CROWDS, seconds, peaks, repetitions),
    ]  # fmt: skip


def _growth_in_anchors(device: str, repetitions: int, scale: float) -> list[BenchRow]:
    """Seven objects on images whose number of anchors doubles three times."""
    scales = [scale * share**0.5 for share in (0.125, 0.25, 0.5, 1.0)]
    sizes = [len(_anchors(*_sides(own))) for own in scales]
    seconds, peaks = _costs((loss_scene(2, 7, device, own) for own in scales), device, repetitions)
    return _growth("anchors", sizes, seconds, peaks, repetitions)


def _both_ways(scene: LossScene, total: Callable[[], Tensor]) -> Callable[[], None]:
    """A call that makes a loss and its gradients afresh."""

    def call() -> None:
        total().backward()
        scene.logits.grad = scene.deltas.grad = None

    return call


def _free_anchor(scene: LossScene) -> Callable[[], None]:
    return _both_ways(scene, lambda: _sum(FreeAnchorLoss()(*scene).values()))


def _sum(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def loss_scene(num_images: int, num_objects: int, device: str, scale: float) -> LossScene:
    """Noise for scores, and boxes drawn to the objects that they overlap most, as a trained detector's are."""
    generator = torch.Generator().manual_seed(0)
    height, width = _sides(scale)
    anchors = _anchors(height, width)
    logits = torch.randn(num_images, len(anchors), NUM_CLASSES, generator=generator) - 4
    deltas = 0.5 * torch.randn(num_images, len(anchors), 4, generator=generator)
    gt_boxes, gt_labels = [], []
    for image in range(num_images):
        boxes = _objects(num_objects, height, width, generator)
        bags = anchor_bags(anchors, boxes, PER_OBJECT)
        noise = 0.7 * torch.randn(*bags.shape, 4, generator=generator)
        deltas[image][bags] = encode_boxes(boxes[:, None], anchors[bags]) + noise
        gt_boxes.append(boxes.to(device))
        gt_labels.append(torch.randint(NUM_CLASSES, (num_objects,), generator=generator).to(device))
    return LossScene(
        logits=logits.to(device).requires_grad_(),
        deltas=deltas.to(device).requires_grad_(),
        anchors=anchors.to(device),
        gt_boxes=gt_boxes,
        gt_labels=gt_labels,
    )


def _sides(scale: float) -> tuple[int, int]:
    height, width = (max(64, int(side * scale)) for side in (HEIGHT, WIDTH))
    return height, width


def _anchors(height: int, width: int) -> Tensor:
    config = AnchorConfig()
    return grid_anchors(config, grid_sizes(config, height, width))


def _objects(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Boxes [count, 4] with sides of 16 to 400 px, small ones more often, as in COCO."""
    sides = 16 * (25 ** torch.rand(count, 2, generator=generator))
    sides = torch.minimum(sides, torch.tensor([width - 1.0, height - 1.0]))
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([float(width), float(height)]) - sides)
    return torch.cat([corners, corners + sides], dim=1)
