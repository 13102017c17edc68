"""A VOC style data set, and the result files of VOC's development kit, as COCO's two files have them: for evaluation.

    content = read_voc(Path("VOCdevkit/VOC2012"), split="val")
    rows, notes = read_voc_detections(Path("results/VOC2012/Main"), content)

A result file is called `<anything>_<class>.txt`; each row is `image score xmin ymin xmax ymax`, in pixels counted from
1 with the last inside, as in the xml files. What is measured are COCO's statistics, not VOC's own AP; difficult objects
are crowd regions (see `freeanchor.data.voc`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freeanchor.data.voc import as_coco, read_records, to_xywh
from freeanchor.data.voc_files import find_layout
from freeanchor.data.voc_xml import shifted
from freeanchor.data.yolo import names_of_images, text_files
from freeanchor.errors import DataError, brief, listed


def read_voc(source: Path, *, split: str = "val") -> dict[str, Any]:
    """The ground truth of one split, "val" or "train", as the content of a COCO instances file.

    Where nothing says which images train, all are taken. Categories are those of the xml files by name, with ids from
    1. Raises DataError in one line, as `freeanchor.data.voc.convert_voc` does.
    """
    layout = find_layout(source)
    both = list(layout.splits.values())
    if split not in layout.splits:
        raise DataError.at(source, f'has no split "{split}"', f"choose one of {', '.join(layout.splits)}")
    is_whole = not layout.is_listed and both[0].annotations == both[1].annotations
    chosen = both if is_whole else [layout.splits[split]]
    records = [record for files in chosen for record in read_records(split, files)]
    records.sort(key=lambda record: record.name)
    categories = sorted({item.name for record in records for item in record.objects})
    return as_coco(records, {record.image: record.name for record in records}, categories)


def read_voc_detections(folder: Path, content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The detections in result files, one per class, as the content of a COCO results file, and notes.

    `content` is the ground truth. Raises DataError in one line where no file is of a class of it, or a row is not
    `image score xmin ymin xmax ymax`.
    """
    image_of = names_of_images(content)
    category_of = {item["name"]: item["id"] for item in content["categories"]}
    rows, strays, unknown = [], [], 0
    for path in text_files(folder):
        name = class_of(path, category_of)
        if name is None:
            strays.append(path.name)
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
            if words := line.split():
                image, values = words[0], _numbers(words[1:], path, number, line)
                if image not in image_of:
                    unknown += 1
                    continue
                x1, y1, x2, y2 = values[1:]
                box = to_xywh(shifted((x1, y1, x2, y2)))
                score = values[0]
                rows.append(
                    {"image_id": image_of[image], "category_id": category_of[name], "bbox": list(box), "score": score}
                )
    if strays and not rows:
        raise DataError.at(folder, f"no file is of a class ({listed(strays)})", "name them <anything>_<class>.txt")
    notes = [f"{folder}: {len(strays)} files of no class left out: {listed(strays)}"] if strays else []
    return rows, notes + ([f"{folder}: {unknown:,} detections of other images left out"] if unknown else [])


def class_of(path: Path, names: Mapping[str, Any]) -> str | None:
    """The class that a result file is about: the longest one that its name ends with."""
    found = [name for name in names if path.stem == name or path.stem.endswith(f"_{name}")]
    return max(found, key=len, default=None)


def _numbers(words: list[str], path: Path, number: int, line: str) -> list[float]:
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    if len(values) != 5:
        raise DataError.at(path, f"row {number} is {brief(line)}", "write image score xmin ymin xmax ymax")
    return values
