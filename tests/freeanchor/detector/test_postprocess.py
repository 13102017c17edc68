"""Candidates and detections: oracle in loops, torchvision's NMS, thresholds, caps and ties (authors' code)."""

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from oracles import postprocess as oracle
from oracles.inputs import random_inputs
from torch import Tensor

from freeanchor.detector import postprocess
from freeanchor.detector.postprocess import Candidates, InferenceConfig, merge_scales, select_candidates, suppress

LEVEL_SIZES = (12, 8, 4)
IMAGE_SIZE = (50, 60)  # height, width: smaller than the scene, so that clipping shows
seeds = st.integers(0, 10_000)


def _predictions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    inputs = random_inputs(seed, num_objects=(4,)).to(torch.float32)
    return inputs.logits[0], inputs.deltas[0], inputs.anchors


def _candidates(*predictions: object, **settings: float | None) -> Candidates:
    """Those under the cap."""
    return select_candidates(*predictions, InferenceConfig(**settings))[0]


def _select(seed: int, **settings: float | None) -> Candidates:
    return _candidates(*_predictions(seed), LEVEL_SIZES, IMAGE_SIZE, **settings)


def _rows(candidates: Candidates) -> list[tuple]:
    """(score, label, box) of every candidate, best first."""
    columns = candidates.scores.tolist(), candidates.labels.tolist(), candidates.boxes.tolist()
    return sorted(zip(*columns, strict=True), key=lambda row: -row[0])


def _assert_same(candidates: Candidates, expected: list[oracle.Candidate]) -> None:
    rows = _rows(candidates)
    assert len(rows) == len(expected)
    for row, other in zip(rows, sorted(expected, key=lambda row: -row[0]), strict=True):
        assert row[0] == pytest.approx(other[0], rel=1e-5)
        assert row[1] == other[1]
        assert row[2] == pytest.approx(list(other[2]), abs=1e-3)


@given(seeds, st.sampled_from([0.05, 0.3, 0.6]), st.sampled_from([None, 1, 5, 1000]))
def test_candidates_equal_the_oracle(seed: int, score_threshold: float, max_per_level: int | None) -> None:
    """The best (anchor, class) pairs of each level above the threshold come decoded and clipped."""
    logits, deltas, anchors = _predictions(seed)
    settings = {"score_threshold": score_threshold, "max_per_level": max_per_level}
    rows = [tuple(row) for row in deltas.tolist()], [tuple(row) for row in anchors.tolist()]
    expected = oracle.select(logits.tolist(), *rows, list(LEVEL_SIZES), IMAGE_SIZE, **settings)
    _assert_same(_select(seed, **settings), expected)


@given(seeds, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([None, 1, 6, 100]))
def test_detections_equal_the_oracle(seed: int, nms_iou: float, max_detections: int | None) -> None:
    """Greedy suppression within each class keeps what loops keep, best first."""
    candidates = _select(seed)
    detections = suppress(candidates, nms_iou=nms_iou, max_detections=max_detections)
    _assert_same(detections, oracle.suppress(_rows(candidates), nms_iou, max_detections))
    assert (detections.scores.diff() <= 0).all()


def test_suppression_equals_torchvisions() -> None:
    """On many boxes of five classes the survivors are those of batched_nms, in its order."""
    inputs = random_inputs(3, num_objects=(20,), num_anchors=400, num_classes=5).to(torch.float32)
    candidates = _candidates(inputs.logits[0], inputs.deltas[0], inputs.anchors, [400], (64, 64))
    kept = torchvision.ops.batched_nms(candidates.boxes, candidates.scores, candidates.labels, 0.5)
    detections = suppress(candidates, nms_iou=0.5, max_detections=None)
    assert 0 < len(kept) < len(candidates)
    torch.testing.assert_close(detections.boxes, candidates.boxes[kept])
    torch.testing.assert_close(detections.scores, candidates.scores[kept])
    torch.testing.assert_close(detections.labels, candidates.labels[kept])


def test_a_score_at_the_threshold_is_no_candidate() -> None:
    """Only scores strictly above the threshold count: 0.5 does not pass 0.5."""
    logits = torch.tensor([[0.0, 1e-3], [0.0, -1e-3]])
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    candidates = _candidates(logits, torch.zeros(2, 4), anchors, [2], (50, 50), score_threshold=0.5)
    assert candidates.labels.tolist() == [1]
    assert candidates.boxes.tolist() == [[0, 0, 10, 10]]


