"""Converted checkpoints of the authors, mmdetection and detectron2 against independent reference forwards.

Compared are the network's input, anchors, logits and deltas (within 1e-4) and the final boxes (within 0.01 px).
torchvision's are in `test_conversion_torchvision.py`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from converted import (
    CASES,
    LIMITS,
    LONG,
    SHORT,
    Case,
    assert_same_detections,
    categories,
    convert,
    detections,
    expected_anchors,
    expected_deltas,
    in_our_order,
    raw_output,
    shift_to_few,
    write_image,
)
from oracles.foreign_detectors import AUTHORS_FREEANCHOR, MMDETECTION_FREEANCHOR, detect, from_maps, prepare
from oracles.foreign_forward import flatten, forward
from oracles.foreign_names import RESNEXT101_64X4D
from PIL import Image

from freeanchor.checkpoints.convert import convert_tensors
from freeanchor.detector.retinanet import RetinaNet

NARROW = [name for name in CASES if "narrow" in name]


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_predictions_and_detections_are_the_foreign_ones(name: str, tmp_path: Path) -> None:
    """Input, anchors, logits, deltas and the boxes of an odd-sized image are those of the code base."""
    case, state = CASES[name], CASES[name].tensors()
    path = write_image(tmp_path, 213, 160)
    model, detector = convert(case, state)
    images, inside = prepare(case.base, Image.open(path), SHORT, LONG)
    maps = forward(state, case.base.layout, case.size, images)
    own_images, own = raw_output(model, detector, path)

    torch.testing.assert_close(own_images, images, rtol=0, atol=1e-4)
    torch.testing.assert_close(own.anchors, expected_anchors(maps, case), rtol=0, atol=1e-3)
    logits = in_our_order(flatten(maps.logits, case.size.num_classes)[0], case)
    torch.testing.assert_close(own.logits[0], logits, rtol=0, atol=LIMITS["logits"])
    torch.testing.assert_close(own.deltas[0], expected_deltas(maps, case), rtol=0, atol=LIMITS["logits"])

    expected = from_maps(case.base, case.size, maps, inside, (213, 160))
    assert sum(count > 0 for count in expected.per_level) >= 4
    assert max(expected.per_level) == 1000
    assert_same_detections(detections(model, detector, path), expected)


@pytest.mark.parametrize("name", NARROW, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize(("width", "height"), [(300, 96), (256, 256)])
def test_detections_agree_whatever_the_images_shape(name: str, width: int, height: int, tmp_path: Path) -> None:
    """Wide images at the long side's limit, and those of the right size already."""
    case, state = CASES[name], CASES[name].tensors(seed=1)
    path = write_image(tmp_path, width, height)
    expected = detect(case.base, state, case.size, Image.open(path), SHORT, LONG)
    assert len(expected.scores) > 20
    assert_same_detections(detections(*convert(case, state), path), expected)


@pytest.mark.parametrize("name", NARROW, ids=lambda name: name.replace(" ", "-"))
def test_detections_agree_on_a_image_that_shrinks(name: str, tmp_path: Path) -> None:
    """To a long side of 150.5 px, which all round their own way: PIL averages when it shrinks, OpenCV does not."""
    case, state = CASES[name], CASES[name].tensors(seed=2)
    path = write_image(tmp_path, 256, 301)
    expected = detect(case.base, state, case.size, Image.open(path), 128, 256)
    assert len(expected.scores) > 20
    assert_same_detections(detections(*convert(case, state, 128, 256), path), expected)


EXTREMES = {
    "over the right edge": [2.5, 0.0, 0.0, 0.0],
    "over the upper left corner": [-1.5, -1.5, 0.0, 0.0],
    "shrunk": [0.0, 0.0, -6.0, -1.0],
    "blown up": [0.0, 0.0, 0.0, 5.5],
}


