"""Matching detections to objects: against an oracle, and subsets against pycocotools with the aspect ratio as area."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_metrics import match_all
from oracles.detection_sets import detection_sets
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from analysis.evaluation.breakdowns import AspectCuts, aspect_ratio, aspect_subset
from analysis.evaluation.matching import IOU_THRESHOLDS, Subset, find_overlaps, match, match_detections
from analysis.evaluation.precision import average_precision, average_recall, precision_curves
from freeanchor.errors import DataError


def coco_with_areas(ground_truth, columns, areas, extra) -> COCO:
    """A pycocotools data set whose `area` is whatever is given."""
    coco = COCO()
    sizes = columns.boxes[:, 2:] - columns.boxes[:, :2]
    coco.dataset = {
        "images": [{"id": int(i)} for i in ground_truth.image_ids],
        "categories": [{"id": int(i)} for i in ground_truth.category_ids],
        "annotations": [
            {
                "id": row + 1,
                "image_id": int(columns.image_id[row]),
                "category_id": int(columns.category_id[row]),
                "bbox": [*columns.boxes[row, :2], *sizes[row]],
                "area": areas[row],
                **{name: value[row] for name, value in extra.items()},
            }
            for row in range(len(columns.boxes))
        ],
    }
    coco.createIndex()
    return coco


def pycocotools_in_range(ground_truth, detections, object_value, detection_value, low, high) -> tuple[float, float]:
    """AP and AR of pycocotools over objects whose value lies in [low, high]: the value plays the part of the area."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            coco_with_areas(ground_truth, ground_truth, object_value, {"iscrowd": ground_truth.iscrowd.astype(int)}),
            coco_with_areas(ground_truth, detections, detection_value, {"score": detections.scores}),
            "bbox",
        )
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[low, high]], ["range"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0, 2], evaluation.eval["recall"][..., 0, 2]
    defined = precision > -1
    return (precision[defined].mean(), recall[recall > -1].mean()) if defined.any() else (np.nan, np.nan)


@settings(max_examples=40, deadline=None)
@given(detection_sets())
def test_equals_the_rules_in_loops(data):
    """Every detection takes the object that COCO's rules, written as loops, give it, with crowds and subsets."""
    ground_truth, detections = data
    wide = np.array([b[2] - b[0] >= b[3] - b[1] for b in ground_truth.boxes], bool)
    table = match_detections(ground_truth, detections, Subset(objects=wide, detections=np.ones(len(detections), bool)))
    for t in (0, 4, 9):
        expected = match_all(ground_truth, detections, IOU_THRESHOLDS[t], ~wide | ground_truth.iscrowd)
        assert dict(zip(table.detection_row.tolist(), table.matched[t].tolist(), strict=True)) == expected


@pytest.mark.parametrize("num_sets", [30, pytest.param(120, marks=pytest.mark.slow)])
def test_subsets_follow_the_ignore_rules_of_pycocotools(num_sets):
    """Square, middle and slender AP and AR equal pycocotools' when aspect ratios stand where it looks for areas."""

    @settings(max_examples=num_sets, deadline=None)
    @given(detection_sets())
    def check(data):
        ground_truth, detections = data
        overlaps = find_overlaps(ground_truth, detections)
        aspects = aspect_ratio(ground_truth.sizes), aspect_ratio(detections.sizes)
        for low, high in AspectCuts(square=1.5, slender=4.0).ranges().values():
            curves = precision_curves(match(overlaps, aspect_subset(ground_truth, detections, low, high)))
            ours = float(average_precision(curves)), float(average_recall(curves))
            theirs = pycocotools_in_range(ground_truth, detections, *aspects, low, high)
            assert ours == pytest.approx(theirs, abs=1e-12, nan_ok=True)

    check()


@settings(max_examples=40, deadline=None)
@given(detection_sets())
def test_no_object_serves_twice(data):
    """At one threshold an object that is no crowd region is taken by one detection at most."""
    ground_truth, detections = data
    table = match_detections(ground_truth, detections)
    for row in table.matched:
        taken = row[row >= 0]
        single = taken[~ground_truth.iscrowd[taken]]
        assert len(single) == len(set(single.tolist()))


@settings(max_examples=40, deadline=None)
@given(detection_sets())
def test_everything_is_the_subset_of_all(data):
    """A subset with all objects and detections in it changes nothing."""
    ground_truth, detections = data
    whole = Subset(objects=np.ones(len(ground_truth.boxes), bool), detections=np.ones(len(detections), bool))
    table, again = match_detections(ground_truth, detections), match_detections(ground_truth, detections, whole)
    np.testing.assert_array_equal(table.matched, again.matched)
    np.testing.assert_array_equal(table.ignored, again.ignored)


@settings(max_examples=20, deadline=None)
@given(detection_sets())
def test_blocks_change_nothing(data):
    """Overlaps found in many small blocks are those found in one."""
    overlaps = find_overlaps(*data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.evaluation.matching._PAIRS_AT_ONCE", 7)
        small = find_overlaps(*data)
    np.testing.assert_array_equal(overlaps.pair_detection, small.pair_detection)
    np.testing.assert_array_equal(overlaps.pair_iou, small.pair_iou)


@settings(max_examples=10, deadline=None)
@given(detection_sets())
def test_masks_of_wrong_length_are_refused(data):
    """A subset whose masks do not fit the data is refused with both counts."""
    ground_truth, detections = data
    subset = Subset(objects=np.ones(len(ground_truth.boxes) + 1, bool), detections=np.ones(len(detections), bool))
    with pytest.raises(DataError, match="subset masks"):
        match_detections(ground_truth, detections, subset)
