"""The anchor grid: boxes laid over every cell of every pyramid level.

Strides are fixed numbers (8 to 128), never picture size over grid size: torchvision derives them and gets 61 and 114
at P6 and P7 of an 800 px picture, which moves the boxes of converted checkpoints. Order within a cell is ratio-major,
scale-minor; then row-major cells; then levels.

    anchors = grid_anchors(AnchorConfig(), [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)])  # [201600, 4]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Shapes and places of the anchors; the defaults are the paper's (RetinaNet's nine a cell).

    `geometry="legacy"` rounds each base width and height to whole pixels before scaling, as maskrcnn-benchmark does;
    `"exact"` does not. `centre_offset` is in strides: 0.5 in the authors' code, 0 in mmdetection and detectron2.
    """

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    num_octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    geometry: Literal["exact", "legacy"] = "exact"  # DEVIATION(D19): the authors have "legacy"
    centre_offset: float = 0.5

    def __post_init__(self) -> None:
        """Refuse sizes and strides that do not pair up, or that are not positive."""
        if len(self.sizes) != len(self.strides):
            raise ValueError(f"sizes and strides must pair up, got {len(self.sizes)} and {len(self.strides)}")
        if min(*self.sizes, *self.ratios, *self.strides, self.num_octaves) <= 0:
            raise ValueError("anchor sizes, ratios, strides and num_octaves must be positive")
        if self.geometry not in ("exact", "legacy"):
            raise ValueError(f"geometry must be 'exact' or 'legacy', got {self.geometry!r}")

    @property
    def num_per_cell(self) -> int:
        """Anchors a cell: one for each ratio and octave."""
        return self.num_octaves * len(self.ratios)


def _base_shape(stride: int, ratio: float, geometry: str) -> tuple[float, float]:
    """(width, height) of area stride^2 at `ratio`, before scaling up to the anchor's size."""
    width = stride / ratio**0.5
    if geometry == "exact":
        return width, width * ratio
    rounded = round(width)  # FACTS of maskrcnn-benchmark: the width is rounded first, the height follows from it
    return rounded, round(rounded * ratio)


def cell_anchors(config: AnchorConfig) -> list[Float[Tensor, "S 4"]]:
    """Anchors of one cell of each level, centred at 0, in float64; ratio-major, scale-minor."""
    levels = []
    for size, stride in zip(config.sizes, config.strides, strict=True):
        shapes = []
        for ratio in config.ratios:
            width, height = _base_shape(stride, ratio, config.geometry)
            for octave in range(config.num_octaves):
                scale = size / stride * 2 ** (octave / config.num_octaves)
                shapes.append((width * scale / 2, height * scale / 2))
        half = torch.tensor(shapes, dtype=torch.float64)
        levels.append(torch.cat([-half, half], dim=1))
    return levels


def grid_anchors(config: AnchorConfig, grid_sizes: Sequence[tuple[int, int]]) -> Float[Tensor, "A 4"]:
    """Anchors of a whole pyramid whose levels have `grid_sizes` (rows, columns), in float32.

    A = sum over levels of rows * columns * num_per_cell. Raises ValueError when the levels do not pair with strides.
    """
    if len(grid_sizes) != len(config.strides):
        raise ValueError(f"{len(grid_sizes)} grids for {len(config.strides)} strides; give one grid a pyramid level")
    levels = []
    for cell, stride, (rows, columns) in zip(cell_anchors(config), config.strides, grid_sizes, strict=True):
        y = (torch.arange(rows, dtype=torch.float64) + config.centre_offset) * stride
        x = (torch.arange(columns, dtype=torch.float64) + config.centre_offset) * stride
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
        levels.append((centres[:, :, None] + cell).reshape(-1, 4))
    return torch.cat(levels).float()
