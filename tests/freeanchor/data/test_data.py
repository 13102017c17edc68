"""Reading data sets: what a hand-written json becomes, resizing, normalising, flipping, batches."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.coco_folder import annotation, small_content, write_folder
from PIL import Image
from tiny import image_record

from freeanchor.data.coco import InputConfig, collate, load_sample, normalise, read_categories, read_split
from freeanchor.data.images import open_image, resized_size

CONTENT = {
    "images": [
        {"id": 30, "file_name": "b.png", "width": 40, "height": 20},
        {"id": 7, "file_name": "a.png", "width": 32, "height": 48},
        {"id": 8, "file_name": "empty.png", "width": 16, "height": 16},
    ],
    "annotations": [
        annotation(101, 7, 9, [2, 3, 10, 20]),
        annotation(5, 30, 2, [-4, -2.5, 10, 12]),  # reaches out at the top left
        annotation(6, 30, 5, [30, 10, 25, 25]),  # reaches out at the bottom right
        annotation(7, 7, 5, [0, 0, 32, 48], iscrowd=1),
        annotation(8, 7, 2, [10, 10, 0, 5]),  # no width
        annotation(9, 7, 2, [40, 5, 6, 6]),  # outside the image
        annotation(10, 7, 2, [1.25, 2.5, 3.5, 4.75], iscrowd=0),
    ],
    "categories": [{"id": 9, "name": "bar"}, {"id": 2, "name": "dot"}, {"id": 5, "name": "box"}],
}


@pytest.mark.parametrize("layout", ["flat", "coco"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_is_what_the_json_says(tmp_path: Path, layout: str, split: str) -> None:
    """Images as the file orders them, labels as category ids do; no crowds, boxes clipped, empty ones gone."""
    found = read_split(write_folder(tmp_path, split, CONTENT, layout=layout), split)
    assert found.category_ids == (2, 5, 9)
    assert found.category_names == ("dot", "box", "bar")
    wide, tall, empty = found.images
    assert [image.image_id for image in found.images] == [30, 7, 8]
    assert (wide.width, wide.height, wide.path.name) == (40, 20, "b.png")
    assert wide.boxes.tolist() == [[0, 0, 6, 9.5], [30, 10, 40, 20]]
    assert wide.labels.tolist() == [0, 1]
    assert wide.annotation_ids.tolist() == [5, 6]
    assert tall.boxes.tolist() == [[2, 3, 12, 23], [1.25, 2.5, 4.75, 7.25]]
    assert tall.labels.tolist() == [2, 0]
    assert tall.annotation_ids.tolist() == [101, 10]
    assert empty.boxes.shape == (0, 4)
    assert empty.labels.dtype == empty.annotation_ids.dtype == torch.int64
    assert all(image.path.is_file() for image in found.images)


def test_categories_are_read_in_the_order_of_their_labels(tmp_path: Path) -> None:
    """`read_categories` lists ids and names as `read_split` numbers them."""
    write_folder(tmp_path, "val", CONTENT)
    assert list(read_categories(tmp_path, "val").items()) == [(2, "dot"), (5, "box"), (9, "bar")]


def test_the_flat_layout_comes_first(tmp_path: Path) -> None:
    """A folder that has both layouts is read in the flat one."""
    write_folder(tmp_path, "val", small_content(1), layout="coco")
    write_folder(tmp_path, "val", CONTENT)
    assert len(read_split(tmp_path, "val").images) == 3


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (1067, 800)),
        ((480, 640), (800, 1067)),
        ((500, 500), (800, 800)),
        ((1600, 1600), (800, 800)),
        ((2000, 1000), (1333, 666)),
        ((100, 1000), (133, 1333)),
    ],
)
def test_images_are_resized_as_the_paper_does(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """The short side becomes 800 unless the long side would pass 1333 (authors' code)."""
    assert resized_size(*size, 800, 1333) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 1000), st.integers(32, 1500))
def test_resizing_keeps_the_shape_and_the_limits(width: int, height: int, short_side: int, max_long_side: int) -> None:
    """No side is longer than it may be, one limit is met, and the aspect ratio stays but for rounding."""
    new_width, new_height = resized_size(width, height, short_side, max_long_side)
    assert min(new_width, new_height) <= short_side
    assert max(new_width, new_height) <= max_long_side
    assert min(new_width, new_height) == short_side or max(new_width, new_height) == max_long_side
    factor = max(new_width, new_height) / max(width, height)
    assert abs(new_width - width * factor) <= 1
    assert abs(new_height - height * factor) <= 1


