"""Inclusive boxes: between file and frame a box's last pixel scales, not its edge (authors' code)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_model

from freeanchor.boxes import pairwise_iou
from freeanchor.data.coco import ImageRecord, InputConfig, collate, load_sample
from freeanchor.detector.postprocess import Candidates, InferenceConfig, suppress
from freeanchor.inference.predict import Prediction, predict

SIDES = {"short_side": 96, "max_long_side": 200}
INCLUSIVE = InputConfig(**SIDES, box_convention="inclusive")


def _image(tmp_path: Path, boxes: list[list[float]], size: tuple[int, int] = (50, 40)) -> ImageRecord:
    """An image of noise with these boxes, labels and ids in their order."""
    width, height = size
    path = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return ImageRecord(
        image_id=1,
        path=path,
        width=width,
        height=height,
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)) % 3,
        annotation_ids=torch.arange(len(boxes)) + 10,
    )


def _authors_boxes(
    boxes: list[list[float]], ratio: tuple[float, float], width: int, *, flip: bool
) -> list[list[float]]:
    """The authors' resizing and flipping, first and last pixels, brought back to continuous boxes at the end."""
    found = []
    for x1, y1, x2, y2 in boxes:
        first_x, last_x = x1 * ratio[0], (x2 - 1) * ratio[0]
        if flip:
            first_x, last_x = width - last_x - 1, width - first_x - 1
        found.append([first_x, y1 * ratio[1], last_x + 1, (y2 - 1) * ratio[1] + 1])
    return found


@pytest.mark.parametrize("flip", [False, True])
def test_objects_are_scaled_and_flipped_as_the_authors_do(flip: bool, tmp_path: Path) -> None:
    """A box of the whole image, one at its corner and one inside, enlarged 2.4 times."""
    boxes = [[0, 0, 50, 40], [45, 30, 50, 40], [3.5, 7, 20.25, 12]]
    sample = load_sample(_image(tmp_path, boxes), INCLUSIVE, flip=flip)
    expected = _authors_boxes(boxes, sample.scale, sample.image.shape[2], flip=flip)
    torch.testing.assert_close(sample.boxes, torch.tensor(expected), rtol=0, atol=1e-4)
    assert sample.scale == (120 / 50, 96 / 40)


def test_objects_of_a_pixel_or_less_have_no_inclusive_box(tmp_path: Path) -> None:
    """They are left out with their labels and ids, as by the authors' clipping; the image given stays as it was."""
    image = _image(tmp_path, [[1, 1, 2, 30], [5, 5, 9, 9], [4, 4, 30, 4.5], [6, 6, 7.5, 8]])
    sample = load_sample(image, INCLUSIVE)
    batch = collate([sample])
    assert sample.record.annotation_ids.tolist() == [11, 13]
    assert batch.gt_labels[0].tolist() == [1, 0]
    assert len(batch.gt_boxes[0]) == 2
    assert bool((sample.boxes[:, 2:] - sample.boxes[:, :2] > 1).all())
    assert len(image.boxes) == 4


def test_continuous_boxes_are_scaled_as_ever(tmp_path: Path) -> None:
    """By default edges scale, and thin objects stay."""
    boxes = [[0, 0, 50, 40], [5, 5, 5.5, 30]]
    sample = load_sample(_image(tmp_path, boxes), InputConfig(**SIDES))
    assert torch.equal(sample.boxes, torch.tensor(boxes) * torch.tensor([2.4, 2.4, 2.4, 2.4]))


def _predictions(image: ImageRecord, inputs: InputConfig, **inference: object) -> Prediction:
    detector = replace(tiny_detector(), inputs=inputs)
    settings = InferenceConfig(score_threshold=0.0, max_per_level=None, **inference)
    return next(predict(tiny_model(prior_prob=0.5), detector, [image], settings, FLOAT32))


def test_detections_go_back_to_the_file_by_their_last_pixel(tmp_path: Path) -> None:
    """x1 r and (x2 - 1) r + 1 of what the frame has, where boxes are at least a pixel wide (authors' code)."""
    image = _image(tmp_path, [[3, 3, 20, 20]])
    plain, inclusive = (_predictions(image, inputs).candidates for inputs in (InputConfig(**SIDES), INCLUSIVE))
    frame = plain.boxes * 2.4
    expected = torch.cat([frame[:, :2].clamp(max=torch.tensor([119.0, 95.0])), frame[:, 2:].clamp(min=1)], dim=1) / 2.4
    expected[:, 2:] += 1 - 1 / 2.4
    torch.testing.assert_close(inclusive.boxes, expected, rtol=0, atol=1e-3)
    assert torch.equal(inclusive.scores, plain.scores)


def test_suppression_compares_boxes_as_they_are_in_the_frame(tmp_path: Path) -> None:
    """The detections are what NMS leaves in the network's frame, not among boxes grown by the way back."""
    image = _image(tmp_path, [])
    found = _predictions(image, INCLUSIVE, max_detections=None, nms_iou=0.3)
    pixel = 1 / 2.4

    def kept_of(shift: float) -> Candidates:
        moved = found.candidates.extend((-shift, -shift))
        return suppress(moved, nms_iou=0.3, max_detections=None).extend((shift, shift))

    in_frame, in_file = kept_of(1 - pixel), kept_of(0.0)
    torch.testing.assert_close(found.detections.boxes, in_frame.boxes, rtol=0, atol=1e-4)
    assert len(in_frame) != len(in_file)  # else the frame would make no difference here


def test_training_and_testing_agree_on_the_frame(tmp_path: Path) -> None:
    """A box that goes into the frame and back is the box of the file."""
    boxes = [[0.0, 0.0, 50.0, 40.0], [3.5, 7.0, 20.25, 12.0]]
    sample = load_sample(_image(tmp_path, boxes), INCLUSIVE)
    frame = Candidates(sample.boxes, torch.ones(2), torch.zeros(2, dtype=torch.int64))
    pixel = (1 / sample.scale[0], 1 / sample.scale[1])
    back = frame.rescale(pixel).extend((1 - pixel[0], 1 - pixel[1]))
    torch.testing.assert_close(back.boxes, torch.tensor(boxes), rtol=0, atol=1e-4)
    assert pairwise_iou(back.boxes, torch.tensor(boxes)).diagonal().min() > 0.9999


def test_scales_are_merged_in_the_frame_of_the_last(tmp_path: Path) -> None:
    """With several sizes every candidate is in the file's pixels, and one size alone is what it is without the list."""
    image = _image(tmp_path, [])
    alone = _predictions(image, INCLUSIVE)
    listed = _predictions(image, INCLUSIVE, short_sides=(96,))
    assert torch.equal(alone.detections.boxes, listed.detections.boxes)
    both = _predictions(image, INCLUSIVE, short_sides=(48, 96))
    assert len(both.candidates) > len(alone.candidates)
    assert torch.equal(both.candidates.boxes[-len(alone.candidates) :], alone.candidates.boxes)
