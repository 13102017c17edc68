"""Four foreign detectors from a state dict and an image to boxes in the file's frame, each as its code base does it.

torchvision's own model stands for itself; here its network alone is written out, to test the one the others share.

    found = detect(MMDETECTION_RETINANET, state, RESNET50, image, short=256, longest=427)
    found.boxes, found.scores, found.labels         # best first; boxes xyxy, continuous
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from oracles.foreign_boxes import STRIDES, Candidate, Coding, best_of_level, clip, suppress
from oracles.foreign_forward import Maps, State, flatten, forward
from oracles.foreign_images import (
    CAFFE_MEAN,
    MSRA_MEAN,
    RGB_MEAN,
    RGB_STD,
    authors_size,
    detectron2_size,
    mmdetection_size,
    network_input,
    resize_opencv,
    resize_pil,
)
from oracles.foreign_names import AUTHORS, DETECTRON2, MMDETECTION, Architecture, Layout
from PIL import Image
from torch import Tensor

ONE = (1.0, 1.0, 1.0)
SCORE_THRESHOLD, MOST_PER_LEVEL, NMS_IOU, MOST = 0.05, 1000, 0.5, 100
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Found:
    """Detections best first, [D, 4], [D] and [D]; and the number of candidates of each level."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    per_level: tuple[int, ...]


def _authors_boxes(candidates: list[Candidate], inside: Size, file: Size) -> list[Candidate]:
    """Clipped to inclusive pixels, suppressed so, scaled as inclusive corners; only then x2 + 1 and y2 + 1."""
    clipped = [(score, label, clip(box, *inside, pixel=1.0)) for score, label, box in candidates]
    across, down = file[0] / inside[0], file[1] / inside[1]
    return [
        (score, label, (x1 * across, y1 * down, x2 * across + 1, y2 * down + 1))
        for score, label, (x1, y1, x2, y2) in suppress(clipped, NMS_IOU, pixel=1.0)[:MOST]
    ]


def _mmdetection_boxes(candidates: list[Candidate], inside: Size, file: Size) -> list[Candidate]:
    """Clipped, scaled, those without width or height dropped (min_bbox_size 0), suppressed."""
    across, down = inside[0] / file[0], inside[1] / file[1]
    scaled = []
    for score, label, box in candidates:
        x1, y1, x2, y2 = clip(box, *inside)
        if x2 > x1 and y2 > y1:
            scaled.append((score, label, (x1 / across, y1 / down, x2 / across, y2 / down)))
    return suppress(scaled, NMS_IOU, pixel=0.0)[:MOST]


def _detectron2_boxes(candidates: list[Candidate], inside: Size, file: Size) -> list[Candidate]:
    """Suppressed as decoded, beyond the image's edges too; the best scaled, clipped, the empty ones dropped."""
    across, down = file[0] / inside[0], file[1] / inside[1]
    results = []
    for score, label, (x1, y1, x2, y2) in suppress(candidates, NMS_IOU, pixel=0.0)[:MOST]:
        box = clip((x1 * across, y1 * down, x2 * across, y2 * down), *file)
        if box[2] > box[0] and box[3] > box[1]:
            results.append((score, label, box))
    return results


@dataclass(frozen=True, kw_only=True)
class CodeBase:
    """Everything about a code base that a state dict does not say."""

    layout: Layout
    coding: Coding
    size: Callable[[int, int, int, int], Size]
    resize: Callable[[Image.Image, Size], np.ndarray]
    mean: tuple[float, float, float]
    std: tuple[float, float, float] = ONE
    bgr: bool = True
    finish: Callable[[list[Candidate], Size, Size], list[Candidate]]


AUTHORS_FREEANCHOR = CodeBase(
    layout=AUTHORS,
    coding=Coding(weights=(10.0, 10.0, 5.0, 5.0), geometry="legacy", centre_offset=0.5, pixel=1.0),
    size=authors_size,
    resize=resize_pil,
    mean=MSRA_MEAN,
    finish=_authors_boxes,
)
MMDETECTION_FREEANCHOR = CodeBase(
    layout=MMDETECTION,
    coding=Coding(weights=(10.0, 10.0, 5.0, 5.0), geometry="exact", centre_offset=0.0, shrink_limited=True),
    size=mmdetection_size,
    resize=resize_opencv,
    mean=RGB_MEAN,
    std=RGB_STD,
    bgr=False,
    finish=_mmdetection_boxes,
)
MMDETECTION_RETINANET = replace(
    MMDETECTION_FREEANCHOR,
    coding=Coding(weights=(1.0, 1.0, 1.0, 1.0), geometry="exact", centre_offset=0.0, shrink_limited=True),
)
MMDETECTION_RETINANET_CAFFE = replace(
    MMDETECTION_RETINANET,
    layout=replace(MMDETECTION, stride_in_1x1=True),
    mean=CAFFE_MEAN,
    std=ONE,
    bgr=True,
)
DETECTRON2_RETINANET = CodeBase(
    layout=DETECTRON2,
    coding=Coding(weights=(1.0, 1.0, 1.0, 1.0), geometry="exact", centre_offset=0.0, scale_major=True),
    size=detectron2_size,
    resize=resize_pil,
    mean=CAFFE_MEAN,
    finish=_detectron2_boxes,
)


def prepare(base: CodeBase, image: Image.Image, short: int, longest: int) -> tuple[Tensor, Size]:
    """The network's input for an image, and the image's size inside it."""
    size = base.size(*image.size, short, longest)
    return network_input(base.resize(image, size), base.mean, base.std, bgr=base.bgr), size


def from_maps(base: CodeBase, size: Architecture, maps: Maps, inside: Size, file: Size) -> Found:
    """Detections in the file's pixels from the heads' output for an image that measures `inside` in the network."""
    candidates: list[Candidate] = []
    per_level = []
    for level in range(len(STRIDES)):
        logits = flatten([maps.logits[level]], size.num_classes)[0]
        deltas = flatten([maps.deltas[level]], 4)[0]
        columns = maps.logits[level].shape[3]
        own = best_of_level(logits, deltas, base.coding, level, columns, SCORE_THRESHOLD, MOST_PER_LEVEL)
        per_level.append(len(own))
        candidates += own
    results = base.finish(candidates, inside, file)
    return Found(
        boxes=np.array([box for _, _, box in results]).reshape(-1, 4),
        scores=np.array([score for score, _, _ in results]),
        labels=np.array([label for _, label, _ in results], dtype=np.int64),
        per_level=tuple(per_level),
    )


def detect(base: CodeBase, state: State, size: Architecture, image: Image.Image, short: int, longest: int) -> Found:
    """Detections of one image in its file's pixels."""
    images, inside = prepare(base, image, short, longest)
    return from_maps(base, size, forward(state, base.layout, size, images), inside, image.size)
