"""Export: what was converted goes back unchanged, other code bases load it, and what they cannot hold is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracles.foreign_names import RESNET18, RESNET50
from oracles.foreign_states import MAKERS, State, authors_state, miniature, mmdetection_state, torchvision_state
from torchvision.models.detection import retinanet_resnet50_fpn

from freeanchor.checkpoints.code_bases import Origin
from freeanchor.checkpoints.convert import convert_file, convert_tensors, export_file, export_tensors
from freeanchor.checkpoints.native import DetectorConfig, read_model
from freeanchor.data.coco import COCO_CATEGORIES
from freeanchor.detector.backbones import SmallResNet
from freeanchor.errors import CheckpointError

NAMES = {1: "one", 2: "two", 4: "four", 7: "seven", 8: "eight"}
SMALL, SLOTS = miniature(RESNET18), miniature(RESNET18, num_classes=9)
MMDETECTION = {
    "FreeAnchor": Origin(format="mmdetection", detector="FreeAnchor"),
    "RetinaNet": Origin(format="mmdetection", detector="RetinaNet"),
    "Caffe": Origin(format="mmdetection", detector="RetinaNet", caffe=True),
}


def _torchvision() -> tuple[dict, DetectorConfig]:
    state = torchvision_state(SLOTS, used=tuple(NAMES))
    return convert_tensors(state, Origin(format="torchvision", detector="RetinaNet"), NAMES)


def _assert_equal(back: State, state: State) -> None:
    """The same names and values, to the last bit but where deltas were multiplied and divided by 10 and 5."""
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        rtol = 2e-7 if "reg" in name else 0.0
        torch.testing.assert_close(back[name], tensor, rtol=rtol, atol=0)


@pytest.mark.parametrize("kind", ["FreeAnchor", "RetinaNet"])
def test_mmdetections_files_come_back(kind: str) -> None:
    """Every name and value returns, batch norm's counters included."""
    state = mmdetection_state(SMALL, free_anchor=kind == "FreeAnchor")
    _assert_equal(export_tensors(*convert_tensors(state, MMDETECTION[kind], NAMES), "mmdetection"), state)


def test_mmdetections_caffe_files_come_back_with_new_counters() -> None:
    """Their batch norm is frozen here, which does not count; the rest returns."""
    state = mmdetection_state(miniature(RESNET50), free_anchor=False, caffe=True)
    expected = {name: t * 0 if name.endswith("num_batches_tracked") else t for name, t in state.items()}
    _assert_equal(export_tensors(*convert_tensors(state, MMDETECTION["Caffe"], NAMES), "mmdetection"), expected)


def test_torchvisions_files_come_back() -> None:
    """Every name and value returns; slots of no category have no weight and a score of nothing."""
    state = torchvision_state(SLOTS, used=tuple(NAMES))
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    weights = {name: tensor for name, tensor in state.items() if name not in counters}
    _assert_equal(export_tensors(*_torchvision(), "torchvision"), weights)


def test_torchvision_loads_an_export_strictly() -> None:
    """A full ResNet-50 with COCO's classes has 91 slots and fits torchvision's own model, name by name."""
    theirs = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    origin = Origin(format="torchvision", detector="RetinaNet")
    exported = export_tensors(*convert_tensors(theirs.state_dict(), origin, COCO_CATEGORIES), "torchvision")
    fresh = retinanet_resnet50_fpn(weights=None, weights_backbone=None)
    fresh.load_state_dict(exported, strict=True)
    bias = fresh.head.classification_head.cls_logits.bias.reshape(9, 91)
    used = torch.zeros(91, dtype=torch.bool)
    used[list(COCO_CATEGORIES)] = True
    assert bool((bias[:, ~used] == -20).all())
    assert torch.equal(bias[:, used], theirs.head.classification_head.cls_logits.bias.reshape(9, 91)[:, used])


ANCHORS, INPUT, STRIDE = "its anchors have another place, shape or rounding", "its input is normalised otherwise", "1x1"
P5_WITH, C5_WITH = (f"its P6 is made from {source} and its P7 with a ReLU" for source in ("P5", "C5"))
REASONS = {
    ("authors", "torchvision"): [ANCHORS, INPUT, STRIDE, "last pixel"],
    ("authors", "mmdetection"): [P5_WITH, ANCHORS, INPUT, "last pixel", "its batch norm adds 0 to variances"],
    ("detectron2", "torchvision"): [ANCHORS, INPUT, STRIDE],
    ("detectron2", "mmdetection"): [C5_WITH],
}


