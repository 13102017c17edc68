"""Foreign checkpoints converted and run, for the parity tests: which there are, how they are read, how compared.

The references (`oracles/foreign_*.py`) read the foreign tensors by their own names and do what the foreign code base
does, from the image to the boxes.

    model, detector = convert(CASES["detectron2, ResNet-50"], state)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from oracles.foreign_boxes import anchor_at
from oracles.foreign_detectors import (
    AUTHORS_FREEANCHOR,
    DETECTRON2_RETINANET,
    MMDETECTION_FREEANCHOR,
    MMDETECTION_RETINANET,
    MMDETECTION_RETINANET_CAFFE,
    CodeBase,
    Found,
)
from oracles.foreign_forward import Maps, flatten
from oracles.foreign_names import RESNET18, RESNET50, Architecture
from oracles.foreign_states import MAKERS, State, miniature
from PIL import Image
from torch import Tensor

from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import convert_tensors
from freeanchor.checkpoints.native import DetectorConfig, load_weights
from freeanchor.data.coco import ImageRecord, collate, load_sample
from freeanchor.detector.postprocess import Candidates
from freeanchor.detector.retinanet import ModelOutput, RetinaNet
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime

SHORT, LONG = 128, 214
DELTA_WEIGHTS = torch.tensor([10.0, 10.0, 5.0, 5.0])
LIMITS = {"logits": 1e-4, "boxes": 0.01, "scores": 1e-4}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A random checkpoint of one code base: how to read it, how large it is, what the converter is told."""

    base: CodeBase
    size: Architecture
    format: str
    detector: str = "RetinaNet"
    caffe: bool = False
    state: Mapping[str, Any] = field(default_factory=dict)

    def tensors(self, seed: int = 0) -> State:
        """The foreign state dict."""
        return MAKERS[self.format](self.size, seed, **self.state)

    def origin(self) -> Origin:
        """What the file does not say about itself."""
        return Origin(format=self.format, detector=self.detector, caffe=self.caffe)


NARROW18, NARROW50 = miniature(RESNET18), miniature(RESNET50, head_depth=2)
_FREE_ANCHOR = {"format": "mmdetection", "detector": "FreeAnchor", "state": {"free_anchor": True}}
CASES = {
    "authors, ResNet-50": Case(base=AUTHORS_FREEANCHOR, size=RESNET50, format="authors", detector="FreeAnchor"),
    "authors, narrow ResNet-18": Case(base=AUTHORS_FREEANCHOR, size=NARROW18, format="authors"),
    "authors, narrow ResNet-50": Case(base=AUTHORS_FREEANCHOR, size=NARROW50, format="authors"),
    "mmdetection FreeAnchor, ResNet-50": Case(base=MMDETECTION_FREEANCHOR, size=RESNET50, **_FREE_ANCHOR),
    "mmdetection FreeAnchor, narrow ResNet-18": Case(base=MMDETECTION_FREEANCHOR, size=NARROW18, **_FREE_ANCHOR),
    "mmdetection RetinaNet, narrow ResNet-18": Case(
        base=MMDETECTION_RETINANET, size=NARROW18, format="mmdetection", state={"free_anchor": False}
    ),
    "mmdetection RetinaNet, Caffe's narrow ResNet-50": Case(
        base=MMDETECTION_RETINANET_CAFFE,
        size=NARROW50,
        format="mmdetection",
        caffe=True,
        state={"free_anchor": False, "caffe": True},
    ),
    "detectron2, ResNet-50": Case(base=DETECTRON2_RETINANET, size=RESNET50, format="detectron2"),
    "detectron2, narrow ResNet-18": Case(base=DETECTRON2_RETINANET, size=NARROW18, format="detectron2"),
    "detectron2, narrow ResNet-50": Case(base=DETECTRON2_RETINANET, size=NARROW50, format="detectron2"),
}


def categories(count: int) -> dict[int, str]:
    """Category ids with gaps, as COCO's have."""
    return {2 * i + 3: f"class {i}" for i in range(count)}


