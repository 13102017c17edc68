"""AP and AR from a match table: parity with pycocotools, an oracle, and what weights mean."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.detection_metrics import subset_ap
from oracles.detection_sets import detection_sets, only_images
from world_columns import found, objects, our_statistics

from analysis.coco.record import coco_statistics
from analysis.evaluation import precision as module
from analysis.evaluation.curves import RECALL_LEVELS, levels_reached
from analysis.evaluation.matching import IOU_THRESHOLDS, match_detections
from analysis.evaluation.precision import (
    average_precision,
    average_recall,
    class_precision,
    class_recall,
    mean_over_classes,
    precision_curves,
)


def assert_parity(ground_truth, detections):
    ours, record = our_statistics(ground_truth, detections), coco_statistics(ground_truth, detections)
    for name, value in record.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def one_class(boxes, detected, *, iscrowd=False, scores=None, image_ids=(1,), found_class=7) -> tuple:
    """A ground truth of class 7 (class 9 has no objects) in image 1, and detections there."""
    scores = np.linspace(0.9, 0.1, len(detected)) if scores is None else scores
    ground_truth = objects(boxes, category_id=7, image_ids=image_ids, category_ids=(7, 9), iscrowd=iscrowd)
    return ground_truth, found(detected, scores, category_id=found_class)


A, B, HALF = [0, 0, 40, 40], [100, 0, 140, 40], [0, 0, 40, 20]  # HALF overlaps A by exactly 0.5
EDGE_CASES = {
    "no detections": (one_class([A], []), 0.0),
    "an image without objects": (one_class([A], [A], image_ids=(1, 2)), 1.0),
    "no objects at all": (one_class([], [A]), float("nan")),
    "a class absent from the ground truth": (one_class([A], [A], found_class=9), 0.0),
    "identical objects": (one_class([A, A], [A, A]), 1.0),
    "identical detections": (one_class([A, B], [A, A]), 51 / 101),
    "an object without extent": (one_class([[5, 5, 5, 9], A], [[5, 5, 5, 9], A]), 0.5 * 51 / 101),
    "a crowd region takes any number": (one_class([A, B], [A, A, B], iscrowd=[True, False]), 1.0),
    "only a crowd region": (one_class([A], [A], iscrowd=[True]), float("nan")),
    "tied scores in the order of the file": (one_class([A], [B, A], scores=[0.5, 0.5]), 0.5),
    "IoU exactly at a threshold": (one_class([A], [HALF]), 0.1),
    "an object of exactly 32 x 32": (one_class([[0, 0, 32, 32]], [[0, 0, 32, 32]]), 1.0),
}


@pytest.mark.parametrize("case", EDGE_CASES)
def test_edge_cases(case):
    """Every edge case of the project's list has the AP worked out by hand, and all twelve statistics of pycocotools."""
    (ground_truth, detections), expected = EDGE_CASES[case]
    curves = precision_curves(match_detections(ground_truth, detections))
    assert float(average_precision(curves)) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert_parity(ground_truth, detections)


@pytest.mark.parametrize("num_sets", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_equals_pycocotools(num_sets):
    """All twelve statistics equal pycocotools' on random sets: crowds, ties, absent classes, over 100 an image."""

    @settings(max_examples=num_sets, deadline=None)
    @given(detection_sets())
    def check(data):
        assert_parity(*data)

    check()


@settings(max_examples=25, deadline=None)
@given(detection_sets())
def test_equals_the_definition(data):
    """AP equals the mean over classes and thresholds of 101-point AP, worked out in loops."""
    ground_truth, detections = data
    curves = precision_curves(match_detections(ground_truth, detections))
    inside, boxes = np.ones(len(ground_truth.boxes), bool), np.ones(len(detections), bool)
    for iou, taus in ((0.75, [IOU_THRESHOLDS[5]]), (None, IOU_THRESHOLDS[::9])):
        ours = class_precision(curves)[::9] if iou is None else average_precision(curves, iou=iou)
        ours = np.nanmean(ours) if np.isfinite(ours).any() else np.nan
        expected = subset_ap(ground_truth, detections, inside, boxes, taus)
        assert float(ours) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(detection_sets(distinct_scores=True), st.data())
def test_weights_are_copies_of_images(data, draws):
    """Evaluating under whole-number weights equals evaluating the data set with each image repeated so often."""
    ground_truth, detections = data
    num_images = len(ground_truth.image_ids)
    weights = np.array(draws.draw(st.lists(st.integers(0, 3), min_size=num_images, max_size=num_images)), float)
    curves = precision_curves(match_detections(ground_truth, detections))
    copies = only_images(ground_truth, detections, np.repeat(ground_truth.image_ids, weights.astype(int)))
    repeated = precision_curves(match_detections(*copies))
    np.testing.assert_allclose(class_precision(curves, weights), class_precision(repeated), atol=1e-12)
    np.testing.assert_allclose(class_recall(curves, weights), class_recall(repeated), atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(detection_sets(), st.integers(0, 1000))
def test_many_resamplings_at_once_equal_one_at_a_time(data, seed):
    """A stack of weights gives, row by row, what each row gives alone."""
    ground_truth, detections = data
    curves = precision_curves(match_detections(ground_truth, detections))
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(ground_truth.image_ids))).astype(float)
    for measure in (average_precision, average_recall):
        stacked, single = measure(curves, weights), [measure(curves, row) for row in weights]
        np.testing.assert_allclose(stacked, single, atol=1e-14)


