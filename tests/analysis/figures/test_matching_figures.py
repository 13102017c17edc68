"""Figs. 1 and 4, and heatmaps of one object's bag, by the anchors, cells and words that they draw."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PatchCollection
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from oracles.bags import chosen, entropy, nearest_by_iou
from oracles.match_frames import make_matches

from analysis.bags.matches import MatchesError, anchor_centres, anchors_of_ratio, chosen_anchor
from analysis.figures.images import ASSIGNED_COLOUR, GT_COLOUR, LEARNED_COLOUR, view_around
from analysis.figures.matching import cell_values, dot_places, figure1, figure4, match_heatmaps, shown_ratio

IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
CORNERS = ["x1", "y1", "x2", "y2"]


def outlines(axes, colour: str = "") -> list[Rectangle]:
    """The boxes drawn on an image, or those of one colour."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [box for box in boxes if not colour or to_hex(box.get_edgecolor()).upper() == colour]


def corners(box: Rectangle) -> list[float]:
    """A drawn box as xyxy."""
    return [box.get_x(), box.get_y(), box.get_x() + box.get_width(), box.get_y() + box.get_height()]


def test_figure1_draws_the_assigned_above_and_the_whole_bag_below():
    """Above stand the assigned anchors, all alike; below all 50, opaque by weight, and the chosen one once more, thick."""
    matches = make_matches()
    by_hand, learned = figure1(matches, IMAGE).axes
    last = matches[matches.step == 1000]
    assigned = last[last.assigned]
    boxes = outlines(by_hand)[: len(assigned)]
    np.testing.assert_allclose([corners(box) for box in boxes], assigned[CORNERS])
    assert len({(box.get_linewidth(), box.get_alpha()) for box in boxes}) == 1
    bag = outlines(learned)[:50]
    np.testing.assert_allclose([corners(box) for box in bag], last[CORNERS])
    np.testing.assert_allclose([box.get_alpha() for box in bag], np.maximum(last.weight / last.weight.max(), 0.05))
    chosen = chosen_anchor(last)[CORNERS].to_numpy()[0]
    thick = outlines(learned)[50]
    np.testing.assert_allclose(corners(thick), chosen)
    assert thick.get_linewidth() > 2 * bag[0].get_linewidth()
    assert [corners(outlines(axes)[-1]) for axes in (by_hand, learned)] == [[20, 30, 80, 70]] * 2


def test_figure1_shows_several_objects_of_an_image():
    """Every object's box is drawn, and each bag has its chosen anchor."""
    matches = make_matches(objects=((1, (20.0, 30.0, 80.0, 70.0)), (2, (90.0, 10.0, 110.0, 90.0))))
    _, learned = figure1(matches, IMAGE).axes
    assert len(outlines(learned)) == 100 + 2 + 2


def test_figure4_colours_16_square_anchors_by_confidence_and_by_iou():
    """A row per step: left the learned values, right IoU, of the 16 square anchors, on scales that hold for all rows."""
    matches = make_matches()
    figure = figure4(matches, IMAGE)
    panels = figure.axes[:4]
    squares = anchors_of_ratio(matches, 1.0, 16)
    for number, step in enumerate((250, 1000)):
        own = squares[squares.step == step]
        assert f"step {step:,}\n" in panels[2 * number].get_ylabel()
        for axes, metric in zip(panels[2 * number :], ("confidence", "iou")):
            dots = axes.collections[0]
            assert len(dots.get_offsets()) == 16
            np.testing.assert_allclose(dots.get_array(), sorted(own[metric]))
            assert dots.norm.vmin == 0 and dots.norm.vmax >= squares[metric].max()
    assert panels[0].collections[0].norm.vmax == panels[2].collections[0].norm.vmax
    assert "the 16 of 50 anchors of shape 1:1" in figure.get_suptitle()


def test_figure4_darker_is_likelier():
    """The colour of the best-scoring dot is darker than that of the least likely."""
    dots = figure4(make_matches(), IMAGE).axes[0].collections[0]
    luminance = dots.cmap(dots.norm(dots.get_array()))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert np.all(np.diff(luminance) < 0)


def test_figure4_takes_the_commonest_ratio_where_no_anchor_is_square():
    """The bag of a slender box holds no square anchors: those of its own ratio are shown, and the figure says so."""
    matches = make_matches(ratios=(0.5,))
    assert shown_ratio(matches) == 0.5
    assert "16 of 50 anchors of shape 2:1" in figure4(matches, IMAGE).get_suptitle()


