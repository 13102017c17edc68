"""Data sets as COCO's json, drawn piece by piece to sit on every edge of the evaluation; shares nothing with `analysis`.

Unlike `oracles.detection_sets`, which scatters boxes, each detection here is derived from an object (a k/20 of it, one
float beside that, inside it, around it …), so that equal IoUs, IoUs at thresholds and areas at size borders are common,
and a failure shrinks to the few rows that matter.
"""

import math
import random
from collections import defaultdict
from dataclasses import dataclass

from hypothesis import strategies as st
from oracles.detection_metrics import iou

SMALL, MEDIUM = 32.0**2, 96.0**2  # the size borders
EXTENTS = [
    (20.0, 20.0), (40.0, 10.0), (32.0, 32.0), (16.0, 64.0), (96.0, 96.0), (64.0, 144.0), (31.9, 32.1), (100.1, 33.3),
    (7 / 3, 41.7), (math.nextafter(96, 97), 96.0), (1e5, 1e5), (2e5, 7e4),
    (0.0, 10.0), (10.0, 0.0), (0.0, 0.0), (1e-3, 5.0), (700.0, 300.0),
]  # fmt: skip
CORNERS = [(0.0, 0.0), (10.0, 0.0), (1 / 3, 17.7), (-5.5, 4.1), (250.25, 8.0)]
AREAS = [
    SMALL, math.nextafter(SMALL, 0), math.nextafter(SMALL, 2e3), MEDIUM, math.nextafter(MEDIUM, 1e5), 0.0, 1e10,
    math.nextafter(1e10, 2e10),
]  # fmt: skip
LEVELS = [0.9, 0.5, 0.3, 0.1 + 0.2, 0.1, 0.0, 1.0, -0.5]  # few, so that most detections are tied
FLOODS = {
    "tied": lambda i: 0.5,
    "falling": lambda i: 1 - i / 256,
    "rising": lambda i: i / 256,
    "steps": lambda i: i // 30,
}
MORE_THAN_COUNTED = 100


@dataclass(frozen=True, kw_only=True)
class CocoWorld:
    """An instances file and a results file, as json has them."""

    content: dict
    found: list[dict]


extents = st.sampled_from(EXTENTS)
corners = st.sampled_from(CORNERS)
levels = st.sampled_from(LEVELS)


@st.composite
def coco_worlds(draw, *, ties_within_images: bool = True) -> CocoWorld:
    """Up to 5 images, 4 categories, 18 objects and 25 detections; now and then a flood of detections, or a row.

    Images and categories may have objects, detections, both or nothing, and come in any order of their ids. Without
    `ties_within_images` scores of one image and category differ; those of different images may still be equal.
    """
    image_ids = draw(st.permutations([0, 2, 5, 7, 139]))[: draw(st.integers(1, 5))]
    category_ids = draw(st.permutations([0, 3, 17, 90]))[: draw(st.integers(1, 4))]
    places = st.tuples(st.sampled_from(image_ids), st.sampled_from(category_ids))
    objects = [row for _ in range(draw(st.integers(0, 6))) for row in draw(_objects(places))]
    found = [draw(_detection(places, objects)) for _ in range(draw(st.integers(0, 25)))]
    if draw(st.integers(0, 5)) == 0:
        found += draw(_flood(places, objects))
    if draw(st.integers(0, 5)) == 0:
        taken = {row["category_id"] for row in objects + found}
        free = [k for k in category_ids if k not in taken]
        row, row_found = draw(_row(image_ids, free or category_ids))
        objects, found = objects + row, found + row_found
    order = random.Random(draw(st.integers(0, 99)))
    order.shuffle(objects)
    order.shuffle(found)
    content = {
        "images": [{"id": i} for i in image_ids],
        "categories": [{"id": i, "name": f"category {i}"} for i in category_ids],
        "annotations": [{**row, "id": 3 * i + 1} for i, row in enumerate(objects)],
    }
    return CocoWorld(content=content, found=found if ties_within_images else _untied(found))


