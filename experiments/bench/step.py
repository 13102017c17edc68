"""A training step: against peers at 800 px, part by part on `shapes`, and its cost on every full-size backbone.

At 800 px three detectors step in turn on the same noise: FreeAnchor, RetinaNet, and torchvision's
`retinanet_resnet50_fpn`, with the stem and the first stage frozen in all of them. Costs of full-size models are
measured in one process per cell, so that its peak of memory is its own; nothing here learns.

    rows = bench_step(runtime, repetitions=5) + bench_shapes_step(runtime, repetitions=20)

    python -m experiments.bench.step --sizes 2 --out reports/coco     # step_cost.csv, step_cost.md
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import Bottleneck
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from tqdm import tqdm

from experiments.bench.rows import BenchRow, interleaved, medians
from experiments.registry.build import build_profile
from experiments.registry.config import Training
from experiments.registry.profile import DETECTORS
from experiments.runs.store import provenance
from freeanchor.data.augmentation import TrainingStream
from freeanchor.data.coco import Batch, ImageRecord, Sample, collate, read_split
from freeanchor.files import write_bytes, write_csv
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import write_shapes
from freeanchor.shapes.scene import ShapesConfig
from freeanchor.training.state import TrainingState, start
from freeanchor.training.step import training_step

HEIGHT, WIDTH = 800, 1344  # 800 x 1333, padded to a multiple of 32: 201,600 anchors
NUM_OBJECTS = 7  # COCO's average
NUM_CLASSES = 80
PARTS = ("data", "network", "loss", "optimizer")
BACKBONES = {"r50": "", "r101": "", "x101": "-2x"}  # key -> suffix of the run that has it


def step_training(detector: str, key: str) -> Training:
    """The registered run of a detector on a backbone; for ResNeXt-101, which has no RetinaNet run, its counterpart."""
    evaluations = build_profile("coco").evaluations
    name = f"freeanchor-{key}{BACKBONES[key]}-s0"
    training = evaluations[name].training
    other = evaluations[f"{detector.lower()}-r50-s0"].training
    assert isinstance(training, Training) and isinstance(other, Training)
    if detector == training.detector:
        return training
    model = replace(training.model, prior_prob=other.model.prior_prob)
    return replace(training, detector=detector, model=model, recipe=replace(training.recipe, loss=other.recipe.loss))


def make_batch(num_images: int) -> Batch:
    """Noise of full size with a few objects each."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for number in range(num_images):
        corner = torch.rand(NUM_OBJECTS, 2, generator=generator) * torch.tensor([WIDTH * 0.7, HEIGHT * 0.7])
        boxes = torch.cat([corner, corner + 40 + 150 * torch.rand(NUM_OBJECTS, 2, generator=generator)], dim=1)
        labels = torch.randint(NUM_CLASSES, (NUM_OBJECTS,), generator=generator)
        record = ImageRecord(
            image_id=number, path=Path("noise"), width=WIDTH, height=HEIGHT, boxes=boxes, labels=labels,
            annotation_ids=labels,
        )  # fmt: skip
        image = torch.randn(3, HEIGHT, WIDTH, generator=generator)
        samples.append(Sample(record=record, image=image, boxes=boxes, scale=(1.0, 1.0)))
    return collate(samples)


def tame(model: nn.Module) -> None:
    """Shrink what each block adds: random weights under frozen norms of a hundred layers would overflow."""
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.bn3.weight.data.fill_(0.1)


def bench_step(runtime: Runtime, repetitions: int, num_images: int = 1, key: str = "r50") -> list[BenchRow]:
    """FreeAnchor over RetinaNet, and both over torchvision's, a step at 800x1344 with seven objects per image."""
    batch = make_batch(num_images)
    calls = {detector: _our_step(detector, key, batch, runtime) for detector in ("FreeAnchor", "RetinaNet")}
    calls["torchvision's retinanet_resnet50_fpn"] = _torchvision_step(batch, runtime)
    seconds = medians(calls, repetitions, runtime.device)
    precision = runtime.dtype_name
    what = f"ResNet-50, {num_images} image(s) of 800x1344, {precision}"
    pairs = [("FreeAnchor", "RetinaNet", 1.0), *((ours, list(calls)[2], 0.9) for ours in ("FreeAnchor", "RetinaNet"))]
    return [
        BenchRow(subject="training step", what=f"{what}: {ours}", unit="s", ours=seconds[ours], peer=peer,
                 theirs=seconds[peer], aim=aim, repetitions=repetitions)
        for ours, peer, aim in pairs
    ]  # fmt: skip


