"""The habits of other code bases in decoding and clipping, and how a model file carries them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_model
from torch import Tensor

from freeanchor.anchors import AnchorConfig
from freeanchor.checkpoints.native import describe, load_model, restore, save_tensors
from freeanchor.data.coco import ImageRecord, InputConfig
from freeanchor.detector.backbones import TorchvisionResNet
from freeanchor.detector.postprocess import Candidates, InferenceConfig, select_candidates
from freeanchor.errors import CheckpointError
from freeanchor.inference.predict import predict

ANCHOR = torch.tensor([[40.0, 40.0, 60.0, 60.0]])


def _box(deltas: list[float], **options: bool | str) -> Tensor:
    """The boxes that one anchor gives in an image of 100 x 100 px: one, or none."""
    predictions = torch.full((1, 1), 3.0), torch.tensor([deltas]), ANCHOR, [1]
    return select_candidates(*predictions, (100, 100), InferenceConfig(**options))[0].boxes


def _boxes(*boxes: list[float]) -> Candidates:
    return Candidates(
        torch.tensor(boxes), torch.linspace(0.9, 0.1, len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
    )


def test_shrinkage_is_limited_where_asked() -> None:
    """A side stays above 1/62.5 of its anchor's; by default it may vanish. Growth is limited either way."""
    tiny = _box([0.0, 0.0, -50.0, -20.0])[0]
    assert (tiny[2] - tiny[0]).item() == pytest.approx(20 * math.exp(-10), abs=1e-5)
    limited = _box([0.0, 0.0, -50.0, -20.0], limit_shrinkage=True)[0]
    assert (limited[2:] - limited[:2]).tolist() == pytest.approx([20 / 62.5, 20 * math.exp(-4)], abs=1e-4)
    grown = _box([0.0, 0.0, 50.0, 50.0], clip="after_nms", limit_shrinkage=True)[0]
    assert (grown[2:] - grown[:2]).tolist() == pytest.approx([1250, 1250], rel=1e-5)


def test_mild_deltas_do_not_feel_the_limit() -> None:
    """Between the limits the option changes nothing, to the bit."""
    deltas = [1.5, -2.0, -3.0, 2.0]
    assert torch.equal(_box(deltas), _box(deltas, limit_shrinkage=True))


def test_boxes_beside_the_image_are_dropped_where_asked() -> None:
    """Clipped to no area they stay by default, as the authors and torchvision keep them."""
    beside = [100.0, 0.0, 0.0, 0.0]
    assert _box(beside).tolist() == [[100, 40, 100, 60]]
    assert _box(beside, drop_empty=True).shape == (0, 4)
    assert _box([0.0, 0.0, 0.0, 0.0], drop_empty=True).tolist() == [[40, 40, 60, 60]]


def test_unclipped_boxes_keep_their_corners() -> None:
    """What is clipped after NMS is not cut before it."""
    assert _box([100.0, 0.0, 0.0, 0.0], clip="after_nms").tolist() == [[240, 40, 260, 60]]


def test_inclusive_clipping_leaves_a_pixel() -> None:
    """A box beside the image becomes the pixel at its border, as first and last pixels do within [0, side - 1]."""
    found = _boxes([-30.0, 5.0, -10.0, 9.0], [70.0, 60.0, 90.0, 80.0], [-5.0, -5.0, 70.0, 70.0], [3.0, 4.0, 9.0, 9.5])
    clipped = found.clip(40, 50, inclusive=True)
    assert clipped.boxes.tolist() == [[0, 5, 1, 9], [49, 39, 50, 40], [0, 0, 50, 40], [3, 4, 9, 9.5]]
    assert torch.equal(clipped.scores, found.scores)


def test_dropping_keeps_scores_and_labels_together() -> None:
    """What remains are the rows with area, in order."""
    found = _boxes([60.0, 0.0, 70.0, 10.0], [1.0, 1.0, 5.0, 5.0], [0.0, 45.0, 9.0, 50.0], [2.0, 2.0, 60.0, 6.0])
    clipped = found.clip(40, 50, drop_empty=True)
    assert clipped.boxes.tolist() == [[1, 1, 5, 5], [2, 2, 50, 6]]
    assert torch.equal(clipped.scores, found.scores[[1, 3]])


def _predicted(tmp_path: Path, **options: object) -> tuple[Candidates, Candidates]:
    """Candidates and detections of an untrained network whose boxes reach over the borders."""
    path = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    nothing = torch.zeros(0, dtype=torch.int64)
    image = ImageRecord(
        image_id=1, path=path, width=64, height=64, boxes=torch.zeros(0, 4), labels=nothing, annotation_ids=nothing
    )
    settings = InferenceConfig(score_threshold=0.0, max_per_level=None, max_detections=None, **options)
    prediction = next(predict(tiny_model(prior_prob=0.5), tiny_detector(), [image], settings, FLOAT32))
    return prediction.candidates, prediction.detections


def test_clipping_after_nms_compares_whole_boxes(tmp_path: Path) -> None:
    """NMS then leaves other boxes than among clipped ones; in the end all lie inside the file's image."""
    (first, before), (second, after) = (_predicted(tmp_path, clip=when) for when in ("before_nms", "after_nms"))
    torch.testing.assert_close(first.boxes, second.boxes)
    assert len(before) < len(after)
    for found in (before, after):
        assert found.boxes.min() >= 0
        assert found.boxes.max() <= 64


def test_empty_boxes_go_after_late_clipping_too(tmp_path: Path) -> None:
    """`drop_empty` acts when boxes are clipped, whenever that is."""
    for when in ("before_nms", "after_nms"):
        _, detections = _predicted(tmp_path, clip=when, drop_empty=True)
        assert bool((detections.boxes[:, 2:] > detections.boxes[:, :2]).all())


CONFIGURED = replace(
    tiny_detector(),
    model=replace(
        tiny_detector().model,
        backbone=TorchvisionResNet(name="resnext101_32x4d", norm_eps=0.0, trained_affine=True),
        anchors=AnchorConfig(geometry="torchvision", centre_offset=0.0),
    ),
    inputs=InputConfig(resize="maskrcnn-benchmark", box_convention="inclusive"),
    inference=InferenceConfig(
        max_detections=300, short_sides=(480, 800), limit_shrinkage=True, clip="after_nms", drop_empty=True
    ),
    detector="FreeAnchor",
)


def test_every_new_choice_survives_json() -> None:
    """What `describe` writes, `restore` reads back equal."""
    assert restore(json.loads(json.dumps(describe(CONFIGURED)))) == CONFIGURED


def test_old_model_files_still_load(tmp_path: Path) -> None:
    """A file from before these choices has the defaults, which are what it was trained and tested with."""
    content = describe(tiny_detector())
    del content["inputs"]["resize"], content["inputs"]["box_convention"]
    del content["inference"], content["detector"]
    save_tensors(tmp_path / "old.safetensors", tiny_model().state_dict(), content)
    model, detector = load_model(tmp_path / "old.safetensors")
    assert detector == tiny_detector()
    assert not model.training


def test_a_file_with_an_impossible_choice_is_refused(tmp_path: Path) -> None:
    """One line names the file and the value, not a traceback."""
    content = describe(tiny_detector())
    content["inference"]["nms_iou"] = 7.0
    save_tensors(tmp_path / "m.safetensors", tiny_model().state_dict(), content)
    with pytest.raises(CheckpointError, match=r"m\.safetensors: .*nms_iou must lie in \[0, 1\], got 7\.0") as caught:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