def test_figure4_refuses_several_objects():
    """Two objects in one frame is one clear line, with the remedy."""
    matches = make_matches(objects=((1, (20.0, 30.0, 80.0, 70.0)), (2, (90.0, 10.0, 110.0, 90.0))))
    with pytest.raises(MatchesError, match="select one annotation_id"):
        figure4(matches, IMAGE)


def test_freeanchor_is_drawn_where_a_frame_holds_both_detectors():
    """Rows of RetinaNet beside those of FreeAnchor change nothing."""
    matches = make_matches()
    both = pd.concat([matches.assign(detector="RetinaNet", run="retinanet", confidence=0.5), matches])
    drawn = [figure4(frame, IMAGE).axes[0].collections[0].get_array() for frame in (matches, both)]
    np.testing.assert_array_equal(*drawn)


def test_dots_that_share_a_centre_are_set_around_it():
    """Single dots stay, shared ones move by the radius, keep their centre as mean, and no two coincide."""
    centres = np.array([[8.0, 8.0], [24.0, 8.0], [8.0, 8.0], [8.0, 8.0]])
    places = dot_places(centres, radius=2.0)
    np.testing.assert_array_equal(places[1], centres[1])
    shared = places[[0, 2, 3]]
    np.testing.assert_allclose(np.hypot(*(shared - 8).T), 2.0)
    np.testing.assert_allclose(shared.mean(axis=0), [8, 8])
    assert len(np.unique(places.round(6), axis=0)) == 4
    assert anchor_centres(make_matches()).shape == (100, 2)


@pytest.mark.parametrize("box", [(0, 0, 20, 10), (150, 100, 160, 120), (0, 0, 160, 120), (60, 60, 61, 61)])
def test_views_hold_their_points_and_stay_in_the_image(box):
    """Whatever the object, the window contains it and never leaves the image."""
    view = view_around(np.array(box, dtype=float).reshape(2, 2), IMAGE.shape)
    assert 0 <= view.left <= box[0] and box[2] <= view.right <= 160
    assert 0 <= view.top <= box[1] and box[3] <= view.bottom <= 120
    assert view.width >= 16 and view.height >= 16


def make_bag(steps=(1000,), **changes) -> pd.DataFrame:
    """One object's bag at each step, every third anchor moved to P4, whose cells are twice as large."""
    matches = make_matches(1, steps=steps).assign(part_x=np.nan, part_y=np.nan)
    level = np.where(matches["rank"] % 3 == 0, 4, 3)
    return matches.assign(level=level, stride_x=8.0 * (level - 2), stride_y=8.0 * (level - 2), **changes)


def panels_of(figure, num_levels) -> np.ndarray:
    """Axes that show an image, a row per level."""
    return np.array([axes for axes in figure.axes if axes.images]).reshape(num_levels, -1)


def heat_of(axes) -> dict[tuple[float, ...], float]:
    """Coloured cells as xyxy, with their values."""
    (heat,) = (item for item in axes.collections if isinstance(item, PatchCollection))
    boxes = [np.round(path.get_extents().extents, 6) for path in heat.get_paths()]
    return {tuple(box): value for box, value in zip(boxes, heat.get_array(), strict=True)}


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
            assert [corners(box) for box in outlines(axes, GT_COLOUR)] == [[20, 30, 80, 70]]
            for colour, anchor in ((LEARNED_COLOUR, chosen(bag)), (ASSIGNED_COLOUR, nearest_by_iou(bag))):
                expected = [[anchor[name] for name in CORNERS]] if anchor["level"] == level else []
                assert [corners(box) for box in outlines(axes, colour)] == [pytest.approx(box) for box in expected]


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
        assert outlines(line[3], LEARNED_COLOUR) == []
    assert any(outlines(axes, LEARNED_COLOUR) for axes in panels[:, 0])


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
    assert "discriminative part" in [text.get_text() for text in legend.get_texts()]


def test_bad_frames_are_refused():
    """Missing cells and several objects raise one clear line each; an empty frame says not run."""
    with pytest.raises(MatchesError, match="lacks stride_x, stride_y"):
        match_heatmaps(make_matches(), IMAGE)
    both = pd.concat([make_bag(), make_bag(annotation_id=12)])
    with pytest.raises(MatchesError, match="shows one object, the frame of matches holds 2"):
        match_heatmaps(both, IMAGE)
    (axes,) = match_heatmaps(make_bag()[:0], IMAGE).axes
    assert [text.get_text() for text in axes.texts] == ["not run"]
