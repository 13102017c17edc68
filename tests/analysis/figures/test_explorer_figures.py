"""Heatmaps of one object's bag, by the cells, outlines and words that they draw."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from oracles.bags import chosen, entropy, nearest_by_iou
from oracles.match_frames import make_matches

from analysis.bags.matches import MatchesError
from analysis.figures.heatmaps import cell_values, match_heatmaps

IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
GREEN, BLUE, RED = "#18B548", "#2E86DE", "#E8380D"


def make_bag(steps=(1000,), **changes) -> pd.DataFrame:
    """One object's bag at each step, every third anchor moved to P4, whose cells are twice as large."""
    matches = make_matches(1, steps=steps).assign(part_x=np.nan, part_y=np.nan)
    level = np.where(matches["rank"] % 3 == 0, 4, 3)
    return matches.assign(level=level, stride_x=8.0 * (level - 2), stride_y=8.0 * (level - 2), **changes)


def panels_of(figure, num_levels) -> np.ndarray:
    """Axes that show an image, a row a level."""
    return np.array([axes for axes in figure.axes if axes.images]).reshape(num_levels, -1)


def heat_of(axes) -> dict[tuple[float, ...], float]:
    """Coloured cells as xyxy, with their values."""
    (heat,) = (item for item in axes.collections if isinstance(item, PatchCollection))
    boxes = [np.round(path.get_extents().extents, 6) for path in heat.get_paths()]
    return {tuple(box): value for box, value in zip(boxes, heat.get_array(), strict=True)}