def write_image(directory: Path, width: int, height: int, seed: int = 0) -> Path:
    """An image of soft blotches under noise."""
    generator = np.random.default_rng(seed)
    blotches = Image.fromarray(generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8))
    soft = np.asarray(blotches.resize((width, height), Image.Resampling.BICUBIC))
    path = directory / f"{width}x{height}.png"
    Image.fromarray(soft // 2 + generator.integers(0, 128, soft.shape, dtype=np.uint8)).save(path)
    return path


def image_at(path: Path) -> ImageRecord:
    """The image as the detector is given it, without objects."""
    none = torch.zeros(0, dtype=torch.int64)
    sides = dict(zip(("width", "height"), Image.open(path).size, strict=True))
    return ImageRecord(image_id=1, path=path, **sides, boxes=torch.zeros(0, 4), labels=none, annotation_ids=none)


def shift_to_few(logits: Tensor) -> float:
    """What to add to the logits so that 40 to 80 of them pass a score of 0.05, by a margin."""
    best = logits.flatten().sort(descending=True).values[39:81]
    gap = int((best[:-1] - best[1:]).argmax())
    return math.log(0.05 / 0.95) - float(best[gap] + best[gap + 1]) / 2


def convert_state(
    state: State, origin: Origin, names: dict[int, str], short: int, longest: int
) -> tuple[RetinaNet, DetectorConfig]:
    """Our model of a foreign state dict, its input shrunk for the test."""
    tensors, detector = convert_tensors(state, origin, names)
    with torch.device("meta"):  # no time spent on drawing first weights: every one is replaced
        model = RetinaNet(detector.model).eval()
    model.to_empty(device="cpu")
    load_weights(model, tensors, Path("converted"))
    return model, replace(detector, inputs=replace(detector.inputs, short_side=short, max_long_side=longest))


def convert(case: Case, state: State, short: int = SHORT, longest: int = LONG) -> tuple[RetinaNet, DetectorConfig]:
    """Our model of a case's state dict."""
    return convert_state(state, case.origin(), categories(case.size.num_classes), short, longest)


def detections(model: RetinaNet, detector: DetectorConfig, path: Path) -> Candidates:
    """What the converted checkpoint finds in an image, with the inference settings that it carries."""
    runtime = Runtime(precision="float32")
    (prediction,) = predict(model, detector, [image_at(path)], detector.inference, runtime)
    return prediction.detections


@torch.no_grad()
def raw_output(model: RetinaNet, detector: DetectorConfig, path: Path) -> tuple[Tensor, ModelOutput]:
    """Our network's input and output for an image."""
    images = collate([load_sample(image_at(path), detector.inputs)]).images
    return images, model(images)


def in_our_order(rows: Tensor, case: Case) -> Tensor:
    """Rows [A, width] with each cell's nine anchors ratio-major, as ours are."""
    if not case.base.coding.scale_major:
        return rows
    cells = rows.view(-1, 9, rows.shape[1])
    order = [3 * scale + ratio for ratio in range(3) for scale in range(3)]
    return cells[:, order].reshape(rows.shape)


def expected_deltas(maps: Maps, case: Case) -> Tensor:
    """The reference's deltas in our order and scaled by (10, 10, 5, 5)."""
    weights = torch.tensor(case.base.coding.weights)
    return in_our_order(flatten(maps.deltas, 4)[0], case) * DELTA_WEIGHTS / weights


def expected_anchors(maps: Maps, case: Case) -> Tensor:
    """The reference's anchors in our order, continuous."""
    pixel = case.base.coding.pixel
    boxes = []
    for level, output in enumerate(maps.deltas):
        rows, columns = output.shape[2:]
        boxes += [anchor_at(case.base.coding, level, place, columns) for place in range(9 * rows * columns)]
    return in_our_order(torch.tensor(boxes) + torch.tensor([0.0, 0.0, pixel, pixel]), case)


def assert_same_detections(own: Candidates, expected: Found) -> None:
    """Every expected detection is found once: same class, score within 1e-4, box within 0.01 px."""
    assert len(own) == len(expected.scores)
    boxes, scores, labels = own.boxes.double().numpy(), own.scores.double().numpy(), own.labels.numpy()
    free = np.ones(len(own), dtype=bool)
    for box, score, label in zip(expected.boxes, expected.scores, expected.labels, strict=True):
        near = np.abs(boxes - box).max(axis=1) <= LIMITS["boxes"]
        fits = free & near & (labels == label) & (np.abs(scores - score) <= LIMITS["scores"])
        assert fits.any(), f"no detection like {label} {score:.4f} {box}"
        free[np.argmax(fits)] = False
