"""Backbones: strides, channels, where the stride sits, what is frozen."""

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from freeanchor.detector.backbones import RESNETS, Backbone, SmallResNet, TorchvisionResNet, build_backbone

CHANNELS = {name: (128, 256, 512) if name in ("resnet18", "resnet34") else (512, 1024, 2048) for name in RESNETS}


def _on_meta(config: SmallResNet | TorchvisionResNet) -> Backbone:
    """The backbone without any memory behind its weights: shapes come out, numbers do not."""
    with torch.device("meta"):
        return build_backbone(config)


@pytest.mark.parametrize("name", RESNETS)
def test_named_backbones_have_strides_8_16_32_and_their_channels(name: str) -> None:
    """C3, C4 and C5 are an eighth, a sixteenth and a thirty-second of the image."""
    backbone = _on_meta(TorchvisionResNet(name=name))
    maps = backbone(torch.empty(1, 3, 64, 96, device="meta"))
    expected = [
        (1, channels, 64 // stride, 96 // stride) for channels, stride in zip(CHANNELS[name], (8, 16, 32), strict=True)
    ]
    assert [tuple(features.shape) for features in maps] == expected
    assert backbone.out_channels == CHANNELS[name]


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize("widths", [(8, 16, 24, 32), (16, 16, 16, 16)])
def test_small_backbones_have_the_same_strides(widths: tuple, depths: tuple) -> None:
    """Whatever the widths and depths, equal widths in a row included."""
    backbone = build_backbone(SmallResNet(widths=widths, depths=depths)).eval()
    maps = backbone(torch.zeros(2, 3, 64, 32))
    expected = [(2, width, 64 // stride, 32 // stride) for width, stride in zip(widths[1:], (8, 16, 32), strict=True)]
    assert [tuple(features.shape) for features in maps] == expected
    assert backbone.out_channels == widths[1:]
    assert [len(stage) for stage in backbone.stages] == list(depths)


@pytest.mark.parametrize(("name", "groups", "width"), [("resnext101_32x8d", 32, 256), ("resnext101_64x4d", 64, 256)])
def test_resnexts_have_the_groups_in_their_name(name: str, groups: int, width: int) -> None:
    """The 3x3 convolutions of the first stage have so many groups and channels."""
    first = _on_meta(TorchvisionResNet(name=name)).stages[0][0]
    assert (first.conv2.groups, first.conv2.out_channels) == (groups, width)


@pytest.mark.parametrize("name", ["resnet50", "resnext101_64x4d"])
def test_the_stride_can_move_into_the_1x1_convolution(name: str) -> None:
    """As Caffe has it (FACTS A2): in the first block of the stages at strides 8, 16 and 32, and nowhere else."""
    usual, moved = (_on_meta(TorchvisionResNet(name=name, stride_in_1x1=where)) for where in (False, True))
    strides = {
        where: [
            (module.conv1.stride[0], module.conv2.stride[0])
            for module in net.modules()
            if isinstance(module, Bottleneck)
        ]
        for where, net in (("usual", usual), ("moved", moved))
    }
    assert strides["usual"].count((1, 2)) == strides["moved"].count((2, 1)) == 3
    assert strides["moved"] == [(three, one) for one, three in strides["usual"]]
    shapes = [[tuple(c.shape) for c in net(torch.empty(1, 3, 64, 64, device="meta"))] for net in (usual, moved)]
    assert shapes[0] == shapes[1]


def test_batch_norm_is_frozen_where_asked() -> None:
    """Frozen norm has no parameters and no statistics to update; the other kind has both."""
    frozen, free = (_on_meta(TorchvisionResNet(name="resnet18", frozen_norm=choice)) for choice in (True, False))
    kinds = [{type(module) for module in net.modules() if "Norm" in type(module).__name__} for net in (frozen, free)]
    assert kinds == [{FrozenBatchNorm2d}, {nn.BatchNorm2d}]
    assert not [name for name, _ in frozen.named_parameters() if "bn" in name]


@pytest.mark.parametrize("num_stages", [0, 1, 2, 4, 5])
def test_frozen_stages_are_counted_from_the_stem(num_stages: int) -> None:
    """2 freezes the stem and layer1 (FACTS A2), 0 nothing, 5 everything."""
    backbone = _on_meta(TorchvisionResNet(name="resnet18", frozen_stages=num_stages))
    parts = [backbone.stem, *backbone.stages]
    trained = [any(parameter.requires_grad for parameter in part.parameters()) for part in parts]
    assert trained == [False] * num_stages + [True] * (5 - num_stages)


def test_backbones_start_where_torchvision_starts() -> None:
    """A narrow backbone's convolutions are drawn with He's variance over their outputs."""
    torch.manual_seed(0)
    backbone = build_backbone(SmallResNet(widths=(64, 64, 64, 64)))
    for convolution in (module for module in backbone.modules() if isinstance(module, nn.Conv2d)):
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        assert convolution.bias is None
        assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_labels_are_the_names_in_tables() -> None:
    """Spelled as the paper spells them; a narrow one says so."""
    named = [TorchvisionResNet(name=name).label for name in ("resnet50", "resnet101", "resnext101_64x4d")]
    assert named == ["ResNet-50", "ResNet-101", "ResNeXt-101-64x4d"]
    assert SmallResNet().label == "ResNet-10 (narrow)"
    assert SmallResNet(depths=(2, 2, 2, 2)).label == "ResNet-18 (narrow)"


def test_impossible_backbones_are_refused() -> None:
    """Unknown names are answered with the known ones; basic blocks have no 1x1 convolution to put a stride in."""
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet5'.*resnet50"):
        TorchvisionResNet(name="resnet5")
    with pytest.raises(ValueError, match="resnet18 has no 1x1"):
        TorchvisionResNet(name="resnet18", stride_in_1x1=True)
