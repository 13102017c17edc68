"""A detector over a data set: frames of boxes, scales, and what NMS costs each object."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.boxes import iou as oracle_iou
from PIL import Image
from tiny import FLOAT32, eager_model, tiny_detector, tiny_model, tiny_split, written_candidates

from analysis.evaluation.nms_recall import NmsRecallDefinition, object_recall
from freeanchor.checkpoints.native import DetectorConfig
from freeanchor.data.coco import ImageRecord, InputConfig, Sample, Split
from freeanchor.detector.postprocess import Candidates, InferenceConfig
from freeanchor.detector.retinanet import RetinaNet
from freeanchor.inference import predict as module
from freeanchor.inference.predict import Prediction, best_iou, predict

COLUMNS = ("before", "after", "before_same_class", "after_same_class", "after_capped", "after_capped_same_class")


@pytest.fixture(scope="module")
def model() -> RetinaNet:
    """A network that finds something everywhere."""
    return eager_model()


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Four images of two objects each."""
    return tiny_split(tmp_path_factory.mktemp("data"), "val")


def _predict(
    model: RetinaNet, images: tuple[ImageRecord, ...], detector: DetectorConfig | None = None, **inference: object
) -> list[Prediction]:
    return list(predict(model, detector or tiny_detector(), images, InferenceConfig(**inference), FLOAT32))


def _image(path: Path, image: Image.Image, box: list[float] | None = None) -> ImageRecord:
    image.save(path)
    boxes = torch.tensor([box] if box else [], dtype=torch.float32).reshape(-1, 4)
    numbers = torch.arange(len(boxes))
    return ImageRecord(
        image_id=1,
        path=path,
        width=image.width,
        height=image.height,
        boxes=boxes,
        labels=numbers,
        annotation_ids=numbers,
    )


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def _random_candidates(generator: torch.Generator, count: int) -> Candidates:
    corners = 50 * torch.rand(count, 2, generator=generator)
    boxes = torch.cat([corners, corners + 30 * torch.rand(count, 2, generator=generator)], dim=1)
    return Candidates(boxes, torch.rand(count, generator=generator), torch.randint(3, (count,), generator=generator))


@given(st.integers(0, 10_000), st.integers(0, 4), st.integers(0, 12), st.booleans(), st.integers(1, 5))
def test_best_iou_is_the_highest_of_all(
    seed: int, num_objects: int, num_found: int, same_class: bool, chunk: int
) -> None:
    """As a double loop has it; 0 without candidates; however many are held against the objects at a time."""
    generator = torch.Generator().manual_seed(seed)
    objects, found = _random_candidates(generator, num_objects), _random_candidates(generator, num_found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "IOU_CHUNK", chunk)
        best = best_iou(objects.boxes, objects.labels, found, same_class=same_class)
    for g in range(num_objects):
        expected = 0.0
        for d in range(num_found):
            if not same_class or objects.labels[g] == found.labels[d]:
                expected = max(expected, oracle_iou(tuple(objects.boxes[g].tolist()), tuple(found.boxes[d].tolist())))
        assert best[g].item() == pytest.approx(expected, abs=1e-5)


def test_nms_takes_away_and_never_adds(model: RetinaNet, split: Split) -> None:
    """For every object, the best IoU before NMS is at least that after it, and any class at least its own."""
    for prediction in _predict(model, split.images):
        recall = prediction.recall
        assert len(recall.before) == 2
        for after in (recall.after, recall.after_capped, recall.before_same_class):
            assert bool((recall.before >= after).all())
        for after in (recall.after_same_class, recall.after_capped_same_class):
            assert bool((recall.before_same_class >= after).all())
        assert bool((recall.before > 0).all())


