"""Slenderness and crowdedness: against loops, against pycocotools on the images of a bin, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_metrics import subset_ap
from oracles.detection_sets import detection_sets, only_images
from world_columns import found, objects

from analysis.coco.columns import Detections, GroundTruth
from analysis.coco.record import coco_statistics
from analysis.evaluation.breakdowns import (
    AspectCuts,
    aspect_ratio,
    category_counts,
    crowdedness_bins,
    objects_per_image,
)
from analysis.evaluation.evaluate import evaluation_frame
from analysis.evaluation.matching import IOU_THRESHOLDS, match_detections
from analysis.evaluation.precision import average_precision, precision_curves


def aspect(box) -> float:
    """max(w/h, h/w), in plain words."""
    width, height = box[2] - box[0], box[3] - box[1]
    return max(width / height, height / width) if width > 0 and height > 0 else math.inf


def evaluated(ground_truth, detections):
    """The rows of an evaluation by metric."""
    return evaluation_frame(ground_truth, detections, num_resamples=0).set_index("metric")


@settings(max_examples=15, deadline=None)
@given(detection_sets())
def test_slenderness_equals_the_rules_in_loops(data):
    """Square, middle and slender AP equal the loops, and each counts the objects of its range."""
    ground_truth, detections = data
    frame = evaluated(ground_truth, detections)
    own, theirs = [aspect(b) for b in ground_truth.boxes], [aspect(b) for b in detections.boxes]
    for name, low, high in (("ap_square", 1, 4 / 3), ("ap_middle", 4 / 3, 3), ("ap_slender", 3, math.inf)):
        inside = [low <= a <= high for a in own]
        expected = subset_ap(ground_truth, detections, inside, [low <= a <= high for a in theirs], IOU_THRESHOLDS)
        assert frame.value[name] == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert frame.num_objects[name] == sum(i and not c for i, c in zip(inside, ground_truth.iscrowd, strict=True))


@settings(max_examples=40, deadline=None)
@given(detection_sets())
def test_crowdedness_is_ap_over_the_images_of_the_bin(data):
    """AP of a bin equals pycocotools' on a data set of that bin's images alone."""
    ground_truth, detections = data
    bins = crowdedness_bins(ground_truth, (1, 3, 6))
    assert list(bins) == ["objects_1_2", "objects_3_5", "objects_6_plus"]
    table = match_detections(ground_truth, detections)
    counts = {
        i: sum(1 for j, c in zip(ground_truth.image_id, ground_truth.iscrowd, strict=True) if j == i and not c)
        for i in ground_truth.image_ids
    }
    for (low, high), within in zip(((1, 2), (3, 5), (6, 999)), bins.values(), strict=True):
        images = [i for i, count in counts.items() if low <= count <= high]
        assert ground_truth.image_ids[within].tolist() == images
        record = coco_statistics(*only_images(ground_truth, detections, images))["ap"] if images else math.nan
        value = float(average_precision(precision_curves(table, images=within)))
        assert value == pytest.approx(record, abs=1e-12, nan_ok=True)
    frame = evaluated(ground_truth, detections)
    few = [i for i, count in counts.items() if 1 <= count <= 3]
    counted = frame.loc["ap_objects_1_3", ["num_images", "num_objects"]]
    assert counted.tolist() == [len(few), sum(counts[i] for i in few)]


@settings(max_examples=20, deadline=None)
@given(detection_sets())
def test_category_ap_averages_to_ap(data):
    """The mean of the categories' AP is AP, and their objects add up."""
    ground_truth, detections = data
    frame = evaluation_frame(ground_truth, detections, num_resamples=0, per_category=True)
    ap = frame["value"][frame["metric"] == "ap_category"]
    assert ap.mean() == pytest.approx(coco_statistics(ground_truth, detections)["ap"], abs=1e-12, nan_ok=True)
    counts = category_counts(ground_truth)
    assert counts.num_objects.sum() == (~ground_truth.iscrowd).sum()
    for row in counts.itertuples():
        own = [
            aspect(b)
            for b, k, c in zip(ground_truth.boxes, ground_truth.category_id, ground_truth.iscrowd, strict=True)
            if k == row.category_id and not c
        ]
        assert row.median_aspect == pytest.approx(np.median(own) if own else math.nan, nan_ok=True)


def test_slender_detections_cost_the_square_ones_nothing():
    """A wrong slender box lowers the AP of slender objects and leaves that of square ones alone."""
    ground_truth, perfect = two_objects()
    wrong = found([*perfect.boxes, [200, 0, 300, 10]], [0.5, 0.5, 0.9])
    values = evaluated(ground_truth, wrong).value
    assert values["ap_square"] == pytest.approx(1.0)
    assert values["ap_slender"] == pytest.approx(0.5)
    assert math.isnan(values["ap_middle"])


def two_objects() -> tuple[GroundTruth, Detections]:
    """One image with a square and a slender object, both found exactly."""
    boxes = [[0, 0, 40, 40], [100, 0, 110, 60]]
    return objects(boxes), found(boxes, [0.9, 0.8])


def test_bins_part_the_images():
    """Default bins are 1-3, 4-7, 8-12 and 13 or more; crowd regions do not count, empty images are in none."""
    counts = [0, 1, 3, 4, 7, 8, 12, 13, 40]
    image_id = [*np.repeat(np.arange(len(counts)), counts), 0]
    is_last = np.arange(len(image_id)) == len(image_id) - 1
    ground_truth = objects(
        np.tile([0, 0, 9, 9], (len(image_id), 1)), image_id, image_ids=range(len(counts)), iscrowd=is_last
    )
    assert objects_per_image(ground_truth).tolist() == counts
    assert {name: np.flatnonzero(flags).tolist() for name, flags in crowdedness_bins(ground_truth).items()} == {
        "objects_1_3": [1, 2],
        "objects_4_7": [3, 4],
        "objects_8_12": [5, 6],
        "objects_13_plus": [7, 8],
    }
    assert list(crowdedness_bins(ground_truth, (1, 2, 5))) == ["objects_1", "objects_2_4", "objects_5_plus"]


def test_aspect_ratio_is_the_long_side_over_the_short():
    """1 for a square, the same in landscape and portrait, infinite without extent or where floats end."""
    sizes = np.array([[5.0, 5], [30, 10], [10, 30], [0, 4], [0, 0], [5e-324, 4]])
    assert aspect_ratio(sizes).tolist() == [1.0, 3.0, 3.0, math.inf, math.inf, math.inf]


@pytest.mark.parametrize("edges", [(), (4, 4), (8, 1)])
def test_edges_out_of_order_are_refused(edges):
    """Edges that do not grow make no bins."""
    with pytest.raises(ValueError, match="edges must grow strictly"):
        crowdedness_bins(two_objects()[0], edges)


@pytest.mark.parametrize("cuts", [{"square": 0.75}, {"square": 3.0, "slender": 2.0}])
def test_cuts_out_of_order_are_refused(cuts):
    """Cuts below 1 or out of order are refused."""
    with pytest.raises(ValueError, match="aspect cuts must satisfy"):
        AspectCuts(**cuts)
