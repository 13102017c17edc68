"""Ten million boxes: processor time and peak memory of whole commands.

    rows = bench_large()            # some ten minutes and 1 GB of disk; `python -m experiments.bench.main --only large`

Objects and boxes are those of `evaluation.py`, written as detectors write them: compressed, image by image.
"""

import gzip
import json
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.evaluation import least_costs, made_up_detections, made_up_ground_truth
from experiments.bench.rows import BenchRow

OBJECTS_PER_IMAGE = 7.36  # val2017's
IMAGES_AT_ONCE = 250


@dataclass(frozen=True, kw_only=True)
class Large:
    """One command on so many boxes, with the bounds of its processor time and of its memory."""

    command: str
    option: str  # that names the file
    more: tuple[str, ...] = ()
    num_images: int
    num_boxes: int = 10_000_000
    most_seconds: float
    most_megabytes: float


LARGE = (
    Large(command="nms-recall", option="--candidates", num_images=5_000, most_seconds=120, most_megabytes=500),
    Large(
        command="evaluate", option="--detections", more=("--resamples", "0"), num_images=100_000, most_seconds=150,
        most_megabytes=3000,
    ),
)  # fmt: skip


def bench_large(cases: tuple[Large, ...] = LARGE, seed: int = 0) -> list[BenchRow]:
    """Two rows for each command; raises `subprocess.CalledProcessError` where one fails."""
    rows = []
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            gt, found = _written(Path(name), case, np.random.default_rng(seed))
            command = ["experiments.cli", case.command, "--gt", str(gt), case.option, str(found), *case.more]
            seconds, megabytes = least_costs(command, 1)
            size = f"{found.stat().st_size / 1e6:,.0f} MB of json.gz, whole process, imports too"
        what = f"freeanchor {case.command}, {case.num_boxes:,} boxes in {case.num_images:,} images"
        for kind, unit, ours, aim in (
            ("processor time", "s", seconds, case.most_seconds),
            ("peak memory", "MB", megabytes, case.most_megabytes),
        ):
            rows.append(BenchRow(subject="large", what=f"{what}: {kind}", unit=unit, ours=ours, aim=aim, note=size))
    return rows


def _written(folder: Path, case: Large, generator: np.random.Generator) -> tuple[Path, Path]:
    """The ground truth, and the boxes image by image, some images at a time."""
    num_objects = round(OBJECTS_PER_IMAGE * case.num_images)
    content = made_up_ground_truth(num_images=case.num_images, num_objects=num_objects, generator=generator)
    gt, found = folder / "gt.json", folder / "boxes.json.gz"
    gt.write_text(json.dumps(content))
    ends = np.linspace(0, case.num_images, -(-case.num_images // IMAGES_AT_ONCE) + 1).round().astype(int)
    of_image: dict[int, list[dict[str, Any]]] = {item["id"]: [] for item in content["images"]}
    for item in content["annotations"]:
        of_image[item["image_id"]].append(item)
    with gzip.open(found, "wt", compresslevel=1) as file:
        for number, (start, end) in enumerate(pairwise(ends.tolist())):
            images = content["images"][start:end]
            objects = [item for image in images for item in of_image[image["id"]]]
            part = {**content, "images": images, "annotations": objects}
            count = case.num_boxes * end // case.num_images - case.num_boxes * start // case.num_images
            boxes = sorted(made_up_detections(part, count, generator), key=lambda row: row["image_id"])
            file.write((", " if number else "[") + json.dumps(boxes)[1:-1])
        file.write("]")
    return gt, found
