"""COCO jsons with one thing wrong, or merely odd: changes of a good file by name; nothing here reads them.

content = CHANGES["a negative width"](small_content())
"""

import copy
import gzip
import json
from collections.abc import Callable
from typing import Any

from oracles.coco_folder import annotation

Content = dict[str, Any]
Change = Callable[[Content], Content]


def _first(key: str, **values: Any) -> Change:
    """Fields of the first item of a list set."""

    def change(content: Content) -> Content:
        content[key][0].update(values)
        return content

    return change


def _every(key: str, **values: Any) -> Change:
    """Fields of every item of a list set."""

    def change(content: Content) -> Content:
        for item in content[key]:
            item.update(values)
        return content

    return change


def _without(key: str, field: str) -> Change:
    """A field of the first item of a list taken out."""

    def change(content: Content) -> Content:
        del content[key][0][field]
        return content

    return change


def _set(key: str, value: Any) -> Change:
    """A list replaced."""
    return lambda content: {**content, key: value}


def _twice(key: str) -> Change:
    """The first item of a list listed again."""
    return lambda content: {**content, key: [*content[key], dict(content[key][0])]}


def _renumbered(image: Callable[[int], Any], category: Callable[[int], Any], number: Callable[[int], Any]) -> Change:
    """All ids replaced, consistently."""

    def change(content: Content) -> Content:
        for item in content["images"]:
            item["id"] = image(item["id"])
        for item in content["categories"]:
            item["id"] = category(item["id"])
        for item in content["annotations"]:
            item.update(
                image_id=image(item["image_id"]),
                category_id=category(item["category_id"]),
                id=number(item["id"]),
            )
        return content

    return change


def _crowded(content: Content) -> Content:
    """5,000 objects in the first image, which is 64 px wide and high."""
    image = content["images"][0]["id"]
    for number in range(5000):
        box = [number % 56, number // 56 % 56, 4 + number % 4, 4 + number % 5]
        content["annotations"].append(annotation(1000 + number, image, (2, 5, 9)[number % 3], box))
    return content


def _same(value: int) -> int:
    """No change."""
    return value


BOX = "annotations"
NAN, INFINITE = float("nan"), float("inf")
CHANGES: dict[str, Change] = {
    "no list of images": lambda content: {k: v for k, v in content.items() if k != "images"},
    "an empty list of images": _set("images", []),
    "images in an object": _set("images", {"1": "a.png"}),
    "annotations that are null": _set(BOX, None),
    "no list of categories": lambda content: {k: v for k, v in content.items() if k != "categories"},
    "an empty list of categories": _set("categories", []),
    "an annotation that is a list": lambda content: {**content, BOX: [[1, 2], *content[BOX]]},
    "two images of one id": _twice("images"),
    "two annotations of one id": _twice(BOX),
    "two categories of one id": _twice("categories"),
    "image ids of letters": _renumbered(str, _same, _same),
    "image ids with fractions": _renumbered(lambda i: i + 0.5, _same, _same),
    "annotation ids of letters": _renumbered(_same, _same, str),
    "a truth value for an id": _first(BOX, id=True),
    "an id of a hundred digits": _first(BOX, id=10**100),
    "an unknown image": _first(BOX, image_id=999),
    "an unknown category": _first(BOX, category_id=999),
    "no id": _without(BOX, "id"),
    "a negative width": _first(BOX, bbox=[30, 10, -20, 15]),
    "a box of nan": _first(BOX, bbox=[1, 2, NAN, 4]),
    "a box of infinity": _first(BOX, bbox=[1, INFINITE, 3, 4]),
    "a box without end on both sides": _first(BOX, bbox=[INFINITE, 2, -INFINITE, 4]),
    "a box beyond all numbers": _first(BOX, bbox=[0, 0, 1e300, 1e300]),
    "a box of three": _first(BOX, bbox=[1, 2, 3]),
    "a box of letters": _first(BOX, bbox=["1", "2", "3", "4"]),
    "no box": _without(BOX, "bbox"),
    "an area of nan": _first(BOX, area=NAN),
    "a crowd flag of letters": _first(BOX, iscrowd="0"),
    "no annotations": _set(BOX, []),
    "only crowds": _every(BOX, iscrowd=1),
    "an absolute file name": _first("images", file_name="/etc/hostname"),
    "a file name that leaves": _first("images", file_name="../outside.png"),
    "a file name that leaves on a detour": _first("images", file_name="sub/../../outside.png"),
    "a file name of windows": _first("images", file_name="C:\\images\\a.png"),
    "an empty file name": _first("images", file_name=""),
    "a file name that is a number": _first("images", file_name=7),
    "a file name with a zero byte": _first("images", file_name="a\0.png"),
    "an image of no width": _first("images", width=0),
    "an image of width nan": _first("images", width=NAN),
    "a height of letters": _first("images", height="64"),
    "no height": _without("images", "height"),
    "a category without a name": _without("categories", "name"),
    "a category name of two lines": _first("categories", name="a\nb\x1b[2J\ud800"),
    # odd, and all right
    "id 0 everywhere": _renumbered(lambda i: i - 10, lambda i: i - 2, lambda i: i - 1),
    "ids far apart": _renumbered(lambda i: i * 10**9, lambda i: i * 1000 + 7, lambda i: 2**62 - i),
    "negative ids": _renumbered(lambda i: -i, lambda i: -i, lambda i: -i),
    "a box without area": _first(BOX, bbox=[10, 10, 0, 12], area=0),
    "a box outside the image": _first(BOX, bbox=[200, 200, 20, 20]),
    "a box that leaves the image": _first(BOX, bbox=[-10, 40, 40, 50]),
    "no area and no crowd flag": lambda content: {
        **content,
        BOX: [{k: v for k, v in item.items() if k not in ("area", "iscrowd")} for item in content[BOX]],
    },
    "an image without objects": lambda content: {
        **content,
        BOX: [item for item in content[BOX] if item["image_id"] != 10],
    },
    "5,000 objects in an image": _crowded,
}

# whole files that are no COCO json
TEXTS: dict[str, bytes] = {
    "an empty file": b"",
    "a truncated file": json.dumps({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}).encode()[:-20],
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a list of results": b'[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]',
    "null": b"null",
    "a hundred thousand brackets": b"[" * 100_000,
    "lists in lists, 2,000 deep": b"[" * 2000 + b"]" * 2000,
    "a number of 5,000 digits": b'{"images": [' + b"1" * 5000 + b"]}",
    "bytes of something else": bytes(range(256)) * 4,
    "a damaged gzip": gzip.compress(b"{}" * 1000)[:20],
}


def changed(name: str, content: Content) -> Content:
    """A copy of `content` with the change of that name."""
    return CHANGES[name](copy.deepcopy(content))
