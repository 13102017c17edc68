"""Converted checkpoints of the authors, mmdetection and detectron2 against independent reference forwards.

Compared are the network's input, anchors, logits and deltas (within 1e-4) and the final boxes (within 0.01 px).
torchvision's are in `test_conversion_torchvision.py`.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import converted
import numpy as np
import pytest
import torch
from converted import CASES, LIMITS, LONG, SHORT, Case, convert, detections, raw_output, write_image
from oracles.foreign_detectors import AUTHORS_FREEANCHOR, MMDETECTION_FREEANCHOR, Found, detect, from_maps, prepare
from oracles.foreign_forward import flatten, forward
from oracles.foreign_names import RESNEXT101_64X4D
from oracles.foreign_states import State, miniature
from PIL import Image

from freeanchor.checkpoints.convert import convert_tensors
from freeanchor.detector.retinanet import RetinaNet

NARROW = [name for name in CASES if "narrow" in name]
TOO_LARGE = ["authors, ResNet-50", "detectron2, ResNet-50"]  # of the full size mmdetection's alone runs by default
BOTTLENECKS = [name for name in NARROW if "ResNet-50" in name]


def each_case(names: Iterable[str], slow: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Cases by name, those in `slow` only where asked for."""
    marked = [pytest.param(n, marks=pytest.mark.slow if n in slow else (), id=n.replace(" ", "-")) for n in names]
    return pytest.mark.parametrize("named", marked, indirect=True)


@pytest.fixture(scope="module")
def named(request: pytest.FixtureRequest) -> tuple[Case, State]:
    """A case with its state dict, which is drawn once for all tests that take the case."""
    return CASES[request.param], CASES[request.param].tensors()


def _assert_parity(case: Case, state: State, path: Path, short: int = SHORT, longest: int = LONG) -> Found:
    """The converted state finds what the code base finds, which is returned."""
    expected = detect(case.base, state, case.size, Image.open(path), short, longest)
    converted.assert_same_detections(detections(*convert(case, state, short, longest), path), expected)
    return expected


@each_case(CASES, slow=TOO_LARGE)
def test_predictions_and_detections_are_the_foreign_ones(named: tuple[Case, State], tmp_path: Path) -> None:
    """Input, anchors, logits, deltas and the boxes of an odd-sized image are those of the code base."""
    case, state = named
    size, sides = ((213, 160), (256, 427)) if case.size.num_classes == 80 else ((106, 80), (SHORT, LONG))
    path = write_image(tmp_path, *size)
    model, detector = convert(case, state, *sides)
    images, inside = prepare(case.base, Image.open(path), *sides)
    maps = forward(state, case.base.layout, case.size, images)
    own_images, own = raw_output(model, detector, path)

    torch.testing.assert_close(own_images, images, rtol=0, atol=1e-4)
    torch.testing.assert_close(own.anchors, converted.expected_anchors(maps, case), rtol=0, atol=1e-3)
    logits = converted.in_our_order(flatten(maps.logits, case.size.num_classes)[0], case)
    torch.testing.assert_close(own.logits[0], logits, rtol=0, atol=LIMITS["logits"])
    torch.testing.assert_close(own.deltas[0], converted.expected_deltas(maps, case), rtol=0, atol=LIMITS["logits"])

    expected = from_maps(case.base, case.size, maps, inside, size)
    assert sum(count > 0 for count in expected.per_level) >= 4
    assert max(expected.per_level) == 1000
    converted.assert_same_detections(detections(model, detector, path), expected)


@each_case(NARROW)
@pytest.mark.parametrize(
    ("width", "height", "short", "longest"),
    [(150, 48, SHORT, LONG), (128, 128, SHORT, LONG), (256, 301, 128, 256)],
    ids=["wide, at the long side's limit", "of the right size already", "shrinking to 150.5 px"],
)
def test_detections_agree_whatever_the_images_shape(
    named: tuple[Case, State], width: int, height: int, short: int, longest: int, tmp_path: Path
) -> None:
    """All round 150.5 px their own way; PIL averages when it shrinks, OpenCV does not."""
    found = _assert_parity(*named, write_image(tmp_path, width, height), short, longest)
    assert len(found.scores) > 20


EXTREMES = {
    "over the right edge": [2.5, 0.0, 0.0, 0.0],
    "over the upper left corner": [-1.5, -1.5, 0.0, 0.0],
    "shrunk": [0.0, 0.0, -6.0, -1.0],
    "blown up": [0.0, 0.0, 0.0, 5.5],
}


