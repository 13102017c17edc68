"""Detections that are matched already, in files of their own: one part of the images each, written on any machine.

    write_part(Path("parts"), part, ground_truth)           # parts/match-03-of-16.npz
    read_parts(Path("parts"), ground_truth)                 # all of them, as detections with their pairs

A part is a numpy archive (npz) of these arrays: `image_id`, `category_id`, `bbox` (x, y, width, height) and `score` of
the detections that count (the best of each image and category), in their order; `pair_detection` (row among those),
`pair_annotation` (id) and `pair_iou` of every detection and object of one image and category that overlap enough to
match; and `header`, json as bytes: format, version, part, num_parts, max_detections, lowest_iou, ground_truth (a
digest).
"""

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from analysis.coco.columns import Detections, GroundTruth, bbox_of, corners
from freeanchor.errors import DataError, brief
from freeanchor.files import check_unpacked, write_bytes

FORMAT, VERSION = "freeanchor match", 1
_NAME = re.compile(r"match-(\d+)-of-(\d+)\.npz")
_COLUMNS = ("image_id", "category_id", "bbox", "score", "pair_detection", "pair_annotation", "pair_iou")


def _nothing() -> np.ndarray:
    return np.empty(0)


@dataclass(frozen=True, kw_only=True)
class MatchedDetections(Detections):
    """Detections with the P pairs that can match, found before; of each image and category the best alone."""

    pair_detection: Int[np.ndarray, " P"]  # row
    pair_annotation: Int[np.ndarray, " P"]  # id
    pair_iou: Float[np.ndarray, " P"]
    max_detections: int  # of an image and category, that were kept
    lowest_iou: float  # of a pair

    def __post_init__(self) -> None:
        pairs = ("pair_detection", "pair_annotation", "pair_iou")
        for name in pairs:
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        if not len(self.pair_detection) == len(self.pair_annotation) == len(self.pair_iou):
            raise DataError("MatchedDetections: columns of pairs differ in length; give one row per pair")
        Detections(
            image_id=self.image_id,
            category_id=self.category_id,
            boxes=self.boxes,
            scores=self.scores,
            sizes=self.sizes,
        )


def check_whole(detections: Detections, what: str) -> None:
    """Raises `DataError` for parts: they lack the detections beyond the best of each image and class."""
    if isinstance(detections, MatchedDetections):
        raise DataError(
            f"{what} needs every detection, but parts hold the best {detections.max_detections} of an image and "
            "category; give the file of detections"
        )


def image_range(num_images: int, part: int, num_parts: int) -> tuple[int, int]:
    """Where part `part` of `num_parts`, counted from 1, begins and ends among the images in the order of their ids."""
    return (part - 1) * num_images // num_parts, part * num_images // num_parts


def is_parts(source: object) -> bool:
    """Whether a path is a folder that holds parts."""
    if not isinstance(source, Path | str) or not Path(source).is_dir():
        return False
    return any(_NAME.fullmatch(path.name) for path in Path(source).iterdir())


def write_part(folder: Path, matched: MatchedDetections, ground_truth: GroundTruth, part: int, num_parts: int) -> Path:
    """Write one part under the name that tells which, whole or not at all. The same input gives the same bytes."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "part": part,
        "num_parts": num_parts,
        "max_detections": matched.max_detections,
        "lowest_iou": matched.lowest_iou,
        "ground_truth": digest(ground_truth),
    }
    columns: dict[str, Any] = {
        "image_id": matched.image_id,
        "category_id": matched.category_id,
        "bbox": bbox_of(matched),
        "score": matched.scores,
        "pair_detection": matched.pair_detection.astype(np.int32),
        "pair_annotation": matched.pair_annotation,
        "pair_iou": matched.pair_iou,
    }
    content = io.BytesIO()
    np.savez_compressed(content, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **columns)
    path = folder / f"match-{part:0{len(str(num_parts))}}-of-{num_parts}.npz"
    write_bytes(path, content.getvalue())
    return path


def read_parts(folder: Path, ground_truth: GroundTruth | None) -> MatchedDetections:
    """All parts of a folder together; raises `DataError` where one is missing, damaged, or of other ground truth."""
    paths = sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    parts = [_read(path) for path in paths]
    headers = [header for header, _ in parts]
    first = headers[0]
    for path, header in zip(paths, headers, strict=True):
        for key in ("num_parts", "max_detections", "lowest_iou", "ground_truth"):
            if header[key] != first[key]:
                what = f"differs from {paths[0].name} in {key}: {brief(header[key])}, not {brief(first[key])}"
                raise DataError.at(path, what, "keep the parts of one matching in a folder of their own")
    if missing := sorted(set(range(1, first["num_parts"] + 1)) - {header["part"] for header in headers}):
        numbers = ", ".join(map(str, missing[:5])) + (" …" if missing[5:] else "")
        what = f"lacks {len(missing)} of {first['num_parts']} parts: {numbers}"
        raise DataError.at(folder, what, f"run freeanchor match --part {missing[0]}/{first['num_parts']}")
    if ground_truth is not None and first["ground_truth"] != digest(ground_truth):
        raise DataError.at(folder, "was matched with other ground truth", "give that one, or match again")
    ordered = [columns for _, columns in sorted(parts, key=lambda one: one[0]["part"])]
    starts = np.cumsum([0, *(len(columns["score"]) for columns in ordered)])
    together = {name: np.concatenate([columns[name] for columns in ordered]) for name in _COLUMNS}
    return MatchedDetections(
        image_id=together["image_id"],
        category_id=together["category_id"],
        boxes=corners(together["bbox"]),
        scores=together["score"],
        sizes=together["bbox"][:, 2:],
        pair_detection=np.concatenate(
            [columns["pair_detection"] + start for columns, start in zip(ordered, starts[:-1], strict=True)]
        ),
        pair_annotation=together["pair_annotation"],
        pair_iou=together["pair_iou"],
        max_detections=first["max_detections"],
        lowest_iou=first["lowest_iou"],
    )


def digest(ground_truth: GroundTruth) -> str:
    """What tells one ground truth from another as far as matching goes: ids, boxes, crowd flags."""
    whole = hashlib.sha256()
    for name in ("image_ids", "category_ids", "annotation_id", "image_id", "category_id", "boxes", "sizes", "iscrowd"):
        values = np.ascontiguousarray(getattr(ground_truth, name))
        whole.update(f"{name} {values.shape}".encode() + values.tobytes())
    return whole.hexdigest()[:16]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(item.file_size for item in archive.infolist()), path.stat().st_size)
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            columns = {name: archive[name] for name in _COLUMNS}
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except Exception as error:  # numpy and zip have errors of every kind for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError.at(path, f"no part of a matching ({reason})", "match this part again") from None
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise DataError.at(path, f"is of another format or version ({brief(header)})", "match this part again")
    return header, columns
