"""How anchors fit objects, one anchor and one object at a time: written from RetinaNet's description, slow on purpose.

fit = fit_of([(64, 48, [(3.0, 4.0, 20.0, 30.0)])], (8, 16, 32, 64, 128), 4.0, 64, 96)
fit.ious[0][49]     # the object's 50th anchor
"""

import math
from dataclasses import dataclass, field
from statistics import mean, median

from oracles.boxes import Box, iou

RATIOS = (0.5, 1.0, 2.0)  # height over width
OCTAVES = (0, 1 / 3, 2 / 3)
Image = tuple[int, int, list[Box]]  # width, height, boxes in the file's pixels


@dataclass
class Fit:
    """Every object's IoUs, highest first, and how many are 0.5 or more; cells and pixels of every image."""

    ious: list[list[float]] = field(default_factory=list)
    fitting: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)


def _resized(width: int, height: int, short_side: int, max_long_side: int) -> tuple[int, int]:
    factor = short_side / min(width, height)
    if factor * max(width, height) > max_long_side:
        factor = max_long_side / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def anchors_of(width: int, height: int, strides: tuple[int, ...], size: float) -> list[Box]:
    """All anchors of a padded image: nine around the centre of every cell of every level."""
    boxes = []
    for stride in strides:
        for row in range(math.ceil(height / stride)):
            for column in range(math.ceil(width / stride)):
                x, y = (column + 0.5) * stride, (row + 0.5) * stride
                for ratio in RATIOS:
                    for octave in OCTAVES:
                        side = size * stride * 2**octave
                        half_width, half_height = side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2
                        boxes.append((x - half_width, y - half_height, x + half_width, y + half_height))
    return boxes


def fit_of(images: list[Image], strides: tuple[int, ...], size: float, short_side: int, max_long_side: int) -> Fit:
    """The fit of anchors of `size` strides to every object."""
    fit = Fit()
    for width, height, boxes in images:
        new_width, new_height = _resized(width, height, short_side, max_long_side)
        padded = 32 * math.ceil(new_width / 32), 32 * math.ceil(new_height / 32)
        anchors = anchors_of(*padded, strides, size)
        fit.cells.append(len(anchors) // 9)
        fit.pixels.append(padded[0] * padded[1])
        for x1, y1, x2, y2 in boxes:
            across, down = new_width / width, new_height / height
            box = (x1 * across, y1 * down, x2 * across, y2 * down)
            overlaps = sorted((iou(box, anchor) for anchor in anchors), reverse=True)
            fit.ious.append(overlaps[:100] + [0.0] * (100 - len(overlaps)))
            fit.fitting.append(sum(value >= 0.5 for value in overlaps))
    return fit


def group_of(box: Box, name: str, scale: tuple[float, float] = (1.0, 1.0)) -> bool:
    """Whether an object belongs to a group: by its area (COCO's 32 and 96 squared), or by its longer over its shorter side."""
    width, height = (box[2] - box[0]) * scale[0], (box[3] - box[1]) * scale[1]
    area, aspect = width * height, max(width, height) / min(width, height)
    return {
        "all": True,
        "small": area <= 32 * 32,
        "medium": 32 * 32 <= area <= 96 * 96,
        "large": area >= 96 * 96,
        "square": aspect <= 4 / 3,
        "middle": 4 / 3 <= aspect <= 3,
        "slender": aspect >= 3,
    }[name]


def metrics_of(fit: Fit, chosen: list[int]) -> dict[str, float]:
    """The metrics of the objects with those numbers."""
    medians = [median(fit.ious[number][rank] for number in chosen) for rank in range(100)]
    below = [rank for rank, value in enumerate(medians, start=1) if value < 0.44]
    return {
        "share_50": mean(fit.ious[number][0] >= 0.5 for number in chosen),
        "num_50_median": median(fit.fitting[number] for number in chosen),
        "num_50_mean": mean(fit.fitting[number] for number in chosen),
        "rank_44": below[0] if below else math.nan,
        **{f"iou_{rank}": value for rank, value in enumerate(medians, start=1)},
    }