@st.composite
def _objects(draw, places) -> list[dict]:
    """One object, or two or three of one shape, in one place or side by side, that may differ in area and crowd."""
    image_id, category_id = draw(places)
    bbox = [*draw(corners), *draw(extents)]
    own_area = bbox[2] * bbox[3]
    step = draw(st.sampled_from([0.0, bbox[2] / 5]))  # a detection "between" two neighbours overlaps both alike
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": [bbox[0] + place * step, *bbox[1:]],
            "area": draw(st.one_of(st.just(own_area), st.sampled_from([own_area / 2, *AREAS]))),
            "iscrowd": int(draw(st.integers(0, 4)) == 0),
        }
        for place in range(draw(st.sampled_from([1, 1, 1, 2, 3])))
    ]


@st.composite
def _detection(draw, places, objects: list[dict]) -> dict:
    """A detection derived from an object, mostly of its category and image, or a box of its own."""
    image_id, category_id = draw(places)
    if not objects or draw(st.integers(0, 5)) == 0:
        bbox = [*draw(corners), *draw(extents)]
    else:
        source = draw(st.sampled_from(objects))
        bbox = derived(source["bbox"], draw(st.sampled_from(sorted(VARIANTS))), draw(st.integers(9, 20)))
        image_id = source["image_id"] if draw(st.integers(0, 9)) else image_id
        category_id = source["category_id"] if draw(st.integers(0, 5)) else category_id
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": draw(levels)}


@st.composite
def _flood(draw, places, objects: list[dict]) -> list[dict]:
    """95 to 130 detections of one image and category, with scores tied, falling, rising or in steps."""
    image_id, category_id = draw(places)
    if objects and draw(st.booleans()):
        image_id, category_id = (draw(st.sampled_from(objects))[key] for key in ("image_id", "category_id"))
    boxes = [row["bbox"] for row in objects if (row["image_id"], row["category_id"]) == (image_id, category_id)]
    boxes = boxes or [[0.0, 0.0, 20.0, 20.0]]
    score = FLOODS[draw(st.sampled_from(sorted(FLOODS)))]
    names = sorted(VARIANTS)
    late = draw(st.sampled_from([None, 98, 99, 100]))  # with falling scores: finds an object as the last that counts
    if late is not None:
        boxes = [boxes[0] if i == late else [-900.0, -900.0, 20.0, 20.0] for i in range(130)]
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "bbox": derived(boxes[i % len(boxes)], names[i % len(names)], 9 + i % 12),
            "score": float(score(i)),
        }
        for i in range(draw(st.integers(95, 130)))
    ]


