"""Galleries by what they draw: boxes, bags, windows and texts are read back from the figure."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from oracles.match_frames import make_matches

from analysis.bags.matches import chosen_anchor, effective_anchors
from analysis.figures.gallery import (
    CORRECT_COLOUR,
    OBJECT_COLOUR,
    OTHER_COLOUR,
    WIDTH,
    Exhibit,
    ShownDetections,
    gallery_figure,
    map_view,
    message_figure,
    photographs_figure,
)
from analysis.figures.images import LEARNED_COLOUR

IMAGE = np.random.default_rng(0).integers(0, 255, (120, 160, 3), dtype=np.uint8)
GT_BOX = np.array([20.0, 30.0, 80.0, 70.0])
RETINANET = ShownDetections(boxes=np.array([[1.0, 2, 30, 40]]), is_correct=np.array([False]), missed=GT_BOX[None])
FREEANCHOR = ShownDetections(boxes=np.array([[1.0, 2, 30, 40], [22, 31, 78, 72]]), is_correct=np.array([False, True]))


def bag(seed: int = 0) -> pd.DataFrame:
    """One bag of 50 anchors around the object."""
    return make_matches(seed, steps=(1000,))


def make_exhibit(**changes: object) -> Exhibit:
    """A landscape image whose object FreeAnchor alone finds."""
    content = {
        "image": IMAGE,
        "title": "wand, 1.5:1",
        "subtitle": "Found by FreeAnchor alone",
        "credit": "CC BY 4.0",
        "shown": {"RetinaNet": RETINANET, "FreeAnchor": FREEANCHOR},
        "gt_box": GT_BOX,
        "bags": {"RetinaNet": bag(1), "FreeAnchor": bag(2)},
    }
    return Exhibit(**{**content, **changes})  # type: ignore[arg-type]


def outlines(axes, colour: str) -> list[list[float]]:
    """The boxes of that colour on a panel, as xyxy."""
    return [
        [box.get_x(), box.get_y(), box.get_x() + box.get_width(), box.get_y() + box.get_height()]
        for box in axes.patches
        if isinstance(box, Rectangle) and to_hex(box.get_edgecolor()).upper() == colour
    ]


def texts(figure: Figure) -> list[str]:
    """All that is written outside the panels."""
    return [text.get_text() for text in figure.texts]


def test_photographs_show_each_detectors_boxes_and_the_object():
    """Correct boxes in one colour, others in another, the object in question beneath both; counts above."""
    figure = gallery_figure([make_exhibit()], "Title", "Subtitle")
    retinanet, freeanchor = figure.axes[:2]
    assert outlines(retinanet, CORRECT_COLOUR) == []
    assert outlines(retinanet, OTHER_COLOUR) == outlines(freeanchor, OTHER_COLOUR) == [[1, 2, 30, 40]]
    assert outlines(freeanchor, CORRECT_COLOUR) == [[22, 31, 78, 72]]
    assert GT_BOX.tolist() in outlines(retinanet, OBJECT_COLOUR)
    assert outlines(freeanchor, OBJECT_COLOUR) == [GT_BOX.tolist()]
    assert {"1 box, 0 correct", "2 boxes, 1 correct"} <= set(texts(figure))


def test_maps_show_the_whole_bag_opaque_by_weight_and_the_heaviest_anchor_thick():
    """Fifty anchors and once more the chosen one, under each detector; how many count stands above."""
    exhibit = make_exhibit()
    figure = gallery_figure([exhibit], "Title", "Subtitle")
    for axes, frame in zip(figure.axes[2:], exhibit.bags.values(), strict=True):
        corners = frame[["x1", "y1", "x2", "y2"]].to_numpy()
        chosen = chosen_anchor(frame)[["x1", "y1", "x2", "y2"]].to_numpy()
        np.testing.assert_allclose(outlines(axes, LEARNED_COLOUR.upper()), np.concatenate([corners, chosen]))
        boxes = [box for box in axes.patches if to_hex(box.get_edgecolor()).upper() == LEARNED_COLOUR]
        opacities = [box.get_alpha() for box in boxes[:50]]
        np.testing.assert_allclose(opacities, np.maximum(frame.weight / frame.weight.max(), 0.05))
        assert boxes[50].get_linewidth() > 2 * boxes[0].get_linewidth()
        assert outlines(axes, OBJECT_COLOUR) == [GT_BOX.tolist()]
        number = float(effective_anchors(frame.weight.to_numpy()))
        assert f"{number:.1f} of 50 anchors" in texts(figure)


def test_both_maps_have_one_window_around_object_and_chosen_anchors():
    """The same limits, inside the image, with everything that matters in them; square where there is room."""
    exhibit = make_exhibit()
    maps = gallery_figure([exhibit], "Title", "Subtitle").axes[2:]
    (left, right), (bottom, top) = maps[0].get_xlim(), maps[0].get_ylim()
    assert (maps[1].get_xlim(), maps[1].get_ylim()) == ((left, right), (bottom, top))
    inside = np.concatenate(
        [GT_BOX[None]] + [chosen_anchor(frame)[["x1", "y1", "x2", "y2"]].to_numpy() for frame in exhibit.bags.values()]
    ).reshape(-1, 2)
    inside = inside.clip(0, (160, 120))
    assert 0 <= left <= inside[:, 0].min() and inside[:, 0].max() <= right <= 160
    assert 0 <= top <= inside[:, 1].min() and inside[:, 1].max() <= bottom <= 120
    small = map_view({}, np.array([70.0, 50, 72, 80]), (120, 160, 3))
    assert small.width == pytest.approx(small.height)


@pytest.mark.parametrize("shape", [(120, 160, 3), (160, 60, 3), (40, 400, 3)])
def test_panels_of_a_row_are_equally_high_undistorted_and_apart(shape):
    """Whatever the image's shape, the panels of a row share their height and none leaves the sheet."""
    image = np.zeros(shape, dtype=np.uint8)
    box = np.array([5.0, 5.0, 30.0, 25.0])
    figure = gallery_figure([make_exhibit(image=image, gt_box=box, bags={})] * 2, "Title", "Subtitle")
    width, height = figure.get_size_inches()
    assert width == WIDTH
    for row in (figure.axes[:4], figure.axes[4:]):
        places = [axes.get_position() for axes in row]
        assert len({round(place.height, 9) for place in places}) == 1
        for axes, place in zip(row, places, strict=True):
            window = abs(np.diff(axes.get_xlim())[0] / np.diff(axes.get_ylim())[0])
            assert place.width * width / (place.height * height) == pytest.approx(window)
        assert all(a.x1 < b.x0 for a, b in pairwise(places))
        assert min(places[0].x0, places[0].y0) > 0 and max(places[-1].x1, places[0].y1) < 1


