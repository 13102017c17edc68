"""Checkpoints: what is written comes back, what is foreign is refused by name, nothing half is ever there."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import MODEL, tiny_detector, tiny_model, tiny_recipe

from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints import native as checkpoints
from freeanchor.checkpoints.native import (
    FORMAT,
    ConfigError,
    DetectorConfig,
    describe,
    from_json,
    load_model,
    load_tensors,
    nearest,
    restore,
    save_model,
    save_tensors,
)
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.errors import CheckpointError
from freeanchor.files import replacing
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.training.recipe import build_optimizer
from freeanchor.training.state import TrainingState

CONFIGS = {
    "small": MODEL,
    "paper": ModelConfig(num_classes=80),
    "caffe": ModelConfig(
        num_classes=80,
        backbone=TorchvisionResNet(name="resnet101", stride_in_1x1=True, frozen_norm=False, frozen_stages=0),
    ),
    "mmdetection": ModelConfig(
        num_classes=80,
        backbone=TorchvisionResNet(name="resnext101_64x4d"),
        anchors=AnchorConfig(geometry="legacy", centre_offset=0.0, ratios=(0.25, 1.0), num_octaves=2),
        p6_source="C5",
        relu_before_p7=False,
        prior_prob=0.02,
    ),
    "deep": replace(
        MODEL, backbone=SmallResNet(widths=(8, 16, 24, 32), depths=(1, 2, 3, 4)), head_norm="none", head_depth=3
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_configuration_survives_json(name: str) -> None:
    """What `describe` writes, `restore` reads back equal, tuples and nested choices included."""
    inputs = InputConfig(short_side=123, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), bgr=True)
    detector = DetectorConfig(model=CONFIGS[name], inputs=inputs, category_ids=(3, 90), category_names=("Tür", "b c"))
    assert restore(json.loads(json.dumps(describe(detector)))) == detector


@pytest.mark.parametrize("backbone", [SmallResNet(widths=(8, 8, 16, 16)), TorchvisionResNet(name="resnet18")])
def test_a_model_comes_back_with_the_same_predictions(
    tmp_path: Path, backbone: SmallResNet | TorchvisionResNet
) -> None:
    """Weights, statistics and configuration: everything is in the one file."""
    detector, model = tiny_detector(backbone=backbone), tiny_model(backbone=backbone).train()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    model(images)  # moves batch norm's statistics
    save_model(tmp_path / "deep" / "model.safetensors", model, detector)
    loaded, found = load_model(tmp_path / "deep" / "model.safetensors")
    assert found == detector
    assert not loaded.training
    with torch.no_grad():
        one, other = model.eval()(images), loaded(images)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.deltas, other.deltas)
    assert model.state_dict().keys() == loaded.state_dict().keys()


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    """Written ten times, a model gives the same bytes ten times: a committed one changes only if its weights do."""
    model = tiny_model()
    for number in range(10):
        save_model(tmp_path / f"{number}.safetensors", model, tiny_detector())
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_file_holds_no_code(tmp_path: Path) -> None:
    """The header is json that other programs can read; nothing is pickled."""
    save_model(tmp_path / "m.safetensors", tiny_model(), tiny_detector())
    content = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert json.loads(header["__metadata__"][FORMAT])["category_names"] == ["dot", "box", "bar"]


def _refused(path: Path, *parts: str) -> None:
    """Loading fails in one line that names the file."""
    with pytest.raises(CheckpointError) as error:
        load_model(path)
    message = str(error.value)
    assert "\n" not in message
    for part in (path.name, *parts):
        assert part in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    """Cut within its header or its tensors."""
    path = tmp_path / "m.safetensors"
    save_model(path, tiny_model(), tiny_detector())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    _refused(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04\x95", bytes(100), b"PK\x03\x04" + bytes(60)])
def test_other_kinds_of_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """Text, pickles, archives; the run's folder in place of the file in it; no file at all."""
    path = tmp_path / "model.pth"
    _refused(path, "no such checkpoint")
    path.write_bytes(content)
    _refused(path)
    _refused(tmp_path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "freeanchor-0", "header": "{}"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    """Somebody else's tensors are not ours, whatever they hold."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "m.safetensors", metadata=metadata)
    _refused(tmp_path / "m.safetensors", "not one of ours")


@pytest.mark.parametrize("header", [{}, {"model": {}}, {"model": {"backbone": {"kind": "Other"}}}, {"step": 3}])
def test_a_header_that_describes_no_detector_is_refused(tmp_path: Path, header: dict) -> None:
    """A file of our format with another purpose, or of a later version."""
    save_tensors(tmp_path / "m.safetensors", {"weight": torch.zeros(2)}, header)
    _refused(tmp_path / "m.safetensors", "configuration")


def test_a_training_state_is_no_model(tmp_path: Path) -> None:
    """The file that training resumes from cannot be mistaken for its result."""
    model, recipe = tiny_model(), tiny_recipe(FreeAnchorLoss())
    TrainingState(model, build_optimizer(model, recipe)).save(tmp_path / "state.safetensors", recipe)
    _refused(tmp_path / "state.safetensors", "training state")


@pytest.mark.parametrize("change", ["extra", "missing", "shape"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, change: str) -> None:
    """An extra tensor, a missing one or one of another shape: never loaded in part."""
    tensors, name = dict(tiny_model().state_dict()), "cls_head.output.weight"
    if change == "extra":
        name = "cls_head.other"
        tensors[name] = torch.zeros(1)
    elif change == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:1]
    save_tensors(tmp_path / "m.safetensors", tensors, describe(tiny_detector()))
    _refused(tmp_path / "m.safetensors", name, "(1 in all)")


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure in the middle of writing shows neither half a file nor a temporary one."""
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"weight": torch.ones(3)}, {"step": 1})

    def fail(tensors: dict, temporary: Path, metadata: dict) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_tensors(path, {"weight": torch.zeros(3)}, {"step": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["m.safetensors"]
    tensors, header = load_tensors(path)
    assert header == {"step": 1}
    assert tensors["weight"].tolist() == [1, 1, 1]


def test_an_interruption_removes_the_temporary_file(tmp_path: Path) -> None:
    """Ctrl-C while writing a first file leaves an empty folder."""
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "new" / "a.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


def test_tensors_keep_bits_and_types(tmp_path: Path) -> None:
    """Channels-last memory, integers and half precision come back as they were."""
    tensors = {
        "image": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "count": torch.tensor(7),
        "half": torch.randn(3).to(torch.bfloat16),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {})
    found, _ = load_tensors(tmp_path / "t.safetensors")
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_model_can_be_trained_on_after_loading(tmp_path: Path) -> None:
    """Frozen stages are frozen again, everything else takes gradients."""
    backbone = TorchvisionResNet(name="resnet18", frozen_stages=2)
    save_model(tmp_path / "m.safetensors", tiny_model(backbone=backbone), tiny_detector(backbone=backbone))
    model, _ = load_model(tmp_path / "m.safetensors")
    fresh = RetinaNet(replace(MODEL, backbone=backbone))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, p in fresh.named_parameters() if p.requires_grad
    }


GOOD = [
    InputConfig(short_side=123, bgr=True, resize="mmdetection"),
    InferenceConfig(max_per_level=None, short_sides=(480, 640), clip="after_nms"),
    AnchorConfig(ratios=(0.25, 1.0), centre_offset=0.0),
    SmallResNet(widths=(8, 8, 16, 16)),
    TorchvisionResNet(name="resnet18", norm_eps=0.0),
]


@pytest.mark.parametrize("config", GOOD, ids=lambda config: type(config).__name__)
def test_what_was_written_comes_back(config: Any) -> None:
    """Lists as tuples, null as None; fields that are left out have their defaults."""
    assert from_json(type(config), json.loads(json.dumps(asdict(config))), "it") == config
    assert from_json(type(config), {}, "it") == type(config)()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (InputConfig, [1], "it is [1] in place of its fields"),
        (InputConfig, {"short_sid": 3}, "it knows no 'short_sid'; did you mean 'short_side'?"),
        (InputConfig, {"zzz": 3}, "known are short_side, max_long_side"),
        (InputConfig, {"short_side": True}, "it.short_side is True; it must be a whole number, 0 or more"),
        (InputConfig, {"short_side": 1.5}, "it.short_side is 1.5"),
        (InputConfig, {"short_side": -1}, "it.short_side is -1"),
        (InputConfig, {"short_side": 2**40}, "it.short_side is 1099511627776"),
        (InputConfig, {"bgr": 1}, "it.bgr is 1; it must be true or false"),
        (InputConfig, {"mean": [1, 2]}, "it must be a list of 3, each a finite number"),
        (InputConfig, {"std": [1, 2, 1e-300]}, "it.std is"),
        (InputConfig, {"resize": "pill"}, "it must be 'pil' or 'maskrcnn-benchmark'"),
        (InferenceConfig, {"max_detections": "all"}, "it must be a whole number, 0 or more or null"),
        (InferenceConfig, {"short_sides": [480, "640"]}, "it must be a list of any length, each a whole number"),
        (AnchorConfig, {"sizes": [float("inf")] * 5}, "it.sizes"),
        (TorchvisionResNet, {"name": 50}, "it must be a text"),
    ],
)  # fmt: skip
def test_what_is_not_right_is_named(kind: type, values: Any, message: str) -> None:
    """Unknown fields with the nearest, wrong types with the right one, numbers beyond all sense."""
    with pytest.raises(ConfigError) as error:
        from_json(kind, values, "it")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_fields_without_a_default_are_asked_for() -> None:
    """By name."""
    with pytest.raises(ConfigError, match="it has no 'num_classes'; add it"):
        from_json(ModelConfig, {}, "it")


def test_the_nearest_name_or_all_of_them() -> None:
    """A misspelling has one neighbour; nonsense has none."""
    assert nearest("FreeAncho", ["FreeAnchor", "RetinaNet"]) == "did you mean 'FreeAnchor'?"
    assert nearest(None, ["a", "b"]) == "known are a, b"
