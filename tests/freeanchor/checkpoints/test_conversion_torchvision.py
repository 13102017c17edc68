"""Converted torchvision checkpoints against torchvision's own model, from the image to the boxes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from converted import LIMITS, assert_same_detections, convert_state, detections, raw_output, shift_to_few, write_image
from oracles.foreign_detectors import Found
from oracles.foreign_names import RESNET18, RESNET50, Architecture
from oracles.foreign_states import miniature, torchvision_state
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TheirRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.transforms.functional import pil_to_tensor

from freeanchor.checkpoints.code_bases import Origin

DELTA_WEIGHTS = torch.tensor([10.0, 10.0, 5.0, 5.0])
FEW = {1: "one", 2: "two", 4: "four", 7: "seven", 9: "nine"}  # ten slots, five of them in use
COCO_LIKE = {i: f"class {i}" for i in range(1, 91) if i % 9}
MINIATURE = miniature(RESNET18, num_classes=10, head_depth=4)


CLS_BIAS, BOX_BIAS = "head.classification_head.cls_logits.bias", "head.regression_head.bbox_reg.bias"
Small = Callable[[int, int, dict[str, Tensor]], TheirRetinaNet]


def _build(size: Architecture, norm: type[nn.Module] = nn.BatchNorm2d) -> TheirRetinaNet:
    """torchvision's RetinaNet on a narrow pyramid over ResNet-18 or 50."""
    body = torchvision.models.resnet50 if size.bottleneck else torchvision.models.resnet18
    backbone = BackboneWithFPN(
        body(norm_layer=norm),
        return_layers={"layer2": "0", "layer3": "1", "layer4": "2"},
        in_channels_list=[size.outer(stage) for stage in (1, 2, 3)],
        out_channels=size.channels,
        extra_blocks=LastLevelP6P7(size.channels, size.channels),
    )
    return TheirRetinaNet(backbone, size.num_classes).eval()


def _filled(model: TheirRetinaNet, state: dict[str, Tensor], short: int, longest: int) -> TheirRetinaNet:
    """The model with these weights, its images resized to these sides."""
    model.transform.min_size, model.transform.max_size = (short,), longest
    model.load_state_dict(state)
    return model


@pytest.fixture(scope="module")
def small() -> Small:
    """torchvision's miniature, built once, as a function of sides and weights."""
    model = _build(MINIATURE)
    return lambda short, longest, state: _filled(model, state, short, longest)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Tensor]:
    """Weights of the miniature."""
    return torchvision_state(MINIATURE, seed=1, used=tuple(FEW))


@pytest.fixture
def state(drawn: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same, with output biases that a test may change."""
    return {**drawn, **{name: drawn[name].clone() for name in (CLS_BIAS, BOX_BIAS)}}


@torch.no_grad()
def _their_detections(model: TheirRetinaNet, path: Path, ids: list[int]) -> Found:
    """What torchvision finds, category ids as positions in `ids`."""
    image = pil_to_tensor(Image.open(path).convert("RGB")).float() / 255
    (found,) = model([image])
    return Found(
        boxes=found["boxes"].double().numpy(),
        scores=found["scores"].double().numpy(),
        labels=np.array([ids.index(label) for label in found["labels"].tolist()], dtype=np.int64),
        per_level=(),
    )


@torch.no_grad()
def _their_output(model: TheirRetinaNet, path: Path) -> dict[str, Tensor]:
    """torchvision's input, logits, deltas and anchors for an image."""
    images, _ = model.transform([pil_to_tensor(Image.open(path).convert("RGB")).float() / 255])
    features = list(model.backbone(images.tensors).values())
    heads = model.head(features)
    return {
        "images": images.tensors,
        "logits": heads["cls_logits"][0],
        "deltas": heads["bbox_regression"][0],
        "anchors": model.anchor_generator(images, features)[0],
    }


def _assert_parity(
    theirs: TheirRetinaNet,
    state: dict[str, Tensor],
    names: dict[int, str],
    path: Path,
    num_found: int | None = 300,
    **origin: Any,
) -> None:
    """Input, anchors, logits, deltas and detections of an image agree; the latter are `num_found`."""
    ids = sorted(names)
    told = Origin(format="torchvision", detector="RetinaNet", **origin)
    sides = theirs.transform.min_size[0], theirs.transform.max_size
    model, detector = convert_state(state, told, names, *sides)
    images, own = raw_output(model, detector, path)
    expected = _their_output(theirs, path)
    torch.testing.assert_close(images, expected["images"], rtol=0, atol=1e-4)
    torch.testing.assert_close(own.anchors, expected["anchors"], rtol=0, atol=1e-3)
    torch.testing.assert_close(own.logits[0], expected["logits"][:, ids], rtol=0, atol=LIMITS["logits"])
    torch.testing.assert_close(own.deltas[0], expected["deltas"] * DELTA_WEIGHTS, rtol=0, atol=LIMITS["logits"])
    found = _their_detections(theirs, path, ids)
    assert num_found is None or len(found.scores) == num_found
    assert_same_detections(detections(model, detector, path), found)


def test_a_full_file_gives_torchvisions_own_detections(tmp_path: Path) -> None:
    """ResNet-50, 91 slots of which 80 are in use: the 300 boxes of an odd-sized image are torchvision's."""
    state = torchvision_state(Architecture(num_classes=91), used=tuple(COCO_LIKE))
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).eval()
    assert len(COCO_LIKE) == 80
    _assert_parity(_filled(theirs, state, 128, 214), state, COCO_LIKE, write_image(tmp_path, 106, 80))


