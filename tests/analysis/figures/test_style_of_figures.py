"""Looks of detectors, and figures of more than the paper's two."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.figures.bags import bag_boxes_figure, bag_concentration_figure, part_distance_figure
from analysis.figures.breakdowns import candidates_figure, figure5, figure6
from analysis.figures.curves import learning_curves, training_curves
from analysis.figures.gallery import Exhibit, ShownDetections, photographs_figure
from analysis.figures.style import GAIN, Look, compared_in, detectors_in, one_detector, palette, side_by_side

REPORT = Path(__file__).parents[3] / "reports" / "shapes"
FIGURES = {
    "figure5": figure5,
    "figure6": figure6,
    "candidates": candidates_figure,
    "bag_boxes": bag_boxes_figure,
    "concentration": bag_concentration_figure,
    "part_distance": part_distance_figure,
    "convergence": learning_curves,
    "training": training_curves,
}


def test_the_papers_detectors_keep_their_looks_and_others_differ():
    """Two fixed looks, whatever stands beside them; 25 names that nobody knows have looks of their own."""
    paper = {"RetinaNet": Look("#6F8FB3", "o"), "FreeAnchor": Look("#D4481C", "D")}
    assert palette(paper) == paper
    looks = palette([*map(str, range(25)), "TAL", "ATSS", *paper, "SimOTA"])
    assert len(set(looks.values())) == 30 and paper.items() <= looks.items()
    assert palette(["ATSS"])["ATSS"] == looks["ATSS"]


def test_detectors_have_an_order():
    """Those known first, then as the frame has them; the gain is none; the paper's stand where no two others do."""
    frame = pd.DataFrame({"detector": ["mine", GAIN, "ATSS", "FreeAnchor", "mine", np.nan]})
    assert detectors_in(frame) == ["FreeAnchor", "ATSS", "mine"]
    assert compared_in(frame) == ["FreeAnchor", "ATSS", "mine"]
    assert compared_in(frame[frame.detector == "ATSS"]) == ["RetinaNet", "FreeAnchor", "ATSS"]
    assert compared_in(frame[frame.detector == GAIN]) == ["RetinaNet", "FreeAnchor"]
    assert set(one_detector(frame).detector) == {"FreeAnchor"}
    assert set(one_detector(frame[frame.detector != "FreeAnchor"]).detector) == {"ATSS"}
    assert [shift for *_, shift in side_by_side(compared_in(frame), 2.0)] == [-2, 0, 2]


def drawn_colours(figure: Figure) -> set[str]:
    """Of all lines, bars and dots."""
    colours = {line.get_color() for axes in figure.axes for line in axes.lines}
    colours |= {patch.get_facecolor() for axes in figure.axes for patch in axes.patches}
    return {to_hex(colour) for colour in colours}


@pytest.mark.parametrize("name", FIGURES)
def test_a_third_and_a_fourth_detector_are_drawn(name):
    """In colours of their own, named in the legend or a title, beside the paper's two."""
    frame = pd.read_csv(REPORT / f"{name}.csv")
    more = [frame[frame.detector == "RetinaNet"].assign(detector=detector) for detector in ("mine", "ATSS")]
    figure = FIGURES[name](pd.concat([*more, frame]))
    looks = palette(["RetinaNet", "FreeAnchor", "ATSS", "mine"])
    assert {look.colour.lower() for look in looks.values()} <= drawn_colours(figure)
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    words = " ".join(text.get_text() for legend in legends for text in legend.get_texts())
    assert [words.find(detector) for detector in looks] == sorted(words.find(detector) for detector in looks)
    assert all(detector in words for detector in looks)
    figure.canvas.draw()


def test_a_gallery_has_a_panel_per_detector():
    """In the exhibit's order, each heading in its detector's colour."""
    none = ShownDetections(boxes=np.empty((0, 4)), is_correct=np.empty(0, dtype=bool))
    names = ("RetinaNet", "FreeAnchor", "ATSS")
    image = np.zeros((30, 40, 3), dtype=np.uint8)
    exhibit = Exhibit(image=image, title="a", subtitle="b", credit="c", shown=dict.fromkeys(names, none))
    figure = photographs_figure([exhibit], "Title", "Subtitle")
    assert len(figure.axes) == 3
    headings = {text.get_text(): text.get_color() for text in figure.texts if text.get_text() in names}
    assert headings == {name: look.colour for name, look in palette(names).items()}
