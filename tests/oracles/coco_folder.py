"""Small COCO folders written by hand: coloured rectangles on noise, with everything a test wants to get wrong.

folder = write_folder(tmp_path / "data", "val", small_content())
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = ({"id": 9, "name": "bar"}, {"id": 2, "name": "dot"}, {"id": 5, "name": "box"})  # neither sorted nor dense
COLOURS = {9: (230, 40, 40), 2: (40, 220, 40), 5: (60, 60, 240)}


def small_content(
    num_images: int = 6, *, size: tuple[int, int] = (64, 64), num_objects: int = 2, seed: int = 0
) -> dict[str, Any]:
    """The json of a split of images `size` (width, height), each with `num_objects` rectangles inside it."""
    generator = np.random.default_rng(seed)
    annotations = []
    for image in range(num_images):
        for _ in range(num_objects):
            sides = generator.integers(12, 33, size=2)
            corner = [int(generator.integers(0, limit - side)) for limit, side in zip(size, sides, strict=True)]
            category = CATEGORIES[int(generator.integers(len(CATEGORIES)))]["id"]
            annotations.append(annotation(len(annotations) + 1, 10 * (image + 1), category, [*corner, *sides.tolist()]))
    images = [
        {"id": 10 * (image + 1), "file_name": f"p{image}.png", "width": size[0], "height": size[1]}
        for image in range(num_images)
    ]
    return {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}


def annotation(number: int, image: int, category: int, box: list[float], **extra: Any) -> dict[str, Any]:
    """One entry of the list of annotations; `box` is x, y, width, height."""
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3]}
    return {**entry, "iscrowd": 0, **extra}


def draw(image: dict[str, Any], annotations: list[dict[str, Any]]) -> Image.Image:
    """Noise with a filled rectangle for each of the image's annotations."""
    pixels = np.random.default_rng(image["id"]).integers(
        90, 130, size=(image["height"], image["width"], 3), dtype=np.uint8
    )
    for item in annotations:
        if item["image_id"] == image["id"]:
            x, y, width, height = (round(value) for value in item["bbox"])
            pixels[max(0, y) : max(0, y + height), max(0, x) : max(0, x + width)] = COLOURS[item["category_id"]]
    return Image.fromarray(pixels)


def write_folder(directory: Path, split: str, content: dict[str, Any], *, layout: str = "flat") -> Path:
    """Write json and images of one split, in the flat layout or in COCO's own; returns `directory`."""
    flat = layout == "flat"
    annotations = directory / f"{split}.json" if flat else directory / "annotations" / f"instances_{split}2017.json"
    folder = directory / ("images" if flat else f"{split}2017")
    for path in (annotations.parent, folder):
        path.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(content), encoding="utf-8")
    for image in content["images"]:
        draw(image, content["annotations"]).save(folder / image["file_name"])
    return directory


def write_both(directory: Path, *, size: tuple[int, int] = (64, 64), num_objects: int = 2) -> Path:
    """A whole small data set: six images to train on, four to test on, named apart."""
    for split, num_images, seed in (("train", 6, 0), ("val", 4, 1)):
        content = small_content(num_images, size=size, num_objects=num_objects, seed=seed)
        for image in content["images"]:
            image["file_name"] = f"{split}-{image['file_name']}"
        write_folder(directory, split, content)
    return directory
