"""YOLO's folders, Ultralytics' layout: `data.yaml`, images, and one txt of normalised boxes per image.

    content = read_yolo(Path("dataset"), split="val")           # as a COCO instances file has it
    rows, notes = read_yolo_detections(Path("runs/detect/labels"), content)     # as a COCO results file has it
    convert_yolo(Path("dataset"), Path("photos"))               # train.json, val.json and images/

A row of ground truth is `class x y width height`: the box's centre and sides as fractions of its image, whose size is
read from the image's own header. Rows of more numbers are outlines, as polygons; their bounding box counts. A row of
detections has the score behind the box (`save_txt` with `save_conf`). Classes are counted from 0 in the order of
`names`; category ids are these numbers plus 1.

Ultralytics turns images as their EXIF flag says, so a turned image's box lies on the turned image: evaluation takes
that size; conversion, after which pixels are read as they are stored, refuses such images.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from tqdm import tqdm

from freeanchor.data.images import EXTENSIONS, TURNED, opened, orientation
from freeanchor.data.voc_names import files_below
from freeanchor.errors import DataError, FileError, brief, listed
from freeanchor.files import hidden_beside, settle

YAML = (".yaml", ".yml")
SPLITS = ("val", "test", "train")
_SLACK = 1e-3  # by which rounded fractions may leave [0, 1]; Ultralytics drops rows beyond 1
_LARGEST_YAML = 2**20  # bytes

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class YoloData:
    """A `data.yaml`: where it lies, the names of its classes, and where the images of each split are."""

    path: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[str, ...]]
    root: str


def find_yaml(source: Path) -> Path:
    """The data.yaml that `source` is, or the only yaml in it; raises DataError where there is none, or no telling."""
    if source.suffix.lower() in YAML:
        return source
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in YAML) if source.is_dir() else []
    named = [path for path in found if path.stem == "data"] or found
    if len(named) != 1:
        what = (
            f"holds {len(found)} yaml files ({listed([path.name for path in found])})" if found else "has no data.yaml"
        )
        raise DataError.at(
            source, what, "give the data.yaml itself: names of classes, and where each split's images are"
        )
    return named[0]


def read_yaml(source: Path) -> YoloData:
    """The data.yaml of a data set; raises DataError in one line where it is not one."""
    path = find_yaml(source)
    try:
        if path.stat().st_size > _LARGEST_YAML:
            raise DataError.at(path, "is larger than any data.yaml", "give the one of your data set")
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise DataError.at(path, f"not valid yaml ({' '.join(str(error).split())})", "correct it") from None
    except OSError as error:
        raise DataError.at(path, f"cannot be read ({error.strerror})", "check the path") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and sorted(names, key=str) == sorted(range(len(names)), key=str):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names or len(set(map(str, names))) < len(names):
        raise DataError.at(
            path, 'has no list "names" of different classes', "write names: [first, second], or 0: first"
        )
    splits = {}
    for key, split in (("train", "train"), ("val", "val"), ("valid", "val"), ("test", "test")):
        places = content.get(key)
        if places:
            splits[split] = tuple(map(str, places if isinstance(places, list) else [places]))
    return YoloData(path=path, names=tuple(map(str, names)), splits=splits, root=str(content.get("path") or "."))


def read_yolo(source: Path, *, split: str = "val") -> dict[str, Any]:
    """The ground truth of one split, as the content of a COCO instances file; names of images below their folder.

    An image without a txt has no objects. Raises DataError in one line for the first thing that cannot be used.
    """
    return _as_coco(read_yaml(source), split)[0]


def read_yolo_detections(folder: Path, content: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """The detections in a folder of txt files, as the content of a COCO results file, and notes on what was left out.

    `content` is the ground truth: a txt belongs to the image of its name (with its folder, or without where that is
    enough), and class c is the category of the c-th id. Raises DataError in one line where no txt belongs to an image,
    a row is not `class x y width height score`, or an image's size is not known.
    """
    sizes = {item["id"]: (item.get("width"), item.get("height")) for item in content["images"]}
    image_of = names_of_images(content)
    category_ids = sorted(item["id"] for item in content["categories"])
    rows, strays = [], []
    for path in text_files(folder):
        image = image_of.get(path.relative_to(folder).with_suffix("").as_posix(), image_of.get(path.stem))
        if image is None:
            strays.append(path.name)
            continue
        size = sizes[image]
        if not all(size):
            raise DataError.at(path, f"the ground truth has no width and height of image {image}", "add them to it")
        for number, values in _rows(path):
            if len(values) != 6:
                remedy = "write class x y width height score (Ultralytics: save_txt and save_conf)"
                raise DataError.at(path, f"row {number} has {len(values)} numbers, not six", remedy)
            category = category_ids[_class_of(values[0], len(category_ids), path, number)]
            box = _in_pixels((values[1], values[2], values[3], values[4]), size)
            rows.append({"image_id": image, "category_id": category, "bbox": list(box), "score": values[5]})
    if strays and not rows:
        raise DataError.at(
            folder, f"no txt has the name of an image ({listed(strays)})", "give the folder of its labels"
        )
    return rows, [f"{folder}: {len(strays)} txt of no image left out: {listed(strays)}"] if strays else []


def convert_yolo(source: Path, target: Path, *, say: Callable[[str], None] = print) -> None:
    """Convert a data set to a data folder of ours: `train.json`, `val.json` (the test split without one), `images/`.

    Everything is read first, then written under a hidden name that is renamed at the very end; images are copied as
    `images/<split>/<name>`. Raises DataError in one line, where `target` is not empty and where an image is turned by
    an EXIF flag, too.
    """
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise DataError.at(target, "is there and not empty", "remove it, or name another folder")
    data = read_yaml(source)
    validation = "val" if "val" in data.splits else "test"
    read = {name: _as_coco(data, split, may_turn=False) for name, split in (("train", "train"), ("val", validation))}
    partial = hidden_beside(target.resolve(), "partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name, (content, images) in read.items():
            (partial / "images").mkdir(parents=True, exist_ok=True)
            for item in content["images"]:
                item["file_name"] = f"{name}/{item['file_name']}"
            text = json.dumps(content, sort_keys=True, separators=(",", ":"))
            (partial / f"{name}.json").write_text(text, encoding="utf-8")
            for item, path in tqdm(list(zip(content["images"], images, strict=True)), desc=name, disable=None):
                copy = partial / "images" / item["file_name"]
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
        settle(partial, target.resolve())
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for name, (content, _) in read.items():
        say(f"{name}: {len(content['images']):,} images and {len(content['annotations']):,} objects from {data.path}")
    say(f"{len(data.names)} categories: {listed(data.names, 100)}")


def names_of_images(content: Mapping[str, Any]) -> dict[str, int]:
    """Image ids by their file's name without extension, with its folders, and without where no other has it."""
    whole, bare = {}, {}
    for item in content["images"]:
        path = PurePosixPath(str(item.get("file_name", item["id"])).replace("\\", "/")).with_suffix("")
        whole[path.as_posix()] = item["id"]
        bare[path.name] = None if path.name in bare else item["id"]
    return {name: number for name, number in bare.items() if number is not None} | whole


