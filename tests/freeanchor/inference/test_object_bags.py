"""Bags: per anchor geometry, probabilities and shares; the same as arrays of a data set, in any batch, and as rows."""

from dataclasses import fields, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import boxes as oracle
from PIL import Image
from tiny import FLOAT32, MODEL, tiny_detector, tiny_model

from analysis.bags.matches import ANCHOR_COLUMNS, summarize_bags
from freeanchor.data.coco import ImageRecord, collate, load_sample
from freeanchor.inference.bags import ObjectBags, bag_rows, object_bags
from freeanchor.losses.free_anchor import FreeAnchorLoss
from freeanchor.losses.retinanet import RetinaNetLoss

LOSS = FreeAnchorLoss(bag_size=12)
ONE, TWO = [[10.0, 20.0, 60.0, 70.0]], [[10.0, 12.0, 60.0, 50.0], [30.0, 8.0, 45.0, 60.0]]


def _image(directory: Path, number: int, boxes: list[list[float]], size: tuple[int, int] = (128, 128)) -> ImageRecord:
    """An image of noise with objects of the first classes, which the tiny detector sees at half its size."""
    path = directory / f"{number}.png"
    Image.fromarray(np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return ImageRecord(
        image_id=number,
        path=path,
        width=size[0],
        height=size[1],
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
        annotation_ids=torch.arange(len(boxes)) + 10 * number,
    )


@pytest.fixture
def images(tmp_path: Path) -> list[ImageRecord]:
    """Two sizes in turn, one image without objects."""
    sizes = ((128, 128), (128, 128), (128, 128), (90, 128), (128, 128))
    boxes = (ONE, [], TWO, TWO, ONE)
    return [_image(tmp_path, n, own, size) for n, (size, own) in enumerate(zip(sizes, boxes, strict=True))]


def _tensors(bags: ObjectBags) -> dict[str, torch.Tensor]:
    return {item.name: getattr(bags, item.name) for item in fields(bags) if item.name != "image"}


def test_batches_change_nothing(images: list[ImageRecord]) -> None:
    """Every image's bags are those that it has alone, in the order of the images, in batches of any size."""
    model = tiny_model(prior_prob=0.3)
    together = list(object_bags(model, tiny_detector(), images, LOSS, batch_size=2))
    assert [bags.image.image_id for bags in together] == [0, 1, 2, 3, 4]
    for bags, image in zip(together, images, strict=True):
        (alone,) = object_bags(model, tiny_detector(), [image], LOSS)
        assert bags.weight.shape == (len(image.boxes), 12)
        for name, tensor in _tensors(bags).items():
            torch.testing.assert_close(tensor, _tensors(alone)[name], rtol=1e-4, atol=1e-5)


def test_an_image_without_objects_has_empty_bags(images: list[ImageRecord]) -> None:
    """G = 0, with every axis in its place."""
    (bags,) = object_bags(tiny_model(), tiny_detector(), [images[1]], LOSS)
    assert bags.boxes.shape == (0, 12, 4)
    assert bags.assigned.shape == (0, 12)


def test_rows_are_the_arrays_anchor_by_anchor(images: list[ImageRecord]) -> None:
    """`bag_rows` gives what `object_bags` holds, a row an anchor."""
    model = tiny_model(prior_prob=0.3)
    (bags,) = object_bags(model, tiny_detector(), [images[2]], LOSS)
    rows = bag_rows(model, tiny_detector(), images[2], LOSS)
    assert len(rows) == 24
    for place, row in enumerate(rows):
        index = divmod(place, 12)
        assert row["annotation_id"] == 20 + index[0]
        assert row["rank"] == index[1]
        assert (row["x1"], row["y1"], row["x2"], row["y2"]) == tuple(bags.boxes[index].tolist())
        for name in ("level", "ratio", "octave", "iou", "cls_prob", "loc_prob", "confidence", "weight", "assigned"):
            assert row[name] == getattr(bags, name)[index].item()


def test_cells_are_those_of_the_level(images: list[ImageRecord]) -> None:
    """A cell is its level's stride in the network's frame, here half the file's; centres are middles of cells."""
    (bags,) = object_bags(tiny_model(), tiny_detector(), [images[2]], LOSS)
    for level, stride, box in zip(
        bags.level.flatten(), bags.strides.flatten(0, 1), bags.boxes.flatten(0, 1), strict=True
    ):
        assert stride.tolist() == [2.0 * MODEL.anchors.strides[int(level) - 3]] * 2
        centre = (box[:2] + box[2:]) / 2 / stride
        torch.testing.assert_close(centre % 1, torch.full((2,), 0.5))


def test_boxes_are_those_that_the_network_predicts(tmp_path: Path) -> None:
    """Rank by rank, IoU of an object with the box of its anchor: decoded and clipped by hand, in the network's frame."""
    model, detector = tiny_model(prior_prob=0.3), tiny_detector()
    with torch.no_grad():  # deltas that move and stretch, many boxes beyond the borders
        model.box_head.output.weight.normal_(std=0.5, generator=torch.Generator().manual_seed(0))
    image = _image(tmp_path, 7, [[61.0, 33.0, 113.0, 88.0], [140.0, 5.0, 209.0, 41.0]], (210, 90))
    sample = load_sample(image, detector.inputs)
    (bags,) = object_bags(model, detector, [image], LOSS)
    output = model.eval()(collate([sample]).images)
    height, width = sample.image.shape[1:]
    anchors, num_clipped = output.anchors.tolist(), 0
    for gt_box, own, ious in zip(sample.boxes.tolist(), bags.box_iou.tolist(), bags.iou.tolist(), strict=True):
        best = sorted(range(len(anchors)), key=lambda a: -oracle.iou(gt_box, anchors[a]))[:12]
        for rank, anchor in enumerate(best):
            if any(abs(ious[rank] - other) < 1e-4 for other in (*ious[:rank], *ious[rank + 1 :])):
                continue  # anchors of equal IoU may change places
            box = oracle.decode(output.deltas[0, anchor].tolist(), anchors[anchor])
            num_clipped += oracle.clip(box, height, width) != box
            assert own[rank] == pytest.approx(oracle.iou(gt_box, oracle.clip(box, height, width)), abs=1e-4)
    assert num_clipped >= 3


def test_inclusive_boxes_keep_rows_and_objects_together(images: list[ImageRecord]) -> None:
    """That convention drops objects a pixel thin: the others keep their ids and boxes, and IoU is of the right pair."""
    thin = torch.tensor([[5.0, 5.0, 6.0, 90.0], [10.0, 12.0, 60.0, 50.0]])
    image = replace(images[2], boxes=thin)
    detector = tiny_detector()
    detector = replace(detector, inputs=replace(detector.inputs, box_convention="inclusive"))
    rows = bag_rows(tiny_model(), detector, image, LOSS)
    assert {(row["annotation_id"], row["category"], row["gt_x1"], row["gt_y2"]) for row in rows} == {
        (21, "box", 10.0, 50.0)
    }
    (bags,) = object_bags(tiny_model(), detector, [image], LOSS)
    assert bags.image.annotation_ids.tolist() == [21]
    widths = bags.boxes[..., 2] - bags.boxes[..., 0]
    sizes = torch.tensor(MODEL.anchors.sizes)[bags.level - 3] * 2 ** (bags.octave / 3) / bags.ratio.sqrt()
    torch.testing.assert_close(widths - 1, 2 * (sizes - 1), rtol=1e-4, atol=1e-3)  # the last pixel is what scales


def test_the_runtime_is_asked_for_its_precision(images: list[ImageRecord]) -> None:
    """bfloat16 gives nearly the same probabilities, in float32."""
    model = tiny_model(prior_prob=0.3)
    (wide,) = object_bags(model, tiny_detector(), [images[2]], LOSS, runtime=FLOAT32)
    (narrow,) = object_bags(model, tiny_detector(), [images[2]], LOSS, runtime=replace(FLOAT32, precision="bfloat16"))
    assert narrow.cls_prob.dtype == torch.float32
    torch.testing.assert_close(wide.cls_prob, narrow.cls_prob, rtol=0, atol=0.02)
    assert not torch.equal(wide.cls_prob, narrow.cls_prob)


BOXES = [[10.0, 20.0, 60.0, 90.0], [64.0, 32.0, 120.0, 62.0], [80.0, 80.0, 110.0, 120.0]]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The bags of three objects, one a class."""
    image = _image(tmp_path_factory.mktemp("bags"), 42, BOXES)
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
            (42, 420 + number, category)
        }
        assert {_corners(row, "gt_") for row in bag} == {tuple(BOXES[number])}
        assert [row["rank"] for row in bag] == list(range(20))


def test_bags_hold_the_anchors_of_highest_iou(rows: list[dict]) -> None:
    """IoU is that of the anchor with the object, both in the file's pixels, and falls with the rank."""
    for bag in _bags(rows):
        for row in bag:
            assert row["iou"] == pytest.approx(oracle.iou(_corners(row), _corners(row, "gt_")), abs=1e-5)
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
        others = [oracle.iou(_corners(row), tuple(box)) for box in BOXES]
        if row["iou"] >= 0.5 + 1e-6 and row["iou"] == pytest.approx(max(others), abs=1e-6):
            assert row["assigned"] is True
        if row["iou"] < max(others) - 1e-6:
            assert row["assigned"] is False
    strict = RetinaNetLoss(foreground_iou=0.95, background_iou=0.95, low_quality_matches=False)
    image = _image(tmp_path, 42, BOXES)
    few = bag_rows(tiny_model(), tiny_detector(), image, FreeAnchorLoss(bag_size=20), strict)
    assert sum(row["assigned"] for row in few) < sum(row["assigned"] for row in rows)


def test_rows_feed_the_analysis(rows: list[dict]) -> None:
    """With run, detector and step beside them they are a frame of matches, whose numbers come out finite."""
    frame = pd.DataFrame(rows).assign(run="r", detector="FreeAnchor", step=1, num_steps=2, part_x=np.nan, part_y=np.nan)
    assert set(ANCHOR_COLUMNS) <= set(frame.columns)
    summary = summarize_bags(frame)
    assert summary["num_anchors"].tolist() == [20, 20, 20]
    assert bool(summary["effective_anchors"].between(1, 20 + 1e-6).all())


def test_an_image_without_objects_has_no_rows(tmp_path: Path) -> None:
    """Nothing to match, nothing to say."""
    assert bag_rows(tiny_model(), tiny_detector(), _image(tmp_path, 42, []), FreeAnchorLoss()) == []


def test_a_hopeless_class_score_leaves_finite_numbers(tmp_path: Path) -> None:
    """Where the class score underflows to 0, so does the confidence, and nothing is nan."""
    model = tiny_model()
    with torch.no_grad():
        model.cls_head.output.bias.fill_(-200.0)
    found = bag_rows(model, tiny_detector(), _image(tmp_path, 42, BOXES), FreeAnchorLoss(bag_size=5))
    for row in found:
        assert row["cls_prob"] == row["confidence"] == row["loc_prob"] == 0
        assert row["weight"] == pytest.approx(0.2)
