"""The anchor grid: the authors' table of shapes, anchor counts, order, and an oracle in nested loops."""

from dataclasses import replace

import pytest
import torch
from oracles import anchors as oracle

from freeanchor.anchors import AnchorConfig, cell_anchors, grid_anchors

# Legacy (width, height) at octave 0 for ratios 0.5, 1, 2, as the authors' code computes them.
LEGACY_SHAPES = {
    "P3": [(44, 24), (32, 32), (24, 48)],
    "P4": [(92, 48), (64, 64), (44, 88)],
    "P5": [(180, 88), (128, 128), (92, 184)],
    "P6": [(364, 184), (256, 256), (180, 360)],
    "P7": [(724, 360), (512, 512), (364, 728)],
}
GRIDS_800 = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]  # of an 800 x 1344 px image
GRIDS_960 = [(120, 168), (60, 84), (30, 42), (15, 21), (8, 11)]
GRIDS_1280 = [(160, 268), (80, 134), (40, 67), (20, 34), (10, 17)]
SMALL_GRIDS = [(4, 3), (2, 2), (1, 2), (1, 1), (1, 1)]


def _shapes(anchors: torch.Tensor) -> torch.Tensor:
    return anchors[:, 2:] - anchors[:, :2]


@pytest.mark.parametrize("level", range(5), ids=LEGACY_SHAPES)
def test_legacy_shapes_are_the_authors(level: int) -> None:
    """Each level's rounded shapes at octave 0 are those of the authors' code, and scale with the octaves."""
    shapes = _shapes(cell_anchors(AnchorConfig(geometry="legacy"))[level]).reshape(3, 3, 2)  # ratio, octave, side
    expected = torch.tensor(list(LEGACY_SHAPES.values())[level], dtype=shapes.dtype)
    for octave in range(3):
        torch.testing.assert_close(shapes[:, octave], expected * 2 ** (octave / 3), rtol=1e-6, atol=1e-5)


def test_exact_shapes_of_the_finest_level() -> None:
    """Without rounding, P3's shapes at octave 0 are 45.25 x 22.63, 32 x 32 and 22.63 x 45.25."""
    shapes = _shapes(cell_anchors(AnchorConfig())[0])[::3]
    expected = torch.tensor([(45.25, 22.63), (32, 32), (22.63, 45.25)], dtype=shapes.dtype)
    torch.testing.assert_close(shapes, expected, rtol=0, atol=0.006)


@pytest.mark.parametrize("geometry", ["exact", "legacy"])
def test_cell_anchors_are_centred_and_nine(geometry: str) -> None:
    """A cell has nine anchors on each level, each centred at 0."""
    for anchors in cell_anchors(AnchorConfig(geometry=geometry)):
        assert anchors.shape == (9, 4)
        torch.testing.assert_close(anchors[:, :2], -anchors[:, 2:], rtol=1e-6, atol=1e-6)


def test_exact_anchors_keep_area_and_ratio() -> None:
    """Every exact anchor has area (size * 2^(k/3))^2 and height over width equal to its ratio."""
    config = AnchorConfig()
    for size, anchors in zip(config.sizes, cell_anchors(config), strict=True):
        width, height = _shapes(anchors).unbind(dim=1)
        areas = [(size * 2 ** (octave / 3)) ** 2 for _ in range(3) for octave in range(3)]
        ratios = [ratio for ratio in (0.5, 1.0, 2.0) for _ in range(3)]
        torch.testing.assert_close(width * height, torch.tensor(areas, dtype=width.dtype), rtol=1e-6, atol=0)
        torch.testing.assert_close(height / width, torch.tensor(ratios, dtype=width.dtype), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("grids", "count"), [(GRIDS_800, 201_600), (GRIDS_960, 241_767), (GRIDS_1280, 514_170)])
def test_anchor_counts_of_full_size_images(grids: list, count: int) -> None:
    """Images of 800, 960 and 1280 px have the authors' number of anchors."""
    assert grid_anchors(AnchorConfig(), grids).shape == (count, 4)


def test_the_first_cell_is_centred_half_a_stride_in() -> None:
    """Unless told otherwise, centres lie at (i + 0.5) * stride as the authors have them."""
    square = grid_anchors(AnchorConfig(), SMALL_GRIDS)[3]  # ratio 1, octave 0
    assert square.tolist() == pytest.approx([4 - 16, 4 - 16, 4 + 16, 4 + 16])


@pytest.mark.parametrize("geometry", ["exact", "legacy"])
@pytest.mark.parametrize("centre_offset", [0.0, 0.5])
def test_grid_equals_the_oracle(geometry: str, centre_offset: float) -> None:
    """Levels, rows, columns and the cell's anchors follow each other as in four nested loops."""
    config = AnchorConfig(geometry=geometry, centre_offset=centre_offset)
    expected = oracle.grid(config.sizes, config.strides, SMALL_GRIDS, geometry, centre_offset)
    anchors = grid_anchors(config, SMALL_GRIDS)
    torch.testing.assert_close(anchors, torch.tensor(expected, dtype=anchors.dtype), rtol=1e-6, atol=1e-4)


def test_strides_do_not_depend_on_the_grid() -> None:
    """Neighbours at P6 and P7 lie 64 and 128 px apart whatever the image's size (not 61 and 114)."""
    anchors = grid_anchors(AnchorConfig(), GRIDS_800)
    first = {level: 9 * sum(rows * columns for rows, columns in GRIDS_800[:level]) for level in (3, 4)}
    for level, stride in ((3, 64.0), (4, 128.0)):
        step = anchors[first[level] + 9] - anchors[first[level]]
        torch.testing.assert_close(step, torch.tensor([stride, 0, stride, 0]), rtol=0, atol=1e-3)


def test_other_shapes_can_be_configured() -> None:
    """Octaves and ratios of one's own give as many anchors per cell as their product."""
    config = replace(AnchorConfig(), num_octaves=2, ratios=(0.25, 0.5, 1.0, 2.0, 4.0))
    assert [len(anchors) for anchors in cell_anchors(config)] == [10] * 5


def test_sizes_without_a_stride_are_refused() -> None:
    """Sizes and strides that do not pair up are an error in one line."""
    with pytest.raises(ValueError, match="stride") as caught:
        AnchorConfig(sizes=(32, 64), strides=(8, 16, 32))
    assert "\n" not in str(caught.value)


def test_grids_without_a_level_are_refused() -> None:
    """Grid sizes for another number of levels are an error, not a shorter grid."""
    with pytest.raises(ValueError, match="level"):
        grid_anchors(AnchorConfig(), SMALL_GRIDS[:3])