def outlines(axes, colour) -> list[tuple[float, ...]]:
    """Boxes drawn in a colour, as xyxy."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    named = [box for box in boxes if np.allclose(box.get_edgecolor()[:3], hex_rgb(colour))]
    return [(box.get_x(), box.get_y(), box.get_x() + box.get_width(), box.get_y() + box.get_height()) for box in named]


def hex_rgb(colour) -> list[float]:
    """A colour's channels, 0 to 1."""
    return [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def best_in_cells(rows, metric) -> dict[tuple[float, ...], float]:
    """The greatest value of each cell, anchor by anchor."""
    cells: dict[tuple[float, ...], float] = {}
    for row in rows.to_dict("records"):
        x, y, half = (row["x1"] + row["x2"]) / 2, (row["y1"] + row["y2"]) / 2, row["stride_x"] / 2
        cell = tuple(float(round(value, 6)) for value in (x - half, y - half, x + half, y + half))
        cells[cell] = max(cells.get(cell, 0.0), row[metric])
    return cells


def test_a_cell_shows_its_best_anchor():
    """Several anchors share a cell: the greatest value counts, in the frame's own pixels."""
    rows = make_bag()
    rows = rows[rows.level == 3]
    cells, values = cell_values(rows, "confidence")
    assert len(cells) < len(rows)
    found = {tuple(cell): value for cell, value in zip(cells.round(6).tolist(), values.tolist(), strict=True)}
    assert found == best_in_cells(rows, "confidence")


def test_one_detector_has_four_columns_and_a_row_a_level():
    """Confidence, IoU, class score and localization; each panel colours the cells of its own level."""
    matches = make_bag()
    panels = panels_of(match_heatmaps(matches, IMAGE), 2)
    assert panels.shape == (2, 4)
    for line, level in zip(panels, (3, 4), strict=True):
        own = matches[matches.level == level]
        assert f"P{level}, cells of {8 * (level - 2)} px\n{len(own)} anchors" == line[0].get_ylabel()
        for axes, metric in zip(line, ("confidence", "iou", "cls_prob", "loc_prob"), strict=True):
            assert heat_of(axes) == pytest.approx(best_in_cells(own, metric))


def test_chosen_and_preferred_anchors_stand_in_their_own_level():
    """The object in every panel, the anchor of greatest weight and that of highest IoU in those of their level."""
    matches = make_bag()
    bag = matches.to_dict("records")
    for line, level in zip(panels_of(match_heatmaps(matches, IMAGE), 2), (3, 4), strict=True):
        for axes in line:
            assert outlines(axes, GREEN) == [(20, 30, 80, 70)]
            for colour, anchor in ((RED, chosen(bag)), (BLUE, nearest_by_iou(bag))):
                expected = (
                    [tuple(anchor[name] for name in ("x1", "y1", "x2", "y2"))] if anchor["level"] == level else []
                )
                assert outlines(axes, colour) == [pytest.approx(box) for box in expected]


def test_the_title_tells_how_concentrated_the_bag_is():
    """Entropy of its greatest value, and effective anchors of the bag's size."""
    matches = make_bag()
    figure = match_heatmaps(matches, IMAGE)
    words = f"wand, 60 × 40 px: entropy {entropy(matches.weight):.2f} of 3.91 nats"
    assert figure.get_suptitle().startswith(words)
    assert figure.get_suptitle().endswith("effective anchors of 50")


def test_several_stages_have_a_column_each_and_iou_last():
    """Confidence of each under its label on one scale; IoU beside them stands for no stage and has no chosen anchor."""
    matches = make_bag(steps=(10, 200, 1000))
    panels = panels_of(match_heatmaps(matches, IMAGE, ["early", "a name that needs more than a line", "late"]), 2)
    assert panels.shape == (2, 4)
    titles = [axes.get_title(loc="left").splitlines() for axes in panels[0]]
    assert titles[0][0] == "early" and titles[2][0] == "late" and titles[3][0] == "By hand: IoU"
    assert " ".join(titles[1][:-1]) == "a name that needs more than a line" and len(titles[1]) > 2
    for line, level in zip(panels, (3, 4), strict=True):
        for axes, step in zip(line, (10, 200, 1000), strict=False):
            own = matches[(matches.level == level) & (matches.step == step)]
            assert heat_of(axes) == pytest.approx(best_in_cells(own, "confidence"))
            weight = entropy(matches[matches.step == step].weight)
            assert f"{weight:.2f} nats" in panels[0, (10, 200, 1000).index(step)].get_title(loc="left")
        tops = {collection.norm.vmax for axes in line[:3] for collection in axes.collections if collection.norm.vmax}
        assert len(tops) == 1
        assert outlines(line[3], RED) == []
    assert any(outlines(axes, RED) for axes in panels[:, 0])


def test_steps_may_be_unknown():
    """A model file does not tell its step: runs tell them apart, and nan is no several objects."""
    one = make_bag(step=np.nan, num_steps=np.nan)
    figure = match_heatmaps(pd.concat([one, one.assign(run="other")]), IMAGE, ["one", "other"])
    assert panels_of(figure, 2).shape == (2, 3)


def test_known_parts_are_marked():
    """A cross where the part lies, in every panel, and a word for it."""
    figure = match_heatmaps(make_bag().assign(part_x=25.0, part_y=35.0), IMAGE)
    for axes in panels_of(figure, 2).ravel():
        assert [line.get_xydata().tolist() for line in axes.lines] == [[[25.0, 35.0]]]
    (legend,) = figure.legends
    assert "part that tells its class" in [text.get_text() for text in legend.get_texts()]


def test_bad_frames_are_refused():
    """Missing cells and several objects raise one clear line each; an empty frame says not run."""
    with pytest.raises(MatchesError, match="lacks stride_x, stride_y"):
        match_heatmaps(make_matches(), IMAGE)
    both = pd.concat([make_bag(), make_bag(annotation_id=12)])
    with pytest.raises(MatchesError, match="shows one object, the frame of matches holds 2"):
        match_heatmaps(both, IMAGE)
    (axes,) = match_heatmaps(make_bag()[:0], IMAGE).axes
    assert [text.get_text() for text in axes.texts] == ["not run"]
