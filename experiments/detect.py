"""`freeanchor detect`: a checkpoint on single pictures, boxes drawn on copies of them.

detect([Path("photo.jpg")], Path("model.safetensors"), Path("out"), min_score=0.3, runtime=Runtime())
"""

import argparse
import colorsys
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from experiments.files import write_json
from experiments.usage import UsageError, runtime_of
from freeanchor.checkpoints import DetectorConfig, load_model
from freeanchor.data import DataError, Picture, open_image
from freeanchor.predict import predict
from freeanchor.runtime import Runtime
from freeanchor.writing import replacing

SHOWN_SIDE = 960  # px, the least long side of a drawn picture


def picture_at(path: Path, image_id: int) -> Picture:
    """A picture without known objects; raises DataError where it cannot be read."""
    width, height = open_image(path).size
    return Picture(
        image_id=image_id,
        path=path,
        width=width,
        height=height,
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        annotation_ids=torch.zeros(0, dtype=torch.int64),
    )


def _colour(label: int, num_labels: int) -> tuple[int, int, int]:
    """One of `num_labels` colours spread evenly over the hues."""
    red, green, blue = colorsys.hsv_to_rgb(label / num_labels, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image.Image, rows: Sequence[dict[str, Any]], detector: DetectorConfig) -> Image.Image:
    """A copy of the picture with each box in its class's colour, its name and score above it.

    A picture below `SHOWN_SIDE` is enlarged to it, so that the labels leave room for what they name.
    """
    zoom = max(1.0, SHOWN_SIDE / max(image.size))
    drawn = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(drawn)
    line = max(1, round(max(drawn.size) / 400))
    font = ImageFont.load_default(size=round(max(drawn.size) / 70))
    for row in sorted(rows, key=lambda row: row["score"]):  # the surest on top
        x, y, width, height = (value * zoom for value in row["bbox"])
        colour = _colour(detector.category_ids.index(row["category_id"]), len(detector.category_ids))
        canvas.rectangle((x, y, x + width, y + height), outline=colour, width=line)
        text = f"{row['category']} {row['score']:.2f}"
        left, top, right, bottom = canvas.textbbox((x, y), text, font=font, anchor="lb")
        shift = max(0, 1 - top)  # a label above the picture's edge moves inside
        canvas.rectangle((left - 1, top + shift - 1, right + 1, bottom + shift), fill=colour)
        canvas.text((x, y + shift), text, fill="black", font=font, anchor="lb")
    return drawn


def detect(
    paths: Sequence[Path], checkpoint: Path, out: Path, *, min_score: float, runtime: Runtime
) -> list[dict[str, Any]]:
    """Detections of every picture, best first, also as `out`/detections.json and one drawn png a picture.

    A row has file, category_id, category, score and bbox [x, y, width, height] in the file's pixels. Raises DataError
    or CheckpointError, before anything is written, where an input cannot be read.
    """
    stems = [path.stem for path in paths]
    if len(set(stems)) < len(stems):
        raise DataError("two pictures share a name and would overwrite each other's result; detect them one by one")
    model, detector = load_model(checkpoint, runtime.device)
    pictures = [picture_at(path, number) for number, path in enumerate(paths)]
    rows: list[dict[str, Any]] = []
    for prediction in predict(
        model, detector, pictures, replace(detector.inference, score_threshold=min_score), runtime, batch_size=1
    ):
        path, found = prediction.picture.path, prediction.detections
        own = [
            {
                "file": path.name,
                "category_id": detector.category_ids[label],
                "category": detector.category_names[label],
                "score": round(score, 4),
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            }
            for (x1, y1, x2, y2), score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ]
        with replacing(out / f"{path.stem}.png") as temporary:
            draw_detections(open_image(path), own, detector).save(temporary, format="PNG")
        rows += own
    write_json(out / "detections.json", rows)
    return rows


def command(arguments: argparse.Namespace) -> None:
    """`freeanchor detect IMAGE… --checkpoint C --out DIR`."""
    if not 0 <= arguments.min_score <= 1:
        raise UsageError(f"--min-score must lie in [0, 1], got {arguments.min_score}; it is a fraction")
    started = time.perf_counter()
    rows = detect(
        arguments.images,
        arguments.checkpoint,
        arguments.out,
        min_score=arguments.min_score,
        runtime=runtime_of(arguments),
    )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{row['file']}: {row['category']} {row['score']:.2f} at {row['bbox']}")
    seconds = time.perf_counter() - started
    print(f"{len(rows)} detections in {len(arguments.images)} pictures, drawn in {arguments.out}, {seconds:.2f} s")
