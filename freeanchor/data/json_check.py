"""What is wrong with the json of one split: every problem, and what can be read in spite of them.

    content = check_json(Path("data/shapes/val.json"), "val.json")
    content.problems, content.entries

Reading a split raises the first error that is listed here, so the two agree on what can be used.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, TypeGuard

import numpy as np

from freeanchor.data.suspicions import Boxes, is_drawn, passed_over, suspicions
from freeanchor.errors import LARGEST, FileError, Problem, brief, is_line, is_number, is_whole
from freeanchor.files import load_json

LISTS = ("images", "annotations", "categories")
IDS = {"images": ("id",), "annotations": ("id", "image_id", "category_id"), "categories": ("id",)}
TOLERANCE = 1.0  # pixels that a box may leave its image by unnoticed: annotators and rescaling round
EXACT = 2**53  # below it a float has a whole number for itself
Item = Mapping[str, Any]
Sizes = Mapping[int, tuple[int, int] | None]
Finding = tuple[Literal["error", "warning"], str, str, str]  # severity, kind, what, remedy
_error, _warning = Problem.error, Problem.warning


def split_paths(directory: Path, split: str) -> tuple[Path, Path]:
    """Where a split's json and image folder lie: in COCO's layout where its json is there, else in the flat one."""
    coco = directory / "annotations" / f"instances_{split}2017.json", directory / f"{split}2017"
    flat = directory / f"{split}.json", directory / "images"
    return coco if coco[0].is_file() and not flat[0].is_file() else flat


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """An image as the json has it: `size` is (width, height), None where it is not given rightly."""

    image_id: int
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class JsonContent:
    """What a json says, as far as it can be read, and what is wrong with it.

    `entries` are the images with an id and a name inside their folder, `categories` maps ids to names (None where
    there are no lists to look into), `num_objects` counts single objects that keep an area inside their image,
    `num_crowds` crowd regions.
    """

    where: str
    problems: tuple[Problem, ...]
    entries: tuple[ImageEntry, ...] = ()
    categories: Mapping[int, str] | None = None
    num_objects: int = 0
    num_crowds: int = 0


def check_json(path: Path, where: str) -> JsonContent:
    """Read a COCO file and list its problems, `where` being its name in them; never raises for what it holds."""
    content, problems = read_lists(path, where)
    if any(problem.severity == "error" for problem in problems):
        return JsonContent(where=where, problems=problems)
    lists = _objects_of(content)
    images, categories = _listed(lists)
    known = [item for item in lists["annotations"] if is_listed(item, images, categories)]
    singles = [item for item in known if not item.get("iscrowd")]
    num_objects = sum(_has_area(item, images) for item in singles)
    return JsonContent(
        where=where,
        problems=(*problems, *content_problems(content, where), *_absences(lists, categories, num_objects, where)),
        entries=tuple(_entries(lists["images"])),
        categories=categories,
        num_objects=num_objects,
        num_crowds=len(known) - len(singles),
    )


def content_problems(content: Item, where: str) -> Iterator[Problem]:
    """Every problem of single items in a COCO file's three lists, which are known to be there."""
    lists = _objects_of(content)
    images, categories = _listed(lists)
    yield from _item_problems(content, "images", where)
    yield from _image_problems(lists["images"], where)
    yield from category_problems(content, where)
    yield from _item_problems(content, "annotations", where)
    yield from _annotation_problems(lists["annotations"], images, set(categories), where)
    yield from _range_problems(lists, where)
    yield from suspicions(_boxes_of(lists["annotations"], images), where)
    if not is_drawn(content):  # its boxes lie around what its angles turn
        yield from passed_over(lists["images"], lists["annotations"], where)


def _objects_of(content: Item) -> dict[str, list[Item]]:
    return {key: [item for item in content[key] if isinstance(item, dict)] for key in LISTS}


def _listed(lists: Mapping[str, list[Item]]) -> tuple[dict[int, tuple[int, int] | None], dict[int, str]]:
    """Sizes of the images and names of the categories that are listed under a right id."""
    images = {int(image["id"]): _size(image) for image in lists["images"] if _is_id(image.get("id"))}
    categories = {int(item["id"]): str(item.get("name")) for item in lists["categories"] if _is_id(item.get("id"))}
    return images, categories


