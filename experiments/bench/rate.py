"""Images a second of whole training loops, from files to the update: ours beside torchvision's reference loop.

Theirs is what its `references/detection` does with `retinanet_resnet50_fpn` and horizontal flips: images of any size
from the loading processes, resized and padded inside the model on the device, the loss looked at after every step.

    rows = bench_rate(Path("data/aquarium"), runtime, num_images=400, batch_size=8, num_workers=8)
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from experiments.bench.rows import BenchRow
from experiments.bench.step import our_training, torchvision_training
from freeanchor.data.augmentation import AugmentConfig, TrainingStream
from freeanchor.data.coco import ImageRecord, InputConfig, collate, read_split
from freeanchor.data.images import open_image
from freeanchor.runtime import Runtime, wait_for

WARM_UP = 2  # steps before the clock starts: kernels are chosen, processes start
Target = dict[str, Tensor]


class _ReferenceImages(Dataset[tuple[Tensor, Target]]):
    """Images in [0, 1] at their own size with targets, flipped half of the time."""

    def __init__(self, images: tuple[ImageRecord, ...]) -> None:
        self.images = images
        self.change = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)])

    def __getitem__(self, place: int) -> tuple[Tensor, Target]:
        record = self.images[place % len(self.images)]
        size = record.height, record.width
        boxes = tv_tensors.BoundingBoxes(record.boxes, format="XYXY", canvas_size=size)  # type: ignore[call-arg]
        found: tuple[Tensor, Target] = self.change(open_image(record.path), {"boxes": boxes, "labels": record.labels})
        return found


def bench_rate(
    directory: Path,
    runtime: Runtime,
    *,
    num_images: int,
    batch_size: int,
    num_workers: int,
    sizes: tuple[int, int] = (800, 1333),
    aim: float = math.nan,
) -> list[BenchRow]:
    """Seconds an image of FreeAnchor's and of RetinaNet's loop, over those of torchvision's; the note has the rates."""
    split, (short, long) = read_split(directory, "train"), sizes
    stream = TrainingStream(split, InputConfig(short_side=short, max_long_side=long), AugmentConfig(), 0)
    first = range(0, (WARM_UP + math.ceil(num_images / batch_size)) * batch_size, batch_size)
    loader = partial(
        DataLoader,
        batch_sampler=[list(range(start, start + batch_size)) for start in first],
        num_workers=num_workers,
        pin_memory=torch.device(runtime.device).type == "cuda",
    )
    theirs = _seconds_an_image(
        loader(_ReferenceImages(stream.images), collate_fn=_as_lists),
        _reference_step(runtime, sizes),
        batch_size,
        runtime,
    )
    rows = []
    for detector in ("FreeAnchor", "RetinaNet"):
        step = our_training(detector, "r50", runtime)
        ours = _seconds_an_image(loader(stream, collate_fn=collate), step, batch_size, runtime)
        how = f"{runtime.dtype_name}, {num_workers} loading processes"
        what = f"ResNet-50, {batch_size} images of short side {short}, {how}"
        rates = f"images a second: {1 / ours:.3g} against {1 / theirs:.3g}"
        rows.append(
            BenchRow(subject="training rate", what=f"{what}: {detector}, per image", unit="s", ours=ours,
                     peer="torchvision's reference loop", theirs=theirs, aim=aim, note=rates)
        )  # fmt: skip
    return rows


def _as_lists(samples: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Images of several sizes and their targets, as torchvision's detectors take them."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def _reference_step(runtime: Runtime, sizes: tuple[int, int]) -> Callable[[Any], object]:
    train = torchvision_training(runtime, min_size=sizes[0], max_size=sizes[1])

    def step(batch: tuple[list[Tensor], list[Target]]) -> None:
        images, targets = batch
        there = [{name: value.to(runtime.device) for name, value in target.items()} for target in targets]
        train([image.to(runtime.device) for image in images], there).item()

    return step


def _seconds_an_image(
    batches: DataLoader[Any], step: Callable[[Any], object], batch_size: int, runtime: Runtime
) -> float:
    """Of all steps after the first few, their loading included."""
    begun = 0.0
    for number, batch in enumerate(batches, start=1):
        step(batch)
        if number == WARM_UP:
            wait_for(runtime.device)
            begun = time.perf_counter()
    wait_for(runtime.device)
    return (time.perf_counter() - begun) / ((len(batches) - WARM_UP) * batch_size)