def test_texts_do_not_overlap_in_a_row_of_slender_images():
    """Captions keep apart where the panels under them are narrow."""
    exhibit = make_exhibit(image=np.zeros((400, 100, 3), dtype=np.uint8), bags={})
    figure = gallery_figure([exhibit], "Title", "Subtitle")
    figure.canvas.draw()
    extents = [text.get_window_extent() for text in figure.texts]
    for number, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[number + 1 :])
        assert one.x1 < figure.bbox.x1


def test_a_detector_without_model_has_a_map_of_the_object_alone():
    """No anchors, the object's outline, and words that say so."""
    for bags in ({"FreeAnchor": bag()}, {"RetinaNet": bag()[:0], "FreeAnchor": bag()}):
        figure = gallery_figure([make_exhibit(bags=bags)], "Title", "Subtitle")
        assert outlines(figure.axes[2], LEARNED_COLOUR) == []
        assert outlines(figure.axes[2], OBJECT_COLOUR) == [GT_BOX.tolist()]
        assert "no match map" in texts(figure)
        assert len(outlines(figure.axes[3], LEARNED_COLOUR)) == 51


def test_photographs_alone_stand_two_exhibits_a_row_with_what_is_missed():
    """Two panels each, no maps; a missed object is dashed; three exhibits take two rows."""
    figure = photographs_figure([make_exhibit(gt_box=None, bags={})] * 3, "Title", "Subtitle")
    assert len(figure.axes) == 6
    tops = [round(axes.get_position().y1, 6) for axes in figure.axes]
    assert len(set(tops[:4])) == 1 and tops[4] == tops[5] < tops[0]
    (dashed,) = [box for box in figure.axes[0].patches if to_hex(box.get_edgecolor()).upper() == OBJECT_COLOUR]
    assert dashed.get_linestyle() not in ("-", "solid")
    assert outlines(figure.axes[0], OBJECT_COLOUR) == [GT_BOX.tolist()]
    assert outlines(figure.axes[1], OBJECT_COLOUR) == []


def test_what_others_wrote_is_written_as_it_is():
    """Dollars and carets in names and addresses are letters, no formulas; a long credit takes more than one line."""
    credit = "Some licence, http://example.org/" + "x_$^y/" * 60
    figure = gallery_figure([make_exhibit(title="a $^ wand$", credit=credit)], "Title", "Subtitle")
    figure.canvas.draw()
    assert "a $^ wand$" in texts(figure)
    lines = [text for text in figure.texts if "x_$^y" in text.get_text()]
    assert len(lines) > 1 and all(line.get_window_extent().x1 < figure.bbox.x1 for line in lines)
    assert "".join(line.get_text() for line in lines) == credit


def test_a_message_is_a_small_figure_of_words():
    """The words, the title and what is below it; no panel with axes."""
    figure = message_figure("not run", "A $title", "counts")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["not run"]
    assert figure.get_suptitle() == "A $title" and axes.get_title(loc="left") == "counts"
    assert not axes.axison
    figure.canvas.draw()
