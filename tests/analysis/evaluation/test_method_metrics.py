"""How well scores rank boxes: the rank correlation, of columns and of detections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.coco.columns import Detections, GroundTruth
from analysis.evaluation.evaluate import metric_intervals
from analysis.evaluation.metrics import alignment_metrics
from analysis.evaluation.statistics import rank_correlation


def _ranks(values: np.ndarray) -> list[float]:
    return [sum(other < own for other in values) + (sum(other == own for other in values) + 1) / 2 for own in values]


@given(st.integers(0, 1000), st.integers(2, 40), st.booleans())
def test_rank_correlation_is_spearmans(seed: int, count: int, has_ties: bool) -> None:
    """The correlation of ranks, equal values sharing their mean; nan where all values are equal, or no row is."""
    generator = np.random.default_rng(seed)
    one, other = generator.random((2, count))
    if has_ties:
        one = one.round(1)
    image = generator.integers(0, 5, count)
    value = rank_correlation(one, other, image, 5)(np.ones((1, 5)))[0, 0]
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert np.isnan(value)
    else:
        assert value == pytest.approx(np.corrcoef(_ranks(one), _ranks(other))[0, 1], abs=1e-9)
    assert np.isnan(rank_correlation(one, other, image, 5)(np.zeros((1, 5)))).all()


def _found(rows: list[tuple[int, tuple[float, ...], float]]) -> tuple[GroundTruth, Detections]:
    """Two images with an object of 10 x 10 px each, and these detections of (image, box, score)."""
    truth = GroundTruth(
        image_ids=np.array([1, 2]),
        category_ids=np.array([1]),
        category_names=("a",),
        annotation_id=np.array([1, 2]),
        image_id=np.array([1, 2]),
        category_id=np.array([1, 1]),
        boxes=np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]]),
        area=np.array([100.0, 100]),
        iscrowd=np.zeros(2, dtype=bool),
    )
    images, boxes, scores = zip(*rows, strict=True)
    return truth, Detections(
        image_id=np.array(images),
        category_id=np.ones(len(rows), dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64),
        scores=np.array(scores),
    )


def test_alignment_is_of_scores_and_boxes_that_find_an_object() -> None:
    """1 where the better-scoring box is the better one, -1 the other way round, whatever misses all objects."""
    better, worse, miss = (0, 0, 10, 10), (0, 0, 10, 8), (50, 50, 60, 60)
    for first, second, expected in ((better, worse, 1), (worse, better, -1)):
        truth, detections = _found([(1, first, 0.9), (2, second, 0.5), (2, miss, 0.99)])
        frame = metric_intervals(alignment_metrics(truth, detections), truth, num_resamples=20)
        assert frame["value"].iloc[0] == pytest.approx(expected)
        assert frame["low"].iloc[0] >= -1 and frame["high"].iloc[0] <= 1


@pytest.mark.parametrize("count", [2, 1000, 2000, 30_000])
@pytest.mark.parametrize("is_other_constant", [True, False])
def test_rank_correlation_of_a_constant_is_undefined(count: int, is_other_constant: bool) -> None:
    """However many rows there are: rounding is not a correlation."""
    other = np.ones(count) if is_other_constant else np.random.default_rng(0).random(count)
    metric = rank_correlation(np.ones(count), other, np.arange(count) % 7, 7)
    weights = np.random.default_rng(1).integers(0, 3, size=(20, 7))
    assert np.isnan(metric(weights)).all()