def read_lists(path: Path, where: str) -> tuple[Item, tuple[Problem, ...]]:
    """The file's object, with whole ids written as such, and why its three lists cannot be looked into."""
    kind = "files that are not read"
    try:
        content = load_json(path)
    except FileError as error:
        return {}, (_error(kind, where, error.what, error.remedy),)
    if not isinstance(content, dict):
        what = f"holds a {type(content).__name__}, not a COCO object"
        return {}, (_error(kind, where, what, "is it a results file? give the ground truth"),)
    states = {
        key: f"{brief(content[key])}, not a list, as" if key in content else "no list"
        for key in LISTS
        if not isinstance(content.get(key), list)
    }
    kind, remedy = "missing lists", "give it images, annotations, categories"
    if states:
        return content, tuple(_error(kind, where, f"has {state} {key!r}", remedy) for key, state in states.items())
    num_points = sum(_write_whole(item, fields) for key, fields in IDS.items() for item in content[key])
    if not num_points:
        return content, ()
    what, remedy = f"ids written with a point, as 1.0: {num_points:,}", "they are taken as whole numbers"
    return content, (_warning("ids with a point", where, what, remedy),)


def _write_whole(item: Any, fields: Sequence[str]) -> int:
    """Turn an item's ids like 1.0 into whole numbers, where floats tell these apart; how many there were."""
    if not isinstance(item, dict):
        return 0
    points = {key: value for key in fields if isinstance(value := item.get(key), float) and value.is_integer()}
    whole = {key: int(value) for key, value in points.items() if abs(value) < EXACT}
    item.update(whole)
    return len(whole)