@pytest.mark.parametrize("name", NARROW, ids=lambda name: name.replace(" ", "-"))
@pytest.mark.parametrize("extreme", EXTREMES)
def test_boxes_at_the_limits_are_the_foreign_ones(name: str, extreme: str, tmp_path: Path) -> None:
    """What lies beyond the image, has no area or grows past the clamp ends as in the code base (FACTS A8, A9)."""
    case, state = CASES[name], CASES[name].tensors(seed=3)
    shift = torch.tensor(EXTREMES[extreme]) * torch.tensor(case.base.coding.weights)
    state[f"{case.base.layout.box_output}.bias"].view(9, 4)[3:6] += shift
    state[f"{case.base.layout.cls_output}.bias"].view(9, -1)[3:6] += 2.0
    path = write_image(tmp_path, 121, 90)
    expected = detect(case.base, state, case.size, Image.open(path), 128, 256)
    assert _shows(extreme, expected.boxes[:, 2:] - expected.boxes[:, :2])
    assert_same_detections(detections(*convert(case, state, 128, 256), path), expected)


def _shows(extreme: str, sides: np.ndarray) -> bool:
    """Whether boxes with these sides in an image of 121 x 90 px were affected as named."""
    if extreme == "shrunk":
        return sides[:, 0].min() <= 1.0
    if extreme == "blown up":
        return sides[:, 1].max() >= 89.0
    return len(sides) > 10


def test_the_authors_resnext_strides_in_its_3x3(tmp_path: Path) -> None:
    """A ResNeXt-101-64x4d file gives the logits of a network whose stride is in the 3x3 convolution (FACTS A2)."""
    layout = replace(AUTHORS_FREEANCHOR.layout, stride_in_1x1=False)
    base = replace(AUTHORS_FREEANCHOR, layout=layout)
    case = Case(base=base, size=RESNEXT101_64X4D, format="authors", detector="FreeAnchor")
    state = case.tensors()
    path = write_image(tmp_path, 60, 40)
    model, detector = convert(case, state, 64, 96)
    images, _ = prepare(base, Image.open(path), 64, 96)
    maps = forward(state, layout, case.size, images)
    _, own = raw_output(model, detector, path)
    torch.testing.assert_close(own.logits[0], flatten(maps.logits, 80)[0], rtol=0, atol=LIMITS["logits"])
    torch.testing.assert_close(own.deltas[0], expected_deltas(maps, case), rtol=0, atol=LIMITS["logits"])


def test_mmdetections_resnext_fits() -> None:
    """Every tensor of a ResNeXt-101-64x4d FreeAnchor file finds its place, shape and all."""
    case = Case(
        base=MMDETECTION_FREEANCHOR,
        size=RESNEXT101_64X4D,
        format="mmdetection",
        detector="FreeAnchor",
        state={"free_anchor": True},
    )
    tensors, detector = convert_tensors(case.tensors(), case.origin(), categories(80))
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in RetinaNet(detector.model).state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert detector.model.backbone.name == "resnext101_64x4d"
    assert not detector.model.backbone.stride_in_1x1


@pytest.mark.parametrize("name", NARROW, ids=lambda name: name.replace(" ", "-"))
def test_few_detections_are_all_the_foreign_ones(name: str, tmp_path: Path) -> None:
    """Where no cap binds, what scores above 0.05 decides, as in the code base."""
    case, state = CASES[name], CASES[name].tensors(seed=1)
    path = write_image(tmp_path, 97, 131)
    maps = forward(state, case.base.layout, case.size, prepare(case.base, Image.open(path), 64, 96)[0])
    state[f"{case.base.layout.cls_output}.bias"] += shift_to_few(flatten(maps.logits, 1))
    expected = detect(case.base, state, case.size, Image.open(path), 64, 96)
    assert 40 <= sum(expected.per_level) <= 80
    assert len(expected.scores) >= 5
    assert_same_detections(detections(*convert(case, state, 64, 96), path), expected)


def test_nothing_is_found_where_nothing_scores(tmp_path: Path) -> None:
    """Scores below 0.05 everywhere give no detections, and not the authors' dummy box either (FACTS A9)."""
    case = CASES["authors, narrow ResNet-18"]
    state = case.tensors()
    state[f"{case.base.layout.cls_output}.bias"] -= 20.0
    assert len(detections(*convert(case, state), write_image(tmp_path, 120, 90))) == 0
