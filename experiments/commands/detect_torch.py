"""Detections in single images by torch, for `freeanchor detect` and for whoever needs an image without objects.

classes, found = found_by_torch([Path("photo.jpg")], Path("model.safetensors"), min_score=0.3, runtime=Runtime())
for image, detections in found: ...
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord
from freeanchor.data.images import open_image, upright
from freeanchor.detector.postprocess import Candidates, InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime


def image_at(path: Path, image_id: int) -> ImageRecord:
    """An image without known objects; raises DataError where it cannot be read."""
    return _image(path, open_image(path).size, image_id)


def _image(path: Path, size: tuple[int, int], image_id: int) -> ImageRecord:
    """An image of that width and height without known objects."""
    return ImageRecord(
        image_id=image_id,
        path=path,
        width=size[0],
        height=size[1],
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        annotation_ids=torch.zeros(0, dtype=torch.int64),
    )


def _in_turn(paths: Sequence[Path], records: Sequence[ImageRecord]) -> Iterator[Image.Image]:
    """Each upright image, first stored for `predict` to read where the image lies elsewhere."""
    for path, record in zip(paths, records, strict=True):
        image = upright(open_image(path))
        if record.path != path:
            image.save(record.path, format="PNG", compress_level=1)
        yield image


def found_by_torch(
    paths: Sequence[Path], checkpoint: Path, *, min_score: float, runtime: Runtime
) -> tuple[DetectorConfig, Iterator[tuple[Image.Image, Candidates]]]:
    """The detector, and each image, upright, with what is found in its pixels above `min_score`, best first.

    Raises DataError or CheckpointError at once where an input cannot be read.
    """
    model, detector = load_model(checkpoint, runtime.device)
    sizes = []
    for path in paths:
        image = open_image(path)
        shown = upright(image)
        sizes.append((shown.size, shown is not image))
    return detector, _found(
        paths, sizes, model, detector, replace(detector.inference, score_threshold=min_score), runtime
    )


def _found(
    paths: Sequence[Path],
    sizes: Sequence[tuple[tuple[int, int], bool]],
    model: RetinaNet,
    detector: DetectorConfig,
    inference: InferenceConfig,
    runtime: Runtime,
) -> Iterator[tuple[Image.Image, Candidates]]:
    """Image by image; `sizes` are those of the upright images, and whether they were turned."""
    with TemporaryDirectory() as scratch:
        turned = Path(scratch) / "upright.png"  # each turned image in its turn: many would fill a disk
        images = [
            _image(turned if is_turned else path, size, number)
            for number, (path, (size, is_turned)) in enumerate(zip(paths, sizes, strict=True))
        ]
        predictions = predict(model, detector, images, inference, runtime, batch_size=1)
        # In this order: zip asks for the image, and so has it stored, before predict reads the image.
        for image, prediction in zip(_in_turn(paths, images), predictions, strict=True):
            yield image, prediction.detections