def test_one_anchor_may_give_several_classes() -> None:
    """Each (anchor, class) pair is a candidate of its own, and other classes do not suppress it."""
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    candidates = _candidates(torch.tensor([[1.0, 2.0, -9.0]]), torch.zeros(1, 4), anchors, [1], (50, 50))
    assert sorted(candidates.labels.tolist()) == [0, 1]
    assert suppress(candidates).labels.tolist() == [1, 0]


def test_the_cap_holds_for_each_level_apart() -> None:
    """A crowded level cannot take the places of another."""
    logits = torch.cat([torch.full((12, 3), 3.0), torch.full((8, 3), 2.0), torch.full((4, 3), 1.0)])
    _, deltas, anchors = _predictions(0)
    candidates = _candidates(logits, deltas, anchors, LEVEL_SIZES, IMAGE_SIZE, max_per_level=5)
    values, counts = candidates.scores.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([1.0, 2.0, 3.0]).sigmoid())
    assert counts.tolist() == [5, 5, 5]


def test_boxes_stay_inside_the_image() -> None:
    """Height and width are not confused when boxes are clipped."""
    anchors = torch.tensor([[-10.0, -10, 200, 200]])
    candidates = _candidates(torch.tensor([[5.0]]), torch.zeros(1, 4), anchors, [1], (50, 80))
    assert candidates.boxes.tolist() == [[0, 0, 80, 50]]


def test_nms_keeps_a_box_at_exactly_its_threshold() -> None:
    """Only IoU above `nms_iou` suppresses: a box of IoU exactly 0.5 stays, a closer one goes."""
    boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 3]])
    candidates = Candidates(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 0]))
    assert suppress(candidates, nms_iou=0.5).scores.tolist() == pytest.approx([0.9, 0.8])


def test_of_identical_boxes_with_tied_scores_one_is_kept() -> None:
    """Ties neither duplicate nor lose a detection."""
    candidates = Candidates(torch.tensor([[5.0, 5, 9, 9]] * 4), torch.full((4,), 0.5), torch.tensor([0, 0, 1, 1]))
    assert sorted(suppress(candidates).labels.tolist()) == [0, 1]


def test_tied_scores_do_not_exceed_the_cap() -> None:
    """The cap counts detections, also where the last of them tie (the authors' code may return more)."""
    boxes = torch.arange(10.0)[:, None] * 20 + torch.tensor([0.0, 0, 10, 10])
    candidates = Candidates(boxes, torch.full((10,), 0.5), torch.zeros(10, dtype=torch.int64))
    assert len(suppress(candidates, max_detections=3).scores) == 3


def test_boxes_of_no_area_are_harmless() -> None:
    """Clipped-away boxes neither raise nor suppress others."""
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    candidates = Candidates(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 0]))
    _assert_same(suppress(candidates), oracle.suppress(_rows(candidates), 0.5, 100))
    assert len(suppress(candidates)) == 3


def test_silent_predictions_give_no_candidates_and_no_detections() -> None:
    """Nothing above the threshold gives empty tensors of the right shapes, not a dummy box."""
    _, deltas, anchors = _predictions(1)
    candidates = _candidates(torch.full((24, 3), -9.0), deltas, anchors, LEVEL_SIZES, IMAGE_SIZE)
    for result in (candidates, suppress(candidates), merge_scales([candidates, candidates])):
        assert result.boxes.shape == (0, 4)
        assert result.scores.shape == result.labels.shape == (0,)
        assert result.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_give_the_boxes_of_float32(dtype: torch.dtype) -> None:
    """Boxes are decoded in float32: half precision would be off by pixels in a large image."""
    inputs = random_inputs(5).to(torch.float32)
    logits, deltas, anchors = inputs.logits[0].to(dtype), inputs.deltas[0].to(dtype), inputs.anchors + 1000.3
    half = _candidates(logits, deltas, anchors, [24], (2000, 2000), max_per_level=None)
    single = _candidates(logits.float(), deltas.float(), anchors, [24], (2000, 2000), max_per_level=None)
    assert len(half.scores) > 0
    torch.testing.assert_close(half.boxes.float(), single.boxes, rtol=0, atol=0.01)


def test_float64_predictions_pass_too() -> None:
    """Float64 predictions and anchors, as in exact comparisons, give the detections of float32."""
    inputs = random_inputs(6)
    wide = _candidates(inputs.logits[0], inputs.deltas[0], inputs.anchors, [24], (64, 64))
    inputs = inputs.to(torch.float32)
    single = _candidates(inputs.logits[0], inputs.deltas[0], inputs.anchors, [24], (64, 64))
    torch.testing.assert_close(suppress(wide).boxes.float(), suppress(single).boxes, rtol=0, atol=0.01)


