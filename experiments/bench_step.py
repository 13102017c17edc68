"""A training step against peers: ResNet-50 at 800 px, and where the time of a step on `shapes` goes.

At 800 px three detectors step in turn on the same picture: FreeAnchor, RetinaNet, and torchvision's
`retinanet_resnet50_fpn`, with the stem and the first stage frozen in all of them.

    rows = bench_step(repetitions=5) + bench_shapes_step(repetitions=20)
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from experiments.bench_rows import BenchRow, interleaved, medians
from experiments.registry.build import build_profile
from experiments.registry.config import Training
from experiments.step_cost import make_batch, step_training, tame
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import Batch, Sample, collate, read_split
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.state import TrainingState, start
from freeanchor.training.step import training_step

NUM_CLASSES = 80
PARTS = ("data", "network", "loss", "optimizer")


def bench_step(runtime: Runtime, repetitions: int, num_pictures: int = 1, key: str = "r50") -> list[BenchRow]:
    """FreeAnchor over RetinaNet, and both over torchvision's, a step at 800x1344 with seven objects a picture."""
    batch = make_batch(num_pictures, NUM_CLASSES)
    calls = {detector: _our_step(detector, key, batch, runtime) for detector in ("FreeAnchor", "RetinaNet")}
    calls["torchvision's retinanet_resnet50_fpn"] = _torchvision_step(batch, runtime)
    seconds = medians(interleaved(calls, repetitions, runtime.device))
    precision = str(runtime.dtype).removeprefix("torch.")
    what = f"ResNet-50, {num_pictures} picture(s) of 800x1344, {precision}"
    pairs = [("FreeAnchor", "RetinaNet", 1.0), *((ours, list(calls)[2], 0.9) for ours in ("FreeAnchor", "RetinaNet"))]
    return [
        BenchRow(subject="training step", what=f"{what}: {ours}", unit="s", ours=seconds[ours], peer=peer,
                 theirs=seconds[peer], aim=aim, repetitions=repetitions)
        for ours, peer, aim in pairs
    ]  # fmt: skip


def _our_step(detector: str, key: str, batch: Batch, runtime: Runtime) -> Callable[[], object]:
    """A step of one of ours, as `freeanchor train` takes it."""
    training = step_training(detector, key)
    state = start(training.model, training.recipe, runtime)
    tame(state.model)
    return lambda: training_step(state, [batch], training.recipe, runtime)


def _torchvision_step(batch: Batch, runtime: Runtime) -> Callable[[], None]:
    """A step of torchvision's detector with the same optimizer, from pictures in [0, 1]."""
    # as `retinanet_resnet50_fpn` builds it around pretrained weights: batch norm, the stem and layer1 frozen
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(2048, 256)}
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3, **levels)
    model = RetinaNet(body, NUM_CLASSES)
    model = model.to(runtime.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)
    images = [image.sigmoid().to(runtime.device) for image in batch.images]
    targets = [
        {"boxes": boxes.to(runtime.device), "labels": labels.to(runtime.device)}
        for boxes, labels in zip(batch.gt_boxes, batch.gt_labels, strict=True)
    ]

    def step() -> None:
        """Forward, backward, update."""
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            losses = model(images, targets)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def bench_shapes_step(runtime: Runtime, repetitions: int) -> list[BenchRow]:
    """Pictures a second of FreeAnchor's small training on `shapes`, and the share of each part of a step."""
    training = build_profile("shapes").evaluations["freeanchor-small-s0"].training
    assert isinstance(training, Training)
    recipe, size = training.recipe, training.recipe.batch_size
    with TemporaryDirectory() as folder:
        write_shapes(ShapesConfig(num_train=4 * size, num_val=1), Path(folder))
        split = read_split(Path(folder), "train")
        stream = TrainingStream(split, training.inputs, recipe.augment, recipe.seed, recipe.aspect_group)
        state = start(training.model, recipe, runtime)
        timings = []
        for number in range(repetitions + 2):
            positions = [(number * size + place) % (4 * size) for place in range(size)]
            timings.append(_timed_parts(state, training, partial(_load, stream, positions), runtime))
    seconds = {part: median([own[part] for own in timings[2:]]) for part in PARTS}
    whole = sum(seconds.values())
    what = f"shapes, small backbone, {size} pictures of {training.inputs.short_side} px"
    share = ", ".join(f"{part} {seconds[part] / whole:.0%}" for part in PARTS)
    rate = BenchRow(subject="shapes step", what=f"{what}: pictures a second", unit="1/s", ours=size / whole,
                    repetitions=repetitions, note=share)  # fmt: skip
    parts = [
        BenchRow(subject="shapes step", what=f"{what}: {part}", unit="s", ours=seconds[part], repetitions=repetitions)
        for part in PARTS
    ]
    return [rate, *parts]


def _load(stream: TrainingStream, positions: list[int]) -> list[Sample]:
    """The samples at some positions of the stream."""
    return [stream[position] for position in positions]


def _timed_parts(
    state: TrainingState, training: Training, load: Callable[[], list[Sample]], runtime: Runtime
) -> dict[str, float]:
    """Seconds of each part of one step; the network's and the loss's include their gradients."""
    clock = time.perf_counter
    begun = clock()
    batch = collate(load())
    loaded = clock()
    with runtime.autocast():
        output = state.model(batch.images.to(memory_format=torch.channels_last))
    logits, deltas = output.logits.detach().requires_grad_(), output.deltas.detach().requires_grad_()
    seen = clock()
    terms = training.recipe.loss(logits, deltas, output.anchors, batch.gt_boxes, batch.gt_labels)
    torch.stack(list(terms.values())).sum().backward()
    judged = clock()
    torch.autograd.backward([output.logits, output.deltas], [logits.grad, deltas.grad])
    learned = clock()
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    ended = clock()
    network = seen - loaded + learned - judged
    return dict(zip(PARTS, (loaded - begun, network, judged - seen, ended - learned), strict=True))
