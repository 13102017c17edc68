"""One row an anchor of a bag: geometry in the file's pixels, probabilities that multiply, shares that add up."""

from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.boxes import iou as oracle_iou
from PIL import Image
from tiny import MODEL, tiny_detector, tiny_model

from analysis.bags.matches import ANCHOR_COLUMNS, summarize_bags
from freeanchor.data.coco import ImageRecord
from freeanchor.inference.bags import bag_rows
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

BOXES = [[10.0, 20.0, 60.0, 90.0], [64.0, 32.0, 120.0, 62.0], [80.0, 80.0, 110.0, 120.0]]


def _image(directory: Path, boxes: list[list[float]]) -> ImageRecord:
    """An image of 128 px, which the tiny detector sees at half that size."""
    path = directory / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)).save(path)
    return ImageRecord(
        image_id=42,
        path=path,
        width=128,
        height=128,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        annotation_ids=torch.arange(len(boxes)) + 100,
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The bags of three objects, one a class."""
    image = _image(tmp_path_factory.mktemp("bags"), BOXES)
    return bag_rows(tiny_model(prior_prob=0.3), tiny_detector(), image, FreeAnchorLoss(bag_size=20))


def _corners(row: dict, prefix: str = "") -> tuple[float, ...]:
    return tuple(row[f"{prefix}{name}"] for name in ("x1", "y1", "x2", "y2"))


def _bags(rows: list[dict]) -> list[list[dict]]:
    return [list(bag) for _, bag in groupby(rows, key=lambda row: row["annotation_id"])]


def test_every_object_has_a_bag(rows: list[dict]) -> None:
    """`bag_size` rows an object, in the order of the objects, with its id, class and box."""
    bags = _bags(rows)
    assert [len(bag) for bag in bags] == [20, 20, 20]
    for number, (bag, category) in enumerate(zip(bags, ("dot", "box", "bar"), strict=True)):
        assert {(row["image_id"], row["annotation_id"], row["category"]) for row in bag} == {
            (42, 100 + number, category)
        }
        assert {_corners(row, "gt_") for row in bag} == {tuple(BOXES[number])}
        assert [row["rank"] for row in bag] == list(range(20))


def test_bags_hold_the_anchors_of_highest_iou(rows: list[dict]) -> None:
    """IoU is that of the anchor with the object, both in the file's pixels, and falls with the rank."""
    for bag in _bags(rows):
        for row in bag:
            assert row["iou"] == pytest.approx(oracle_iou(_corners(row), _corners(row, "gt_")), abs=1e-5)
        ious = [row["iou"] for row in bag]
        assert ious == sorted(ious, reverse=True)


def test_level_ratio_and_octave_describe_the_anchor(rows: list[dict]) -> None:
    """Area and shape are those of level, octave and ratio (height over width), in a frame twice as large."""
    for row in rows:
        x1, y1, x2, y2 = _corners(row)
        size = MODEL.anchors.sizes[row["level"] - 3] * 2 ** (row["octave"] / 3)
        assert ((x2 - x1) * (y2 - y1)) ** 0.5 == pytest.approx(2 * size, rel=1e-4)
        assert (y2 - y1) / (x2 - x1) == pytest.approx(row["ratio"], rel=1e-4)


def test_confidence_is_the_product_and_weights_are_mean_max_shares(rows: list[dict]) -> None:
    """confidence = cls_prob loc_prob; weight is 1 / (1 - confidence) over its sum in the bag (Sec. 3.3)."""
    for bag in _bags(rows):
        inverse = [1 / (1 - row["confidence"]) for row in bag]
        for row, share in zip(bag, inverse, strict=True):
            assert row["confidence"] == pytest.approx(row["cls_prob"] * row["loc_prob"], rel=1e-5)
            assert 0 <= row["loc_prob"] <= 1 + 1e-6
            assert 0 < row["cls_prob"] < 1
            assert row["weight"] == pytest.approx(share / sum(inverse), rel=1e-4)


def test_assigned_is_the_rule_of_iou(rows: list[dict], tmp_path: Path) -> None:
    """At least 0.5 with the object, unless another object has more; other thresholds give other anchors."""
    for row in rows:
        others = [oracle_iou(_corners(row), tuple(box)) for box in BOXES]
        if row["iou"] >= 0.5 + 1e-6 and row["iou"] == pytest.approx(max(others), abs=1e-6):
            assert row["assigned"] is True
        if row["iou"] < max(others) - 1e-6:
            assert row["assigned"] is False
    strict = RetinaNetLoss(foreground_iou=0.95, background_iou=0.95, low_quality_matches=False)
    image = _image(tmp_path, BOXES)
    few = bag_rows(tiny_model(), tiny_detector(), image, FreeAnchorLoss(bag_size=20), strict)
    assert sum(row["assigned"] for row in few) < sum(row["assigned"] for row in rows)


def test_rows_feed_the_analysis(rows: list[dict]) -> None:
    """With run, detector and step beside them they are a frame of matches, whose numbers come out finite."""
    import pandas as pd

    frame = pd.DataFrame(rows).assign(run="r", detector="FreeAnchor", step=1, num_steps=2, part_x=np.nan, part_y=np.nan)
    assert set(ANCHOR_COLUMNS) <= set(frame.columns)
    summary = summarize_bags(frame)
    assert summary["num_anchors"].tolist() == [20, 20, 20]
    assert bool(summary["effective_anchors"].between(1, 20 + 1e-6).all())


def test_an_image_without_objects_has_no_rows(tmp_path: Path) -> None:
    """Nothing to match, nothing to say."""
    assert bag_rows(tiny_model(), tiny_detector(), _image(tmp_path, []), FreeAnchorLoss()) == []


def test_a_hopeless_class_score_leaves_finite_numbers(tmp_path: Path) -> None:
    """Where the class score underflows to 0, so does the confidence, and nothing is nan."""
    model = tiny_model()
    with torch.no_grad():
        model.cls_head.output.bias.fill_(-200.0)
    found = bag_rows(model, tiny_detector(), _image(tmp_path, BOXES), FreeAnchorLoss(bag_size=5))
    for row in found:
        assert row["cls_prob"] == row["confidence"] == row["loc_prob"] == 0
        assert row["weight"] == pytest.approx(0.2)