def _is_id(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number, of any size; `_range_problems` has those that are too large."""
    return isinstance(value, int) and not isinstance(value, bool)


def _range_problems(lists: Mapping[str, list[Item]], where: str) -> Iterator[Problem]:
    """Ids beyond 64 bits, as one problem: they come by the thousand, from hashes."""
    values = (item.get(field) for key, fields in IDS.items() for item in lists[key] for field in fields)
    if beyond := [value for value in values if _is_id(value) and not is_whole(value)]:
        what = f"ids that do not fit 64 bits: {len(beyond):,}, {brief(beyond[0])} for one"
        yield _error("ids beyond 64 bits", where, what, f"renumber them, from 1 up to at most {LARGEST - 1}")


def _item_problems(content: Item, key: str, where: str) -> Iterator[Problem]:
    """A list that is empty and must not be, and its items that are no objects."""
    if not content[key] and key != "annotations":
        yield _error("empty lists", where, f"lists no {key}", "give a file with at least one")
    for position, item in enumerate(content[key]):
        if not isinstance(item, dict):
            what = f"item {position} of {key} is {brief(item)}, not an object"
            yield _error("items that are no objects", where, what, "see COCO's data format")


def _id_problems(item: Item, kind: str, seen: set[int], where: str) -> Iterator[Problem]:
    """What is wrong with an item's id, those before it being `seen`."""
    identity = item.get("id")
    if not _is_id(identity):
        what = f"an entry in {kind} with the id {brief(identity)}" if "id" in item else f"no id in {brief(item)}"
        yield _error(f"bad ids of {kind}", where, f"has {what}", "give it a whole number of its own")
    elif identity in seen:
        yield _error(f"repeated ids of {kind}", where, f"two {kind} share the id {identity}", "give each its own")
    else:
        seen.add(identity)


def _image_problems(images: list[Item], where: str) -> Iterator[Problem]:
    seen: set[int] = set()
    names = Counter(normal_name(image["file_name"]) for image in images if _is_name(image.get("file_name")))
    repeated = {name for name, count in names.items() if count > 1}
    for image in images:
        here = f"{where}: image {brief(image.get('id'))}"
        yield from _id_problems(image, "images", seen, where)
        if _size(image) is None:
            size = f"{brief(image.get('width'))} x {brief(image.get('height'))}"
            yield _error("bad sizes", here, f"is {size} large", "give width and height in whole pixels, 1 or more")
        yield from _name_problems(image, repeated, here)


def _name_problems(image: Item, repeated: set[str], here: str) -> Iterator[Problem]:
    name = image.get("file_name")
    if not _is_name(name):
        yield _error("bad file names", here, f"has the file_name {brief(name)}", "name its file in the image folder")
    elif _leaves(name):
        remedy = "give a name inside the image folder, without .. and leading slash"
        yield _error("file names that leave the folder", here, f"lies outside, at {brief(name)}", remedy)
    elif normal_name(name) in repeated:
        remedy = "give it one entry with all its boxes, else those of the other count as background"
        yield _warning("images listed twice", here, f"shares its file {brief(name)} with another", remedy)


def _is_name(name: Any) -> TypeGuard[str]:
    return isinstance(name, str) and bool(PurePosixPath(name).parts) and "\0" not in name


def normal_name(name: str) -> str:
    """A file name without `./` and doubled slashes."""
    return str(PurePosixPath(name))


def _leaves(name: str) -> bool:
    """Whether a file name leads out of the image folder, here or on Windows."""
    windows = PureWindowsPath(name)
    return PurePosixPath(name).is_absolute() or bool(windows.drive) or ".." in windows.parts


def _size(image: Item) -> tuple[int, int] | None:
    """(width, height) of an entry, None where they are no sizes."""
    width, height = image.get("width"), image.get("height")
    if not (is_number(width) and is_number(height)) or (int(width), int(height)) != (width, height):
        return None
    return (int(width), int(height)) if min(width, height) >= 1 else None


def _entries(images: list[Item]) -> Iterator[ImageEntry]:
    """The images whose files can be looked for, each file once."""
    seen = set()
    for image in images:
        name = image.get("file_name")
        if not _is_name(name) or _leaves(name) or normal_name(name) in seen or not _is_id(image.get("id")):
            continue
        seen.add(normal_name(name))
        yield ImageEntry(image_id=int(image["id"]), file_name=normal_name(name), size=_size(image))


def category_problems(content: Item, where: str) -> Iterator[Problem]:
    """What is wrong with a COCO file's list of categories, which is known to be there: ids and names."""
    yield from _item_problems(content, "categories", where)
    seen: set[int] = set()
    names: set[str] = set()
    for category in _objects_of(content)["categories"]:
        yield from _id_problems(category, "categories", seen, where)
        name, here = category.get("name"), f"{where}: category {brief(category.get('id'))}"
        if not is_line(name):
            yield _error("bad names of categories", here, f"has the name {brief(name)}", "give it a name of one line")
        elif name in names:
            remedy = "join them, or tell them apart: they are learned as two classes"
            yield _warning("repeated names of categories", here, f"has the name {brief(name)} of another", remedy)
        else:
            names.add(name)


def _absences(
    lists: Mapping[str, list[Item]], categories: Mapping[int, str], num_objects: int, where: str
) -> Iterator[Problem]:
    """What the lists lack: objects, objects of a category, objects of an image."""
    if not num_objects:
        yield _error("splits without objects", where, "holds no object", "nothing can be learned or measured without")
        return
    singles = [item for item in lists["annotations"] if not item.get("iscrowd")]
    used = {item.get("category_id") for item in singles if _is_id(item.get("category_id"))}
    for identity, name in categories.items():
        if identity not in used:
            what = f"has no object of category {identity} {name!r}"
            yield _warning("categories without objects", where, what, "fine if it is meant; its AP is left out")
    with_objects = {item.get("image_id") for item in lists["annotations"] if _is_id(item.get("image_id"))}
    listed = {image.get("id") for image in lists["images"] if _is_id(image.get("id"))}
    if empty := listed - with_objects:
        what = f"images without objects: {len(empty):,} of {len(listed):,}"
        yield _warning("images without objects", where, what, "fine if nothing is to be found there")


def _annotation_problems(
    annotations: Sequence[Item], images: Sizes, categories: Collection[int], where: str
) -> Iterator[Problem]:
    """`images` maps the listed ids to (width, height), None where that is unknown; `categories` are the listed ids."""
    seen: set[int] = set()
    for position, annotation in enumerate(annotations):
        identity = annotation.get("id")
        findings = [
            *_id_findings(identity, seen),
            *_link_findings(annotation),
            *_box_findings(annotation, images),
            *_field_findings(annotation),
        ]
        for severity, kind, what, remedy in findings:
            here = f"{where}: annotation {brief(identity) if 'id' in annotation else f'[{position}]'}"
            yield Problem(severity=severity, kind=kind, where=here, what=what, remedy=remedy)
    yield from _unlisted_problems(annotations, images, categories, where)
    yield from _missing_fields(annotations, where)


def _has_area(annotation: Item, images: Sizes) -> bool:
    """Whether an annotation's box, clipped to its listed image, keeps an area: whether it is an object to learn."""
    box, size = annotation.get("bbox"), _size_of_its_image(annotation, images)
    return size is not None and _is_box(box) and _overlap(box, size) > 0


def _size_of_its_image(annotation: Item, images: Sizes) -> tuple[int, int] | None:
    image_id = annotation.get("image_id")
    return images.get(image_id) if _is_id(image_id) else None


def _id_findings(identity: Any, seen: set[int]) -> Iterator[Finding]:
    if not _is_id(identity):
        yield "error", "bad ids of annotations", f"has the id {brief(identity)}", "give it a whole number of its own"
    elif identity in seen:
        yield "error", "repeated ids of annotations", "shares its id with another", "give each its own"
    else:
        seen.add(identity)
        if identity == 0:
            remedy = "number from 1; pycocotools takes a match with 0 for none (here it is read rightly)"
            yield "warning", "annotations with the id 0", "has the id 0", remedy


def _link_findings(annotation: Item) -> Iterator[Finding]:
    """What is no image, or no category, of an annotation."""
    for key, kind in (("image_id", "images"), ("category_id", "categories")):
        if not _is_id(identity := annotation.get(key)):
            what = f"is of {key} {brief(identity)}, which is not listed"
            yield "error", f"annotations of no {kind}", what, "give the id of a listed one, or drop the annotation"


def is_listed(annotation: Item, images: Collection[int], categories: Collection[int]) -> bool:
    """Whether the image and the category of an annotation are among those listed, as in a json of some of its images.

    Annotations of others are left out, as pycocotools leaves them out.
    """
    image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
    return _is_id(image_id) and image_id in images and _is_id(category_id) and category_id in categories


def _unlisted_problems(
    annotations: Sequence[Item], images: Sizes, categories: Collection[int], where: str
) -> Iterator[Problem]:
    for key, listed, kind in (("image_id", images, "images"), ("category_id", categories, "categories")):
        ids = [identity for item in annotations if _is_id(identity := item.get(key)) and identity not in listed]
        if ids:
            what = f"annotations of {kind} that are not listed: {len(ids):,} of {len(annotations):,}, {key} {ids[0]}"
            remedy = f"they are left out: list the {kind} if they are meant"
            yield _warning(f"annotations of unknown {kind}", where, f"{what} for one", remedy)


def _is_box(box: Any) -> TypeGuard[list[float]]:
    """Whether a value is [x, y, width, height] in finite pixels, no side negative."""
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) >= 0


