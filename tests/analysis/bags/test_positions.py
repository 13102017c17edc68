"""Where weight lies in objects' boxes: histograms against loops, and objects turned to their parts."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.match_frames import bag_columns, make_matches

from analysis.bags.arrays import BagArrays
from analysis.bags.summaries import (
    ALIGNED,
    NUM_BINS,
    POSITION_COLUMNS,
    REACH,
    align,
    object_groups,
    position_histograms,
)

# no place falls on the border of two bins: near square, slender, and one with its part (5 px from the corner) near the middle
OBJECTS = ((11, (20.3, 30.1, 81.7, 77.9)), (12, (90.3, 9.7, 110.7, 90.1)), (13, (40.3, 39.7, 54.1, 54.3)))
offsets = st.floats(-0.5, 0.5).map(lambda value: round(value, 3))


def make_bags(**columns) -> BagArrays:
    """Three bags of one image."""
    return BagArrays(**{**bag_columns(make_matches(3, steps=(10,), objects=OBJECTS)), **columns})


def loop_histogram(bags: BagArrays, members: list[int], matching: str) -> dict[tuple[int, int], float]:
    """Mass by bin (column, row), anchor by anchor."""
    width = (REACH[1] - REACH[0]) / NUM_BINS
    mass: dict[tuple[int, int], float] = defaultdict(float)
    shares = {
        "learned": lambda bag, anchor: bags.weight[bag, anchor],
        "likeliest": lambda bag, anchor: float(anchor == bags.weight[bag].argmax()),
        "iou": lambda bag, anchor: bags.assigned[bag, anchor] / bags.assigned[bag].sum(),
    }
    for bag in members:
        x1, y1, x2, y2 = bags.gt_boxes[bag]
        for anchor in range(bags.iou.shape[1]):
            ax1, ay1, ax2, ay2 = bags.boxes[bag, anchor]
            u, v = ((ax1 + ax2) / 2 - x1) / (x2 - x1), ((ay1 + ay2) / 2 - y1) / (y2 - y1)
            if share := shares[matching](bag, anchor) * (REACH[0] <= min(u, v) <= max(u, v) < REACH[1]):
                mass[int((u - REACH[0]) // width), int((v - REACH[0]) // width)] += share / len(members)
    return mass


def as_bins(frame) -> dict[tuple[int, int], float]:
    """A histogram's rows by bin (column, row)."""
    width = (REACH[1] - REACH[0]) / NUM_BINS
    return {
        (int((row.u - REACH[0]) // width), int((row.v - REACH[0]) // width)): row.mass for row in frame.itertuples()
    }


@pytest.mark.parametrize("matching", ["learned", "likeliest", "iou"])
def test_histograms_equal_loops(matching):
    """Every bin of the groups that need no turning holds what its anchors bring, and no other bin has a row."""
    bags = make_bags()
    frame = position_histograms(bags)
    assert tuple(frame.columns) == POSITION_COLUMNS
    for group, members in (("all", [0, 1, 2]), ("slender", [1]), ("square", [0, 2]), ("acentric", [0, 1])):
        own = frame[(frame.group == group) & (frame.matching == matching)]
        assert as_bins(own) == pytest.approx(loop_histogram(bags, members, matching))


def test_masses_add_up_to_one():
    """Over a group and matching, where nothing lies beyond the histogram's reach."""
    bags = make_bags()
    frame = position_histograms(make_bags(boxes=np.repeat(bags.gt_boxes[:, None], 50, axis=1)))
    np.testing.assert_allclose(frame.groupby(["group", "matching"]).mass.sum(), 1)
    assert len(frame) < 40  # all anchors in the box's middle


def test_groups_by_box_and_part():
    """Slender from 3:1, square up to 4:3, acentric where the part lies a quarter of the diagonal off the centre."""
    groups = {name: members.tolist() for name, members in object_groups(make_bags()).items()}
    assert groups["all"] == [True, True, True]
    assert groups["slender"] == [False, True, False]
    assert groups["square"] == [True, False, True]
    assert groups["acentric"] == groups[ALIGNED] == [True, True, False]


def test_unknown_parts_and_unassigned_objects_have_no_mass():
    """Without parts there is no acentric group; an object that IoU assigns no anchor leaves "iou" to the others."""
    frame = position_histograms(make_bags(parts=np.full((3, 2), np.nan), assigned=np.eye(3, 50, dtype=bool)[[0, 1, 1]]))
    assert set(frame.group) == {"all", "slender", "square"}
    assert "part" not in set(frame.matching)
    none = make_bags(assigned=np.zeros((3, 50), dtype=bool))
    assert "iou" not in set(position_histograms(none).matching)


def test_flat_objects_have_no_place():
    """An object without extent is in no group."""
    bags = make_bags(gt_boxes=np.full((3, 4), 7.0))
    assert position_histograms(bags).empty


@given(offsets, offsets, offsets, offsets)
def test_turned_parts_lie_to_the_upper_right(part_u, part_v, u, v):
    """At least as far right as up, and never left or down; distances in the box stay as they are."""
    part, place = np.array([[0.5 + part_u, 0.5 + part_v]]), np.array([[[0.5 + u, 0.5 + v]]])
    turned = align(part[:, None], part)[0, 0] - 0.5
    assert turned[0] >= -turned[1] >= 0
    turned_place = align(place, part)[0, 0] - 0.5
    assert np.hypot(*turned_place) == pytest.approx(np.hypot(u, v))
    assert np.hypot(*(turned_place - turned)) == pytest.approx(np.hypot(u - part_u, v - part_v), abs=1e-12)


@pytest.mark.parametrize(
    ("part", "expected"),
    [((0.9, 0.4), (0.7, 0.9)), ((0.1, 0.4), (0.3, 0.9)), ((0.9, 0.6), (0.7, 0.1)), ((0.4, 0.1), (0.1, 0.7))],
)
def test_turning_by_hand(part, expected):
    """As it is, mirrored left to right, mirrored upside down, and an upright object laid on its side."""
    place = np.array([[[0.7, 0.9]]])
    np.testing.assert_allclose(align(place, np.array([part]))[0, 0], expected, atol=1e-12)