@pytest.mark.parametrize("max_detections", [3, 100])
def test_columns_agree_with_the_analysis_of_written_candidates(
    tmp_path: Path, model: RetinaNet, split: Split, max_detections: int
) -> None:
    """Streamed here or computed there from the same candidates as COCO results: the same best IoUs, all definitions."""
    predictions = _predict(model, split.images, max_per_level=None, max_detections=max_detections)
    ground_truth, candidates = written_candidates(tmp_path / "candidates.json", predictions, split)
    assert len(candidates) > 1000
    streamed = {
        name: torch.cat([getattr(one.recall, name) for one in predictions]).detach().numpy() for name in COLUMNS
    }
    order = torch.cat([prediction.image.annotation_ids for prediction in predictions]).numpy()
    for suffix in ("", "_same_class"):
        for after, cap in ((f"after{suffix}", None), (f"after_capped{suffix}", max_detections)):
            definition = NmsRecallDefinition(class_aware=bool(suffix), max_detections=cap)
            found = object_recall(ground_truth, candidates, definition=definition)
            assert found.annotation_id.tolist() == order.tolist()
            np.testing.assert_allclose(streamed[f"before{suffix}"], found.iou_before, atol=1e-5)
            np.testing.assert_allclose(streamed[after], found.iou_after, atol=1e-5)


def test_caps_hold_for_detections_and_not_for_candidates(model: RetinaNet, split: Split) -> None:
    """NMS recall counts every candidate above the score threshold, detections are the best few (authors' code)."""
    free = _predict(model, split.images, max_per_level=None, max_detections=None)
    capped = _predict(model, split.images, max_per_level=6, max_detections=10)
    for one, other in zip(free, capped, strict=True):
        assert torch.equal(one.candidates.scores, other.candidates.scores)
        assert torch.equal(one.recall.before, other.recall.before)
        assert torch.equal(one.recall.after, other.recall.after)
        assert len(one.detections) > len(other.detections) == 10


def test_candidates_score_above_the_threshold_and_lie_in_the_image(model: RetinaNet, split: Split) -> None:
    """Boxes are clipped to the file's frame; detections are sorted, best first."""
    for prediction in _predict(model, split.images, score_threshold=0.4):
        assert prediction.candidates.scores.min() > 0.4
        boxes = prediction.candidates.boxes
        assert boxes.min() >= 0
        assert boxes.max() <= 64 + 1e-4
        scores = prediction.detections.scores.tolist()
        assert scores == sorted(scores, reverse=True)


def test_an_image_and_its_resized_copy_have_boxes_in_the_same_places(tmp_path: Path, model: RetinaNet) -> None:
    """Boxes come in the pixels of the file, whatever size the network saw."""
    large = _noise(128, 192)
    images = (
        _image(tmp_path / "large.png", large, [20, 30, 80, 90]),
        _image(tmp_path / "small.png", large.resize((64, 96), Image.Resampling.BILINEAR), [10, 15, 40, 45]),
    )
    one, other = _predict(model, images)
    assert len(one.candidates) == len(other.candidates) > 0
    torch.testing.assert_close(one.candidates.boxes, 2 * other.candidates.boxes)
    torch.testing.assert_close(one.candidates.scores, other.candidates.scores)
    torch.testing.assert_close(one.recall.before, other.recall.before)


@pytest.mark.parametrize("size", [(64, 64), (75, 53)])
def test_multi_scale_candidates_are_those_of_each_scale(
    tmp_path: Path, model: RetinaNet, size: tuple[int, int]
) -> None:
    """All scales' candidates, in the file's frame, go through one NMS (authors' code)."""
    image = _image(tmp_path / "p.png", _noise(*size), [10, 12, 40, 44])
    (together,) = _predict(model, (image,), short_sides=(32, 64, 80))
    apart = [_predict(model, (image,), short_sides=(side,))[0] for side in (32, 64, 80)]
    assert torch.equal(together.candidates.boxes, torch.cat([one.candidates.boxes for one in apart]))
    assert torch.equal(together.candidates.scores, torch.cat([one.candidates.scores for one in apart]))
    limit = torch.tensor([*size, *size]) + 1e-3
    assert bool((together.candidates.boxes <= limit).all())
    best = torch.stack([one.recall.before for one in apart]).amax(dim=0)
    assert torch.equal(together.recall.before, best)