@pytest.mark.parametrize(("format", "to"), REASONS)
def test_a_detector_of_another_kind_is_refused_with_reasons(format: str, to: str) -> None:
    """What the other code base would do otherwise is said, all of it in one line, and nothing else."""
    state = MAKERS[format](miniature(RESNET50))
    converted = convert_tensors(state, Origin(format=format, detector="RetinaNet"), NAMES)
    with pytest.raises(CheckpointError) as caught:
        export_tensors(*converted, to)
    beginning, _, listed = str(caught.value).partition(": ")
    assert beginning == f"{to}'s RetinaNet cannot hold this detector"
    for given, expected in zip(listed.split("; "), REASONS[format, to], strict=True):
        assert expected in given


CHANGES = {
    "heads have group norm": {"head_norm": "group"},
    "P6 is made from P5 and its P7 without a ReLU": {"relu_before_p7": False},
    "backbone is a ResNet-10 (narrow)": {"backbone": SmallResNet()},
    "P6 is made from C5": {"p6_source": "C5", "pyramid_channels": 512},  # torchvision would take it for P5
}


@pytest.mark.parametrize("reason", CHANGES)
def test_each_obstacle_is_named(reason: str) -> None:
    """One change to a network that fits is one reason against it."""
    tensors, detector = _torchvision()
    changed = replace(detector, model=replace(detector.model, **CHANGES[reason]))
    with pytest.raises(CheckpointError) as caught:
        export_tensors(tensors, changed, "torchvision")
    assert reason in str(caught.value)
    assert ";" not in str(caught.value)


def test_mmdetection_must_know_which_detector_it_is() -> None:
    """Its two detectors code boxes differently, so a file that does not say which it is cannot go there."""
    tensors, detector = convert_tensors(mmdetection_state(SMALL, free_anchor=True), MMDETECTION["FreeAnchor"], NAMES)
    with pytest.raises(CheckpointError, match="whether it is a RetinaNet or a FreeAnchor"):
        export_tensors(tensors, replace(detector, detector=None), "mmdetection")


@pytest.mark.parametrize("kind", ["FreeAnchor", "RetinaNet"])
def test_a_head_of_plain_deltas_is_brought_to_the_formats_scale(kind: str) -> None:
    """A head trained without the weights (10, 10, 5, 5) exports the same function of the image as one with them."""
    tensors, detector = convert_tensors(mmdetection_state(SMALL, free_anchor=True), MMDETECTION[kind], NAMES)
    plain = replace(detector, model=replace(detector.model, plain_deltas=True))
    weights = torch.tensor([10.0, 10.0, 5.0, 5.0]).repeat(9)
    divided = {**tensors, "box_head.output.bias": tensors["box_head.output.bias"] / weights}
    divided["box_head.output.weight"] = tensors["box_head.output.weight"] / weights[:, None, None, None]
    _assert_equal(export_tensors(divided, plain, "mmdetection"), export_tensors(tensors, detector, "mmdetection"))


@pytest.mark.parametrize("to", ["torchvision", "mmdetection"])
def test_files_go_there_and_back(to: str, tmp_path: Path) -> None:
    """A file converted, exported and converted again is the same model file."""
    torchs = to == "torchvision"
    state = torchvision_state(SLOTS, used=tuple(NAMES)) if torchs else mmdetection_state(SMALL, free_anchor=True)
    torch.save(state, tmp_path / "given.pth")
    origin = Origin(format=to, detector="FreeAnchor")
    convert_file(tmp_path / "given.pth", origin, tmp_path / "ours.safetensors", NAMES)
    export_file(tmp_path / "ours.safetensors", to, tmp_path / "back.pth")
    content = torch.load(tmp_path / "back.pth", weights_only=True)
    assert ("state_dict" in content) == (to == "mmdetection")
    convert_file(tmp_path / "back.pth", origin, tmp_path / "again.safetensors", NAMES)
    (before, described), (after, again) = (read_model(tmp_path / f"{name}.safetensors") for name in ("ours", "again"))
    assert again == described
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=2e-7, atol=0)


def test_a_refused_export_names_the_file_and_writes_none(tmp_path: Path) -> None:
    """The line begins with the path of the model, and nothing stands at the target."""
    torch.save(authors_state(SMALL), tmp_path / "given.pth")
    ours = tmp_path / "ours.safetensors"
    convert_file(tmp_path / "given.pth", Origin(format="authors", detector="RetinaNet"), ours, NAMES)
    with pytest.raises(CheckpointError) as caught:
        export_file(ours, "torchvision", tmp_path / "back.pth")
    assert str(caught.value).startswith(f"{ours}: torchvision's RetinaNet cannot hold")
    assert not (tmp_path / "back.pth").exists()
