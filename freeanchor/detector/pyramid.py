"""The feature pyramid: torchvision's for the backbone's maps, and the levels above them.

pyramid = build_pyramid([512, 1024, 2048], 256, p6_source="P5", relu_before_p7=True, has_p7=True)
"""

from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, FeaturePyramidNetwork


class TopLevels(ExtraFPNBlock):
    """P6 by a strided convolution of P5 or C5, P7 (if wanted) by another of P6, with a ReLU between or without."""

    def __init__(self, c5_channels: int, channels: int, source: str, *, relu_before_p7: bool, has_p7: bool) -> None:
        super().__init__()
        self.source = source
        self.relu_before_p7 = relu_before_p7
        self.p6 = nn.Conv2d(channels if source == "P5" else c5_channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if has_p7 else None
        for conv in filter(None, (self.p6, self.p7)):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """Append P6, and P7 if there is one, to the pyramid `results`; `x` are the backbone's maps."""
        p6 = self.p6(results[-1] if self.source == "P5" else x[-1])
        if self.p7 is None:
            return [*results, p6], [*names, "p6"]
        p7 = self.p7(functional.relu(p6) if self.relu_before_p7 else p6)
        return [*results, p6, p7], [*names, "p6", "p7"]


def build_pyramid(
    widths: list[int], channels: int, *, p6_source: str, relu_before_p7: bool, has_p7: bool
) -> FeaturePyramidNetwork:
    """A pyramid of `channels` over maps of `widths` channels, finest first."""
    top = TopLevels(widths[-1], channels, p6_source, relu_before_p7=relu_before_p7, has_p7=has_p7)
    return FeaturePyramidNetwork(widths, channels, extra_blocks=top)