def text_files(folder: Path) -> list[Path]:
    """The txt files below a folder in order; raises DataError where there are none."""
    found = [path for path in files_below(folder) if path.suffix.lower() == ".txt"]
    if not found:
        raise DataError.at(
            folder, "is a folder without a txt file", "give the json file in it, or a folder with one txt per image"
        )
    return found


def _as_coco(data: YoloData, split: str, *, may_turn: bool = True) -> tuple[dict[str, Any], list[Path]]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    paths: list[Path] = []
    for number, (path, name) in enumerate(_images(data, split), start=1):
        size = _size(path, may_turn=may_turn)
        images.append({"id": number, "file_name": name, "width": size[0], "height": size[1]})
        paths.append(path)
        for category, box in dict.fromkeys(_objects(_label_of(path), len(data.names))):  # Ultralytics drops repeats too
            x, y, width, height = _in_pixels(box, size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(data.names, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}, paths


def _images(data: YoloData, split: str) -> Iterator[tuple[Path, str]]:
    """Each image of a split, and its name below the folder that is listed."""
    if split not in data.splits:
        has = listed(list(data.splits)) or "none"
        raise DataError.at(
            data.path, f'has no split "{split}", but {has}', f"add it, or choose one of {', '.join(SPLITS)}"
        )
    count = 0
    for entry in data.splits[split]:
        place = _place(data, entry)
        if place.is_dir():
            found = [(path, path.relative_to(place).as_posix()) for path in files_below(place)]
        else:
            lines = [line.strip() for line in place.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            listed_paths = [line if Path(line).is_absolute() else str(place.parent / line) for line in lines]
            found = [(Path(path), Path(path).name) for path in listed_paths]
        for path, name in found:
            if path.suffix.lower() in EXTENSIONS:
                count += 1
                yield path, name
    if not count:
        raise DataError.at(data.path, f'split "{split}" has no images', "check its path")


def _place(data: YoloData, entry: str) -> Path:
    """The folder, or list, of a split: below the data set's path, or beside the yaml, as many exports have it."""
    home = data.path.parent
    bases = [home / data.root, home]
    tried = [base / name for base in bases for name in (entry, entry.removeprefix("../"))]
    for place in tried:
        if place.exists():
            return place
    raise DataError.at(
        data.path, f"{entry} is neither in {listed(list(dict.fromkeys(bases)))}", 'correct "path", or the split'
    )


def _label_of(image: Path) -> Path:
    """Where an image's objects are: in `labels` in the place of the last `images`, else beside it."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[:-1][::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _objects(path: Path, num_classes: int) -> Iterator[tuple[int, Box]]:
    if not path.exists():
        return
    for number, values in _rows(path):
        category = _class_of(values[0], num_classes, path, number)
        if len(values) == 5:
            yield category, (values[1], values[2], values[3], values[4])
        elif len(values) > 6 and len(values) % 2:
            x, y = values[1::2], values[2::2]
            yield category, ((min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y))
        else:
            what = f"row {number} has {len(values)} numbers"
            raise DataError.at(path, what, "write class x y width height, or class and the corners of an outline")


def _rows(path: Path) -> Iterator[tuple[int, list[float]]]:
    """The numbers of each row that has any, and its number; raises DataError for what is none, or not in [0, 1]."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise DataError.at(path, f"cannot be read ({error})", "copy it again") from None
    for number, line in enumerate(lines, start=1):
        if words := line.split():
            try:
                values = [float(word) for word in words]
            except ValueError:
                raise DataError.at(path, f"row {number} is {brief(line)}", "write numbers alone") from None
            if not all(-_SLACK <= value <= 1 + _SLACK for value in values[1:]):
                what = f"row {number} has a value outside 0 to 1: {brief(line)}"
                raise DataError.at(path, what, "divide x and width by the image's width, y and height by its height")
            yield number, values


def _class_of(value: float, num_classes: int, path: Path, number: int) -> int:
    if not value.is_integer() or not 0 <= value < num_classes:
        what = f"row {number} is of class {value:g}"
        raise DataError.at(
            path, what, f"classes are counted from 0, here to {num_classes - 1}: correct it or the names"
        )
    return int(value)


def _size(path: Path, *, may_turn: bool) -> tuple[int, int]:
    """(width, height) of an image as viewers show it, from its header."""
    try:
        with opened(path) as image:
            width, height = image.size
            is_turned = orientation(image) in TURNED
    except FileError as error:
        raise DataError.at(path, error.what, error.remedy) from None
    if is_turned and not may_turn:
        remedy = "store its pixels turned, without the flag (mogrify -auto-orient does)"
        raise DataError.at(path, "is turned by an EXIF flag, and so are its boxes", remedy)
    return (height, width) if is_turned else (width, height)


def _in_pixels(box: Sequence[float], size: Sequence[float]) -> Box:
    """COCO's box of YOLO's: corner and sides in pixels of centre and sides in fractions."""
    x, y, width, height = box
    return (x - width / 2) * size[0], (y - height / 2) * size[1], width * size[0], height * size[1]
