"""Stencils: polygons are filled exactly, boxes are tight, glyphs are symmetric."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freeanchor.shapes.drawing import GLYPHS, GRID, SAMPLES, fill, make_stencil
from freeanchor.shapes.objects import CATEGORIES, Category


@settings(max_examples=60, deadline=None)
@given(
    category=st.sampled_from(CATEGORIES),
    length=st.floats(27.0, 60.0),
    elongation=st.floats(3.0, 5.0),
    angle=st.floats(0.0, 359.0),
    shift=st.tuples(st.floats(0.0, 0.99), st.floats(0.0, 0.99)),
)
def test_boxes_are_tight(
    category: Category, length: float, elongation: float, angle: float, shift: tuple[float, float]
) -> None:
    """Whatever is drawn, the samples that a stencil sets reach to within a few of its box and not beyond."""
    shaft = 0.3 if category.is_slender else None
    stencil = make_stencil(category.glyph, length=length, elongation=elongation, angle=angle, shaft=shaft, shift=shift)
    rows, columns = np.nonzero(stencil.body)
    ink = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / SAMPLES
    # a sharp tip may pass between samples
    assert np.abs(ink - stencil.box).max() < (2.5 if category.glyph in ("triangle", "star") else 0.8)
    assert (ink[:2] > np.array(stencil.box[:2]) - 1 / SAMPLES).all()
    assert (ink[2:] < np.array(stencil.box[2:]) + 1 / SAMPLES).all()
    assert not (stencil.part & ~stencil.body).any()


def winds_around(outlines: list[np.ndarray], x: int, y: int) -> bool:
    """Oracle: does any net number of edges cross the ray from (x, y) to the left? In fractions, edge by edge."""
    winding = 0
    for outline in outlines:
        for (x0, y0), (x1, y1) in zip(outline.tolist(), outline.tolist()[1:] + outline.tolist()[:1], strict=True):
            if (y0 <= y) != (y1 <= y) and x0 + Fraction((y - y0) * (x1 - x0), y1 - y0) <= x:
                winding += 1 if y1 > y0 else -1
    return winding != 0


corner = st.tuples(st.integers(0, 5 * GRID), st.integers(0, 4 * GRID))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(corner, min_size=3, max_size=7), min_size=1, max_size=2))
def test_fill_equals_the_winding_rule(polygons: list[list[tuple[int, int]]]) -> None:
    """Samples are set exactly where the polygons wind around them, self-crossing ones and holes included."""
    outlines = [np.array(polygon, dtype=np.int64) for polygon in polygons]
    step = GRID // SAMPLES
    expected = [
        [winds_around(outlines, column * step + step // 2, row * step + step // 2) for column in range(5 * SAMPLES)]
        for row in range(4 * SAMPLES)
    ]
    np.testing.assert_array_equal(fill(outlines, 5, 4), expected)


@pytest.mark.parametrize("glyph", GLYPHS)
def test_glyphs_are_their_own_mirror_images(glyph: str) -> None:
    """Mirroring an outline at its axis gives the same corners, so that flipped images keep their classes."""
    for outline in GLYPHS[glyph]:
        corners = {(round(x, 6) + 0.0, round(y, 6) + 0.0) for x, y in outline}
        assert {(x, -y + 0.0) for x, y in corners} == corners
