"""Resizing an image's pixels as each code base does it; the size itself is `freeanchor.data.images.resized_size`.

The rules differ by a pixel in size and by grey levels in content, enough to move a converted detector's boxes:

- "pil" rounds sizes and uses Pillow's filter, which averages when it shrinks; this project's own;
- "maskrcnn-benchmark" (the authors) cuts the long side to whole pixels, Pillow's filter;
- "detectron2" rounds halves up, Pillow's filter;
- "mmdetection" rounds halves up, OpenCV's bilinear in fixed point, which does not average;
- "torchvision" cuts both sides to whole pixels, torch's bilinear on floats, which does not average either.

    size = resized_size(640, 480, 800, 1333, "mmdetection")     # (1067, 800)
    pixels = resize_pixels(image, size, "mmdetection")          # [3, 800, 1067] in RGB, 0 to 255
"""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from freeanchor.data.images import ResizeRule


def resize_pixels(image: Image.Image, size: tuple[int, int], rule: ResizeRule = "pil") -> Float[Tensor, "3 H W"]:
    """The image at `size` (width, height) in RGB of 0 to 255, interpolated as `rule` says."""
    if size == image.size:
        return _channels_first(np.array(image, dtype=np.float32))
    if rule == "mmdetection":
        return _channels_first(_resize_opencv(np.asarray(image), size).astype(np.float32))
    if rule == "torchvision":
        pixels = _channels_first(np.array(image, dtype=np.float32))
        return functional.interpolate(pixels[None], size=size[::-1], mode="bilinear", align_corners=False)[0]
    return _channels_first(np.array(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32))


def _channels_first(pixels: np.ndarray) -> Tensor:
    """Rows of pixels as a tensor of three planes, each in one piece: arithmetic on them is four times faster."""
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _opencv_taps(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each new position: the first of its two old ones (-1 before the edge), and both weights of 2048 in all."""
    step = 1.0 / (after / before)
    place = ((np.arange(after) + 0.5) * step - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int32)
    share = place - first.astype(np.float32)
    weights = [np.rint(part * np.float32(2048)).astype(np.int32) for part in (np.float32(1) - share, share)]
    return first, weights[0], weights[1]


def _resize_opencv(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV's INTER_LINEAR for bytes, to the last bit: weights of 11 bits, sums cut in the order of its code.

    Beyond the left and right edges the nearest pixel has the whole weight; beyond the upper and lower ones the row
    counts twice with its two weights, whose products are cut one by one. OpenCV 5.0 gives the same bytes.
    """
    height, width, _ = pixels.shape
    old = pixels.astype(np.int32)
    first, left, right = _opencv_taps(width, size[0])
    outside = (first < 0) | (first >= width - 1)
    left, right = np.where(outside, 2048, left), np.where(outside, 0, right)
    columns = first.clip(0, width - 1), (first + 1).clip(0, width - 1)
    rows = old[:, columns[0]] * left[:, None] + old[:, columns[1]] * right[:, None]
    first, upper, lower = _opencv_taps(height, size[1])
    above, below = rows[first.clip(0, height - 1)] >> 4, rows[(first + 1).clip(0, height - 1)] >> 4
    summed = ((above * upper[:, None, None]) >> 16) + ((below * lower[:, None, None]) >> 16)
    return ((summed + 2) >> 2).clip(0, 255).astype(np.uint8)
