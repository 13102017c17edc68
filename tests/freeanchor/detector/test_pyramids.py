"""A pyramid from P2: the anchors' strides say which it is, and everything a detector goes through works with it."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, MODEL, tiny_detector, tiny_model, tiny_recipe, tiny_split

from experiments.commands.objects import found_by_torch
from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.checkpoints.convert import export_tensors
from freeanchor.checkpoints.native import load_tensors, save_model
from freeanchor.detector.backbones import SmallResNet, TorchvisionResNet
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.detector.timm import TimmBackbone
from freeanchor.errors import CheckpointError
from freeanchor.inference.onnx_detector import load_onnx
from freeanchor.inference.onnx_graph import write_onnx
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss
from freeanchor.runtime import Interrupted
from freeanchor.training import loop
from freeanchor.training.loop import train

FINE = AnchorConfig(sizes=(16.0, 32.0, 64.0, 128.0, 256.0), strides=(4, 8, 16, 32, 64))
BACKBONES = [SmallResNet(widths=(8, 8, 16, 16)), TorchvisionResNet(name="resnet18"), TimmBackbone(name="resnet18")]


@pytest.mark.parametrize("backbone", BACKBONES, ids=lambda it: type(it).__name__)
def test_levels_have_the_strides_of_the_anchors(backbone: SmallResNet | TorchvisionResNet | TimmBackbone) -> None:
    """P2 to P6 of an image of 96x64 are grids of 24x16 to 2x1, and their anchors those of the grids."""
    model = RetinaNet(replace(MODEL, backbone=backbone, anchors=FINE)).eval()
    output = model(torch.zeros(1, 3, 96, 64))
    grids = [(24, 16), (12, 8), (6, 4), (3, 2), (2, 1)]
    assert model.config.levels == (2, 3, 4, 5, 6)
    assert output.level_sizes == tuple(9 * rows * columns for rows, columns in grids)
    assert torch.equal(output.anchors, grid_anchors(FINE, grids))
    assert output.logits.shape == (1, sum(output.level_sizes), MODEL.num_classes)
    assert not [name for name, _ in model.named_parameters() if ".p7" in name]


def test_the_lowest_level_is_made_of_c2() -> None:
    """What C2 says reaches P2's scores, which without C2 are others; the levels of P3 to P7 never see C2 alone."""
    torch.manual_seed(0)
    fine, usual = (RetinaNet(replace(MODEL, anchors=anchors)).eval() for anchors in (FINE, MODEL.anchors))
    assert [len(model.pyramid.inner_blocks) for model in (fine, usual)] == [4, 3]
    images = torch.rand(1, 3, 64, 64)
    before = fine.pyramid_maps(images)
    torch.nn.init.zeros_(fine.pyramid.inner_blocks[0][0].weight)
    after = fine.pyramid_maps(images)
    assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [False, True, True, True, True]


def test_c2_trains_unless_it_is_frozen() -> None:
    """The stage behind C2 gets a gradient from P2; frozen as the paper freezes it, none, while the pyramid learns."""
    for frozen, expected in ((0, True), (2, False)):
        backbone = TorchvisionResNet(name="resnet18", frozen_stages=frozen)
        model = RetinaNet(ModelConfig(num_classes=3, backbone=backbone, anchors=FINE, pyramid_channels=8, head_depth=1))
        model.train()(torch.rand(1, 3, 64, 64)).logits.sum().backward()
        stage = model.backbone.stages[0][0].conv1.weight
        assert (stage.grad is not None) == expected
        assert model.pyramid.inner_blocks[0][0].weight.grad is not None


@pytest.mark.parametrize("strides", [(8, 16, 32), (2, 4, 8, 16, 32), (4, 8, 16, 32, 128)])
def test_other_strides_are_refused(strides: tuple[int, ...]) -> None:
    """There are two pyramids; the line names both."""
    with pytest.raises(ValueError, match=r"anchors\.strides are .*\(8, 16, 32, 64, 128\) or \(4, 8, 16, 32, 64\)"):
        replace(MODEL, anchors=AnchorConfig(sizes=tuple(4.0 * stride for stride in strides), strides=strides))


@pytest.mark.parametrize("loss", [RetinaNetLoss(), FreeAnchorLoss()], ids=["RetinaNet", "FreeAnchor"])
def test_it_trains_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: RetinaNetLoss | FreeAnchorLoss
) -> None:
    """Stopped by Ctrl-C after three steps and started again, it ends with the weights of an uninterrupted training."""
    split, detector, recipe = tiny_split(tmp_path / "data"), tiny_detector(anchors=FINE), tiny_recipe(loss)
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    train(whole, split, detector, recipe, FLOAT32)
    step, at_once = iter(range(recipe.num_steps)), loop.training_step

    def stopped(*arguments: Any) -> Any:
        if next(step) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return at_once(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "training_step", stopped)
        with pytest.raises(Interrupted):
            train(halves, split, detector, recipe, FLOAT32)
    train(halves, split, detector, recipe, FLOAT32)
    models = [load_tensors(folder / "state.safetensors")[0] for folder in (whole, halves)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_its_onnx_file_finds_what_torch_finds(tmp_path: Path) -> None:
    """From the command line's own path: the boxes and scores of both, in two images of sizes never traced."""
    detector = tiny_detector(anchors=FINE, prior_prob=0.5)
    checkpoint, graph = tmp_path / "model.safetensors", tmp_path / "model.onnx"
    model = tiny_model(anchors=FINE, prior_prob=0.5)
    with torch.no_grad():
        model.cls_head.output.weight.mul_(30)
        model.box_head.output.weight.mul_(3)
    save_model(checkpoint, model, detector)
    write_onnx(checkpoint, graph)
    paths = []
    for width, height in ((150, 100), (90, 121)):
        pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{width}.png")
        Image.fromarray(pixels).save(paths[-1])
    by_onnx, (_, by_torch) = (
        load_onnx(graph, threads=1),
        found_by_torch(paths, checkpoint, min_score=0.5, runtime=FLOAT32),
    )
    for path, (image, found) in zip(paths, by_torch, strict=True):
        theirs = by_onnx.detect(image, min_score=0.5)
        assert len(found) > 10, path
        np.testing.assert_allclose(theirs.boxes, found.boxes.numpy(), atol=1e-3)
        np.testing.assert_allclose(theirs.scores, found.scores.numpy(), atol=1e-5)


@pytest.mark.parametrize("to", ["torchvision", "mmdetection"])
def test_other_code_bases_refuse_it_by_name(to: str) -> None:
    """Their RetinaNets have P3 to P7 alone: the line says which pyramid the detector has."""
    backbone = TorchvisionResNet(name="resnet18")
    detector = tiny_detector(anchors=FINE, backbone=backbone, head_norm="none")
    with torch.device("meta"):
        tensors = RetinaNet(detector.model).state_dict()
    with pytest.raises(CheckpointError, match=f"{to}'s RetinaNet cannot hold this detector: .*its pyramid is P2 to P6"):
        export_tensors(tensors, detector, to)
