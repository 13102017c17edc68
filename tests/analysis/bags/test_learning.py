"""Learning anchors: means over an object's shares, groups, what two methods have in common."""

import numpy as np
import pandas as pd
import pytest

from analysis.bags.learning import Learning, groups_of, learning_frame, learning_table, overlap


def _learning() -> Learning:
    """Three objects: one of two equal anchors, one of a soft pair, one that nothing learns."""
    return Learning(
        image_id=np.array([1, 1, 2]),
        annotation_id=np.array([10, 11, 20]),
        category=np.array(["a", "b", "a"], dtype=object),
        num_objects=np.array([2, 2, 1]),
        gt_boxes=np.array([[0.0, 0, 30, 40], [0, 0, 60, 10], [5, 5, 9, 9]]),
        parts=np.array([[15.0, 20], [55, 5], [np.nan, np.nan]]),
        objects=np.array([0, 0, 1, 1]),
        anchors=np.array([4, 7, 7, 9]),
        share=np.array([0.5, 0.5, 0.9, 0.1]),
        centres=np.array([[15.0, 20], [15, 45], [30, 5], [55, 5]]),
        iou=np.array([0.8, 0.4, 0.5, 0.1]),
        box_iou=np.array([0.9, 0.7, 0.6, 0.2]),
        cls_prob=np.array([0.3, 0.1, 0.2, 0.7]),
    )


def test_a_row_per_object_weighs_by_share() -> None:
    """Effective anchors, means and distances in diagonals; nan where nothing learns the object."""
    table = learning_table(_learning()).set_index("annotation_id")
    assert table["num_learning"].tolist() == [2, 2, 0]
    np.testing.assert_allclose(table["effective_anchors"], [2, 1 / (0.81 + 0.01), 0])
    np.testing.assert_allclose(table["iou"], [0.6, 0.46, np.nan])
    np.testing.assert_allclose(table["to_centre"], [0.5 * 25 / 50, 0.1 * 25 / np.hypot(60, 10), np.nan])
    np.testing.assert_allclose(table["to_part"], [0.25, 0.9 * 25 / np.hypot(60, 10), np.nan])
    np.testing.assert_allclose(table["diagonal"], [50, np.hypot(60, 10), np.hypot(4, 4)])


def test_groups_are_of_box_image_and_part() -> None:
    """Slender by 3:1, crowded from 13 objects, acentric by the part's distance from the centre."""
    table = learning_table(_learning()).assign(num_objects=[12, 13, 1])
    groups = {name: members.tolist() for name, members in groups_of(table).items()}
    assert groups["slender"] == [False, True, False]
    assert groups["square"] == [True, False, True]
    assert groups["crowded"] == [False, True, False]
    assert groups["acentric"] == [False, True, False]


def test_means_over_objects_leave_out_what_nothing_learns() -> None:
    """But that share of objects is told; each detector and step has its own rows."""
    table = learning_table(_learning()).assign(detector="ATSS", step=5, num_steps=10)
    frame = learning_frame(pd.concat([table, table.assign(step=10)], ignore_index=True))
    rows = frame[(frame["step"] == 5) & (frame["group"] == "all")].set_index("metric")
    assert rows.loc["iou", "value"] == pytest.approx(0.53) and rows.loc["iou", "num_objects"] == 2
    assert rows.loc["unlearned", "value"] == pytest.approx(1 / 3)
    assert ((frame["low"] <= frame["value"]) & (frame["value"] <= frame["high"])).all()
    assert set(frame["step"]) == {5, 10}
    seeds = learning_frame(pd.concat([table, table], ignore_index=True)).set_index(["group", "metric"])
    assert seeds.loc[("all", "iou"), "num_objects"] == 2  # each counts once, however many seeds


def test_in_common_is_the_lesser_share_of_each_anchor() -> None:
    """1 for the same, the share of anchors in common for equal shares, 0 where one method has no anchor there."""

    def shares(*rows: tuple[int, int, float]) -> pd.DataFrame:
        return pd.DataFrame(rows, columns=["annotation_id", "anchor", "share"])

    one = shares((1, 4, 0.5), (1, 5, 0.5), (2, 4, 1.0), (3, 8, 1.0))
    other = shares((1, 5, 0.5), (1, 6, 0.5), (2, 4, 0.25), (2, 5, 0.75), (4, 1, 1.0))
    common = overlap(one, other)
    assert common.to_dict() == pytest.approx({1: 0.5, 2: 0.25, 3: 0.0, 4: 0.0})
    assert overlap(one, one).to_dict() == pytest.approx({1: 1.0, 2: 1.0, 3: 1.0})
    rounded = shares(*((1, anchor, 0.33334) for anchor in range(3)))
    assert overlap(rounded, rounded)[1] == 1.0
