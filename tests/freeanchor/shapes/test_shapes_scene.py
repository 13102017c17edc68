"""Scenes of the procedural data set have the make-up that their settings promise."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from freeanchor.shapes import objects, scene
from freeanchor.shapes.drawing import SAMPLES
from freeanchor.shapes.objects import CATEGORIES, SceneObject
from freeanchor.shapes.scene import Scene, ShapesConfig, draw_scene


def flat(scenes: Iterable[Scene], *, is_slender: bool | None = None) -> list[SceneObject]:
    """The objects of all scenes, of one kind where told."""
    items = [item for one in scenes for item in one.objects]
    return [item for item in items if is_slender in (None, CATEGORIES[item.category].is_slender)]


def box_aspect(item: SceneObject) -> float:
    """Long over short side of the box."""
    x1, y1, x2, y2 = item.box
    return max(x2 - x1, y2 - y1) / min(x2 - x1, y2 - y1)


@pytest.fixture(scope="module", params=[120, pytest.param(240, marks=pytest.mark.slow)])
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    """The first training scenes of the default settings, unpainted: no test that takes them looks at pixels."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (objects, scene):
            patch.setattr(module, "paint", lambda image, strokes: image)
        return [draw_scene(ShapesConfig(), "train", index) for index in range(request.param)]


def test_seed_reaches_the_draw() -> None:
    """Another seed, split or index gives another image."""
    images = [
        draw_scene(config, split, index).pixels.tobytes()
        for config in (ShapesConfig(), dataclasses.replace(ShapesConfig(), seed=1))
        for split in ("train", "val")
        for index in (0, 1)
    ]
    assert len(set(images)) == len(images)


def test_empty_images_and_crowds_come_as_often_as_set(scenes: list[Scene]) -> None:
    """By default about 2 % of the images are empty and 4 % have a crowd."""
    num_empty, num_crowds = sum(not one.objects for one in scenes), sum(one.crowd is not None for one in scenes)
    assert 1 / 240 <= num_empty / len(scenes) <= 12 / 240
    assert 3 / 240 <= num_crowds / len(scenes) <= 20 / 240
    only = draw_scene(ShapesConfig(empty_fraction=1.0), "train", 0)
    assert only.objects == () and only.crowd is None


def test_every_crowdedness_has_its_share(scenes: list[Scene]) -> None:
    """Images have at most 20 objects, and each bin of the crowdedness figure holds over 15 % of them."""
    counts = np.array([len(one.objects) for one in scenes])
    assert counts.max() <= ShapesConfig().max_objects
    for low, high in ((1, 3), (4, 7), (8, 12), (13, 20)):
        assert ((counts >= low) & (counts <= high)).mean() > 0.15, (low, high)


def test_classes_are_balanced(scenes: list[Scene]) -> None:
    """Each of the 12 classes has 5.5 to 12 % of the objects; half of the classes are slender."""
    counts = Counter(item.category for item in flat(scenes))
    shares = np.array([counts[index] for index in range(len(CATEGORIES))]) / sum(counts.values())
    assert shares.min() > 0.055 and shares.max() < 0.12
    assert [category.supercategory for category in CATEGORIES] == ["slender"] * 6 + ["compact"] * 6


def test_slender_objects_have_slender_boxes(scenes: list[Scene]) -> None:
    """60 to 75 % of the slender objects, hence 28 to 42 % of all, have a box of aspect 3 or more; no compact one has."""
    slender, compact, every = (
        np.array([box_aspect(item) for item in flat(scenes, is_slender=kind)]) for kind in (True, False, None)
    )
    assert 0.60 < (slender >= 3).mean() < 0.75
    assert 0.28 < (every >= 3).mean() < 0.42
    assert slender.max() <= ShapesConfig().max_aspect + 0.1
    assert compact.max() < 1.6


