"""Working points in loops over thresholds, and tables of images and classes against evaluations of their own."""

import numpy as np
import pytest
from hypothesis import given, settings
from oracles.detection_sets import detection_sets, only_images
from oracles.error_types import errors_of
from oracles.plain_files import random_sets
from world_columns import found, objects

from analysis.evaluation.errors import MAIN
from analysis.evaluation.evaluate import Wanted, comparison_frames, evaluation_frames
from analysis.evaluation.matching import match_detections
from analysis.evaluation.parts import Context
from analysis.evaluation.per_image import (
    BACKGROUND,
    confusion_frame,
    confusions_compared,
    images_compared,
    images_frame,
)
from analysis.evaluation.precision import average_precision, precision_curves
from analysis.evaluation.working_point import ALL_CLASSES, best_threshold, checked_goal, curves_frame
from freeanchor.errors import UsageError


def by_loops(truth, detections, category=None) -> dict[float, tuple[float, float, float]]:
    """Threshold -> precision, recall, F1 of what scores so much or more: matched anew at each, at IoU 0.5."""
    own = np.ones(len(truth.boxes), bool) if category is None else truth.category_id == category
    num_objects = int((own & ~truth.iscrowd).sum())
    table = match_detections(truth, detections)
    rows = np.arange(len(table.score))
    if category is not None:
        rows = rows[table.category_ids[table.category_index] == category]
    values = {}
    for threshold in sorted({float(score) for score in table.score[rows[~table.ignored[0, rows]]]}, reverse=True):
        right = taken = 0
        for row in rows:
            if table.score[row] >= threshold and not table.ignored[0, row]:
                taken += 1
                right += int(table.matched[0, row] >= 0)
        recall = right / num_objects if num_objects else float("nan")
        values[threshold] = (right / taken, recall, 2 * right / (taken + num_objects))
    return values


@given(sets=detection_sets())
@settings(max_examples=6)
def test_the_best_threshold_is_found_by_loops_too(sets) -> None:
    """For F1 the highest of the best; for a precision the lowest that reaches it; of all classes and of each."""
    truth, detections = sets
    context = Context(ground_truth=truth, detections=detections)
    frames = {
        goal: evaluation_frames(truth, detections, Wanted(working_point=goal), num_resamples=0)["working_points"]
        for goal in ("f1", 0.5)
    }
    curves = curves_frame(context)
    labels = [ALL_CLASSES, *truth.category_names]
    for label, category in zip(labels, [None, *truth.category_ids], strict=True):
        values = by_loops(truth, detections, category)
        drawn = curves[curves["label"] == label].set_index("threshold")[["precision", "recall", "f1"]]
        for threshold, expected in values.items():
            if threshold in drawn.index:
                np.testing.assert_allclose(drawn.loc[threshold], expected)
        best = max(values, key=lambda t: (values[t][2], t), default=None)
        reached = [t for t in values if values[t][0] >= 0.5]
        wanted = {"f1": best if best is not None and values[best][2] > 0 else None, 0.5: min(reached, default=None)}
        for goal, threshold in wanted.items():
            own = frames[goal][frames[goal]["label"] == label].set_index("measure")["value"]
            expected = [np.nan] * 4 if threshold is None else [threshold, *values[threshold]]
            np.testing.assert_allclose(own[["threshold", "precision", "recall", "f1"]], expected, atol=1e-12)


def test_intervals_of_a_threshold_choose_it_again() -> None:
    """The threshold's interval holds it and has a width; a detector beside itself differs by nothing."""
    sets = random_sets()
    wanted = Wanted(working_point="f1")
    frame = evaluation_frames(*sets, wanted, num_resamples=50)["working_points"].set_index(["label", "measure"])
    low, value, high = frame.loc[(ALL_CLASSES, "threshold"), ["low", "value", "high"]]
    assert low <= value <= high and low < high
    assert (frame.loc[ALL_CLASSES, "low"] <= frame.loc[ALL_CLASSES, "high"]).all()
    both = comparison_frames(*sets, sets[1], wanted, num_resamples=10)["working_points"]
    assert (both[["difference", "low", "high"]].fillna(0.0) == 0.0).all(axis=None)


