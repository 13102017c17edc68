"""Figs. 1 and 4, by the anchors they draw: read back from their axes."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle
from oracles.match_frames import make_matches

from analysis.bags.matches import MatchesError, anchor_centres, anchors_of_ratio, chosen_anchor
from analysis.figures.images import view_around
from analysis.figures.matching import dot_places, figure1, figure4, shown_ratio

IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)


def outlines(axes) -> list[Rectangle]:
    """The boxes drawn on an image."""
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


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
    np.testing.assert_allclose([corners(box) for box in boxes], assigned[["x1", "y1", "x2", "y2"]])
    assert len({(box.get_linewidth(), box.get_alpha()) for box in boxes}) == 1
    bag = outlines(learned)[:50]
    np.testing.assert_allclose([corners(box) for box in bag], last[["x1", "y1", "x2", "y2"]])
    np.testing.assert_allclose([box.get_alpha() for box in bag], np.maximum(last.weight / last.weight.max(), 0.05))
    chosen = chosen_anchor(last)[["x1", "y1", "x2", "y2"]].to_numpy()[0]
    thick = outlines(learned)[50]
    np.testing.assert_allclose(corners(thick), chosen)
    assert thick.get_linewidth() > 2 * bag[0].get_linewidth()
    assert [corners(outlines(axes)[-1]) for axes in (by_hand, learned)] == [[20, 30, 80, 70]] * 2


def test_figure1_shows_several_objects_of_a_image():
    """Every object's box is drawn, and each bag has its chosen anchor."""
    matches = make_matches(objects=((1, (20.0, 30.0, 80.0, 70.0)), (2, (90.0, 10.0, 110.0, 90.0))))
    _, learned = figure1(matches, IMAGE).axes
    assert len(outlines(learned)) == 100 + 2 + 2


@pytest.mark.parametrize("likelihood", ["confidence", "weight"])
def test_figure4_colours_16_square_anchors_by_likelihood_and_by_iou(likelihood):
    """A row a step: left the learned values, right IoU, of the 16 square anchors, on scales that hold for all rows."""
    matches = make_matches()
    figure = figure4(matches, IMAGE, likelihood=likelihood)
    panels = figure.axes[:4]
    squares = anchors_of_ratio(matches, 1.0, 16)
    for number, step in enumerate((250, 1000)):
        own = squares[squares.step == step]
        assert f"step {step:,}\n" in panels[2 * number].get_ylabel()
        for axes, metric in zip(panels[2 * number :], (likelihood, "iou")):
            dots = axes.collections[0]
            assert len(dots.get_offsets()) == 16
            np.testing.assert_allclose(dots.get_array(), sorted(own[metric]))
            assert dots.norm.vmin == 0 and dots.norm.vmax >= squares[metric].max()
    assert panels[0].collections[0].norm.vmax == panels[2].collections[0].norm.vmax
    assert "the 16 of 50 anchors of shape 1:1" in figure.get_suptitle()


def test_figure4_darker_is_likelier():
    """The colour of the likeliest dot is darker than that of the least likely."""
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