def _overlap(box: Sequence[float], size: tuple[int, int]) -> float:
    """Area that a box and its image share, in square pixels."""
    sides = (min(box[i] + box[i + 2], size[i]) - max(box[i], 0) for i in (0, 1))
    width, height = (max(side, 0) for side in sides)
    return width * height


def _box_findings(annotation: Item, images: Sizes) -> Iterator[Finding]:
    box, size = annotation.get("bbox"), _size_of_its_image(annotation, images)
    if not _is_box(box):
        what = f"has the box {brief(box)}" if "bbox" in annotation else "has no bbox"
        yield "error", "boxes that are none", what, "give [x, y, width, height] in finite pixels, no side negative"
        return
    if box[2] * box[3] == 0:
        yield "warning", "boxes without area", f"has the box {box}", "training leaves it out, evaluation misses it"
        return
    if size is None:
        return
    where = f"has the box {box} in an image of {size[0]}x{size[1]}"
    if _overlap(box, size) == 0:
        remedy = "correct or drop it: training leaves it out, evaluation misses it"
        yield "warning", "boxes outside their image", where, remedy
    elif _excess(box, size) > TOLERANCE:
        remedy = "is it [x, y, width, height]? training clips it to the image, evaluation does not"
        yield "warning", "boxes that leave their image", where, remedy


def _excess(box: Sequence[float], size: tuple[int, int]) -> float:
    """Pixels by which a box leaves its image on the side where it does most."""
    return max(max(-box[i], box[i] + box[i + 2] - size[i]) for i in (0, 1))


def _field_findings(annotation: Item) -> Iterator[Finding]:
    area, crowd = annotation.get("area"), annotation.get("iscrowd")
    if area is not None and (not is_number(area) or area < 0):
        yield "error", "bad areas", f"has the area {brief(area)}", "give square pixels"
    if crowd is not None and crowd not in (0, 1):
        yield "error", "bad crowd flags", f"has the iscrowd {brief(crowd)}", "give 0, or 1 for a crowd region"


def _boxes_of(annotations: Sequence[Item], images: Sizes) -> Boxes:
    """The single objects whose boxes and images can be looked at."""
    items = [item for item in annotations if not item.get("iscrowd") and _is_box(item.get("bbox"))]
    usable = [item for item in items if min(item["bbox"][2:]) > 0 and _size_of_its_image(item, images)]
    areas = [area if is_number(area := item.get("area")) else np.nan for item in usable]
    return Boxes(
        boxes=np.array([item["bbox"] for item in usable], dtype=float).reshape(-1, 4),
        sizes=np.array([images[item["image_id"]] for item in usable], dtype=float).reshape(-1, 2),
        areas=np.array(areas, dtype=float),
        has_mask=np.array([bool(item.get("segmentation")) for item in usable], dtype=bool),
    )


def _missing_fields(annotations: Sequence[Item], where: str) -> Iterator[Problem]:
    """Fields that evaluation reads and that have a stand-in: one problem each, as mostly all annotations lack it."""
    for key, remedy in (
        ("area", "the box's area stands in, which counts in APs by size; pycocotools used alone fails without"),
        ("iscrowd", "0 stands in; pycocotools used alone fails without"),
    ):
        count = sum(annotation.get(key) is None for annotation in annotations)
        if count:
            what = f"annotations without {key}: {count:,} of {len(annotations):,}"
            yield _warning(f"annotations without {key}", where, what, remedy)