@given(seeds)
def test_merging_scales_then_suppressing_is_one_nms_over_all(seed: int) -> None:
    """Multi-scale testing concatenates every scale's candidates and suppresses once (authors' code)."""
    parts = [_select(seed), _select(seed + 1)]
    merged = merge_scales(parts)
    expected = [row for part in parts for row in _rows(part)]
    _assert_same(merged, expected)
    _assert_same(suppress(merged), oracle.suppress(expected, 0.5, 100))


def test_raising_the_nms_threshold_to_one_suppresses_nothing() -> None:
    """At nms_iou 1 every candidate is a detection."""
    candidates = _select(2)
    assert _rows(suppress(candidates, nms_iou=1.0, max_detections=None)) == _rows(candidates)


def _hard_case(seed: int, dtype: torch.dtype = torch.float32) -> Candidates:
    """Candidates of one image that NMS gets wrong where classes are told apart by shifting coordinates.

    Corners on a grid, so that IoUs lie on thresholds; beside them a far outlier; coordinates up to 1e12, or negative;
    tied scores; labels up to 2^62.
    """
    generator = np.random.default_rng(seed)
    count, num_classes = (int(generator.choice(sizes)) for sizes in ([0, 1, 5, 40, 130], [1, 3, 30, 200]))
    scale, shift = generator.choice([1.0, 0.1, 1e12 / 21]), generator.choice([0.0, -300.0, 1e5 + 0.1, -1e12])
    corner = generator.integers(0, 12, (count, 2)) * scale + shift
    boxes = np.hstack([corner, corner + generator.integers(0, 9, (count, 2)) * scale])
    boxes[: count // 20] = generator.choice([-1e12, 1e12]) + np.array([0, 0, 5e9, 7e9])
    labels = generator.integers(2 ** generator.choice([3, 30, 62]), size=num_classes)
    return Candidates(
        boxes=torch.tensor(boxes, dtype=dtype),
        scores=torch.tensor(generator.integers(1, 12 if seed % 2 else 2**20, count) / 2**20, dtype=dtype),
        labels=torch.tensor(generator.choice(labels, count), dtype=torch.int64),
    )


def _class_after_class(candidates: Candidates, nms_iou: float) -> list[int]:
    """Positions that torchvision's kernel keeps of each class alone, best first, ties by position."""
    kept = []
    for label in set(candidates.labels.tolist()):
        own = (candidates.labels == label).nonzero()[:, 0]
        kept += own[torchvision.ops.nms(candidates.boxes[own], candidates.scores[own], nms_iou)].tolist()
    return sorted(kept, key=lambda row: (-candidates.scores[row].item(), row))


def _assert_kept_as_class_after_class(seeds: range) -> None:
    for seed in seeds:
        nms_iou = (0.0, 0.3, 0.5, 0.6, 1.0)[seed % 5]
        candidates = _hard_case(seed)
        kept = postprocess.nms_by_class(candidates.boxes, candidates.scores, candidates.labels, nms_iou)
        assert kept.tolist() == _class_after_class(candidates, nms_iou), seed
        assert torch.equal(suppress(candidates, nms_iou=nms_iou).boxes, candidates.boxes[kept[:100]])
        doubles = _hard_case(seed, torch.float64)
        loops = oracle.suppress(_rows(doubles), nms_iou, None)
        _assert_same(suppress(doubles, nms_iou=nms_iou, max_detections=None), loops)


@pytest.mark.parametrize("few", [postprocess.FEW_BOXES, 0, 10**9, 3], ids=["as it is", "calls", "pairs", "both"])
def test_any_labels_and_coordinates_are_suppressed_class_after_class(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same boxes as of each class alone, in float32 to the bit and in float64 as plain loops, in both ways."""
    monkeypatch.setattr(postprocess, "FEW_BOXES", few)
    _assert_kept_as_class_after_class(range(25))


@pytest.mark.slow
def test_two_thousand_cases_are_suppressed_class_after_class() -> None:
    """The same as the test above, of 2,000 cases."""
    _assert_kept_as_class_after_class(range(2000))


def test_a_far_outlier_leaves_the_duplicates_of_other_classes_to_nms() -> None:
    """Where one box lies at 1e12 px, boxes of other classes that repeat each other still go."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [1e12, 0, 1.1e12, 10], [0, 0, 10, 8], [0, 0, 10, 10]])
    candidates = Candidates(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]), torch.tensor([70, 70, 3, 2**53, 2**53 + 1]))
    assert suppress(candidates).scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.5])
