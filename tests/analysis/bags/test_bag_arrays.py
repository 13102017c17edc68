"""Bags as arrays: the same numbers as loops over their anchors, and fills that change nothing."""

import math

import numpy as np
import pytest
from oracles import bags as oracle
from oracles.match_frames import bag_columns, make_matches

from analysis.bags.arrays import BAG_TABLE_COLUMNS, BagArrays, bag_table, concatenate_bags, in_object

OBJECTS = ((11, (20.0, 30.0, 80.0, 70.0)), (12, (90.0, 10.0, 110.0, 90.0)), (13, (5.0, 5.0, 25.0, 25.0)))


def make_bags(seed=0, **changes) -> BagArrays:
    """Three bags of one image at one step."""
    return BagArrays(**bag_columns(make_matches(seed, steps=(10,), objects=OBJECTS, **changes)))


@pytest.mark.parametrize("seed", range(3))
def test_a_row_a_bag_equals_loops(seed):
    """Entropy, chosen anchor, distances and place of every bag are those of plain loops over its anchors."""
    matches = make_matches(seed, steps=(10,), objects=OBJECTS)
    table = bag_table(make_bags(seed))
    assert tuple(table.columns) == BAG_TABLE_COLUMNS
    bags = oracle.group_bags(matches.to_dict("records")).values()
    for row, bag in zip(table.itertuples(), bags, strict=True):
        weights = [anchor["weight"] for anchor in bag]
        chosen, preferred = oracle.chosen(bag), oracle.nearest_by_iou(bag)
        assert (row.annotation_id, row.num_anchors) == (chosen["annotation_id"], len(bag))
        assert row.num_assigned == sum(anchor["assigned"] for anchor in bag)
        assert row.entropy == pytest.approx(oracle.entropy(weights))
        assert row.effective_anchors == pytest.approx(oracle.effective(weights))
        assert row.mean_max == pytest.approx(sum(anchor["weight"] * anchor["confidence"] for anchor in bag))
        assert row.max_confidence == max(anchor["confidence"] for anchor in bag)
        assert (row.level, row.chosen_rank, row.chosen_iou) == (chosen["level"], chosen["rank"], chosen["iou"])
        assert row.best_iou == preferred["iou"]
        assert (row.to_part, row.to_centre) == pytest.approx(oracle.distances(chosen))
        assert (row.iou_to_part, row.iou_to_centre) == pytest.approx(oracle.distances(preferred))
        width, height = chosen["gt_x2"] - chosen["gt_x1"], chosen["gt_y2"] - chosen["gt_y1"]
        assert row.aspect_ratio == pytest.approx(max(width / height, height / width))
        assert row.u == pytest.approx(((chosen["x1"] + chosen["x2"]) / 2 - chosen["gt_x1"]) / width)
        assert row.v == pytest.approx(((chosen["y1"] + chosen["y2"]) / 2 - chosen["gt_y1"]) / height)
        part = math.hypot(width / 2 - 5, height / 2 - 5) / math.hypot(width, height)  # 5 px from the upper left corner
        assert row.part_offset == pytest.approx(part)


def test_tied_weights_choose_the_anchor_of_highest_iou():
    """Before training all anchors weigh alike, and the chosen one is that of rank 0."""
    columns = bag_columns(make_matches(steps=(0,)))
    table = bag_table(BagArrays(**{**columns, "weight": np.full((1, 50), 0.02)}))
    assert table.chosen_rank.tolist() == [0]
    assert table.to_part.tolist() == table.iou_to_part.tolist()


def test_bags_of_several_sizes_are_filled_up_without_changing_a_number():
    """A bag of 20 anchors beside one of 50 has the same row as alone."""
    small, large = make_bags(1, bag_size=20), make_bags(2)
    together = concatenate_bags([small, large])
    assert together.weight.shape == (6, 50)
    table = bag_table(together)
    np.testing.assert_array_equal(table.num_anchors, [20] * 3 + [50] * 3)
    for own, alone in ((table[:3], bag_table(small)), (table[3:], bag_table(large))):
        numbers = alone.columns.drop("category")
        np.testing.assert_allclose(own[numbers].to_numpy(float), alone[numbers].to_numpy(float))


def test_unknown_parts_and_flat_objects_have_no_distance():
    """An unknown part leaves its distances nan alone; an object without extent leaves all nan, and its place."""
    unknown = bag_table(BagArrays(**{**bag_columns(make_matches()), "parts": np.full((2, 2), np.nan)}))
    assert unknown[["to_part", "iou_to_part", "part_offset"]].isna().all(axis=None)
    assert unknown[["to_centre", "iou_to_centre"]].notna().all(axis=None)
    flat = bag_table(BagArrays(**bag_columns(make_matches(objects=((1, (40.0, 40.0, 40.0, 40.0)),)))))
    assert flat[["to_part", "to_centre", "u", "v"]].isna().all(axis=None)


def test_places_in_the_object():
    """The corners of the box are 0 and 1, its middle is a half."""
    bags = make_bags()
    np.testing.assert_allclose(in_object(bags.gt_boxes[:, :2], bags), 0)
    np.testing.assert_allclose(in_object(bags.gt_boxes[:, None, 2:], bags), 1)
    np.testing.assert_allclose(in_object((bags.gt_boxes[:, :2] + bags.gt_boxes[:, 2:]) / 2, bags), 0.5)


def test_no_bags_cannot_be_concatenated():
    """There is no telling of how many anchors they would be."""
    with pytest.raises(ValueError, match="at least one array"):
        concatenate_bags([])
