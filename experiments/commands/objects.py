"""What is in a single image that belongs to no data set: annotated, given by hand, or detected by torch.

Objects carry category names, so that detectors with different category ids are asked about the same ones.

    objects = annotated_objects(Path("photos/images/1.jpg"), Path("photos/val.json"))
    objects = boxed_object(Path("1.jpg"), (10.0, 20.0, 60.0, 30.0), "door")
    image = image_for(objects, detector, "model.safetensors")
    classes, found = found_by_torch([Path("1.jpg")], Path("model.safetensors"), min_score=0.3, runtime=Runtime())
"""

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.coco.reading import read_ground_truth
from freeanchor.checkpoints.native import DetectorConfig, load_model
from freeanchor.data.coco import ImageRecord
from freeanchor.data.images import open_image, upright
from freeanchor.detector.postprocess import Candidates, InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import UsageError
from freeanchor.files import read_json
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime
from freeanchor.shapes.dataset import recorded_parts

Part = tuple[float, float]
EDGE = 1.0  # px that a given box may reach beyond the image, as rounded ones do


@dataclass(frozen=True, kw_only=True)
class ImageObjects:
    """An image without labels, and its G objects: boxes xyxy in its pixels, category names, ids.

    `numbers` counts the objects from 1; a selected object keeps its number. `parts` holds the discriminative part of
    an object by its id, where the data set knows it.
    """

    image: ImageRecord
    boxes: Tensor
    categories: tuple[str, ...]
    annotation_ids: tuple[int, ...]
    numbers: tuple[int, ...]
    parts: dict[int, Part]


def annotated_objects(path: Path, annotations: Path) -> ImageObjects:
    """The objects that a COCO json (or .gz) has in the image of that file name, crowd regions left out.

    Boxes are cut at the image's borders. Raises UsageError where the json has no such image, several, or no object
    in it, or says another size; DataError where a file cannot be read.
    """
    image = image_at(path, 0)
    ground_truth = read_ground_truth(annotations)
    content = read_json(annotations)
    entry = _entry(content["images"], path, annotations)
    size = entry.get("width", image.width), entry.get("height", image.height)
    if size != (image.width, image.height):
        raise UsageError(
            f"{path}: is {image.width}x{image.height} pixels, {annotations} says {size[0]}x{size[1]}; give the "
            "image that the boxes were drawn on"
        )
    limits = np.array([*size, *size])
    boxes = ground_truth.boxes.clip(0, limits)
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    own = np.flatnonzero((ground_truth.image_id == entry["id"]) & ~ground_truth.iscrowd & has_area)
    if not len(own):
        raise UsageError(f"{annotations}: has no object in {path.name}; name one with --box and --category")
    ids = ground_truth.annotation_id[own].tolist()
    known = recorded_parts(content)
    return ImageObjects(
        image=replace(image, image_id=int(entry["id"])),
        boxes=torch.tensor(boxes[own], dtype=torch.float32),
        categories=tuple(ground_truth.category_names[place] for place in ground_truth.category_index[own]),
        annotation_ids=tuple(ids),
        numbers=tuple(range(1, len(ids) + 1)),
        parts={number: known[number] for number in ids if number in known},
    )


def boxed_object(path: Path, box: tuple[float, float, float, float], category: str) -> ImageObjects:
    """One object by hand, its box as x, y, width, height in pixels; raises UsageError where it leaves the image."""
    image = image_at(path, 0)
    x, y, width, height = box
    if not all(map(math.isfinite, box)) or min(width, height) <= 0:
        raise UsageError(f"--box {_words(box)}: width and height must be above 0; give X Y W H in pixels")
    if min(x, y) < -EDGE or x + width > image.width + EDGE or y + height > image.height + EDGE:
        raise UsageError(
            f"--box {_words(box)}: leaves the image, which is {image.width}x{image.height} pixels; give X Y W H"
        )
    limits = torch.tensor([image.width, image.height] * 2, dtype=torch.float32)
    corners = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float32).clamp(min=0)
    return ImageObjects(
        image=image,
        boxes=torch.minimum(corners, limits),
        categories=(category,),
        annotation_ids=(1,),
        numbers=(1,),
        parts={},
    )


def detected_objects(
    path: Path, model: RetinaNet, detector: DetectorConfig, min_score: float, runtime: Runtime
) -> ImageObjects:
    """A detector's own detections that score above `min_score`, the best-scoring first, numbered from 1.

    Raises UsageError where there are none.
    """
    image = image_at(path, 0)
    inference = replace(detector.inference, score_threshold=min_score)
    (prediction,) = predict(model, detector, [image], inference, runtime, batch_size=1)
    found = prediction.detections
    has_area = (found.boxes[:, 2:] > found.boxes[:, :2]).all(dim=1)
    boxes, labels = found.boxes[has_area].float().cpu(), found.labels[has_area].tolist()
    if not labels:
        raise UsageError(
            f"{path}: nothing scores above {min_score:g}; lower --min-score, or name an object with --box, --category"
        )
    return ImageObjects(
        image=image,
        boxes=boxes,
        categories=tuple(detector.category_names[label] for label in labels),
        annotation_ids=tuple(range(1, len(labels) + 1)),
        numbers=tuple(range(1, len(labels) + 1)),
        parts={},
    )


def select_object(objects: ImageObjects, number: int) -> ImageObjects:
    """The object of that number alone, counted from 1; raises UsageError where there are fewer."""
    count = len(objects.categories)
    if not 1 <= number <= count:
        raise UsageError(f"--object {number}: {objects.image.path.name} has {count} object(s), numbered from 1")
    place = number - 1
    return replace(
        objects,
        boxes=objects.boxes[place : place + 1],
        categories=objects.categories[place : place + 1],
        annotation_ids=objects.annotation_ids[place : place + 1],
        numbers=(number,),
    )


def image_for(objects: ImageObjects, detector: DetectorConfig, checkpoint: str) -> ImageRecord:
    """The image with a detector's own labels of the objects; raises UsageError for a category it does not know."""
    names = detector.category_names
    for category in objects.categories:
        if category not in names:
            near = difflib.get_close_matches(category, names, n=3, cutoff=0.5) or names[:12]
            known = ", ".join(near) + (" …" if near == names[:12] and len(names) > 12 else "")
            raise UsageError(f"{checkpoint}: knows no category {category!r}; of those it knows: {known}")
    return replace(
        objects.image,
        boxes=objects.boxes,
        labels=torch.tensor([names.index(category) for category in objects.categories]),
        annotation_ids=torch.tensor(objects.annotation_ids),
    )


def _entry(images: list[dict[str, Any]], path: Path, annotations: Path) -> dict[str, Any]:
    """The json's image of that file; of several with its name, the one whose folders agree, too."""
    named = [image for image in images if Path(str(image.get("file_name", ""))).name == path.name]
    if len(named) > 1:
        parts = path.resolve().parts
        named = [image for image in named if parts[-len(own := Path(image["file_name"]).parts) :] == own]
    if len(named) != 1:
        found = "several images" if named else "no image"
        raise UsageError(f"{annotations}: lists {found} {path.name}; give the ground truth that the image is of")
    return named[0]


def _words(box: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in box)


def image_at(path: Path, image_id: int) -> ImageRecord:
    """An image without known objects; raises DataError where it cannot be read."""
    return _image(path, open_image(path).size, image_id)


def _image(path: Path, size: tuple[int, int], image_id: int) -> ImageRecord:
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