def test_one_scale_of_the_inputs_own_size_changes_nothing(model: RetinaNet, split: Split) -> None:
    """Multi-scale testing at the usual scale alone is the usual test."""
    for one, other in zip(_predict(model, split.images), _predict(model, split.images, short_sides=(64,)), strict=True):
        assert torch.equal(one.detections.boxes, other.detections.boxes)


def test_the_longest_side_grows_with_the_scale(
    tmp_path: Path, model: RetinaNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(480, 800) to (1280, 2133): the limit of the long side keeps its proportion to the short side (authors' code)."""
    seen, load = [], module.load_sample

    def record(*arguments: object, **keywords: object) -> Sample:
        sample = load(*arguments, **keywords)
        seen.append(tuple(sample.image.shape[1:]))
        return sample

    monkeypatch.setattr(module, "load_sample", record)
    detector = replace(tiny_detector(), inputs=InputConfig(short_side=64, max_long_side=107))
    image = _image(tmp_path / "p.png", _noise(96, 64))
    _predict(model, (image,), detector, short_sides=(32, 64, 128))
    assert seen == [(32, 48), (64, 96), (128, 192)]


def test_nothing_found_is_no_error(split: Split) -> None:
    """An untrained detector's scores are all below the threshold: no detections, IoUs of 0."""
    predictions = _predict(tiny_model(prior_prob=0.01), split.images)
    assert [len(prediction.detections) for prediction in predictions] == [0] * 4
    assert all(getattr(prediction.recall, name).tolist() == [0, 0] for prediction in predictions for name in COLUMNS)


def test_an_image_without_objects_has_no_recall(tmp_path: Path, model: RetinaNet) -> None:
    """It has detections all the same."""
    (prediction,) = _predict(model, (_image(tmp_path / "p.png", _noise(64, 64)),))
    assert len(prediction.detections) > 0
    assert all(getattr(prediction.recall, name).shape == (0,) for name in COLUMNS)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batches_change_nothing(model: RetinaNet, split: Split, batch_size: int) -> None:
    """Images of one size have the same predictions, in order, however many go through the network at once."""
    usual = _predict(model, split.images)
    found = list(predict(model, tiny_detector(), split.images, InferenceConfig(), FLOAT32, batch_size))
    assert [one.image.image_id for one in found] == [image.image_id for image in split.images]
    for one, other in zip(usual, found, strict=True):
        torch.testing.assert_close(one.candidates.boxes, other.candidates.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.candidates.scores, other.candidates.scores, rtol=1e-4, atol=1e-5)


def test_the_papers_six_scales_have_its_longest_sides() -> None:
    """(480, 800), (640, 1067), …, (1280, 2133), as the authors list them."""
    sides = (480, 640, 800, 960, 1120, 1280)
    limits = [module._at_scale(InputConfig(), side).max_long_side for side in sides]
    assert limits == [800, 1067, 1333, 1600, 1867, 2133]


def test_detections_need_no_candidates_beyond_the_cap(tmp_path: Path) -> None:
    """Where the cap cuts, leaving the others out changes no detection, only what recall is measured on."""
    split = tiny_split(tmp_path)
    model, detector = tiny_model(prior_prob=0.5), tiny_detector(prior_prob=0.5)
    inference = InferenceConfig(max_per_level=20)
    whole = list(predict(model, detector, split.images, inference, FLOAT32))
    capped = list(predict(model, detector, split.images, inference, FLOAT32, all_candidates=False))
    for one, other in zip(whole, capped, strict=True):
        assert len(one.candidates) > len(other.candidates)
        assert torch.equal(one.detections.boxes, other.detections.boxes)
        assert torch.equal(one.detections.scores, other.detections.scores)
        assert torch.equal(one.detections.labels, other.detections.labels)


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
