"""ATSS, SimOTA and TAL: mmdetection's own assignments, oracles in loops, and what they refuse."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import assigners as oracle
from torch import Tensor

from freeanchor.boxes import paired_iou
from freeanchor.losses import ATSS, TAL, SimOTA
from freeanchor.losses.assignment import Assigner, Predictions

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "assigners.npz"
METHODS: dict[str, Assigner] = {"atss": ATSS(), "simota": SimOTA(), "tal": TAL()}
NUM_CASES = 500


def _golden(case: int) -> dict[str, Tensor]:
    with np.load(GOLDEN) as arrays:
        prefix = f"{case}/"
        found = {key: arrays[key] for key in arrays.files if key.startswith(prefix)}
    return {key.removeprefix(prefix): torch.from_numpy(np.asarray(value)) for key, value in found.items()}


def _assign(method: Assigner, scene: dict[str, Any]) -> Tensor:
    return method.assign(
        scene["anchors"],
        scene["gt_boxes"],
        scene["gt_labels"],
        level_sizes=tuple(int(size) for size in scene["level_sizes"]),
        strides=scene["strides"],
        predictions=Predictions(boxes=scene["boxes"], scores=scene["scores"]),
    )


@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("name", METHODS)
def test_agrees_with_mmdetections_assignment(name: str, case: int) -> None:
    """Every anchor of every image goes to the same object, with one anchor per cell and with nine."""
    golden = _golden(case)
    assignment = _assign(METHODS[name], golden)
    assert assignment.dtype == torch.int64
    assert assignment.tolist() == golden[name].tolist()


@pytest.mark.parametrize("case", range(12))
def test_alignment_is_mmdetections_metric(case: int) -> None:
    """t of each assigned anchor with its object equals the metric that mmdetection weights its loss by."""
    golden = _golden(case)
    anchors = (golden["tal"] >= 0).nonzero()[:, 0]
    objects = golden["tal"][anchors]
    score = golden["scores"][anchors, golden["gt_labels"][objects]]
    t = TAL().alignment(score, paired_iou(golden["boxes"][anchors], golden["gt_boxes"][objects]))
    torch.testing.assert_close(t, golden["tal_metric"][anchors])


def _scene(seed: int) -> dict[str, Any]:
    """A small pyramid and objects in it: ties, none, outside, identical, more than anchors, in turn."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    num_per_cell, side = (1, 4)[seed % 2], 16 * int(torch.randint(1, 5, (), generator=generator))
    anchors, strides, level_sizes = [], [], []
    for stride in (8, 16, 32)[seed % 3 :]:
        cells = -(-side // stride)
        y, x = torch.meshgrid(*[(torch.arange(cells, dtype=torch.float64) + 0.5) * stride] * 2, indexing="ij")
        half = stride * torch.tensor([[2.0, 2.0], [1.0, 4.0], [4.0, 1.0], [3.0, 3.0]], dtype=torch.float64)
        middle = torch.stack([x, y], dim=-1).reshape(-1, 1, 2)
        anchors.append(torch.cat([middle - half[:num_per_cell], middle + half[:num_per_cell]], dim=-1).reshape(-1, 4))
        level_sizes.append(len(anchors[-1]))
        strides += [float(stride)] * level_sizes[-1]
    anchors, kind = torch.cat(anchors), seed % 7
    num_objects = {0: 0, 1: len(anchors) + 1 if len(anchors) < 8 else 9}.get(kind, 1 + seed % 5)
    sides, middle = 2 + draw(num_objects, 2) * side, (draw(num_objects, 2) * 1.6 - 0.3) * side
    gt_boxes = torch.cat([middle - sides / 2, middle + sides / 2], dim=1)
    if kind == 2:
        gt_boxes = gt_boxes.round()  # centres at equal distance from several cells
    if kind == 3:
        gt_boxes = gt_boxes[:1].repeat(num_objects, 1)
    if kind == 4:
        gt_boxes = gt_boxes + 3 * side
    boxes = anchors + 0.3 * side * (draw(len(anchors), 4) - 0.5)
    scores = 0.01 + 0.98 * draw(len(anchors), 3)
    if kind == 5:  # the same said everywhere: costs tie, and quarters of pixels keep them so in float32
        gt_boxes = (4 * gt_boxes).round() / 4
        boxes, scores = anchors.clone(), torch.full_like(scores, 0.25)
    labels = torch.randint(3, (num_objects,), generator=generator)
    return {
        "anchors": anchors, "strides": torch.tensor(strides, dtype=torch.float64), "level_sizes": level_sizes,
        "per_cell": num_per_cell, "gt_boxes": gt_boxes, "gt_labels": labels, "boxes": boxes, "scores": scores,
    }  # fmt: skip


def _nearest(dtype: torch.dtype) -> Callable[[Sequence[float], int], list[int]]:
    """The least of some numbers in the order in which torch has them: the classes leave ties to it."""
    return lambda values, k: torch.tensor(values, dtype=dtype).topk(k, largest=False).indices.tolist()


def _expected(name: str, scene: dict[str, Any]) -> list[int]:
    anchors, gt_boxes, boxes = ([tuple(box) for box in scene[key].tolist()] for key in ("anchors", "gt_boxes", "boxes"))
    labels, strides, scores = (scene[key].tolist() for key in ("gt_labels", "strides", "scores"))
    if name == "atss":
        return oracle.atss(anchors, gt_boxes, scene["level_sizes"], scene["per_cell"], _nearest(torch.float64))
    if name == "tal":
        return oracle.tal(anchors, gt_boxes, labels, boxes, scores, _nearest(torch.float64))
    return oracle.simota(anchors, gt_boxes, labels, strides, boxes, scores, _nearest(torch.float32))


def _disagreeing(name: str, seeds: range) -> list[int]:
    scenes = {seed: _scene(seed) for seed in seeds}
    return [seed for seed, scene in scenes.items() if _assign(METHODS[name], scene).tolist() != _expected(name, scene)]


@pytest.mark.parametrize("name", METHODS)
def test_assignment_equals_loops_over_the_definition(name: str) -> None:
    """Ties, images without objects, objects outside, identical ones, and more objects than anchors."""
    assert _disagreeing(name, range(21)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_assignment_equals_loops_over_the_definition_everywhere(name: str) -> None:
    """The same on 500 random images."""
    assert _disagreeing(name, range(NUM_CASES)) == []
