"""`freeanchor detect`: a model on single images, and its boxes drawn on copies of them.

Images are seen as viewers show them, turned by their EXIF orientation: unlike a data set's, no stored boxes bind
them to the pixels as the file has them. A `model.onnx` is run by onnxruntime, without an import of torch.

    detect([Path("photo.jpg")], Path("model.safetensors"), Path("out"), min_score=0.3, runtime=Runtime())
    detect([Path("photo.jpg")], Path("model.onnx"), Path("out"), min_score=0.3)
    draw_detections(upright(image), rows, category_ids).save("drawn.png")
"""

import argparse
import colorsys
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from analysis.figures.lettering import font_of, say_lacking, shortened
from experiments.commands.compute import check_counts, runtime_of
from freeanchor.data.images import EXTENSIONS, open_image, opened, upright
from freeanchor.errors import DataError, FileError, UsageError, printable, shown
from freeanchor.files import replacing, write_json
from freeanchor.inference.onnx_detector import Found, OnnxDetector, load_onnx

if TYPE_CHECKING:
    from freeanchor.checkpoints.native import DetectorConfig
    from freeanchor.detector.postprocess import Candidates
    from freeanchor.runtime import Runtime


ONNX = ".onnx"
SOFTWARE = "freeanchor detect"  # marks the drawings, which are no images to detect on
SHOWN_SIDE = 960  # px, the least long side of a drawn image


