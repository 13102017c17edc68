"""What is wrong with a list of annotations: whose they are, their boxes, and the fields that evaluation reads.

for problem in annotation_problems(annotations, {1: (640, 480)}, {18}, "val.json"):
    print(problem)
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from freeanchor.errors import Problem, brief, is_number, is_whole

TOLERANCE = 1.0  # pixels that a box may leave its picture by unnoticed: annotators and rescaling round

Sizes = Mapping[int, tuple[int, int] | None]
Finding = tuple[Literal["error", "warning"], str, str, str]  # severity, kind, what, remedy


def annotation_problems(
    annotations: Sequence[Mapping[str, Any]], pictures: Sizes, categories: Collection[int], where: str
) -> Iterator[Problem]:
    """Every problem of every annotation of a COCO file.

    `pictures` maps the listed image ids to (width, height), None where that is unknown; `categories` are the listed
    ids; `where` names the file.
    """
    seen: set[int] = set()
    for position, annotation in enumerate(annotations):
        identity = annotation.get("id")
        findings = [
            *_id_findings(identity, seen),
            *_link_findings(annotation, pictures, categories),
            *_box_findings(annotation, pictures),
            *_field_findings(annotation),
        ]
        here = f"{where}: annotation " + (brief(identity) if "id" in annotation else f"[{position}]")
        for severity, kind, what, remedy in findings:
            yield Problem(severity=severity, kind=kind, where=here, what=what, remedy=remedy)
        if is_whole(identity):
            seen.add(identity)
    yield from _missing_fields(annotations, where)


def has_area(annotation: Mapping[str, Any], pictures: Sizes) -> bool:
    """Whether an annotation's box, clipped to its listed picture, keeps an area: whether it is an object to learn."""
    box, image_id = annotation.get("bbox"), annotation.get("image_id")
    size = pictures.get(int(image_id)) if is_whole(image_id) else None
    return size is not None and _is_box(box) and _overlap(box, size) > 0


def _id_findings(identity: Any, seen: Collection[int]) -> Iterator[Finding]:
    """What is wrong with an annotation's own id."""
    if not is_whole(identity):
        yield "error", "bad ids of annotations", f"has the id {brief(identity)}", "give it a whole number of its own"
    elif identity in seen:
        yield "error", "repeated ids of annotations", "shares its id with another", "give each its own"
    elif identity == 0:
        remedy = "number from 1; pycocotools takes a match with 0 for none (here it is read rightly)"
        yield "warning", "annotations with the id 0", "has the id 0", remedy


def _link_findings(annotation: Mapping[str, Any], pictures: Sizes, categories: Collection[int]) -> Iterator[Finding]:
    """Which picture and category an annotation is of, unless they are listed."""
    for key, listed, kind in (
        ("image_id", pictures, "unknown images"),
        ("category_id", categories, "unknown categories"),
    ):
        identity = annotation.get(key)
        if not is_whole(identity) or identity not in listed:
            what = f"is of {key} {brief(identity)}, which is not listed"
            yield "error", f"annotations of {kind}", what, "list it, or drop the annotation"


def _is_box(box: Any) -> TypeGuard[list[float]]:
    """Whether a value is [x, y, width, height] in finite pixels, no side negative."""
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0


def _overlap(box: Sequence[float], size: tuple[int, int]) -> float:
    """Area that a box and its picture share, in square pixels."""
    sides = (min(box[i] + box[i + 2], size[i]) - max(box[i], 0) for i in (0, 1))
    width, height = (max(side, 0) for side in sides)
    return width * height


def _box_findings(annotation: Mapping[str, Any], pictures: Sizes) -> Iterator[Finding]:
    """What is wrong with an annotation's box."""
    box, image_id = annotation.get("bbox"), annotation.get("image_id")
    if not _is_box(box):
        what = f"has the box {brief(box)}" if "bbox" in annotation else "has no bbox"
        yield "error", "boxes that are none", what, "give [x, y, width, height] in finite pixels, no side negative"
        return
    if box[2] * box[3] == 0:
        yield "warning", "boxes without area", f"has the box {box}", "training leaves it out, evaluation misses it"
        return
    size = pictures.get(int(image_id)) if is_whole(image_id) else None
    if size is None:
        return
    where = f"has the box {box} in a picture of {size[0]}x{size[1]}"
    if _overlap(box, size) == 0:
        remedy = "correct or drop it: training leaves it out, evaluation misses it"
        yield "warning", "boxes outside their picture", where, remedy
    elif _excess(box, size) > TOLERANCE:
        remedy = "is it [x, y, width, height]? training clips it to the picture, evaluation does not"
        yield "warning", "boxes that leave their picture", where, remedy


def _excess(box: Sequence[float], size: tuple[int, int]) -> float:
    """Pixels by which a box leaves its picture on the side where it does most."""
    return max(max(-box[i], box[i] + box[i + 2] - size[i]) for i in (0, 1))


def _field_findings(annotation: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the fields that evaluation reads, where they are there."""
    area, crowd = annotation.get("area"), annotation.get("iscrowd")
    if area is not None and (not is_number(area) or area < 0):
        yield "error", "bad areas", f"has the area {brief(area)}", "give square pixels"
    if crowd is not None and crowd not in (0, 1):
        yield "error", "bad crowd flags", f"has the iscrowd {brief(crowd)}", "give 0, or 1 for a crowd region"


def _missing_fields(annotations: Sequence[Mapping[str, Any]], where: str) -> Iterator[Problem]:
    """Fields that evaluation reads and that have a stand-in: one problem a field, as mostly all annotations lack it."""
    for key, remedy in (
        ("area", "the box's area stands in, which counts in APs by size; pycocotools used alone fails without"),
        ("iscrowd", "0 stands in; pycocotools used alone fails without"),
    ):
        count = sum(annotation.get(key) is None for annotation in annotations)
        if count:
            what = f"annotations without {key}: {count:,} of {len(annotations):,}"
            yield Problem(severity="warning", kind=f"annotations without {key}", where=where, what=what, remedy=remedy)
