"""Classes made of a data set's categories: as they are, by supercategory, or all as one.

What is trained on is then a folder of ours: both annotation files rewritten, the images linked to.

    merged(content, "supercategory")["categories"]
    write_merged(Path("coco"), Path("data/coco-one-1f0c2a9b3d"), "one")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from freeanchor.data.coco import locate_split, read_split
from freeanchor.errors import DataError
from freeanchor.files import read_json, write_json

Classes = Literal["own", "supercategory", "one"]
CLASSES: tuple[Classes, ...] = ("own", "supercategory", "one")
ONE = "object"  # the name of the only class


def _names(categories: list[dict[str, Any]], classes: Classes) -> dict[int, str]:
    """The name of the class that each category belongs to."""
    if classes == "own":
        return {item["id"]: item["name"] for item in categories}
    if classes == "one":
        return {item["id"]: ONE for item in categories}
    if missing := [item["name"] for item in categories if not item.get("supercategory")]:
        raise DataError(f"category {missing[0]!r} has no supercategory; add it to both jsons, or give --classes one")
    return {item["id"]: item["supercategory"] for item in categories}


def merged(content: Mapping[str, Any], classes: Classes, ids: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A COCO json's content with its categories made into classes; `content` itself is not changed.

    Ids count from 1 in the order of the old ones unless `ids`, of another split, has them. Raises DataError where a
    category has no supercategory to go by.
    """
    if classes == "own":
        return dict(content)
    names = _names(sorted(content["categories"], key=lambda item: item["id"]), classes)
    ids = {**(ids or {})}
    for name in names.values():
        ids.setdefault(name, len(ids) + 1)
    return {
        **content,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [{**item, "category_id": ids[names[item["category_id"]]]} for item in content["annotations"]],
    }


def write_merged(source: Path, target: Path, classes: Classes) -> None:
    """Write both annotation files with those classes into `target`, in the layout of `source`, whose images it links.

    Raises DataError where a split of `source` cannot be read. What is there already is only linked anew.
    """
    made: dict[str, dict[str, Any]] = {}
    for split in ("train", "val"):
        annotations, images = locate_split(source, split)
        _link(target / images.relative_to(source), images)
        path = target / annotations.relative_to(source)
        if not path.exists():
            read_split(source, split)  # says what is wrong with it, if anything is
            ids = {item["name"]: item["id"] for item in made["train"]["categories"]} if made else None
            made[split] = merged(read_json(annotations), classes, ids)
            write_json(path, made[split])
        else:
            made[split] = read_json(path)


def _link(link: Path, images: Path) -> None:
    """Let `link` lead to the images, also where the set was moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() != images.resolve():
        link.unlink()
    if not link.is_symlink():
        link.symlink_to(images.resolve(), target_is_directory=True)
