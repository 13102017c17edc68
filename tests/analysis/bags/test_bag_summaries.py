"""Rows of bags summed up: quartiles, distances with intervals, and what learned matching changes, against loops."""

import numpy as np
import pandas as pd
import pytest

from analysis.bags.summaries import (
    CONCENTRATION_COLUMNS,
    CONCENTRATION_METRICS,
    DISTANCE_COLUMNS,
    concentration_frame,
    matching_freed,
    object_mean,
    part_distance_frame,
)
from analysis.evaluation.statistics import bootstrap


def make_table(seed=0, num_objects=60) -> pd.DataFrame:
    """Rows of two detectors at two steps about the same objects, a third of which has its part in the middle."""
    rng = np.random.default_rng(seed)
    objects = pd.DataFrame(
        {
            "image_id": rng.integers(1, 13, num_objects),
            "annotation_id": np.arange(num_objects),
            "aspect_ratio": rng.choice([1.0, 1.2, 2.0, 4.0], num_objects),
            "part_offset": rng.choice([0.1, 0.3, 0.4], num_objects),
            "iou_to_part": rng.uniform(0.2, 0.5, num_objects),
            "iou_to_centre": rng.uniform(0, 0.1, num_objects),
        }
    )
    objects["num_objects"] = objects.groupby("image_id").annotation_id.transform("size")
    frames = []
    for detector in ("RetinaNet", "FreeAnchor"):
        for step in (10, 100):
            numbers = {
                name: rng.uniform(low, high, num_objects)
                for name, low, high in (
                    ("entropy", 0, 3.9), ("effective_anchors", 1, 50), ("mean_max", 0, 0.5), ("max_confidence", 0.5, 1),
                    ("to_part", 0.1, 0.5), ("to_centre", 0, 0.3),
                )
            }  # fmt: skip
            frames.append(objects.assign(run=detector, detector=detector, step=step, num_steps=100, **numbers))
    return pd.concat(frames, ignore_index=True)


def test_concentration_is_the_quartiles_over_objects():
    """A row each detector, step, group and metric; the middle ones of a box's shape are in the first group alone."""
    bags = make_table()
    frame = concentration_frame(bags)
    assert tuple(frame.columns) == CONCENTRATION_COLUMNS
    assert len(frame) == 2 * 2 * 3 * len(CONCENTRATION_METRICS)
    for row in frame.itertuples():
        own = bags[(bags.detector == row.detector) & (bags.step == row.step)]
        members = {"all": own, "slender": own[own.aspect_ratio >= 3], "square": own[own.aspect_ratio <= 4 / 3]}
        values = sorted(members[row.group][row.metric])
        assert row.num_objects == len(values)
        for share, found in ((0.25, row.low), (0.5, row.value), (0.75, row.high)):
            whole, rest = divmod(share * (len(values) - 1), 1)  # between neighbours along a line
            below, above = values[int(whole)], values[min(int(whole) + 1, len(values) - 1)]
            assert found == pytest.approx(below + rest * (above - below))


def test_crowdedness_halves_the_objects():
    """Two groups that hold every object, named for the numbers of objects in an image."""
    bags = make_table()
    frame = concentration_frame(bags, "crowdedness")
    counts = frame.drop_duplicates("group").set_index("group").num_objects
    few, many = counts.index
    limit = int(few.removeprefix("objects_1_"))
    assert many == f"objects_{limit + 1}_plus"
    one = bags[(bags.detector == "FreeAnchor") & (bags.step == 10)]
    assert counts[few] == int((one.num_objects <= limit).sum())
    assert counts.sum() == len(one)
    assert counts[few] >= len(one) / 2


def test_seeds_are_summed_up_together():
    """Two runs of a detector give twice the bags, and objects are counted once."""
    bags = make_table()
    twice = pd.concat([bags, bags.assign(run=bags.run + "-s1")])
    pd.testing.assert_frame_equal(concentration_frame(twice).round(9).drop(columns=["low", "high"]),
                                  concentration_frame(bags).round(9).drop(columns=["low", "high"]))  # fmt: skip
    distances = part_distance_frame(twice, np.random.default_rng(0), 50)
    assert (
        distances.num_objects.tolist() == part_distance_frame(bags, np.random.default_rng(0), 50).num_objects.tolist()
    )


def test_distances_are_means_over_objects_with_their_part_off_centre():
    """Learned and by IoU, to part and centre; the interval holds the mean, and comes from the generator alone."""
    bags = make_table()
    frame = part_distance_frame(bags, np.random.default_rng(0), 200)
    assert tuple(frame.columns) == DISTANCE_COLUMNS
    assert len(frame) == 2 * 2 * 2 * 2
    for row in frame.itertuples():
        own = bags[(bags.detector == row.detector) & (bags.step == row.step) & (bags.part_offset > 0.25)]
        column = ("" if row.matching == "learned" else "iou_") + f"to_{row.target}"
        assert row.value == pytest.approx(sum(own[column]) / len(own))
        assert row.low < row.value < row.high
        assert (row.num_objects, row.num_images) == (len(own), own.image_id.nunique())
    pd.testing.assert_frame_equal(frame, part_distance_frame(bags, np.random.default_rng(0), 200))
    assert not frame.equals(part_distance_frame(bags, np.random.default_rng(1), 200))


def test_no_part_off_centre_gives_no_rows():
    """Photographs record no parts: nan is not off the centre."""
    bags = make_table().assign(part_offset=np.nan)
    assert part_distance_frame(bags, np.random.default_rng(0)).empty
    assert concentration_frame(bags[:0], "crowdedness").empty


def test_matching_freed_is_the_difference_object_by_object():
    """Positive where the learned match lies nearer to the part, and farther from the centre, than IoU's."""
    bags = make_table()
    last = bags[(bags.detector == "FreeAnchor") & (bags.step == 100)]
    freed = matching_freed(last).set_index("annotation_id")
    own = last[last.part_offset > 0.25]
    assert freed.index.tolist() == own.annotation_id.tolist()
    for row in own.itertuples():
        assert freed.nearer_to_part[row.annotation_id] == pytest.approx(row.iou_to_part - row.to_part)
        assert freed.farther_from_centre[row.annotation_id] == pytest.approx(row.to_centre - row.iou_to_centre)
        assert freed.image_id[row.annotation_id] == row.image_id


@pytest.mark.parametrize("both", ["detector", "step"])
def test_matching_freed_refuses_what_is_no_one_stage(both):
    """Two detectors, or two steps, do not go into one mean."""
    bags = make_table()
    other = {"detector": "step", "step": "detector"}[both]
    with pytest.raises(ValueError, match="one detector at one step, got 2"):
        matching_freed(bags[bags[other] == bags[other].iloc[0]])


def test_the_mean_over_objects_follows_its_images_weights():
    """An image drawn twice brings all its objects twice; no image with objects gives nan."""
    objects = pd.DataFrame({"image_id": [4, 4, 9], "value": [1.0, 2.0, 6.0]})
    mean, num_images = object_mean(objects, "value")
    weights = np.array([[1.0, 1.0], [2.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(mean(weights), [3.0, 12 / 5, 6.0, np.nan])
    assert num_images == 2
    interval = bootstrap(mean, num_images=2, generator=np.random.default_rng(0), num_resamples=100)
    assert (interval.value, interval.low, interval.high) == (3.0, 1.5, 6.0)
