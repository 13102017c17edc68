"""Nominal 95 % intervals cover the known truth about as often as they say, in simulated data sets.

The truth is a metric of a large made-up population of images, and each data set is drawn from it. AP of few images
is high (the best precision at a recall *or beyond* picks up luck), by a seventh of a standard error at 200 images, and
resampling sees under half of that: `centred` takes off what resampling adds, not what the data set had already. At 200
images (90 objects in the rarer class) and 300 resamplings, 92 to 93 % of the intervals cover AP and its difference.

In full, 92 to 98 % of 500 intervals must cover. A few of them see an interval that is wrong by a factor of two: too
narrow a one covers 67 % of the time, and too wide a one still covers when it is halved.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from oracles.image_population import NUM_CLASSES, Rows, crowded_candidates, drawn, population
from world_columns import found, objects

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.matching import match_detections
from analysis.evaluation.nms_recall import ObjectRecall, found_by_image, nms_recall_values, object_recall
from analysis.evaluation.precision import average_precision, precision_curves
from analysis.evaluation.statistics import Interval, bootstrap, paired_bootstrap

Metric = Callable[[np.ndarray], np.ndarray]
# data sets, images in each, resamplings, size of the population, and of the crowded one
SIZES = [(60, 150, 100, 4_000, 1_000), pytest.param((500, 300, 500, 20_000, 3_000), marks=pytest.mark.slow)]
sized = pytest.mark.parametrize("size", SIZES, ids=str)


def assert_covered(intervals: list[Interval], truth: float) -> None:
    """Of many intervals 92 to 98 % contain the truth; of few at least 85 %, and at most 82 % of them halved."""
    share = np.mean([float(one.low) <= truth <= float(one.high) for one in intervals])
    if len(intervals) >= 500:
        assert 0.92 <= share <= 0.98
        return
    halves = [(float(one.value) + float(one.low), float(one.value) + float(one.high)) for one in intervals]
    assert share >= 0.85
    assert np.mean([low <= 2 * truth <= high for low, high in halves]) <= 0.82


def ap_metric(own: Rows, detected: Rows) -> Metric:
    """AP of a data set as a function of image weights."""
    return partial(average_precision, precision_curves(match_detections(ground_truth_of(own), detections_of(detected))))


def ground_truth_of(rows: Rows) -> GroundTruth:
    """Objects as a ground truth without crowds."""
    return objects(
        rows.boxes, rows.image, rows.label, image_ids=range(rows.num_images), category_ids=range(NUM_CLASSES)
    )


def detections_of(rows: Rows) -> Detections:
    """Scored boxes, before or after NMS, as columns."""
    return found(rows.boxes, rows.scores, rows.image, rows.label)


def of_all(metric: Metric, num_images: int) -> float:
    """The metric of the whole population, which is the truth."""
    return float(metric(np.ones((1, num_images)))[0])


def remembered(metric: Metric) -> Metric:
    """The same metric, evaluated once for weights that come again."""
    known: dict[bytes, np.ndarray] = {}

    def answer(weights: np.ndarray) -> np.ndarray:
        key = weights.tobytes()
        if key not in known:
            known[key] = metric(weights)
        return known[key]

    return answer


@sized
def test_ap_and_a_paired_difference_are_covered(size):
    """Centred intervals of AP, and paired ones of the gain of a better detector, cover the truth."""
    num_sets, num_images, num_resamples, num_population, _ = size
    generator = np.random.default_rng(20)
    world = population(num_population, generator)
    first, second = (of_all(ap_metric(world.objects, own), num_population) for own in (world.first, world.second))
    aps, gains = [], []
    for seed in range(num_sets):
        chosen = generator.integers(num_population, size=num_images)
        truth = drawn(world.objects, chosen)
        one, two = (remembered(ap_metric(truth, drawn(own, chosen))) for own in (world.first, world.second))
        options = {"num_images": num_images, "num_resamples": num_resamples}
        aps.append(bootstrap(one, generator=np.random.default_rng(seed), centred=True, **options))
        gains.append(paired_bootstrap(one, two, generator=np.random.default_rng(seed), **options))
    assert_covered(aps, first)
    assert_covered(gains, second - first)


@sized
@pytest.mark.parametrize("column", [4, 9], ids=["nr_70", "nr"])
def test_nms_recall_is_covered(size, column):
    """Intervals of NMS recall at 0.7, and of its mean, cover the population's."""
    num_sets, num_images, num_resamples, _, num_population = size
    generator = np.random.default_rng(21)
    truth, candidates = crowded_candidates(population(num_population, generator).objects, generator)
    whole = object_recall(ground_truth_of(truth), detections_of(candidates))

    def metric(recall, weights):
        return nms_recall_values(found_by_image(recall, np.arange(weights.shape[1])), weights)[:, column]

    intervals = []
    for seed in range(num_sets):
        recall = drawn_recall(whole, truth, generator.integers(num_population, size=num_images))
        interval = bootstrap(
            partial(metric, recall),
            num_images=num_images,
            generator=np.random.default_rng(seed),
            num_resamples=num_resamples,
        )
        intervals.append(interval)
    assert_covered(intervals, of_all(partial(metric, whole), num_population))


def drawn_recall(whole: ObjectRecall, truth: Rows, chosen: np.ndarray) -> ObjectRecall:
    """The best IoUs of the chosen images' objects; images are numbered from 0 in the order chosen."""
    rows = drawn(replace(truth, label=np.arange(len(truth.image))), chosen)
    return ObjectRecall(
        image_id=rows.image,
        annotation_id=np.arange(len(rows.image)),
        iou_before=whole.iou_before[rows.label],
        iou_after=whole.iou_after[rows.label],
    )
