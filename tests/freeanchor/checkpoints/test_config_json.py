"""Configurations out of json: what was written comes back, and every field that is not right is named."""

import json
from dataclasses import asdict
from typing import Any

import pytest

from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.native import ConfigError, from_json, nearest
from freeanchor.data.coco import InputConfig
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig

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
