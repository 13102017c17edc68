"""The synthetic detection data set `shapes`: COCO json and JPEG files, which `freeanchor.data` reads as it reads COCO.

    write_shapes(ShapesConfig(), Path("data/shapes"))
    # data/shapes/{train,val}.json, data/shapes/images/{train,val}_000001.jpg ...

Twelve classes: half are *slender*, bars whose class shows only in the head at one end, half *compact*. A configuration
gives the same bytes on every machine with the same numpy and Pillow. Beyond COCO's own fields each annotation has
`part` (x, y of the discriminative part's centre), `angle` (degrees clockwise from pointing right; a slender object
points to its head), `elongation` (length over width along the object's own axes) and `hidden` (the share of it that
later objects hide).
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image
from tqdm import tqdm

from freeanchor.data.suspicions import DRAWN, is_drawn
from freeanchor.errors import DataError, is_number
from freeanchor.files import hidden_beside, read_json, settle
from freeanchor.shapes.objects import CATEGORIES, SceneObject
from freeanchor.shapes.scene import SPLITS, Crowd, ShapesConfig, draw_scene
from freeanchor.workers import map_in_processes, usable_processors

AT_ONCE = 100  # images between two moves of the progress bar
VERSION = "3"  # of the drawing; raise it with every change that moves a byte


def write_shapes(config: ShapesConfig, directory: Path) -> None:
    """Draw the data set into `directory`, or leave it alone where it already holds exactly this one.

    Everything is drawn into a hidden folder beside it, which is renamed at the very end: what stands at `directory` is
    always whole. The left-overs of an interrupted run are replaced. Raises `DataError` where `directory` holds
    anything else; an empty folder counts as absent.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        _check_existing(config, directory)
        return
    partial = hidden_beside(directory.absolute(), "partial")
    if partial.exists():
        shutil.rmtree(partial)
    (partial / "images").mkdir(parents=True)
    for split, num_images in zip(SPLITS, (config.num_train, config.num_val), strict=True):
        names = [f"{split}_{number:06d}.jpg" for number in range(1, num_images + 1)]
        drawn = _draw_split(config, split, names, partial / "images")
        document = json.dumps(_as_coco(config, names, drawn), sort_keys=True, separators=(",", ":"))
        (partial / f"{split}.json").write_bytes(document.encode())
    settle(partial, directory)


def _info(config: ShapesConfig) -> dict[str, Any]:
    return {"config": asdict(config), "description": DRAWN, "version": VERSION}


def recorded_parts(content: Mapping[str, Any]) -> dict[int, tuple[float, float]]:
    """Where the discriminative part of each object lies (x, y), by annotation id, in a json that was written here.

    Empty for any other json: what a `part` is there, only its authors know.
    """
    if not is_drawn(content):
        return {}
    parts = ((item["id"], item.get("part")) for item in content["annotations"])
    return {number: (part[0], part[1]) for number, part in parts if _is_point(part)}


def _is_point(part: Any) -> TypeGuard[list[float]]:
    return isinstance(part, list) and len(part) == 2 and all(map(is_number, part))


def _check_existing(config: ShapesConfig, directory: Path) -> None:
    remedy = "remove that folder or name another"
    for split in SPLITS:
        path = directory / f"{split}.json"
        try:
            found = read_json(path)["info"]
            old = {"version": found["version"], **found["config"]}
        except (DataError, KeyError, TypeError) as error:
            raise DataError(f"{directory} is there but holds no shapes data set ({path.name}); {remedy}") from error
        if found != _info(config):
            new = {"version": VERSION, **asdict(config)}
            changed = ", ".join(f"{key} {old.get(key)} not {new[key]}" for key in new if old.get(key) != new[key])
            raise DataError(f"{directory} holds shapes of other settings ({changed or 'unknown'}); {remedy}")


def _draw_split(config: ShapesConfig, split: str, names: list[str], folder: Path) -> list[list[dict[str, Any]]]:
    """Draw each image into `folder`, on all processors; its annotations, which have no ids yet."""

    def draw(index: int) -> list[dict[str, Any]]:
        scene = draw_scene(config, split, index)
        Image.fromarray(scene.pixels).save(folder / names[index], quality=95, subsampling=0)
        found = [_annotate(item, hidden) for item, hidden in zip(scene.objects, scene.hidden, strict=True)]
        return [*found, _annotate_crowd(scene.crowd)] if scene.crowd else found

    # JPEG's slow-integer transform gives the same bytes everywhere; PNG's depend on the zlib that is built in.
    drawn = []
    with tqdm(total=len(names), desc=f"drawing {split}", unit="image", disable=None) as progress:
        for start in range(0, len(names), AT_ONCE):
            block = range(len(names))[start : start + AT_ONCE]
            drawn += map_in_processes(draw, block, num_processes=usable_processors())
            progress.update(len(block))
    return drawn


def _as_coco(config: ShapesConfig, names: list[str], drawn: Iterable[list[dict[str, Any]]]) -> dict[str, Any]:
    ids, annotations = count(1), []
    for image_id, found in enumerate(drawn, start=1):
        annotations += [{**annotation, "id": next(ids), "image_id": image_id} for annotation in found]
    return {
        "info": _info(config),
        "licenses": [],
        "images": [
            {"id": image_id, "file_name": name, "width": config.image_size, "height": config.image_size}
            for image_id, name in enumerate(names, start=1)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": category.name, "supercategory": category.supercategory}
            for number, category in enumerate(CATEGORIES, start=1)
        ],
    }


def _xywh(box: tuple[float, float, float, float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)]


def _annotate(item: SceneObject, hidden: float) -> dict[str, Any]:
    return {
        "category_id": item.category + 1,
        "bbox": _xywh(item.box),
        "area": round(item.area, 2),
        "iscrowd": 0,
        "part": [round(coordinate, 2) for coordinate in item.part],
        "angle": item.angle,
        "elongation": item.elongation,
        "hidden": round(hidden, 4),
    }


def _annotate_crowd(crowd: Crowd) -> dict[str, Any]:
    # A crowd has no discriminative part, so the middle of its box stands in. Its members overlap: no more than the box.
    x, y, width, height = _xywh(crowd.box)
    return {
        "category_id": crowd.members[0].category + 1,
        "bbox": [x, y, width, height],
        "area": math.floor(100 * min(sum(member.area for member in crowd.members), width * height)) / 100,
        "iscrowd": 1,
        "part": [round(x + width / 2, 2), round(y + height / 2, 2)],
        "angle": 0.0,
        "elongation": 1.0,
        "hidden": 0.0,
    }