@st.composite
def _row(draw, image_ids: list[int], category_ids: list[int]) -> tuple[list[dict], list[dict]]:
    """10 or 20 objects of a category over all images, and detections of some: a recall meets a level, or just not."""
    category_id, bbox = draw(st.sampled_from(category_ids)), [300.0, 300.0, 20.0, 20.0]
    count = draw(st.sampled_from([10, 20]))
    # 0.7 and 0.35 are levels that recall reaches in decimals and misses in floats
    num_found = draw(st.one_of(st.sampled_from([7, 7 * count // 10]), st.integers(1, count)))
    k = draw(st.integers(9, 20))
    places = [{"image_id": image_ids[i % len(image_ids)], "category_id": category_id} for i in range(count)]
    boxes = [[bbox[0] + 40.0 * i, *bbox[1:]] for i in range(count)]
    objects = [{**p, "bbox": box, "area": 400.0, "iscrowd": 0} for p, box in zip(places, boxes, strict=True)]
    found = [
        {**p, "bbox": derived(box, "narrowed", k), "score": 1 - i / 64}
        for i, (p, box) in enumerate(zip(places, boxes, strict=True))
    ]
    return objects, found[:num_found]


def seven_of_ten() -> CocoWorld:
    """The seven best of ten objects found, nothing else: recall ends on 0.7, which the level 0.7000000000000001 is not."""
    place = {"image_id": 1, "category_id": 1}
    boxes = [[40.0 * i, 0.0, 20.0, 20.0] for i in range(10)]
    return CocoWorld(
        content={
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "category 1"}],
            "annotations": [
                {**place, "id": i + 1, "bbox": b, "area": 400.0, "iscrowd": 0} for i, b in enumerate(boxes)
            ],
        },
        found=[{**place, "bbox": box, "score": 1 - i / 64} for i, box in enumerate(boxes[:7])],
    )


VARIANTS = {
    "same": lambda x, y, w, h, k: [x, y, w, h],
    "narrowed": lambda x, y, w, h, k: [x, y, w * k / 20, h],  # IoU k/20, up to rounding
    "flattened": lambda x, y, w, h, k: [x, y, w, h * k / 20],
    "a float narrower": lambda x, y, w, h, k: [x, y, math.nextafter(w * k / 20, -1) if w > 0 else 0.0, h],
    "a float wider": lambda x, y, w, h, k: [x, y, math.nextafter(w * k / 20, 1e9), h],
    "widened": lambda x, y, w, h, k: [x, y, w * 20 / k, h],
    "moved": lambda x, y, w, h, k: [x + w * (20 - k) / 40, y, w, h],
    "between": lambda x, y, w, h, k: [x + w / 10, y, w, h],
    "inside": lambda x, y, w, h, k: [x + w / 4, y + h / 4, w * k / 40, h / 2],
    "half out": lambda x, y, w, h, k: [x - w / 2, y, w * k / 10, h],
    "without extent": lambda x, y, w, h, k: [x, y, 0.0, h],
}


def derived(bbox, variant: str, k: int) -> list[float]:
    """The box xywh of a detection made from an object's; `k` from 9 to 20 says how much is left or moved."""
    return VARIANTS[variant](*bbox, k)


def _untied(found: list[dict]) -> list[dict]:
    """The same detections with scores that differ within each image and category, but not between images."""
    rank: dict[tuple, int] = defaultdict(int)
    rows = []
    for row in found:
        place = row["image_id"], row["category_id"]
        rows.append({**row, "score": 0.5 + (rank[place] * 59 % 131) / 262})  # 131 is prime: no two equal
        rank[place] += 1
    return rows


def traits(world: CocoWorld) -> set[str]:
    """Which of the evaluation's edges a world sits on, worked out from its rows alone."""
    objects, found = world.content["annotations"], world.found
    images, categories = ([row["id"] for row in world.content[key]] for key in ("images", "categories"))
    place = {
        name: [(row["image_id"], row["category_id"]) for row in rows] for name, rows in (("g", objects), ("d", found))
    }
    within = [(*key, row["score"]) for key, row in zip(place["d"], found, strict=True)]
    by_class = {(row["category_id"], row["score"], row["image_id"]) for row in found}
    pairs = [
        (iou(_corners(g["bbox"]), _corners(d["bbox"]), crowd=bool(g["iscrowd"])), g, d)
        for g, here in zip(objects, place["g"], strict=True)
        for d, there in zip(found, place["d"], strict=True)
        if here == there
    ]
    holds = {
        "no detections": not found,
        "crowd region that is found": any(overlap >= 0.5 and g["iscrowd"] for overlap, g, _ in pairs),
        "scores tied within an image": len(set(within)) < len(within),
        "scores tied across images": len({key[:2] for key in by_class}) < len(by_class),
        "category without objects": bool(set(categories) - {key[1] for key in place["g"]}),
        "category without detections": bool(set(categories) - {key[1] for key in place["d"]}),
        "image without objects or detections": bool(set(images) - {key[0] for key in place["g"] + place["d"]}),
        "over 100 of an image and category": any(place["d"].count(key) > MORE_THAN_COUNTED for key in set(place["d"])),
        "ten objects of a category": any(sum(key[1] == k for key in place["g"]) >= 10 for k in categories),
        "object's area at a size border": any(row["area"] in (SMALL, MEDIUM) for row in objects),
        "detection's area at a size border": any(row["bbox"][2] * row["bbox"][3] in (SMALL, MEDIUM) for row in found),
        "area that is not the box's": any(row["area"] != row["bbox"][2] * row["bbox"][3] for row in objects),
        "object without extent": any(row["bbox"][2] * row["bbox"][3] == 0 for row in objects),
        "detection without extent": any(row["bbox"][2] * row["bbox"][3] == 0 for row in found),
        "IoU at a threshold": any(overlap in (0.5, 0.6, 0.75, 0.8, 0.9) for overlap, _, _ in pairs),
        "equal IoU with two places": _has_equal_ious(pairs),
    }
    return {name for name, is_so in holds.items() if is_so}


def _corners(bbox) -> tuple[float, float, float, float]:
    x, y, width, height = bbox
    return x, y, x + width, y + height


def _has_equal_ious(pairs) -> bool:
    """Whether a detection overlaps two objects of different boxes equally."""
    seen = {(id(d), overlap, tuple(g["bbox"])) for overlap, g, d in pairs if overlap >= 0.5}
    return len({key[:2] for key in seen}) < len(seen)
