"""A detector and a recipe so small that a test can train them: ten steps in a second.

detector, recipe = tiny_detector(), tiny_recipe(FreeAnchorLoss())
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from oracles.coco_folder import write_both

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.reading import read_detections, read_ground_truth
from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import ImageRecord, InputConfig, Split, read_split
from freeanchor.detector.backbones import SmallResNet
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.inference.predict import Prediction
from freeanchor.runtime import Runtime
from freeanchor.training.recipe import Loss, TrainConfig

MODEL = ModelConfig(
    num_classes=3,
    backbone=SmallResNet(widths=(8, 8, 16, 16)),
    anchors=AnchorConfig(sizes=(16.0, 32.0, 64.0, 128.0, 256.0)),
    pyramid_channels=8,
    head_depth=1,
    head_norm="group",
    tower_init="he",
)
FLOAT32 = Runtime(precision="float32", log_every=2, checkpoint_every=4)


def tiny_detector(**model: Any) -> DetectorConfig:
    """A detector of the classes of `oracles.coco_folder`, at 64 px; `model` replaces fields of the network's."""
    return DetectorConfig(
        model=replace(MODEL, **model),
        inputs=InputConfig(short_side=64, max_long_side=128),
        category_ids=(2, 5, 9),
        category_names=("dot", "box", "bar"),
    )


def tiny_model(seed: int = 0, **model: Any) -> RetinaNet:
    """Its network with weights drawn from `seed`, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RetinaNet(tiny_detector(**model).model).eval()


def tiny_recipe(loss: Loss, **changes: Any) -> TrainConfig:
    """Eight steps of three images at a rate that a tiny network stands."""
    values = {"num_steps": 8, "batch_size": 3, "lr": 0.02, "warmup_steps": 2, "max_grad_norm": 10.0, **changes}
    return TrainConfig(loss=loss, **values)


def tiny_split(directory: Path, split: str = "train") -> Split:
    """A split of the small data set, written to `directory` where it is not there yet."""
    if not (directory / f"{split}.json").exists():
        write_both(directory)
    return read_split(directory, split)


def eager_model() -> RetinaNet:
    """A network that finds something everywhere: scores spread about a half, boxes off their anchors."""
    network = tiny_model(prior_prob=0.5)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head, spread in ((network.cls_head, 0.5), (network.box_head, 0.4)):
            weight = head.output.weight
            weight.copy_(spread * torch.randn(weight.shape, generator=generator))
    return network


def written_candidates(path: Path, predictions: Sequence[Prediction], split: Split) -> tuple[GroundTruth, Detections]:
    """The ground truth, and the candidates as COCO results on disk, read again."""
    rows = [
        {
            "image_id": prediction.image.image_id,
            "category_id": split.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for prediction in predictions
        for (x1, y1, x2, y2), score, label in zip(
            prediction.candidates.boxes.tolist(),
            prediction.candidates.scores.tolist(),
            prediction.candidates.labels.tolist(),
            strict=True,
        )
    ]
    path.write_text(json.dumps(rows))
    ground_truth = read_ground_truth(split.annotations)
    return ground_truth, read_detections(path, ground_truth)


def image_record(path: Path, size: tuple[int, int], boxes: list[list[float]] | None = None) -> ImageRecord:
    """The record of an image of `size` (width, height) with these boxes, as a reader of a json would give it."""
    numbers = torch.arange(len(boxes or []))
    corners = torch.tensor(boxes or [], dtype=torch.float32).reshape(-1, 4)
    width, height = size
    return ImageRecord(
        image_id=1, path=path, width=width, height=height, boxes=corners, labels=numbers, annotation_ids=numbers
    )
