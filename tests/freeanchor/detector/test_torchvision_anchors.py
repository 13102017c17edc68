"""The geometry "torchvision": anchors equal to those of torchvision's own AnchorGenerator, box for box."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import FLOAT32, tiny_detector, tiny_model
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from freeanchor.anchors import AnchorConfig, cell_anchors, grid_anchors
from freeanchor.data.coco import ImageRecord, InputConfig
from freeanchor.detector.backbones import SmallResNet
from freeanchor.detector.postprocess import InferenceConfig
from freeanchor.detector.retinanet import ModelConfig, RetinaNet
from freeanchor.inference.predict import predict

CONFIG = AnchorConfig(geometry="torchvision", centre_offset=0.0)
IMAGE_SIZES = [(800, 800), (800, 1088), (1344, 800), (224, 352), (64, 32)]


def _grids(image_size: tuple[int, int]) -> list[tuple[int, int]]:
    """Grids of P3 to P7 of an image whose sides are multiples of 32."""
    return [(-(-image_size[0] // stride), -(-image_size[1] // stride)) for stride in (8, 16, 32, 64, 128)]


def _theirs(image_size: tuple[int, int]) -> torch.Tensor:
    """torchvision's anchors, as its RetinaNet configures them."""
    sizes = tuple((x, int(x * 2 ** (1.0 / 3)), int(x * 2 ** (2.0 / 3))) for x in (32, 64, 128, 256, 512))
    generator = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    features = [torch.zeros(1, 1, *grid) for grid in _grids(image_size)]
    return generator(ImageList(torch.zeros(1, 3, *image_size), [image_size]), features)[0]


def _image(directory: Path, number: int, width: int) -> ImageRecord:
    """An image of noise, 72 pixels high."""
    path = directory / f"{number}.png"
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (72, width, 3), dtype=np.uint8)).save(path)
    nothing = torch.zeros(0, dtype=torch.int64)
    return ImageRecord(
        image_id=number,
        path=path,
        width=width,
        height=72,
        boxes=torch.zeros(0, 4),
        labels=nothing,
        annotation_ids=nothing,
    )


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
def test_anchors_are_torchvisions(image_size: tuple[int, int]) -> None:
    """Shapes, order and places agree exactly, whether strides divide the image or not."""
    assert torch.equal(grid_anchors(CONFIG, _grids(image_size), image_size), _theirs(image_size))


def test_strides_follow_the_image() -> None:
    """At 800 px neighbours at P6 and P7 lie 61 and 114 px apart."""
    levels = grid_anchors(CONFIG, _grids((800, 800)), (800, 800)).split([9 * g * g for g in (100, 50, 25, 13, 7)])
    steps = [(level[9] - level[0]).tolist() for level in levels]
    assert steps == [[step, 0, step, 0] for step in (8, 16, 32, 61, 114)]


def test_the_first_cell_has_the_published_shapes() -> None:
    """P3's anchors are 46x22, 32x32 and 22x46 at octave 0; octaves of 32 are 32, 40 and 50 (authors' code)."""
    cell = cell_anchors(CONFIG)[0]
    sides = (cell[:, 2:] - cell[:, :2]).tolist()
    assert [sides[0], sides[3], sides[6]] == [[46, 22], [32, 32], [22, 46]]
    assert sides[3:6] == [[32, 32], [40, 40], [50, 50]]


def test_without_the_images_size_it_is_an_error() -> None:
    """One line says what is missing; the other geometries do not need it."""
    with pytest.raises(ValueError, match="give image_size") as caught:
        grid_anchors(CONFIG, _grids((64, 64)))
    assert "\n" not in str(caught.value)
    assert len(grid_anchors(AnchorConfig(), _grids((64, 64)))) == 9 * (64 + 16 + 4 + 1 + 1)


def test_a_images_boxes_do_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    """Images of several sizes are predicted as each alone is, though a batch of them would be padded further."""
    detector = replace(tiny_detector(anchors=CONFIG), inputs=InputConfig(short_side=72, max_long_side=300))
    model = tiny_model(anchors=CONFIG, prior_prob=0.5)
    images = [_image(tmp_path, number, width) for number, width in enumerate((60, 144, 90))]

    def boxes(group: list[ImageRecord]) -> list[torch.Tensor]:
        found = predict(model, detector, group, InferenceConfig(score_threshold=0.4), FLOAT32, batch_size=8)
        return [one.detections.boxes for one in found]

    together, alone = boxes(images), [boxes([image])[0] for image in images]
    assert len(together) == 3
    for one, other in zip(together, alone, strict=True):
        assert len(one) > 0
        assert torch.equal(one, other)


def test_a_network_follows_the_size_of_each_batch() -> None:
    """Images of other sizes have other anchors, in whatever order they come."""
    model = RetinaNet(
        ModelConfig(num_classes=2, backbone=SmallResNet(widths=(8, 8, 8, 8)), anchors=CONFIG, pyramid_channels=8)
    ).eval()
    for image_size in ((64, 96), (96, 64), (64, 96)):
        with torch.no_grad():
            anchors = model(torch.zeros(1, 3, *image_size)).anchors
        assert torch.equal(anchors, _theirs(image_size))
