"""Resizing by the rules of five code bases: sizes to the pixel, OpenCV's bytes to the bit, torchvision's own transform."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny import image_record
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from freeanchor.data.coco import ImageRecord, InputConfig, load_sample, normalise
from freeanchor.data.images import RESIZE_RULES, resized_size
from freeanchor.data.resizing import resize_pixels

SIZES = {  # (width, height) at 800 and 1333: pil, maskrcnn-benchmark, mmdetection, torchvision, detectron2
    (500, 375): ((1067, 800), (1066, 800), (1067, 800), (1066, 800), (1067, 800)),
    (642, 640): ((802, 800), (802, 800), (803, 800), (802, 800), (803, 800)),  # 802.5
    (640, 642): ((800, 802), (800, 802), (800, 803), (800, 802), (800, 803)),
    (1000, 500): ((1333, 666), (1332, 666), (1333, 667), (1333, 666), (1333, 667)),  # 666.5
    (1067, 800): ((1067, 800),) * 5,
    (800, 800): ((800, 800),) * 5,
}
# what OpenCV 5.0 makes of `_pattern(height, width)` with cv2.resize(..., INTER_LINEAR); first channel
OPENCV = {
    (5, 4): [
        [0, 21, 69, 148, 97, 78, 80],
        [46, 82, 112, 119, 87, 87, 104],
        [106, 138, 138, 79, 72, 98, 135],
        [167, 121, 74, 40, 58, 109, 166],
        [100, 123, 137, 129, 81, 120, 198],
        [17, 129, 217, 227, 107, 128, 221],
    ],
    (9, 7): [[57, 116, 98, 107, 78], [131, 56, 180, 120, 110], [104, 151, 38, 145, 79], [127, 66, 88, 157, 111]],
    (6, 4): [[77, 96, 91], [120, 95, 174]],  # half as large each way
}


def _pattern(height: int, width: int) -> np.ndarray:
    """Bytes [height, width, 3] without regularity."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((37 * x * x + 91 * y + 53 * x * y + 71 * c * x + 29 * c) % 256).astype(np.uint8)


def _image(tmp_path: Path, width: int, height: int) -> ImageRecord:
    Image.fromarray(_pattern(height, width)).save(tmp_path / "p.png")
    return image_record(tmp_path / "p.png", (width, height))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_each_code_base(size: tuple[int, int]) -> None:
    """Halves and fractions of a pixel go where each code base lets them go."""
    order = ("pil", "maskrcnn-benchmark", "mmdetection", "torchvision", "detectron2")
    assert tuple(resized_size(*size, 800, 1333, rule) for rule in order) == SIZES[size]
    assert set(order) == set(RESIZE_RULES)


@given(width=st.integers(1, 3000), height=st.integers(1, 3000), short_side=st.integers(1, 900))
def test_sizes_stay_within_bounds_and_near_each_other(width: int, height: int, short_side: int) -> None:
    """No rule loses a side, passes the limits by more than its rounding, or strays further from the exact size."""
    found = {rule: resized_size(width, height, short_side, 1333, rule) for rule in RESIZE_RULES}
    ratio = max(width, height) / min(width, height)
    slack = 1 + ratio  # a short side rounded first moves the long one by its ratio
    for rule, size in found.items():
        assert 1 <= min(size) <= short_side
        assert max(size) <= 1333 + (ratio if rule == "maskrcnn-benchmark" else 0)
    factor = min(short_side / min(width, height), 1333 / max(width, height))
    for size in found.values():
        assert abs(max(size) - max(1, factor * max(width, height))) <= slack
        assert abs(min(size) - max(1, factor * min(width, height))) <= 1


@given(width=st.integers(8, 60), height=st.integers(8, 60))
def test_torchvisions_rule_is_torchvisions(width: int, height: int) -> None:
    """Size and pixels are those of the transform inside torchvision's detectors."""
    image = Image.fromarray(_pattern(height, width))
    transform = GeneralizedRCNNTransform(24, 40, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    expected, _ = transform([torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255])
    size = resized_size(width, height, 24, 40, "torchvision")
    assert size[::-1] == expected.image_sizes[0]
    pixels = normalise(resize_pixels(image, size, "torchvision"), InputConfig())
    torch.testing.assert_close(pixels, expected.tensors[0, :, : size[1], : size[0]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", OPENCV)
def test_mmdetections_rule_is_opencvs_to_the_bit(size: tuple[int, int]) -> None:
    """Larger, smaller and half as large: OpenCV's own bytes, which plain rounding misses in one of eight."""
    expected = np.array(OPENCV[size])
    pixels = resize_pixels(Image.fromarray(_pattern(size[1], size[0])), expected.shape[::-1], "mmdetection")
    np.testing.assert_array_equal(pixels[0].numpy(), expected)
    assert pixels.shape[0] == 3


@pytest.mark.parametrize("rule", ["pil", "maskrcnn-benchmark", "detectron2"])
def test_the_others_resize_with_pillow(rule: str) -> None:
    """Pillow's bilinear filter, which averages when it shrinks."""
    image = Image.fromarray(_pattern(40, 60))
    expected = np.array(image.resize((21, 14), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_pixels(image, (21, 14), rule).permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_an_image_of_the_right_size_stays_as_it_is(rule: str) -> None:
    """No rule touches a pixel then."""
    pattern = _pattern(20, 30)
    found = resize_pixels(Image.fromarray(pattern), (30, 20), rule)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), pattern)


@pytest.mark.parametrize("rule", RESIZE_RULES)
def test_samples_are_resized_by_the_configurations_rule(rule: str, tmp_path: Path) -> None:
    """The network sees the size and the pixels of the rule, and boxes know the scale that it gave."""
    image = _image(tmp_path, 50, 37)
    sample = load_sample(image, InputConfig(short_side=80, max_long_side=133, resize=rule))
    size = resized_size(50, 37, 80, 133, rule)
    assert sample.image.shape == (3, size[1], size[0])
    assert sample.scale == (size[0] / 50, size[1] / 37)
    pixels = resize_pixels(Image.open(image.path), size, rule)
    torch.testing.assert_close(sample.image, normalise(pixels, InputConfig()), rtol=0, atol=0)


def test_images_are_resized_as_ever_unless_told_otherwise(tmp_path: Path) -> None:
    """The default input rounds its size and has Pillow's pixels, which earlier runs were trained on."""
    image = _image(tmp_path, 50, 37)
    config = InputConfig(short_side=30, max_long_side=60)
    resized = Image.open(image.path).resize((41, 30), Image.Resampling.BILINEAR)
    assert torch.equal(load_sample(image, config).image, normalise(resized, config))
