"""NMS and soft-NMS on plain columns: against the papers' loops, and what must hold of any suppression."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.detection_metrics import iou
from oracles.detection_sets import detection_sets
from oracles.nms_recall import greedy_nms
from oracles.soft_nms import gaussian, linear, soft_nms
from torchvision.ops import nms
from world_columns import found

from analysis.coco.columns import Detections
from analysis.evaluation import suppression as module
from analysis.evaluation.suppression import GaussianSoftNms, HardNms, LinearSoftNms, pairwise_iou, suppress, survivors

CASES = (
    (HardNms(nms_iou=0.5), lambda rows, _: greedy_nms(rows, 0.5)),
    (HardNms(nms_iou=0.0), lambda rows, _: greedy_nms(rows, 0.0)),
    (LinearSoftNms(nms_iou=0.3), lambda rows, threshold: soft_nms(rows, linear(0.3), threshold)),
    (GaussianSoftNms(sigma=0.5), lambda rows, threshold: soft_nms(rows, gaussian(0.5), threshold)),
)


def crowded(count: int, num_images: int) -> Detections:
    """Many overlapping candidates of two classes."""
    generator = np.random.default_rng(0)
    corner = generator.random((count, 2)) * 100
    return Detections(
        image_id=generator.integers(num_images, size=count),
        category_id=generator.integers(2, size=count),
        boxes=np.hstack([corner, corner + 20 + generator.random((count, 2)) * 60]),
        scores=generator.random(count) * 0.9 + 0.05,
    )


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("case", range(len(CASES)))
@settings(max_examples=25, deadline=None)
@given(data=detection_sets(distinct_scores=True))
def test_equals_the_papers_loops(case, threshold, data):
    """The boxes kept, and the scores left to them, are those of the papers' pseudo code, image by image."""
    suppression, oracle = CASES[case]
    candidates = data[1]
    kept = suppress(candidates, suppression, score_threshold=threshold)
    assert kept.image_id.tolist() == sorted(kept.image_id.tolist())
    for image in np.unique(candidates.image_id):
        rows = [
            (tuple(candidates.boxes[d]), candidates.category_id[d], candidates.scores[d])
            for d in np.flatnonzero((candidates.image_id == image) & (candidates.scores > threshold))
        ]
        own = kept.image_id == image
        ours = zip(kept.boxes[own].tolist(), kept.category_id[own].tolist(), kept.scores[own].tolist(), strict=True)
        expected = [(*box, int(c), round(s, 9)) for box, c, s in oracle(rows, threshold)]
        assert sorted((*box, c, round(s, 9)) for box, c, s in ours) == sorted(expected)
        assert (np.diff(kept.scores[own]) <= 0).all()


def hard_case(seed: int) -> Detections:
    """Candidates of one image that NMS gets wrong where it is not exact.

    Corners on a grid, so that IoUs lie on thresholds and boxes are identical, without extent, or far from the origin;
    tied scores; ids up to 2^62.
    """
    generator = np.random.default_rng(seed)
    count = int(generator.choice([1, 5, 40, 64, 65, 260]))
    shift = generator.choice([0.0, -700.0, 2.0**20 + 0.1, 2.0**40, -(1e12 / 3)])
    scale = generator.choice([1.0, 0.1, 2.0**30 / 3])
    corner = generator.integers(0, 12, (count, 2)) * scale + shift
    ids = generator.choice([0, 1, 7, -3, 2**62, 2**62 - 1], size=int(generator.integers(1, 5)), replace=False)
    return Detections(
        image_id=np.full(count, 2**61),
        category_id=generator.choice(ids, count),
        boxes=np.hstack([corner, corner + generator.integers(0, 9, (count, 2)) * scale]),
        scores=generator.integers(1, 12 if seed % 2 else 2**40, count) / 2**40,
    )


