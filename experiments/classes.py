"""Classes made of a data set's categories: as they are, by supercategory, or all as one.

What is trained on is then a folder of ours: both annotation files rewritten, the pictures linked to.

    merged(content, "supercategory")["categories"]
    write_merged(Path("coco"), Path("data/coco-one-1f0c2a9b3d"), "one")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from experiments.files import read_json, write_json
from freeanchor.data import DataError, locate_split

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


def merged(content: Mapping[str, Any], classes: Classes) -> dict[str, Any]:
    """A COCO json's content with its categories made into classes; ids count from 1 in the order of the old ones.

    Raises DataError where a category has no supercategory to go by. `content` itself is not changed.
    """
    if classes == "own":
        return dict(content)
    categories = sorted(content["categories"], key=lambda item: item["id"])
    names = _names(categories, classes)
    ids = {name: number for number, name in enumerate(dict.fromkeys(names.values()), start=1)}
    return {
        **content,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "annotations": [{**item, "category_id": ids[names[item["category_id"]]]} for item in content["annotations"]],
    }


def write_merged(source: Path, target: Path, classes: Classes) -> None:
    """Write `train.json` and `val.json` with those classes into `target`, and a link to the pictures of `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        annotations, images = locate_split(source, split)
        link = target / "images"
        if link.is_symlink() and link.resolve() != images.resolve():
            link.unlink()  # the set was moved
        if not link.is_symlink():
            link.symlink_to(images.resolve(), target_is_directory=True)
        write_json(target / f"{split}.json", merged(read_json(annotations), classes))
