"""AP in Ultralytics' way: against plain loops, and where it parts from COCO's."""

import json

import numpy as np
import pytest
from oracles.detection_sets import random_detections, random_ground_truth
from oracles.plain_files import random_sets, write_files
from world_columns import found, objects

from analysis.evaluation.matching import IOU_THRESHOLDS
from analysis.evaluation.ultralytics import class_ap, ultralytics_frame
from experiments.cli import main


def _iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(area) - width * height)


def by_loops(ground_truth, detections, category, threshold) -> float:
    """AP of one class at one threshold, one detection after the other."""
    ranked = []
    num_objects = 0
    for image in ground_truth.image_ids:
        rows = [i for i in range(len(detections)) if detections.image_id[i] == image and detections.scores[i] >= 0.001]
        rows = sorted(rows, key=lambda i: -detections.scores[i])[:300]
        own = [
            g for g in range(len(ground_truth.boxes))
            if ground_truth.image_id[g] == image and ground_truth.category_id[g] == category
            and not ground_truth.iscrowd[g]
        ]  # fmt: skip
        num_objects += len(own)
        taken = set()
        for i in rows:
            if detections.category_id[i] != category:
                continue
            overlaps = [(_iou(ground_truth.boxes[g], detections.boxes[i]), -g) for g in own]
            best, place = max(overlaps, default=(0.0, 0))
            is_right = best >= threshold and place not in taken
            if is_right:
                taken.add(place)
            ranked.append((-detections.scores[i], len(ranked), is_right))
    if not num_objects:
        return float("nan")
    points, right = [(0.0, 1.0)], 0
    for rank, (_, _, is_right) in enumerate(sorted(ranked), start=1):
        right += is_right
        points.append((right / num_objects, right / rank))
    points.append((1.0, 0.0))
    if not ranked:
        return 0.0
    best = [max(p for _, p in points[i:]) for i in range(len(points))]
    heights = np.interp(np.linspace(0, 1, 101), [r for r, _ in points], best)
    return sum((heights[i] + heights[i + 1]) / 2 * 0.01 for i in range(100))


@pytest.mark.parametrize("seed", range(6))
def test_equals_plain_loops(seed):
    """Random images with several classes; crowd regions left out."""
    generator = np.random.default_rng(seed)
    ground_truth = random_ground_truth(generator, 4, 2, 14)
    detections = random_detections(generator, ground_truth, 60, distinct_scores=True)
    ours = class_ap(ground_truth, detections)
    for t in (0, 4, 9):
        for k, category in enumerate(ground_truth.category_ids):
            expected = by_loops(ground_truth, detections, category, IOU_THRESHOLDS[t])
            assert ours[t, k] == pytest.approx(expected, abs=1e-12, nan_ok=True)


A, B = [0, 0, 40, 40], [0, 10, 40, 50]  # IoU 0.6


def test_a_detection_whose_object_is_taken_is_wrong():
    """COCO lets the second take the other object, at IoU 0.6; Ultralytics' matching does not."""
    ground_truth, detections = objects([A, B]), found([A, A], [0.9, 0.8])
    assert class_ap(ground_truth, detections)[0, 0] == pytest.approx(0.625, abs=0.01)  # 1 to 0.5, then a slope


def test_scores_below_the_floor_do_not_count():
    """0.001 is kept, what is lower is not."""
    ground_truth = objects([A])
    assert class_ap(ground_truth, found([A], [0.001]))[0, 0] > 0.98
    assert class_ap(ground_truth, found([A], [0.0009]))[0, 0] == 0


def test_nothing_to_find_is_undefined():
    """No object at all: nan, as COCO's AP."""
    assert ultralytics_frame(objects([]), found([A], [0.9]))["value"].isna().all()


def test_evaluate_shows_it_beside_cocos(tmp_path, capsys):
    """`--ultralytics` adds two rows and changes no other."""
    gt, detections = write_files(tmp_path, *random_sets())
    tables = []
    for more in ([], ["--ultralytics"]):
        assert main(["evaluate", "--gt", gt, "--detections", detections, "--resamples", "0", "--json", *more]) == 0
        tables.append(json.loads(capsys.readouterr().out))
    assert tables[1][: len(tables[0])] == tables[0]
    assert [row["metric"] for row in tables[1][len(tables[0]) :]] == ["ap_ultralytics", "ap_50_ultralytics"]
    assert 0 < tables[1][-2]["value"] < tables[1][-1]["value"] < 1