def test_normalising_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    """Each channel of 0 to 255 has its own mean and deviation."""
    image = Image.fromarray(np.array([[[10, 20, 30], [255, 0, 100]]], dtype=np.uint8))
    config = InputConfig(mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    expected = [[[4.5, 127.0]], [[4.5, -0.5]], [[27 / 8, 97 / 8]]]
    assert normalise(image, config).tolist() == expected


def test_bgr_swaps_the_channels_before_the_statistics() -> None:
    """With `bgr` the first channel is blue, and `mean` is in the same order (authors' code)."""
    image = Image.fromarray(np.array([[[10, 20, 30]]], dtype=np.uint8))
    config = InputConfig(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0), bgr=True)
    assert normalise(image, config).flatten().tolist() == [29.0, 18.0, 7.0]


def test_boxes_follow_their_image(tmp_path: Path) -> None:
    """A rectangle lies where its box says, after resizing and flipping too."""
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[10:20, 50:70] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    image = image_record(tmp_path / "p.png", (80, 40), [[50, 10, 70, 20]])
    inputs = InputConfig(short_side=120, max_long_side=1000, mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    for flip in (False, True):
        sample = load_sample(image, inputs, flip=flip)
        assert sample.scale == (3.0, 3.0)
        rows, columns = (sample.image[0] > 0.5).nonzero(as_tuple=True)
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert sample.boxes.tolist() == [[int(value) for value in around]]


def test_flipping_twice_is_no_flip(tmp_path: Path) -> None:
    """A flip mirrors pixels and boxes about the middle of the resized image, and keeps x1 below x2."""
    size = (50, 30)
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    pixels.save(tmp_path / "p.png")
    image = image_record(tmp_path / "p.png", size, [[0, 0, 10, 30], [20.5, 3, 50, 9]])
    plain, flipped = (load_sample(image, InputConfig(short_side=48), flip=flip) for flip in (False, True))
    assert torch.equal(plain.image, flipped.image.flip(2))
    mirrored = plain.image.shape[2] - flipped.boxes[:, [2, 0]]
    assert torch.allclose(mirrored, plain.boxes[:, [0, 2]])
    assert torch.equal(flipped.boxes[:, [1, 3]], plain.boxes[:, [1, 3]])
    assert bool((flipped.boxes[:, 2] > flipped.boxes[:, 0]).all())


def test_a_sample_can_have_a_short_side_of_its_own(tmp_path: Path) -> None:
    """Scale jitter gives the short side; the longest allowed side stays that of the configuration (authors' code)."""
    Image.new("RGB", (60, 40)).save(tmp_path / "p.png")
    image = image_record(tmp_path / "p.png", (60, 40), [[0, 0, 60, 40]])
    inputs = InputConfig(short_side=40, max_long_side=75)
    assert load_sample(image, inputs, short_side=20).image.shape == (3, 20, 30)
    limited = load_sample(image, inputs, short_side=80)
    assert limited.image.shape == (3, 50, 75)
    assert limited.boxes.tolist() == [[0, 0, 75, 50]]


def test_batches_are_padded_with_zeros_to_multiples_of_32(tmp_path: Path) -> None:
    """Images stand at the top left of a common frame whose sides are the least multiples of 32 that hold them all."""
    samples = []
    for number, size in enumerate([(40, 70), (33, 20), (32, 64)]):
        Image.new("RGB", size, (200, 10, 90)).save(tmp_path / f"{number}.png")
        image = image_record(tmp_path / f"{number}.png", size, [[1, 2, 3, 4]] * number)
        samples.append(load_sample(image, InputConfig(short_side=min(size), max_long_side=1000)))
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 96, 64)
    assert batch.sizes == ((70, 40), (20, 33), (64, 32))
    for image, sample, (height, width) in zip(batch.images, samples, batch.sizes, strict=True):
        assert torch.equal(image[:, :height, :width], sample.image)
        assert image[:, height:].abs().sum() == image[:, :, width:].abs().sum() == 0
    assert [len(boxes) for boxes in batch.gt_boxes] == [len(labels) for labels in batch.gt_labels] == [0, 1, 2]


def test_sides_that_are_multiples_already_get_no_padding(tmp_path: Path) -> None:
    """An image of 64 by 32 pixels stays as it is."""
    Image.new("RGB", (64, 32)).save(tmp_path / "p.png")
    sample = load_sample(image_record(tmp_path / "p.png", (64, 32), []), InputConfig(short_side=32))
    assert collate([sample]).images.shape == (1, 3, 32, 64)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "jpg"), ("L", "png"), ("P", "png"), ("P", "gif"), ("RGBA", "png"), ("CMYK", "jpg"), ("1", "png")],
)
def test_every_kind_of_image_is_read_as_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    """Grey, palette, transparent, print and black-and-white images come with three channels, colours kept."""
    colour = (255, 255, 255) if mode in ("L", "1") else (204, 51, 51)  # in the web's palette too
    path = tmp_path / f"p.{suffix}"
    Image.new("RGB", (24, 16), colour).convert(mode).save(path)
    pixels = np.array(open_image(path))
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - colour).max() <= 8
