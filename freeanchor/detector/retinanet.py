"""One RetinaNet, whichever loss trains it: backbone, pyramid of five levels, two heads shared over them.

Nothing here knows of a loss; the only trace of one is the prior probability of the classification bias. Heads give,
for each cell, channel = anchor * K + class and anchor * 4 + delta.

    model = RetinaNet(ModelConfig(backbone=TorchvisionResNet(name="resnet50"), num_classes=80))
    output = model(images)          # output.logits [B, A, K], output.deltas [B, A, 4], output.anchors [A, 4]
"""

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from freeanchor.anchors import AnchorConfig, grid_anchors
from freeanchor.boxes import DELTA_WEIGHTS
from freeanchor.detector.backbones import BackboneConfig, TorchvisionResNet, build_backbone

PYRAMIDS: dict[tuple[int, ...], tuple[int, ...]] = {  # strides -> levels
    (8, 16, 32, 64, 128): (3, 4, 5, 6, 7),
    (4, 8, 16, 32, 64): (2, 3, 4, 5, 6),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides the network's shape and first weights.

    The strides of `anchors` say which pyramid it has: P3 to P7, the paper's, or P2 to P6 for small objects.
    `p6_source` and `relu_before_p7` differ between code bases: P5 with ReLU in the authors' code.
    `prior_prob` is rho: 0.02 for FreeAnchor (Sec. 4.1), 0.01 for RetinaNet. `tower_init` draws the heads' hidden
    convolutions from N(0, 0.01), as both papers do for 256 channels and a pretrained backbone, or with He's variance,
    which keeps the signal's size in a narrow head trained from scratch; `head_norm` puts group norm (8 channels a
    group) behind them, which the authors' code offers as USE_GN and leaves off. With `plain_deltas` the box head
    gives deltas without the weights (10, 10, 5, 5), as mmdetection's RetinaNet does; the output has them.
    """

    num_classes: int
    backbone: BackboneConfig = field(default_factory=TorchvisionResNet)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    prior_prob: float = 0.01
    pyramid_channels: int = 256
    head_depth: int = 4
    head_norm: Literal["none", "group"] = "none"
    tower_init: Literal["normal", "he"] = "normal"
    p6_source: Literal["P5", "C5"] = "P5"
    relu_before_p7: bool = True
    plain_deltas: bool = False

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if not 0 < self.prior_prob < 1:
            raise ValueError(f"prior_prob must lie in (0, 1), got {self.prior_prob}")
        if self.anchors.strides not in PYRAMIDS:
            choice = " or ".join(map(str, PYRAMIDS))
            raise ValueError(f"anchors.strides are {self.anchors.strides}; give one per pyramid level: {choice}")

    @property
    def levels(self) -> tuple[int, ...]:
        """The numbers of the pyramid's levels: 3 to 7 or 2 to 6; level l has stride 2^l."""
        return PYRAMIDS[self.anchors.strides]


@dataclass(frozen=True)
class ModelOutput:
    """Predictions for a batch: logits [B, A, K], deltas [B, A, 4], anchors [A, 4], anchors per level (L numbers)."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: tuple[int, ...]


class Head(nn.Module):
    """Hidden 3x3 convolutions with ReLU and an output convolution, shared by all levels (authors' code)."""

    def __init__(self, config: ModelConfig, num_outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        channels = config.pyramid_channels
        layers: list[nn.Module] = []
        for _ in range(config.head_depth):
            layers.append(nn.Conv2d(channels, channels, 3, padding=1))
            if config.head_norm == "group":
                layers.append(nn.GroupNorm(max(1, channels // 8), channels))
            layers.append(nn.ReLU(inplace=True))
        self.tower = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels, num_outputs, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # it has one
        if config.tower_init == "he":
            for module in self.tower:
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        self.output.bias = nn.Parameter(torch.full((num_outputs,), bias))

    def forward(self, levels: list[Tensor], width: int) -> Tensor:
        """Predictions [B, A, width] over all levels, cells in row-major order."""
        flat = []
        for features in levels:
            output = self.output(self.tower(features))
            flat.append(output.permute(0, 2, 3, 1).reshape(len(output), -1, width))
        return torch.cat(flat, dim=1)


class RetinaNet(nn.Module):
    """RetinaNet (Lin et al., 2017) as FreeAnchor's authors build it; see `ModelConfig` for the choices."""

    def __init__(self, config: ModelConfig) -> None:
        from freeanchor.detector.pyramid import build_pyramid  # imports torchvision; see `backbones`

        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        per_cell = config.anchors.num_per_cell
        self.pyramid = build_pyramid(
            list(self.backbone.out_channels[config.levels[0] - 2 :]),
            config.pyramid_channels,
            p6_source=config.p6_source,
            relu_before_p7=config.relu_before_p7,
            has_p7=7 in config.levels,
        )
        prior_bias = -math.log((1 - config.prior_prob) / config.prior_prob)
        self.cls_head = Head(config, per_cell * config.num_classes, prior_bias)
        self.box_head = Head(config, per_cell * 4)
        self._anchors: dict[tuple[tuple[int, int], ...], Tensor] = {}  # of the last grid: batches of a size follow

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> ModelOutput:
        """Predictions for normalised images whose sides are multiples of 32."""
        levels = self.pyramid_maps(images)
        grids = tuple((level.shape[2], level.shape[3]) for level in levels)
        per_cell = self.config.anchors.num_per_cell
        deltas = self.box_head(levels, 4)
        if self.config.plain_deltas:
            deltas = deltas * deltas.new_tensor(DELTA_WEIGHTS)
        return ModelOutput(
            logits=self.cls_head(levels, self.config.num_classes),
            deltas=deltas,
            anchors=self._grid(grids, (images.shape[2], images.shape[3]), images.device),
            level_sizes=tuple(rows * columns * per_cell for rows, columns in grids),
        )

    def pyramid_maps(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """The pyramid's maps, finest first: what both heads see."""
        maps = self.backbone(images)[self.config.levels[0] - 2 :]  # the backbone gives C2 to C5
        return list(self.pyramid(OrderedDict((f"c{i}", each) for i, each in enumerate(maps))).values())

    def _grid(self, grids: tuple[tuple[int, int], ...], image_size: tuple[int, int], device: torch.device) -> Tensor:
        key = (*grids, image_size)
        if key not in self._anchors or self._anchors[key].device != device:
            self._anchors = {key: grid_anchors(self.config.anchors, grids, image_size).to(device)}
        return self._anchors[key]
