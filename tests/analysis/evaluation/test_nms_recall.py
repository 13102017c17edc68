"""NMS recall: against the paper's wording in loops, and the bounds that hold for any detector."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import nms_recall as oracle
from oracles.detection_sets import detection_sets
from oracles.soft_nms import gaussian, linear
from world_columns import found, objects

from analysis.evaluation.nms_recall import (
    TAUS,
    NmsRecallDefinition,
    ObjectRecall,
    found_by_image,
    four_definitions,
    nms_recall,
    nms_recall_table,
    nms_recall_values,
    object_recall,
    object_recall_under,
)
from analysis.evaluation.suppression import GaussianSoftNms, HardNms, LinearSoftNms
from freeanchor.errors import DataError

definitions = st.builds(
    NmsRecallDefinition,
    score_threshold=st.sampled_from([0.0, 0.05, 0.3]),
    max_candidates=st.sampled_from([None, 1, 3, 100]),
    nms=st.one_of(
        st.builds(HardNms, nms_iou=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0])),
        st.builds(LinearSoftNms, nms_iou=st.sampled_from([0.0, 0.3, 0.5])),
        st.builds(GaussianSoftNms, sigma=st.sampled_from([0.1, 0.5, 2.0])),
    ),
    class_aware=st.booleans(),
    max_detections=st.sampled_from([None, 1, 5, 100]),
    include_crowd=st.booleans(),
    strict=st.booleans(),
)


def in_oracles_words(nms) -> dict:
    """A suppression as the oracle's options."""
    if isinstance(nms, HardNms):
        return {"nms_iou": nms.nms_iou}
    return {"decay": linear(nms.nms_iou) if isinstance(nms, LinearSoftNms) else gaussian(nms.sigma)}


def recall_of(before, after) -> ObjectRecall:
    """Columns for objects 0, 1, 2 … of image 1."""
    ids = np.arange(len(before))
    return ObjectRecall(
        image_id=np.ones_like(ids), annotation_id=ids, iou_before=np.array(before), iou_after=np.array(after)
    )


@settings(max_examples=80, deadline=None)
@given(detection_sets(distinct_scores=True), definitions)
def test_equals_the_papers_wording(data, definition):
    """Best IoUs before and after NMS, and NR at every tau, equal the loops under every combination of the options."""
    ground_truth, candidates = data
    recall = object_recall(ground_truth, candidates, definition=definition)
    options = {name: value for name, value in vars(definition).items() if name not in {"strict", "nms"}}
    expected = oracle.best_ious(ground_truth, candidates, **options, **in_oracles_words(definition.nms))
    assert recall.annotation_id.tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(recall.iou_before, [row[1] for row in expected], atol=1e-12)
    np.testing.assert_allclose(recall.iou_after, [row[2] for row in expected], atol=1e-12)
    for tau in TAUS:
        value = oracle.nms_recall(expected, tau, strict=definition.strict)
        assert float(nms_recall(recall, tau, strict=definition.strict)) == pytest.approx(value, nan_ok=True)


@settings(max_examples=60, deadline=None)
@given(detection_sets(), definitions, st.floats(0.01, 1.0))
def test_lies_between_0_and_1(data, definition, tau):
    """What NMS leaves is part of what was there, so NR lies in [0, 1], or is nan where nothing was found."""
    value = nms_recall(object_recall(*data, definition=definition), tau, strict=definition.strict)
    assert math.isnan(value) or 0 <= value <= 1


@settings(max_examples=40, deadline=None)
@given(detection_sets(), st.booleans())
def test_nms_at_1_loses_nothing(data, class_aware):
    """NMS at IoU 1 removes no box, so every object keeps its best candidate and NR is 1."""
    recall = object_recall(*data, definition=NmsRecallDefinition(nms=HardNms(nms_iou=1.0), class_aware=class_aware))
    np.testing.assert_array_equal(recall.iou_before, recall.iou_after)
    assert set(nms_recall_table(recall).nr.dropna()) <= {1.0}


