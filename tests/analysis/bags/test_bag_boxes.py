"""Boxes and scores by rank in the bag: means against counting by hand, and what is drawn of them."""

import numpy as np
import pandas as pd
import pytest

from analysis.bags.arrays import BEST_BOX, HIGHEST_SCORE, MEAN_COLUMNS, QUANTITIES, REGRET, BagBoxes, image_means
from analysis.figures.bags import bag_boxes_figure

ANCHOR_IOU = np.array([[0.6, 0.5, 0.4], [0.8, 0.3, 0.2]])
BOX_IOU = np.array([[0.7, 0.9, 0.5], [0.6, 0.4, 0.5]])
SCORE = np.array([[0.1, 0.2, 0.9], [0.3, 0.8, 0.1]])


def _frame() -> pd.DataFrame:
    """Two images: the bags above, then one object whose grid has but two anchors."""
    first = image_means(ANCHOR_IOU, BOX_IOU, SCORE).assign(image_id=4)
    second = image_means(np.array([[0.9, 0.1]]), np.array([[0.3, 0.2]]), np.array([[0.5, 0.5]])).assign(image_id=9)
    return pd.concat([first, second], ignore_index=True)


def test_means_are_over_the_objects_of_a_image() -> None:
    """By rank; the anchor of highest score is the third and the second, that of the best box the second and the first."""
    means = image_means(ANCHOR_IOU, BOX_IOU, SCORE)
    assert tuple(means.columns) == MEAN_COLUMNS and (means["num_objects"] == 2).all()
    rows = means.set_index("anchor")[list(QUANTITIES)]
    assert rows.index.tolist() == ["1", "2", "3", HIGHEST_SCORE, BEST_BOX]
    assert rows.loc["1"].tolist() == pytest.approx([0.7, 0.65, 0.2])
    assert rows.loc["3"].tolist() == pytest.approx([0.3, 0.5, 0.5])
    assert rows.loc[HIGHEST_SCORE].tolist() == pytest.approx([0.35, 0.45, 0.85])
    assert rows.loc[BEST_BOX].tolist() == pytest.approx([0.65, 0.75, 0.25])


def test_a_image_without_objects_gives_no_row() -> None:
    """With the columns in their place."""
    nothing = np.zeros((0, 3))
    assert image_means(nothing, nothing, nothing).empty
    assert tuple(image_means(nothing, nothing, nothing).columns) == MEAN_COLUMNS


def test_values_weigh_every_object_alike() -> None:
    """Images count by their objects and as often as they are drawn; an anchor that no drawn bag has is nan."""
    boxes = BagBoxes.of(_frame())
    assert boxes.anchors == ("1", "2", "3", HIGHEST_SCORE, BEST_BOX)
    weights = np.array([[1.0, 1], [0, 1], [1, 3], [0, 0]])
    values = boxes.values(weights)
    assert values.shape == (4, 6, 3) and boxes.names[-1] == REGRET
    assert values[0, 0] == pytest.approx([(0.6 + 0.8 + 0.9) / 3, (0.7 + 0.6 + 0.3) / 3, (0.1 + 0.3 + 0.5) / 3])
    assert values[0, 2] == pytest.approx([0.3, 0.5, 0.5])
    assert values[1, 0] == pytest.approx([0.9, 0.3, 0.5]) and np.isnan(values[1, 2]).all()
    assert values[2, 0, 1] == pytest.approx((0.7 + 0.6 + 3 * 0.3) / 5)
    assert values[1, 3] == pytest.approx([0.9, 0.3, 0.5])  # of equal scores the first
    assert values[0, 5, 1] == pytest.approx((2 * 0.75 + 0.3) / 3 - (2 * 0.45 + 0.3) / 3)  # best box less highest score
    assert np.isnan(values[3]).all()


def test_a_mean_that_is_nan_stays_so() -> None:
    """A bag that lacks an anchor weighs nothing; one whose IoU is nan does not count as 0."""
    frame = _frame()
    frame.loc[(frame["image_id"] == 4) & (frame["anchor"] == "2"), "box_iou"] = np.nan
    values = BagBoxes.of(frame).values(np.ones((1, 2)))
    assert np.isnan(values[0, 1, 1]) and values[0, 2, 1] == pytest.approx(0.5)


def test_anchors_can_be_named() -> None:
    """Those alone, in the order given."""
    boxes = BagBoxes.of(_frame(), [BEST_BOX, "1", HIGHEST_SCORE])
    assert boxes.anchors == (BEST_BOX, "1", HIGHEST_SCORE)
    assert boxes.values(np.ones((1, 2)))[0, 1, 0] == pytest.approx(2.3 / 3)


def _measured() -> pd.DataFrame:
    """As a report has it: two detectors and the gain, twelve ranks out of order as text sorts them."""
    rows = []
    for detector, shift in (("RetinaNet", 0.0), ("FreeAnchor", 0.1), ("gain", 0.5)):
        for anchor in [*sorted(map(str, range(1, 13))), HIGHEST_SCORE, BEST_BOX]:
            base = 0.5 - 0.02 * int(anchor) if anchor.isdigit() else 0.7
            rows += [(detector, anchor, quantity, base + shift * (quantity != "anchor_iou")) for quantity in QUANTITIES]
    frame = pd.DataFrame(rows, columns=["detector", "anchor", "quantity", "value"])
    return frame.assign(low=frame["value"] - 0.03, high=frame["value"] + 0.05)


def test_the_figure_draws_ranks_by_number_and_the_anchors_picked() -> None:
    """Two lines by rising rank and the anchors' own; a point a detector for each of three anchors, with its interval."""
    boxes, scores, picked = bag_boxes_figure(_measured()).axes
    expected = 0.5 - 0.02 * np.arange(1, 13)
    for axes, labels in (
        (boxes, ["RetinaNet", "FreeAnchor", "the anchor itself"]),
        (scores, ["RetinaNet", "FreeAnchor"]),
    ):
        assert [line.get_label() for line in axes.lines] == labels
        assert axes.lines[0].get_xdata() == pytest.approx(np.arange(1, 13))
        assert axes.lines[1].get_ydata() == pytest.approx(expected + 0.1)
    assert boxes.lines[2].get_ydata() == pytest.approx(expected)
    points = [container.lines[0].get_ydata() for container in picked.containers]
    assert points[0] == pytest.approx([0.48, 0.7, 0.7]) and points[1] == pytest.approx([0.58, 0.8, 0.8])
    (bars,) = picked.containers[0].lines[2]
    assert bars.get_segments()[0][:, 1] == pytest.approx([0.45, 0.53])


def test_the_figure_says_not_run() -> None:
    """In every panel, where nothing was measured."""
    figure = bag_boxes_figure(_measured()[:0])
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["not run"] * 3
