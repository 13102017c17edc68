"""The size that each code base resizes a picture to; what the rules are called is told in `resizing.py`.

Apart from the pixels, so that whoever detects without torch need not import it.

    size = resized_size(640, 480, 800, 1333, "mmdetection")     # (1067, 800)
"""

from typing import Literal

ResizeRule = Literal["pil", "maskrcnn-benchmark", "mmdetection", "torchvision", "detectron2"]
RESIZE_RULES: tuple[ResizeRule, ...] = ("pil", "maskrcnn-benchmark", "mmdetection", "torchvision", "detectron2")


def resized_size(
    width: int, height: int, short_side: int, max_long_side: int, rule: ResizeRule = "pil"
) -> tuple[int, int]:
    """(width, height) with the short side at `short_side`, or less where the long side would pass `max_long_side`."""
    if rule == "maskrcnn-benchmark":
        return _floor_long_side(width, height, short_side, max_long_side)
    if rule == "detectron2":
        return _two_steps(width, height, short_side, max_long_side)
    short, long = min(width, height), max(width, height)
    factor = min(short_side / short, max_long_side / long)
    if rule == "mmdetection":
        return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))
    if rule == "torchvision":
        return max(1, int(width * factor)), max(1, int(height * factor))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _floor_long_side(width: int, height: int, short_side: int, max_long_side: int) -> tuple[int, int]:
    """The size by maskrcnn-benchmark's Resize: a whole short side first, then the long side cut to whole pixels."""
    short, long = min(width, height), max(width, height)
    if long / short * short_side > max_long_side:
        short_side = max(1, round(max_long_side * short / long))
    if short == short_side:
        return width, height
    if width < height:
        return short_side, int(short_side * height / width)
    return int(short_side * width / height), short_side


def _two_steps(width: int, height: int, short_side: int, max_long_side: int) -> tuple[int, int]:
    """The size by detectron2's ResizeShortestEdge: the short side, then the limit, then halves rounded up."""
    factor = short_side / min(width, height)
    sides = (float(short_side), factor * height) if width <= height else (factor * width, float(short_side))
    if max(sides) > max_long_side:
        factor = max_long_side / max(sides)
        sides = sides[0] * factor, sides[1] * factor
    return max(1, int(sides[0] + 0.5)), max(1, int(sides[1] + 0.5))