@each_case(NARROW, slow=BOTTLENECKS)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_boxes_at_the_limits_are_the_foreign_ones(named: tuple[Case, State], extreme: str, tmp_path: Path) -> None:
    """What lies beyond the image, has no area or grows past the clamp ends as in the code base."""
    case, state = named[0], _with_own_biases(*named)
    shift = torch.tensor(EXTREMES[extreme]) * torch.tensor(case.base.coding.weights)
    state[f"{case.base.layout.box_output}.bias"].view(9, 4)[3:6] += shift
    state[f"{case.base.layout.cls_output}.bias"].view(9, -1)[3:6] += 2.0
    found = _assert_parity(case, state, write_image(tmp_path, 121, 90))
    assert _shows(extreme, found.boxes[:, 2:] - found.boxes[:, :2])


def _with_own_biases(case: Case, state: State) -> State:
    names = [f"{output}.bias" for output in (case.base.layout.box_output, case.base.layout.cls_output)]
    return {**state, **{name: state[name].clone() for name in names}}


def _shows(extreme: str, sides: np.ndarray) -> bool:
    """Whether boxes with these sides in an image of 121 x 90 px were affected as named."""
    if extreme == "shrunk":
        return sides[:, 0].min() <= 1.0
    if extreme == "blown up":
        return sides[:, 1].max() >= 89.0
    return len(sides) > 10


@each_case(NARROW)
def test_few_detections_are_all_the_foreign_ones(named: tuple[Case, State], tmp_path: Path) -> None:
    """Where no cap binds, what scores above 0.05 decides, as in the code base."""
    case, state = named[0], _with_own_biases(*named)
    path = write_image(tmp_path, 97, 131)
    maps = forward(state, case.base.layout, case.size, prepare(case.base, Image.open(path), 64, 96)[0])
    state[f"{case.base.layout.cls_output}.bias"] += converted.shift_to_few(flatten(maps.logits, 1))
    found = _assert_parity(case, state, path, 64, 96)
    assert 40 <= sum(found.per_level) <= 80
    assert len(found.scores) >= 5


@each_case(["authors, narrow ResNet-18"])
def test_nothing_is_found_where_nothing_scores(named: tuple[Case, State], tmp_path: Path) -> None:
    """Scores below 0.05 everywhere give no detections, and not the authors' dummy box either."""
    case, state = named[0], _with_own_biases(*named)
    state[f"{case.base.layout.cls_output}.bias"] -= 20.0
    assert len(detections(*convert(case, state), write_image(tmp_path, 120, 90))) == 0


def test_the_authors_resnext_strides_in_its_3x3(tmp_path: Path) -> None:
    """A ResNeXt-101-64x4d file gives the logits of a network whose stride is in the 3x3 convolution (authors' code)."""
    layout = replace(AUTHORS_FREEANCHOR.layout, stride_in_1x1=False)
    base = replace(AUTHORS_FREEANCHOR, layout=layout)
    case = Case(base=base, size=miniature(RESNEXT101_64X4D), format="authors", detector="FreeAnchor")
    state = case.tensors()
    path = write_image(tmp_path, 60, 40)
    model, detector = convert(case, state, 64, 96)
    images, _ = prepare(base, Image.open(path), 64, 96)
    maps = forward(state, layout, case.size, images)
    _, own = raw_output(model, detector, path)
    torch.testing.assert_close(
        own.logits[0], flatten(maps.logits, case.size.num_classes)[0], rtol=0, atol=LIMITS["logits"]
    )
    torch.testing.assert_close(own.deltas[0], converted.expected_deltas(maps, case), rtol=0, atol=LIMITS["logits"])


@pytest.mark.slow
def test_mmdetections_resnext_fits() -> None:
    """Every tensor of a ResNeXt-101-64x4d FreeAnchor file finds its place, shape and all."""
    case = replace(CASES["mmdetection FreeAnchor, ResNet-50"], base=MMDETECTION_FREEANCHOR, size=RESNEXT101_64X4D)
    tensors, detector = convert_tensors(case.tensors(), case.origin(), converted.categories(80))
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in RetinaNet(detector.model).state_dict().items()}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected
    assert detector.model.backbone.name == "resnext101_64x4d"
    assert not detector.model.backbone.stride_in_1x1
