"""Backbones: strides, channels, where the stride sits, what is frozen, and what batch norm does."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from freeanchor.detector.backbones import RESNETS, Backbone, SmallResNet, TorchvisionResNet, build_backbone

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CHANNELS = {
    name: (64, 128, 256, 512) if name in ("resnet18", "resnet34") else (256, 512, 1024, 2048) for name in RESNETS
}


def _on_meta(config: SmallResNet | TorchvisionResNet) -> Backbone:
    """The backbone without any memory behind its weights: shapes come out, numbers do not."""
    with torch.device("meta"):
        return build_backbone(config)


@pytest.mark.parametrize("name", RESNETS)
def test_named_backbones_have_strides_4_to_32_and_their_channels(name: str) -> None:
    """C2 to C5 are a fourth, an eighth, a sixteenth and a thirty-second of the image."""
    backbone = _on_meta(TorchvisionResNet(name=name))
    maps = backbone(torch.empty(1, 3, 64, 96, device="meta"))
    expected = [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(CHANNELS[name], (4, 8, 16, 32), strict=True)
    ]
    assert [tuple(features.shape) for features in maps] == expected
    assert backbone.out_channels == CHANNELS[name]


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 1, 3, 2)])
@pytest.mark.parametrize("widths", [(8, 16, 24, 32), (16, 16, 16, 16)])
def test_small_backbones_have_the_same_strides(widths: tuple, depths: tuple) -> None:
    """Whatever the widths and depths, equal widths in a row included."""
    backbone = build_backbone(SmallResNet(widths=widths, depths=depths)).eval()
    maps = backbone(torch.zeros(2, 3, 64, 32))
    expected = [(2, width, 64 // stride, 32 // stride) for width, stride in zip(widths, (4, 8, 16, 32), strict=True)]
    assert [tuple(features.shape) for features in maps] == expected
    assert backbone.out_channels == widths
    assert [len(stage) for stage in backbone.stages] == list(depths)


@pytest.mark.parametrize(("name", "groups", "width"), [("resnext101_32x8d", 32, 256), ("resnext101_64x4d", 64, 256)])
def test_resnexts_have_the_groups_in_their_name(name: str, groups: int, width: int) -> None:
    """The 3x3 convolutions of the first stage have so many groups and channels."""
    first = _on_meta(TorchvisionResNet(name=name)).stages[0][0]
    assert (first.conv2.groups, first.conv2.out_channels) == (groups, width)


@pytest.mark.parametrize("name", ["resnet50", "resnext101_64x4d"])
def test_the_stride_can_move_into_the_1x1_convolution(name: str) -> None:
    """As Caffe has it: in the first block of the stages at strides 8, 16 and 32, and nowhere else."""
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
    """2 freezes the stem and layer1 (authors' code), 0 nothing, 5 everything."""
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


def _filled(**config: object) -> Backbone:
    """A ResNet-18 with statistics that matter, small variances among them."""
    torch.manual_seed(0)
    backbone = build_backbone(TorchvisionResNet(name="resnet18", **config))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in backbone.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(10 ** (-5 * torch.rand(tensor.shape, generator=generator)))
        elif name.endswith("running_mean"):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
    return backbone


def _trained(backbone: Backbone) -> Backbone:
    """The backbone after one step of plain SGD in training mode."""
    backbone.train()
    sum(feature.mean() for feature in backbone(IMAGES)).backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.requires_grad], lr=0.1).step()
    return backbone


def _norm_tensors(backbone: Backbone, *kinds: str) -> dict[str, Tensor]:
    """Copies of the norms' tensors of the given kinds."""
    state = backbone.state_dict()
    norms = {name.removesuffix("running_var") for name in state if name.endswith("running_var")}
    return {f"{norm}{kind}": state[f"{norm}{kind}"].clone() for norm in norms for kind in kinds}


@pytest.mark.parametrize("trained_affine", [False, True])
@pytest.mark.parametrize("norm_eps", [0.0, 1e-5, 0.1])
def test_the_eps_is_added_to_the_variance(norm_eps: float, trained_affine: bool) -> None:
    """The stem's norm divides by the root of the variance and the eps, whichever norm it is."""
    backbone = _filled(norm_eps=norm_eps, trained_affine=trained_affine).eval()
    conv, norm = backbone.stem[0], backbone.stem[1]
    x = conv(IMAGES)
    centred = x - norm.running_mean[:, None, None]
    expected = centred / (norm.running_var + norm_eps).sqrt()[:, None, None]
    torch.testing.assert_close(norm(x), expected, rtol=1e-4, atol=1e-4)


def test_trained_weights_move_and_statistics_do_not() -> None:
    """In training mode the statistics are neither used nor moved; outside the frozen stages weight and bias train."""
    backbone = _filled(trained_affine=True)
    expected = [feature.detach() for feature in backbone.eval()(IMAGES)]
    for found, feature in zip(backbone.train()(IMAGES), expected, strict=True):
        torch.testing.assert_close(found, feature)
    statistics = _norm_tensors(backbone, "running_mean", "running_var", "num_batches_tracked")
    affine = _norm_tensors(backbone, "weight", "bias")
    _trained(backbone)
    state = backbone.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in statistics.items())
    moved = {name for name, tensor in affine.items() if not torch.equal(state[name], tensor)}
    assert moved == {name for name in affine if not name.startswith(("stem", "stages.0"))}


def test_frozen_norm_has_nothing_to_train() -> None:
    """Without `trained_affine` the norms' weights are no parameters at all."""
    names = [name for name, _ in _filled().named_parameters()]
    assert names
    assert not any("bn" in name or "downsample.1" in name or name.startswith("stem.1") for name in names)


def test_norm_that_is_not_frozen_learns_its_statistics() -> None:
    """With `frozen_norm=False` batch norm is batch norm, outside the frozen stages."""
    backbone = _filled(frozen_norm=False)
    before = _norm_tensors(backbone, "running_mean")
    _trained(backbone)
    state = backbone.state_dict()
    moved = {name for name, tensor in before.items() if not torch.equal(state[name], tensor)}
    assert moved == {name for name in before if not name.startswith(("stem", "stages.0"))}


def test_contradictions_are_refused() -> None:
    """A negative eps, and weights at stored statistics where the statistics are not kept."""
    with pytest.raises(ValueError, match="norm_eps must not be negative"):
        TorchvisionResNet(norm_eps=-1e-5)
    with pytest.raises(ValueError, match="set frozen_norm=True"):
        TorchvisionResNet(frozen_norm=False, trained_affine=True)


def test_the_narrower_resnext_is_built() -> None:
    """mmdetection's 32x4d, which torchvision does not name, has 32 groups of 4 and the published 42.1 M parameters."""
    assert "resnext101_32x4d" in RESNETS
    with torch.device("meta"):
        backbone = build_backbone(TorchvisionResNet(name="resnext101_32x4d", frozen_norm=False))
    conv = backbone.get_submodule("stages.0.0.conv2")
    assert isinstance(conv, nn.Conv2d)
    assert (conv.groups, conv.in_channels) == (32, 128)
    assert sum(p.numel() for p in backbone.parameters()) == pytest.approx(42.13e6, rel=0.001)
    assert TorchvisionResNet(name="resnext101_32x4d").label == "ResNeXt-101-32x4d"
