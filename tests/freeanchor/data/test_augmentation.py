"""The stream of training samples: a function of seed and position, an epoch at a time."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.coco_folder import small_content, write_folder

from freeanchor.data import augmentation
from freeanchor.data.augmentation import AugmentConfig, TrainingStream
from freeanchor.data.coco import InputConfig, Sample, Split, read_split
from freeanchor.data.images import open_image
from freeanchor.errors import DataError

INPUTS = InputConfig(short_side=32, max_long_side=96)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six images of 64 by 48 pixels, of which the second has no object and the fifth a crowd only."""
    content = small_content(6, size=(64, 48))
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] != 20]
    for item in content["annotations"]:
        item["iscrowd"] = int(item["image_id"] == 50)
    return read_split(write_folder(tmp_path_factory.mktemp("stream"), "train", content), "train")


def _stream(split: Split, seed: int = 0, **augment: object) -> TrainingStream:
    return TrainingStream(split, INPUTS, AugmentConfig(**augment), seed)


def _key(sample: Sample) -> tuple:
    """What a sample was made of: image, width, and whether it is flipped."""
    left = sample.record.boxes[:, 0] * sample.scale[0]
    return sample.record.image_id, sample.image.shape[2], not torch.allclose(sample.boxes[:, 0], left)


def _equal(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.boxes, other.boxes)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**31), positions=st.lists(st.integers(0, 10_000), min_size=1, max_size=4))
def test_a_sample_depends_on_seed_and_position_alone(split: Split, seed: int, positions: list[int]) -> None:
    """Asked in any order, by any stream with the same seed, a position gives the same sample."""
    one, other = (_stream(split, seed, short_sides=(24, 32, 40)) for _ in range(2))
    forwards = [one[position] for position in positions]
    backwards = [other[position] for position in reversed(positions)][::-1]
    assert all(map(_equal, forwards, backwards))


def test_the_stream_takes_no_global_randomness(split: Split) -> None:
    """Seeding torch differently changes nothing, and asking for a sample leaves torch's generator as it was."""
    torch.manual_seed(1)
    first = _stream(split)[3]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert _equal(first, _stream(split)[3])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("kept", "decoded"), [(256_000_000, 4), (4 * 4 * 64 * 48 - 1, 12)], ids=["all fit", "too many"]
)
def test_images_are_decoded_once_where_all_fit(
    split: Split, monkeypatch: pytest.MonkeyPatch, kept: int, decoded: int
) -> None:
    """Three epochs of four images decode each of them once where memory may hold all, and give the same samples."""
    read: list[Path] = []
    monkeypatch.setattr(augmentation, "open_image", lambda path: read.append(path) or open_image(path))
    monkeypatch.setattr(augmentation, "KEPT", kept)
    stream = _stream(split)
    samples = [stream[position] for position in range(12)]
    assert len(read) == decoded
    assert all(_equal(sample, _stream(split)[position]) for position, sample in enumerate(samples))


def test_an_epoch_visits_each_image_with_objects_once(split: Split) -> None:
    """Images without an object, or with crowds alone, take no part; every other one comes once an epoch."""
    stream = _stream(split)
    for epoch in range(4):
        ids = [stream[4 * epoch + place].record.image_id for place in range(4)]
        assert sorted(ids) == [10, 30, 40, 60]


def test_epochs_differ_in_order(split: Split) -> None:
    """The order is drawn anew for each epoch."""
    stream = _stream(split)
    orders = {tuple(stream[4 * epoch + place].record.image_id for place in range(4)) for epoch in range(8)}
    assert len(orders) > 2


def test_the_seed_reaches_order_flip_and_scale(split: Split) -> None:
    """Each of the three draws differs between seeds."""
    keys = [[_key(_stream(split, seed, short_sides=(24, 32, 40))[place]) for place in range(12)] for seed in range(4)]
    for part in range(3):
        assert len({tuple(key[part] for key in run) for run in keys}) > 1


@pytest.mark.parametrize(("probability", "expected"), [(0.0, {False}), (1.0, {True}), (0.5, {False, True})])
def test_flips_come_as_often_as_asked(split: Split, probability: float, expected: set[bool]) -> None:
    """Never, always, or now and then."""
    stream = _stream(split, flip_probability=probability)
    assert {_key(stream[position])[2] for position in range(16)} == expected


def test_half_of_the_samples_are_flipped(split: Split) -> None:
    """At probability 0.5, the share is a half within four standard deviations."""
    stream = _stream(split)
    share = sum(_key(stream[position])[2] for position in range(400)) / 400
    assert abs(share - 0.5) < 4 * 0.5 / 400**0.5


def test_scales_are_drawn_from_the_list_alone(split: Split) -> None:
    """Every short side of the list occurs about equally often, and no other."""
    stream = _stream(split, short_sides=(24, 36, 48))
    counts = Counter(_key(stream[position])[1] for position in range(150))
    assert set(counts) == {32, 48, 64}
    assert min(counts.values()) > 25


def test_no_list_of_scales_means_the_size_of_the_input(split: Split) -> None:
    """Without jitter every sample has the configured short side."""
    assert {_stream(split)[position].image.shape[1] for position in range(8)} == {32}


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    """A split without a single object is bad data, and its file is named."""
    content = {**small_content(2), "annotations": []}
    empty = read_split(write_folder(tmp_path, "train", content), "train")
    with pytest.raises(DataError, match=r"train\.json.*no image has an object"):
        _stream(empty)


def _with_aspects(split: Split, portrait: int) -> Split:
    """The split's first image under ten ids, `portrait` of them portrait."""
    first = split.images[0]
    turned = {"width": first.height, "height": first.width}
    images = [replace(first, image_id=number, **(turned if number < portrait else {})) for number in range(10)]
    return replace(split, images=tuple(images))


@pytest.mark.parametrize(("portrait", "size", "length"), [(3, 2, 12), (4, 2, 10), (1, 4, 16), (0, 3, 12), (10, 5, 10)])
def test_groups_are_of_one_aspect(split: Split, portrait: int, size: int, length: int) -> None:
    """Every group is portrait or landscape, every image comes in every epoch, and only what fills a group comes twice."""
    stream = TrainingStream(_with_aspects(split, portrait), INPUTS, AugmentConfig(), 0, aspect_group=size)
    assert stream.epoch_length == length
    orders = []
    for epoch in (0, 1):
        order = [stream.images[place].image_id for place in stream._order(epoch)]
        groups = [order[first : first + size] for first in range(0, length, size)]
        assert all(len({image_id < portrait for image_id in group}) == 1 for group in groups)
        assert set(order) == set(range(10))
        orders.append(order)
    assert orders[0] != orders[1]
    assert [stream.images[place].image_id for place in stream._order(0)] == orders[0]
