"""Bags read apart: against loops, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracles import bags as oracle
from oracles.match_frames import make_matches

from analysis.bags.matches import (
    MatchesError,
    anchors_of_ratio,
    bag_entropy,
    chosen_anchor,
    effective_anchors,
    part_distance,
    preferred_by_iou,
    summarize_bags,
)

TWO_OBJECTS = ((11, (20.0, 30.0, 80.0, 70.0)), (12, (90.0, 10.0, 110.0, 90.0)))


@st.composite
def bag_weights(draw):
    """Shares of 1 to 3 bags of 1 to 20 anchors, some exactly 0."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    raw = draw(arrays(np.float64, shape, elements=st.floats(0, 1).filter(lambda x: x == 0 or x > 1e-6)))
    raw[:, 0] += 0.5
    return raw / raw.sum(axis=1, keepdims=True)


@given(bag_weights())
def test_entropy_and_effective_anchors_equal_loops(weights):
    """Both numbers equal the plain sums, bag by bag."""
    np.testing.assert_allclose(bag_entropy(weights), [oracle.entropy(row) for row in weights], atol=1e-12)
    np.testing.assert_allclose(effective_anchors(weights), [oracle.effective(row) for row in weights])


@given(bag_weights())
def test_effective_anchors_lie_between_one_and_the_bag_size(weights):
    """No bag uses fewer than one anchor or more than it has, and more effective anchors need at least some entropy."""
    numbers = effective_anchors(weights)
    assert np.all(numbers >= 1 - 1e-9) and np.all(numbers <= weights.shape[1] + 1e-9)
    # Renyi entropies fall with their order: log of the effective number is at most Shannon's
    assert np.all(np.log(numbers) <= bag_entropy(weights) + 1e-9)


def test_a_uniform_bag_and_a_decided_bag():
    """Equal weights give log n and n, a single one gives 0 (not -0) and 1."""
    assert bag_entropy(np.full(50, 0.02)) == pytest.approx(math.log(50))
    assert effective_anchors(np.full(50, 0.02)) == pytest.approx(50)
    decided = np.eye(4)[2]
    assert str(float(bag_entropy(decided))) == "0.0" and effective_anchors(decided) == 1


@pytest.mark.parametrize("weights", [np.array([0.5, 0.4]), np.array([1.5, -0.5]), np.array([[1.0, 0.0], [1.0, 1.0]])])
def test_weights_that_are_no_shares_are_refused(weights):
    """Weights that are negative or do not sum to 1 raise one clear line."""
    with pytest.raises(MatchesError, match="shares that sum to 1"):
        bag_entropy(weights)


@pytest.mark.parametrize("seed", range(3))
def test_bags_equal_loops(seed):
    """Chosen and preferred anchors, distances and summaries of every bag equal the loops, whatever the rows' order."""
    matches = make_matches(seed, objects=TWO_OBJECTS).sample(frac=1, random_state=seed, ignore_index=True)
    bags = oracle.group_bags(matches.to_dict("records"))
    expected = [oracle.chosen(bag) for bag in bags.values()]
    assert chosen_anchor(matches).to_dict("records") == expected
    preferred = [oracle.nearest_by_iou(bag) for bag in bags.values()]
    assert preferred_by_iou(matches).to_dict("records") == preferred
    distances = part_distance(matches)
    for matching, rows in (("learned", expected), ("iou", preferred)):
        own = distances[distances.matching == matching]
        np.testing.assert_allclose(own[["to_part", "to_centre"]], [oracle.distances(row) for row in rows])
    summary = summarize_bags(matches)
    for row, bag in zip(summary.itertuples(), bags.values(), strict=True):
        weights = [anchor["weight"] for anchor in bag]
        assert row.entropy == pytest.approx(oracle.entropy(weights))
        assert row.effective_anchors == pytest.approx(oracle.effective(weights))
        assert row.num_assigned == sum(anchor["assigned"] for anchor in bag)
        assert row.mean_max == pytest.approx(1 - len(bag) / sum(1 / (1 - anchor["confidence"]) for anchor in bag))


def test_tied_weights_choose_the_anchor_of_highest_iou():
    """Before training all anchors weigh alike, and the chosen one is that of rank 0."""
    matches = make_matches(steps=(0,)).assign(weight=1 / 50).sample(frac=1, random_state=1)
    assert chosen_anchor(matches)["rank"].tolist() == [0]


def test_unknown_parts_and_flat_objects_have_no_distance():
    """An unknown part leaves to_part nan alone; an object without extent leaves both nan."""
    unknown = part_distance(make_matches().assign(part_x=np.nan, part_y=np.nan))
    assert unknown.to_part.isna().all() and unknown.to_centre.notna().all()
    flat = part_distance(make_matches(objects=((1, (40.0, 40.0, 40.0, 40.0)),)))
    assert flat.to_part.isna().all() and flat.to_centre.isna().all()


def test_anchors_of_a_ratio_are_the_best_of_it():
    """In every bag the anchors of the ratio of lowest rank are kept, and nothing else; a bag without any gives none."""
    matches = make_matches(objects=TWO_OBJECTS)
    for bag in oracle.group_bags(anchors_of_ratio(matches, 1.0, 16).to_dict("records")).values():
        assert [row["rank"] for row in bag] == [rank for rank in range(50) if rank % 3 == 1][:16]
        assert {row["ratio"] for row in bag} == {1.0}
    assert len(anchors_of_ratio(matches, 2.0, 5)) == 5 * 4
    slender = make_matches(ratios=(0.5,))
    none = anchors_of_ratio(slender, 1.0, 16)
    assert none.empty and list(none) == list(slender)


def test_bad_frames_and_counts_are_refused():
    """A missing column and a count of 0 raise one clear line each."""
    with pytest.raises(MatchesError, match="lacks weight"):
        chosen_anchor(make_matches().drop(columns="weight"))
    with pytest.raises(MatchesError, match="count must be at least 1"):
        anchors_of_ratio(make_matches(), 1.0, 0)