@pytest.mark.parametrize("goal", [0, 1.5, "f2"])
def test_goals_that_mean_nothing_are_refused(goal) -> None:
    """One line."""
    with pytest.raises(UsageError, match="working_point must be"):
        checked_goal(goal)


@given(sets=detection_sets(distinct_scores=True))
@settings(max_examples=6)
def test_an_image_has_the_ap_and_errors_of_an_evaluation_of_itself(sets) -> None:
    """AP50, objects, right detections and the number of each error; the worst image first."""
    truth, detections = sets
    frame = images_frame(Context(ground_truth=truth, detections=detections))
    assert frame["ap_50"].dropna().is_monotonic_increasing
    for row in frame.to_dict("records"):
        alone = only_images(truth, detections, [row["image_id"]])
        table = match_detections(*alone)
        np.testing.assert_allclose(row["ap_50"], average_precision(precision_curves(table), iou=0.5), atol=1e-9)
        assert row["num_objects"] == (~alone[0].iscrowd).sum()
        errors = errors_of(*alone, convention="coco")
        assert [row[name] for name in MAIN] == [errors.num[name] for name in MAIN]
        assert row["num_right"] == ((table.matched[0] >= 0) & ~table.ignored[0]).sum()


@given(sets=detection_sets())
@settings(max_examples=6)
def test_confusion_counts_each_object_and_each_detection_once(sets) -> None:
    """Rows of a true class add up to its objects, columns to the detections that score enough and are not ignored."""
    truth, detections = sets
    frame = confusion_frame(Context(ground_truth=truth, detections=detections), 0.4)
    plain = truth.category_id[~truth.iscrowd]
    for category, name in zip(truth.category_ids, truth.category_names, strict=True):
        assert frame.loc[frame["true"] == name, "num"].sum() == (plain == category).sum()
    table = match_detections(truth, detections)
    counted = (table.score >= 0.4) & ~table.ignored[0]
    assert frame.loc[frame["predicted"] != BACKGROUND, "num"].sum() == counted.sum()
    right = frame.loc[frame["true"] == frame["predicted"], "num"].sum()
    assert right == (counted & (table.matched[0] >= 0)).sum()


def test_the_best_detection_of_another_class_is_the_confusion() -> None:
    """A class error that scores less is background; what another detection takes is not confused."""
    box = [0, 0, 40, 40]
    truth = objects([box, [100, 0, 140, 40]], category_id=[1, 1], category_ids=[1, 2, 3])
    wrong = found([box, box, [100, 0, 140, 40], [100, 0, 140, 40]], [0.9, 0.8, 0.7, 0.6], category_id=[2, 3, 1, 2])
    frame = confusion_frame(Context(ground_truth=truth, detections=wrong), "f1")
    assert best_threshold(Context(ground_truth=truth, detections=wrong)) == 0.7
    rows = set(frame.itertuples(index=False, name=None))
    assert rows == {("class 1", "class 2", 1), ("class 1", "class 1", 1), (BACKGROUND, "class 3", 1)}


def test_two_detectors_stand_side_by_side() -> None:
    """Differences are second minus first; where the second loses most comes first."""
    truth, first = random_sets()
    second = random_sets(num_detections=90)[1]
    contexts = [Context(ground_truth=truth, detections=own) for own in (first, second)]
    one, two = (images_frame(context).set_index("image_id") for context in contexts)
    both = images_compared(*(images_frame(context) for context in contexts)).set_index("image_id")
    np.testing.assert_allclose(both["difference"], two["ap_50"][both.index] - one["ap_50"][both.index])
    assert both["difference"].dropna().is_monotonic_increasing
    assert (both["missed_second"] == two["missed"][both.index]).all()
    pairs = confusions_compared(*(confusion_frame(context, 0.3) for context in contexts))
    assert pairs["first"].sum() == confusion_frame(contexts[0], 0.3)["num"].sum()
    assert (pairs["difference"] == pairs["second"] - pairs["first"]).all()
