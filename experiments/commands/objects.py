"""The objects of one image whose matching is asked for: annotated, given by hand, or detected.

What it is: any image with boxes and category names, so that detectors with other category ids can be asked about the
same objects. What it is not: asking them (`experiments.explore`).

    objects = annotated_objects(Path("photos/images/1.jpg"), Path("photos/val.json"))
    objects = boxed_object(Path("1.jpg"), (10.0, 20.0, 60.0, 30.0), "door")
    image = image_for(objects, detector, "model.safetensors")
"""

import difflib
import gzip
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.coco.reading import read_ground_truth
from experiments.commands.detect_torch import image_at
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import ImageRecord
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.errors import UsageError
from freeanchor.inference.predict import predict
from freeanchor.runtime import Runtime

Part = tuple[float, float]
EDGE = 1.0  # px that a given box may reach beyond the image, as rounded ones do


@dataclass(frozen=True, kw_only=True)
class ImageObjects:
    """An image without labels, and its G objects: boxes xyxy in its pixels, category names, ids, telling parts by id.

    `numbers` counts the objects from 1; of a selection they are those that its objects had before.
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
    content = _read(annotations)
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
    known = {item["id"]: tuple(item["part"]) for item in content["annotations"] if _is_point(item.get("part"))}
    return ImageObjects(
        image=replace(image, image_id=int(entry["id"])),
        boxes=torch.tensor(boxes[own], dtype=torch.float32),
        categories=tuple(ground_truth.category_names[place] for place in ground_truth.category_index[own]),
        annotation_ids=tuple(ids),
        numbers=tuple(range(1, len(ids) + 1)),
        parts={number: known[number] for number in ids if number in known},
    )


def _is_point(part: object) -> bool:
    """Whether an annotation's `part`, which only drawn data have, is a place (x, y)."""
    return isinstance(part, list) and len(part) == 2 and all(isinstance(it, int | float) for it in part)


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
    """A detector's own detections that score above `min_score`, the surest first, numbered from 1.

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


def _read(path: Path) -> dict[str, Any]:
    """A COCO json that was checked before."""
    content = path.read_bytes()
    read: dict[str, Any] = json.loads(gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content)
    return read


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
    """A box as it was given."""
    return " ".join(f"{value:g}" for value in box)