@given(st.integers(1, 500))
@settings(max_examples=100, deadline=None)
def test_recall_levels_are_exact(num_objects):
    """Every recall m / n reaches exactly the levels that pycocotools' search says, also where a product would round."""
    recall = np.arange(num_objects + 1) / num_objects
    np.testing.assert_array_equal(levels_reached(recall), np.searchsorted(RECALL_LEVELS, recall, side="right"))


def test_more_detections_than_counted():
    """AR at 1 detection an image and class counts the best scored one only."""
    ground_truth, detections = one_class([A, B], [B, A])
    curves = precision_curves(match_detections(ground_truth, detections), max_detections=1)
    assert float(average_recall(curves)) == 0.5


def test_unknown_threshold_is_refused():
    """An IoU threshold that was not matched at is refused with those that were."""
    curves = precision_curves(match_detections(*one_class([A], [A])))
    with pytest.raises(ValueError, match="iou must be one of .*got 0.51"):
        average_precision(curves, iou=0.51)


def test_weights_of_wrong_length_are_refused():
    """Weights must have a number for every image."""
    curves = precision_curves(match_detections(*one_class([A], [A])))
    with pytest.raises(ValueError, match="each of 1 images, got 2"):
        average_precision(curves, np.ones(2))


@settings(max_examples=25, deadline=None)
@given(detection_sets(), st.data())
def test_images_left_out_are_images_of_weight_zero(data, draws):
    """Curves of some images alone equal those of all images with weight 0 elsewhere, under any weights."""
    ground_truth, detections = data
    num_images = len(ground_truth.image_ids)
    kept = np.array(draws.draw(st.lists(st.booleans(), min_size=num_images, max_size=num_images)))
    weights = np.random.default_rng(0).integers(0, 3, (2, num_images)).astype(float)
    table = match_detections(ground_truth, detections)
    everything, some = precision_curves(table), precision_curves(table, images=kept)
    np.testing.assert_allclose(class_precision(some, weights), class_precision(everything, weights * kept), atol=1e-14)
    np.testing.assert_allclose(class_recall(some, weights), class_recall(everything, weights * kept), atol=1e-14)


@settings(max_examples=15, deadline=None)
@given(detection_sets(), st.booleans())
def test_hundreds_of_resamplings_equal_one_at_a_time(data, is_whole):
    """The way taken for many resamplings gives what single ones give, for whole and for broken weights."""
    ground_truth, detections = data
    weights = np.random.default_rng(0).integers(0, 3, (130, len(ground_truth.image_ids))) / (1 if is_whole else 7)
    curves = precision_curves(match_detections(ground_truth, detections))
    single = [class_precision(curves, row) for row in weights]
    np.testing.assert_allclose(class_precision(curves, weights), single, atol=1e-12)


def test_resamplings_may_be_cut_into_blocks(monkeypatch):
    """Where a class has so many objects that not all resamplings fit at once, the numbers are the same."""
    table = match_detections(*one_class([A, B], [B, HALF, A], image_ids=(1, 2)))
    curves = precision_curves(table)
    weights = np.random.default_rng(0).integers(0, 3, (201, 2)).astype(float)
    expected = class_precision(curves, weights)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", 50)
    np.testing.assert_array_equal(class_precision(curves, weights), expected)


def test_large_weights_are_counted_exactly():
    """An image of weight 2^24 and one of weight 1 make 2^24 + 1 objects, which single precision cannot hold."""
    curves = precision_curves(match_detections(objects([A, A], image_id=[1, 2]), found([A], [1.0])))
    recall = class_recall(curves, np.array([1.0, 2.0**24]))
    assert recall == pytest.approx(1 / (2**24 + 1), rel=1e-12)


def test_a_mean_over_classes_leaves_out_the_undefined():
    """nan does not count; nothing but nan gives nan."""
    nan = float("nan")
    values = np.array([[[0.2, nan], [0.4, nan]], [[nan, nan], [nan, nan]]])
    np.testing.assert_allclose(mean_over_classes(values), [0.3, nan])
