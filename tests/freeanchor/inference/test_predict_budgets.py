"""NMS recall of a detector's best candidates alone: as the analysis has it from a file, and all of them as without."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import FLOAT32, eager_model, tiny_detector, tiny_split, written_candidates

from analysis.evaluation.nms_recall import NmsRecallDefinition, object_recall
from freeanchor.data.coco import Split
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.inference.predict import predict


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    """A network that finds something everywhere."""
    return eager_model()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Four images of two objects each."""
    return tiny_split(tmp_path_factory.mktemp("data"), "val")


def test_budgets_are_those_of_the_analysis(tmp_path: Path, model: RetinaNet, split: Split) -> None:
    """Of each image the ten and two hundred best-scored candidates: as the analysis takes them from a file."""
    config, budgets = InferenceConfig(max_per_level=None), (10, 200)
    predictions = list(predict(model, tiny_detector(), split.images, config, FLOAT32, budgets=budgets))
    ground_truth, candidates = written_candidates(tmp_path / "candidates.json", predictions, split)
    for budget in budgets:
        found = object_recall(ground_truth, candidates, definition=NmsRecallDefinition(max_candidates=budget))
        for side, expected in (("before", found.iou_before), ("after", found.iou_after)):
            streamed = torch.cat([getattr(one.at_budgets[budget], side) for one in predictions]).detach().numpy()
            np.testing.assert_allclose(streamed, expected, atol=1e-5)


@pytest.mark.parametrize("convention", ["continuous", "inclusive"])
@pytest.mark.parametrize(
    "inference", [{}, {"clip": "after_nms", "drop_empty": True}, {"short_sides": (48, 96), "max_per_level": 30}]
)
def test_a_budget_of_all_candidates_is_the_papers_recall(
    model: RetinaNet, split: Split, convention: str, inference: dict[str, object]
) -> None:
    """More than there are: the same IoUs as without a budget. Fewer find less, in some objects at least."""
    detector = tiny_detector()
    detector = replace(detector, inputs=replace(detector.inputs, box_convention=convention))
    config = InferenceConfig(**inference)
    found = list(predict(model, detector, split.images, config, FLOAT32, budgets=(10, 10**6)))
    for one in found:
        few, all_of_them = one.at_budgets[10], one.at_budgets[10**6]
        assert torch.equal(all_of_them.before, one.recall.before)
        assert torch.equal(all_of_them.after, one.recall.after)
        assert few.num_given == 10 < all_of_them.num_given
        assert bool((few.before <= one.recall.before).all())
    assert any(bool((one.at_budgets[10].before < one.recall.before).any()) for one in found)


def test_without_budgets_nothing_is_sorted(model: RetinaNet, split: Split) -> None:
    """Whoever asks for none gets none."""
    assert next(predict(model, tiny_detector(), split.images, InferenceConfig(), FLOAT32)).at_budgets == {}
