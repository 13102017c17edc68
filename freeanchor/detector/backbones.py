"""Backbones: images in, feature maps C3, C4 and C5 (strides 8, 16, 32) out.

`TorchvisionResNet` names one of torchvision's ResNets or ResNeXts; `SmallResNet` is built of the same torchvision
blocks at a fraction of the width, for data that two CPU cores can train on; timm's are in `timm.py`. torchvision is
imported where a network is built: that takes seconds, and most who import this module want configurations alone.

    backbone = build_backbone(TorchvisionResNet(name="resnet50"))
    c3, c4, c5 = backbone(images)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from freeanchor.detector.timm import TimmBackbone, TimmFeatures

if TYPE_CHECKING:
    from torchvision.models.resnet import ResNet

RESNEXT_32X4D = "resnext101_32x4d"  # mmdetection's; torchvision has no function of this name, but its class can
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", RESNEXT_32X4D, "resnext101_32x8d", "resnext101_64x4d")


@dataclass(frozen=True, kw_only=True)
class SmallResNet:
    """A narrow ResNet of basic blocks, trained from scratch with batch norm (DEVIATION(D21)).

    `widths` and `depths` are the channels and the blocks of the stages at strides 4, 8, 16 and 32.
    """

    widths: tuple[int, int, int, int] = (24, 48, 96, 192)
    depths: tuple[int, int, int, int] = (1, 1, 1, 1)

    @property
    def label(self) -> str:
        """Name in tables, after the number of its convolutions plus the stem and a classifier, as ResNets are named."""
        return f"ResNet-{2 * sum(self.depths) + 2} (narrow)"


@dataclass(frozen=True, kw_only=True)
class TorchvisionResNet:
    """One of torchvision's ResNets, by name.

    `stride_in_1x1` puts the stride of a stage's first block into its 1x1 convolution, as Caffe's ResNets have it
    (authors' code: STRIDE_IN_1X1). `frozen_norm` keeps batch norm at its stored statistics and affine weights;
    `trained_affine` beside it lets the weights train, outside the frozen stages, as mmdetection does.
    `norm_eps` is added to the variances: 0 in the authors' code. `frozen_stages` counts the stem and the stages that
    are not trained: 2 freezes the stem and layer1 (authors' code).
    """

    name: str = "resnet50"
    stride_in_1x1: bool = False
    frozen_norm: bool = True
    frozen_stages: int = 2
    norm_eps: float = 1e-5
    trained_affine: bool = False

    def __post_init__(self) -> None:
        if self.name not in RESNETS:
            raise ValueError(f"unknown backbone {self.name!r}; choose one of {', '.join(RESNETS)}")
        if self.stride_in_1x1 and self.name in ("resnet18", "resnet34"):
            raise ValueError(f"{self.name} has no 1x1 convolution to put the stride in; set stride_in_1x1=False")
        if self.norm_eps < 0:
            raise ValueError(f"norm_eps must not be negative, got {self.norm_eps}")
        if self.trained_affine and not self.frozen_norm:
            raise ValueError("trained_affine is about a norm at stored statistics; set frozen_norm=True beside it")

    @property
    def label(self) -> str:
        """Name in tables, spelled as the paper spells it."""
        kind, _, width = self.name.partition("_")
        return kind.replace("resnet", "ResNet-").replace("resnext", "ResNeXt-") + (f"-{width}" if width else "")


BackboneConfig = SmallResNet | TorchvisionResNet | TimmBackbone


class Backbone(nn.Module):
    """A stem (stride 4) and four stages (strides 4, 8, 16, 32); `out_channels` are those of C2 to C5."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], out_channels: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.out_channels = out_channels
        self.num_frozen = 0
        self.keeps_statistics = False  # if so, batch norm uses and moves no batch statistics; its weights may train

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Feature maps C2 to C5."""
        features = self.stem(images)
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps

    def freeze(self, num_stages: int) -> None:
        """Stop training the stem (1) and as many stages after it as `num_stages` counts."""
        for module in [self.stem, *self.stages][:num_stages]:
            module.requires_grad_(requires_grad=False)
        self.num_frozen = num_stages

    def train(self, mode: bool = True) -> "Backbone":  # torch's own signature
        """Frozen stages stay in evaluation mode, and every batch norm does where `keeps_statistics` says so."""
        super().train(mode)
        for module in self.modules() if self.keeps_statistics else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        for module in [self.stem, *self.stages][: self.num_frozen]:
            module.eval()
        return self


def _small_stage(in_channels: int, out_channels: int, depth: int, stride: int) -> nn.Sequential:
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    first = BasicBlock(in_channels, out_channels, stride=stride, downsample=shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(depth - 1)))


def _build_small(config: SmallResNet) -> Backbone:
    width = config.widths[0]
    stem = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    shapes = zip((width, *config.widths[:3]), config.widths, config.depths, (1, 2, 2, 2), strict=True)
    backbone = Backbone(stem, [_small_stage(*shape) for shape in shapes], config.widths)
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def _move_strides(resnet: nn.Module) -> None:
    """Move the stride of every strided bottleneck from its 3x3 convolution to its first 1x1."""
    from torchvision.models.resnet import Bottleneck

    for module in resnet.modules():
        if isinstance(module, Bottleneck) and module.conv2.stride != (1, 1):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def _torchvision_resnet(config: TorchvisionResNet) -> "ResNet":
    from torchvision import models
    from torchvision.models.resnet import Bottleneck, ResNet
    from torchvision.ops import FrozenBatchNorm2d

    kind = FrozenBatchNorm2d if config.frozen_norm and not config.trained_affine else nn.BatchNorm2d
    norm: Callable[..., nn.Module] = partial(kind, eps=config.norm_eps)
    if config.name == RESNEXT_32X4D:
        return ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=4, norm_layer=norm)
    resnet: ResNet = getattr(models, config.name)(weights=None, norm_layer=norm)
    return resnet


def _build_torchvision(config: TorchvisionResNet) -> Backbone:
    resnet = _torchvision_resnet(config)
    if config.stride_in_1x1:
        _move_strides(resnet)
    stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
    stages: list[nn.Module] = [resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4]
    width = resnet.inplanes
    backbone = Backbone(stem, stages, (width // 8, width // 4, width // 2, width))
    backbone.freeze(config.frozen_stages)
    backbone.keeps_statistics = config.frozen_norm
    return backbone


def build_backbone(config: BackboneConfig) -> Backbone | TimmFeatures:
    """The backbone that `config` describes, with random weights; raises TimmError where timm has to have it."""
    if isinstance(config, TimmBackbone):
        return TimmFeatures(config)
    if isinstance(config, SmallResNet):
        return _build_small(config)
    return _build_torchvision(config)
