"""Two small detectors with snapshots and a folder of images, for tests of the matching explorer.

folder = exploring_folder(tmp_path)     # val.json, images/, retinanet/…, freeanchor/…
main(["explore", *explore_words(folder), "--out", str(page)])
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from oracles.coco_folder import annotation, small_content, write_folder
from tiny import tiny_detector, tiny_model

from freeanchor.checkpoints.native import save_model

STEPS = (10, 40)
HOSTILE = '</script><img src=x onerror="alert(1)">'
BAG = 12


def content(**changes: Any) -> dict[str, Any]:
    """Six images: two objects each, one slender; a category and a file whose names would end a script."""
    made = small_content()
    made["categories"] = [{**one, "name": HOSTILE} if one["id"] == 9 else one for one in made["categories"]]
    made["images"][0]["file_name"] = "p0'\" &lt;b>.png"
    made["annotations"].append(annotation(90, 20, 9, [4, 30, 52, 12]))
    return {**made, **changes}


def exploring_folder(root: Path, made: dict[str, Any] | None = None, steps: tuple[int, ...] = (*STEPS, 90)) -> Path:
    """Data and models: each has its snapshots beside it, and the last equals the model."""
    write_folder(root, "val", made or content())
    detectors: tuple[Literal["RetinaNet", "FreeAnchor"], ...] = ("RetinaNet", "FreeAnchor")
    for number, detector in enumerate(detectors):
        config = tiny_detector(prior_prob=0.5)
        names = tuple(HOSTILE if name == "bar" else name for name in config.category_names)
        config = replace(config, detector=detector, category_names=names)
        for place, step in enumerate(steps):
            model = tiny_model(10 * number + place, prior_prob=0.5)
            with torch.no_grad():  # scores spread about a half, boxes off their anchors
                model.cls_head.output.weight.mul_(20 * (place + 1))
                model.box_head.output.weight.mul_(4)
            save_model(root / detector.lower() / "snapshots" / f"step-{step:06d}.safetensors", model, config)
        save_model(root / detector.lower() / "model.safetensors", model, config)
    return root


def explore_words(folder: Path, *more: object, detectors: tuple[str, ...] = ("retinanet", "freeanchor")) -> list[str]:
    """The options of `freeanchor explore` for that folder."""
    models = [str(folder / name / "model.safetensors") for name in detectors]
    words = ["--gt", folder / "val.json", "--images", folder / "images", "--bag-size", BAG, "--precision", "float32"]
    return ["explore", *map(str, words), "--checkpoint", *models, *map(str, more)]


def header_of(page: str) -> dict[str, Any]:
    """The json that a page begins with."""
    text = page.split('<script type="application/json" id="header">')[1].split("</script>")[0]
    found: dict[str, Any] = json.loads(text)
    return found


def block_of(page: str, place: int) -> str:
    """The packed arrays of a page's image."""
    return page.split(f'id="block-{place}">')[1].split("</script>")[0]
