"""The anchor grid in nested loops, as in the authors' code, in both geometries.

For example `shapes(32, stride=8, geometry="legacy")[0]` is (44.0, 24.0): P3, ratio 0.5, octave 0.
"""

import math

from oracles.boxes import Box


def _round_half_to_even(value: float) -> int:
    """Rounding as numpy does it: the authors' 22.5 becomes 22 and 11.5 becomes 12."""
    return round(value)


def shapes(size: float, stride: float, geometry: str, ratios: tuple = (0.5, 1, 2), octaves: int = 3) -> list[Box]:
    """Widths and heights of one level's anchors, ratio-major and scale-minor.

    "exact": area (size * 2^(k/3))^2 and height / width = ratio. "legacy": the shape is first found for a square of one
    stride and rounded to integers, and only then enlarged to the size (authors' code, "anchor geometry").
    """
    found = []
    for ratio in ratios:
        for octave in range(octaves):
            scaled = size * 2 ** (octave / octaves)
            if geometry == "legacy":
                base_width = _round_half_to_even(math.sqrt(stride * stride / ratio))
                base_height = _round_half_to_even(base_width * ratio)
                found.append((base_width * scaled / stride, base_height * scaled / stride))
            else:
                found.append((scaled / math.sqrt(ratio), scaled * math.sqrt(ratio)))
    return found


def grid(
    sizes: tuple, strides: tuple, grid_sizes: list[tuple[int, int]], geometry: str, centre_offset: float
) -> list[Box]:
    """Every anchor of a pyramid: levels, then rows, then columns, then the anchors of the cell."""
    anchors = []
    for size, stride, (rows, columns) in zip(sizes, strides, grid_sizes, strict=True):
        for row in range(rows):
            for column in range(columns):
                x, y = (column + centre_offset) * stride, (row + centre_offset) * stride
                for width, height in shapes(size, stride, geometry):
                    anchors.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    return anchors
