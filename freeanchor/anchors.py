"""The anchor grid: boxes laid over every cell of every pyramid level.

Within a cell the order is ratio-major, scale-minor; then come row-major cells; then levels. Strides are fixed numbers
(8 to 128), but for one geometry: torchvision divides image size by grid size and gets 61 and 114 at P6 and P7 of an
800 px image, and a detector trained so needs its anchors there.

    anchors = grid_anchors(AnchorConfig(), [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)])  # [201600, 4]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

SIZE_DIVISOR = 32  # images are padded to a multiple of it, so that the pyramid's upsampling meets its laterals


@dataclass(frozen=True, kw_only=True)
class AnchorConfig:
    """Shapes and places of the anchors; the defaults are the paper's (RetinaNet's nine per cell).

    `geometry="legacy"` rounds each base width and height to whole pixels before scaling, as maskrcnn-benchmark does;
    `"exact"` does not. `"torchvision"` cuts sizes to whole pixels, rounds the corners, and takes strides from the
    padded image, so that the anchors of P6 and P7 depend on its size. `centre_offset` is in strides: 0.5
    in the authors' code, 0 in mmdetection, detectron2 and torchvision.
    """

    sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    num_octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    geometry: Literal["exact", "legacy", "torchvision"] = "exact"  # DEVIATION(D19): the authors have "legacy"
    centre_offset: float = 0.5

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.strides):
            raise ValueError(f"sizes and strides must pair up, got {len(self.sizes)} and {len(self.strides)}")
        if min(*self.sizes, *self.ratios, *self.strides, self.num_octaves) <= 0:
            raise ValueError("anchor sizes, ratios, strides and num_octaves must be positive")
        if self.geometry not in ("exact", "legacy", "torchvision"):
            raise ValueError(f"geometry must be 'exact', 'legacy' or 'torchvision', got {self.geometry!r}")

    @property
    def num_per_cell(self) -> int:
        """Anchors per cell: one for each ratio and octave."""
        return self.num_octaves * len(self.ratios)


def _base_shape(stride: int, ratio: float, geometry: str) -> tuple[float, float]:
    """(width, height) of area stride^2 at `ratio`, before scaling up to the anchor's size."""
    width = stride / ratio**0.5
    if geometry == "exact":
        return width, width * ratio
    rounded = round(width)  # as in maskrcnn-benchmark: the width is rounded first, the height follows from it
    return rounded, round(rounded * ratio)


def _rounded_cells(config: AnchorConfig) -> list[Tensor]:
    """Cell anchors as torchvision's AnchorGenerator has them: whole sizes, corners rounded in float32."""
    heights = torch.tensor(config.ratios).sqrt()
    levels = []
    for size in config.sizes:
        scales = torch.tensor([float(int(size * 2 ** (o / config.num_octaves))) for o in range(config.num_octaves)])
        half = torch.stack([((1 / heights)[:, None] * scales).ravel(), (heights[:, None] * scales).ravel()], dim=1) / 2
        levels.append(torch.cat([-half, half], dim=1).round().double())
    return levels


def cell_anchors(config: AnchorConfig) -> list[Float[Tensor, "S 4"]]:
    """Anchors of one cell of each level, centred at 0, in float64; ratio-major, scale-minor."""
    if config.geometry == "torchvision":
        return _rounded_cells(config)
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


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of an image that is padded to multiples of `SIZE_DIVISOR`."""
    return -(-height // SIZE_DIVISOR) * SIZE_DIVISOR, -(-width // SIZE_DIVISOR) * SIZE_DIVISOR


def grid_sizes(config: AnchorConfig, height: int, width: int) -> list[tuple[int, int]]:
    """(rows, columns) of each level's cells over an image of that size, the padded one's for a network's grid."""
    return [(-(-height // stride), -(-width // stride)) for stride in config.strides]


def level_strides(
    config: AnchorConfig, grid_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None
) -> list[tuple[int, int]]:
    """Each level's (vertical, horizontal) stride in pixels; `image_size` is (height, width) of the padded image.

    Raises ValueError where the geometry "torchvision" is not told the image's size.
    """
    if config.geometry != "torchvision":
        return [(stride, stride) for stride in config.strides]
    if image_size is None:
        raise ValueError("geometry 'torchvision' takes its strides from the image; give image_size")
    return [(image_size[0] // rows, image_size[1] // columns) for rows, columns in grid_sizes]


def grid_anchors(
    config: AnchorConfig, grid_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int] | None = None
) -> Float[Tensor, "A 4"]:
    """Anchors of a whole pyramid whose levels have `grid_sizes` (rows, columns), in float32.

    A = sum over levels of rows * columns * num_per_cell. `image_size` is (height, width) of the padded image, which
    only the geometry "torchvision" needs. Raises ValueError without it there, and when the levels do not pair with
    strides.
    """
    if len(grid_sizes) != len(config.strides):
        raise ValueError(f"{len(grid_sizes)} grids for {len(config.strides)} strides; give one grid per pyramid level")
    levels = []
    strides = level_strides(config, grid_sizes, image_size)
    for cell, (down, right), (rows, columns) in zip(cell_anchors(config), strides, grid_sizes, strict=True):
        y = (torch.arange(rows, dtype=torch.float64) + config.centre_offset) * down
        x = (torch.arange(columns, dtype=torch.float64) + config.centre_offset) * right
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
        levels.append((centres[:, :, None] + cell).reshape(-1, 4))
    return torch.cat(levels).float()


def valid_anchors(
    config: AnchorConfig, grid_sizes: Sequence[tuple[int, int]], padded_sizes: Sequence[tuple[int, int]]
) -> Bool[Tensor, "B A"]:
    """For each image, the anchors of `grid_anchors` whose cell begins inside the image's own padded (height, width).

    In a batch, images are padded to the largest; mmdetection trains on the others' anchors alone
    (`AnchorGenerator.valid_flags`).
    """
    rows = []
    for height, width in padded_sizes:
        levels = []
        for stride, (num_rows, num_columns) in zip(config.strides, grid_sizes, strict=True):
            inside = (torch.arange(num_rows) * stride < height)[:, None] & (torch.arange(num_columns) * stride < width)
            levels.append(inside.flatten().repeat_interleave(config.num_per_cell))
        rows.append(torch.cat(levels))
    return torch.stack(rows)