def test_lengths_are_log_uniform(scenes: list[Scene]) -> None:
    """Where there is room, quartiles of the compact objects' log length lie evenly between the bounds."""
    config = ShapesConfig()
    few = [one for one in scenes if len(one.objects) <= 4]
    lengths = np.log([item.length for item in flat(few, is_slender=False)])
    shares = (lengths - np.log(config.min_size)) / np.log(config.max_size / config.min_size)
    assert shares.min() >= -1e-3 and shares.max() <= 1 + 1e-3
    np.testing.assert_allclose(np.quantile(shares, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.1)


def test_part_lies_at_the_end_that_the_angle_points_to(scenes: list[Scene]) -> None:
    """A slender object's part is half a width short of its head's end; a compact one's is its middle."""
    for item in flat(scenes):
        x1, y1, x2, y2 = item.box
        offset = np.array(item.part) - [(x1 + x2) / 2, (y1 + y2) / 2]
        direction = np.array([np.cos(np.radians(item.angle)), np.sin(np.radians(item.angle))])
        if CATEGORIES[item.category].is_slender:
            width = item.length / item.elongation
            assert abs(offset @ direction - (item.length - width) / 2) < 0.3 * width + 0.1
            assert abs(offset @ [-direction[1], direction[0]]) < 0.3 * width + 0.1
            assert width >= ShapesConfig().min_head - 0.01
        else:
            assert np.abs(offset).max() < 0.3 * item.length


def test_occlusion_is_bounded() -> None:
    """Redrawn sample by sample, no object is hidden beyond the bound, no part beyond half, as the scene records."""
    config = ShapesConfig(max_hidden=0.3, crowd_fraction=0.0, empty_fraction=0.0)
    worst = 0.0
    for drawn in (draw_scene(config, "val", index) for index in range(15)):
        top = np.full((config.image_size * SAMPLES,) * 2, -1)
        windows = []
        for number, item in enumerate(drawn.objects):
            (height, width), (x, y) = item.stencil.body.shape, item.origin
            windows.append((slice(y * SAMPLES, y * SAMPLES + height), slice(x * SAMPLES, x * SAMPLES + width)))
            top[windows[-1]][item.stencil.body] = number
        for number, (item, recorded) in enumerate(zip(drawn.objects, drawn.hidden, strict=True)):
            covered = top[windows[number]] != number
            hidden = covered[item.stencil.body].mean()
            assert abs(hidden - recorded) < 0.04  # the layout counts a quarter of the samples
            assert recorded <= config.max_hidden + 1e-9
            assert covered[item.stencil.part].mean() < 0.55
            worst = max(worst, hidden)
    assert worst > 0.2


@pytest.mark.parametrize("image_size", [64, 300])
def test_other_image_sizes_can_be_drawn(image_size: int) -> None:
    """At the bounds of what the settings allow, objects and crowds still lie inside images of any size."""
    longest = (image_size - 2) / 2**0.5 - 0.1
    config = ShapesConfig(
        image_size=image_size,
        min_size=longest * 0.9,
        max_size=longest,
        max_aspect=3.5,
        min_head=longest / 3.6,
        crowd_fraction=1.0,
        empty_fraction=0.0,
    )
    for index in range(2):
        drawn = draw_scene(config, "train", index)
        assert drawn.pixels.shape == (image_size, image_size, 3)
        boxes = np.array([drawn.crowd.box, *(item.box for item in drawn.objects)])
        assert boxes.min() >= 0 and boxes.max() <= image_size


def test_boxes_of_one_class_do_not_coincide(scenes: list[Scene]) -> None:
    """No two objects of a class have boxes of IoU above 0.7 in one image."""
    for one in scenes:
        for number, a in enumerate(one.objects):
            for b in one.objects[:number]:
                overlap = np.clip(np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2]), 0, None).prod()
                areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a.box, b.box)]
                assert a.category != b.category or overlap / (sum(areas) - overlap) <= 0.7 + 1e-9


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_train", -1),
        ("num_val", 10**6),
        ("seed", -1),
        ("image_size", 10),
        ("max_objects", 0),
        ("empty_fraction", 2.0),
        ("crowd_fraction", -0.1),
        ("max_hidden", 40.0),
        ("min_size", 200.0),
        ("max_size", 190.0),
        ("max_aspect", 2.0),
        ("min_head", 20.0),
        ("min_head", float("nan")),
    ],
)
def test_bad_settings_are_refused(name: str, value: float) -> None:
    """A setting that cannot be drawn is refused in one line with its name, the rule and the value."""
    with pytest.raises(ValueError, match=f"^{name} must .*, got {re.escape(str(value))}$"):
        dataclasses.replace(ShapesConfig(), **{name: value})
