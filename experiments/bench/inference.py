"""Inference against torchvision's RetinaNet with the very same weights, and what NMS recall costs on the way.

rows = bench_inference(runtime, repetitions=5)
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.ops import batched_nms
from torchvision.transforms.functional import pil_to_tensor

from experiments.bench.rows import BenchRow, medians
from experiments.bench.step import tame
from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import convert_tensors
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import ImageRecord, collate, load_sample
from freeanchor.data.images import open_image
from freeanchor.detector.postprocess import InferenceConfig, nms_by_class, select_candidates, suppress
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime

HEIGHT, WIDTH, NUM_IMAGES, NUM_OBJECTS = 800, 1216, 2, 7
NUM_CANDIDATES = 5000  # above 0.05 an image: a trained detector has one to ten thousand
CONFIG = InferenceConfig()  # what the authors report at
CATEGORIES = {number: f"category {number}" for number in range(1, 91)}


def bench_inference(runtime: Runtime, repetitions: int, scale: float = 1.0) -> list[BenchRow]:
    """Images read from files to detections, one at a time; `scale` shrinks them, for tests."""
    with TemporaryDirectory() as folder:
        images = _images(Path(folder), scale)
        theirs = _foreign_detector(images[0], scale)
        ours, detector = _converted(theirs, scale)
        ours, theirs = ours.to(runtime.device).eval(), theirs.to(runtime.device)
        num_candidates = sum(len(found.candidates) for found in predict(ours, detector, images, CONFIG, runtime))
        calls = {
            "ours": lambda: list(predict(ours, detector, images, CONFIG, runtime)),
            "ours without NMS recall": lambda: [_plain(ours, detector, it, runtime) for it in images],
            "torchvision's retinanet_resnet50_fpn": _foreign_call(theirs, images, runtime),
        }
        seconds = medians(calls, repetitions, runtime.device)
    each = {name: own / len(images) for name, own in seconds.items()}
    what = f"ResNet-50, {images[0].width}x{images[0].height}, file to detections"
    note = f"{num_candidates / len(images):,.0f} candidates per image"
    return [
        BenchRow(subject="inference", what=f"{what}, per image", unit="s", ours=each["ours"], peer=peer,
                 theirs=each[peer], aim=aim, repetitions=repetitions, note=note)
        for peer, aim in (("torchvision's retinanet_resnet50_fpn", 1.0), ("ours without NMS recall", 1.1))
    ]  # fmt: skip


def bench_nms(runtime: Runtime, repetitions: int, counts: tuple[int, ...] = (1000, 2000, 5000)) -> list[BenchRow]:
    """NMS within each class against torchvision's `batched_nms`, on made-up candidates of an image and 80 classes."""
    rows = []
    for count in counts:
        boxes, scores, labels = (column.to(runtime.device) for column in _candidates(count))
        given = boxes, scores, labels, CONFIG.nms_iou
        calls = {"ours": partial(nms_by_class, *given), "theirs": partial(batched_nms, *given)}
        seconds = medians(calls, repetitions, runtime.device)
        rows.append(
            BenchRow(subject="inference", what=f"NMS by class of {count:,} candidates, 80 classes", unit="ms",
                     ours=1e3 * seconds["ours"], peer="torchvision's batched_nms", theirs=1e3 * seconds["theirs"],
                     aim=1.05, repetitions=repetitions)
        )  # fmt: skip
    return rows


def _candidates(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and labels around 30 objects of an image of COCO's size, most of them of the object's class."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(30, 2, generator=generator) * torch.tensor([WIDTH * 0.8, HEIGHT * 0.8])
    sides = 20 + 180 * torch.rand(30, 2, generator=generator)
    own = torch.randint(80, (30,), generator=generator)
    at = torch.randint(30, (count,), generator=generator)
    centres = corners[at] + sides[at] * (0.5 + 0.1 * torch.randn(count, 2, generator=generator))
    half = sides[at] * torch.exp(0.2 * torch.randn(count, 2, generator=generator)) / 2
    other = torch.randint(80, (count,), generator=generator)
    labels = torch.where(torch.rand(count, generator=generator) < 0.2, other, own[at])
    return torch.cat([centres - half, centres + half], dim=1), torch.rand(count, generator=generator), labels


def _foreign_detector(image: ImageRecord, scale: float) -> nn.Module:
    """torchvision's detector with random weights, its scores shifted until some thousand pass, as trained ones do."""
    torch.manual_seed(0)
    height, num_classes = int(HEIGHT * scale), len(CATEGORIES) + 1
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes, min_size=height).eval()
    tame(model)
    head = model.head.classification_head.cls_logits
    nn.init.normal_(head.weight, std=0.05)
    with torch.no_grad():
        images, _ = model.transform([_decoded(image)])
        logits = model.head.classification_head(list(model.backbone(images.tensors).values())).flatten()
        least = logits.topk(int(NUM_CANDIDATES * scale**2)).values[-1]
        head.bias += math.log(0.05 / 0.95) - least
    return model


def _converted(model: nn.Module, scale: float) -> tuple[RetinaNet, DetectorConfig]:
    origin = Origin(format="torchvision", detector="RetinaNet")
    tensors, detector = convert_tensors(model.state_dict(), origin, CATEGORIES)
    ours = RetinaNet(detector.model)
    ours.load_state_dict(tensors)
    return ours, replace(detector, inputs=replace(detector.inputs, short_side=int(HEIGHT * scale)))


def _decoded(record: ImageRecord) -> Tensor:
    return pil_to_tensor(open_image(record.path)).float() / 255


def _images(folder: Path, scale: float) -> list[ImageRecord]:
    generator = np.random.default_rng(0)
    height, width = int(HEIGHT * scale), int(WIDTH * scale)
    images = []
    for number in range(NUM_IMAGES):
        path = folder / f"{number}.jpg"
        coarse = Image.fromarray(generator.integers(0, 255, (25, 38, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=92)
        corner = torch.from_numpy(generator.uniform(0, 0.7, (NUM_OBJECTS, 2))).float()
        extent = torch.from_numpy(generator.uniform(0.05, 0.3, (NUM_OBJECTS, 2))).float()
        boxes = torch.cat([corner, corner + extent], dim=1) * torch.tensor([width, height, width, height])
        labels = torch.from_numpy(generator.integers(0, len(CATEGORIES), NUM_OBJECTS))
        images.append(
            ImageRecord(image_id=number, path=path, width=width, height=height, boxes=boxes, labels=labels,
                    annotation_ids=labels)
        )  # fmt: skip
    return images


@torch.no_grad()
def _plain(model: RetinaNet, detector: DetectorConfig, image: ImageRecord, runtime: Runtime) -> Tensor:
    """What a detector does that keeps nothing for NMS recall: capped candidates, NMS, the hundred best."""
    batch = collate([load_sample(image, detector.inputs)])
    with runtime.autocast():
        output = model(batch.images.to(runtime.device, memory_format=torch.channels_last))
    predictions = output.logits[0], output.deltas[0], output.anchors, output.level_sizes
    found = select_candidates(*predictions, batch.sizes[0], CONFIG)[0]
    found = found.rescale((1 / batch.samples[0].scale[0], 1 / batch.samples[0].scale[1]))
    return suppress(found, nms_iou=CONFIG.nms_iou, max_detections=CONFIG.max_detections).boxes


def _foreign_call(model: nn.Module, images: list[ImageRecord], runtime: Runtime) -> Callable[[], object]:
    @torch.no_grad()
    def call() -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            with runtime.autocast():
                found += model([_decoded(image).to(runtime.device)])
        return found

    return call