def _our_step(detector: str, key: str, batch: Batch, runtime: Runtime) -> Callable[[], object]:
    step = our_training(detector, key, runtime)
    return lambda: step(batch)


def our_training(detector: str, key: str, runtime: Runtime) -> Callable[[Batch], object]:
    """A function that trains a detector of full size by one step of a batch."""
    training = step_training(detector, key)
    state = start(training.model, training.recipe, runtime)
    tame(state.model)
    return lambda batch: training_step(state, [batch], training.recipe, runtime)


def _torchvision_step(batch: Batch, runtime: Runtime) -> Callable[[], object]:
    """A step of torchvision's detector with the same optimizer, from images in [0, 1]."""
    step = torchvision_training(runtime)
    images = [image.sigmoid().to(runtime.device) for image in batch.images]
    targets = [
        {"boxes": boxes.to(runtime.device), "labels": labels.to(runtime.device)}
        for boxes, labels in zip(batch.gt_boxes, batch.gt_labels, strict=True)
    ]
    return lambda: step(images, targets)


def torchvision_training(runtime: Runtime, **sizes: int) -> Callable[[list[Tensor], list[dict[str, Tensor]]], Tensor]:
    """A function that trains torchvision's RetinaNet by one step of images in [0, 1] and targets, and has the loss."""
    # as `retinanet_resnet50_fpn` builds it around pretrained weights: batch norm, the stem and layer1 frozen
    levels = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(2048, 256)}
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3, **levels)
    model = RetinaNet(body, NUM_CLASSES, **sizes).to(runtime.device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-5, momentum=0.9, weight_decay=1e-4)

    def step(images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            losses = model(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def bench_shapes_step(runtime: Runtime, repetitions: int) -> list[BenchRow]:
    """Images a second of FreeAnchor's small training on `shapes`, and the share of each part of a step."""
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
            timings.append(_timed_parts(state, training, stream, positions, runtime))
    seconds = {part: median([own[part] for own in timings[2:]]) for part in PARTS}
    whole = sum(seconds.values())
    what = f"shapes, small backbone, {size} images of {training.inputs.short_side} px"
    share = ", ".join(f"{part} {seconds[part] / whole:.0%}" for part in PARTS)
    row = partial(BenchRow, subject="shapes step", repetitions=repetitions)
    rate = row(what=f"{what}: images per second", unit="1/s", ours=size / whole, note=share)
    return [rate, *(row(what=f"{what}: {part}", unit="s", ours=seconds[part]) for part in PARTS)]


def _timed_parts(
    state: TrainingState, training: Training, stream: TrainingStream, positions: list[int], runtime: Runtime
) -> dict[str, float]:
    """Seconds of each part of one step; the network's and the loss's include their gradients."""
    clock = time.perf_counter
    begun = clock()
    batch = collate([stream[position] for position in positions])
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


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_step(detector: str, key: str, num_images: int, runtime: Runtime, repeats: int) -> dict[str, Any]:
    """Median seconds of a step after one to warm up, and the peak of memory, in this very process."""
    runtime.prepare()
    training = step_training(detector, key)
    device = torch.device(runtime.device)
    empty = _peak_bytes(device)
    state = start(training.model, training.recipe, runtime)
    tame(state.model)
    batch = make_batch(num_images)
    call = {detector: lambda: training_step(state, [batch], training.recipe, runtime)}
    seconds = interleaved(call, repeats, runtime.device)[detector]
    middle = median(seconds)
    return {
        "detector": detector,
        "backbone": training.backbone_label,
        "pictures": num_images,
        "precision": runtime.dtype_name,
        "seconds": middle,
        "slowest": max(seconds),
        "images_per_second": num_images / middle,
        "peak_gigabytes": (_peak_bytes(device) - (empty if device.type == "cpu" else 0)) / 1e9,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "hardware": provenance(runtime.device)["hardware"],
        "commit": provenance(runtime.device)["commit"],
    }


def step_costs(
    device: str,
    sizes: Sequence[int],
    precisions: Sequence[str],
    repeats: int,
    threads: int = 0,
    keys: Sequence[str] = tuple(BACKBONES),
) -> pd.DataFrame:
    """One row per cell, first one detector, then the other; a cell out of memory has no seconds and says so."""
    cells = [(key, size, precision) for key in keys for size in sizes for precision in precisions]
    rows = []
    for key, size, precision in tqdm(cells, desc="step cost", disable=None):
        for detector in DETECTORS:
            options = [detector, key, str(size), device, precision, str(repeats), str(threads)]
            command = [sys.executable, "-m", "experiments.bench.step", "--cell", *options]
            answer = subprocess.run(command, capture_output=True, text=True, check=False)
            last = answer.stdout.strip().splitlines()[-1:] or ["{}"]
            head = {"detector": detector, "backbone": step_training(detector, key).backbone_label, "pictures": size}
            rows.append({**head, "precision": precision, **json.loads(last[0]), "failed": _reason(answer)})
    return pd.DataFrame(rows)


def _reason(answer: subprocess.CompletedProcess[str]) -> str:
    if answer.returncode == 0:
        return ""
    if answer.returncode < 0:
        return "killed: out of memory"
    return (answer.stderr.strip().splitlines() or ["ended without a word"])[-1][:120]


def with_ratios(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with FreeAnchor's seconds over RetinaNet's in each cell; the paper's is 1.050 on ResNet-50."""
    cell = ["backbone", "pictures", "precision"]
    baseline = frame[frame["detector"] == "RetinaNet"].set_index(cell)["seconds"]
    keys = pd.MultiIndex.from_frame(frame[cell])
    return frame.assign(ratio=frame["seconds"].to_numpy() / baseline.reindex(keys).to_numpy())


def write_step_costs(frame: pd.DataFrame, directory: Path) -> None:
    """`step_cost.csv` and `step_cost.md`."""
    frame = with_ratios(frame)
    head = "| Backbone | Images | Precision | Detector | Seconds per step | Images per second | Peak GB | Ratio |"
    lines = [head, f"|{' --- |' * 8}"]
    for row in frame.itertuples():
        numbers = f"{row.seconds:.2f} | {row.images_per_second:.2f} | {row.peak_gigabytes:.1f} | {row.ratio:.3f}"
        numbers = f"{row.failed!s} | – | – | –" if row.failed else numbers
        cells = map(str, (row.backbone, row.pictures, row.precision, row.detector, numbers))
        lines.append(f"| {' | '.join(cells)} |")
    first = frame.iloc[0]
    notes = [
        "**One training step at 800x1333**",
        "Forward, backward and update on noise with seven objects per image (201,600 anchors, 80 classes), median of "
        f"{first.repeats:.0f} steps after one; memory above that of the empty process. Ratio: FreeAnchor over "
        "RetinaNet (the paper's, on eight V100 and ResNet-50: 1.050).",
        "\n".join(lines),
        f"- {first.hardware}; commit {first.commit}.",
    ]
    write_bytes(directory / "step_cost.md", ("\n\n".join(notes) + "\n").encode())
    write_csv(directory / "step_cost.csv", frame)


def _main() -> None:
    parser = argparse.ArgumentParser(description="What one training step costs.")
    parser.add_argument("--cell", nargs=7, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sizes", default="2", help="images a step, with commas (default: 2)")
    parser.add_argument("--precisions", default="float32", help="with commas (default: float32)")
    parser.add_argument("--backbones", default=",".join(BACKBONES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("reports/coco"))
    options = parser.parse_args()
    if options.cell:
        detector, key, size, device, precision, repeats, threads = options.cell
        runtime = Runtime(device=device, precision=precision, threads=int(threads))
        print(json.dumps(measure_step(detector, key, int(size), runtime, int(repeats))))
        return
    sizes, backbones = [int(size) for size in options.sizes.split(",")], options.backbones.split(",")
    precisions = options.precisions.split(",")
    frame = step_costs(options.device, sizes, precisions, options.repeats, options.threads, backbones)
    write_step_costs(frame, options.out)
    print(options.out / "step_cost.md")


if __name__ == "__main__":
    _main()
