"""Ground truth and detections in the folders of other tools, as COCO's content, which the analyses take.

    gt, (one, two) = as_coco(Path("dataset"), [Path("yolo/labels"), Path("two.json")], "val")

The readers are in `freeanchor.data`, which the analyses do not import: here the two meet. A folder with a yaml is
YOLO's, any other folder of ground truth VOC's. Of detections, a folder whose txt have names of images is YOLO's, one
whose txt end with names of classes VOC's; one with parts of `freeanchor match` goes on as it is.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.coco.match_parts import is_parts
from analysis.coco.reading import DataNote, DetectionSource, GroundTruthSource
from freeanchor.errors import DataError
from freeanchor.files import read_json


def as_coco(gt: Path, detections: Sequence[Path], split: str) -> tuple[GroundTruthSource, list[DetectionSource]]:
    """The sources as the analyses take them: files as they are, folders read; `split` is of a folder of ground truth.

    What is left out is a `DataNote`. Raises `DataError` in one line for what cannot be used.
    """
    source = _ground_truth(gt, split)
    content: dict[str, Any] | None = source if isinstance(source, dict) else None
    found: list[DetectionSource] = []
    for path in detections:
        if not path.is_dir() or is_parts(path):
            found.append(path)
            continue
        content = _content(gt) if content is None else content
        rows, notes = _detections(path, content)
        for note in notes:
            warnings.warn(note, DataNote, stacklevel=2)
        found.append(rows)
    return source, found


def _ground_truth(path: Path, split: str) -> GroundTruthSource:
    from freeanchor.data import yolo  # brings Pillow, which COCO's files do without

    if path.suffix.lower() in yolo.YAML:
        return yolo.read_yolo(path, split=split)
    if not path.is_dir():
        return path
    if any(item.suffix.lower() in yolo.YAML for item in path.iterdir()):
        return yolo.read_yolo(path, split=split)
    from freeanchor.data.voc_results import read_voc

    return read_voc(path, split=split)


def _content(path: Path) -> dict[str, Any]:
    """The content of a COCO file, as far as names of images and categories are needed."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "categories")):
        raise DataError.at(path, "holds no lists of images and categories", "give a COCO instances file")
    return content


def _detections(folder: Path, content: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    from freeanchor.data.voc_results import class_of, read_voc_detections
    from freeanchor.data.yolo import names_of_images, read_yolo_detections, text_files

    files = text_files(folder)
    images = names_of_images(content)
    classes = {str(item["name"]): item["id"] for item in content["categories"]}
    is_voc = not any(path.stem in images for path in files) and any(class_of(path, classes) for path in files)
    return (read_voc_detections if is_voc else read_yolo_detections)(folder, content)