@pytest.mark.parametrize(("width", "height"), [(225, 72), (73, 98), (315, 250), (192, 192)])
def test_a_miniature_gives_torchvisions_own_detections(
    width: int, height: int, small: Small, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """Wide, tall, shrunk and untouched images: sizes, and with them the strides of P6 and P7, are torchvision's."""
    _assert_parity(small(192, 320, state), state, FEW, write_image(tmp_path, width, height))


def test_strides_of_an_image_of_800_pixels_are_torchvisions(
    small: Small, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """At 800 x 1066 torchvision's strides of P6 and P7 are 61 and 114, and the converted file's too."""
    path = write_image(tmp_path, 213, 160)
    model, detector = convert_state(state, Origin(format="torchvision", detector="RetinaNet"), FEW, 800, 1333)
    _, own = raw_output(model, detector, path)
    anchors = _their_output(small(800, 1333, state), path)["anchors"]
    torch.testing.assert_close(own.anchors, anchors, rtol=0, atol=1e-3)
    lowest = anchors[-9:, [1, 3]].mean(dim=1)  # centres of the last row of P7
    assert lowest.tolist() == pytest.approx([6 * 114.0] * 9)


@pytest.mark.parametrize("norm_eps", [0.0, None], ids=["0, as in the COCO_V1 file", "the format's own"])
def test_the_told_epsilon_is_used(norm_eps: float | None, tmp_path: Path) -> None:
    """With frozen batch norm torchvision overwrites its epsilon with 0; elsewhere it is 1e-5."""
    size = miniature(RESNET50, num_classes=10, head_depth=4)
    theirs = _build(size, norm=FrozenBatchNorm2d)
    if norm_eps is not None:
        overwrite_eps(theirs, norm_eps)
    state = torchvision_state(size, seed=3, used=tuple(FEW))
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    path = write_image(tmp_path, 213, 160)
    _assert_parity(_filled(theirs, state, 128, 256), state, FEW, path, norm_eps=norm_eps)


@pytest.mark.parametrize(
    "shift", [[2.5, 0.0, 0.0, 0.0], [-1.5, -1.5, 0.0, 0.0], [0.0, 0.0, -6.0, -1.0], [0.0, 0.0, 0.0, 5.5]], ids=str
)
def test_boxes_at_the_limits_are_torchvisions(
    shift: list[float], small: Small, state: dict[str, Tensor], tmp_path: Path
) -> None:
    """What lies beyond the image, has no area or grows past the clamp ends as in torchvision."""
    state[BOX_BIAS].view(9, 4)[3:6] += torch.tensor(shift)
    state[CLS_BIAS].view(9, 10)[3:6] += 2.0
    _assert_parity(small(128, 256, state), state, FEW, write_image(tmp_path, 121, 90), num_found=None)


def test_few_detections_are_all_torchvisions(small: Small, state: dict[str, Tensor], tmp_path: Path) -> None:
    """Where no cap binds, what scores above 0.05 decides, as in torchvision."""
    path = write_image(tmp_path, 97, 131)
    state[CLS_BIAS] += shift_to_few(_their_output(small(64, 96, state), path)["logits"])
    theirs = small(64, 96, state)
    assert 5 <= len(_their_detections(theirs, path, list(FEW)).scores) <= 80
    _assert_parity(theirs, state, FEW, path, num_found=None)
