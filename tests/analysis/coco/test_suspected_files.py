"""Boxes, areas and flags that hardly mean what COCO's format says: each kind in one line, and ordinary files in none."""

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from analysis.coco.reading import DataNote, read_detections, read_ground_truth

Rows = list[dict[str, Any]]
WIDTH, HEIGHT = 640, 400


def _content(count: int = 60, seed: int = 0, largest: float = 0.5) -> dict[str, Any]:
    """Objects of all sizes inside images of one size, areas of masks that fill some of their boxes."""
    generator = np.random.default_rng(seed)
    extent = generator.uniform(0.05, largest, (count, 2)) * [WIDTH, HEIGHT]
    corner = generator.uniform(0, 1, (count, 2)) * ([WIDTH, HEIGHT] - extent)
    boxes = np.hstack([corner, extent]).round(2).tolist()
    fill = generator.uniform(0.3, 1, count)
    return {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(10)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
            {"id": i + 1, "image_id": i % 10, "category_id": 1, "bbox": box, "iscrowd": 0,
             "area": float(box[2] * box[3] * fill[i])}
            for i, box in enumerate(boxes)
        ],
    }  # fmt: skip


def _boxes(change: Callable[[float, float, float, float], list[float]]) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        for item in content["annotations"]:
            item["bbox"] = change(*item["bbox"])
            item["area"] = item["bbox"][2] * item["bbox"][3]

    return apply


def _each(**fields: Any) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        for item in content["annotations"]:
            item.update(fields)

    return apply


def _exchange_sides(content: dict) -> None:
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]


def _every_third(key: str) -> Callable[[dict], None]:
    def apply(content: dict) -> None:
        for item in content["annotations"][::3]:
            item[key] = 1

    return apply


BOXES = {
    "fractions": (_boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]), "are they fractions?"),
    "fractions as corners": (
        _boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, (x + w) / WIDTH, (y + h) / HEIGHT]),
        "are they fractions?",
    ),
    "corners": (_boxes(lambda x, y, w, h: [x, y, x + w, y + h]), "fit as [x1, y1, x2, y2]"),
    "centres": (_boxes(lambda x, y, w, h: [x + w / 2, y + h / 2, w, h]), "fit as [centre x, centre y"),
    "x and y exchanged": (_boxes(lambda x, y, w, h: [y, x, h, w]), "fit as [y, x, height, width]"),
    "corners, x and y exchanged": (_boxes(lambda x, y, w, h: [y, x, y + h, x + w]), "fit as [y1, x1, y2, x2]"),
    "sides of the images exchanged": (_exchange_sides, "with the images' width and height exchanged"),
    "pixels of a larger image": (_boxes(lambda *box: [3 * side for side in box]), "are they in pixels of the images"),
    "beside the images": (_boxes(lambda x, y, w, h: [x + 5000, y, w, h]), "are they in pixels of the images"),
}
OBJECTS = {
    "areas of 1": (_each(area=1), '60 of 60 annotations have an "area"'),
    "areas of 0": (_each(area=0), '60 of 60 annotations have an "area"'),
    "areas in fractions": (_each(area=0.25), '60 of 60 annotations have an "area"'),
    "areas of the images": (_each(area=WIDTH * HEIGHT), 'annotations have an "area" that their box contradicts'),
    "ignore": (_every_third("ignore"), '20 of 60 annotations have "ignore" set'),
    "difficult": (_every_third("difficult"), '20 of 60 annotations have "difficult" set'),
    "another word for crowds": (_every_third("isCrowd"), '20 of 60 annotations have "isCrowd" set'),
    "beyond what counts": (
        lambda content: content["annotations"][0].update(bbox=[0, 0, 2e5, 1e5], area=2e10),
        "1 objects are larger than 1e+10 square pixels: they do not count",
    ),
}


def _notes(read: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read()
    assert all(issubclass(item.category, DataNote) for item in caught)
    return [str(item.message) for item in caught]


def _results(content: dict) -> Rows:
    return [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.5}
        for item in content["annotations"]
    ]


def _changed(change: Callable[[dict], None]) -> dict[str, Any]:
    content = copy.deepcopy(_content())
    change(content)
    return content


@pytest.mark.parametrize("name", [*BOXES, *OBJECTS])
def test_a_suspicion_of_the_ground_truth_is_one_line(name: str) -> None:
    """The reading that fits is named; what is suspected is evaluated all the same."""
    change, words = (BOXES | OBJECTS)[name]
    (note,) = _notes(lambda: read_ground_truth(_changed(change)))
    assert note.startswith("ground truth: ") and words in note and "\n" not in note


@pytest.mark.parametrize("name", BOXES)
def test_a_suspicion_of_detections_is_one_line(name: str) -> None:
    """The same for detections, whose images the ground truth knows."""
    change, words = BOXES[name]
    changed = _changed(change)
    ground_truth = read_ground_truth({**_content(), "images": changed["images"]}) if change is _exchange_sides else None
    ground_truth = ground_truth or read_ground_truth(_content())
    (note,) = _notes(lambda: read_detections(_results(changed), ground_truth))
    assert note.startswith("detections: ") and words in note and "\n" not in note


def _ordinary() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "as they are", _content()
    yield "large objects", _content(seed=1, largest=1.0)
    yield "a single object", _content(count=1)
    yield "rounded masks", _changed(lambda content: content["annotations"][0].update(area=250_000))
    yield "detectors that do not clip", _changed(_boxes(lambda x, y, w, h: [x - 7, y - 7, w + 14, h + 14]))
    yield (
        "a wild box",
        _changed(lambda content: content["annotations"][0].update(bbox=[-90, 0, 10_000, 9], area=90_000)),
    )
    yield "thin masks", _changed(lambda content: [item.update(area=9.0) for item in content["annotations"][:40]])
    yield "sizes that are not known", _changed(lambda content: [image.pop("width") for image in content["images"]])
    yield "flags that say no", _changed(_each(ignore=0, difficult=False))
    yield (
        "crowds that are ignored",
        _changed(
            lambda content: content["annotations"][0].update(ignore=1, iscrowd=1),
        ),
    )
    tiny = _changed(_boxes(lambda *_: [0, 0, 1, 1]))
    yield "boxes of a pixel", tiny
    small = _changed(_boxes(lambda x, y, w, h: [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]))
    yield "fractions of a pixel", {**small, "images": [{"id": i, "width": 2, "height": 2} for i in range(10)]}


@pytest.mark.parametrize(("name", "content"), list(_ordinary()), ids=[name for name, _ in _ordinary()])
def test_ordinary_files_are_not_suspected(name: str, content: dict[str, Any]) -> None:
    """Unclipped boxes, thin masks, a wild box, or sizes that are not known raise no suspicion."""
    del name
    assert _notes(lambda: read_detections(_results(content), read_ground_truth(content))) == []


def test_detections_are_looked_at_without_ground_truth_too() -> None:
    """Fractions and huge boxes show by themselves; how boxes lie in their images does not."""
    for name, words in (("fractions", "are they fractions?"), ("corners", None)):
        notes = _notes(lambda name=name: read_detections(_results(_changed(BOXES[name][0]))))
        assert [words in note for note in notes] == ([True] if words else [])
