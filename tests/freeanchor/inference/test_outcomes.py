"""What NMS makes of objects: against loops, and case by case on boxes set by hand."""

from pathlib import Path

import pytest
import torch
from oracles import boxes as oracle
from tiny import image_record

from freeanchor.detector.postprocess import Candidates, suppress
from freeanchor.inference.outcomes import Fate, NmsOutcomes, nms_outcomes

OBJECT = [10.0, 10.0, 50.0, 50.0]


def _candidates(*rows: tuple[list[float], float, int]) -> Candidates:
    boxes, scores, labels = zip(*rows) if rows else ([], [], [])
    return Candidates(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores),
        torch.tensor(labels, dtype=torch.int64),
    )


def _outcomes(
    objects: list[list[float]], *rows: tuple[list[float], float, int], limit: int | None = 100
) -> NmsOutcomes:
    """Of objects of classes 0, 1 …, after NMS at IoU 0.5."""
    found = _candidates(*rows)
    image = image_record(Path("none.png"), (100, 100), objects)
    return nms_outcomes(image, found, suppress(found, nms_iou=0.5, max_detections=limit), nms_iou=0.5)


def test_a_better_placed_box_falls_to_a_surer_one() -> None:
    """Best, survivor and suppressor with score and IoU, and the counts before and after."""
    close, sure = [10.0, 10.0, 50.0, 49.0], [12.0, 10.0, 50.0, 44.0]
    result = _outcomes([OBJECT], (close, 0.4, 0), (sure, 0.9, 0), (OBJECT, 0.99, 1))
    assert result.fate.tolist() == [Fate.SUPPRESSED]
    assert (result.num_before.tolist(), result.num_after.tolist()) == ([2], [1])
    assert result.best[0].tolist() == pytest.approx([*close, 0.4, oracle.iou(close, OBJECT)])
    assert result.suppressor[0].tolist() == pytest.approx([*sure, 0.9, oracle.iou(sure, OBJECT)])
    assert torch.equal(result.survivor, result.suppressor)
    assert result.owner.tolist() == [0]


def test_the_best_box_may_be_kept() -> None:
    """Then nothing suppresses it, and it is the survivor."""
    result = _outcomes([OBJECT], (OBJECT, 0.9, 0), ([12.0, 10.0, 50.0, 44.0], 0.4, 0))
    assert result.fate.tolist() == [Fate.KEPT]
    assert torch.equal(result.best, result.survivor)
    assert result.suppressor.isnan().all() and result.owner.tolist() == [-1]


def test_without_a_box_of_its_class_nothing_is_said() -> None:
    """Neither another class's box nor one that overlaps too little counts; nor does an image without candidates."""
    far = [40.0, 40.0, 80.0, 80.0]
    for rows in ([], [(OBJECT, 0.9, 1)], [(far, 0.9, 0)]):
        result = _outcomes([OBJECT], *rows)
        assert result.fate.tolist() == [Fate.NONE]
        assert result.best.isnan().all() and result.survivor.isnan().all()


def test_a_limit_is_told_from_a_suppression() -> None:
    """The best box that only the number of detections leaves out."""
    result = _outcomes([OBJECT], (OBJECT, 0.4, 0), ([60.0, 60.0, 90.0, 90.0], 0.9, 0), limit=1)
    assert result.fate.tolist() == [Fate.LIMIT]
    assert result.survivor.isnan().all()


def test_a_neighbours_box_is_told() -> None:
    """A surer box that belongs to another object of the class, and takes this one's."""
    neighbour = [22.0, 10.0, 62.0, 50.0]
    image = image_record(Path("none.png"), (100, 100), [OBJECT, neighbour])
    image.labels[:] = 0
    found = _candidates(([14.0, 10.0, 54.0, 50.0], 0.5, 0), ([20.0, 10.0, 60.0, 50.0], 0.9, 0))
    result = nms_outcomes(image, found, suppress(found, nms_iou=0.5), nms_iou=0.5)
    assert result.fate.tolist() == [Fate.SUPPRESSED, Fate.KEPT]
    assert result.owner.tolist() == [1, -1]


def test_images_without_objects_have_no_outcomes() -> None:
    """All arrays have their axes."""
    result = _outcomes([], (OBJECT, 0.5, 0))
    assert result.best.shape == (0, 6) and result.fate.shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_random_boxes_agree_with_loops(seed: int) -> None:
    """Greedy NMS written as a loop: what is kept, and who removes the best of each object."""
    generator = torch.Generator().manual_seed(seed)
    corners = 60 * torch.rand(40, 2, generator=generator)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand(40, 2, generator=generator)], dim=1)
    scores = torch.rand(40, generator=generator)
    objects = boxes[:4] + 2
    image = image_record(Path("none.png"), (100, 100), objects.tolist())
    image.labels[:] = 0
    found = Candidates(boxes, scores, torch.zeros(40, dtype=torch.int64))
    result = nms_outcomes(image, found, suppress(found, nms_iou=0.5), nms_iou=0.5)
    removed_by: dict[int, int] = {}
    kept: list[int] = []
    for row in scores.argsort(descending=True).tolist():
        better = [k for k in kept if oracle.iou(boxes[k].tolist(), boxes[row].tolist()) > 0.5]
        if better:
            removed_by[row] = better[0]
        else:
            kept.append(row)
    for index, box in enumerate(objects.tolist()):
        ious = [oracle.iou(box, other) for other in boxes.tolist()]
        best = max(range(40), key=lambda k: ious[k])
        assert result.best[index, :4].tolist() == boxes[best].tolist()
        assert result.num_before[index] == sum(iou >= 0.5 for iou in ious)
        assert result.num_after[index] == sum(ious[k] >= 0.5 for k in kept)
        assert result.fate[index] == (Fate.KEPT if best in kept else Fate.SUPPRESSED)
        if best in removed_by:
            assert result.suppressor[index, :4].tolist() == boxes[removed_by[best]].tolist()