def _colour(label: int, num_labels: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label / num_labels, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or for letters that it lacks one that has most of them."""
    if text.isascii():
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(font_of(text)[0], size=size)


def draw_detections(image: Image.Image, rows: Sequence[dict[str, Any]], category_ids: Sequence[int]) -> Image.Image:
    """A copy of the image with each box in its class's colour, its name and score above it.

    An image below `SHOWN_SIDE` is enlarged to it, so that the labels leave room for what they name.
    """
    zoom = max(1.0, SHOWN_SIDE / max(image.size))
    drawn = image.resize((round(image.width * zoom), round(image.height * zoom)), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(drawn)
    line = max(1, round(max(drawn.size) / 400))
    size = round(max(drawn.size) / 70)
    for row in sorted(rows, key=lambda row: row["score"]):  # the best-scoring on top
        x, y, width, height = (value * zoom for value in row["bbox"])
        colour = _colour(category_ids.index(row["category_id"]), len(category_ids))
        canvas.rectangle((x, y, x + width, y + height), outline=colour, width=line)
        text = f"{shortened(printable(row['category']))} {row['score']:.2f}"
        font = _font(text, size)
        left, top, right, bottom = canvas.textbbox((x, y), text, font=font, anchor="lb")
        shift = max(0, 1 - top)  # a label above the image's edge moves inside
        canvas.rectangle((left - 1, top + shift - 1, right + 1, bottom + shift), fill=colour)
        canvas.text((x, y + shift), text, fill="black", font=font, anchor="lb")
    return drawn


def expanded(given: Sequence[Path]) -> list[Path]:
    """Image files, in place of a folder those in it, in natural order: 2.jpg before 10.jpg.

    Images are known by their extension; what is hidden, lies in folders inside, or was drawn by `detect` is left out,
    and counted on stderr. Raises DataError where a folder holds no image.
    """
    return [image for path in given for image in (_images_of(path) if path.is_dir() else [path])]


def _images_of(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if not path.name.startswith(".")]
    images = [path for path in files if path.suffix.lower() in EXTENSIONS and not path.is_dir()]
    drawn = {path for path in images if path.suffix.lower() == ".png" and _is_drawn(path)}
    found = sorted((path for path in images if path not in drawn), key=lambda path: _natural(path.name))
    if not found:
        what = "holds nothing but drawings of detections" if drawn else "holds no image"
        raise DataError.at(folder, what, f"give image files, or a folder that holds some ({', '.join(EXTENSIONS)})")
    left = {"drawings of detections": len(drawn), "other files and folders": len(files) - len(images)}
    if words := [f"{number:,} {what}" for what, number in left.items() if number]:
        print(printable(f"{folder}: {len(found):,} images; left out: {', '.join(words)}"), file=sys.stderr)
    return found


def _is_drawn(path: Path) -> bool:
    try:
        with opened(path) as image:
            return image.info.get("Software") == SOFTWARE
    except FileError:  # is said when it is read
        return False


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name.casefold())
    return [(int(part) if part.isdecimal() else 0, part) for part in parts] + [(0, name)]


def check_out(paths: Sequence[Path], out: Path) -> None:
    """Refuse an `out` that is no folder, and results that would replace an image, a folder or each other.

    Images of one stem, `a/x.jpg` and `b/x.jpg`, are refused rather than named apart: `x.png` is always `x`'s drawing.
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


def _signed() -> PngImagePlugin.PngInfo:
    signature = PngImagePlugin.PngInfo()
    signature.add_text("Software", SOFTWARE)
    return signature


def _rows(
    path: Path, found: "Candidates | Found", detector: "DetectorConfig | OnnxDetector"
) -> Iterator[dict[str, Any]]:
    each = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    for (x1, y1, x2, y2), score, label in each:
        yield {
            "file": path.name,
            "category_id": detector.category_ids[label],
            "category": detector.category_names[label],
            "score": round(score, 4),
            "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        }


def _found_by_onnx(
    paths: Sequence[Path], model: Path, min_score: float, threads: int
) -> tuple[OnnxDetector, Iterable[tuple[Image.Image, Found]]]:
    """The detector, and each image, upright, with what is found in it; every image has been read once before."""
    detector = load_onnx(model, threads)
    for path in paths:
        open_image(path)
    images = (upright(open_image(path)) for path in paths)
    return detector, ((image, detector.detect(image, min_score=min_score)) for image in images)


def _found(
    paths: Sequence[Path], checkpoint: Path, min_score: float, runtime: "Runtime | None", threads: int
) -> "tuple[DetectorConfig | OnnxDetector, Iterable[tuple[Image.Image, Candidates | Found]]]":
    if checkpoint.suffix.lower() == ONNX:
        return _found_by_onnx(paths, checkpoint, min_score, threads)
    from experiments.commands.objects import found_by_torch
    from freeanchor.runtime import Runtime

    return found_by_torch(paths, checkpoint, min_score=min_score, runtime=runtime or Runtime())


def detect(
    paths: Sequence[Path],
    checkpoint: Path,
    out: Path,
    *,
    min_score: float,
    runtime: "Runtime | None" = None,
    threads: int = 0,
) -> list[dict[str, Any]]:
    """Detections of every image, best first, also as `out`/detections.json and one drawn png per image.

    A row has file, category_id, category, score and bbox [x, y, width, height] in pixels of the upright image, as
    viewers show it and as it is drawn. `runtime` is for torch, `threads` for a `checkpoint` that ends in .onnx. Raises
    UsageError, DataError or CheckpointError, before anything is written, where an input cannot be read or would be
    overwritten (`check_out`).
    """
    check_out(paths, out)
    detector, found = _found(paths, checkpoint, min_score, runtime, threads)
    rows: list[dict[str, Any]] = []
    names: dict[str, None] = {}
    for path, (image, detections) in zip(paths, found, strict=True):
        own = list(_rows(path, detections, detector))
        names |= dict.fromkeys(row["category"] for row in own)
        with replacing(out / f"{path.stem}.png") as temporary:
            draw_detections(image, own, detector.category_ids).save(temporary, format="PNG", pnginfo=_signed())
        rows += own
    write_json(out / "detections.json", rows)
    say_lacking(out, [letter for name in names if not name.isascii() for letter in font_of(name)[1]])
    return rows


def _check_onnx(arguments: argparse.Namespace) -> None:
    """Refuse where and how to compute what onnxruntime computes on CPUs alone, in the graph's float32."""
    check_counts(arguments)
    if arguments.device != "cpu" or arguments.precision not in ("auto", "float32"):
        raise UsageError(
            f"{arguments.checkpoint}: is run on the CPU in float32; leave out --device and --precision, or give the "
            "model.safetensors that it was made of"
        )


def command(arguments: argparse.Namespace) -> None:
    """`freeanchor detect IMAGE… --checkpoint C --out DIR`; boxes are in the images as viewers turn them (EXIF).

    In place of images, folders of them.
    """
    if not 0 <= arguments.min_score <= 1:
        raise UsageError(f"--min-score must lie in [0, 1], got {arguments.min_score}; it is a fraction")
    started = time.perf_counter()
    is_onnx = arguments.checkpoint.suffix.lower() == ONNX
    if is_onnx:
        _check_onnx(arguments)
    images = expanded(arguments.images)
    rows = detect(
        images,
        arguments.checkpoint,
        arguments.out,
        min_score=arguments.min_score,
        runtime=None if is_onnx else runtime_of(arguments),
        threads=arguments.threads,
    )
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f"{shown(row['file'])}: {shown(row['category'])} {row['score']:.2f} at {row['bbox']}")
    seconds = time.perf_counter() - started
    print(f"{len(rows)} detections in {len(images)} images, drawn in {arguments.out}, {seconds:.2f} s")
