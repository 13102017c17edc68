"""ImageNet weights: torchvision's and Caffe2's files fill a backbone completely, or say what does not fit."""

import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from freeanchor.checkpoints.backbone_weights import load_backbone, read_backbone
from freeanchor.detector.backbones import RESNETS, Backbone, SmallResNet, TorchvisionResNet, build_backbone
from freeanchor.errors import CheckpointError

IMAGES = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """torchvision's own ResNet-18 with statistics that matter."""
    torch.manual_seed(0)
    resnet = torchvision.models.resnet18(weights=None).eval()
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
    return resnet


def _maps(resnet: nn.Module, images: Tensor) -> list[Tensor]:
    """C2 to C5 of torchvision's network."""
    maps, features = [], resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
    for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
        features = stage(features)
        maps.append(features)
    return maps


def _blobs(generator: torch.Generator) -> dict[str, Tensor]:
    """Caffe2's blobs of a ResNet-18-like network of two blocks a stage: scales and biases, no statistics."""

    def draw(*shape: int, mean: float = 0.0, std: float = 0.05) -> Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    def norm(name: str, width: int) -> dict[str, Tensor]:
        return {f"{name}_bn_s": draw(width, mean=1.0, std=0.2), f"{name}_bn_b": draw(width)}

    blobs = {"conv1_w": draw(64, 3, 7, 7), **norm("res_conv1", 64)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=2):
        for block in range(2):
            stem = f"res{stage}_{block}_branch"
            inputs = before if block == 0 else width
            blobs |= {f"{stem}2a_w": draw(width, inputs, 3, 3), **norm(f"{stem}2a", width)}
            blobs |= {f"{stem}2b_w": draw(width, width, 3, 3), **norm(f"{stem}2b", width)}
            if block == 0 and stage > 2:
                blobs |= {f"{stem}1_w": draw(width, inputs, 1, 1), **norm(f"{stem}1", width)}
        before = width
    return blobs