@pytest.mark.parametrize("nms_iou", [0.0, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("block", [64, 3])
def test_nms_keeps_the_rows_of_loops_and_of_torchvision(nms_iou, block, monkeypatch):
    """The very rows, best first, ties by row: as a plain loop keeps them, and torchvision's kernel on each class."""
    monkeypatch.setattr(module, "_BLOCK", block)
    monkeypatch.setattr(module, "_CHUNK", 2 * block)
    _assert_kept_as_loops_keep(range(40), nms_iou)


@pytest.mark.slow
def test_two_thousand_cases_are_suppressed_as_loops_do():
    """The same as the test above, of 2,000 cases, at the usual IoU."""
    _assert_kept_as_loops_keep(range(40, 2040), 0.5)


def _assert_kept_as_loops_keep(seeds, nms_iou):
    for seed in seeds:
        candidates = hard_case(seed)
        every = np.arange(len(candidates))
        kept, scores = survivors(candidates, every, HardNms(nms_iou=nms_iou), score_threshold=0.0)
        assert scores.tolist() == candidates.scores[kept].tolist()
        rows = zip(candidates.boxes.tolist(), candidates.category_id.tolist(), candidates.scores.tolist(), every)
        assert kept.tolist() == [row[3] for row in greedy_nms(rows, nms_iou)]
        theirs = []
        for category in np.unique(candidates.category_id):
            own = np.flatnonzero(candidates.category_id == category)
            boxes, own_scores = torch.from_numpy(candidates.boxes[own]), torch.from_numpy(candidates.scores[own])
            theirs += own[nms(boxes, own_scores, nms_iou).numpy()].tolist()
        assert kept.tolist() == sorted(theirs, key=lambda row: (-candidates.scores[row], row))


def test_by_hand():
    """Two boxes with IoU 1/3: NMS at 0.3 removes the worse, linear leaves it 2/3 of its score, gaussian e^(-2/9)."""
    candidates = found([[0, 0, 10, 10], [5, 0, 15, 10]], [0.9, 0.6])
    assert suppress(candidates, HardNms(nms_iou=0.3)).scores.tolist() == [0.9]
    assert suppress(candidates, HardNms(nms_iou=0.4)).scores.tolist() == [0.9, 0.6]
    assert suppress(candidates, LinearSoftNms(nms_iou=0.3)).scores == pytest.approx([0.9, 0.4])
    assert suppress(candidates, LinearSoftNms(nms_iou=0.4)).scores.tolist() == [0.9, 0.6]
    assert suppress(candidates, GaussianSoftNms(sigma=0.5)).scores == pytest.approx([0.9, 0.6 * math.exp(-2 / 9)])


def test_a_fallen_score_is_measured_by_the_threshold_of_candidates():
    """What soft-NMS lets fall to the threshold or under it is gone; other images and classes are not touched."""
    candidates = found([[0, 0, 10, 10], [5, 0, 15, 10]], [0.9, 0.6])
    assert suppress(candidates, LinearSoftNms(nms_iou=0.3), score_threshold=0.41).scores.tolist() == [0.9]
    apart = found(np.tile(candidates.boxes[0], (3, 1)), [0.9, 0.8, 0.7], image_id=[1, 2, 2], category_id=[1, 1, 2])
    assert suppress(apart, GaussianSoftNms()).scores.tolist() == [0.9, 0.8, 0.7]


def test_identical_boxes_and_boxes_without_extent():
    """Of identical boxes linear leaves one, gaussian all with less and less; boxes without extent overlap nothing."""
    same = found([[0, 0, 10, 10]] * 3, [0.9, 0.9, 0.9])
    assert len(suppress(same, LinearSoftNms())) == 1
    left = suppress(same, GaussianSoftNms(sigma=1.0), score_threshold=0.0).scores
    assert left == pytest.approx([0.9, 0.9 / math.e, 0.9 / math.e**2])
    flat = found([[0, 0, 0, 10]] * 2, [0.9, 0.8])
    for suppression, _ in CASES:
        assert suppress(flat, suppression).scores.tolist() == [0.9, 0.8]


@pytest.mark.parametrize("suppression", [case[0] for case in CASES])
def test_nothing_in_nothing_out(suppression):
    """No candidates, or none above the threshold, give no detections."""
    assert len(suppress(found([], []), suppression)) == 0
    assert len(suppress(found([[0, 0, 9, 9]], [0.05]), suppression, score_threshold=0.05)) == 0


@pytest.mark.parametrize("suppression", [case[0] for case in CASES])
def test_the_cap_keeps_the_best_of_each_image(suppression):
    """Of every image the best few are left, over all classes, by the scores after suppression."""
    candidates = crowded(600, num_images=4)
    everything, capped = suppress(candidates, suppression), suppress(candidates, suppression, max_detections=3)
    for image in range(4):
        expected = everything.scores[everything.image_id == image][:3]
        assert capped.scores[capped.image_id == image].tolist() == expected.tolist()


def test_sizes_are_those_of_the_file():
    """Width and height go through as they came, or COCO's IoU would change in the last bit."""
    sizes = np.array([[0.1, 0.2]])
    corner = np.array([[1e3, 1e3]])
    candidates = Detections(
        image_id=np.array([1]), category_id=np.array([1]), boxes=np.hstack([corner, corner + sizes]),
        scores=np.array([0.5]), sizes=sizes,
    )  # fmt: skip
    assert suppress(candidates, HardNms()).sizes.tolist() == [[0.1, 0.2]]


def test_tens_of_thousands_of_candidates_take_seconds():
    """28,000 candidates in 300 crowded images: soft-NMS in well under 30 s of processor time."""
    candidates = crowded(28_000, num_images=300)
    start = time.process_time()
    suppress(candidates, GaussianSoftNms())
    assert time.process_time() - start < 30


@settings(max_examples=25, deadline=None)
@given(detection_sets(), st.integers(1, 12))
def test_pairwise_iou_is_the_definition(data, count):
    """Every pair of boxes has the IoU worked out by itself, 0 for boxes without extent."""
    a, b = data[0].boxes[:count], data[1].boxes[:count]
    expected = np.array([[iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(pairwise_iou(a, b), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HardNms(nms_iou=50.0), "nms_iou must lie in .0, 1., got 50.0; pass a fraction"),
        (lambda: LinearSoftNms(nms_iou=-0.1), "nms_iou must lie in"),
        (lambda: GaussianSoftNms(sigma=0.0), "sigma must be greater than 0"),
        (lambda: GaussianSoftNms(sigma=float("nan")), "sigma must be greater than 0"),
        (lambda: suppress(found([[0, 0, 9, 9]], [0.5]), GaussianSoftNms(), score_threshold=-1.0), "not be neg"),
    ],
)
def test_what_cannot_be_meant_is_refused(make, message):
    """Percentages, widths of 0, and thresholds under which a falling score could rise."""
    with pytest.raises(ValueError, match=message):
        make()
