"""The reference forwards themselves: torchvision's network, OpenCV's numbers, and whether they tell details apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from oracles.foreign_detectors import MMDETECTION_FREEANCHOR
from oracles.foreign_forward import flatten, forward
from oracles.foreign_images import authors_size, detectron2_size, mmdetection_size, resize_opencv
from oracles.foreign_names import AUTHORS, DETECTRON2, MMDETECTION, RESNET50, TORCHVISION, Layout
from oracles.foreign_states import authors_state, detectron2_state, miniature, mmdetection_state, torchvision_state
from PIL import Image

NARROW = miniature(RESNET50)
STATES = {
    "authors": (AUTHORS, authors_state(NARROW)),
    "mmdetection": (MMDETECTION, mmdetection_state(NARROW, free_anchor=True)),
    "detectron2": (DETECTRON2, detectron2_state(NARROW)),
}


def test_the_shared_network_is_torchvisions() -> None:
    """Under torchvision's names, the functional forward gives what torchvision's own ResNet-50 RetinaNet gives."""
    size = replace(RESNET50, num_classes=91)
    state = torchvision_state(size, used=tuple(range(1, 91)))
    model = torchvision.models.detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None).eval()
    model.load_state_dict(state)
    images = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = model.head(list(model.backbone(images).values()))
    maps = forward(state, TORCHVISION, size, images)
    torch.testing.assert_close(flatten(maps.logits, 91), theirs["cls_logits"], rtol=0, atol=1e-4)
    torch.testing.assert_close(flatten(maps.deltas, 4), theirs["bbox_regression"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("detail", ["stride_in_1x1", "relu_before_p7", "norm_eps"])
def test_a_wrong_detail_would_show(name: str, detail: str) -> None:
    """Another stride, ReLU or epsilon moves the logits by a hundred times what the parity tests allow."""
    layout, state = STATES[name]
    changed: Layout
    if detail == "norm_eps":
        changed = replace(layout, norm_eps=0.0 if layout.norm_eps else 1e-5)
    else:
        changed = replace(layout, **{detail: not getattr(layout, detail)})
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * (
        1.0 if name == "mmdetection" else 60.0
    )
    right, wrong = (flatten(forward(state, each, NARROW, images).logits, 5) for each in (layout, changed))
    assert (right - wrong).abs().max() > 1e-2


def test_opencvs_bilinear_is_opencvs() -> None:
    """Bytes of cv2 4.14: cv2.resize(((x + 6 * y) * 37 % 256).astype(uint8), size, interpolation=cv2.INTER_LINEAR)."""
    y, x = np.mgrid[0:4, 0:6]
    grey = ((x + 6 * y) * 37 % 256).astype(np.uint8)
    image = Image.fromarray(np.stack([grey, 255 - grey, grey // 2], axis=2))
    for size, expected in OPENCV.items():
        np.testing.assert_array_equal(resize_opencv(image, size)[:, :, 0], expected)


OPENCV = {
    (8, 5): [
        [0, 23, 51, 79, 106, 134, 162, 185],
        [155, 66, 27, 55, 82, 110, 138, 161],
        [205, 148, 80, 28, 55, 83, 111, 134],
        [178, 201, 161, 67, 38, 56, 83, 107],
        [154, 177, 205, 201, 36, 32, 60, 83],
    ],
    (4, 3): [[35, 59, 114, 170], [182, 46, 69, 125], [169, 192, 24, 79]],
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (authors_size, [(340, 256), (428, 137), (256, 256), (256, 340)]),
        (mmdetection_size, [(341, 256), (427, 137), (256, 256), (256, 341)]),
        (detectron2_size, [(341, 256), (427, 137), (256, 256), (256, 341)]),
    ],
    ids=["authors", "mmdetection", "detectron2"],
)
def test_sizes_follow_each_code_bases_rounding(rule: object, expected: list[tuple[int, int]]) -> None:
    """The authors cut the long side's fraction off and may pass its limit by a pixel; the others round both sides."""
    assert [rule(*size, 256, 427) for size in [(213, 160), (300, 96), (100, 100), (160, 213)]] == expected


def test_boxes_without_area_go_before_suppression_in_mmdetection() -> None:
    """A box beside the image leaves no detection, however it scores."""
    candidates = [(0.9, 0, (120.0, 10.0, 150.0, 30.0)), (0.8, 0, (10.0, 10.0, 30.0, 30.0))]
    kept = MMDETECTION_FREEANCHOR.finish(candidates, (100, 80), (50, 40))
    assert kept == [(0.8, 0, (5.0, 5.0, 15.0, 15.0))]