def _blob_maps(blobs: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """C2 to C5 straight from the blobs."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = blobs[f"{conv}_w"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return x * blobs[f"{norm}_bn_s"][:, None, None] + blobs[f"{norm}_bn_b"][:, None, None]

    x = functional.max_pool2d(layer(images, "conv1", "res_conv1", 2).relu(), 3, stride=2, padding=1)
    maps = []
    for stage in range(2, 6):
        for block in range(2):
            stem = f"res{stage}_{block}_branch"
            stride = 2 if block == 0 and stage > 2 else 1
            shortcut = layer(x, f"{stem}1", f"{stem}1", stride) if f"{stem}1_w" in blobs else x
            inner = layer(layer(x, f"{stem}2a", f"{stem}2a", stride).relu(), f"{stem}2b", f"{stem}2b")
            x = (inner + shortcut).relu()
        maps.append(x)
    return maps


def _write_blobs(path: Path, blobs: dict[str, Tensor], *, wrapped: bool = True) -> Path:
    arrays = {name: blob.numpy() for name, blob in blobs.items()}
    path.write_bytes(pickle.dumps({"blobs": arrays, "cfg": "text"} if wrapped else arrays, protocol=2))
    return path


def _loaded(path: Path, **config: object) -> Backbone:
    backbone = build_backbone(TorchvisionResNet(name="resnet18", **config)).eval()
    load_backbone(backbone, read_backbone(path), path)
    return backbone


@pytest.mark.parametrize("config", [{}, {"frozen_norm": False}, {"trained_affine": True}])
def test_torchvisions_file_gives_torchvisions_features(config: dict, resnet: nn.Module, tmp_path: Path) -> None:
    """Whatever trains later, the maps are those of the network that the file is of; its classifier is left out."""
    torch.save(resnet.state_dict(), tmp_path / "resnet18.pth")
    for found, expected in zip(
        _loaded(tmp_path / "resnet18.pth", **config)(IMAGES), _maps(resnet, IMAGES), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("norm_eps", "wrapped"), [(0.0, True), (1e-5, False)])
def test_caffe2s_blobs_give_their_features(norm_eps: float, wrapped: bool, tmp_path: Path) -> None:
    """Scale and bias act alone, whatever eps the norm adds; classifier, momentum and a stem's bias of nothing are left."""
    blobs = _blobs(torch.Generator().manual_seed(1))
    extras = {"fc1000_w": torch.ones(10, 512), "fc1000_b": torch.ones(10), "conv1_w_momentum": torch.ones(2)}
    extras |= {"pred_w": torch.ones(1), "last_out_L1000_b": torch.ones(1), "conv1_b": torch.full((64,), 1e-9)}
    path = _write_blobs(tmp_path / "R-18.pkl", {**blobs, **extras}, wrapped=wrapped)
    for found, expected in zip(_loaded(path, norm_eps=norm_eps)(IMAGES), _blob_maps(blobs, IMAGES), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_caffe2s_own_statistics_are_taken_where_there_are_some(tmp_path: Path) -> None:
    """Blobs of running means and variances are weights like others, each to its place."""
    blobs = _blobs(torch.Generator().manual_seed(2))
    for name in [name for name in blobs if name.endswith("_bn_s")]:
        blobs[f"{name[:-2]}_rm"] = torch.full_like(blobs[name], 0.25)
        blobs[f"{name[:-2]}_riv"] = torch.full_like(blobs[name], 4.0)
    backbone = _loaded(_write_blobs(tmp_path / "m.pkl", blobs))
    norms = {name: tensor for name, tensor in backbone.state_dict().items() if "running" in name}
    assert len(norms) == 40
    assert all(bool((tensor == (0.25 if name.endswith("mean") else 4)).all()) for name, tensor in norms.items())


@pytest.mark.parametrize("name", ["resnet50", pytest.param("resnext101_32x8d", marks=pytest.mark.slow)])
def test_bottlenecks_fit_both_namings(name: str) -> None:
    """A whole network of the third convolution and of groups is named blob by blob, and torchvision's as it is."""
    backbone = build_backbone(TorchvisionResNet(name=name))
    own = {key: tensor for key, tensor in backbone.state_dict().items() if "running" not in key}
    kinds = {"conv": "_w", "weight": "_bn_s", "bias": "_bn_b"}
    blobs = {
        "conv1_w": own["stem.0.weight"],
        "res_conv1_bn_s": own["stem.1.weight"],
        "res_conv1_bn_b": own["stem.1.bias"],
    }
    for key, tensor in own.items():
        if key.startswith("stages."):
            _, stage, block, part, *_, kind = key.split(".")
            branch = "1" if part == "downsample" else "2" + "abc"[int(part[-1]) - 1]
            blobs[f"res{int(stage) + 2}_{block}_branch{branch}{kinds['conv' if tensor.ndim == 4 else kind]}"] = (
                tensor + 1
            )
    load_backbone(backbone, blobs, Path("m.pkl"))
    assert torch.equal(backbone.state_dict()["stages.2.5.conv3.weight"], blobs["res4_5_branch2c_w"])
    resnet = getattr(torchvision.models, name)(weights=None)
    theirs = {
        key: tensor for key, tensor in resnet.state_dict().items() if "fc" not in key and "num_batches" not in key
    }
    load_backbone(backbone, theirs, Path("m.pth"))
    assert torch.equal(backbone.state_dict()["stages.3.0.downsample.0.weight"], theirs["layer4.0.downsample.0.weight"])


def test_every_wrong_name_is_listed(tmp_path: Path) -> None:
    """Missing, unknown and misshapen are named as in the file, in one line; the backbone stays as it was."""
    blobs = _blobs(torch.Generator().manual_seed(3))
    del blobs["res3_0_branch1_bn_s"]
    blobs |= {"conv1_b": torch.ones(64), "res9_w": torch.ones(1), "res2_0_branch2a_w": torch.ones(2, 2)}
    path = _write_blobs(tmp_path / "m.pkl", blobs)
    backbone = build_backbone(TorchvisionResNet(name="resnet18"))
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_backbone(backbone, read_backbone(path), path)
    assert str(caught.value) == (
        f"{path}: does not fit resnet18; 1 missing: res3_0_branch1_bn_s; 2 unknown: conv1_b, res9_w; "
        "1 misshapen: res2_0_branch2a_w (2, 2) instead of (64, 64, 3, 3); is it the file of resnet18?"
    )
    assert all(torch.equal(backbone.state_dict()[name], tensor) for name, tensor in before.items())


def test_another_depth_is_refused(tmp_path: Path) -> None:
    """A ResNet-34's weights are not a ResNet-18's, and the names of torchvision's file say so."""
    with torch.device("meta"):
        shapes = torchvision.models.resnet34(weights=None).state_dict()
    torch.save({name: torch.zeros(tensor.shape) for name, tensor in shapes.items()}, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"does not fit resnet18; \d+ unknown: layer1\.2\.bn1\.bias"):
        _loaded(tmp_path / "m.pth")


@pytest.mark.parametrize("name", RESNETS)
def test_a_wrong_file_is_told_in_a_short_line(name: str, tmp_path: Path) -> None:
    """Whatever the ResNet, its name is in the question, and of hundreds of names a few are given."""
    with torch.device("meta"):
        backbone = build_backbone(TorchvisionResNet(name=name))
    wrong = {f"blocks.{number}.conv.weight": torch.ones(1) for number in range(300)}
    with pytest.raises(CheckpointError, match=rf"does not fit {name}; .*; is it the file of {name}\?$") as caught:
        load_backbone(backbone, wrong, tmp_path / "m.pth")
    line = str(caught.value).removeprefix(str(tmp_path))
    assert "; 300 unknown: blocks.0.conv.weight, blocks.1.conv.weight, blocks.10.conv.weight and 297 more;" in line
    assert len(line) < 600


def test_a_narrow_resnet_is_refused(tmp_path: Path) -> None:
    """Nobody publishes weights for it, and the line says what to do."""
    with pytest.raises(CheckpointError, match="narrow ResNet has no published weights; train it from scratch"):
        load_backbone(build_backbone(SmallResNet()), {}, tmp_path / "m.pth")
