"""`freeanchor detect`: a checkpoint on single pictures, boxes drawn on copies of them.

Pictures are seen as viewers show them, turned by their EXIF orientation: unlike a data set's, no stored boxes bind
them to the pixels as the file has them.

detect([Path("photo.jpg")], Path("model.safetensors"), Path("out"), min_score=0.3, runtime=Runtime())
"""

import argparse
import colorsys
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from experiments.files import write_json
from experiments.usage import UsageError, runtime_of
from freeanchor.checkpoints import DetectorConfig, load_model
from freeanchor.data import DataError, Picture, open_image
from freeanchor.picture_files import ORIENTATION, orientation
from freeanchor.predict import predict
from freeanchor.runtime import Runtime
from freeanchor.writing import replacing

SHOWN_SIDE = 960  # px, the least long side of a drawn picture


def picture_at(path: Path, image_id: int) -> Picture:
    """A picture without known objects; raises DataError where it cannot be read."""
    return _picture(path, open_image(path).size, image_id)


def _picture(path: Path, size: tuple[int, int], image_id: int) -> Picture:
    """A picture of that width and height without known objects."""
    return Picture(
        image_id=image_id,
        path=path,
        width=size[0],
        height=size[1],
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        annotation_ids=torch.zeros(0, dtype=torch.int64),
    )


def upright(image: Image.Image) -> Image.Image:
    """The picture as viewers turn it by its EXIF orientation; as it is where that says nothing, or cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on a damaged header
            flag = orientation(image)
    except Exception:  # a damaged header makes Pillow raise what it likes; the pixels are good
        return image
    if flag in (None, 1):
        return image
    bare = image.copy()
    bare.info = {}  # ImageOps writes the other EXIF fields again, and stumbles over odd ones
    bare.getexif()[ORIENTATION] = flag
    return ImageOps.exif_transpose(bare)


def _in_turn(paths: Sequence[Path], pictures: Sequence[Picture]) -> Iterator[tuple[Path, Image.Image]]:
    """Each path with its upright image, first stored for `predict` to read where the picture lies elsewhere."""
    for path, picture in zip(paths, pictures, strict=True):
        image = upright(open_image(path))
        if picture.path != path:
            image.save(picture.path, format="PNG", compress_level=1)
        yield path, image


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


def check_out(paths: Sequence[Path], out: Path) -> None:
    """Refuse an `out` that is no folder, and results that would replace a picture, a folder or each other.

    Pictures of one stem, `a/x.jpg` and `b/x.jpg`, are refused rather than named apart: `x.png` is always `x`'s drawing.
    Raises UsageError or DataError.
    """
    by_stem: dict[str, Path] = {}
    for path in paths:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise DataError(
                f"{other} and {path} share a name and would overwrite each other's result; detect them one by one, "
                "each into a folder of its own"
            )
    parent = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not parent.is_dir():
        raise UsageError(f"--out {out}: {parent} is no folder; give one to write to")
    for target in (*(out / f"{path.stem}.png" for path in paths), out / "detections.json"):
        if target.is_dir():
            raise UsageError(f"{target}: is a folder where a result would be written; give another --out")
        for path in paths:
            if target.exists() and path.exists() and target.samefile(path):
                raise UsageError(f"{path}: a drawing would overwrite it; give another --out")


def _row(path: Path, box: list[float], score: float, label: int, detector: DetectorConfig) -> dict[str, Any]:
    """One detection, its box as x, y, width, height."""
    x1, y1, x2, y2 = box
    return {
        "file": path.name,
        "category_id": detector.category_ids[label],
        "category": detector.category_names[label],
        "score": round(score, 4),
        "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
    }


def detect(
    paths: Sequence[Path], checkpoint: Path, out: Path, *, min_score: float, runtime: Runtime
) -> list[dict[str, Any]]:
    """Detections of every picture, best first, also as `out`/detections.json and one drawn png a picture.

    A row has file, category_id, category, score and bbox [x, y, width, height] in pixels of the upright picture, as
    viewers show it and as it is drawn. Raises UsageError, DataError or CheckpointError, before anything is written,
    where an input cannot be read or would be overwritten (`check_out`).
    """
    check_out(paths, out)
    model, detector = load_model(checkpoint, runtime.device)
    inference = replace(detector.inference, score_threshold=min_score)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as scratch:
        turned = Path(scratch) / "upright.png"  # each turned picture in its turn: many would fill a disk
        pictures = []
        for number, path in enumerate(paths):
            image = open_image(path)
            shown = upright(image)
            pictures.append(_picture(path if shown is image else turned, shown.size, number))
        predictions = predict(model, detector, pictures, inference, runtime, batch_size=1)
        # In this order: zip asks for the image, and so has it stored, before predict reads the picture.
        for (path, image), prediction in zip(_in_turn(paths, pictures), predictions, strict=True):
            found = prediction.detections
            each = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
            own = [_row(path, *one, detector) for one in each]
            with replacing(out / f"{path.stem}.png") as temporary:
                draw_detections(image, own, detector).save(temporary, format="PNG")
            rows += own
    write_json(out / "detections.json", rows)
    return rows


def command(arguments: argparse.Namespace) -> None:
    """`freeanchor detect IMAGE… --checkpoint C --out DIR`; boxes are in the pictures as viewers turn them (EXIF)."""
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