@settings(max_examples=20, deadline=None)
@given(detection_sets())
def test_blocks_change_nothing(data):
    """Candidates looked at in many small blocks give what one block gives."""
    whole = object_recall(*data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analysis.evaluation.nms_recall._PAIRS_AT_ONCE", 3)
        blocks = object_recall(*data)
    np.testing.assert_array_equal(whole.iou_before, blocks.iou_before)
    np.testing.assert_array_equal(whole.iou_after, blocks.iou_after)


def test_found_means_more_than_tau():
    """An IoU of exactly tau is found only where the definition is not strict."""
    recall = recall_of([0.5, 0.8], [0.5, 0.8])
    table, loose = nms_recall_table(recall), nms_recall_table(recall, strict=False)
    assert (table.recall_before[0], loose.recall_before[0]) == (0.5, 1.0)


def test_table_by_hand():
    """Of three objects found before NMS at 0.7, two are left after it; the nine rows are the authors'."""
    table = nms_recall_table(recall_of([0.95, 0.8, 0.75, 0.1], [0.95, 0.72, 0.6, 0.0]))
    assert table.metric.tolist() == [f"nr_{percent}" for percent in range(50, 95, 5)]
    row = table[table.metric == "nr_70"].iloc[0]
    assert (row.tau, row.recall_before, row.recall_after) == (0.7, 0.75, 0.5)
    assert row.nr == pytest.approx(2 / 3)


def test_nothing_found_is_nan():
    """Without objects, or with none found before NMS, there is no ratio; nor a mean with one of these."""
    assert math.isnan(nms_recall(recall_of([], []), 0.5))
    assert math.isnan(nms_recall(recall_of([0.2], [0.1]), 0.5))
    values = nms_recall_values(found_by_image(recall_of([0.8], [0.8]), np.array([1])), np.ones((1, 1)))
    assert np.isnan(values[0, -1]) and values[0, 0] == 1


def test_classes_keep_apart_at_negative_coordinates():
    """Boxes that reach left of the image suppress no box of another class."""
    box = [-50, -50, 10, 10]
    ground_truth = objects([box], category_id=2, category_ids=(1, 2))
    candidates = found([box, box], [0.9, 0.8], category_id=[1, 2])
    recall = object_recall(ground_truth, candidates, definition=NmsRecallDefinition(class_aware=True))
    assert recall.iou_after.tolist() == [1.0]


def test_more_after_nms_than_before_is_refused():
    """Detections that are no part of the candidates are refused; a rounding of float32 is not."""
    with pytest.raises(DataError, match="annotation 0 has IoU 0.9 after NMS but 0.5 before"):
        recall_of([0.5], [0.9])
    assert recall_of([0.5], [0.5 + 1e-8]).iou_after[0] == 0.5


@pytest.mark.parametrize("tau", [0.0, 50.0, float("nan")])
def test_tau_must_be_a_fraction(tau):
    """A tau that is no fraction is refused."""
    with pytest.raises(ValueError, match="pass a fraction, not a percentage"):
        nms_recall(recall_of([0.5], [0.5]), tau)


@pytest.mark.parametrize("cap", ["max_candidates", "max_detections"])
def test_a_cap_of_nothing_is_refused(cap):
    """A cap of 0 is refused, before NMS and after it; no cap is None."""
    with pytest.raises(ValueError, match=cap):
        NmsRecallDefinition(**{cap: 0})


def test_the_default_is_the_authors_definition():
    """Score above 0.05, NMS at 0.5, classes and crowd regions left alone, no cap, IoU strictly above tau."""
    authors = NmsRecallDefinition()
    assert authors == next(iter(four_definitions().values()))
    assert vars(authors) == {
        "score_threshold": 0.05, "max_candidates": None, "nms": HardNms(nms_iou=0.5), "class_aware": False,
        "max_detections": None, "include_crowd": False, "strict": True,
    }  # fmt: skip


def test_the_four_definitions_keep_all_else():
    """They differ in classes and cap alone, whatever they start from."""
    base = NmsRecallDefinition(score_threshold=0.2, nms=GaussianSoftNms(), include_crowd=True, strict=False)
    four = four_definitions(base)
    assert [(d.class_aware, d.max_detections) for d in four.values()] == [
        (False, None), (True, None), (False, 100), (True, 100),
    ]  # fmt: skip
    assert {(d.score_threshold, d.nms, d.include_crowd, d.strict) for d in four.values()} == {
        (0.2, base.nms, True, False)
    }


@settings(max_examples=25, deadline=None)
@given(detection_sets(), st.lists(definitions, min_size=1, max_size=4))
def test_several_definitions_at_once_are_each_alone(data, several):
    """Sharing the work of NMS changes no IoU."""
    for definition, together in zip(several, object_recall_under(*data, several), strict=True):
        alone = object_recall(*data, definition=definition)
        assert together.annotation_id.tolist() == alone.annotation_id.tolist()
        np.testing.assert_array_equal(together.iou_before, alone.iou_before)
        np.testing.assert_array_equal(together.iou_after, alone.iou_after)


@settings(max_examples=40, deadline=None)
@given(detection_sets(), st.booleans(), st.integers(0, 2**16))
def test_an_image_of_weight_two_is_two_images(data, strict, seed):
    """Counting an image twice is having each of its objects twice, at every tau and in the mean of the nine."""
    ground_truth, candidates = data
    recall = object_recall(ground_truth, candidates)
    weights = np.random.default_rng(seed).integers(0, 3, (4, len(ground_truth.image_ids))).astype(float)
    values = nms_recall_values(found_by_image(recall, ground_truth.image_ids, strict=strict), weights)
    for row, own in zip(values, weights[:, np.searchsorted(ground_truth.image_ids, recall.image_id)], strict=True):
        copies = ObjectRecall(**{name: np.repeat(column, own.astype(int)) for name, column in vars(recall).items()})
        nr = nms_recall_table(copies, strict=strict)["nr"]
        np.testing.assert_allclose(row, [*nr, nr.mean(skipna=False)], atol=1e-12)


def test_objects_of_unknown_images_are_refused():
    """Counting by image knows every image, or says which it does not."""
    with pytest.raises(DataError, match="image id 1"):
        found_by_image(recall_of([0.9], [0.9]), np.array([2, 3]))
