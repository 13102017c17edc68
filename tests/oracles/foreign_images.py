"""From an image to the network's input, as each foreign code base does it: size, interpolation, normalisation, padding.

Sizes are (width, height). torchvision's own model does all of this itself and is not here.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FRACTION = 2048  # OpenCV's bilinear weights on bytes are multiples of 1 / 2048
MSRA_MEAN = (102.9801, 115.9465, 122.7717)  # BGR
CAFFE_MEAN = (103.53, 116.28, 123.675)  # BGR
RGB_MEAN, RGB_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def authors_size(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """maskrcnn-benchmark: the short side exact, the long side rounded down."""
    smaller, larger = min(width, height), max(width, height)
    if larger / smaller * short > longest:
        short = round(longest * smaller / larger)
    if smaller == short:
        return width, height
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def mmdetection_size(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """mmcv: one factor for both sides, each rounded to the nearest."""
    factor = min(longest / max(width, height), short / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def detectron2_size(width: int, height: int, short: int, longest: int) -> tuple[int, int]:
    """detectron2: the short side first, then both sides shrunk where the long one is too long."""
    factor = short / min(width, height)
    new_width, new_height = (factor * width, float(short)) if height < width else (float(short), factor * height)
    if max(new_width, new_height) > longest:
        shrink = longest / max(new_width, new_height)
        new_width, new_height = new_width * shrink, new_height * shrink
    return int(new_width + 0.5), int(new_height + 0.5)


def resize_pil(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Bytes [h, w, 3] after PIL's bilinear filter, which averages when it shrinks."""
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def _neighbours(count: int, source: int, *, keeps_weights_outside: bool) -> list[tuple[int, int, int, int]]:
    """For each new place: its two old neighbours and their weights in 1 / 2048."""
    found = []
    for place in range(count):
        centre = np.float32((place + 0.5) * (source / count) - 0.5)
        first = math.floor(centre)
        fraction = np.float32(centre - np.float32(first))
        if not keeps_weights_outside and (first < 0 or first >= source - 1):
            fraction = np.float32(0)
            first = min(max(first, 0), source - 1)
        before = round(float((np.float32(1) - fraction) * np.float32(FRACTION)))
        after = round(float(fraction * np.float32(FRACTION)))
        found.append((min(max(first, 0), source - 1), min(max(first + 1, 0), source - 1), before, after))
    return found


def resize_opencv(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Bytes [h, w, 3] after OpenCV's INTER_LINEAR: fixed point, no averaging, its truncations in its order.

    Equal to cv2.resize (4.14 and 5.0) to the last bit, shrinking to exactly a half included.
    """
    pixels = np.asarray(image).astype(np.int64)
    height, width = pixels.shape[:2]
    columns = [
        pixels[:, left] * before + pixels[:, right] * after
        for left, right, before, after in _neighbours(size[0], width, keeps_weights_outside=False)
    ]
    wide = np.stack(columns, axis=1) >> 4
    rows = [
        ((wide[top] * before >> 16) + (wide[bottom] * after >> 16) + 2) >> 2
        for top, bottom, before, after in _neighbours(size[1], height, keeps_weights_outside=True)
    ]
    return np.stack(rows).astype(np.uint8)


def network_input(pixels: np.ndarray, mean: tuple, std: tuple, *, bgr: bool) -> Tensor:
    """[1, 3, H, W]: channels in order, less `mean`, over `std`; then zeros right and below to multiples of 32."""
    ordered = pixels[:, :, ::-1] if bgr else pixels
    height, width = pixels.shape[:2]
    padded = np.zeros((3, math.ceil(height / 32) * 32, math.ceil(width / 32) * 32), dtype=np.float32)
    for channel in range(3):
        values = ordered[:, :, channel].astype(np.float32)
        padded[channel, :height, :width] = (values - np.float32(mean[channel])) / np.float32(std[channel])
    return torch.from_numpy(padded)[None]
